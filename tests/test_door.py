"""The door: what comes in is a message of a registered class, or one clear, bounded error that repeats nothing of it.

Run as a program with a directory of payloads, this file measures what it costs to refuse each of them.
"""

import asyncio
import json
import os
import pickle
import re
import resource
import subprocess
import sys
import time
import traceback
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import (
    AnyUrl,
    BaseModel,
    BeforeValidator,
    Field,
    Json,
    SecretStr,
    StringConstraints,
    create_model,
)
from pydantic import field_validator as validates
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic_core import PydanticCustomError
from typing_extensions import TypeAliasType

import messagebus
from messagebus import (
    Command,
    Envelope,
    Event,
    InvalidMessageError,
    Message,
    MessageBusError,
    MessageTooLargeError,
    Private,
    Registry,
    ReturnMessage,
    UnknownMessageError,
    UnwritableMessageError,
    ahandle_json,
    current_envelope,
    handle_json,
    to_json,
)

CANARY = "canary-4111"
LIMIT = 1_048_576

Read = Callable[[Registry, Any], Any]


class Address(BaseModel, extra="forbid"):
    """A plain model of the application's, as strict about fields as messages are, but not about numbers."""

    street: str = ""
    floor: int = 0
    height: float = 0.0
    rooms: set[int] = set()
    keys: dict[int, int] = {}
    parties: set[UUID] = set()


class Pair(BaseModel, frozen=True):
    a: int = 0
    b: int = 0


@pydantic_dataclass(config={"extra": "forbid"})
class Pallet:
    width: int = 0


class Node(BaseModel, extra="forbid"):
    children: list["Node"] = []


class Parcel(BaseModel):
    length: int
    width: int
    height: int
    weight: int


class Line(Event):
    text: str = ""
    rooms: set[int] = set()


class Order(Command):
    text: str = ""
    number: int = 0
    price: float = 0.0
    numbers: list[int] = []
    words: list[str] = []
    unique: set[int] = set()
    counts: dict[int, int] = {}
    parties: set[UUID] = set()
    shares: dict[UUID, int] = {}
    rates: set[Decimal] = set()
    corners: set[tuple[int, ...]] = set()
    few: Annotated[frozenset[UUID], Field(max_length=20_000)] = frozenset()
    pairs: set[Pair] = set()
    parcels: dict[str, Parcel] = {}
    heap: list[Parcel] = []
    address: Address | None = None
    line: Line | None = None
    either: list[Address] | tuple[Line, Pallet] | dict[str, int] = []
    nodes: list[Node] = []
    anything: Any = None


class Count(Command):
    """No field of it could hold what it may not; such classes take a shorter way through the door."""

    text: str = ""
    number: int = 0
    price: float = 0.0
    numbers: list[int] = []
    unique: set[int] = set()


class Done(ReturnMessage):
    text: str


def new_registry() -> Registry:
    """Return a registry with a handler that says what it got."""
    registry = Registry()
    for cls in (Order, Count):
        registry.register(cls, lambda message: Done(text=message.text))
    registry.register(Line)
    return registry


# Bad input


@dataclass(frozen=True)
class Row:
    """A bad payload."""

    payload: Callable[[], bytes | str]
    says: str
    """What the error has to say: a pattern."""
    error: type[InvalidMessageError] = InvalidMessageError
    is_json: bool = True
    """It can be made Python values, and is as bad as such."""


def order(fields: bytes, wire_type: bytes = b"Order") -> Callable[[], bytes]:
    """Return a payload with these fields beside the canary."""
    return lambda: b'{"type":"%b","data":{"text":"%b",%b}}' % (wire_type, CANARY.encode(), fields)


def bare(payload: bytes | str) -> Callable[[], bytes | str]:
    return lambda: payload


def many(start: bytes, item: Callable[[int], bytes], count: int, end: bytes) -> Callable[[], bytes]:
    """Return a payload with many items between ``start`` and ``end``."""
    return lambda: start + b",".join(map(item, range(count))) + end


def colliding(field: bytes, item: bytes, brackets: bytes, count: int, *, wire_type: bytes = b"Order") -> Row:
    """Return a row whose integers all have the hash 0: multiples of 2^61 - 1."""
    opening, closing = brackets[:1], brackets[1:]
    start = b'{"type":"%b","data":{%b%b' % (wire_type, field, opening)
    end = closing + b"}" * (2 + field.count(b"{"))
    return Row(many(start, lambda n: item % ((n + 1) * (2**61 - 1)), count, end), BEYOND)


def unknown(start: bytes, end: bytes, says: str) -> Row:
    """Return a row with 100,000 unknown fields, which is what goes into a mebibyte."""
    return Row(many(start, lambda n: b'"%x":1' % n, 100_000, end), says)


