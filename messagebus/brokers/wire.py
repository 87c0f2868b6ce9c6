"""The wire: messages as CloudEvents 1.0 in structured JSON mode, and whatever an engine may bring instead."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal
from uuid import uuid4

from pydantic_core import from_json
from pydantic_core import to_json as dump_json

from messagebus.delivery.entries import Arrival, Sending, Stored
from messagebus.delivery.outcomes import clean
from messagebus.errors import UnwritableMessageError

__all__ = ["CONTENT_TYPE", "Kind", "Parcel", "arrival", "parcel_of", "parcel_of_sending"]

CONTENT_TYPE: Final = "application/cloudevents+json"
Kind = Literal["command", "event"]
"""Of a command there is one receiver, of an event each group that has subscribed."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """A message as an engine gets it."""

    id: str
    type: str
    kind: Kind
    key: str | None
    body: bytes


# Writing

_ATTRIBUTE: Final = re.compile("[a-z0-9]{1,64}")
_OWN: Final = frozenset({
    "specversion", "id", "source", "time", "type", "data", "data_base64", "datacontenttype", "correlationid",
    "causationid", "partitionkey", "dataversion",
})  # fmt: skip


def parcel_of(stored: Stored, source: str) -> Parcel:
    """Write a message of a store.

    Raises:
        UnwritableMessageError: If a header of it is no attribute of a CloudEvent.
    """
    attributes: dict[str, Any] = {
        "specversion": "1.0",
        "id": stored.id,
        "source": source,
        "time": datetime.fromtimestamp(stored.sent_at, UTC),
        "datacontenttype": "application/json",
        "correlationid": stored.correlation_id,
    }
    if stored.causation_id is not None:
        attributes["causationid"] = stored.causation_id
    if stored.key is not None:
        attributes["partitionkey"] = stored.key
    for name, value in stored.headers.items():
        if name in _OWN:
            continue
        if _ATTRIBUTE.fullmatch(name) is None:
            raise UnwritableMessageError(stored.type, "", "has a header that is no attribute of a CloudEvent")
        attributes[name] = value
    body = b"%b,%b" % (dump_json(attributes)[:-1], stored.body[1:])
    return Parcel(stored.id, stored.type, "event" if stored.is_event else "command", stored.key, body)


def parcel_of_sending(sending: Sending, source: str, *, is_event: bool) -> Parcel:
    """Write a message that is sent without a store."""
    envelope = sending.envelope
    stored = Stored(
        0, envelope.id, envelope.type, sending.body, sending.key, envelope.correlation_id, envelope.causation_id,
        envelope.time.timestamp(), envelope.headers, 1, {}, is_event,
    )  # fmt: skip
    return parcel_of(stored, source)


# Reading

_PREFIX: Final = re.compile("(?i)ce[-_]|cloudevents[:_]")
"""Of headers in binary mode: on NATS and HTTP, on Kafka, on AMQP."""
_NO_HEADERS: Final = frozenset({
    "specversion", "id", "type", "time", "data", "data_base64", "datacontenttype", "correlationid", "causationid",
    "dataversion",
})  # fmt: skip
_WIRE_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.:/-]{0,199}")
_UNIQUE: Final = re.compile("(?i)[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""An id that is unique whoever made it. Others are so only together with their source, says the standard."""
_LONGEST: Final = 2_000


def arrival(body: bytes, headers: Mapping[str, Any], *, place: str, position: str, receipt: Any) -> Arrival:
    """Return what an engine has brought; never raises.

    Args:
        body: the payload.
        headers: those of the engine's protocol, which hold the attributes in binary mode.
        place: from where on the engine it comes.
        position: the same if the engine brings the same again; empty if it says nothing of that.
        receipt: by which it is acknowledged.
    """
    try:
        event = _structured(body, headers)
        attributes = from_json(event)
        return _readable(event, attributes, receipt)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        shown = {clean(str(name)): clean(str(value))[:_LONGEST] for name, value in headers.items()}
        id = f"{place}:{position or uuid4().hex}"[-_LONGEST // 4 :]
        return Arrival(id, _type_of(body), body, headers={**shown, "source": place}, receipt=receipt)


def _structured(body: bytes, headers: Mapping[str, Any]) -> bytes:
    """Return an event in structured mode: as it is, or put together from binary mode."""
    attributes = {}
    for name, value in headers.items():
        prefix = _PREFIX.match(name)
        if prefix is not None:
            attributes[name[prefix.end() :].lower()] = _text(value)
    if "specversion" not in attributes:
        return body
    for name, value in headers.items():
        if name.lower() in {"content-type", "content_type"}:
            attributes["datacontenttype"] = _text(value)
    written = dump_json(attributes)
    if not body:
        return written
    from_json(body)  # What follows a value in it could stand for other attributes.
    return b'%b,"data":%b}' % (written[:-1], body)


def _readable(event: bytes, attributes: dict[str, Any], receipt: Any) -> Arrival:
    id, source = _text(attributes["id"]), _text(attributes["source"])
    key, time = attributes.get("partitionkey"), attributes.get("time")
    correlation, cause = attributes.get("correlationid"), attributes.get("causationid")
    return Arrival(
        id if _UNIQUE.fullmatch(id) else _text(f"{source}#{id}"),
        _wire_name(attributes.get("type")),
        event,
        None if key is None else _text(key),
        None if correlation is None else _text(correlation),
        None if cause is None else _text(cause),
        None if time is None else datetime.fromisoformat(time).timestamp(),
        {name: _as_text(value) for name, value in attributes.items() if name not in _NO_HEADERS and value is not None},
        receipt,
    )


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        value = value.decode()
    if not isinstance(value, str) or not value or clean(value) != value or len(value.encode()) > _LONGEST:
        raise ValueError("no text that a store takes")
    return value


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str | int):
        raise TypeError("no value of an attribute")
    return str(value)


def _type_of(body: bytes) -> str:
    """Return the type that the bytes name, for a listing; empty if they do not."""
    try:
        return _wire_name(from_json(body)["type"])
    except (ValueError, TypeError, KeyError, IndexError, RecursionError):
        return ""


def _wire_name(value: Any) -> str:
    return value if isinstance(value, str) and _WIRE_NAME.fullmatch(value) else ""
