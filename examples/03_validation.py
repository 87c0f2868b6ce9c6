"""Validation at the door: JSON becomes a message of a registered class, or one clear error.

No error repeats a value of the payload, so each can be logged and sent back.

Output::

    PlaceOrder(order_id='o-1', quantity=2)
    [{"type":"Confirmation","data":{"order_id":"o-1"}}]
    InvalidMessageError: Cannot read __main__.PlaceOrder: quantity: Input should be a valid integer, unable to
        parse string as an integer.
    InvalidMessageError: Cannot read __main__.PlaceOrder: quantity: Input should be greater than 0.
    InvalidMessageError: Cannot read __main__.PlaceOrder: quantity: Field required; it has no field 'quantitty'.
        Did you mean 'quantity'?
    UnknownMessageError: Cannot read a message: no message class with the wire name 'shop.place_ordr' is
        registered. Did you mean shop.place_order? Register its class with @handles(...) or
        registry.register(...), in a module that is imported.
    InvalidMessageError: Cannot read a message: it has no 'type'. The wire form is {"type": ..., "data": {...}},
        or a CloudEvent 1.0.
    InvalidMessageError: Cannot read a message: Invalid JSON: EOF while parsing a value at line 1 column 29. The
        wire form is {"type": ..., "data": {...}}, or a CloudEvent 1.0.
"""

from textwrap import fill

from pydantic import PositiveInt

from messagebus import Command, InvalidMessageError, Registry, ReturnMessage, handle_json

registry = Registry()


class PlaceOrder(Command, name="shop.place_order"):  # The name in JSON; it stays when the class is renamed.
    order_id: str
    quantity: PositiveInt


class Confirmation(ReturnMessage):
    order_id: str


@registry.handles(PlaceOrder)
def place_order(command: PlaceOrder) -> Confirmation:
    return Confirmation(order_id=command.order_id)


good = b'{"type": "shop.place_order", "data": {"order_id": "o-1", "quantity": 2}}'
print(repr(registry.validate_json(good)))
print(handle_json(good, registry=registry).decode())

for bad in (
    b'{"type": "shop.place_order", "data": {"order_id": "o-1", "quantity": "a few"}}',
    b'{"type": "shop.place_order", "data": {"order_id": "o-1", "quantity": 0}}',
    b'{"type": "shop.place_order", "data": {"order_id": "o-1", "quantitty": 2}}',
    b'{"type": "shop.place_ordr", "data": {"order_id": "o-1", "quantity": 2}}',
    b'{"order_id": "o-1", "quantity": 2}',
    b'{"type": "shop.place_order", ',
):
    try:
        handle_json(bad, registry=registry)
    except InvalidMessageError as error:
        print(fill(f"{type(error).__name__}: {error}", 110, subsequent_indent="    "))
