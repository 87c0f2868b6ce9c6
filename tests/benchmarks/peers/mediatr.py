"""Drives mediatr: plain classes; it writes no logs and knows no events."""

from collections import deque
from functools import partial

from mediatr import Mediator


class PlaceOrder:
    def __init__(self, order_id: str, quantity: int, unit_price: float) -> None:
        self.order_id = order_id
        self.quantity = quantity
        self.unit_price = unit_price


class Confirmation:
    def __init__(self, order_id: str, quantity: int, total: float) -> None:
        self.order_id = order_id
        self.quantity = quantity
        self.total = total


@Mediator.handler
def handle(request: PlaceOrder) -> Confirmation:
    total = request.quantity * request.unit_price
    return Confirmation(order_id=request.order_id, quantity=request.quantity, total=total)


command = partial(PlaceOrder, order_id="o-1", quantity=2, unit_price=9.5)
event = None
seen: deque[object] = deque(maxlen=3)
send = Mediator().send
publish = "one handler per request"


def total(outcome: Confirmation) -> float:
    return outcome.total
