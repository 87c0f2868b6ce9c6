"""The allocation example: its model alone, its handlers through the bus, and both over a real SQLite file."""

import sqlite3
from contextlib import closing
from datetime import date
from functools import partial
from socketserver import StreamRequestHandler, TCPServer
from threading import Thread

import pytest
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm.exc import StaleDataError

from examples.allocation import handlers
from examples.allocation.bootstrap import bootstrap
from examples.allocation.bus import AllocationBus
from examples.allocation.database import sessions_on
from examples.allocation.mail import KeptMail, SmtpMail
from examples.allocation.messages import (
    Allocate,
    Allocated,
    ChangeBatchQuantity,
    CreateBatch,
    Deallocated,
    OutOfStock,
)
from examples.allocation.model import Batch, OrderLine, Product
from examples.allocation.products import StockUnitOfWork, UnknownProductError
from examples.allocation.view import AllocationView
from messagebus import handle_message

TODAY, TOMORROW, LATER = date(2026, 1, 1), date(2026, 1, 2), date(2026, 2, 1)


def lamps(order_id: str, quantity: int) -> OrderLine:
    return OrderLine(order_id, "lamp", quantity)


def allocated(order_id: str, quantity: int, batch: str) -> Allocated:
    return Allocated(order_id=order_id, sku="lamp", quantity=quantity, batch=batch)


# The model


def test_allocating_takes_from_what_is_available():
    """An order line makes a batch smaller for the next one."""
    product = Product("lamp", [Batch("b-1", "lamp", 10)])

    product.allocate(lamps("o-1", 3))

    assert product.batches[0].available == 7
    assert product.events == [allocated("o-1", 3, "b-1")]


def test_all_that_is_available_can_be_allocated():
    """The last pieces are sold too."""
    product = Product("lamp", [Batch("b-1", "lamp", 10)])

    product.allocate(lamps("o-1", 10))

    assert product.batches[0].available == 0


def test_what_is_in_the_warehouse_goes_first():
    """A batch without eta is here, and is used before those that are on their way."""
    product = Product("lamp", [Batch("at-sea", "lamp", 10, eta=TODAY), Batch("here", "lamp", 10)])

    product.allocate(lamps("o-1", 1))

    assert product.events == [allocated("o-1", 1, "here")]


def test_the_earliest_batch_goes_first():
    """Of the batches on their way, the first to arrive is used first."""
    product = Product("lamp", [Batch(str(eta), "lamp", 10, eta=eta) for eta in (TOMORROW, LATER, TODAY)])

    product.allocate(lamps("o-1", 1))

    assert product.events == [allocated("o-1", 1, str(TODAY))]


def test_a_line_is_never_split():
    """A batch that cannot serve a whole line is passed over."""
    product = Product("lamp", [Batch("small", "lamp", 1), Batch("large", "lamp", 2, eta=LATER)])

    product.allocate(lamps("o-1", 2))

    assert product.events == [allocated("o-1", 2, "large")]


def test_allocating_twice_changes_nothing():
    """A message that is delivered again does no harm."""
    product = Product("lamp", [Batch("b-1", "lamp", 10)])
    product.allocate(lamps("o-1", 3))
    version = product.version

    product.allocate(lamps("o-1", 3))

    assert product.batches[0].available == 7
    assert (product.version, len(product.events)) == (version, 1)


def test_out_of_stock_is_an_event_and_no_change():
    """What cannot be allocated is stated, and leaves the version as it is."""
    product = Product("lamp", [Batch("b-1", "lamp", 10)], version=4)

    product.allocate(lamps("o-1", 11))

    assert product.events == [OutOfStock(order_id="o-1", sku="lamp")]
    assert product.version == 4


def test_the_last_line_goes_first_when_a_batch_shrinks():
    """No more lines are deallocated than need be, and those that came first stay."""
    lines = [lamps("o-1", 4), lamps("o-2", 3), lamps("o-3", 2)]
    product = Product("lamp", [Batch("b-1", "lamp", 10, lines=lines)])

    product.change_quantity("b-1", 5)

    assert product.events == [
        Deallocated(order_id="o-3", sku="lamp", quantity=2, batch="b-1"),
        Deallocated(order_id="o-2", sku="lamp", quantity=3, batch="b-1"),
    ]
    assert product.batches[0].lines == [lamps("o-1", 4)]


def test_every_change_counts_a_version():
    """The version number is what tells two writers of one product apart."""
    product = Product("lamp")

    product.add(Batch("b-1", "lamp", 10))
    product.add(Batch("b-1", "lamp", 10))
    product.allocate(lamps("o-1", 1))
    product.change_quantity("b-1", 9)

    assert product.version == 3


# The application, through the bus


