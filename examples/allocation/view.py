"""The read model: where the lines of an order come from, kept up to date by events and read without the model."""

from pathlib import Path

from examples.allocation.database import opened
from examples.allocation.messages import Allocated, Deallocated

__all__ = ["AllocationView"]


class AllocationView:
    """A table of its own, in the form in which it is asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, event: Allocated) -> None:
        with opened(self._path) as connection:
            row = (event.order_id, event.sku, event.batch)
            connection.execute("INSERT OR REPLACE INTO allocation_view VALUES (?, ?, ?)", row)

    def remove(self, event: Deallocated) -> None:
        with opened(self._path) as connection:
            row = (event.order_id, event.sku, event.batch)
            connection.execute("DELETE FROM allocation_view WHERE (order_id, sku, batch) = (?, ?, ?)", row)

    def of_order(self, order_id: str) -> dict[str, str]:
        """Return the batch from which each article of the order comes."""
        with opened(self._path) as connection:
            select = "SELECT sku, batch FROM allocation_view WHERE order_id = ? ORDER BY sku"
            return dict(connection.execute(select, [order_id]).fetchall())
