"""A message on its way into a store: what is checked, the envelope it gets, and the row it becomes."""

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from math import isfinite
from typing import Any, Final

from pydantic_core import to_json as dump_json

from messagebus.delivery.connection import Connection, Row
from messagebus.delivery.outcomes import clean
from messagebus.delivery.schema import ADD_MESSAGES
from messagebus.delivery.store import Sending
from messagebus.envelope import CURRENT, Envelope
from messagebus.errors import ConfigurationError, ConflictError, DispatchError, NotAMessageError, full_name
from messagebus.messages import Command, Event, Message, ReturnMessage, to_json
from messagebus.messages import _prove as prove
from messagebus.shapes import shape_of

__all__ = ["add", "add_all", "continue_envelope", "due_at", "moment", "prepare"]

_LATEST: Final = 253_402_300_799_000  # The last moment that a datetime can show.
_LONGEST_TEXT: Final = 2_000  # Bytes that the indexes of every engine take.


def moment(milliseconds: int) -> datetime:
    """Return a time of the store as an aware datetime."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


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


def continue_envelope(message: Message) -> Envelope:
    """Return an envelope for a message that is led to by the one in hand, or by none."""
    current = CURRENT.get()
    if current is None:
        return Envelope(message)
    return Envelope(message, correlation_id=current.correlation_id, causation_id=current.id)


def prepare(
    message: Message,
    *,
    delay: float = 0.0,
    at: datetime | None = None,
    key: str | None = None,
    dedup: str | None = None,
    envelope: Envelope | None = None,
) -> Sending:
    """Prove that a message can be stored and read back (law D1), and give it an envelope.

    Raises:
        UnwritableMessageError: If it could not be read back the same.
        ConfigurationError: If an argument is none that a store can keep.
    """
    if not isinstance(message, Command | Event):
        if not isinstance(message, ReturnMessage):
            raise NotAMessageError(full_name(type(message)))
        why = "a return message has no handler; it goes to whoever started the run"
        raise DispatchError(f"send {full_name(type(message))}", why, "Send a command or an event.")
    if delay or at is not None:
        due_at(0, delay, at)
    if envelope is None:
        envelope = continue_envelope(message)
    else:
        _check_text("id", envelope.id)
        _check_text("correlation id", envelope.correlation_id)
        _check_text("causation id", envelope.causation_id)
    if key is not None:
        _check_text("key", key)
    if dedup is not None:
        _check_text("dedup key", dedup)
    return Sending(envelope, _written(message), delay, at, key, dedup)


def _written(message: Message) -> bytes:
    """Write a message, and read it back even if its types prove that this goes well: it may have escaped validation."""
    body = to_json(message)
    cls = type(message)
    if shape_of(cls).is_exact:
        with suppress(Exception):  # An `__eq__` may be the user's; what is wrong is told below.
            if cls.__pydantic_validator__.validate_json(body[body.index(b',"data":') + 8 : -1]) == message:
                return body
        prove(message)
    return body


def _check_text(name: str, text: str | None) -> None:
    if text is None:
        return
    if not isinstance(text, str):
        why = "is no text"
    elif len(text.encode(errors="replace")) > _LONGEST_TEXT:
        why = f"has more than {_LONGEST_TEXT:,} bytes"
    elif clean(text) != text:
        why = "has a character that not every engine takes"
    else:
        return
    raise ConfigurationError("send a message", f"its {name} {why}", f"Give a {name} that is a short plain text.")


def _row(sending: Sending, now: int) -> Row:
    envelope = sending.envelope
    time = envelope._time
    correlation, cause = envelope.correlation, envelope.cause
    return (
        envelope.id,
        envelope.type,
        sending.body,
        dump_json(dict(envelope.headers)).decode() if envelope.headers else "{}",
        sending.key,
        sending.dedup,
        correlation and correlation.id,
        cause and cause.id,
        now if time is None else round(time.timestamp() * 1000),
        due_at(now, sending.delay, sending.at) if sending.delay or sending.at else now,
    )


def add(connection: Connection, sendings: Sequence[Sending], now: int) -> list[str | ConflictError]:
    """Write messages; return for each its id, that of the one whose duplicate it is, or why it cannot be stored."""
    rows = [_row(sending, now) for sending in sendings]
    if connection.many(ADD_MESSAGES, rows) == len(rows):
        return [row[0] for row in rows]
    return _look_up(connection, sendings)


def add_all(connection: Connection, sendings: Sequence[Sending], now: int) -> list[str]:
    """Write messages, or raise the first of their errors."""
    stored: list[Any] = add(connection, sendings, now)
    for id_or_error in stored:
        if isinstance(id_or_error, ConflictError):
            raise id_or_error
    return stored


def _look_up(connection: Connection, sendings: Sequence[Sending]) -> list[str | ConflictError]:
    """Find out which of these messages were stored now, and what stands in the way of the others."""
    names = connection.list([sending.envelope.id for sending in sendings])
    by_id: dict[str, bytes] = dict(connection.rows("SELECT id, body FROM mb_message WHERE id IN [names]", {"names": names}))
    names = connection.list([sending.dedup for sending in sendings if sending.dedup is not None])
    found = connection.rows("SELECT dedup, id, body FROM mb_message WHERE dedup IN [names]", {"names": names})
    by_dedup = {dedup: (id, body) for dedup, id, body in found}
    return [_verdict(sending, by_id, by_dedup) for sending in sendings]


def _verdict(sending: Sending, by_id: dict[str, bytes], by_dedup: dict[str, tuple[str, bytes]]) -> str | ConflictError:
    envelope = sending.envelope
    id, body, given, value = envelope.id, by_id.get(envelope.id), "id", envelope.id
    if body is None and sending.dedup is not None:
        id, body = by_dedup[sending.dedup]
        given, value = "dedup key", sending.dedup
    if body is None or bytes(body) == sending.body:
        return id
    return ConflictError(full_name(type(envelope.message)), given, value)