class Shop:
    """The application with a SQLite file of its own, and email that is kept."""

    def __init__(self, folder):
        self.path = folder / "stock.db"
        self.mail = KeptMail()
        self.registry = bootstrap(self.path, self.mail)
        self.uow = partial(StockUnitOfWork, sessions_on(self.path))
        self.view = AllocationView(sessions_on(self.path))

    def run(self, *messages):
        """Run each message."""
        for message in messages:
            AllocationBus(message, registry=self.registry, log_level="disabled", error_log_level="disabled")()

    def rows(self, table):
        """Return what stands in a table, read by somebody else."""
        columns = {"batch": "reference, sku, quantity, eta", "order_line": "batch, order_id, sku, quantity"}
        with closing(sqlite3.connect(self.path)) as connection:
            return connection.execute(f"SELECT {columns.get(table, '*')} FROM {table} ORDER BY rowid").fetchall()


@pytest.fixture
def shop(tmp_path):
    return Shop(tmp_path)


def test_registry_is_complete(shop):
    """Every command and event has a handler."""
    assert shop.registry.check() == []


def test_allocation_shows_in_the_view(shop):
    """The event of the allocation brings the read model up to date, in the same run."""
    shop.run(CreateBatch(reference="b-1", sku="lamp", quantity=10))

    shop.run(Allocate(order_id="o-1", sku="lamp", quantity=3))

    assert shop.view.of_order("o-1") == {"lamp": "b-1"}


def test_view_knows_every_article_of_an_order(shop):
    """An order may have lines for several products."""
    shop.run(
        CreateBatch(reference="b-1", sku="lamp", quantity=10),
        CreateBatch(reference="b-2", sku="chair", quantity=10, eta=LATER),
    )

    shop.run(
        Allocate(order_id="o-1", sku="lamp", quantity=3),
        Allocate(order_id="o-1", sku="chair", quantity=3),
        Allocate(order_id="o-2", sku="chair", quantity=3),
    )

    assert shop.view.of_order("o-1") == {"chair": "b-2", "lamp": "b-1"}


def test_shortage_is_reported_by_email(shop):
    """Somebody has to buy what is out of stock."""
    shop.run(CreateBatch(reference="b-1", sku="lamp", quantity=10))

    shop.run(Allocate(order_id="o-1", sku="lamp", quantity=11))

    assert shop.mail.sent == [("buyers@example.com", "lamp is out of stock, and o-1 waits for it.")]
    assert shop.view.of_order("o-1") == {}


def test_unknown_product_is_an_error(shop):
    """A product that never had a batch is the sender's mistake, not a shortage."""
    with pytest.raises(UnknownProductError, match="lmap"):
        handle_message(Allocate(order_id="o-1", sku="lmap", quantity=1), registry=shop.registry)

    assert shop.rows("product") == []


def test_unknown_batch_is_an_error(shop):
    """A batch that is not there cannot be corrected."""
    with pytest.raises(UnknownProductError, match="b-9"):
        handle_message(ChangeBatchQuantity(reference="b-9", quantity=1), registry=shop.registry)


def test_handler_can_be_called_without_the_bus(shop):
    """A handler is a function of what it needs and its message."""
    handlers.create_batch(shop.uow, CreateBatch(reference="b-1", sku="lamp", quantity=10))

    events = handlers.allocate(shop.uow, Allocate(order_id="o-1", sku="lamp", quantity=10))

    assert events == [allocated("o-1", 10, "b-1")]


def test_change_of_a_batch_reallocates_what_it_cannot_serve(shop):
    """One command leads to deallocations, these to new allocations, and the view follows all of them."""
    shop.run(
        CreateBatch(reference="here", sku="lamp", quantity=10),
        CreateBatch(reference="at-sea", sku="lamp", quantity=5, eta=LATER),
        Allocate(order_id="o-1", sku="lamp", quantity=4),
        Allocate(order_id="o-2", sku="lamp", quantity=3),
        Allocate(order_id="o-3", sku="lamp", quantity=3),
    )

    shop.run(ChangeBatchQuantity(reference="here", quantity=4))

    views = {order_id: shop.view.of_order(order_id) for order_id in ("o-1", "o-2", "o-3")}
    assert views == {"o-1": {"lamp": "here"}, "o-2": {}, "o-3": {"lamp": "at-sea"}}
    assert shop.mail.sent == [("buyers@example.com", "lamp is out of stock, and o-2 waits for it.")]


# The application, over its SQLite file


def test_everything_is_in_the_file(shop, tmp_path):
    """An application that is started again goes on where the last one ended."""
    shop.run(
        CreateBatch(reference="b-1", sku="lamp", quantity=10, eta=LATER),
        Allocate(order_id="o-1", sku="lamp", quantity=3),
        Allocate(order_id="o-2", sku="lamp", quantity=2),
    )

    Shop(tmp_path).run(
        Allocate(order_id="o-3", sku="lamp", quantity=5), ChangeBatchQuantity(reference="b-1", quantity=9)
    )

    assert shop.rows("product") == [("lamp", 5)]
    assert shop.rows("batch") == [("b-1", "lamp", 9, "2026-02-01")]
    assert shop.rows("order_line") == [("b-1", "o-1", "lamp", 3), ("b-1", "o-2", "lamp", 2)]
    assert shop.rows("allocation_view") == [("o-1", "lamp", "b-1"), ("o-2", "lamp", "b-1")]


