"""The repository of products, and the unit of work: what a handler changed is saved together, or not at all."""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from datetime import date
from pathlib import Path

from examples.allocation.database import Connection, opened, transaction
from examples.allocation.model import Batch, OrderLine, Product
from messagebus import Event

__all__ = ["Products", "StaleProductError", "UnitOfWork", "UnknownProductError", "unit_of_work"]


class StaleProductError(Exception):
    """A product was changed by somebody else after it was loaded here. Nothing was saved: try again."""


class UnknownProductError(LookupError):
    """There is no such product, or no such batch."""


class Products:
    """The products of one unit of work, loaded when they are first asked for."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._loaded: dict[str, tuple[Product, int]] = {}

    @property
    def events(self) -> list[Event]:
        """What has happened to the products."""
        return [event for product, _ in self._loaded.values() for event in product.events]

    def get(self, sku: str) -> Product:
        """Return the product.

        Raises:
            UnknownProductError: If it never had a batch.
        """
        product = self.get_or_new(sku)
        if not product.batches:
            raise UnknownProductError(sku)
        return product

    def get_or_new(self, sku: str) -> Product:
        """Return the product, a new one if there is none."""
        if sku not in self._loaded:
            # The version first: if somebody changes the batches before they are read, `save` will find out.
            rows = self._connection.execute("SELECT version FROM product WHERE sku = :sku", {"sku": sku})
            version = rows[0][0] if rows else 0
            self._loaded[sku] = Product(sku, self._batches(sku), version), version
        return self._loaded[sku][0]

    def of_batch(self, reference: str) -> Product:
        """Return the product that the batch consists of.

        Raises:
            UnknownProductError: If there is no such batch.
        """
        rows = self._connection.execute("SELECT sku FROM batch WHERE reference = :it", {"it": reference})
        if not rows:
            raise UnknownProductError(reference)
        return self.get(rows[0][0])

    def save(self) -> None:
        """Write the products that have changed.

        Raises:
            StaleProductError: If somebody else has changed one of them meanwhile.
        """
        for product, version in self._loaded.values():
            if product.version != version:
                self._save(product, version)

    def _batches(self, sku: str) -> list[Batch]:
        select = "SELECT reference, quantity, eta FROM batch WHERE sku = :sku ORDER BY rowid"
        batches = {
            reference: Batch(reference, sku, quantity, eta and date.fromisoformat(eta))
            for reference, quantity, eta in self._connection.execute(select, {"sku": sku})
        }
        select = "SELECT batch, order_id, quantity FROM order_line WHERE sku = :sku ORDER BY rowid"
        for reference, order_id, quantity in self._connection.execute(select, {"sku": sku}):
            batches[reference].lines.append(OrderLine(order_id, sku, quantity))
        return list(batches.values())

    def _save(self, product: Product, version: int) -> None:
        execute, sku = self._connection.execute, product.sku
        execute("INSERT INTO product VALUES (:sku, 0) ON CONFLICT DO NOTHING", {"sku": sku})
        update = "UPDATE product SET version = :new WHERE sku = :sku AND version = :old RETURNING sku"
        if not execute(update, {"new": product.version, "sku": sku, "old": version}):
            raise StaleProductError(sku)
        execute("DELETE FROM order_line WHERE sku = :sku", {"sku": sku})
        execute("DELETE FROM batch WHERE sku = :sku", {"sku": sku})
        for batch in product.batches:
            eta = batch.eta and batch.eta.isoformat()
            row = {"reference": batch.reference, "sku": sku, "quantity": batch.quantity, "eta": eta}
            execute("INSERT INTO batch VALUES (:reference, :sku, :quantity, :eta)", row)
            for line in batch.lines:
                row = {"batch": batch.reference, **asdict(line)}
                execute("INSERT INTO order_line VALUES (:batch, :order_id, :sku, :quantity)", row)


UnitOfWork = Callable[[], AbstractContextManager[Products]]
"""Opens a unit of work: ``with unit_of_work() as products``."""


@contextmanager
def unit_of_work(path: Path) -> Generator[Products]:
    """Lend the products of the SQLite file, and save them when the block ends without an exception.

    Nobody is kept waiting meanwhile: what is read is locked by nothing, and checked when it is saved.
    """
    with opened(path) as connection:
        products = Products(connection)
        yield products
        with transaction(connection):
            products.save()
