"""The registry: message class → handlers, wire name → message class; and the door, where payloads become messages."""

import inspect
import re
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import count
from os.path import relpath
from threading import RLock
from typing import Any, TypeVar, get_args

from pydantic import ValidationError
from pydantic_core import SchemaValidator, core_schema, from_json

from messagebus.envelope import CloudEvent, Envelope
from messagebus.errors import (
    DuplicateHandlerError,
    DuplicateNameError,
    HandlerError,
    InvalidMessageError,
    MessageClassError,
    MessageTooLargeError,
    NoHandlerError,
    NotAMessageError,
    UnknownMessageError,
    near_misses,
)
from messagebus.messages import Command, Event, Message, ReturnMessage, full_name, shape_of, wire_name

__all__ = ["DEFAULT_REGISTRY", "MAX_BYTES", "Handler", "Plan", "Registry", "Snapshot", "handles"]

MAX_BYTES = 1_048_576

Emitted = Message | Iterable[Message] | None
M = TypeVar("M", bound=Message)
R = TypeVar("R", bound=Emitted | Awaitable[Emitted] | AsyncIterable[Message])


@dataclass(frozen=True, slots=True, eq=False)
class Handler:
    """A callable registered for a message class."""

    function: Callable[[Any], Any]
    name: str
    """``module.QualName``, the same in every process."""
    place: str
    """``path/to/file.py:12``"""
    is_async: bool
    is_blocking: bool
    takes_subclasses: bool
    order: int

    def __str__(self) -> str:
        return f"{self.name} ({self.place})"


@dataclass(frozen=True, slots=True)
class Plan:
    """What the bus does with messages of one class."""

    handlers: tuple[Handler, ...]
    is_return: bool
    has_async: bool
    check: Callable[[Message], None] | None
    """Called before the handlers; raises if the message cannot be dispatched."""


