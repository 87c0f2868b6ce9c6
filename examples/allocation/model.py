"""The model: an article comes in batches, and order lines are allocated to them. It does no I/O."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date

from examples.allocation.messages import Allocated, Deallocated, OutOfStock
from messagebus import Event

__all__ = ["Batch", "OrderLine", "Product"]


@dataclass(unsafe_hash=True)  # Never changed, but SQLAlchemy has to set what it knows of it.
class OrderLine:
    """So many pieces of one article for one order; an order has at most one line for an article."""

    order_id: str
    sku: str
    quantity: int


@dataclass
class Batch:
    """Pieces of one article that come together: here already, or on their way until `eta`."""

    reference: str
    sku: str
    quantity: int
    eta: date | None = None
    lines: list[OrderLine] = field(default_factory=list[OrderLine])

    @property
    def available(self) -> int:
        return self.quantity - sum(line.quantity for line in self.lines)


class Product:
    """The aggregate: one article with all its batches, which change together."""

    version: int
    """Counts the changes."""

    events: list[Event]
    """What has happened since the product was loaded."""

    def __init__(self, sku: str, batches: Iterable[Batch] = (), version: int = 0) -> None:
        self.sku = sku
        self.batches = list(batches)
        self.version = version
        self.events = []

    def add(self, batch: Batch) -> None:
        """Take in a batch. One that is known already stays as it is."""
        if batch.reference not in {known.reference for known in self.batches}:
            self.batches.append(batch)
            self.version += 1

    def allocate(self, line: OrderLine) -> None:
        """Allocate a line to the first batch to be here. One that is allocated already stays where it is."""
        if line.order_id in {known.order_id for batch in self.batches for known in batch.lines}:
            return
        for batch in sorted(self.batches, key=lambda batch: batch.eta or date.min):
            if line.quantity <= batch.available:
                batch.lines.append(line)
                self.version += 1
                self.events.append(
                    Allocated(order_id=line.order_id, sku=line.sku, quantity=line.quantity, batch=batch.reference)
                )
                return
        self.events.append(OutOfStock(order_id=line.order_id, sku=line.sku))

    def change_quantity(self, reference: str, quantity: int) -> None:
        """Correct a batch. Lines for which it is too small now are deallocated, the last to come first."""
        [batch] = [batch for batch in self.batches if batch.reference == reference]
        batch.quantity = quantity
        self.version += 1
        while batch.available < 0:
            line = batch.lines.pop()
            self.events.append(
                Deallocated(order_id=line.order_id, sku=line.sku, quantity=line.quantity, batch=reference)
            )
