"""Drives this project."""

from collections import deque
from functools import partial

from pydantic import PositiveInt

from messagebus import Command, Event, ReturnMessage, handle_message, handles


class PlaceOrder(Command):
    order_id: str
    quantity: PositiveInt
    unit_price: float


class Confirmation(ReturnMessage):
    order_id: str
    quantity: int
    total: float


class OrderPlaced(Event):
    order_id: str


@handles(PlaceOrder)
def handle(command: PlaceOrder) -> Confirmation:
    total = command.quantity * command.unit_price
    return Confirmation(order_id=command.order_id, quantity=command.quantity, total=total)


seen: deque[OrderPlaced] = deque(maxlen=3)


@handles(OrderPlaced)
def send_mail(event: OrderPlaced) -> None:
    seen.append(event)


@handles(OrderPlaced)
def reserve_stock(event: OrderPlaced) -> None:
    seen.append(event)


@handles(OrderPlaced)
def count_sales(event: OrderPlaced) -> None:
    seen.append(event)


command = partial(PlaceOrder, order_id="o-1", quantity=2, unit_price=9.5)
event = partial(OrderPlaced, order_id="o-1")
send = publish = handle_message


def total(outcome: list[Confirmation]) -> float:
    return outcome[0].total
