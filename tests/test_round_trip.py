"""What the bus accepts, it can write and read back; for classes and values that nobody thought of."""

import enum
import json
import math
import traceback
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, reject, settings
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
    WrapSerializer,
    computed_field,
    create_model,
)
from pydantic.fields import FieldInfo

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
    max_examples=400,
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
ZONES = st.sampled_from([None, UTC, ZoneInfo("Europe/Prague"), timezone(timedelta(hours=5, minutes=30, seconds=15))])
DATETIMES = st.datetimes(timezones=ZONES, allow_imaginary=True) | st.sampled_from([datetime.min, datetime.max])
TIMEDELTAS = st.timedeltas() | st.sampled_from([timedelta.min, timedelta.max, timedelta(microseconds=-1)])
DECIMALS = st.decimals().filter(lambda number: not number.is_snan()) | st.sampled_from(
    [Decimal("-0"), Decimal("1E+999999"), Decimal("1e-30")]
)
UUIDS = st.uuids() | st.sampled_from([str(UUID(int=1)), UUID(int=0)])
PLAINS = st.builds(Plain, count=INTEGERS, raw=st.binary(max_size=3))
ANYTHING = st.recursive(
    st.one_of(
        st.none(), st.booleans(), INTEGERS, st.floats(), TEXTS, st.binary(max_size=3), DATES, DATETIMES, DECIMALS,
        UUIDS, st.sampled_from([*Colour, *Level, object(), Plain(), Inner(count=1), SecretStr(CANARY)]),
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
    Kind(Literal[1, "x", True] | None, st.sampled_from([1, "x", True, None, 2])),
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
            lambda two: (
                Kind(two[0].annotation | two[1].annotation, two[0].values | two[1].values)
                if two[0].annotation and two[1].annotation
                else two[0]
            )
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
    except Exception:  # a class that pydantic itself does not take
        reject()
    return cls, data


def assert_comes_back(cls: type[Message], data: dict[str, Any]) -> str:
    """Go the whole way; say where it ended."""
    registry = Registry()
    try:
        registry.register(cls)
    except MessageClassError as error:
        assert_clear(error)
        return "class refused"
    try:
        message = cls(**data)
    except Exception:  # pydantic's, or what a validator of the class raised
        return "values refused"
    try:
        payload = to_json(message)
    except UnwritableMessageError as error:
        assert_clear(error)
        return "not written"
    assert message == registry.validate_json(payload, max_bytes=len(payload))
    return "read back"


def assert_clear(error: Exception) -> None:
    """An error of ours is bounded, and repeats no value."""
    shown = "".join(traceback.format_exception(error))
    assert len(str(error).encode()) <= 4096
    assert CANARY not in shown + repr(error)


def test_a_generated_message_reads_back_equal_or_is_refused() -> None:
    """The promise itself: whatever is accepted is written and read back [L1, L2, L3]."""

    @checked
    @given(classes_and_data())
    def holds(generated: tuple[type[Message], dict[str, Any]]) -> None:
        assert_comes_back(*generated)

    holds()


class Everything(Command):
    """A field of every kind, to be filled from JSON."""

    number: int = 0
    ratio: float = 0.0
    flag: bool = False
    text: str = ""
    raw: bytes = b""
    day: date | None = None
    moment: datetime | None = None
    clock: time | None = None
    span: timedelta | None = None
    price: Decimal = Decimal(0)
    key: UUID | None = None
    colour: Colour = Colour.RED
    level: Level = Level.LOW
    word: Literal["a", "b", 3] = "a"
    path: PurePosixPath = PurePosixPath()
    token: Annotated[str, Private] = ""
    secret: SecretStr | None = None
    anything: Any = None
    value: JsonValue = None
    either: int | str | None = None
    when: date | datetime | str | None = None
    items: list[int | None] = []
    pair: tuple[int, str] | None = None
    unique: set[float] = set()
    fixed: frozenset[str] = frozenset()
    counts: dict[int, int] = {}
    days: dict[date, list[str]] = {}
    plain: Plain | None = None
    tree: Tree | None = None
    inner: Inner | None = None
    embedded: Json[Any] | None = None


WORDS = st.sampled_from(
    [
        "", "1", "-0", "1e5", "9223372036854775808", "NaN", "inf", "true", "null", "red", "green", "a", "/a/b", "YWJj",
        "2020-01-01", "2020-01-01T01:02:03+05:30", "0001-01-01T00:00:00Z", "23:59:60", "P1DT1S", "-P999999999D",
        "1E+999", "00000000-0000-0000-0000-000000000001", "**********", "\ud800", "\x00", CANARY, '{"a": 1}', "[NaN]",
    ]
)  # fmt: skip
NAMES = st.sampled_from([*Plain.model_fields, *Inner.model_fields, "branches", "1", "2020-01-01", CANARY])
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), INTEGERS, st.floats(), WORDS, st.text(max_size=3)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=4,
)


