"""A message on its way into a store: what is checked, the envelope it gets, and the row it becomes."""

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from datetime import UTC, datetime
from math import isfinite
from typing import Any, Final

from pydantic_core import to_json as dump_json

from messagebus import telemetry
from messagebus.delivery.connection import Row, Statements
from messagebus.delivery.entries import Arrival, Sending
from messagebus.delivery.outcomes import clean
from messagebus.delivery.schema import ADD_KEYED, ADD_MESSAGES, ADD_PLAIN
from messagebus.envelope import CURRENT, Envelope, _random, traced
from messagebus.errors import (
    ConfigurationError,
    ConflictError,
    DispatchError,
    NotAMessageError,
    StoreBusyError,
    full_name,
)
from messagebus.messages import Command, Event, Message, ReturnMessage, prove

__all__ = ["add", "add_all", "due_at", "moment", "plain_row", "prepare", "row_of", "row_of_arrival"]

# The first and the last moment that a datetime in UTC can show.
_EARLIEST: Final = -62_135_596_800_000
_LATEST: Final = 253_402_300_799_000
_LONGEST_TEXT: Final = 2_000  # Bytes that the indexes of every engine take.


def moment(milliseconds: float) -> datetime:
    """Return a time of the store as an aware datetime; of one that is damaged the nearest that can be shown."""
    return datetime.fromtimestamp(min(max(milliseconds, _EARLIEST), _LATEST) / 1000, UTC)


def due_at(now: int, delay: float, at: datetime | None) -> int:
    """Return when something is due, in milliseconds since the epoch.

    Raises:
        ConfigurationError: If both are given, or one is none that a store can keep.
    """
    if at is None:
        if delay == 0:
            return now
        if isfinite(delay) and delay > 0 and now + delay * 1000 <= _LATEST:
            return now + round(delay * 1000)
        why, remedy = "its delay is no number of seconds from 0 up", "Give seconds, or at=."
    elif delay:
        why, remedy = "both delay and at are given", "Give one of them."
    elif at.tzinfo is None:
        why, remedy = "at is a datetime without a time zone", "Make it aware: datetime.now(UTC) + ..."
    else:
        return round(at.timestamp() * 1000)
    raise ConfigurationError("say when a message is due", why, remedy)


def plain_row(message: Message, now: int, due: int, key: str | None = None, dedup: str | None = None) -> Row:
    """Return what `ADD_MESSAGES` writes of a message with no envelope of its own: that of the one in hand goes on.

    Raises:
        UnwritableMessageError: If the message could not be read back the same.
        ConfigurationError: If a key is none that a store can keep.
    """
    body = _written(message)
    if key is not None:
        _check_text("key", key)
    if dedup is not None:
        _check_text("dedup key", dedup)
    current = CURRENT.get()
    correlation, cause = (None, None) if current is None else (current.correlation_id, current.id)
    headers = _EVENT if Event in type(message).__mro__ else "{}"
    if current is not None or telemetry.current is not None:
        headers = _written_headers(_carried(current), is_event=headers is _EVENT)
    return (_new_id(now), type(message).__wire_name__, body, headers, key, dedup, correlation, cause, now, due)


_EVENT: Final = '{"is_event":true}'
"""Stored with the headers, as a name that no attribute of a CloudEvent has."""


def _new_id(now: int) -> str:
    """Return an id that sorts by time, so that an index of ids grows at its end; otherwise as random as any."""
    return f"{now:012x}{_random.getrandbits(80):020x}"


def prepare(
    message: Message,
    *,
    delay: float = 0.0,
    at: datetime | None = None,
    key: str | None = None,
    dedup: str | None = None,
    envelope: Envelope | None = None,
) -> Sending:
    """Prove that a message can be stored and read back (law D1), and give it an envelope, by default that in hand.

    Raises:
        UnwritableMessageError: If it could not be read back the same.
        ConfigurationError: If an argument is none that a store can keep.
    """
    body = _written(message)
    if delay or at is not None:
        due_at(0, delay, at)
    for name, text in (("key", key), ("dedup key", dedup)):
        if text is not None:
            _check_text(name, text)
    if envelope is None:
        current = CURRENT.get()
        envelope = Envelope(message, headers=_carried(current))
        if current is not None:
            envelope.cause = current.identify()
            envelope.correlation = current.correlation or envelope.cause
    else:
        for name, text in _texts(envelope):
            _check_text(name, text)
        watch = telemetry.current
        if watch is not None and "traceparent" not in envelope.headers:
            envelope = _joined(envelope, watch.headers())
    return Sending(envelope, body, delay, at, key, dedup)


_NO_HEADERS: Final[Mapping[str, str]] = {}


def _carried(current: Envelope | None) -> Mapping[str, str]:
    """Return the trace context of a message that is sent here and now: if nobody watches, that of the one in hand."""
    watch = telemetry.current
    headers = _NO_HEADERS if watch is None else watch.headers()
    return headers if headers or current is None or not current.headers else traced(current.headers)


