"""The repository of products, and the unit of work in which they are changed."""

from collections.abc import Callable

from sqlalchemy import select

from examples.allocation.database import Sessions
from examples.allocation.model import Batch, Product
from messagebus.delivery.unit_of_work import UnitOfWork

__all__ = ["Products", "StockUnitOfWork", "UnitsOfWork", "UnknownProductError"]


class UnknownProductError(LookupError):
    """There is no such product, or no such batch."""


class StockUnitOfWork(UnitOfWork):
    """Products that are changed together, and what has happened to them."""

    def __init__(self, sessions: Sessions) -> None:
        super().__init__(sessions, Product)

    @property
    def products(self) -> "Products":
        return Products(self)


UnitsOfWork = Callable[[], StockUnitOfWork]
"""Makes a unit of work: ``with unit_of_work() as work``."""


class Products:
    """The products, as one unit of work sees them."""

    def __init__(self, work: StockUnitOfWork) -> None:
        self._session = work.session

    def get(self, sku: str) -> Product:
        """Return the product.

        Raises:
            UnknownProductError: If it never had a batch.
        """
        product = self._session.get(Product, sku)
        if product is None:
            raise UnknownProductError(sku)
        return product

    def get_or_new(self, sku: str) -> Product:
        """Return the product, a new one if there is none."""
        product = self._session.get(Product, sku)
        if product is None:
            product = Product(sku)
            self._session.add(product)
        return product

    def of_batch(self, reference: str) -> Product:
        """Return the product that the batch consists of.

        Raises:
            UnknownProductError: If there is no such batch.
        """
        batch = self._session.scalar(select(Batch).filter_by(reference=reference))
        if batch is None:
            raise UnknownProductError(reference)
        return self.get(batch.sku)
