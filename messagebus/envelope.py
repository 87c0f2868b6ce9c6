"""What travels with a message and is no part of it: ids, time, headers; and CloudEvents, the envelope on the wire."""

import os
import random
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from threading import Lock
from typing import Annotated, Any, Final, Literal

from pydantic import AwareDatetime, BaseModel, BeforeValidator, Field, StringConstraints, ValidationError
from pydantic_core import PydanticSerializationError
from pydantic_core import to_json as dump_json

from messagebus.errors import DispatchError, UnwritableMessageError, full_name
from messagebus.messages import Message, to_json, wire_name
from messagebus.shapes import VERSION

__all__ = ["Envelope", "Identity", "current_envelope", "new_id", "traced"]

# Ids have to be unique, not secret. With a generator of our own an application that seeds `random` repeats none.
_random = random.Random()  # noqa: S311
# Threads of one handler may all be the first to read what is made when it is first read, and have to read the same.
_making = Lock()


def _start_anew() -> None:
    global _making  # noqa: PLW0603 - a thread that is not in the child may hold it for ever
    _making = Lock()
    _random.seed()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)


def new_id() -> str:
    """Return 128 random bits as 32 hexadecimal digits."""
    return f"{_random.getrandbits(128):032x}"


class Identity:
    """Who a message is to those that refer to it; the id is made when it is first read."""

    __slots__ = ("_id", "message_class")

    def __init__(self, message_class: type[Message], id: str | None = None) -> None:
        self.message_class = message_class
        self._id = id

    @property
    def id(self) -> str:
        """The id of the message."""
        if self._id is None:
            with _making:
                self._id = self._id or new_id()
        return self._id


class Envelope:
    """A message with what is known of its journey; whatever is not given is made when it is first read.

    Args:
        message: the message itself.
        id: unique for this message.
        correlation_id: the same for everything that one message led to, across runs; by default the id.
        causation_id: the id of the message whose handler emitted this one.
        time: when the message was sent; aware.
        attempt: counts from 1.
        headers: the other attributes of a CloudEvent, such as ``source`` and ``traceparent``.

    Source: Hohpe & Woolf, *Enterprise Integration Patterns*, "Correlation Identifier"; CloudEvents 1.0.
    """

    __slots__ = ("_time", "attempt", "cause", "correlation", "headers", "identity", "message")

    def __init__(
        self,
        message: Message,
        *,
        id: str | None = None,
        correlation_id: str | None = None,
        causation_id: str | None = None,
        time: datetime | None = None,
        attempt: int = 1,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.message = message
        self.attempt = attempt
        self.headers = headers or {}
        self.identity: Identity | None = Identity(type(message), id)
        self.correlation = Identity(Message, correlation_id) if correlation_id else None
        self.cause = Identity(Message, causation_id) if causation_id else None
        self._time = time

    def identify(self) -> Identity:
        """Return who the message is, to those that refer to it."""
        if self.identity is None:
            with _making:
                self.identity = self.identity or Identity(type(self.message))
        return self.identity

    @property
    def type(self) -> str:
        """The wire name of the message."""
        return wire_name(type(self.message))

    @property
    def id(self) -> str:
        return self.identify().id

    @property
    def correlation_id(self) -> str:
        return (self.correlation or self.identify()).id

    @property
    def causation_id(self) -> str | None:
        return self.cause.id if self.cause else None

    @property
    def time(self) -> datetime:
        if self._time is None:
            with _making:
                self._time = self._time or datetime.now(UTC)
        return self._time

    def to_cloudevent(self, source: str) -> bytes:
        """Write the envelope as a CloudEvent in structured JSON mode; ``source``, a URI, names the sender.

        Raises:
            UnwritableMessageError: If the message would not read back the same, or an attribute is none of CloudEvents.
        """
        attributes = {
            **{name: value for name, value in self.headers.items() if name not in _RESERVED},
            "specversion": "1.0",
            "id": self.id,
            "source": source,
            "time": self.time,
            "datacontenttype": "application/json",
            "correlationid": self.correlation_id,
        }
        if self.causation_id is not None:
            attributes["causationid"] = self.causation_id
        try:
            CloudEvent.model_validate({**attributes, "time": self.time.isoformat()})
            written = dump_json(attributes)
        except (ValidationError, PydanticSerializationError):
            why = "has an envelope with attributes that are none of a CloudEvent"
            raise UnwritableMessageError(full_name(type(self.message)), "", why) from None
        return written[:-1] + b"," + to_json(self.message)[1:]


_TRACING: Final = ("traceparent", "tracestate")


def traced(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Return what a follow-up takes over: other attributes, such as the source, tell of the one message alone."""
    return {name: headers[name] for name in _TRACING if name in headers}


CURRENT: Final[ContextVar[Envelope | None]] = ContextVar("messagebus", default=None)


def current_envelope() -> Envelope:
    """Return the envelope of the message being handled, also in tasks and threads that copied the handler's context.

    Raises:
        DispatchError: If no message is being handled.
    """
    envelope = CURRENT.get()
    if envelope is None:
        remedy = "Call it in a handler, or in what a handler calls."
        raise DispatchError("call current_envelope()", "no message is being handled here", remedy)
    return envelope


_RESERVED = frozenset({"type", "data", VERSION})
_Id = Annotated[str, StringConstraints(min_length=1, max_length=1024)]


def _only_text(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError("no text")  # noqa: TRY004 - pydantic takes it for a failed validation
    return value


class CloudEvent(BaseModel, extra="allow", hide_input_in_errors=True, defer_build=True):
    """The attributes of a CloudEvent that comes in, beside type and data; names and types are the standard's."""

    __pydantic_extra__: dict[Annotated[str, StringConstraints(pattern="^[a-z0-9]{1,64}$")], str | bool | int | None]
    specversion: Literal["1.0"]
    id: _Id
    source: _Id
    time: Annotated[AwareDatetime, BeforeValidator(_only_text)] | None = None
    datacontenttype: Annotated[str, Field(pattern="(?i)^[a-z]+/([a-z0-9.+-]+[+])?json *(;.*)?$")] | None = None
    correlationid: _Id | None = None
    causationid: _Id | None = None

    def envelope(self, message: Message) -> Envelope:
        """Return the envelope of the message that came with these attributes."""
        extra: Mapping[str, Any] = self.__pydantic_extra__
        return Envelope(
            message,
            id=self.id,
            correlation_id=self.correlationid,
            causation_id=self.causationid,
            time=self.time,
            headers={
                "source": self.source,
                **{name: _as_text(value) for name, value in extra.items() if value is not None},
            },
        )


def _as_text(value: str | bool | int) -> str:  # noqa: FBT001 - a value, not an option
    return str(value).lower() if isinstance(value, bool) else str(value)
