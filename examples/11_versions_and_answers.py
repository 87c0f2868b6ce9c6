"""Versions and answers: what an older program wrote is read, what a newer one wrote is kept; a command gets its answer.

Output::

    The answer
        5 for o-1
    What versions 1 and 2 of the class wrote is read by version 3.
        PlaceOrder(order_id='o-1', pieces=24, currency='EUR')
        PlaceOrder(order_id='o-2', pieces=36, currency='USD')
    What is written says its version.
        {"type":"shop.place_order","dataversion":3,"data":{"order_id":"o-3","pieces":7,"currency":"EUR"}}
    What a newer version wrote is for a newer program. A store keeps it as a dead letter, with all its bytes.
        NewerVersionError: Cannot read __main__.PlaceOrder: it is version 4, and this program reads up to
            version 3. Keep it, and read it with a newer version of this program.
"""

from textwrap import fill
from typing import Any

from messagebus import Command, NewerVersionError, Registry, ReturnMessage, ask, to_json

registry = Registry()


class Price(ReturnMessage):
    order_id: str
    amount: int


class PlaceOrder(Command[Price], name="shop.place_order", version=3):
    order_id: str
    pieces: int  # In version 2 these were dozens.
    currency: str = "EUR"  # Version 1 knew no other.


@registry.handles(PlaceOrder)
def place_order(command: PlaceOrder) -> Price:
    return Price(order_id=command.order_id, amount=5 * command.pieces)


@registry.upcasts(PlaceOrder, from_version=1)
def name_currency(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "currency": "EUR"}


@registry.upcasts(PlaceOrder, from_version=2)
def count_pieces(data: dict[str, Any]) -> dict[str, Any]:
    data["pieces"] = 12 * data.pop("dozens")
    return data


print("The answer")
price = ask(PlaceOrder(order_id="o-1", pieces=1), registry=registry)  # A type checker knows: it is a Price.
print(f"    {price.amount} for {price.order_id}")

print("What versions 1 and 2 of the class wrote is read by version 3.")
first = b'{"type": "shop.place_order", "data": {"order_id": "o-1", "dozens": 2}}'
second = b'{"type": "shop.place_order", "dataversion": 2, "data": {"order_id": "o-2", "dozens": 3, "currency": "USD"}}'
for payload in (first, second):
    print("   ", repr(registry.validate_json(payload)))

print("What is written says its version.")
print("   ", to_json(PlaceOrder(order_id="o-3", pieces=7)).decode())

print("What a newer version wrote is for a newer program. A store keeps it as a dead letter, with all its bytes.")
try:
    registry.validate_json('{"type": "shop.place_order", "dataversion": 4, "data": {"order_id": "o-4", "crates": 1}}')
except NewerVersionError as error:
    print(fill(f"    NewerVersionError: {error}", 104, subsequent_indent=" " * 8))
