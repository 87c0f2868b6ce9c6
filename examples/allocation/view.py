"""The read model: where the lines of an order come from, kept up to date by events and read without the model."""

from sqlalchemy import text

from examples.allocation.database import Sessions
from examples.allocation.messages import Allocated, Deallocated

__all__ = ["AllocationView"]

_INSERT = text("INSERT OR REPLACE INTO allocation_view VALUES (:order_id, :sku, :batch)")
_DELETE = text("DELETE FROM allocation_view WHERE (order_id, sku, batch) = (:order_id, :sku, :batch)")
_SELECT = text("SELECT sku, batch FROM allocation_view WHERE order_id = :order_id ORDER BY sku")


class AllocationView:
    """A table of its own, in the form in which it is asked for."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def add(self, event: Allocated) -> None:
        with self._sessions() as session:
            session.execute(_INSERT, event.model_dump())
            session.commit()

    def remove(self, event: Deallocated) -> None:
        with self._sessions() as session:
            session.execute(_DELETE, event.model_dump())
            session.commit()

    def of_order(self, order_id: str) -> dict[str, str]:
        """Return the batch from which each article of the order comes."""
        with self._sessions() as session:
            return {row.sku: row.batch for row in session.execute(_SELECT, {"order_id": order_id})}
