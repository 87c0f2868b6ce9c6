"""Versions of messages: upcasters, which bring what was written for an older version of a class up to this one."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

from messagebus.errors import InvalidMessageError, MessageClassError, UpcasterError, full_name, place_of
from messagebus.messages import Message
from messagebus.shapes import VERSION

__all__ = ["Upcaster", "Upcasters", "describe", "find_gaps", "refuse_gaps", "upcast", "version_in"]

_HIGHEST: Final = 2**31 - 1  # The largest integer of CloudEvents.


class Upcaster(NamedTuple):
    """A function that makes the data of one version of that of the version before."""

    function: Callable[[dict[str, Any]], dict[str, Any]]
    name: str
    place: str
    """``path/to/file.py:12``"""

    def __str__(self) -> str:
        return f"{self.name} ({self.place})"


Upcasters = Mapping[tuple[type[Message], int], Upcaster]
"""The upcasters of a registry, by class and by the version that they take."""


def describe(cls: type[Message], from_version: int, function: Callable[..., Any]) -> Upcaster:
    """Return a callable as an upcaster.

    Raises:
        MessageClassError: If the class is no message class.
        UpcasterError: If the callable can be none of it.
    """
    if not isinstance(cls, type) or not issubclass(cls, Message):
        what = f"register an upcaster for {full_name(cls) if isinstance(cls, type) else repr(type(cls).__name__)}"
        raise MessageClassError(what, "it is no message class", "Derive it from Command, Event or ReturnMessage.")
    owner: Any = function if hasattr(function, "__qualname__") else type(function)
    upcaster = Upcaster(function, full_name(owner), place_of(inspect.unwrap(function)))
    version = cls.__version__
    if type(from_version) is not int or not 0 < from_version < version:
        why = f"{_placed(cls)} is version {version}"
        remedy = "An upcaster takes a lower version than that of its class: raise version=, or mend from_version=."
    elif not callable(function) or inspect.iscoroutinefunction(function):
        why, remedy = "it cannot be called, or is async", "Write a plain function from dict to dict."
    else:
        return upcaster
    raise UpcasterError(f"register {upcaster} for version {from_version} of {full_name(cls)}", why, remedy)


def _placed(cls: type) -> str:
    return f"{full_name(cls)} ({place_of(cls)})"


def find_gaps(classes: Iterable[type[Message]], upcasters: Upcasters) -> Iterable[UpcasterError]:
    """Yield an error for each class of which some older version could not be read."""
    for cls in classes:
        missing = [version for version in range(1, cls.__version__) if (cls, version) not in upcasters]
        if missing:
            others = [str(upcasters[cls, n]) for n in range(1, cls.__version__) if n not in missing]
            beside = f", beside {' and '.join(others[:3])}" if others else ""
            why = f"it is version {cls.__version__}, and no upcaster takes version {missing[0]}{beside}"
            remedy = (
                f"Write @upcasts({cls.__name__}, from_version={missing[0]}). "
                "If its module is not imported yet, import it first."
            )
            yield UpcasterError(f"read older versions of {_placed(cls)}", why, remedy)


def refuse_gaps(classes: Iterable[type[Message]], upcasters: Upcasters) -> None:
    """Refuse classes of which some older version could not be read.

    Raises:
        UpcasterError: If there is one.
    """
    for error in find_gaps(classes, upcasters):
        raise error


def version_in(wire: Mapping[str, Any], cls: type[Message]) -> int:
    """Return the version that a payload names; a header of HTTP, or of an engine, says it in text.

    Raises:
        InvalidMessageError: If it is none.
    """
    version = wire.get(VERSION, 1)
    if isinstance(version, str) and version.isascii() and version.isdecimal() and len(version) <= len(str(_HIGHEST)):
        version = int(version)
    if type(version) is not int or not 0 < version <= _HIGHEST:
        raise InvalidMessageError(full_name(cls), ((VERSION, "It is no whole number from 1 up"),))
    return version


def upcast(cls: type[Message], version: int, data: Any, upcasters: Upcasters) -> dict[str, Any]:
    """Bring data of an older version up to that of the class; what comes out is still to be validated.

    Raises:
        InvalidMessageError: If an upcaster is not prepared for such data.
    """
    if not isinstance(data, dict):
        raise InvalidMessageError(full_name(cls), (("data", "Input should be an object"),))
    for number in range(version, cls.__version__):
        upcaster, why = upcasters[cls, number], ""
        try:
            data = upcaster.function(data)
        except Exception as error:  # noqa: BLE001 - whatever the user's function raises; its text may hold values
            why = f"raised {full_name(type(error))}"
        if not why and not isinstance(data, dict):
            why = f"returned an object of type {full_name(type(data))}, and no dict"
        if why:
            raise InvalidMessageError(full_name(cls), (("", f"{upcaster}, which takes version {number}, {why}"),))
    return dict(data)
