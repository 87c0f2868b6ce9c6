"""[B6] One application means the same in process, on each store, and on each engine."""

import threading

import pytest

from messagebus import Registry, handle_message
from messagebus.delivery import Retry, Worker
from messagebus.testing.shop import CancelOrder, Confirmation, OrderPlaced, PlaceOrder
from tests.brokers import nursery

QUIET = {"log_level": "disabled", "error_log_level": "disabled"}


class Shop:
    """The application: what it has done is in `seen`, whoever runs its handlers."""

    def __init__(self):
        self.seen, self.failures, self.registry = [], 0, Registry()
        self.registry.register(PlaceOrder, self.place)
        self.registry.register(OrderPlaced, self.bill)
        self.registry.register(OrderPlaced, self.mail)
        self.registry.register(CancelOrder, self.cancel)

    def place(self, command):
        self.seen.append(("placed", command.order_id))
        yield OrderPlaced(order_id=command.order_id)
        yield Confirmation(order_id=command.order_id)

    def bill(self, event):
        self.seen.append(("billed", event.order_id))
        return CancelOrder(order_id=event.order_id)

    def mail(self, event):
        self.seen.append(("mailed", event.order_id))

    def cancel(self, command):
        self.seen.append(("cancelled", command.order_id))


EXPECTED = sorted((what, f"o-{number}") for what in ("placed", "billed", "mailed", "cancelled") for number in range(5))


def run(worker, until, shop):
    thread = threading.Thread(target=worker.run)
    thread.start()
    until(lambda: len(shop.seen) >= len(EXPECTED) or not thread.is_alive())
    worker.stop()
    thread.join()


def test_in_process():
    """As the others are to be."""
    shop = Shop()

    for number in range(5):
        assert [Confirmation(order_id=f"o-{number}")] == handle_message(
            PlaceOrder(order_id=f"o-{number}"), registry=shop.registry
        )

    assert EXPECTED == sorted(shop.seen)


@pytest.mark.parametrize("store", ["memory", "sqlite", "postgres"])
def test_on_a_store(store, until, tmp_path, request):
    """On one machine, and on a database that many share."""
    urls = {"memory": lambda: "memory://", "sqlite": lambda: f"sqlite:///{tmp_path}/bus.db",
            "postgres": lambda: request.getfixturevalue("postgres").fresh()}  # fmt: skip
    shop, opened = Shop(), nursery.opened(urls[store]())
    for number in range(5):
        opened.send(PlaceOrder(order_id=f"o-{number}"))

    run(Worker(opened, shop.registry, **QUIET), until, shop)

    assert EXPECTED == sorted(shop.seen)
    opened.close()


def test_on_an_engine(open_broker, until, tmp_path, engine, request):
    """The inbox on PostgreSQL for one of them."""
    place = request.getfixturevalue("postgres").fresh() if engine.name == "redis" else f"sqlite:///{tmp_path}/bus.db"
    shop, inbox, broker = Shop(), nursery.opened(place), open_broker("shop", partitions=1)
    sent = [broker.send(PlaceOrder(order_id=f"o-{number}")) for number in range(5)]

    run(Worker(broker, shop.registry, inbox=inbox, retry=Retry(first=0.1), **QUIET), until, shop)

    assert EXPECTED == sorted(shop.seen)
    assert [] == inbox.dead()
    assert {"place", "published to", "bill", "mail", "cancel"} == {
        outcome.handler.rpartition(".")[2].replace(f" {broker.name}", "")
        for step in inbox.tree(sent[0])
        for outcome in step.outcomes
    }
    inbox.close()