def test_what_came_in_as_json_goes_out_and_comes_in_again() -> None:
    """A payload that the door takes makes a message that can be sent on, or that says why not [L1]."""
    registry = Registry()
    registry.register(Everything)

    @checked
    @given(st.dictionaries(st.sampled_from([*Everything.model_fields]), JSON, min_size=1, max_size=3))
    def holds(data: dict[str, Any]) -> None:
        try:
            message = registry.validate_json(json.dumps({"type": "Everything", "data": data}))
            payload = to_json(message)
        except InvalidMessageError as error:
            assert_clear(error)
        else:
            assert message == registry.validate_json(payload)

    holds()


# What pydantic writes and does not read back, or not as it was.


class WithTupleKeys(Command):
    places: dict[tuple[int, int], int]


class WithSerializer(Command):
    number: Annotated[int, PlainSerializer(add_one)]


class WithValidator(Command):
    number: Annotated[int, AfterValidator(add_one)]


class WithAmbiguousUnion(Command):
    when: str | date


class WithAnything(Command):
    anything: Any


class WithExtra(Command):
    model_config = ConfigDict(extra="allow")


class WithPlain(Command):
    plain: Plain


class WithTree(Command):
    tree: Tree


class WithBase(Command):
    plain: BaseModel


class WithWideInteger(Command):
    number: Annotated[int, Field(le=10**30, ge=-(10**30))]


class WithWideLiteral(Command):
    number: Literal[2**70]


class WithInfinity(Command):
    ratio: Annotated[float, AllowInfNan()]


class WithUpperCase(Command):
    text: Annotated[str, StringConstraints(to_upper=True, max_length=1)]


class WithLowerCase(Command):
    text: Annotated[str, StringConstraints(to_lower=True, pattern="[A-Z]")]


class WithExclusion(Command):
    number: int = Field(default=0, exclude=True)


class WithExclusionIf(Command):
    number: int = Field(default=0, exclude_if=lambda number: number == 5)


class WithComputedField(Command):
    @computed_field
    def twice(self) -> int:
        return 2


class WithNameOnly(Command):
    model_config = ConfigDict(validate_by_name=True, validate_by_alias=False)

    number: int = Field(alias="n")


class WithOutgoingName(Command):
    number: int = Field(serialization_alias="n")


class WithIncomingName(Command):
    number: int = Field(validation_alias="n")


class WithMoment(Command):
    moment: datetime


class WithMilliseconds(Command):
    model_config = ConfigDict(ser_json_temporal="milliseconds")

    day: date


class WithSeconds(Command):
    model_config = ConfigDict(ser_json_temporal="seconds")

    day: date


class WithInit(Command):
    number: int

    def __init__(self, **data: Any) -> None:
        super().__init__(number=data["number"] + 1)


class WithOpenValidator(Command):
    either: timedelta | Annotated[int, BeforeValidator(add_one)]