TOO_DEEP = "recursion limit|nested|deep"
BEYOND = "64 bits|same hash|collide|9223372036854775807|exceeded maximum size|out of range|wrong or unknown"
NOT_FINITE = "finite"
BAD_JSON = "Invalid JSON|not UTF-8|no JSON"
ROWS = {
    # Depth
    "lists 10^6 deep, unclosed": Row(lambda: b"[" * 1_000_000, TOO_DEEP, is_json=False),
    "objects 10^6 deep, unclosed": Row(lambda: b'{"a":' * 200_000, TOO_DEEP, is_json=False),
    "lists deep where lists belong": Row(
        lambda: b'{"type":"Order","data":{"numbers":%b%b}}' % (b"[" * 500_000, b"]" * 500_000), TOO_DEEP, is_json=False
    ),
    "lists deep where anything goes": Row(
        lambda: b'{"type":"Order","data":{"anything":%b%b}}' % (b"[" * 500_000, b"]" * 500_000), TOO_DEEP, is_json=False
    ),
    "objects deep where anything goes": Row(
        lambda: b'{"type":"Order","data":{"anything":%b1%b}}' % (b'{"a":' * 150_000, b"}" * 150_000),
        TOO_DEEP,
        is_json=False,
    ),
    # Integers
    "integer of 10^5 digits": Row(order(b'"number":%b' % (b"9" * 100_000)), BEYOND, is_json=False),
    "integer of 10^5 digits below zero": Row(order(b'"number":-%b' % (b"9" * 100_000)), BEYOND, is_json=False),
    "integer of 10^5 digits where anything goes": Row(
        order(b'"anything":%b' % (b"9" * 100_000)), BEYOND, is_json=False
    ),
    "integer of 10^5 digits in a plain model": Row(
        order(b'"address":{"floor":%b}' % (b"9" * 100_000)), BEYOND, is_json=False
    ),
    "integer of 10^5 digits as text": Row(order(b'"unique":["%b"]' % (b"9" * 100_000)), BEYOND),
    "integer of 10^5 digits as key": Row(order(b'"counts":{"%b":1}' % (b"9" * 100_000)), BEYOND),
    "integer of 4,000 digits": Row(order(b'"number":%b' % (b"9" * 4000)), BEYOND),
    "integer beyond 64 bits": Row(order(b'"number":9223372036854775808'), BEYOND),
    "integer beyond 64 bits below zero": Row(order(b'"number":-9223372036854775809'), "64 bits|-9223372036854775808"),
    "integer beyond 64 bits as float": Row(order(b'"number":1e30'), BEYOND),
    "integer beyond 64 bits, short way": Row(order(b'"number":9223372036854775808', b"Count"), BEYOND),
    "integer beyond 64 bits where anything goes": Row(order(b'"anything":[[{"a":9223372036854775808}]]'), BEYOND),
    "integer beyond 64 bits in a plain model": Row(order(b'"address":{"floor":9223372036854775808}'), BEYOND),
    "integer beyond 64 bits as text": Row(order(b'"unique":["9223372036854775808"]'), BEYOND),
    "integer beyond 64 bits as key": Row(order(b'"counts":{"9223372036854775808":1}'), BEYOND),
    "colliding integers in a set": colliding(b'"unique":', b"%d", b"[]", 24_000),
    "colliding integers in a set, short way": colliding(b'"unique":', b"%d", b"[]", 24_000, wire_type=b"Count"),
    "colliding integers as text in a set": colliding(b'"unique":', b'"%d"', b"[]", 22_000),
    "colliding integers as keys": colliding(b'"counts":', b'"%d":1', b"{}", 20_000),
    "colliding integers in the set of a message": colliding(b'"line":{"rooms":', b"%d", b"[]", 24_000),
    "colliding integers in the set of a plain model": colliding(b'"address":{"rooms":', b"%d", b"[]", 24_000),
    "colliding integers as text in a plain model": colliding(b'"address":{"rooms":', b'"%d"', b"[]", 22_000),
    "colliding integers as keys of a plain model": colliding(b'"address":{"keys":', b'"%d":1', b"{}", 20_000),
    # Other values of which whoever sends them chooses the hash
    "colliding integers as text with a sign in a plain model": colliding(
        b'"address":{"rooms":', b'"+%d"', b"[]", 10_000
    ),
    "colliding integers as text with a point in a plain model": colliding(
        b'"address":{"rooms":', b'"%d.0"', b"[]", 10_000
    ),
    "colliding integers as text with a point, as keys of a plain model": colliding(
        b'"address":{"keys":', b'"%d.0":1', b"{}", 10_000
    ),
    "colliding decimals in a set": colliding(b'"rates":', b'"%d.0"', b"[]", 10_000),
    "colliding tuples in a set": Row(
        # In Python -1 and -2 have one hash, and so has every tuple of these two.
        many(
            b'{"type":"Order","data":{"corners":[',
            lambda n: b"[%b]" % b",".join(b"-%d" % (1 + (n >> bit & 1)) for bit in range(14)),
            12_000,
            b"]}}",
        ),
        BEYOND,
    ),
    "colliding UUIDs in a set": colliding(b'"parties":', b'"%032x"', b"[]", 10_000),
    "a mebibyte of colliding UUIDs": colliding(b'"parties":', b'"%032x"', b"[]", 29_000),
    "colliding UUIDs in a set of limited size": colliding(b'"few":', b'"%032x"', b"[]", 10_000),
    "colliding UUIDs in a set of a plain model": colliding(b'"address":{"parties":', b'"%032x"', b"[]", 10_000),
    "colliding models in a set": colliding(b'"pairs":', b'{"a":"%d"}', b"[]", 10_000),
    "colliding UUIDs as keys": colliding(b'"shares":', b'"%032x":1', b"{}", 10_000),
    # Floats
    "NaN": Row(order(b'"price":NaN'), NOT_FINITE),
    "NaN, short way": Row(order(b'"price":NaN', b"Count"), NOT_FINITE),
    "NaN where an integer belongs": Row(order(b'"number":NaN'), NOT_FINITE),
    "NaN where anything goes": Row(order(b'"anything":[NaN]'), NOT_FINITE),
    "NaN in a plain model": Row(order(b'"address":{"height":NaN}'), NOT_FINITE),
    "Infinity": Row(order(b'"price":Infinity'), NOT_FINITE),
    "Infinity where anything goes": Row(order(b'"anything":Infinity'), NOT_FINITE),
    "-Infinity": Row(order(b'"price":-Infinity'), NOT_FINITE),
    "-Infinity in a plain model": Row(order(b'"address":{"height":-Infinity}'), NOT_FINITE),
    "1e999": Row(order(b'"price":1e999'), NOT_FINITE),
    "1E+999 where anything goes": Row(order(b'"anything":1E+999'), NOT_FINITE),
    "-1e999 in a plain model": Row(order(b'"address":{"height":-1e999}'), NOT_FINITE),
    "400 digits and a point": Row(order(b'"anything":%b.5' % (b"9" * 400)), NOT_FINITE),
    "infinity as text": Row(order(b'"price":"inf"'), NOT_FINITE),
    # Text
    "lone surrogate escaped": Row(order(b'"words":["\\ud800"]'), BAD_JSON, is_json=False),
    "lone surrogate escaped in a key": Row(order(b'"anything":{"\\udfff":1}'), BAD_JSON, is_json=False),
    "lone surrogate in a text payload": Row(
        lambda: f'{{"type":"Order","data":{{"text":"\ud800{CANARY}"}}}}', BAD_JSON, is_json=False
    ),
    "invalid UTF-8": Row(order(b'"words":["\xff"]'), BAD_JSON, is_json=False),
    "overlong UTF-8": Row(order(b'"words":["\xc0\xaf"]'), BAD_JSON, is_json=False),
    "byte order mark": Row(lambda: b"\xef\xbb\xbf" + order(b'"number":1')(), BAD_JSON, is_json=False),
    "UTF-16": Row(lambda: order(b'"number":1')().decode().encode("utf-16"), BAD_JSON, is_json=False),
    "raw NUL in a text": Row(order(b'"words":["\x00"]'), BAD_JSON, is_json=False),
    "raw NUL alone": Row(bare(b"\x00"), BAD_JSON, is_json=False),
    "raw NUL behind": Row(lambda: order(b'"number":1')() + b"\x00", BAD_JSON, is_json=False),
    # Whole payloads
    "empty": Row(bare(b""), BAD_JSON, is_json=False),
    "empty text": Row(bare(""), BAD_JSON, is_json=False),
    "whitespace": Row(bare(b" \r\n\t"), BAD_JSON, is_json=False),
    "a mebibyte of whitespace": Row(lambda: b" " * LIMIT, BAD_JSON, is_json=False),
    "trailing data": Row(lambda: order(b'"number":1')() + b"x", BAD_JSON, is_json=False),
    "two payloads": Row(lambda: order(b'"number":1')() * 2, BAD_JSON, is_json=False),
    "cut off": Row(lambda: order(b'"number":1')()[:-1], BAD_JSON, is_json=False),
    "no JSON": Row(bare(CANARY.encode()), BAD_JSON, is_json=False),
    "Python": Row(bare(b"{'type': 'Order', 'data': {}}"), BAD_JSON, is_json=False),
    "list": Row(lambda: b"[%b]" % order(b'"number":1')(), "no JSON object|no mapping"),
    "text": Row(bare(b'"Order"'), "no JSON object|no mapping"),
    "number": Row(bare(b"1"), "no JSON object|no mapping"),
    "null": Row(bare(b"null"), "no JSON object|no mapping"),
    "true": Row(bare(b"true"), "no JSON object|no mapping"),
    "empty object": Row(bare(b"{}"), "no 'type'"),
    "one byte too many": Row(lambda: b"\x00" * (LIMIT + 1), "1,048,577", MessageTooLargeError, is_json=False),
    # Many
    "10^5 unknown fields": unknown(b'{"type":"Order","data":{', b"}}", "fields|attributes"),
    "10^5 unknown fields at the top": unknown(b'{"type":"Order","data":{},', b"}", "fields|attributes"),
    "10^5 unknown fields in a plain model": unknown(
        b'{"type":"Order","data":{"address":{', b"}}}", "fields|attributes"
    ),
    "10^5 unknown fields in a message": unknown(b'{"type":"Order","data":{"line":{', b"}}}", "fields|attributes"),
    "10^5 unknown fields and spaces": Row(
        many(b'{"type":"Order","data":{"either":[{', lambda n: b'"%x" :1' % n, 90_000, b"}]}}"), "fields"
    ),
    "10^5 unknown fields below a union": unknown(b'{"type":"Order","data":{"either":[{', b"}]}}", "fields"),
    "10^5 unknown fields of a dataclass": unknown(b'{"type":"Order","data":{"either":[{},{', b"}]}}", "fields"),
    "10^5 unknown fields of a model that holds itself": unknown(
        b'{"type":"Order","data":{"nodes":[{"children":[{', b"}]}]}}", "fields"
    ),
    "10^5 unknown fields behind 1,000 that are none": Row(
        lambda: (
            b'{"type":"Order","data":{"shares":{%b},"nodes":[{%b}]}}'
            % (b",".join(b'"%032x":1' % n for n in range(1_000)), b",".join(b'"%x":1' % n for n in range(90_000)))
        ),
        "fields",
    ),
    "10^5 unknown fields and no type": unknown(b'{"data":{},', b"}", "no 'type'"),
    "10^5 bad keys": Row(
        many(b'{"type":"Order","data":{"counts":{', lambda n: b'"x%x":1' % n, 95_000, b"}}}"), "counts|wrong"
    ),
    "10^5 bad keys with bad values": Row(
        many(b'{"type":"Order","data":{"counts":{', lambda n: b'"x%x":""' % n, 85_000, b"}}}"), "counts|wrong"
    ),
    "10^5 models without their fields in an object": Row(
        many(b'{"type":"Order","data":{"parcels":{', lambda n: b'"%x":{}' % n, 85_000, b"}}}"), "parcels|wrong"
    ),
    "200,000 models without their fields in a list": Row(
        many(b'{"type":"Order","data":{"heap":[', lambda _: b"{}", 200_000, b"]}}"), "heap"
    ),
    "10^5 wrong attributes of a CloudEvent": Row(
        many(
            b'{"type":"Order","data":{},"specversion":"1.0","id":"1","source":"/",',
            lambda n: b'"%x":[]' % n,
            85_000,
            b"}",
        ),
        "CloudEvent",
    ),
    "300,000 bad items": Row(
        many(b'{"type":"Order","data":{"numbers":[', lambda _: b'""', 300_000, b"]}}"), r"numbers\[0\]"
    ),
    "300,000 bad items in a set": Row(
        many(b'{"type":"Order","data":{"unique":[', lambda _: b'""', 300_000, b"]}}"), r"unique\[0\]"
    ),
    "300,000 lists, and then an integer beyond 64 bits": Row(
        many(b'{"type":"Order","data":{"anything":[', lambda _: b"[]", 300_000, b",9223372036854775808]}}"), BEYOND
    ),
    "a mebibyte where an integer belongs": Row(order(b'"number":"%b"' % (b"x" * 1_000_000)), "number"),
    # The type
    "type os:system": Row(bare(b'{"type":"os:system","data":{}}'), "'os:system'", UnknownMessageError),
    "type __main__.X": Row(bare(b'{"type":"__main__.X","data":{}}'), "'__main__.X'", UnknownMessageError),
    "type antigravity": Row(bare(b'{"type":"antigravity","data":{}}'), "'antigravity'", UnknownMessageError),
    "type ../etc/passwd": Row(bare(b'{"type":"../etc/passwd","data":{}}'), "type|name", UnknownMessageError),
    "type __class__": Row(bare(b'{"type":"__class__","data":{}}'), "'__class__'", UnknownMessageError),
    "type in another case": Row(bare(b'{"type":"order","data":{}}'), "Did you mean Order", UnknownMessageError),
    "type of 1 MB": Row(lambda: b'{"type":"%b","data":{}}' % (b"x" * 1_000_000), "type|name", UnknownMessageError),
    "type of odd characters": Row(
        lambda: b'{"type":"%b\\u2028\\u0000\\"","data":{}}' % CANARY.encode(), "type|name", UnknownMessageError
    ),
    "type empty": Row(bare(b'{"type":"","data":{}}'), "type|name", UnknownMessageError),
    "type a number": Row(bare(b'{"type":1,"data":{}}'), "type"),
    "type null": Row(bare(b'{"type":null,"data":{}}'), "type"),
    "type true": Row(bare(b'{"type":true,"data":{}}'), "type"),
    "type a list": Row(bare(b'{"type":["Order"],"data":{}}'), "type"),
    "type an object": Row(bare(b'{"type":{"Order":1},"data":{}}'), "type"),
    "type missing": Row(bare(b'{"data":{}}'), "no 'type'"),
    "type twice, the last unknown": Row(
        bare(b'{"type":"Order","type":"os:system","data":{}}'), "'os:system'", UnknownMessageError
    ),
    # The data
    "data a list": Row(bare(b'{"type":"Order","data":[]}'), "data: "),
    "data a text": Row(bare(b'{"type":"Order","data":"%b"}' % CANARY.encode()), "data: "),
    "data a number": Row(bare(b'{"type":"Order","data":4111}'), "data: "),
    "data null": Row(bare(b'{"type":"Order","data":null}'), "data: "),
    "data unpacked": Row(bare(b'{"type":"Order","text":"%b","number":1}' % CANARY.encode()), "2 attributes"),
}


