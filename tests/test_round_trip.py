"""What the bus accepts, it can write and read back; for classes and values that nobody thought of."""

import enum
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, example, given, reject, settings
from hypothesis import strategies as st
from pydantic import (
    AfterValidator,
    AliasChoices,
    AllowInfNan,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Json,
    JsonValue,
    PlainSerializer,
    SecretStr,
    StringConstraints,
    ValidationError,
    WrapSerializer,
    computed_field,
    create_model,
)
from pydantic.fields import FieldInfo
from pydantic_core import to_json as dump_json

from messagebus import (
    Command,
    Event,
    InvalidMessageError,
    Message,
    MessageClassError,
    Private,
    Registry,
    UnwritableMessageError,
    to_json,
)

CANARY = "canary-4111"

# Nothing is timed, and the same examples come every time: a red run is a defect, never the weather.
checked = settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)


# Kinds of fields


class Colour(enum.Enum):
    RED = 1
    GREEN = "green"
    PAIR = (1, 2)


class Level(enum.IntEnum):
    LOW = 1
    BEYOND = 2**70


class Plain(BaseModel):
    count: int = 0
    ratio: float = 0.0
    raw: bytes = b""
    anything: Any = None


class Tree(BaseModel):
    branches: "list[Tree]" = []


class Inner(Event):
    count: int = 0
    text: str = ""


class Richer(Inner):
    more: int = 0


@dataclass(frozen=True)
class Kind:
    """A type of a field, with values for it, right and wrong."""

    annotation: Any
    values: st.SearchStrategy[Any]

    def __repr__(self) -> str:
        return str(self.annotation)


def annotated(annotation: Any, *extras: Any) -> Any:
    return Annotated[(annotation, *extras)]


TEXTS = st.one_of(
    st.text(max_size=5),
    st.characters().map(lambda character: CANARY + character),
    st.sampled_from([CANARY, "", "\x00", "\ud800", "\udcff", "1", "true", "null", "ß", "ŉ", "İ", "2020-01-01", "  a "]),
)
INTEGERS = st.integers() | st.sampled_from(
    [2**53 + 1, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64, 10**400, True, False]
)
FLOATS = st.floats() | st.sampled_from([-0.0, 5e-324, 1e16, 1e22, 2.0**63, 2.0**64, 1.7976931348623157e308]) | INTEGERS
DATES = st.dates() | st.sampled_from([date.min, date.max, date(1970, 1, 10), date(2024, 2, 29)])
ZONES = st.sampled_from(
    [None, UTC, ZoneInfo("Europe/Prague"), timezone(timedelta(hours=5, minutes=30, seconds=15))]
)
DATETIMES = st.datetimes(timezones=ZONES, allow_imaginary=True) | st.sampled_from([datetime.min, datetime.max])
TIMEDELTAS = st.timedeltas() | st.sampled_from([timedelta.min, timedelta.max, timedelta(microseconds=-1)])
DECIMALS = st.decimals().filter(lambda number: not number.is_snan()) | st.sampled_from([Decimal("-0"), Decimal("1E+999999"), Decimal("1e-30")])
UUIDS = st.uuids() | st.sampled_from([str(UUID(int=1)), UUID(int=0)])
PLAINS = st.builds(Plain, count=INTEGERS.filter(lambda n: True), raw=st.binary(max_size=3))
ANYTHING = st.recursive(
    st.one_of(
        st.none(), st.booleans(), INTEGERS, st.floats(), TEXTS, st.binary(max_size=3), DATES, DATETIMES, DECIMALS, UUIDS,
        st.sampled_from([*Colour, *Level, object(), Plain(), Inner(count=1), SecretStr(CANARY)]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.one_of(TEXTS, st.integers(), st.none(), st.tuples(st.integers())), inner, max_size=3),
    ),
    max_leaves=5,
)  # fmt: skip


def add_one(value: Any) -> Any:
    return value + 1


def broken(_value: Any) -> Any:
    raise RuntimeError(CANARY)


