"""Drives bubus: pydantic events on the event loop; logs only warnings, as by default."""

from collections import deque
from functools import partial

from bubus import BaseEvent, EventBus
from pydantic import BaseModel, PositiveInt


class Confirmation(BaseModel):
    order_id: str
    quantity: int
    total: float


class PlaceOrder(BaseEvent[Confirmation]):
    order_id: str
    quantity: PositiveInt
    unit_price: float


class OrderPlaced(BaseEvent[None]):
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


bus = EventBus()
bus.on(PlaceOrder, handle)
for handler in (send_mail, reserve_stock, count_sales):
    bus.on(OrderPlaced, handler)

command = partial(PlaceOrder, order_id="o-1", quantity=2, unit_price=9.5)
event = partial(OrderPlaced, order_id="o-1")


async def send(message: PlaceOrder) -> Confirmation | None:
    return await bus.dispatch(message).event_result()


async def publish(message: OrderPlaced) -> None:
    await bus.dispatch(message)


def total(outcome: Confirmation) -> float:
    return outcome.total
