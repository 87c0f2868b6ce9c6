"""The registry: message class → handlers, wire name → message class; and the door, where payloads become messages."""

import inspect
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import count
from threading import RLock
from typing import Any, TypeVar

from messagebus.door import MAX_BYTES, Door, check_again
from messagebus.envelope import Envelope
from messagebus.errors import (
    DuplicateHandlerError,
    DuplicateNameError,
    HandlerError,
    MessageClassError,
    NoHandlerError,
    NotAMessageError,
    UpcasterError,
    full_name,
    near_misses,
    place_of,
)
from messagebus.messages import Command, Event, Message, ReturnMessage, wire_name
from messagebus.shapes import shape_of
from messagebus.versions import Upcaster, Upcasters, describe, find_gaps

__all__ = ["DEFAULT_REGISTRY", "MAX_BYTES", "Handler", "Plan", "Registry", "Snapshot", "handles", "upcasts"]

Emitted = Message | Iterable[Message] | None
M = TypeVar("M", bound=Message)
R = TypeVar("R", bound=Emitted | Awaitable[Emitted] | AsyncIterable[Message])
U = TypeVar("U", bound=Callable[[dict[str, Any]], dict[str, Any]])


@dataclass(frozen=True, slots=True, eq=False)
class Handler:
    """A callable registered for a message class."""

    function: Callable[[Any], Any]
    name: str
    """``module.QualName``, the same in every process."""
    place: str
    """``path/to/file.py:12``"""
    is_async: bool
    is_coroutine: bool
    """An ``async def`` function; an async handler that is none is an async generator."""
    is_blocking: bool
    takes_subclasses: bool
    order: int

    def __str__(self) -> str:
        return f"{self.name} ({self.place})"


@dataclass(frozen=True, slots=True)
class Plan:
    """What the bus does with messages of one class."""

    name: str
    handlers: tuple[Handler, ...]
    is_command: bool
    is_return: bool
    is_plain: bool
    """There is nothing to look at before the handlers are called: neither of the two below."""
    check: Callable[[Message], None]
    """Raises if a message cannot be dispatched."""
    async_handler: Handler | None


class Fakes(tuple[Handler, ...]):
    """Handlers that stand for all that a class has, those of its bases too."""

    __slots__ = ()


class Snapshot(dict[type, Plan]):
    """A registry at one moment, which never changes; plans are worked out when a class is first met."""

    def __init__(
        self,
        handlers: Mapping[type[Message], tuple[Handler, ...]],
        names: Mapping[str, type[Message]],
        upcasters: Upcasters,
        *,
        strict: bool,
    ) -> None:
        super().__init__()
        self.handlers, self.names, self.upcasters, self.strict = handlers, names, upcasters, strict

    def __missing__(self, cls: type) -> Plan:
        if not issubclass(cls, Command | Event | ReturnMessage):
            raise NotAMessageError(full_name(cls))
        own = self.handlers.get(cls, ())
        bases = () if isinstance(own, Fakes) else cls.__mro__[1:]
        inherited = [one for base in bases for one in self.handlers.get(base, ()) if one.takes_subclasses]
        found = [*own, *inherited]
        check = check_again if cls.model_config.get("revalidate_instances") == "always" else _pass
        if not found and (issubclass(cls, Command) or (self.strict and issubclass(cls, Event))):
            check = self._refuse
        async_handler = next((handler for handler in found if handler.is_async), None)
        plan = self[cls] = Plan(
            name=wire_name(cls),
            handlers=tuple(sorted(found, key=lambda handler: handler.order)),
            is_command=issubclass(cls, Command),
            is_return=issubclass(cls, ReturnMessage),
            is_plain=check is _pass and async_handler is None,
            check=check,
            async_handler=async_handler,
        )
        return plan

    def _refuse(self, message: Message) -> None:
        name = type(message).__name__
        near = []
        for cls, handlers in self.handlers.items():
            if handlers and (cls.__name__ == name or near_misses(name, [cls.__name__])):
                near.append(f"{full_name(cls)} (handler at {handlers[0].place})")
        raise NoHandlerError(full_name(type(message)), tuple(near[:3]))

    @cached_property
    def door(self) -> Door:
        """Where payloads of the known types become messages."""
        return Door(self.names, self.upcasters)


def _pass(message: Message) -> None:
    """Let any message be dispatched."""


class _OnDemand:
    """Copies a registry when it is looked at, not at every change; then the copy is an attribute like any other."""

    def __get__(self, registry: "Registry", owner: object) -> Snapshot:
        with registry._lock:
            copies = dict(registry._handlers), dict(registry._names), dict(registry._upcasters)
            snapshot = registry.__dict__["snapshot"] = Snapshot(*copies, strict=registry.strict)
        return snapshot