def test_failed_handler_leaves_no_trace(shop):
    """What a handler changed before it failed is rolled back, and what it would have stated is not stated."""
    shop.run(CreateBatch(reference="b-1", sku="lamp", quantity=10))

    def allocate_and_fail(command):
        with shop.uow() as work:
            work.products.get("lamp").allocate(lamps("o-1", 3))
            work.session.flush()
            raise ConnectionError("the bank does not answer")

    with shop.registry.override(Allocate, allocate_and_fail), pytest.raises(ConnectionError):
        shop.run(Allocate(order_id="o-1", sku="lamp", quantity=3))

    assert shop.rows("product") == [("lamp", 1)]
    assert shop.rows("order_line") == []
    assert shop.rows("allocation_view") == []


def test_half_written_product_is_rolled_back(shop):
    """A product whose rows the database refuses half-way stays as it was."""
    shop.run(
        CreateBatch(reference="b-1", sku="lamp", quantity=10),
        CreateBatch(reference="b-2", sku="chair", quantity=10),
    )
    before = [shop.rows(table) for table in ("product", "batch")]

    with pytest.raises(IntegrityError):
        shop.run(CreateBatch(reference="b-1", sku="chair", quantity=5))

    assert [shop.rows(table) for table in ("product", "batch")] == before


def test_one_of_two_writers_comes_too_late(shop):
    """Who changes a product that was changed meanwhile is refused, and nothing of it is saved."""
    shop.run(CreateBatch(reference="b-1", sku="lamp", quantity=10))

    with shop.uow() as late:
        late.products.get("lamp").allocate(lamps("o-1", 8))
        with shop.uow() as early:
            early.products.get("lamp").allocate(lamps("o-2", 8))
            early.commit()
        with pytest.raises(StaleDataError):
            late.commit()

    assert late.events == []
    assert shop.rows("order_line") == [("b-1", "o-2", "lamp", 8)]
    assert shop.rows("product") == [("lamp", 2)]


def test_one_of_two_makers_comes_too_late(shop):
    """A product that two make at the same time is made by one of them."""

    with shop.uow() as late:
        late.products.get_or_new("lamp").add(Batch("b-1", "lamp", 10))
        with shop.uow() as early:
            early.products.get_or_new("lamp").add(Batch("b-2", "lamp", 10))
            early.commit()
        with pytest.raises(IntegrityError):
            late.commit()

    assert shop.rows("batch") == [("b-2", "lamp", 10, None)]


def test_bus_tries_again_when_it_comes_too_late(shop):
    """With a second attempt nothing is sold twice, and no customer is turned away."""
    shop.run(CreateBatch(reference="b-1", sku="lamp", quantity=10))
    others = [Allocate(order_id="o-2", sku="lamp", quantity=4)]

    def allocate_beside_others(command):
        with shop.uow() as work:
            work.products.get("lamp").allocate(lamps(command.order_id, command.quantity))
            if others:
                handlers.allocate(shop.uow, others.pop())
            work.commit()
        return work.events

    with shop.registry.override(Allocate, allocate_beside_others):
        shop.run(Allocate(order_id="o-1", sku="lamp", quantity=4))

    assert shop.rows("order_line") == [("b-1", "o-2", "lamp", 4), ("b-1", "o-1", "lamp", 4)]
    assert shop.view.of_order("o-1") == {"lamp": "b-1"}


def test_bus_gives_up_at_the_third_attempt(shop):
    """Who is too late every time gets to know it."""
    attempts = []

    def always_late(command):
        attempts.append(command)
        raise StaleDataError

    with shop.registry.override(Allocate, always_late), pytest.raises(StaleDataError):
        shop.run(Allocate(order_id="o-1", sku="lamp", quantity=4))

    assert len(attempts) == 3


# Email


class MailServer(StreamRequestHandler):
    """Takes emails by as much of SMTP as it needs, and keeps their lines."""

    def handle(self):
        self.wfile.write(b"220 here\r\n")
        for line in iter(lambda: self.rfile.readline().lower(), b"quit\r\n"):
            if line == b"data\r\n":
                self.wfile.write(b"354 go on\r\n")
                self.server.lines += iter(self.rfile.readline, b".\r\n")
            self.wfile.write(b"250 done\r\n")
        self.wfile.write(b"221 bye\r\n")


def test_email_goes_to_a_mail_server():
    """The adapter for real email speaks to a real server."""
    with TCPServer(("127.0.0.1", 0), MailServer) as server:
        server.lines = []
        thread = Thread(target=server.handle_request)
        thread.start()

        SmtpMail(*server.server_address).send("buyers@example.com", "lamp is out of stock")

        thread.join()
    assert b"To: buyers@example.com\r\n" in server.lines
    assert b"lamp is out of stock\r\n" in server.lines
