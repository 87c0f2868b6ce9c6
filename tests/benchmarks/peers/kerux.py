"""Drives kerux: dataclasses, its mediator for programs without asyncio; it writes no logs."""

from collections import deque
from dataclasses import dataclass
from functools import partial

from kerux import Notification, Request, SyncMediator

mediator = SyncMediator()


@dataclass
class Confirmation:
    order_id: str
    quantity: int
    total: float


@dataclass
class PlaceOrder(Request[Confirmation]):
    order_id: str
    quantity: int
    unit_price: float


@dataclass
class OrderPlaced(Notification):
    order_id: str


@mediator.handler
def handle(command: PlaceOrder) -> Confirmation:
    total = command.quantity * command.unit_price
    return Confirmation(order_id=command.order_id, quantity=command.quantity, total=total)


seen: deque[OrderPlaced] = deque(maxlen=3)


@mediator.notification_handler
def send_mail(event: OrderPlaced) -> None:
    seen.append(event)


@mediator.notification_handler
def reserve_stock(event: OrderPlaced) -> None:
    seen.append(event)


@mediator.notification_handler
def count_sales(event: OrderPlaced) -> None:
    seen.append(event)


command = partial(PlaceOrder, order_id="o-1", quantity=2, unit_price=9.5)
event = partial(OrderPlaced, order_id="o-1")
send, publish = mediator.send, mediator.publish


def total(outcome: Confirmation) -> float:
    return outcome.total
