"""Drives Procrastinate: a worker that runs ten jobs at the same time."""

import asyncio
import sys
from time import perf_counter

from procrastinate import App, PsycopgConnector

address, commands = sys.argv[1], int(sys.argv[2])
app = App(connector=PsycopgConnector(conninfo=address, max_size=12))
seen = 0


@app.task(name="place_order")
async def place_order(order_id: str, quantity: int, unit_price: float) -> None:
    await send_mail.defer_async(order_id=order_id)


@app.task(name="send_mail")
async def send_mail(order_id: str) -> None:
    global seen
    seen += 1


async def main() -> None:
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        await place_order.batch_defer_async(
            *({"order_id": f"o-{i}", "quantity": 2, "unit_price": 9.5} for i in range(commands))
        )
        started = perf_counter()
        while seen < commands:
            await app.run_worker_async(wait=False, concurrency=10, install_signal_handlers=False)
        print(perf_counter() - started)


asyncio.run(main())
