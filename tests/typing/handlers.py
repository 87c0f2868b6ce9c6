"""What a type checker knows of handlers. Checked, not run: each `type: ignore` is an expected refusal."""
# pyright: reportUnnecessaryTypeIgnoreComment=error

from collections.abc import AsyncIterator, Callable, Iterator
from typing import assert_type

from messagebus import Command, Event, Message, Registry, ReturnMessage, handles


class PlaceOrder(Command):
    order_id: str
    quantity: int = 1


class OrderPlaced(Event):
    order_id: str


class Confirmation(ReturnMessage):
    order_id: str


registry = Registry()


# A handler may return nothing, a message, or messages; decorated, it takes and returns what it did.


@handles(PlaceOrder)
def return_nothing(command: PlaceOrder) -> None:
    assert_type(command.order_id, str)


@registry.handles(PlaceOrder)
def return_one(command: PlaceOrder) -> OrderPlaced:
    return OrderPlaced(order_id=command.order_id)


@registry.handles(PlaceOrder)
def return_one_or_nothing(command: PlaceOrder) -> OrderPlaced | None:
    return OrderPlaced(order_id=command.order_id) if command.quantity else None


@registry.handles(PlaceOrder)
def return_list(command: PlaceOrder) -> list[OrderPlaced]:
    return [OrderPlaced(order_id=command.order_id)]


@registry.handles(PlaceOrder)
def return_tuple(command: PlaceOrder) -> tuple[OrderPlaced, Confirmation]:
    return OrderPlaced(order_id=command.order_id), Confirmation(order_id=command.order_id)


@registry.handles(PlaceOrder)
def yield_several(command: PlaceOrder) -> Iterator[Message]:
    yield OrderPlaced(order_id=command.order_id)
    yield Confirmation(order_id=command.order_id)


@registry.handles(PlaceOrder)
async def return_one_later(command: PlaceOrder) -> OrderPlaced:
    return OrderPlaced(order_id=command.order_id)


@registry.handles(PlaceOrder)
async def return_nothing_later(command: PlaceOrder) -> None:
    assert_type(command.order_id, str)


@registry.handles(PlaceOrder)
async def yield_several_later(command: PlaceOrder) -> AsyncIterator[Message]:
    yield OrderPlaced(order_id=command.order_id)


@registry.handles(OrderPlaced, subclasses=True)
def take_subclasses(event: OrderPlaced) -> None:
    assert_type(event.order_id, str)


@registry.handles(PlaceOrder, blocking=True)
def take_time(command: PlaceOrder) -> None:
    assert_type(command.order_id, str)


def take_any_message(message: Message) -> None:
    """Take more than it is registered for."""


class Ledger:
    def enter(self, event: OrderPlaced) -> Confirmation:
        return Confirmation(order_id=event.order_id)

    def __call__(self, event: OrderPlaced) -> None:
        """Take the event."""


def take_more(event: OrderPlaced, limit: int = 3) -> None:
    """Take more arguments, which have defaults."""


registry.handles(OrderPlaced)(take_any_message)
registry.handles(OrderPlaced)(Ledger().enter)
registry.handles(OrderPlaced)(Ledger())
registry.handles(OrderPlaced)(take_more)
registry.register(OrderPlaced, Ledger().enter)
registry.register(OrderPlaced, Ledger())
registry.register(OrderPlaced)

assert_type(return_one(PlaceOrder(order_id="o-1")), OrderPlaced)
assert_type(return_one_or_nothing(PlaceOrder(order_id="o-1")), OrderPlaced | None)
assert_type(return_list(PlaceOrder(order_id="o-1")), list[OrderPlaced])
assert_type(yield_several(PlaceOrder(order_id="o-1")), Iterator[Message])
assert_type(yield_several_later(PlaceOrder(order_id="o-1")), AsyncIterator[Message])
return_one(OrderPlaced(order_id="o-1"))  # type: ignore[arg-type]


async def call_later() -> None:
    assert_type(await return_one_later(PlaceOrder(order_id="o-1")), OrderPlaced)


# What cannot be a handler is refused where it is decorated.


@registry.handles(PlaceOrder)  # type: ignore[arg-type]
def take_another(event: OrderPlaced) -> None:
    """Take a message of another class."""


@registry.handles(PlaceOrder)  # type: ignore[type-var]
def return_text(command: PlaceOrder) -> str:
    return command.order_id


@registry.handles(PlaceOrder)  # type: ignore[type-var]
def return_mapping(command: PlaceOrder) -> dict[str, str]:
    return {"order_id": command.order_id}


@registry.handles(PlaceOrder)  # type: ignore[type-var]
def return_number(command: PlaceOrder) -> int:
    return command.quantity


@registry.handles(PlaceOrder)  # type: ignore[type-var]
async def return_text_later(command: PlaceOrder) -> str:
    return command.order_id


@registry.handles(PlaceOrder)  # type: ignore[type-var]
def yield_texts(command: PlaceOrder) -> Iterator[str]:
    yield command.order_id


@registry.handles(PlaceOrder)  # type: ignore[arg-type]
def take_nothing() -> None:
    """Take no message."""


@registry.handles(PlaceOrder)  # type: ignore[arg-type]
def take_two(command: PlaceOrder, other: PlaceOrder) -> None:
    """Take two messages."""


registry.register(PlaceOrder, take_any_message)
registry.register(OrderPlaced, return_one)  # type: ignore[arg-type]
registry.handles(str)  # type: ignore[type-var]
registry.register(int)  # type: ignore[type-var]


# Messages are models: their fields are checked where they are made, and they are frozen.

PlaceOrder(order_id=1)  # type: ignore[arg-type]
PlaceOrder()  # type: ignore[call-arg]
PlaceOrder(order_id="o-1", quantiy=2)  # type: ignore[call-arg]


class Pinned(Command, name="shop.pinned"):
    pass


fake: Callable[[PlaceOrder], None] = return_nothing
with registry.override(PlaceOrder, fake):
    pass
with registry.override(PlaceOrder, Ledger().enter):  # type: ignore[arg-type]
    pass