class Registry:
    """Message classes with their wire names and handlers. Safe to change from any thread; a run sees old or new.

    With ``strict=True`` an event without handler is an error too.
    """

    snapshot = _OnDemand()
    """The registry as it is now."""

    def __init__(self, *, strict: bool = False) -> None:
        self.strict = strict
        self._lock = RLock()
        self._order = count()
        self._handlers: dict[type[Message], tuple[Handler, ...]] = {}
        self._names: dict[str, type[Message]] = {}
        self._upcasters: dict[tuple[type[Message], int], Upcaster] = {}

    # Registering

    def handles(
        self, message_class: type[M], *, subclasses: bool = False, blocking: bool = False
    ) -> Callable[[Callable[[M], R]], Callable[[M], R]]:
        """Register the decorated callable as a handler of ``message_class``; see `register`."""

        def decorate(function: Callable[[M], R]) -> Callable[[M], R]:
            self.register(message_class, function, subclasses=subclasses, blocking=blocking)
            return function

        return decorate

    def register(
        self,
        message_class: type[M],
        handler: Callable[[M], Any] | None = None,
        *,
        subclasses: bool = False,
        blocking: bool = False,
    ) -> None:
        """Make a message class known, and ``handler`` its handler. Runs that have begun do not see it.

        Args:
            message_class: a command, an event, or a return message (which has no handler).
            handler: called with one message; returns nothing, a message or an iterable of messages. Without it the
                class is only made known: payloads of its type are accepted.
            subclasses: for events: handle events of subclasses too.
            blocking: on the async bus, call this plain function in a thread.

        Raises:
            MessageClassError: If the class is no message class, or a field of it has no JSON.
            DuplicateNameError: If another class has its wire name.
            DuplicateHandlerError: If the command has a handler, or the event has this one.
            HandlerError: If the callable does not take one message.
        """
        _check_class(message_class, has_handler=handler is not None, subclasses=subclasses)
        new = () if handler is None else (_describe(handler, subclasses=subclasses, blocking=blocking),)
        self._add({message_class: new}, {})

    def upcasts(self, message_class: type[Message], *, from_version: int) -> Callable[[U], U]:
        """Register the decorated function to make version ``from_version + 1`` of data of ``from_version``.

        It is given the ``data`` of a payload as it was parsed, and returns a dict, changed or new, which the next one
        takes over, and in the end the class validates. The class and its upcasters may be registered in any order: that
        there is one for every older version is looked at before the first payload is read, and by `check`.

        Raises:
            UpcasterError: If the class is not newer than that, or the version has an upcaster.
        """

        def decorate(function: U) -> U:
            self._add({}, {(message_class, from_version): describe(message_class, from_version, function)})
            return function

        return decorate

    def include(self, other: "Registry") -> None:
        """Take over what another registry holds now: all of it or, on a clash, nothing.

        Raises:
            DuplicateNameError, DuplicateHandlerError, UpcasterError: If the two do not go together.
        """
        theirs = other.snapshot
        self._add(theirs.handlers, theirs.upcasters)

    def _add(self, additions: Mapping[type[Message], tuple[Handler, ...]], upcasters: Upcasters) -> None:
        with self._lock:
            for (cls, version), upcaster in upcasters.items():
                if (cls, version) in self._upcasters:
                    what = f"register {upcaster} for version {version} of {full_name(cls)}"
                    why = f"that version has {self._upcasters[cls, version]}"
                    raise UpcasterError(what, why, "Remove one of the two.")
            changed = {cls: self._handlers.get(cls, ()) for cls in additions}
            new = [(cls, handler) for cls, several in additions.items() for handler in several]
            for cls, handler in sorted(new, key=lambda pair: pair[1].order):
                old = changed[cls]
                for one in old:
                    if issubclass(cls, Command) or one.function == handler.function:
                        raise DuplicateHandlerError(full_name(cls), str(one), str(handler))
                changed[cls] = type(old)((*old, replace(handler, order=next(self._order))))
            self._change(changed)
            self._upcasters.update(upcasters)

    @contextmanager
    def override(self, message_class: type[M], *handlers: Callable[[M], Any]) -> Iterator[None]:
        """Within the ``with`` block, let these handlers stand for all that the class has; for tests.

        Handlers of its bases that take subclasses are among those.
        """
        _check_class(message_class, has_handler=True, subclasses=False)
        fakes = Fakes(replace(_describe(handler), order=next(self._order)) for handler in handlers)
        with self._lock:
            before = self._handlers.get(message_class)
            self._change({message_class: fakes})
        try:
            yield
        finally:
            with self._lock:
                if before is None:
                    del self._handlers[message_class], self._names[wire_name(message_class)]
                self._change({} if before is None else {message_class: before})

    def _change(self, changed: Mapping[type[Message], tuple[Handler, ...]]) -> None:
        for cls in changed:
            holder = self._names.get(wire_name(cls), cls)
            if holder is not cls:
                raise DuplicateNameError(wire_name(cls), *(f"{full_name(c)} ({place_of(c)})" for c in (holder, cls)))
        self._names.update((wire_name(cls), cls) for cls in changed)
        self._handlers.update(changed)
        self.__dict__.pop("snapshot", None)

    def check(self) -> list[str]:
        """Return what is likely wrong with the whole, a sentence each: to be empty in an application's own tests."""
        snapshot = self.snapshot
        problems = [str(error) for error in find_gaps(snapshot.names.values(), snapshot.upcasters)]
        for cls, handlers in snapshot.handlers.items():
            if issubclass(cls, Command) and not handlers:
                problems.append(f"{full_name(cls)} is a command without handler.")
            if issubclass(cls, Event) and not snapshot[cls].handlers:
                problems.append(f"{full_name(cls)} is an event that nobody handles.")
            problems += [
                f"{full_name(cls)}.{field} is of a secret type: the message cannot be written as JSON. "
                "Use Annotated[str, Private]."
                for field in sorted(shape_of(cls).secret_fields)
            ]
        return problems

    # The door

    def validate(self, mapping: Mapping[str, Any]) -> Message:
        """Make a message of ``{"type": ..., "data": {...}}``, or of a CloudEvent, given as a mapping.

        Raises:
            InvalidMessageError: If it does not fit; the error holds no value of it.
        """
        return self.snapshot.door.read(mapping)[0]

    def validate_json(self, payload: bytes | str, *, max_bytes: int = MAX_BYTES) -> Message:
        """Make a message of JSON, as `validate` does. Only registered classes can come out.

        Raises:
            MessageTooLargeError: If the payload has more than ``max_bytes`` bytes; it is not parsed then.
            UnknownMessageError: If its type is not registered.
            InvalidMessageError: If it does not fit in any other way.
        """
        return self.snapshot.door.read_json(payload, max_bytes)[0]

    def read_json(self, payload: bytes | str, *, max_bytes: int = MAX_BYTES) -> tuple[Message, Envelope | None]:
        """Do as `validate_json`, and return the envelope too if the payload is a CloudEvent."""
        return self.snapshot.door.read_json(payload, max_bytes)