class Unequal(BaseModel):
    """Cannot be compared."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError(CANARY)

    __hash__ = None


class WithUnequal(Command):
    unequal: Unequal


def nested(depth: int) -> Any:
    value: Any = None
    for _ in range(depth):
        value = [value]
    return value


CURIOSITIES: list[tuple[type[Message], dict[str, Any]]] = [
    (WithTupleKeys, {"places": {(1, 2): 3}}),
    (WithSerializer, {"number": 1}),
    (WithValidator, {"number": 1}),
    (WithAmbiguousUnion, {"when": date(2020, 1, 1)}),
    (WithAnything, {"anything": {CANARY}}),
    (WithAnything, {"anything": (CANARY,)}),
    (WithAnything, {"anything": object()}),
    (WithAnything, {"anything": "\ud800" + CANARY}),
    (WithAnything, {"anything": math.nan}),
    (WithAnything, {"anything": math.inf}),
    (WithAnything, {"anything": 2**63}),
    (WithAnything, {"anything": -(2**63) - 1}),
    (WithAnything, {"anything": {"deep": [2**64]}}),
    (WithAnything, {"anything": SecretStr(CANARY)}),
    (WithAnything, {"anything": nested(254)}),
    (WithAnything, {"anything": nested(100_000)}),
    (WithExtra, {"more": "\ud800" + CANARY}),
    (WithExtra, {"more": object()}),
    (WithPlain, {"plain": Plain(count=2**63)}),
    (WithPlain, {"plain": Plain(ratio=math.nan)}),
    (WithPlain, {"plain": Plain(raw=b"\xff")}),
    (WithBase, {"plain": Plain()}),
    (WithTree, {"tree": tree(100)}),
    (WithWideInteger, {"number": 10**25}),
    (WithWideInteger, {"number": -(10**25)}),
    (WithWideLiteral, {"number": 2**70}),
    (WithInfinity, {"ratio": math.inf}),
    (WithUpperCase, {"text": "ß"}),
    (WithLowerCase, {"text": "A"}),
    (WithExclusion, {"number": 5}),
    (WithExclusionIf, {"number": 5}),
    (WithComputedField, {}),
    (WithNameOnly, {"number": 5}),
    (WithOutgoingName, {"number": 5}),
    (WithIncomingName, {"n": 5}),
    (WithMoment, {"moment": datetime(2020, 1, 1, tzinfo=timezone(timedelta(hours=5, minutes=30, seconds=15)))}),
    (WithMoment, {"moment": datetime(2020, 10, 25, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Prague"))}),
    (WithMilliseconds, {"day": date(1970, 1, 10)}),
    (WithSeconds, {"day": date(1, 1, 1)}),
    (WithInit, {"number": 5}),
    (WithOpenValidator, {"either": timedelta(1)}),
    (WithUnequal, {"unequal": Unequal()}),
]


@pytest.mark.parametrize(("cls", "data"), CURIOSITIES, ids=lambda part: getattr(part, "__name__", ""))
def test_what_is_curious_reads_back_equal_or_is_refused(cls: type[Message], data: dict[str, Any]) -> None:
    """The class, the value or the writing is refused, or nothing is lost [L1, L3]; each was lost once, or might be."""
    assert_comes_back(cls, data)


@pytest.mark.parametrize("depth", range(190, 210))
def test_what_is_written_is_not_too_deep_to_be_read(depth: int) -> None:
    """The limit of the parser counts the levels around the data too [L1]."""
    assert_comes_back(WithAnything, {"anything": nested(depth)})


ORDINARY: list[tuple[Any, Any]] = [
    (int, 2**63 - 1),
    (int, -(2**63)),
    (float, 5e-324),
    (float, 1e22),
    (float, 12345678901234567890.0),
    (bool, True),
    (str, "ž\x00\U0001f600"),
    (bytes, bytes(range(256))),
    (date, date.min),
    (datetime, datetime.max),
    (datetime, datetime(2020, 6, 1, 12, 30, 15, 123456, tzinfo=ZoneInfo("Europe/Prague"))),
    (time, time(1, 2, 3, 4)),
    (timedelta, timedelta(days=-5, microseconds=3)),
    (Decimal, Decimal("1.10")),
    (UUID, UUID(int=1)),
    (Colour, Colour.GREEN),
    (Level, Level.LOW),
    (Literal["a", 1, True], 1),
    (PurePosixPath, PurePosixPath("/a/b")),
    (Annotated[str, Private], CANARY),
    (Any, {"a": [1, 2.5, None, True, "x"]}),
    (JsonValue, {"a": [1, 2.5, None, True, "x"]}),
    (int | None, None),
    (int | str, "1"),
    (int | float, 1.0),
    (date | datetime, datetime(2020, 1, 1)),  # a value without zone is the point
    (list[int], [1, 1]),
    (tuple[int, ...], (1, 1)),
    (tuple[int, str], (1, "1")),
    (set[int], {1, 2}),
    (frozenset[str], frozenset({"a"})),
    (dict[str, float], {"a": 0.1}),
    (dict[int, int], {1: 2}),
    (dict[date, int], {date(2020, 1, 1): 2}),
    (dict[UUID, tuple[int, ...]], {UUID(int=1): (1,)}),
    (Plain, Plain(count=1, raw=b"abc")),
    (tuple[Inner, ...], (Inner(count=1), Inner(text="x"))),
    (Tree, tree(3)),
]


@pytest.mark.parametrize(("annotation", "value"), ORDINARY, ids=str)
def test_ordinary_values_come_back(annotation: Any, value: Any) -> None:
    """What people put into messages is not refused for the sake of what they do not [L2]."""
    cls = create_model("Ordinary", __base__=Command, __module__=__name__, value=(annotation, ...))

    outcome = assert_comes_back(cls, {"value": value})

    assert outcome == "read back"
