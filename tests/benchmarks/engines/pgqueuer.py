"""Drives PgQueuer: batches of 100, until the last has been handled."""

import asyncio
import json
import sys
from time import perf_counter

import psycopg
from pgqueuer import PgQueuer
from pgqueuer.db import PsycopgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

address, commands = sys.argv[1], int(sys.argv[2])
seen = 0
ended: list[float] = []


async def main() -> None:
    connection = await psycopg.AsyncConnection.connect(address, autocommit=True)
    driver = PsycopgDriver(connection)
    queries = Queries(driver)
    await queries.install()
    pgq = PgQueuer(driver)

    @pgq.entrypoint("place_order")
    async def place_order(job: Job) -> None:
        order = json.loads(job.payload or b"")
        await queries.enqueue(["send_mail"], [json.dumps({"order_id": order["order_id"]}).encode()], [0])

    @pgq.entrypoint("send_mail")
    async def send_mail(job: Job) -> None:
        global seen
        json.loads(job.payload or b"")
        seen += 1
        if seen == commands:
            ended.append(perf_counter())
            pgq.shutdown.set()

    payloads: list[bytes | None] = [
        json.dumps({"order_id": f"o-{i}", "quantity": 2, "unit_price": 9.5}).encode() for i in range(commands)
    ]
    await queries.enqueue(["place_order"] * commands, payloads, [0] * commands)
    started = perf_counter()
    await pgq.run(batch_size=100)
    print(ended[0] - started)


asyncio.run(main())
