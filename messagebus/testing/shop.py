"""The messages that the laws are tried with."""

from collections.abc import Iterable

from pydantic import SecretStr
from pydantic_core import from_json

from messagebus import Command, Event, ReturnMessage
from messagebus.delivery.entries import Stored

__all__ = [
    "LOG_IN",
    "CancelOrder",
    "Confirmation",
    "LogIn",
    "OrderPlaced",
    "PlaceOrder",
    "Weigh",
    "order_ids",
    "orders",
]


class PlaceOrder(Command, name="shop.place_order"):
    """What most laws send."""

    order_id: str
    quantity: int = 1


class CancelOrder(Command, name="shop.cancel_order"):
    """A second type."""

    order_id: str


class OrderPlaced(Event, name="shop.order_placed"):
    """What a handler of `PlaceOrder` sends."""

    order_id: str


class Confirmation(ReturnMessage, name="shop.confirmation"):
    """What a handler of `PlaceOrder` returns."""

    order_id: str


class LogIn(Command, name="shop.log_in"):
    """Cannot be read back: JSON shows asterisks for the password."""

    user: str
    password: SecretStr


class Weigh(Command, name="shop.weigh", allow_inf_nan=True):
    """May hold what JSON has no word for."""

    parcel_id: str
    kilograms: float


LOG_IN = LogIn(user="ann", password=SecretStr("canary"))
"""A message that every store refuses."""


def orders(*order_ids: str) -> list[PlaceOrder]:
    """Return a command for each."""
    return [PlaceOrder(order_id=order_id) for order_id in order_ids]


def order_ids(messages: Iterable[Stored]) -> list[str]:
    """Return what `orders` was given, from what a store gave back."""
    return [from_json(message.body)["data"]["order_id"] for message in messages]