class Snapshot(dict[type, Plan]):
    """A registry at one moment, which never changes; plans are worked out when a class is first met."""

    def __init__(
        self, handlers: Mapping[type[Message], tuple[Handler, ...]], names: Mapping[str, type[Message]], *, strict: bool
    ) -> None:
        super().__init__()
        self.handlers, self.names, self.strict = handlers, names, strict

    def __missing__(self, cls: type) -> Plan:
        if not issubclass(cls, Message):
            raise NotAMessageError(full_name(cls))
        found = [
            handler
            for base in cls.__mro__
            for handler in self.handlers.get(base, ())
            if base is cls or handler.takes_subclasses
        ]
        check = _revalidate if cls.model_config.get("revalidate_instances") == "always" else None
        if not found and (issubclass(cls, Command) or (self.strict and issubclass(cls, Event))):
            check = self._refuse
        plan = self[cls] = Plan(
            handlers=tuple(sorted(found, key=lambda handler: handler.order)),
            is_return=issubclass(cls, ReturnMessage),
            has_async=any(handler.is_async for handler in found),
            check=check,
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
    def door(self) -> SchemaValidator:
        """One validator for ``{"type": ..., "data": ...}``: it parses and picks the class in one pass."""
        attribute = core_schema.typed_dict_field(core_schema.any_schema())
        choices: dict[Any, core_schema.CoreSchema] = {}
        definitions: dict[str, core_schema.CoreSchema] = {}
        for name, cls in self.names.items():
            schema: Any = cls.__pydantic_core_schema__
            if schema["type"] == "definitions":
                definitions.update((inner["ref"], inner) for inner in schema["definitions"])
                schema = schema["schema"]
            data = core_schema.typed_dict_field(
                core_schema.with_default_schema(schema, default={}, validate_default=True)
            )
            choices[name] = core_schema.typed_dict_schema({"type": attribute, "data": data}, extra_behavior="allow")
        union = core_schema.tagged_union_schema(choices, "type")
        return SchemaValidator(core_schema.definitions_schema(union, list(definitions.values())))


def _revalidate(message: Message) -> None:
    try:
        type(message).__pydantic_validator__.validate_python(message)
    except ValidationError as error:
        raise _field_errors(error, full_name(type(message)), shape_of(type(message)).words, skip=0) from None


class Registry:
    """Message classes with their wire names and handlers. Safe to change from any thread; a run sees old or new.

    With ``strict=True`` an event without handler is an error too.
    """

    def __init__(self, *, strict: bool = False) -> None:
        self.strict = strict
        self._lock = RLock()
        self._order = count()
        self.snapshot = Snapshot({}, {}, strict=strict)

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
        self._add({message_class: new})

    def include(self, other: "Registry") -> None:
        """Take over what another registry holds now: all of it or, on a clash, nothing.

        Raises:
            DuplicateNameError, DuplicateHandlerError: If the two do not go together.
        """
        self._add(other.snapshot.handlers)

    def _add(self, additions: Mapping[type[Message], tuple[Handler, ...]]) -> None:
        with self._lock:
            handlers, names = dict(self.snapshot.handlers), dict(self.snapshot.names)
            for cls, new in additions.items():
                holder = names.setdefault(wire_name(cls), cls)
                if holder is not cls:
                    raise DuplicateNameError(wire_name(cls), *(f"{full_name(c)} ({_place(c)})" for c in (holder, cls)))
                for handler in new:
                    for old in handlers.get(cls, ()):
                        if issubclass(cls, Command) or old.function == handler.function:
                            raise DuplicateHandlerError(full_name(cls), str(old), str(handler))
                    handlers[cls] = (*handlers.get(cls, ()), replace(handler, order=next(self._order)))
                handlers.setdefault(cls, ())
            self.snapshot = Snapshot(handlers, names, strict=self.strict)

    @contextmanager
    def override(self, message_class: type[M], *handlers: Callable[[M], Any]) -> Iterator[None]:
        """Within the ``with`` block, let these handlers stand for all that the class has; for tests."""
        _check_class(message_class, has_handler=True, subclasses=False)
        fakes = tuple(replace(_describe(handler), order=next(self._order)) for handler in handlers)
        with self._lock:
            before = self.snapshot.handlers.get(message_class)
            self._replace(message_class, fakes)
        try:
            yield
        finally:
            with self._lock:
                self._replace(message_class, before)

    def _replace(self, cls: type[Message], handlers: tuple[Handler, ...] | None) -> None:
        changed, names = dict(self.snapshot.handlers), dict(self.snapshot.names)
        if handlers is None:
            del changed[cls], names[wire_name(cls)]
        else:
            changed[cls] = handlers
            names.setdefault(wire_name(cls), cls)
        self.snapshot = Snapshot(changed, names, strict=self.strict)

    def check(self) -> list[str]:
        """Return what is likely wrong with the whole, a sentence each: to be empty in an application's own tests."""
        problems = []
        for cls, handlers in self.snapshot.handlers.items():
            if issubclass(cls, Command) and not handlers:
                problems.append(f"{full_name(cls)} is a command without handler.")
            if issubclass(cls, Event) and not self.snapshot[cls].handlers:
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
        return self._read(self.snapshot.door.validate_python, dict(mapping))[0]

    def validate_json(self, payload: bytes | str, *, max_bytes: int = MAX_BYTES) -> Message:
        """Make a message of JSON, as `validate` does. Only registered classes can come out.

        Raises:
            MessageTooLargeError: If the payload has more than ``max_bytes`` bytes; it is not parsed then.
            UnknownMessageError: If its type is not registered.
            InvalidMessageError: If it does not fit in any other way.
        """
        return self.read_json(payload, max_bytes=max_bytes)[0]

    def read_json(self, payload: bytes | str, *, max_bytes: int = MAX_BYTES) -> tuple[Message, Envelope | None]:
        """Do as `validate_json`, and return the envelope too if the payload is a CloudEvent."""
        # Text is measured before it is copied: each character is at least a byte.
        data = (
            payload.encode(errors="surrogatepass")
            if isinstance(payload, str) and len(payload) <= max_bytes
            else payload
        )
        if len(data) > max_bytes or isinstance(data, str):
            raise MessageTooLargeError(len(data), max_bytes)
        if _NINETEEN in data.translate(_DIGITS):
            _refuse_long_integers(data)
        return self._read(self.snapshot.door.validate_json, data)

    def _read(self, validate: Callable[[Any], dict[str, Any]], payload: Any) -> tuple[Message, Envelope | None]:
        try:
            wire = validate(payload)
        except ValidationError as error:
            raise _refusal(error, self.snapshot.names) from None
        message: Message = wire["data"]
        if wire.keys() <= _TYPE_AND_DATA:
            return message, None
        attributes = {name: value for name, value in wire.items() if name not in _TYPE_AND_DATA}
        if "specversion" not in wire:
            why = f"it has {len(attributes):,} attributes beside type and data, and no specversion"
            raise InvalidMessageError("", (("", why),), hint=_WIRE_FORM)
        try:
            return message, CloudEvent.model_validate(attributes).envelope(message)
        except ValidationError as error:
            raise _field_errors(error, "a CloudEvent", frozenset(CloudEvent.model_fields), skip=0) from None


# What is wrong with a payload, without its values

# The shortest integer beyond 64 bits has nineteen digits.
_NINETEEN = b"0" * 19
_DIGITS = bytes.maketrans(b"123456789", b"000000000")
_SAFE_TYPE = re.compile(r"[A-Za-z0-9_.:/-]{1,80}")
_TYPE_AND_DATA = {"type", "data"}
_MAX_LISTED = 20
# Of more errors than these not even the first are listed: to build the list takes longer than to parse the payload.
_MAX_COUNTED = 200
_KNOWN_REASONS = frozenset(get_args(core_schema.ErrorType))
_WIRE_FORM = 'The wire form is {"type": ..., "data": {...}}, or a CloudEvent 1.0.'


def _refuse_long_integers(payload: bytes) -> None:
    """Raise if an integer in the payload needs more than 64 bits, wherever it stands."""
    todo = []
    with suppress(ValueError):  # What is no JSON is refused in a moment.
        todo.append(from_json(payload))
    while todo:
        value = todo.pop()
        if isinstance(value, dict | list):
            todo += value.values() if isinstance(value, dict) else value
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise InvalidMessageError("", (("", "it has an integer beyond 64 bits"),), hint="Send it as a string.")


def _refusal(error: ValidationError, names: Mapping[str, type[Message]]) -> InvalidMessageError:
    """Say what pydantic found in a payload, in paths and reasons that repeat nothing of it."""
    if error.error_count() > _MAX_COUNTED:
        return InvalidMessageError("", (("", f"it has {error.error_count():,} wrong or unknown fields and items"),))
    match error.errors(include_url=False, include_input=False)[0]:
        case {"type": "union_tag_invalid", "loc": (), "ctx": {"tag": str(tag)}}:
            shown = f"'{tag}'" if _SAFE_TYPE.fullmatch(tag) else f"of {len(tag):,} characters"
            return UnknownMessageError(shown, near_misses(tag[:100], names))
        case {"type": str(kind), "loc": (), "msg": str(why)}:
            why = {"union_tag_not_found": "it has no 'type'", "dict_type": "it is no JSON object"}.get(kind, why)
            return InvalidMessageError("", (("", why),), hint=_WIRE_FORM)
        case {"loc": (tag, *_)}:
            cls = names[str(tag)]
    return _field_errors(error, full_name(cls), shape_of(cls).words, skip=2)


def _field_errors(error: ValidationError, what: str, words: frozenset[str], skip: int) -> InvalidMessageError:
    errors = error.errors(include_url=False, include_input=False)
    problems = tuple(_problem(one, words, skip) for one in errors[:_MAX_LISTED])
    return InvalidMessageError(what, problems, len(errors))


def _problem(one: Mapping[str, Any], words: frozenset[str], skip: int) -> tuple[str, str]:
    *_, last = loc = one["loc"][skip:] or ("",)
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" if part in words else ".*" for part in loc)
    why = one["msg"]
    if one["type"] == "extra_forbidden":
        path, why = path.rpartition(".")[0], "it has a field that the class does not have"
        for near in near_misses(str(last), words, limit=1):
            why = f"it has no field '{last}'. Did you mean '{near}'?"
    elif one["type"] not in _KNOWN_REASONS:
        why = "Refused by a validator of the class"
    elif one["type"] == "union_tag_invalid":
        why = "Its tag is none of the expected ones"
    elif "error" in one.get("ctx", ()):  # The rest may quote the value.
        why = why.partition(",")[0]
    return path.removeprefix(".")[:80], why[:120]


# Looking at callables and classes


def _check_class(cls: Any, *, has_handler: bool, subclasses: bool) -> None:
    what = f"register {full_name(cls) if isinstance(cls, type) else repr(type(cls).__name__)}"
    if not isinstance(cls, type) or not issubclass(cls, Message):
        why, remedy = "it is no message class", "Derive it from Command, Event or ReturnMessage."
    elif has_handler and issubclass(cls, ReturnMessage):
        why, remedy = "a return message has no handler; it goes to whoever started the run", "Make it an Event."
    elif subclasses and not issubclass(cls, Event):
        why, remedy = "only events can be handled together with their subclasses", "Leave subclasses=True out."
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
        place=_place(inspect.unwrap(plain)),
        is_async=inspect.iscoroutinefunction(plain) or inspect.isasyncgenfunction(plain),
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
        inspect.signature(function).bind(None)
    except TypeError:
        why = "it does not take exactly one argument, and a handler is called with one message"
        remedy = "Write def handler(message): ...; bind what else it needs with functools.partial."
        raise HandlerError(f"use {handler} as a handler", why, remedy) from None
    except ValueError:
        pass  # A callable written in C that tells no signature; the first call will show.
    return handler


def _place(thing: Any) -> str:
    """Return ``path/to/file.py:12`` of a function or class, the path from here if it is below."""
    code = getattr(thing, "__code__", None)
    try:
        path, line = (code.co_filename, code.co_firstlineno) if code else (inspect.getfile(thing), 0)
        line = line or inspect.getsourcelines(thing)[1]
        shown = relpath(path)
    except (OSError, TypeError, ValueError):
        return "place unknown"
    return f"{path if shown.startswith('..') else shown}:{line}"


DEFAULT_REGISTRY = Registry()
handles = DEFAULT_REGISTRY.handles
