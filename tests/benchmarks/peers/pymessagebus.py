"""Drives pymessagebus: named tuples, a command bus and a message bus; it writes no logs."""

from collections import deque
from functools import partial
from typing import NamedTuple

from pymessagebus import CommandBus, MessageBus


class PlaceOrder(NamedTuple):
    order_id: str
    quantity: int
    unit_price: float


class Confirmation(NamedTuple):
    order_id: str
    quantity: int
    total: float


class OrderPlaced(NamedTuple):
    order_id: str


def handle(command: PlaceOrder) -> Confirmation:
    total = command.quantity * command.unit_price
    return Confirmation(order_id=command.order_id, quantity=command.quantity, total=total)


seen: deque[OrderPlaced] = deque(maxlen=3)


def send_mail(event: OrderPlaced) -> None:
    seen.append(event)


def reserve_stock(event: OrderPlaced) -> None:
    seen.append(event)


def count_sales(event: OrderPlaced) -> None:
    seen.append(event)


command_bus = CommandBus()
command_bus.add_handler(PlaceOrder, handle)
message_bus = MessageBus()
for handler in (send_mail, reserve_stock, count_sales):
    message_bus.add_handler(OrderPlaced, handler)

command = partial(PlaceOrder, order_id="o-1", quantity=2, unit_price=9.5)
event = partial(OrderPlaced, order_id="o-1")
send, publish = command_bus.handle, message_bus.handle


def total(outcome: Confirmation) -> float:
    return outcome.total
