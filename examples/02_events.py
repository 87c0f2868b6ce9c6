"""Events: what a handler yields is dispatched next, first in, first out.

The second line of the output comes before the third because handlers run in the order in which they are registered;
the fourth comes before the fifth because what was yielded first is dispatched first.

Output::

    place_order    PlaceOrder
    reserve_stock  OrderPlaced
    write_invoice  OrderPlaced
    greet          CustomerJoined
    ship           StockReserved
    [Invoice(total=18), Tracking(code='T-1')]
"""

from collections.abc import Iterator

from messagebus import Command, Event, Message, ReturnMessage, handle_message, handles


class PlaceOrder(Command):
    order_id: str


class OrderPlaced(Event):
    order_id: str


class CustomerJoined(Event):
    pass


class StockReserved(Event):
    order_id: str


class Invoice(ReturnMessage):
    total: int


class Tracking(ReturnMessage):
    code: str


def say(handler: str, message: Message) -> None:
    print(f"{handler:14} {type(message).__name__}")


@handles(PlaceOrder)  # A command has exactly one handler ...
def place_order(command: PlaceOrder) -> Iterator[Event]:
    say("place_order", command)
    yield OrderPlaced(order_id=command.order_id)
    yield CustomerJoined()


@handles(OrderPlaced)  # ... an event has as many as it needs.
def reserve_stock(event: OrderPlaced) -> StockReserved:
    say("reserve_stock", event)
    return StockReserved(order_id=event.order_id)


@handles(OrderPlaced)
def write_invoice(event: OrderPlaced) -> Invoice:
    say("write_invoice", event)
    return Invoice(total=18)


@handles(CustomerJoined)
def greet(event: CustomerJoined) -> None:
    say("greet", event)


@handles(StockReserved)
def ship(event: StockReserved) -> Tracking:
    say("ship", event)
    return Tracking(code="T-1")


print(handle_message(PlaceOrder(order_id="o-1")))