SIMPLE = [
    Kind(int, INTEGERS),
    Kind(float, FLOATS),
    Kind(bool, st.booleans() | INTEGERS),
    Kind(str, TEXTS),
    Kind(bytes, st.binary(max_size=5) | TEXTS),
    Kind(date, DATES),
    Kind(datetime, DATETIMES),
    Kind(time, st.times(timezones=st.sampled_from([None, UTC]))),
    Kind(timedelta, TIMEDELTAS),
    Kind(Decimal, DECIMALS),
    Kind(UUID, UUIDS),
    Kind(Colour, st.sampled_from(Colour)),
    Kind(Level, st.sampled_from(Level)),
    Kind(Literal[1, "x", True, None], st.sampled_from([1, "x", True, None, 2])),
    Kind(Literal[2**70], st.just(2**70)),
    Kind(Literal[b"raw"], st.just(b"raw")),
    Kind(PurePosixPath, TEXTS),
    Kind(None, st.none()),
]
CURIOUS = [
    Kind(Any, ANYTHING),
    Kind(object, ANYTHING),
    Kind(JsonValue, ANYTHING),
    Kind(SecretStr, TEXTS),
    Kind(Json, st.just('{"a": 1}')),
    Kind(annotated(str, Private), TEXTS),
    Kind(annotated(str | None, Private), TEXTS | st.none()),
    Kind(Plain, PLAINS),
    Kind(Tree, st.integers(0, 3).map(lambda deep: tree(deep))),
    Kind(Inner, st.builds(Inner, count=st.integers(-5, 5), text=st.text(max_size=3)) | st.just(Richer(more=1))),
    Kind(Message, st.just(Inner())),
    Kind(annotated(int, Field(le=10**30)), INTEGERS),
    Kind(annotated(int, Field(gt=-(10**30), lt=10**30)), INTEGERS),
    Kind(annotated(float, AllowInfNan()), FLOATS),
    Kind(annotated(float, Field(multiple_of=0.1)), FLOATS),
    Kind(annotated(str, StringConstraints(to_upper=True, max_length=3)), TEXTS),
    Kind(annotated(str, StringConstraints(to_lower=True, pattern="[A-Zİ]")), TEXTS),
    Kind(annotated(str, StringConstraints(strip_whitespace=True)), TEXTS),
    Kind(annotated(int, AfterValidator(add_one)), st.integers(-9, 9)),
    Kind(annotated(int, BeforeValidator(add_one)), st.integers(-9, 9)),
    Kind(annotated(str, AfterValidator(str.upper)), TEXTS),
    Kind(annotated(int, PlainSerializer(add_one)), st.integers(-9, 9)),
    Kind(annotated(int, PlainSerializer(broken)), st.integers(-9, 9)),
    Kind(annotated(int, PlainSerializer(lambda _: 2**70)), st.integers(-9, 9)),
    Kind(annotated(str, WrapSerializer(lambda value, write: write(value)[::-1])), TEXTS),
]
HASHABLE = (int, float, str, bytes, date, Decimal, UUID, Colour)


def tree(depth: int) -> Tree:
    root = Tree()
    for _ in range(depth):
        root = Tree(branches=[root])
    return root


def grown(kinds: st.SearchStrategy[Kind]) -> st.SearchStrategy[Kind]:
    """Return kinds made of other kinds."""
    keys = st.sampled_from([kind for kind in SIMPLE if kind.annotation in HASHABLE])
    pairs = Kind(tuple[int, int], st.tuples(st.integers(0, 9), st.integers(0, 9)))
    return st.one_of(
        kinds.map(lambda kind: Kind(list[kind.annotation], st.lists(kind.values, max_size=3))),
        kinds.map(lambda kind: Kind(tuple[kind.annotation, ...], st.lists(kind.values, max_size=3).map(tuple))),
        kinds.map(lambda kind: Kind(tuple[kind.annotation, int], st.tuples(kind.values, st.integers(0, 9)))),
        keys.map(lambda kind: Kind(set[kind.annotation], st.sets(kind.values, max_size=3))),
        keys.map(lambda kind: Kind(frozenset[kind.annotation], st.frozensets(kind.values, max_size=3))),
        st.tuples(keys | st.just(pairs), kinds).map(
            lambda two: Kind(
                dict[two[0].annotation, two[1].annotation],
                st.dictionaries(two[0].values, two[1].values, max_size=3),
            )
        ),
        kinds.map(lambda kind: Kind(kind.annotation | None if kind.annotation else None, kind.values | st.none())),
        st.tuples(kinds, kinds).map(
            lambda two: Kind(two[0].annotation | two[1].annotation, two[0].values | two[1].values)
            if two[0].annotation and two[1].annotation
            else two[0]
        ),
    )


