"""Drives the other project that is imported as ``messagebus``: pydantic messages, a unit of work for each."""

from collections import deque
from functools import partial
from typing import Any

from pydantic import BaseModel, PositiveInt

from messagebus import Command, Event, Metadata, SyncAbstractUnitOfWork, SyncMessageBus, SyncUnitOfWorkTransaction


class PlaceOrder(Command):
    order_id: str
    quantity: PositiveInt
    unit_price: float
    metadata: Metadata = Metadata(name="place_order", schema_version=1)


class Confirmation(BaseModel):
    order_id: str
    quantity: int
    total: float


class OrderPlaced(Event):
    order_id: str
    metadata: Metadata = Metadata(name="order_placed", schema_version=1)


class UnitOfWork(SyncAbstractUnitOfWork[Any, Any, Any]):
    def commit(self) -> None:
        pass

    def rollback(self) -> None:
        pass


Transaction = SyncUnitOfWorkTransaction[UnitOfWork]


def place_order(command: PlaceOrder, _uow: Transaction | None) -> Confirmation:
    total = command.quantity * command.unit_price
    return Confirmation(order_id=command.order_id, quantity=command.quantity, total=total)


seen: deque[OrderPlaced] = deque(maxlen=3)


def send_mail(event: OrderPlaced, _uow: Transaction) -> None:
    seen.append(event)


def reserve_stock(event: OrderPlaced, _uow: Transaction) -> None:
    seen.append(event)


def count_sales(event: OrderPlaced, _uow: Transaction) -> None:
    seen.append(event)


bus: SyncMessageBus[UnitOfWork] = SyncMessageBus()
bus.add_listener(PlaceOrder, place_order)
for handler in (send_mail, reserve_stock, count_sales):
    bus.add_listener(OrderPlaced, handler)


def send(message: Any) -> Any:
    with UnitOfWork() as transaction:
        outcome = bus.handle(message, transaction)
        transaction.commit()
    return outcome


command = partial(PlaceOrder, order_id="o-1", quantity=2, unit_price=9.5)
event = partial(OrderPlaced, order_id="o-1")
publish = send


def handle(message: PlaceOrder) -> Confirmation:
    return place_order(message, None)


def total(outcome: Confirmation) -> float:
    return outcome.total
