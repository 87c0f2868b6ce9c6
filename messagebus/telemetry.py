"""The hook for telemetry: who watches is told what is sent and received. Nobody does unless asked; see `otel`."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any, Literal, ParamSpec, Protocol, TypeVar, cast

__all__ = ["Known", "Operation", "Sent", "Watch", "sends", "within"]

P = ParamSpec("P")
R = TypeVar("R")

Operation = Literal["send", "publish"]
"""To a store, or to an engine."""
Sent = Callable[[str | Sequence[str]], None]
"""Takes the ids of what was sent."""


class Known(Protocol):
    """What is known of a message: an envelope, or the row of a store."""

    @property
    def id(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def correlation_id(self) -> str: ...
    @property
    def headers(self) -> Mapping[str, str]: ...


class Watch(Protocol):
    """Who watches. No method may raise, nor change what becomes of a message. Safe to use from any thread."""

    def headers(self) -> Mapping[str, str]:
        """Return the trace context that goes with a message that is sent here and now."""
        ...

    def within(self, headers: Mapping[str, str]) -> AbstractContextManager[object]:
        """Do as the function `within`."""
        ...

    def sending(self, operation: Operation, system: str | None, types: Sequence[str]) -> AbstractContextManager[Sent]:
        """Watch messages of these types being sent; ``system`` is the engine's name, None for a store."""
        ...

    def passing_on(self, message: Known, system: str) -> AbstractContextManager[object]:
        """Watch a message that leaves a store for an engine."""
        ...

    def refused(self, message: Known, system: str | None, error: Exception) -> None:
        """Take note of a message that was received and could not be read."""
        ...


current: Watch | None = None
"""Who watches this process."""


def within(headers: Mapping[str, str]) -> AbstractContextManager[object]:
    """Let what is run or sent in this block belong to the trace that the headers of a request tell of, in lower case.

    Nothing changes in a block that belongs to a trace already, of an instrumented server say.
    """
    watch = current
    return nullcontext() if watch is None else watch.within(headers)


def sends(operation: Operation, *, many: bool = False) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Have a method watched that sends a message, its first argument, and returns the id; or ``many``."""

    def decorate(send: Callable[..., Any]) -> Any:
        @wraps(send)
        def watched(owner: Any, *args: Any, **kwargs: Any) -> Any:
            watch = current
            if watch is None:
                return send(owner, *args, **kwargs)
            args, kwargs, types = _sorted_out(args, kwargs, many=many)
            with watch.sending(operation, _system(operation, owner), types) as sent:
                ids = send(owner, *args, **kwargs)
                sent(ids)
            return ids

        @wraps(send)
        async def awatched(owner: Any, *args: Any, **kwargs: Any) -> Any:
            watch = current
            if watch is None:
                return await send(owner, *args, **kwargs)
            args, kwargs, types = _sorted_out(args, kwargs, many=many)
            with watch.sending(operation, _system(operation, owner), types) as sent:
                ids = await send(owner, *args, **kwargs)
                sent(ids)
            return ids

        return awatched if iscoroutinefunction(send) else watched

    return cast("Callable[[Callable[P, R]], Callable[P, R]]", decorate)


def _sorted_out(
    args: tuple[Any, ...], kwargs: dict[str, Any], *, many: bool
) -> tuple[tuple[Any, ...], dict[str, Any], Sequence[str]]:
    """Return the arguments, the first of them as a list if it is an iterable, and the types of the messages in it."""
    name = "messages" if many else "message"
    if not args and name in kwargs:
        args, kwargs = (kwargs[name],), {key: value for key, value in kwargs.items() if key != name}
    if many and args:
        args = [*args[0]], *args[1:]
    messages = args[0] if many and args else args[:1]
    return args, kwargs, [getattr(type(message), "__wire_name__", "") for message in messages]


def _system(operation: Operation, owner: Any) -> str | None:
    return owner.name if operation == "publish" else None