@cache
def payload_of(name: str) -> bytes | str:
    return ROWS[name].payload()


LARGE = [name for name in ROWS if len(payload_of(name)) > 50_000]
SMALL = [name for name in ROWS if name not in LARGE]


def validate_json(registry: Registry, payload: bytes | str) -> Any:
    return registry.validate_json(payload)


def validate(registry: Registry, mapping: Any) -> Any:
    return registry.validate(mapping)


def handle(registry: Registry, payload: bytes | str) -> Any:
    return handle_json(payload, registry=registry)


def ahandle(registry: Registry, payload: bytes | str) -> Any:
    return asyncio.run(ahandle_json(payload, registry=registry))


def refusal(read: Read, registry: Registry, payload: Any) -> InvalidMessageError:
    """Return the error with which a payload is refused."""
    with pytest.raises(InvalidMessageError) as caught:
        read(registry, payload)
    return caught.value


def assert_clear(error: InvalidMessageError, canary: str = CANARY) -> None:
    """An error says one thing, in bounded text, without anything of the payload."""
    seen = [str(error), repr(error), repr(error.args), "".join(traceback.format_exception(error)), repr(vars(error))]
    assert len(str(error).encode()) <= 4096
    assert [] == [text for text in seen if canary in text]
    assert canary.encode() not in pickle.dumps(error)
    assert error.__cause__ is None
    assert error.__context__ is None or error.__suppress_context__


