"""Durable: when `send` returns, the message is on disk; a worker handles it, in this process or another, now or later.

The store is an SQLite file: there is no server. Handlers are written as for a bus in process.

Output::

    due 1, finished 0
        place_order    o-1
        write_invoice  o-1
    due 0, finished 2
    [{"type":"Confirmation","data":{"order_id":"o-1"}},{"type":"Invoice","data":{"total":18}}]
"""

from collections.abc import Iterator
from contextlib import closing
from tempfile import TemporaryDirectory

from messagebus import Command, Event, Message, ReturnMessage, handles
from messagebus.delivery import Store, Worker, open_store


class PlaceOrder(Command):
    order_id: str


class OrderPlaced(Event):
    order_id: str


class Confirmation(ReturnMessage):
    order_id: str


class Invoice(ReturnMessage):
    total: int


@handles(PlaceOrder)
def place_order(command: PlaceOrder) -> Iterator[Message]:
    print("    place_order   ", command.order_id)
    yield OrderPlaced(order_id=command.order_id)  # Stored together with the news that PlaceOrder is done.
    yield Confirmation(order_id=command.order_id)


@handles(OrderPlaced)
def write_invoice(event: OrderPlaced) -> Invoice:
    print("    write_invoice ", event.order_id)
    return Invoice(total=18)


def show(store: Store) -> None:
    stats = store.stats()
    print(f"due {stats.due}, finished {stats.finished}")


with TemporaryDirectory() as folder:
    url = f"sqlite:///{folder}/bus.db"

    with closing(open_store(url)) as store:
        message_id = store.send(PlaceOrder(order_id="o-1"))
        show(store)

    # From here on it might be another process, and another day.
    with closing(open_store(url)) as store:
        Worker(store, log_level="disabled").run(until_idle=True)  # Without until_idle it waits for more.
        show(store)
        print(store.result(message_id).decode())