def _joined(envelope: Envelope, headers: Mapping[str, str]) -> Envelope:
    """Return the envelope with these headers too; the one that was given may be used for other messages."""
    joined = copy(envelope)
    joined.headers = {**envelope.headers, **headers}
    return joined


def _written(message: Message) -> bytes:
    cls = type(message)
    if Command not in cls.__mro__ and Event not in cls.__mro__:
        _refuse(cls)
    return prove(message)


def _refuse(cls: type) -> None:
    if not issubclass(cls, ReturnMessage):
        raise NotAMessageError(full_name(cls))
    why = "a return message has no handler; it goes to whoever started the run"
    raise DispatchError(f"send {full_name(cls)}", why, "Send a command or an event.")


def _texts(envelope: Envelope) -> Iterable[tuple[str, str]]:
    yield "id", envelope.id
    yield "correlation id", envelope.correlation_id
    if envelope.cause:
        yield "causation id", envelope.cause.id


def _check_text(name: str, text: str) -> None:
    if not isinstance(text, str):
        why = "is no text"
    elif len(text.encode(errors="replace")) > _LONGEST_TEXT:
        why = f"has more than {_LONGEST_TEXT:,} bytes"
    elif clean(text) != text:
        why = "has a character that not every engine takes"
    else:
        return
    raise ConfigurationError("send a message", f"its {name} {why}", f"Give a {name} that is a short plain text.")


def row_of(sending: Sending, now: int) -> Row:
    """Return what `ADD_MESSAGES` writes."""
    envelope = sending.envelope
    identity = envelope.identify()
    if identity._id is None:
        identity._id = _new_id(now)
    time, correlation, cause = envelope._time, envelope.correlation, envelope.cause
    return (
        identity._id,
        envelope.type,
        sending.body,
        _written_headers(envelope.headers, is_event=isinstance(envelope.message, Event)),
        sending.key,
        sending.dedup,
        correlation and correlation.id,
        cause and cause.id,
        now if time is None else _sent_at(time.timestamp()),
        due_at(now, sending.delay, sending.at) if sending.delay or sending.at else now,
    )


def _sent_at(seconds: float) -> int:
    """Return in milliseconds what whoever sent a message chose, so that it can be shown."""
    return min(max(round(seconds * 1000), _EARLIEST), _LATEST)


def _written_headers(headers: Mapping[str, str], *, is_event: bool) -> str:
    if not headers:
        return _EVENT if is_event else "{}"
    return dump_json({**headers, "is_event": True} if is_event else dict(headers)).decode()


def row_of_arrival(arrival: Arrival, now: int) -> Row:
    """Return what `ADD_MESSAGES` writes of a message that an engine has brought."""
    return (
        arrival.id,
        arrival.type,
        arrival.body,
        dump_json(arrival.headers).decode() if arrival.headers else "{}",
        arrival.key,
        None,
        arrival.correlation_id,
        arrival.causation_id,
        now if arrival.sent_at is None else _sent_at(arrival.sent_at),
        now,
    )


def add(connection: Statements, rows: Sequence[Row]) -> list[str | ConflictError]:
    """Write messages; return for each its id, that of the one whose duplicate it is, or why it cannot be stored."""
    if not [row for row in rows if row[3:8] != _NOTHING]:
        count = connection.many(ADD_PLAIN, [row[:3] + row[8:] for row in rows])
    else:
        is_keyed = any(row[4] is not None for row in rows)
        count = connection.many(ADD_KEYED if is_keyed else ADD_MESSAGES, rows)
    if count == len(rows):
        return [row[0] for row in rows]
    names = connection.array([row[0] for row in rows])
    by_id: dict[str, bytes] = dict(connection.rows(_BY_ID, {"names": names}))
    names = connection.array([row[5] for row in rows if row[5] is not None])
    by_dedup = {dedup: (id, body) for dedup, id, body in connection.rows(_BY_DEDUP, {"names": names})}
    return [_verdict(row, by_id, by_dedup) for row in rows]


def add_all(connection: Statements, rows: Sequence[Row]) -> list[str]:
    """Write messages, or raise the first of their errors."""
    stored: list[Any] = add(connection, rows)
    for id_or_error in stored:
        if isinstance(id_or_error, ConflictError):
            raise id_or_error
    return stored


_NOTHING: Final = ("{}", None, None, None, None)
_BY_ID: Final = "SELECT id, body FROM mb_message WHERE id IN [names]"
_BY_DEDUP: Final = "SELECT dedup, id, body FROM mb_message WHERE dedup IN [names]"


def _verdict(row: Row, by_id: dict[str, bytes], by_dedup: dict[str, tuple[str, bytes]]) -> str | ConflictError:
    id, type, body, _, _, dedup, *_ = row
    stored, given, value = by_id.get(id), "id", id
    if stored is None:
        id, stored = by_dedup.get(dedup, (id, None))
        given, value = "dedup key", dedup
    if stored is None:
        raise StoreBusyError("send a message", "what it is a duplicate of went away at that moment")
    return id if bytes(stored) == body else ConflictError(type, given, value)
