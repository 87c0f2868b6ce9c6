"""A small application for the command line: each order is confirmed, and what was ordered is taken from stock.

Run it from the folder above: `messagebus handle examples.orders examples/orders.jsonl`.
"""

from collections import Counter
from collections.abc import Iterator

from pydantic import PositiveInt

from messagebus import Command, Event, Message, Registry, ReturnMessage

registry = Registry(strict=True)
stock = Counter(lamp=5, chair=3)


class PlaceOrder(Command):
    order_id: str
    sku: str
    quantity: PositiveInt


class OrderPlaced(Event):
    order_id: str
    sku: str
    quantity: PositiveInt


class Confirmation(ReturnMessage):
    order_id: str


@registry.handles(PlaceOrder)
def place_order(command: PlaceOrder) -> Iterator[Message]:
    yield OrderPlaced(order_id=command.order_id, sku=command.sku, quantity=command.quantity)
    yield Confirmation(order_id=command.order_id)


@registry.handles(OrderPlaced)
def take_from_stock(event: OrderPlaced) -> None:
    stock[event.sku] -= event.quantity
