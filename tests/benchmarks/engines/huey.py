"""Drives huey: ``SqliteHuey`` with fsync on, its tasks executed in a plain loop, which is faster than its consumer."""

import sys
from time import perf_counter

from huey import SqliteHuey

path, commands = sys.argv[1], int(sys.argv[2])
huey = SqliteHuey(filename=path, fsync=True)
seen = 0


@huey.task()
def place_order(order_id: str, quantity: int, unit_price: float) -> None:
    send_mail(order_id)


@huey.task()
def send_mail(order_id: str) -> None:
    global seen
    seen += 1


for i in range(commands):
    place_order(f"o-{i}", 2, 9.5)

started = perf_counter()
while (task := huey.dequeue()) is not None:
    huey.execute(task)
taken = perf_counter() - started
assert seen == commands
print(taken)
