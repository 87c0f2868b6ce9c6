"""Drives lato: pydantic messages; without a handler configured its log lines go nowhere."""

from collections import deque
from functools import partial

from lato import Application, Command, Event
from pydantic import BaseModel, PositiveInt

app = Application("shop")


class PlaceOrder(Command):
    order_id: str
    quantity: PositiveInt
    unit_price: float


class Confirmation(BaseModel):
    order_id: str
    quantity: int
    total: float


class OrderPlaced(Event):
    order_id: str


@app.handler(PlaceOrder)
def handle(command: PlaceOrder) -> Confirmation:
    total = command.quantity * command.unit_price
    return Confirmation(order_id=command.order_id, quantity=command.quantity, total=total)


seen: deque[OrderPlaced] = deque(maxlen=3)


@app.handler(OrderPlaced)
def send_mail(event: OrderPlaced) -> None:
    seen.append(event)


@app.handler(OrderPlaced)
def reserve_stock(event: OrderPlaced) -> None:
    seen.append(event)


@app.handler(OrderPlaced)
def count_sales(event: OrderPlaced) -> None:
    seen.append(event)


command = partial(PlaceOrder, order_id="o-1", quantity=2, unit_price=9.5)
event = partial(OrderPlaced, order_id="o-1")
send, publish = app.execute, app.publish


def total(outcome: Confirmation) -> float:
    return outcome.total
