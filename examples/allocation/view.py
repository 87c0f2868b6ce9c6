"""The read model: where the lines of an order come from, kept up to date by events and read without the model."""

from examples.allocation.database import Connect
from examples.allocation.messages import Allocated, Deallocated

__all__ = ["AllocationView"]


class AllocationView:
    """A table of its own, in the form in which it is asked for."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect

    def add(self, event: Allocated) -> None:
        with self._connect() as connection:
            insert = "INSERT OR REPLACE INTO allocation_view VALUES (:order_id, :sku, :batch)"
            connection.execute(insert, event.model_dump())

    def remove(self, event: Deallocated) -> None:
        with self._connect() as connection:
            delete = "DELETE FROM allocation_view WHERE (order_id, sku, batch) = (:order_id, :sku, :batch)"
            connection.execute(delete, event.model_dump())

    def of_order(self, order_id: str) -> dict[str, str]:
        """Return the batch from which each article of the order comes."""
        with self._connect() as connection:
            select = "SELECT sku, batch FROM allocation_view WHERE order_id = :order_id ORDER BY sku"
            return dict(connection.execute(select, {"order_id": order_id}))
