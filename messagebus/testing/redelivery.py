"""What a handler has to bear from a store: its message again, after a crash, and messages in another order."""

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from messagebus import Message, MessageBus
from messagebus.delivery import Stored
from messagebus.delivery.handling import _HandlerWork
from messagebus.delivery.store import WORK
from messagebus.errors import full_name
from messagebus.registry import Handler
from messagebus.testing.memory import RecordedStore
from messagebus.testing.recording import AnyBus

__all__ = ["assert_any_order", "assert_idempotent"]

Scenario = Callable[[RecordedStore], Any]


def assert_idempotent(scenario: Scenario, *, bus: AnyBus = MessageBus) -> None:
    """Run a test again and again, each time with one of its handlers getting every message twice.

    That is what a handler has to bear when a worker dies after it has run and before that was stored: what it sent,
    and what it wrote through `current_transaction`, is undone; what else it did is not; and it runs once more. ::

        def test_stock_is_counted_once():
            def scenario(store):
                stock = Stock()
                with registry.override(OrderPlaced, stock.count):
                    store.send(PlaceOrder(order_id="o-1"))
                    store.run_until_idle()
                return stock.pieces

            assert_idempotent(scenario, bus=ShopBus)

    Args:
        scenario: begins from scratch, with a store that is new each time; returns what is to be the same each time,
            or asserts it.
        bus: the class of buses with the registry.

    Raises:
        AssertionError: If a handler is not idempotent: names it, and what came of it; or if not even two plain runs
            agree.
    """
    trial = _Trial(scenario, bus)
    for handler in trial.handlers:
        trial.run(
            f"{handler} is not idempotent: when it gets each message twice",
            vary=lambda one, name=handler.name: _twice(one) if one.name == name else one,  # type: ignore[misc]
        )


def assert_any_order(scenario: Scenario, *, bus: AnyBus = MessageBus, seeds: int = 10) -> None:
    """Run a test again and again, with the messages that wait at the same time handled in other orders.

    Without a key, order is only likely: a retry, or a second worker, changes it. Messages with one key keep theirs.

    Args:
        scenario: as for `assert_idempotent`.
        bus: the class of buses with the registry.
        seeds: so many random orders are tried, after those in which one type comes late, or backwards.

    Raises:
        AssertionError: If the order matters: names the type of message that came late, if that was enough.
    """
    trial = _Trial(scenario, bus)
    # What comes last first: a handler that minds the order is nearer to its own messages than to what led to them.
    for name in reversed(dict.fromkeys(one.type for one in trial.stored)):
        trial.run(f"The order matters: when {name} is handled after the others", arrange=_later(name))
        trial.run(f"The order matters: when several {name} are handled backwards", arrange=_backwards(name))
    for seed in range(seeds):
        trial.run(f"The order matters: when all are shuffled (seed {seed})", arrange=_shuffled(seed))


class _Trial:
    """A scenario, what comes of it if nothing is changed, and what took part."""

    def __init__(self, scenario: Scenario, bus: AnyBus) -> None:
        self._scenario, self._bus = scenario, bus
        self.handlers: dict[Handler, None] = {}
        self.stored: list[Stored] = []
        self._seen: set[str] = set()
        self._expected = self._outcome(vary=self._watch, arrange=self._take_down)
        self.run("The scenario cannot be repeated: when it runs a second time, unchanged")

    def run(
        self,
        what: str,
        vary: Callable[[Handler], Handler] | None = None,
        arrange: Callable[[Sequence[Stored]], Sequence[Stored]] | None = None,
    ) -> None:
        try:
            got = self._outcome(vary, arrange)
        except Exception as error:
            raise AssertionError(f"{what}, it ends with {full_name(type(error))}: {error}") from error
        assert self._expected == got, f"{what}, the outcome is {got!r}, not {self._expected!r}."

    def _outcome(
        self,
        vary: Callable[[Handler], Handler] | None,
        arrange: Callable[[Sequence[Stored]], Sequence[Stored]] | None,
    ) -> Any:
        store = RecordedStore(self._bus)
        store._vary, store._arrange = vary or store._vary, arrange or store._arrange
        try:
            return self._scenario(store)
        finally:
            store.close()

    def _watch(self, handler: Handler) -> Handler:
        def call(message: Message) -> Any:
            if handler.name not in self._seen:
                self._seen.add(handler.name)
                self.handlers[handler] = None
            return handler.function(message)

        return replace(handler, function=call)

    def _take_down(self, messages: Sequence[Stored]) -> Sequence[Stored]:
        self.stored += messages
        return messages


# Twice


def _twice(handler: Handler) -> Handler:
    def call(message: Message) -> Any:
        first = _HandlerWork(WORK.get(), handler)
        token = WORK.set(first)
        try:
            result = handler.function(message)
            if not handler.is_async:
                first.take(result)
        finally:
            first._leave(_Crash())
            WORK.reset(token)
        return handler.function(message)

    async def acall(message: Message) -> Any:
        first = _HandlerWork(WORK.get(), handler)
        token = WORK.set(first)
        try:
            result: Awaitable[Any] = handler.function(message)
            first.take(await result)
        finally:
            first._leave(_Crash())
            WORK.reset(token)
        return await handler.function(message)

    return replace(handler, function=acall if handler.is_async else call, is_coroutine=handler.is_async)


class _Crash(Exception):  # noqa: N818 - no error: what a crash would have undone is undone
    """Makes a savepoint roll back."""


# In other orders


def _later(name: str) -> Callable[[Sequence[Stored]], Sequence[Stored]]:
    return lambda messages: _with_keys_kept(messages, sorted(messages, key=lambda one: one.type == name))


def _backwards(name: str) -> Callable[[Sequence[Stored]], Sequence[Stored]]:
    def arrange(messages: Sequence[Stored]) -> Sequence[Stored]:
        turned = iter([one for one in reversed(messages) if one.type == name])
        return _with_keys_kept(messages, [next(turned) if one.type == name else one for one in messages])

    return arrange


def _shuffled(seed: int) -> Callable[[Sequence[Stored]], Sequence[Stored]]:
    chance = random.Random(seed)  # noqa: S311 - nothing is secret here
    return lambda messages: _with_keys_kept(messages, chance.sample([*messages], len(messages)))


def _with_keys_kept(before: Sequence[Stored], after: Sequence[Stored]) -> Sequence[Stored]:
    """Return the messages in their new order, those of each key among themselves in the old one."""
    left = {key: iter([one for one in before if one.key == key]) for key in {one.key for one in before}}
    return [one if one.key is None else next(left[one.key]) for one in after]
