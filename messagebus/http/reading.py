"""Reading requests: a body within its limit, in one of the forms of a message, through the door."""

import json
import re
from collections.abc import Mapping, MutableMapping
from typing import Any, Final
from urllib.parse import unquote

from pydantic_core import from_json
from pydantic_core import to_json as dump_json
from starlette.requests import Request

from messagebus.envelope import Envelope, Identity
from messagebus.errors import InvalidMessageError
from messagebus.http.problems import Problem, refused
from messagebus.messages import Message
from messagebus.registry import Registry

__all__ = ["BATCH", "EVENT", "JSON", "Arrived", "limited", "read_messages"]

JSON: Final = "application/json"
EVENT: Final = "application/cloudevents+json"
BATCH: Final = "application/cloudevents-batch+json"

Arrived = tuple[Message, Envelope | None]
"""A message, and its ids and headers if it came with any."""

_LONGEST_NUMBER: Final = 15


def limited(request: Request, max_bytes: int) -> Request:
    """Return a request of whose body no more can be read than the limit, and what it takes to know that it is larger.

    To read it raises a Problem then, whoever does.
    """
    declared = request.headers.get("content-length", "")
    is_too_large = declared.isdecimal() and (len(declared) > _LONGEST_NUMBER or int(declared) > max_bytes)
    size = 0

    async def receive() -> MutableMapping[str, Any]:
        nonlocal size
        if not is_too_large:
            event = await request.receive()
            size += len(event.get("body", b""))
            if size <= max_bytes:
                return event
        raise Problem(413, detail=f"A body may have {max_bytes:,} bytes.")

    return Request(request.scope, receive)


async def read_messages(request: Request, door: Registry) -> tuple[list[Arrived], bool]:
    """Return the messages of a request, and whether they are a batch: all are read, or none.

    Raises:
        Problem: If the body is in no form that is known, or one of the messages does not fit.
    """
    mode, media = _mode_of(request)
    body = await request.body()
    trace = _trace(request.headers)
    if mode == "binary":
        return [_read(door, _event(request.headers, media, body), trace, is_event=True)], False
    is_batch = media == BATCH or (media == JSON and body.lstrip(_SPACE)[:1] == b"[")
    if not is_batch:
        return [_read(door, body, trace, is_event=media == EVENT)], False
    items = _split(body)
    return [_read(door, item, trace, is_event=media == BATCH, index=index) for index, item in enumerate(items)], True


def _mode_of(request: Request) -> tuple[str, str]:
    """Return "binary" or "structured", and the media type.

    Source: CloudEvents 1.0, *HTTP Protocol Binding*, 3: by the media type, then by the header of the version.
    """
    coding = request.headers.get("content-encoding", "identity")
    if coding.lower() != "identity":
        raise Problem(415, detail="A body has to come as it is.", headers={"Accept-Encoding": "identity"})
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media in {EVENT, BATCH}:
        return "structured", media
    if "ce-specversion" in request.headers and (not media or media.endswith(("/json", "+json"))):
        return "binary", media
    if media == JSON:
        return "structured", media
    accepted = f"{JSON}, {EVENT}, {BATCH}"
    raise Problem(415, detail=f"A body has to be one of {accepted}.", headers={"Accept": accepted})


# Messages


def _read(
    door: Registry, payload: bytes, trace: Mapping[str, str], *, is_event: bool, index: int | None = None
) -> Arrived:
    try:
        message, envelope = door.read_json(payload, max_bytes=len(payload))
        if is_event and envelope is None:
            raise InvalidMessageError("a CloudEvent", (("specversion", "Field required"),))
    except InvalidMessageError as error:
        problem = refused(error, index) if _is_json(payload) else _malformed()
    else:
        return message, _continued(message, envelope, trace)
    raise problem


def _is_json(payload: bytes) -> bool:
    try:
        from_json(payload)
    except ValueError:
        return False
    return True


def _malformed() -> Problem:
    return Problem(400, "malformed")


_UNIQUE: Final = re.compile("(?i)[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""An id that is unique whoever made it. Others are so only together with their source, says the standard."""


def _continued(message: Message, envelope: Envelope | None, trace: Mapping[str, str]) -> Envelope | None:
    """Return the envelope under which a message goes on: its id is one here, its trace its own or the request's."""
    if envelope is None:
        return Envelope(message, headers=trace) if trace else None
    if not _UNIQUE.fullmatch(envelope.id):
        envelope.identity = Identity(type(message), f"{envelope.headers['source']}#{envelope.id}")
    if trace and "traceparent" not in envelope.headers:
        envelope.headers = {**envelope.headers, **trace}
    return envelope


_TRACEPARENT: Final = re.compile("[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_TRACESTATE: Final = re.compile("[ -~]{1,512}")


def _trace(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Return the trace that a request belongs to. Source: W3C *Trace Context*."""
    parent, state = headers.get("traceparent", ""), headers.get("tracestate", "")
    if not _TRACEPARENT.fullmatch(parent):
        return {}
    return {"traceparent": parent, "tracestate": state} if _TRACESTATE.fullmatch(state) else {"traceparent": parent}


# Forms

_SPACE: Final = b" \t\r\n"
_BODY: Final = frozenset({"data", "data_base64", "datacontenttype"})
_QUOTED: Final = re.compile(r'"(.*)"')


def _event(headers: Mapping[str, str], media: str, body: bytes) -> bytes:
    """Put an event in binary mode together: attributes are headers, and the body is the data."""
    try:
        attributes = {name[3:]: _attribute(value) for name, value in headers.items() if name.startswith("ce-")}
        if body:
            from_json(body)  # Or what follows the data in it could be attributes.
    except ValueError:
        raise _malformed() from None
    attributes = {name: value for name, value in attributes.items() if name not in _BODY}
    if media:
        attributes["datacontenttype"] = media
    written = dump_json(attributes)
    return b'%b,"data":%b}' % (written[:-1], body) if body else written


def _attribute(value: str) -> str:
    """Return what a header says of an attribute. Source: CloudEvents 1.0, *HTTP Protocol Binding*, 3.1.3.2."""
    quoted = _QUOTED.fullmatch(value)
    return unquote(re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else value, errors="strict")


_JSON_DECODER: Final = json.JSONDecoder()
_JSON_SPACE: Final = frozenset(" \t\r\n")


def _split(body: bytes) -> list[bytes]:
    """Return the items of a JSON array as they stand there: the door reads each as it would alone."""
    try:
        return [item.encode() for item in _items(body.decode())]
    except (ValueError, IndexError, RecursionError):
        raise _malformed() from None


def _items(text: str) -> list[str]:
    items: list[str] = []
    position = _after_space(text, 0)
    if text[position] != "[":
        raise ValueError("no array")
    position = _after_space(text, position + 1)
    is_first = True
    while text[position] != "]":
        if not is_first:
            if text[position] != ",":
                raise ValueError("no comma")
            position = _after_space(text, position + 1)
        _, end = _JSON_DECODER.raw_decode(text, position)
        items.append(text[position:end])
        position, is_first = _after_space(text, end), False
    if _after_space(text, position + 1) != len(text):
        raise ValueError("something follows the array")
    return items


def _after_space(text: str, position: int) -> int:
    while text[position : position + 1] in _JSON_SPACE:
        position += 1
    return position
