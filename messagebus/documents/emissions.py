"""What handlers emit, as far as their return annotations tell."""

import inspect
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from functools import partial
from types import NoneType, SimpleNamespace, UnionType
from typing import Annotated, Any, Final, Never, NoReturn, Union, get_args, get_origin, get_type_hints

from messagebus.errors import ConfigurationError, DuplicateNameError, full_name
from messagebus.messages import Command, Event, Message, ReturnMessage, wire_name
from messagebus.registry import Handler, Registry
from messagebus.shapes import shape_of

__all__ = ["Emission", "emission_of", "messages_of"]

_OPEN: Final = (Message, Command, Event, ReturnMessage)
_NOTHING: Final = (None, NoneType, Never, NoReturn)


@dataclass(frozen=True, slots=True)
class Emission:
    """What one handler emits."""

    classes: tuple[type[Message], ...] = ()
    """In the order in which the annotation names them, each once."""
    is_unknown: bool = False
    """There may be others: there is no annotation, it cannot be resolved, or it says ``Message`` or less."""


def emission_of(handler: Handler, message_class: type[Message]) -> Emission:
    """Return what the return annotation of a handler says that it emits, and the class of messages that it handles.

    ``None``, a message class, unions and iterables of these are understood, sync and async, also as strings; and the
    answer in ``class Quote(Command[Price])``.
    """
    classes: dict[type[Message], None] = {}
    is_unknown = not _collect(_annotation(handler.function), classes)
    if issubclass(message_class, Command) and message_class.__answer__ not in _OPEN:
        classes.setdefault(message_class.__answer__)
    return Emission((*classes,), is_unknown)


def messages_of(registry: Registry) -> dict[str, type[Message]]:
    """Return the message classes of an application by wire name: those registered, and those that its handlers emit.

    Raises:
        ConfigurationError: If there are none.
        DuplicateNameError: If two of them want one wire name.
    """
    names = dict(registry.snapshot.names)
    if not names:
        remedy = "Import what registers them; if the application has a registry of its own, write module:registry."
        raise ConfigurationError("describe the messages", "none is registered", remedy)
    for handled, handlers in registry.snapshot.handlers.items():
        for cls in [cls for handler in handlers for cls in emission_of(handler, handled).classes]:
            other = names.setdefault(wire_name(cls), cls)
            if other is not cls:
                raise DuplicateNameError(wire_name(cls), full_name(other), full_name(cls))
            shape_of(cls)  # Says so if an annotation of the class cannot be resolved.
    return dict(sorted(names.items()))


def _annotation(function: Callable[..., Any]) -> Any:
    """Return what a callable is annotated to return, resolved; ``Any`` if that is not known."""
    target: Any = function
    while isinstance(target, partial):
        target = target.func
    plain = inspect.unwrap(target if inspect.isroutine(target) or inspect.isclass(target) else type(target).__call__)
    plain = getattr(plain, "__func__", plain)
    try:
        stated = {"return": plain.__annotations__["return"]}
        # A class that was made in a function is no global; the function refers to it where it makes one.
        cells = zip(plain.__code__.co_freevars, plain.__closure__ or (), strict=True)
        names = {name: cell.cell_contents for name, cell in cells}
        return get_type_hints(SimpleNamespace(__annotations__=stated), plain.__globals__, names)["return"]
    except Exception:  # noqa: BLE001 - an annotation is code of the application
        return Any


def _collect(annotation: Any, classes: dict[type[Message], None]) -> bool:
    """Take down the message classes in an annotation; return whether these are all that it allows."""
    annotation = getattr(annotation, "__value__", annotation)  # Of a `type` statement.
    if annotation in _NOTHING:
        return True
    if isinstance(annotation, type) and issubclass(annotation, Message):
        if annotation in _OPEN:
            return False
        classes[annotation] = None
        return True
    parts = _parts(annotation)
    known = [_collect(part, classes) for part in parts]
    return bool(known) and all(known)


def _parts(annotation: Any) -> tuple[Any, ...]:
    """Return the annotations of what is emitted within one: the members of a union, the items of an iterable."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in {Union, UnionType}:
        return args
    if origin is tuple:
        return tuple(arg for arg in args if arg is not Ellipsis) or (None,)
    if origin is Annotated or not isinstance(origin, type) or not args:
        return args[:1] if origin is Annotated else ()
    if issubclass(origin, Coroutine):
        return args[-1:]
    return args[:1] if issubclass(origin, Iterable | AsyncIterable | Awaitable) else ()
