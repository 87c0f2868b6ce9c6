"""What happened while a test ran: messages dispatched, sent and returned, and records written."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterable, Callable, Iterable, Iterator, MutableMapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from inspect import isawaitable
from typing import Any, TypeVar

import structlog

from messagebus import AsyncMessageBus, Command, Event, Message, MessageBus, Registry, ReturnMessage
from messagebus.errors import full_name, near_misses
from messagebus.registry import Handler
from messagebus.shapes import HIDDEN, shape_of

__all__ = ["AnyBus", "RecordedBus", "Recording", "changed", "watched"]

M = TypeVar("M", bound=Message)
AnyBus = type[MessageBus] | type[AsyncMessageBus]


class Recording:
    """Notes what a bus does, for a test to look at; `RecordedBus` and `RecordedStore` are two."""

    dispatched: list[Message]
    """The messages in the order in which they were dispatched; at each attempt, if one was tried again."""
    returned: list[ReturnMessage]
    """What handlers returned for whoever started the run."""
    logged: list[MutableMapping[str, Any]]
    """The records, without those that only ``debug`` shows."""

    def __init__(self, bus: AnyBus = MessageBus) -> None:
        self.dispatched, self.returned, self.logged = [], [], []
        self._released: list[Message] = []
        self._overrides = ExitStack()
        self._bus = bus

    @property
    def sent(self) -> Sequence[Message]:
        """The commands and events that handlers sent."""
        return self._released

    def override(self, message_class: type[M], *handlers: Callable[[M], Any]) -> None:
        """Let these handlers stand for all that the class has, until the test ends; see `Registry.override`."""
        self._overrides.enter_context(self._bus.registry.override(message_class, *handlers))

    def close(self) -> None:
        """Take all overrides back."""
        self._overrides.close()

    # What a test states

    def assert_sent(self, message_class: type[M], /, **fields: Any) -> M:
        """Return the first message of that class that was sent with these fields; if there is none, show the nearest.

        Raises:
            AssertionError: If there is none.
            TypeError: If the class has no such field.
        """
        return self._found("sent", self._sent_with(message_class), message_class, fields)

    def assert_not_sent(self, message_class: type[Message], /, **fields: Any) -> None:
        """Pass if no message of that class was sent with these fields."""
        found = [one for one in self._sent_with(message_class) if _misses(one, message_class, fields) == []]
        assert not found, f"{_shown(message_class, fields)} was sent {len(found)} times."

    def assert_returned(self, message_class: type[M], /, **fields: Any) -> M:
        """Do as `assert_sent`, with what was returned."""
        return self._found("returned", self.returned, message_class, fields)

    def assert_logged(self, event: str, /, **fields: Any) -> MutableMapping[str, Any]:
        """Return the first record of that name with these fields."""
        for record in self.logged:
            if record["event"] == event and fields.items() <= record.items():
                return record
        lines = [f"No record {event!r} was logged with {fields}. Logged were:", *map(repr, self.logged)]
        raise AssertionError("\n    ".join(lines))

    def _found(self, verb: str, messages: Iterable[Message], cls: type[M], fields: dict[str, Any]) -> M:
        candidates = [(_misses(one, cls, fields), one) for one in messages if type(one) is cls]
        for misses, message in candidates:
            if not misses:
                return message
        _check_fields(cls, fields)
        lines = [f"No {_shown(cls, fields)} was {verb}."]
        if candidates:
            misses, nearest = min(candidates, key=lambda candidate: len(candidate[0]))
            seen = nearest.model_dump(context=HIDDEN, warnings=False)
            hidden = shape_of(cls).private_fields
            lines.append(f"The nearest of {len(candidates)}:")
            lines += [
                f"    {name}: {seen[name]!r}, not {'**' if name in hidden else repr(fields[name])}" for name in misses
            ]
        counts = Counter(full_name(type(one)) for one in messages)
        lines.append(f"{verb.capitalize()} were: {', '.join(f'{n} {name}' for name, n in counts.items()) or 'none'}.")
        lines += [f"{one['message_type']} failed: {_error_in(one)}" for one in self.logged if "failure" in one]
        raise AssertionError("\n".join(lines))

    def _sent_with(self, message_class: type[Message]) -> Sequence[Message]:  # noqa: ARG002 - a store needs to know
        """Return what was sent, that class among it."""
        return self.sent

    # For those who run a bus

    def _recorded(self) -> Any:
        """Return the class of buses, with what it does noted."""
        base: Any = self._bus

        def dispatch(bus: Any, message: Message) -> Any:
            self.dispatched.append(message)
            return base.message_dispatcher(bus, message)  # On the async bus, to be awaited.

        return type(base.__name__, (base,), {"message_dispatcher": dispatch})

    def _logger(self) -> Any:
        return structlog.wrap_logger(None, [self._keep], structlog.make_filtering_bound_logger("debug"))

    def _keep(self, _logger: Any, level: str, record: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        self.logged.append({"level": level, **record})
        raise structlog.DropEvent

    def _note(self, _handler: Handler, results: Sequence[Any]) -> None:
        self.returned += [one for one in results if isinstance(one, ReturnMessage)]
        self._released += [one for one in results if isinstance(one, Command | Event)]


class RecordedBus(Recording):
    """Runs messages as a class of buses does, and notes what happened: ``RecordedBus(ShopBus).run(PlaceOrder(...))``.

    `sent` is what handlers that finished returned; not the messages that the test itself runs.
    """

    def run(self, message: Message) -> list[ReturnMessage]:
        """Run a message, on the async bus in an event loop of its own, and return the return messages."""
        results = self._made(message)()
        if isawaitable(results):
            results = asyncio.run(_awaited(results))
        return results  # type: ignore[no-any-return]

    async def arun(self, message: Message) -> list[ReturnMessage]:
        """Do as `run`, in the event loop of the test."""
        results = self._made(message)()
        return await results if isawaitable(results) else results  # type: ignore[no-any-return]

    def _made(self, message: Message) -> Any:
        registry = changed(self._bus.registry, lambda handler: watched(handler, self._note))
        return self._recorded()(message, registry=registry, logger=self._logger())


async def _awaited(results: Any) -> Any:
    return await results


# Messages, compared


def _check_fields(cls: type[Message], fields: Iterable[str]) -> None:
    for name in fields:
        if name not in cls.model_fields:
            near = [f" Did you mean {word!r}?" for word in near_misses(name, cls.model_fields, limit=1)]
            raise TypeError(f"{full_name(cls)} has no field {name!r}.{''.join(near)}")


def _misses(message: Message, cls: type[Message], fields: dict[str, Any]) -> list[str]:
    """Return the fields in which a message differs from what is wanted."""
    if type(message) is not cls:
        return ["type"]
    return [name for name, value in fields.items() if getattr(message, name, _MISSING) != value]


_MISSING = object()


def _shown(cls: type[Message], fields: dict[str, Any]) -> str:
    hidden = shape_of(cls).private_fields
    words = [f"{name}={'**' if name in hidden else repr(value)}" for name, value in fields.items()]
    return f"{full_name(cls)}({', '.join(words)})"


def _error_in(record: MutableMapping[str, Any]) -> str:
    first = record["failure"][0]
    return f"{first['exc_type']}: {first['exc_value']}"


# Handlers, watched


def changed(registry: Registry, change: Callable[[Handler], Handler]) -> Registry:
    """Return a copy of a registry as it is now, with its handlers changed."""
    copy, snapshot = Registry(strict=registry.strict), registry.snapshot
    copy._names, copy._upcasters = dict(snapshot.names), dict(snapshot.upcasters)
    copy._handlers = {cls: type(handlers)(map(change, handlers)) for cls, handlers in snapshot.handlers.items()}
    return copy


def watched(handler: Handler, note: Callable[[Handler, Sequence[Any]], None]) -> Handler:
    """Return a handler that tells what it returned when it has finished."""

    def call(message: Message) -> Any:
        return finish(handler.function(message))

    def finish(result: Any) -> Any:
        if isawaitable(result) or isinstance(result, AsyncIterable):
            return later(result)
        if isinstance(result, Iterator):
            result = [*result]
        note(handler, result if isinstance(result, list | tuple) else [result])
        return result

    async def later(result: Any) -> Any:
        return finish([one async for one in result] if isinstance(result, AsyncIterable) else await result)

    return replace(handler, function=call)