@pytest.mark.parametrize(
    ("name", "read"),
    [(name, validate_json) for name in ROWS] + [(name, read) for name in SMALL for read in (handle, ahandle)],
)
def test_bad_json_gives_one_clear_error(name: str, read: Read) -> None:
    """Bounded, of one family, without a value of the payload, and nothing is imported [L1, L4]."""
    row, registry, modules = ROWS[name], new_registry(), set(sys.modules)

    error = refusal(read, registry, payload_of(name))

    assert row.error is type(error)
    assert re.search(row.says, str(error)), str(error)
    assert_clear(error)
    assert modules == set(sys.modules)


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.is_json])
def test_bad_mapping_gives_one_clear_error(name: str) -> None:
    """What JSON may not bring in, Python values may not either [L1]."""
    row, registry, modules = ROWS[name], new_registry(), set(sys.modules)
    mapping = json.loads(payload_of(name))

    error = refusal(validate, registry, mapping)

    assert row.error is type(error)
    assert re.search(row.says, str(error)), str(error)
    assert_clear(error)
    assert modules == set(sys.modules)


@pytest.mark.parametrize(
    "data", [{"address": {"rooms": ["18446744073709551616"]}}, {"address": {"keys": {"18446744073709551616": 1}}}]
)
def test_plain_model_keeps_its_own_rules_for_a_few_texts(data: dict[str, Any]) -> None:
    """pydantic reads such text as an integer; what came in so is refused at the latest where it would be written."""
    registry = new_registry()

    message = validate_json(registry, json.dumps({"type": "Order", "data": data}))

    assert 2**64 in {*message.address.rooms, *message.address.keys}
    try:
        written = to_json(message)
    except UnwritableMessageError:
        return
    assert message == validate_json(registry, written)


SPARSE = [(x, y, z) for x in range(-14, 14) for y in range(-14, 14) for z in range(-14, 14)]


@pytest.mark.parametrize(
    "data",
    [
        {"parties": [f"{n * n * 2**31:032x}" for n in range(10_000)]},
        {"few": [f"{n:032x}" for n in range(10_000)] * 2},
        {"shares": {f"{n:032x}": n for n in range(10_000)}},
        {"address": {"rooms": ["+1", "2.0", *range(20_000)], "keys": {f"{n}.0": n for n in range(10_000)}}},
        {"rates": ["-1", "-2", "-1.0"] * 10_000},
        {"corners": SPARSE},
        {"pairs": [{"a": n, "b": -n} for n in range(5_000)]},
    ],
    ids=lambda data: next(iter(data)),
)
def test_many_items_and_keys_of_any_type_are_read(data: dict[str, Any]) -> None:
    """What nobody chose to collide passes: thousands of ids, coordinates, equal values [L1]."""
    payload = json.dumps({"type": "Order", "data": data})

    message = new_registry().validate_json(payload)

    assert Order.model_validate_json(json.dumps(data)) == message


def test_of_a_set_the_items_are_counted_that_are_left() -> None:
    """A limit of its size does not count equal items twice, and counts as everywhere in pydantic."""
    registry = Registry()
    registry.register(Limited)

    message = registry.validate_json(b'{"type":"Limited","data":{"rates":["1","1.0","2"],"whole":["1","01","2"]}}')

    assert Limited(rates={Decimal(1), Decimal(2)}, whole=frozenset({1, 2})) == message
    for wrong in ({"rates": [1, 2, 3]}, {"rates": [1, 1]}, {"whole": [3, 3]}):
        assert_clear(refusal(validate, registry, {"type": "Limited", "data": wrong}))


class Limited(Command):
    rates: Annotated[set[Decimal], Field(min_length=2, max_length=2)] = {Decimal(1), Decimal(2)}
    whole: Annotated[frozenset[Annotated[int, Field(ge=0, le=2**70)]], Field(min_length=2)] = frozenset({1, 2})


Ids = TypeAliasType("Ids", set[UUID])
ONE, TWO = UUID(int=1), UUID(int=2)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (set[UUID] | tuple[UUID, ...], {ONE, TWO}),
        (tuple[UUID, ...] | set[UUID], (ONE, TWO)),
        (set[UUID] | list[str], {ONE, TWO}),
        (set[str] | set[UUID], {str(ONE), str(TWO)}),
        (dict[str, int] | dict[UUID, int], {str(ONE): 1}),
        (dict[UUID, int] | dict[str, int], {ONE: 1, TWO: 2}),
        (dict[UUID, dict[UUID, set[UUID]]], {ONE: {TWO: {ONE}}}),
        (set[tuple[Ids, ...]] | list[Ids], [{ONE, TWO}]),
        (set[Parcel] | list[Parcel], [Parcel(length=1, width=2, height=3, weight=4)]),
        (Ids, {ONE, TWO}),
        (list[Ids], [{ONE, TWO}, {ONE}]),
    ],
    ids=str,
)
def test_sets_and_keys_are_read_as_the_class_reads_them(kind: Any, value: Any) -> None:
    """That hashes are looked at changes nothing of what comes out; nor which type of a union it is [L2]."""
    cls = create_model("Holder", __base__=Command, __module__=__name__, held=(kind, ...))
    registry = Registry()
    registry.register(cls)

    data = cls(held=value).model_dump_json()

    message = registry.validate_json(f'{{"type":"Holder","data":{data}}}')

    expected = cls.model_validate_json(data)
    assert expected == message
    assert type(expected.held) is type(message.held)


def test_strict_class_reads_its_json() -> None:
    """In JSON a set is an array, and a key is text, also for a strict class [L2]."""
    cls = create_model(
        "Strict", __base__=Command, __module__=__name__, __cls_kwargs__={"strict": True}, held=dict[UUID, set[Decimal]]
    )
    registry = Registry()
    registry.register(cls)
    message = cls(held={ONE: {Decimal("1.5")}})

    assert message == registry.validate_json(to_json(message))


