"""What is stored and handled: a command whose handler returns an event, and an event whose handler does nothing."""

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict, PositiveInt

from messagebus import Command, Event, Registry

__all__ = [
    "MODELS", "PLAIN_HANDLERS", "REGISTRY", "OrderPlaced", "PlaceOrder", "PlainOrder", "PlainPlaced", "place_orders",
]  # fmt: skip

REGISTRY = Registry()


class PlaceOrder(Command):
    order_id: str
    quantity: PositiveInt
    unit_price: float


class OrderPlaced(Event):
    order_id: str


class PlainOrder(BaseModel):
    """`PlaceOrder` without the bus: the same fields, as strict."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    order_id: str
    quantity: PositiveInt
    unit_price: float


class PlainPlaced(BaseModel):
    """`OrderPlaced` without the bus."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    order_id: str


MODELS: dict[str, type[BaseModel]] = {"PlainOrder": PlainOrder, "PlainPlaced": PlainPlaced}


@REGISTRY.handles(PlaceOrder)
def place_order(command: PlaceOrder) -> OrderPlaced:
    return OrderPlaced(order_id=command.order_id)


@REGISTRY.handles(OrderPlaced)
def send_mail(event: OrderPlaced) -> None:
    pass


def place_plain(command: PlainOrder) -> PlainPlaced:
    """Do as `place_order`."""
    return PlainPlaced(order_id=command.order_id)


def send_plain_mail(event: PlainPlaced) -> None:
    pass


PLAIN_HANDLERS: dict[str, Callable[[Any], BaseModel | None]] = {
    "PlainOrder": place_plain,
    "PlainPlaced": send_plain_mail,
}


def place_orders(number: int) -> list[PlaceOrder]:
    """Return so many commands."""
    return [PlaceOrder(order_id=f"o-{i}", quantity=2, unit_price=9.5) for i in range(number)]
