"""Drives DBOS on SQLite: workflows enqueued by a client before it is launched, each of which enqueues another."""

import sys
import threading
from time import perf_counter

from dbos import DBOS, DBOSClient, DBOSConfig

path, commands = sys.argv[1], int(sys.argv[2])
config: DBOSConfig = {
    "name": "bench", "system_database_url": f"sqlite:///{path}", "log_level": "ERROR", "application_version": "1",
}  # fmt: skip
DBOS(config=config)
seen = 0
lock, done = threading.Lock(), threading.Event()


@DBOS.workflow()
def place_order(order_id: str, quantity: int, unit_price: float) -> None:
    DBOS.enqueue_workflow("orders", send_mail, order_id)


@DBOS.workflow()
def send_mail(order_id: str) -> None:
    global seen
    with lock:
        seen += 1
        if seen == commands:
            done.set()


DBOS.launch()
DBOS.register_queue("orders", polling_interval_sec=0.01)
DBOS.destroy()  # The tables, and the queue, are there now.
client = DBOSClient(system_database_url=f"sqlite:///{path}")
for i in range(commands):
    client.enqueue({"queue_name": "orders", "workflow_name": "place_order", "app_version": "1"}, f"o-{i}", 2, 9.5)
client.destroy()

DBOS(config=config)
started = perf_counter()
DBOS.launch()
done.wait()
print(perf_counter() - started, flush=True)
DBOS.destroy()
