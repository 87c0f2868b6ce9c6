"""What can be asked of the stock, and what can happen to it."""

from datetime import date

from pydantic import NonNegativeInt, PositiveInt

from messagebus import Command, Event

__all__ = ["Allocate", "Allocated", "ChangeBatchQuantity", "CreateBatch", "Deallocated", "OutOfStock"]


class CreateBatch(Command):
    reference: str
    sku: str
    quantity: PositiveInt
    eta: date | None = None


class ChangeBatchQuantity(Command):
    reference: str
    quantity: NonNegativeInt


class Allocate(Command):
    order_id: str
    sku: str
    quantity: PositiveInt


class Allocated(Event):
    order_id: str
    sku: str
    quantity: PositiveInt
    batch: str


class Deallocated(Event):
    order_id: str
    sku: str
    quantity: PositiveInt
    batch: str


class OutOfStock(Event):
    order_id: str
    sku: str