@pytest.mark.parametrize("value", [{f"{n:x}": n for n in range(30_000)}, {"a": 1}], ids=["many", "few"])
def test_many_members_that_are_no_fields_are_read(value: dict[str, int]) -> None:
    """An object that could be a model of unknown fields may be a dict as well [L1]."""
    payload = json.dumps({"type": "Order", "data": {"either": value, "anything": value}})

    message = new_registry().validate_json(payload)

    assert Order(either=value, anything=value) == message


# What a refusal costs


@dataclass(frozen=True)
class Cost:
    """What it took to refuse a payload."""

    seconds: float
    megabytes: float


@pytest.fixture(scope="module")
def costs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Cost]:
    """What each large row costs: in a process of its own each, forked from one that has read nothing yet."""
    folder = tmp_path_factory.mktemp("payloads")
    for number, name in enumerate(LARGE):
        (folder / f"{number}.json").write_bytes(payload_of(name))
    path = os.pathsep.join([str(Path(messagebus.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, __file__, str(folder)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    return {f"{way} {LARGE[int(number)]}": Cost(float(cpu), float(memory)) for way, number, cpu, memory in lines}


@pytest.mark.parametrize("name", LARGE)
def test_refusing_costs_little(name: str, costs: dict[str, Cost]) -> None:
    """A mebibyte is refused in 100 ms and 40 MB at most [L1]; the time has a margin of five for a busy machine."""
    cost = costs[f"json {name}"]

    assert cost.seconds <= 0.5
    assert cost.megabytes <= 40


@pytest.mark.parametrize("name", [name for name in LARGE if ROWS[name].is_json])
def test_refusing_a_mapping_costs_little(name: str, costs: dict[str, Cost]) -> None:
    """The same when the payload was parsed before, by whoever it was [L1]."""
    cost = costs[f"mapping {name}"]

    assert cost.seconds <= 0.5
    assert cost.megabytes <= 40


def seconds_to_refuse(read: Read, registry: Registry, value: Any) -> float:
    started = time.process_time()
    try:
        read(registry, value)
    except Exception as error:
        str(error)
    return time.process_time() - started


def measure(folder: Path) -> None:
    """Print what it costs to refuse each file of a folder, as JSON and as a mapping."""
    registry = new_registry()
    registry.validate_json(b'{"type":"Order","data":{}}')
    for file in sorted(folder.iterdir()):
        for way in ("json", "mapping"):
            sys.stdout.flush()
            if os.fork():
                os.wait()
                continue
            payload = file.read_bytes()
            try:
                value = payload if way == "json" else json.loads(payload)
            except (ValueError, RecursionError):
                os._exit(0)
            read = validate_json if way == "json" else validate
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            seconds = seconds_to_refuse(read, registry, value)
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            if 0.5 < seconds < 2:
                # On a busy machine the same work may take several times as long.
                seconds = min(seconds, *(seconds_to_refuse(read, registry, value) for _ in range(3)))
            print(way, file.stem, seconds, memory / (1024**2 if sys.platform == "darwin" else 1024), flush=True)
            os._exit(0)


# The limit


@pytest.mark.parametrize("read", [validate_json, handle, ahandle])
def test_payload_of_exactly_the_limit_is_read(read: Read) -> None:
    """The limit is what may come in, 1 MiB unless told otherwise [L4]."""
    registry = new_registry()
    payload = b'{"type":"Order","data":{}}'.ljust(LIMIT)

    result = read(registry, payload)

    assert result in (Order(), b'[{"type":"Done","data":{"text":""}}]')


@pytest.mark.parametrize("payload", [b"\xff" * 11, "\xff" * 11, "no JSON and too long", b"[" * 100], ids=repr)
def test_what_is_too_large_is_not_parsed(payload: bytes | str) -> None:
    """What is no JSON at all is refused for its size alone [L4]."""
    registry = new_registry()

    with pytest.raises(MessageTooLargeError) as caught:
        registry.validate_json(payload, max_bytes=10)

    assert (len(payload), 10) == (caught.value.size, caught.value.limit)
    assert_clear(caught.value)


def test_limit_counts_bytes_not_characters() -> None:
    """A text of ten characters may be twenty bytes on the wire [L4]."""
    registry = new_registry()

    with pytest.raises(MessageTooLargeError) as caught:
        registry.validate_json("é" * 10, max_bytes=19)

    assert (20, 19) == (caught.value.size, caught.value.limit)


@pytest.mark.parametrize("payload", [b"x" * 50_000_000, "x" * 50_000_000], ids=["bytes", "text"])
def test_what_is_too_large_is_not_copied(payload: bytes | str) -> None:
    """The measure is taken before anything else is done with the payload [L4]."""
    registry = new_registry()
    registry.validate_json(b'{"type":"Order"}')

    tracemalloc.start()
    refusal(validate_json, registry, payload)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 1_000_000


def test_limit_can_be_raised_for_json_that_is_handled() -> None:
    """Who expects more says so [L4]."""
    registry = new_registry()
    payload = b'{"type":"Order","data":{"text":"%b"}}' % (b"x" * LIMIT)

    refused = refusal(handle, registry, payload)
    result = handle_json(payload, max_bytes=2 * LIMIT, registry=registry)
    aresult = asyncio.run(ahandle_json(payload, max_bytes=2 * LIMIT, registry=registry))

    assert MessageTooLargeError is type(refused)
    assert b'[{"type":"Done","data":{"text":"%b"}}]' % (b"x" * LIMIT) == result == aresult


# What is read


@pytest.mark.parametrize("payload", [b'{"type":"Order","data":{"number":1}}', '{"type":"Order","data":{"number":1}}'])
def test_reads_the_wire_form(payload: bytes | str) -> None:
    """Bytes or text, it is the same message [L1]."""
    registry = new_registry()

    message = registry.validate_json(payload)

    assert Order(number=1) == message


def test_reads_a_mapping() -> None:
    """What some other parser made of JSON is as good [L1]."""
    registry = new_registry()

    message = registry.validate({"type": "Order", "data": {"number": 1}})

    assert Order(number=1) == message


def test_mapping_is_left_as_it_was() -> None:
    """It belongs to the caller."""
    registry = new_registry()
    mapping = {"type": "Order", "data": {"number": 1, "words": ["a"]}}

    registry.validate(mapping)

    assert {"type": "Order", "data": {"number": 1, "words": ["a"]}} == mapping


def test_data_of_a_message_without_fields_may_be_left_out() -> None:
    """Nothing is what there is to say."""
    registry = new_registry()

    message = registry.validate_json(b'{"type":"Order"}')

    assert Order() == message


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b'{"type":"os:system","type":"Order","data":{}}', Order()),
        (b'{"type":"Order","data":{"number":1},"data":{"number":2}}', Order(number=2)),
        (b'{"type":"Order","data":{"number":1,"number":2}}', Order(number=2)),
        (b'{"type":"Order","data":{"number":"x","number":2}}', Order(number=2)),
        (b'{"type":"Order","data":{"anything":{"a":1,"a":2}}}', Order(anything={"a": 2})),
        (b'{"type":"Order","data":{"address":{"floor":1,"floor":2}}}', Order(address=Address(floor=2))),
    ],
)
def test_of_duplicate_keys_the_last_counts(payload: bytes, message: Message) -> None:
    """As everywhere in pydantic; only what was read goes on from here."""
    registry = new_registry()

    read = registry.validate_json(payload)

    assert message == read


def test_integers_of_64_bits_are_read() -> None:
    """The bound is where 64 bits end, and not before."""
    registry = new_registry()
    edges = [-(2**63), 2**63 - 1]

    message = registry.validate({"type": "Order", "data": {"numbers": edges, "anything": edges}})

    assert Order(numbers=edges, anything=edges) == message


def test_long_digits_in_a_text_are_read() -> None:
    """Card and account numbers are texts, however long [L1]."""
    registry = new_registry()
    digits = "9" * 400

    message = registry.validate_json(json.dumps({"type": "Order", "data": {"text": digits, "anything": [digits]}}))

    assert Order(text=digits, anything=[digits]) == message


def test_words_of_odd_numbers_in_a_text_are_read() -> None:
    """NaN may be a name, and Infinity a place."""
    registry = new_registry()
    words = ["NaN", "Infinity", "1e999", "[" * 300]

    message = registry.validate_json(json.dumps({"type": "Order", "data": {"words": words, "anything": words}}))

    assert Order(words=words, anything=words) == message


def test_only_registered_classes_come_out() -> None:
    """A class that exists is not a class that may be made of a payload [L1]."""
    registry = Registry()
    registry.register(Line)

    error = refusal(validate_json, registry, b'{"type":"Order","data":{}}')

    assert UnknownMessageError is type(error)


@pytest.mark.parametrize("value", [None, 1, "Order", b'{"type":"Order"}', ["Order"], [("type", "Order")], {"Order"}])
def test_validate_takes_mappings_only(value: Any) -> None:
    """Whatever else somebody passes is refused in the words of the door [L1]."""
    registry = new_registry()

    error = refusal(validate, registry, value)

    assert "mapping" in str(error)
    assert_clear(error)


@pytest.mark.parametrize(
    "mapping",
    [
        {1: 2},
        {None: CANARY},
        {"type": "Order", 4111: CANARY},
        {"type": "Order", "data": {4111: CANARY}},
        {"type": "Order", "data": {(CANARY,): 1}},
        {"type": "Order", "data": {"counts": {CANARY: 1}}},
        {"type": "Order", "data": Line(text=CANARY)},
        {"type": "Order", "data": Address(street=CANARY)},
        {"type": b"Order", "data": {}},
        {"type": Order, "data": {}},
        {"type": 2**70, "data": {}},
        {"type": "\ud800", "data": {}},
        {"type": "Order", "data": {"words": [b"\xff"]}},
        {"type": "Order", "data": {"words": {CANARY: 1}}},
        {"type": "Order", "data": {"anything": {"a": [2**64]}}},
        {"type": "Order", "data": {"anything": (float("nan"),)}},
        {"type": "Order", "data": {"address": {"rooms": {2**64}}}},
    ],
    ids=lambda mapping: str(mapping)[:60],
)
def test_odd_mappings_are_refused(mapping: dict[Any, Any]) -> None:
    """Python values that no JSON could bring [L1]."""
    registry = new_registry()

    error = refusal(validate, registry, mapping)

    assert_clear(error)


# Nothing of the payload is repeated


class Colour(Enum):
    RED = "red"


class Circle(BaseModel):
    kind: Literal["circle"]


class Square(BaseModel):
    kind: Literal["square"]


class Card(Command):
    """Asks for much, and refuses in many ways."""

    number: int = 0
    flag: bool = False
    token: Annotated[str, Private, StringConstraints(max_length=3)] = ""
    secret: Annotated[SecretStr, Field(max_length=3)] = SecretStr("")
    pattern: Annotated[str, StringConstraints(pattern="^[0-9]*$")] = ""
    colour: Colour = Colour.RED
    word: Literal["a", "b"] = "a"
    day: date | None = None
    moment: datetime | None = None
    key: UUID | None = None
    url: AnyUrl | None = None
    embedded: Json[int] | None = None
    shape: Annotated[Circle | Square, Field(discriminator="kind")] | None = None
    either: int | bool | None = None
    counts: dict[int, int] = {}
    checked: str = ""
    asserted: str = ""
    custom: str = ""
    customised: str = ""
    stripped: Annotated[str, BeforeValidator(str.strip)] = ""

    @validates("checked")
    @classmethod
    def check(cls, value: str) -> str:
        if value:
            raise ValueError(f"{value} is wrong")
        return value

    @validates("asserted")
    @classmethod
    def check_by_assertion(cls, value: str) -> str:
        assert value == "", f"{value} is wrong"
        return value

    @validates("custom")
    @classmethod
    def check_by_custom_error(cls, value: str) -> str:
        if value:
            raise PydanticCustomError("wrong_value", "{value} is wrong", {"value": value})
        return value

    @validates("customised")
    @classmethod
    def check_by_named_error(cls, value: str) -> str:
        if value:
            raise PydanticCustomError("value_error", "{value} is wrong", {"value": value})
        return value


LEAKS: dict[str, dict[Any, Any]] = {
    **{field: {field: CANARY} for field in Card.model_fields if field not in {"stripped", "shape", "counts"}},
    "a value in a list": {"number": [CANARY]},
    "a value in an object": {"number": {"a": CANARY}},
    "a tag": {"shape": {"kind": CANARY}},
    "a value beside a tag": {"shape": {"kind": ["circle", CANARY]}},
    "a key": {"counts": {CANARY: 1}},
    "a value at a key": {"counts": {"1": CANARY}},
    "an unknown field": {CANARY: 1},
    "the value of an unknown field": {"unknown": CANARY},
    "the value of a misspelt field": {"numbre": CANARY},
    "a field in Unicode": {f"\u202e{CANARY}": 1},
    "a validator that is not prepared": {"stripped": [CANARY]},
}  # fmt: skip


@pytest.mark.parametrize("read", [validate_json, validate, handle, ahandle])
@pytest.mark.parametrize("name", LEAKS)
def test_error_repeats_nothing_of_the_payload(name: str, read: Read) -> None:
    """Neither values nor keys: they may be a stranger's secrets [L1, L21]."""
    registry = Registry()
    registry.register(Card, lambda _: None)
    payload = {"type": "Card", "data": LEAKS[name]}

    error = refusal(read, registry, payload if read is validate else json.dumps(payload))

    assert_clear(error)


@pytest.mark.parametrize(
    "data", [{"counts": {4111_2222_3333_4444: "x"}}, {4111_2222_3333_4444: "x"}], ids=["key", "field"]
)
def test_error_repeats_no_number_that_is_a_key(data: dict[Any, Any]) -> None:
    """In Python values a key may be a number, and a number may be a card's [L1]."""
    registry = Registry()
    registry.register(Card)

    error = refusal(validate, registry, {"type": "Card", "data": data})

    assert_clear(error, "4111222233334444")


def test_error_of_the_longest_words_is_bounded() -> None:
    """Twenty problems at the end of long paths, for long reasons, in a class of a long name, are 4 KiB at most [L1]."""
    words = tuple(f"{'ž' * 30}{n}" for n in range(30))
    inner = create_model("Inner", __module__="m", **{"inner" * 16: (Literal[words], ...)})
    outer = {f"{'outer' * 15}_{n}": (inner, ...) for n in range(60)}
    cls = create_model("Wordy" * 40, __base__=Command, __module__="m", **outer)
    registry = Registry()
    registry.register(cls)
    data = {name: {"inner" * 16: CANARY} for name in outer}

    error = refusal(validate, registry, {"type": "Wordy" * 40, "data": data})

    assert 60 == error.count
    assert 20 >= len(error.problems)
    assert_clear(error)


# CloudEvents


def cloud_event(**attributes: Any) -> bytes:
    """Return a CloudEvent in structured JSON mode; what is given as None is left out."""
    minimal = {"specversion": "1.0", "id": "1", "source": "/shop", "type": "Order", "data": {"number": 1}}
    return json.dumps({name: value for name, value in (minimal | attributes).items() if value is not ...}).encode()


@pytest.fixture
def received() -> Iterator[tuple[Registry, list[Envelope]]]:
    """A registry whose handler of `Order` keeps the envelopes, and these."""
    envelopes: list[Envelope] = []
    registry = Registry()
    registry.register(Order, lambda _: envelopes.append(current_envelope()))
    return registry, envelopes


def aspects(envelope: Envelope) -> dict[str, Any]:
    names = ("message", "type", "id", "correlation_id", "causation_id", "time", "attempt", "headers")
    return {name: getattr(envelope, name) for name in names}


def test_reads_a_minimal_cloud_event(received: tuple[Registry, list[Envelope]]) -> None:
    """The four attributes that CloudEvents 1.0 asks for are enough [L22]."""
    registry, envelopes = received

    handle_json(cloud_event(), registry=registry)

    (envelope,) = envelopes
    assert Order(number=1) == envelope.message
    assert ("1", "1", None) == (envelope.id, envelope.correlation_id, envelope.causation_id)
    assert {"source": "/shop"} == envelope.headers


@pytest.mark.parametrize("handle", [handle, ahandle])
def test_keeps_the_attributes_of_a_cloud_event(received: tuple[Registry, list[Envelope]], handle: Read) -> None:
    """Ids, time and extensions reach the handler, sync and async [L22]."""
    registry, envelopes = received
    payload = cloud_event(
        time="2026-11-23T12:00:00+01:00",
        datacontenttype="application/json; charset=utf-8",
        dataschema="https://example.org/order",
        subject="o-1",
        correlationid="c",
        causationid="d",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        count=3,
        absent=None,
    )

    handle(registry, payload)

    (envelope,) = envelopes
    assert aspects(envelope) == {
        "message": Order(number=1),
        "type": "Order",
        "id": "1",
        "correlation_id": "c",
        "causation_id": "d",
        "time": datetime(2026, 11, 23, 11, tzinfo=UTC),
        "attempt": 1,
        "headers": {
            "source": "/shop",
            "dataschema": "https://example.org/order",
            "subject": "o-1",
            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "count": "3",
        },
    }


@pytest.mark.parametrize("value", [True, False])
def test_reads_truth_as_cloud_events_write_it(received: tuple[Registry, list[Envelope]], value: bool) -> None:
    """In text a Boolean is "true" or "false" (CloudEvents 1.0, Type System)."""
    registry, envelopes = received

    handle_json(cloud_event(sampled=value), registry=registry)

    assert str(value).lower() == envelopes[0].headers["sampled"]


def test_reads_a_cloud_event_in_a_mapping() -> None:
    """As it does in JSON."""
    registry = new_registry()

    message = registry.validate(json.loads(cloud_event()))

    assert Order(number=1) == message


@pytest.mark.parametrize(
    ("attributes", "says"),
    [
        ({"specversion": "0.3"}, "specversion"),
        ({"specversion": 1.0}, "specversion"),
        ({"specversion": None}, "specversion"),
        ({"specversion": ...}, "specversion"),
        ({"id": ...}, "id"),
        ({"id": ""}, "id"),
        ({"id": 1}, "id"),
        ({"id": "x" * 100_000}, "id"),
        ({"source": ...}, "source"),
        ({"source": ""}, "source"),
        ({"type": ...}, "type"),
        ({"time": CANARY}, "time"),
        ({"time": "2026-11-23T12:00:00"}, "time"),
        ({"time": 1}, "time"),
        ({"datacontenttype": "application/xml"}, "datacontenttype"),
        ({"datacontenttype": CANARY}, "datacontenttype"),
        ({"data": ..., "data_base64": "eyJudW1iZXIiOjF9"}, "data_base64"),
        ({"data_base64": "eyJudW1iZXIiOjF9"}, "data_base64"),
        ({"correlationid": ""}, "correlationid"),
        ({"causationid": 5}, "causationid"),
        ({"Camel": CANARY}, "[a-z0-9]|letters"),
        ({CANARY: 1}, "[a-z0-9]|letters"),
        ({"x" * 65: 1}, "[a-z0-9]|letters"),
        ({"extension": {"deep": CANARY}}, "string"),
        ({"extension": [CANARY]}, "string"),
        ({"extension": 2**70}, "64 bits"),
    ],
    ids=lambda part: str(part)[:50],
)
@pytest.mark.parametrize("read", [validate_json, validate, handle])
def test_refuses_a_wrong_cloud_event(attributes: dict[str, Any], says: str, read: Read) -> None:
    """One error that says which attribute is wrong, and repeats nothing of it [L1]."""
    payload = cloud_event(**attributes)

    error = refusal(read, new_registry(), json.loads(payload) if read is validate else payload)

    assert re.search(says, str(error)), str(error)
    assert_clear(error)


def test_refuses_attributes_that_belong_to_no_cloud_event() -> None:
    """What stands beside type and data may be meant as data: it is not silently dropped [L1]."""
    registry = new_registry()

    error = refusal(validate_json, registry, b'{"type":"Order","data":{},"%b":1}' % CANARY.encode())

    assert "specversion" in str(error)
    assert_clear(error)


def test_cloud_event_comes_back_as_it_was_sent(received: tuple[Registry, list[Envelope]]) -> None:
    """Message, id, correlation id, causation id, time and headers [L22]."""
    registry, envelopes = received
    sent = Envelope(
        Order(number=1, text="ž"),
        id="1",
        correlation_id="c",
        causation_id="d",
        time=datetime(2026, 11, 23, 12, tzinfo=UTC),
        headers={"traceparent": "00-1-2-01", "subject": "o-1"},
    )

    handle_json(sent.to_cloudevent("/shop"), registry=registry)

    assert aspects(sent) | {"headers": {"source": "/shop", **sent.headers}} == aspects(envelopes[0])


def test_what_is_made_for_an_envelope_comes_back_too(received: tuple[Registry, list[Envelope]]) -> None:
    """Ids and time that nobody gave are made once, and are the same on the other side [L22]."""
    registry, envelopes = received
    sent = Envelope(Order(number=1))

    handle_json(sent.to_cloudevent("/shop"), registry=registry)

    assert aspects(sent) | {"headers": {"source": "/shop"}} == aspects(envelopes[0])


def test_cloud_event_is_written_as_the_standard_says() -> None:
    """The wire form of the message with the attributes of CloudEvents 1.0 beside it."""
    envelope = Envelope(
        Order(),
        id="1",
        correlation_id="c",
        causation_id="d",
        time=datetime(2026, 11, 23, 12, tzinfo=UTC),
        headers={"subject": "o-1"},
    )

    written = json.loads(envelope.to_cloudevent("/shop"))

    assert written == {
        "specversion": "1.0",
        "id": "1",
        "source": "/shop",
        "type": "Order",
        "time": "2026-11-23T12:00:00Z",
        "datacontenttype": "application/json",
        "correlationid": "c",
        "causationid": "d",
        "subject": "o-1",
        "data": json.loads(json.dumps({**Order().model_dump(mode="json")})),
    }


@pytest.mark.parametrize("name", ["id", "type", "data", "source", "specversion", "time", "datacontenttype"])
def test_header_stands_in_for_nothing_else(received: tuple[Registry, list[Envelope]], name: str) -> None:
    """A header of a stranger's message cannot change what the event says of itself."""
    registry, envelopes = received
    sent = Envelope(Order(number=1), id="1", headers={name: CANARY})

    payload = sent.to_cloudevent("/shop")
    handle_json(payload, registry=registry)

    assert CANARY.encode() not in payload
    assert ("1", {"source": "/shop"}) == (envelopes[0].id, envelopes[0].headers)


checked = settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
IDS = st.none() | st.text(max_size=3) | st.sampled_from(["x" * 1024, "x" * 1025, "\ud800"])


ENVELOPES = st.fixed_dictionaries(
    {},
    optional={
        "id": IDS,
        "correlation_id": IDS,
        "causation_id": IDS,
        "time": st.datetimes(timezones=st.sampled_from([None, UTC])),
        "headers": st.dictionaries(
            st.sampled_from(["subject", "traceparent", "X-Trace", "data_base64", "", "id", "data", "x" * 65]),
            st.text(max_size=3) | st.just("\ud800"),
            max_size=2,
        ),
    },
)


def test_what_is_sent_as_a_cloud_event_is_received(received: tuple[Registry, list[Envelope]]) -> None:
    """Whatever is put into an envelope is refused where it is sent, not where it is received [L1]."""
    registry, envelopes = received

    @checked
    @given(ENVELOPES, st.sampled_from(["/shop", "", "x" * 1025, "\ud800"]))
    def holds(attributes: dict[str, Any], source: str) -> None:
        try:
            sent = Envelope(Order(number=1), **attributes)
            payload = sent.to_cloudevent(source)
        except MessageBusError as error:
            assert len(str(error).encode()) <= 4096
            return

        handle_json(payload, registry=registry)

        own = {"id", "type", "data", "data_base64", "source", "specversion", "time", "datacontenttype", "correlationid"}
        headers = {name: value for name, value in sent.headers.items() if name not in own}
        assert aspects(sent) | {"headers": {"source": source, **headers}} == aspects(envelopes[-1])

    holds()


# Noise

VALID = cloud_event(time="2026-11-23T12:00:00Z", data={"number": 1, "anything": [{"a": 1.5}], "unique": [1, 2]})
PIECES = st.sampled_from(
    [
        b"[", b"]", b"{", b"}", b'"', b",", b":", b"\\", b"1e999", b"NaN", b"-", b"null", b"9" * 20, b"\xff", b"\x00",
        b"\\ud800", b'"type"', b'"Order"', b'"Line"', b'"data"', b'"specversion"', b'"anything"', b'"unique"',
        b"[" * 250, b"",
    ]
)  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good payload with some pieces cut out and others put in."""
    payload = VALID
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(payload)))
        end = draw(st.integers(start, min(start + 8, len(payload))))
        payload = payload[:start] + draw(PIECES) + payload[end:]
    return payload


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just("\ud800")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)
FIELDS = st.sampled_from([*Order.model_fields, *Card.model_fields, "street", "floor", "rooms", "kind", CANARY])


STRANGE = st.dictionaries(
    st.sampled_from(["type", "data", "specversion", "id", "source", "time"]) | st.text(max_size=3) | st.integers(),
    VALUES | st.just("Order") | st.binary(max_size=3) | st.tuples(VALUES),
    max_size=5,
)
FILLED = st.fixed_dictionaries(
    {"type": st.sampled_from(["Order", "Card", "Line"]), "data": st.dictionaries(FIELDS, VALUES, max_size=3)}
)


def test_custom_error_that_quotes_a_lone_surrogate_is_one_error() -> None:
    """What a validator of the application says need not be text that can be shown [L1]."""
    registry = Registry()
    registry.register(Card)

    with pytest.raises(InvalidMessageError) as caught:
        validate(registry, {"type": "Card", "data": {"custom": "\ud800"}})

    assert "Cannot read a message: Refused by a validator of the class." in str(caught.value)


@pytest.mark.parametrize(
    ("read", "payloads"),
    [
        (validate_json, damaged() | st.binary(max_size=30) | VALUES.map(json.dumps)),
        (validate_json, FILLED.map(json.dumps)),
        (validate, FILLED),
        (validate, STRANGE),
    ],
    ids=["noise", "wrong fields", "wrong fields in Python", "strange mappings"],
)
def test_whatever_comes_is_read_or_refused(read: Read, payloads: st.SearchStrategy[Any]) -> None:
    """Nothing but a message or an `InvalidMessageError` ever comes out of the door [L1]."""
    registry = new_registry()
    registry.register(Card)

    @checked
    @given(payloads)
    def holds(payload: Any) -> None:
        try:
            message = read(registry, payload)
        except InvalidMessageError as error:
            assert_clear(error)
        else:
            assert isinstance(message, Order | Line | Count | Card)

    holds()


if __name__ == "__main__":
    measure(Path(sys.argv[1]))
