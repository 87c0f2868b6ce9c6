"""What a type checker knows of answers and versions. Checked, not run: each `type: ignore` is an expected refusal."""
# pyright: reportUnnecessaryTypeIgnoreComment=error

from typing import Any, Generic, TypeVar, assert_type

from messagebus import Command, Event, Registry, ReturnMessage, aask, ask, handle_message, upcasts

T = TypeVar("T")


class Price(ReturnMessage):
    amount: int


class Quote(Command[Price], name="shop.quote", version=2):
    product: str


class QuickQuote(Quote):
    pass


class PlaceOrder(Command):
    pass


class Put(Command[Price], Generic[T]):
    item: T


class OrderPlaced(Event):
    pass


registry = Registry()

# The answer is inferred, without a plugin.

assert_type(ask(Quote(product="lamp")), Price)
assert_type(ask(QuickQuote(product="lamp")), Price)
assert_type(ask(Put[int](item=1)), Price)
assert_type(ask(PlaceOrder()), ReturnMessage)
assert_type(ask(Quote(product="lamp"), registry=registry, log_level="info", logger=None).amount, int)


async def run() -> None:
    assert_type(await aask(Quote(product="lamp")), Price)
    assert_type(await aask(PlaceOrder(), registry=registry, error_log_level="warning"), ReturnMessage)


ask(OrderPlaced())  # type: ignore[arg-type]
ask(Quote)  # type: ignore[arg-type]
ask(Quote(product="lamp"), log_level="warn")  # type: ignore[arg-type]


class Wrong(Command[int]):  # type: ignore[type-var]
    pass


# A command with an answer is a command, and needs no argument where one is meant.


def take_any(command: Command) -> Command:
    assert_type(handle_message(command), list[ReturnMessage])
    return command


take_any(Quote(product="lamp"))
anything: list[type[Command]] = [Quote, PlaceOrder]
Quote(product=1)  # type: ignore[arg-type]
Quote()  # type: ignore[call-arg]


@registry.handles(Quote)
def quote(command: Quote) -> Price:
    assert_type(command.product, str)
    return Price(amount=1)


# An upcaster is a function from dict to dict, and stays what it is.


@registry.upcasts(Quote, from_version=1)
def rename_product(data: dict[str, Any]) -> dict[str, Any]:
    return {"product": data["name"]}


assert_type(rename_product({}), dict[str, Any])
upcasts(Quote, from_version=1)(rename_product)


@registry.upcasts(Quote, from_version=1)  # type: ignore[type-var]
def make_text(data: dict[str, Any]) -> str:
    return ""


registry.upcasts(int, from_version=1)  # type: ignore[arg-type]
registry.upcasts(Quote)  # type: ignore[call-arg]