# Looking at callables and classes


def _check_class(cls: Any, *, has_handler: bool, subclasses: bool) -> None:
    what = f"register {full_name(cls) if isinstance(cls, type) else repr(type(cls).__name__)}"
    if not isinstance(cls, type) or not issubclass(cls, Command | Event | ReturnMessage):
        why, remedy = "it is no message class", "Derive it from Command, Event or ReturnMessage."
    elif has_handler and issubclass(cls, ReturnMessage):
        why, remedy = "a return message has no handler; it goes to whoever started the run", "Make it an Event."
    elif subclasses and not issubclass(cls, Event):
        why, remedy = "only events can be handled together with their subclasses", "Leave subclasses=True out."
    elif shape_of(cls).importing_fields:
        fields = ", ".join(sorted(shape_of(cls).importing_fields))
        why, remedy = f"a payload could have {fields} import any module", "Take a name, and look it up in a table."
    elif shape_of(cls).unwritable_fields:
        fields = ", ".join(sorted(shape_of(cls).unwritable_fields))
        why, remedy = f"the type of {fields} has no JSON form", "Use a type that has one, or give it a serializer."
    else:
        return
    raise MessageClassError(what, why, remedy)


def _describe(function: Callable[..., Any], *, subclasses: bool = False, blocking: bool = False) -> Handler:
    target: Any = function
    while isinstance(target, partial):
        target = target.func
    plain = target if inspect.isroutine(target) or inspect.isclass(target) else type(target).__call__
    owner = target if hasattr(target, "__qualname__") else type(target)
    handler = Handler(
        function=function,
        name=f"{owner.__module__}.{owner.__qualname__}",
        place=place_of(inspect.unwrap(plain)),
        is_async=inspect.iscoroutinefunction(plain) or inspect.isasyncgenfunction(plain),
        is_coroutine=inspect.iscoroutinefunction(plain),
        is_blocking=blocking,
        takes_subclasses=subclasses,
        order=0,
    )
    if not callable(function):
        raise HandlerError(f"use {handler} as a handler", "it cannot be called", "Register a function.")
    if blocking and handler.is_async:
        remedy = "Leave blocking=True out, or make it a plain function."
        raise HandlerError(f"use {handler} as a blocking handler", "it is async and runs on the event loop", remedy)
    try:
        # Of what is called, and not of what it wraps: a decorator may fill in the rest.
        inspect.signature(function, follow_wrapped=False).bind(None)
    except TypeError:
        why = "it does not take exactly one argument, and a handler is called with one message"
        remedy = "Write def handler(message): ...; bind what else it needs with functools.partial."
        raise HandlerError(f"use {handler} as a handler", why, remedy) from None
    except ValueError:
        pass  # A callable written in C that tells no signature; the first call will show.
    return handler


DEFAULT_REGISTRY = Registry()
handles = DEFAULT_REGISTRY.handles
upcasts = DEFAULT_REGISTRY.upcasts