KINDS = st.recursive(st.sampled_from(SIMPLE) | st.sampled_from(SIMPLE + CURIOUS), grown, max_leaves=3)


# Classes of messages


class Open(Command):
    model_config = ConfigDict(extra="allow")


class Lax(Command):
    model_config = ConfigDict(allow_inf_nan=True, validate_default=False, frozen=False)


class Utf8(Command):
    model_config = ConfigDict(ser_json_bytes="utf8", val_json_bytes="utf8")


class Strict(Command):
    model_config = ConfigDict(strict=True)


class Upper(Command):
    model_config = ConfigDict(str_to_upper=True, str_max_length=20)


class Milliseconds(Command):
    model_config = ConfigDict(ser_json_temporal="milliseconds")


class Seconds(Command):
    model_config = ConfigDict(ser_json_temporal="seconds")


class ByName(Command):
    model_config = ConfigDict(populate_by_name=True)


class OnlyByName(Command):
    model_config = ConfigDict(validate_by_name=True, validate_by_alias=False)


class Computed(Command):
    @computed_field
    def twice(self) -> int:
        return 2


class Restarted(Command):
    """Reads each integer as the next one, once more each time it is made."""

    def __init__(self, **data: Any) -> None:
        super().__init__(**{name: value + 1 if type(value) is int else value for name, value in data.items()})


BASES = [
    Command, Command, Command, Event, Open, Lax, Utf8, Strict, Upper, Milliseconds, Seconds, ByName, OnlyByName,
    Computed, Restarted,
]  # fmt: skip


def field_of(mode: str, kind: Kind, value: Any) -> FieldInfo:
    """Return a way to declare a field."""
    match mode:
        case "alias":
            return Field(alias="alias")
        case "validation alias":
            return Field(validation_alias=AliasChoices("alias", "other"))
        case "serialization alias":
            return Field(serialization_alias="alias")
        case "default":
            return Field(default=value)
        case "wrong default":
            return Field(default=object())
        case "exclude":
            return Field(default=value, exclude=True)
        case "exclude if":
            return Field(default=None, exclude_if=lambda current: current is value or current == value)
    return Field()


MODES = ["", "", "", "alias", "validation alias", "serialization alias", "default", "wrong default", "exclude",
         "exclude if"]  # fmt: skip


@st.composite
def classes_and_data(draw: st.DrawFn) -> tuple[type[Message], dict[str, Any]]:
    """A message class of one to three fields, and the arguments to make a message of it."""
    fields: dict[str, Any] = {}
    data: dict[str, Any] = {}
    base = draw(st.sampled_from(BASES))
    for number in range(draw(st.integers(1, 3))):
        kind, mode = draw(KINDS), draw(st.sampled_from(MODES)) if number == 0 else ""
        name = f"field_{number}"
        fields[name] = (kind.annotation, field_of(mode, kind, draw(kind.values)))
        is_aliased = "alias" in mode and mode != "serialization alias" and base is not OnlyByName
        if draw(st.booleans()) or "default" not in mode:
            data["alias" if is_aliased else name] = draw(kind.values)
    if base is Open:
        data["extra"] = draw(ANYTHING)
    try:
        cls = create_model("Generated", __base__=base, __module__=__name__, **fields)
    except Exception:  # noqa: BLE001 - a class that pydantic itself does not take
        reject()
    return cls, data


def test_a_message_reads_back_equal_or_is_refused() -> None:
    """The property itself: nothing is accepted and then lost or changed [L1, L2, L3]."""

    @checked
    @given(classes_and_data())
    def holds(given_: tuple[type[Message], dict[str, Any]]) -> None:
        cls, data = given_

        assert_comes_back(cls, data)

    holds()


def assert_comes_back(cls: type[Message], data: dict[str, Any]) -> str:
    """Go the whole way; say where it ended."""
    registry = Registry()
    try:
        registry.register(cls)
    except MessageClassError as error:
        assert_bounded(error)
        return "class refused"
    try:
        message = cls(**data)
    except Exception:  # noqa: BLE001 - pydantic's, or what a validator of the class raised
        return "values refused"
    try:
        payload = to_json(message)
    except UnwritableMessageError as error:
        assert_bounded(error)
        return "not written"
    assert message == registry.validate_json(payload)
    return "read back"


def assert_bounded(error: Exception) -> None:
    assert len(str(error).encode()) <= 4096
    assert CANARY not in str(error)
    assert CANARY not in repr(error)
