"""Messages: frozen, closed, named on the wire, written once, and silent about what is private."""

import asyncio
import json
import pickle
import re
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Generator, Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from fractions import Fraction
from ipaddress import IPv4Address, IPv6Network
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
import structlog
from pydantic import (
    AfterValidator,
    AnyUrl,
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    ImportString,
    Json,
    JsonValue,
    PlainSerializer,
    PositiveInt,
    RootModel,
    SecretBytes,
    SecretStr,
    ValidationError,
    create_model,
    field_serializer,
)
from pydantic.dataclasses import dataclass as pydantic_dataclass
from structlog.testing import LogCapture
from typing_extensions import TypedDict

from messagebus import (
    AsyncMessageBus,
    Command,
    Event,
    InvalidMessageError,
    Message,
    MessageBus,
    MessageClassError,
    NotAMessageError,
    Private,
    Registry,
    ReturnMessage,
    UnwritableMessageError,
    handle_message,
    to_json,
    wire_name,
)

CANARY = "canary-4111"


class PlaceOrder(Command):
    order_id: str
    quantity: PositiveInt = 1


class OrderPlaced(Event):
    order_id: str


class Confirmation(ReturnMessage):
    order_id: str


class Ship(Command, name="shop.ship"):
    order_id: str


# What a message is


@pytest.mark.parametrize("message", [PlaceOrder(order_id="a"), OrderPlaced(order_id="a"), Confirmation(order_id="a")])
def test_message_is_frozen(message: Message) -> None:
    """What was said is not changed afterwards."""
    with pytest.raises(ValidationError, match="frozen"):
        message.order_id = "b"


def test_equal_messages_are_equal_and_have_one_hash() -> None:
    """A message is its values; its identity stands in the envelope [L22]."""
    one, other = PlaceOrder(order_id="a"), PlaceOrder(order_id="a")

    assert one == other
    assert hash(one) == hash(other)
    assert one != PlaceOrder(order_id="b")


@pytest.mark.parametrize(
    ("cls", "field", "value"),
    [
        (PlaceOrder, "colour", "red"),
        (PlaceOrder, "order_id", 5),
        (PlaceOrder, "quantity", 0),
        (PlaceOrder, "quantity", "two"),
        (PlaceOrder, "quantity", 2**63),
        (PlaceOrder, "quantity", -(2**63) - 1),
    ],
)
def test_wrong_values_are_refused_when_a_message_is_made(cls: type[Message], field: str, value: Any) -> None:
    """An instance was validated when it was made, and is so wherever it goes [L2]."""
    with pytest.raises(ValidationError) as caught:
        cls(**{"order_id": "a", field: value})

    assert field == caught.value.errors()[0]["loc"][0]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), "nan", "1e999"])
def test_numbers_that_json_does_not_have_are_refused(value: Any) -> None:
    """NaN and infinities would be written as null [L1]."""

    class Measured(Event):
        value: float

    with pytest.raises(ValidationError, match="finite"):
        Measured(value=value)


@pytest.mark.parametrize("value", [2**63, "9223372036854775808", -(2**63) - 1])
@pytest.mark.parametrize(
    ("annotation", "wrap"),
    [
        (int, lambda value: value),
        (int | None, lambda value: value),
        (list[int], lambda value: [value]),
        (set[int], lambda value: [value]),
        (dict[int, str], lambda value: {value: ""}),
        (dict[str, tuple[int, ...]], lambda value: {"": [value]}),
    ],
    ids=str,
)
def test_integers_beyond_64_bits_are_refused(annotation: Any, wrap: Callable[[Any], Any], value: Any) -> None:
    """In all fields of a message, at any depth: chosen ones make sets and dicts quadratic [L1]."""
    cls = create_model("Counted", __base__=Event, __module__=__name__, value=(annotation, ...))

    with pytest.raises(ValidationError):
        cls(value=wrap(value))


def test_limits_of_a_field_stay_what_they_were() -> None:
    """The bound of 64 bits is added to what the field says, not put in its place."""

    class Rated(Event):
        stars: Annotated[int, Field(ge=1, lt=6)]

    assert 5 == Rated(stars=5).stars
    with pytest.raises(ValidationError):
        Rated(stars=6)
    with pytest.raises(ValidationError):
        Rated(stars=0)


def test_defaults_are_validated() -> None:
    """A wrong default is found by the first message, not by the first reader [L2]."""

    class Wrong(Command):
        number: int = "one"

    with pytest.raises(ValidationError):
        Wrong()


def test_subclass_may_set_its_own_config() -> None:
    """The strictness is a default, and the application's to change."""

    class Lenient(Event):
        model_config = ConfigDict(extra="ignore", str_strip_whitespace=True)

        text: str

    assert Lenient(text="a") == Lenient(text=" a ", more=1)
    assert Lenient.model_config["frozen"] is True


def test_field_may_be_called_self_or_data() -> None:
    """No name is taken from the application by the signature."""

    class Odd(Event):
        data: int
        name: str

    assert {"data": 1, "name": "a"} == Odd(data=1, name="a").model_dump()


# Errors of making one


def test_note_says_which_field_was_meant() -> None:
    """In Python as in JSON a misspelt field is met with the right one."""
    with pytest.raises(ValidationError) as caught:
        PlaceOrder(order_di="a")

    assert [f"{__name__}.PlaceOrder has no field 'order_di'. Did you mean 'order_id'?"] == caught.value.__notes__


def test_no_note_where_nothing_is_near() -> None:
    """A guess that is none helps nobody."""
    with pytest.raises(ValidationError) as caught:
        PlaceOrder(order_id="a", colour="red")

    assert [] == getattr(caught.value, "__notes__", [])


def test_pydantic_error_shows_no_values() -> None:
    """Neither its text nor its representation [L1, L21]."""
    with pytest.raises(ValidationError) as caught:
        PlaceOrder(order_id=[CANARY], quantity=CANARY)

    assert CANARY not in str(caught.value) + repr(caught.value)


# Wire names


def test_wire_name_is_the_name_of_the_class() -> None:
    """Nothing has to be written down for it."""
    assert "PlaceOrder" == wire_name(PlaceOrder)


def test_wire_name_can_be_pinned() -> None:
    """So that the class can be renamed, and two classes of one name can live in one registry."""
    assert "shop.ship" == wire_name(Ship)
    assert b'{"type":"shop.ship","data":{"order_id":"a"}}' == to_json(Ship(order_id="a"))


def test_pinned_name_is_not_inherited() -> None:
    """Two classes never have one name by accident."""

    class ShipFast(Ship):
        pass

    assert "ShipFast" == wire_name(ShipFast)


@pytest.mark.parametrize("name", ["", " ", "a b", "1a", "-a", "a\n", "á", "a" * 201, "os system", '"', "\x00"])
def test_wire_name_that_an_engine_would_not_take_is_refused(name: str) -> None:
    """It becomes a subject, a routing key, a header; the class is not made."""
    with pytest.raises(MessageClassError, match="wire name"):
        type(Command)("Odd", (Command,), {"__module__": __name__}, name=name)


@pytest.mark.parametrize("name", ["a", "shop.place_order", "shop/place-order:v1", "_X", "a" * 200])
def test_wire_name_may_have_parts(name: str) -> None:
    """What people pin: modules, versions, paths."""
    cls = type(Command)("Named", (Command,), {"__module__": __name__}, name=name)

    assert name == wire_name(cls)


# JSON out


def test_writes_a_message() -> None:
    """The wire form, in UTF-8 [L2]."""
    assert '{"type":"PlaceOrder","data":{"order_id":"ž","quantity":2}}'.encode() == to_json(
        PlaceOrder(order_id="ž", quantity=2)
    )


@pytest.mark.parametrize("kind", [list, tuple, iter, deque], ids=lambda kind: kind.__name__)
def test_writes_several_messages_as_an_array(kind: Callable[[Iterable[Message]], Iterable[Message]]) -> None:
    """In their order, from any iterable."""
    messages = [PlaceOrder(order_id="a"), OrderPlaced(order_id="b")]

    written = to_json(kind(messages))

    assert (
        b'[{"type":"PlaceOrder","data":{"order_id":"a","quantity":1}},{"type":"OrderPlaced","data":{"order_id":"b"}}]'
        == written
    )


def test_writes_no_messages_as_an_empty_array() -> None:
    """What a run without return messages leads to."""
    assert b"[]" == to_json([])


def test_writes_bytes_in_base64() -> None:
    """Any bytes survive, not only those that are text."""

    class Scanned(Event):
        raw: bytes

    registry = Registry()
    registry.register(Scanned)
    message = Scanned(raw=bytes(range(256)))

    assert message == registry.validate_json(to_json(message))
    assert b'{"type":"Scanned","data":{"raw":"_w=="}}' == to_json(Scanned(raw=b"\xff"))


def test_writes_by_alias() -> None:
    """The wire uses the names that the reader takes."""

    class Renamed(Event):
        order_id: str = Field(alias="orderId")

    registry = Registry()
    registry.register(Renamed)
    message = Renamed(orderId="a")

    assert b'{"type":"Renamed","data":{"orderId":"a"}}' == to_json(message)
    assert message == registry.validate_json(to_json(message))


@pytest.mark.parametrize(
    "value",
    [{"order_id": "a"}, [{"order_id": "a"}], PlaceOrder, [PlaceOrder], "text", b"{}", 1, None, [None], BaseModel],
    ids=repr,
)
def test_writes_messages_only(value: Any) -> None:
    """A dict where a message belongs is named as such."""
    with pytest.raises(NotAMessageError):
        to_json(value)


@pytest.mark.parametrize("several", [False, True])
def test_refusal_to_write_names_class_and_field(several: bool) -> None:
    """Of several messages, that of the one which cannot be written; and no value of it [L1, L21]."""

    class Login(Command):
        user: str = "u"
        password: SecretStr

    messages = [PlaceOrder(order_id="a"), Login(password=CANARY)]

    with pytest.raises(UnwritableMessageError) as caught:
        to_json(messages if several else messages[1])

    assert ("password", f"{__name__}.{Login.__qualname__}") == (caught.value.field, caught.value.message_type)
    assert CANARY not in str(caught.value) + repr(caught.value)
    assert caught.value.__cause__ is None


# Once, or not at all


class Costly(Command):
    """Counts how often its text is made JSON."""

    text: str

    @field_serializer("text")
    def write(self, text: str) -> str:
        written.append(text)
        return text


written: list[str] = []


def run(bus: MessageBus | AsyncMessageBus) -> list[ReturnMessage]:
    return bus() if isinstance(bus, MessageBus) else asyncio.run(bus())


@pytest.mark.parametrize("bus_class", [MessageBus, AsyncMessageBus])
@pytest.mark.parametrize(("level", "times"), [("disabled", 0), ("info", 0), ("debug", 1)])
def test_json_is_made_once_and_only_if_it_is_asked_for(
    bus_class: type[MessageBus | AsyncMessageBus], level: Any, times: int
) -> None:
    """A record at debug asks for it; several handlers do not make it more often [L2]."""
    registry = Registry()
    registry.register(Costly, lambda _: None)
    logger = structlog.wrap_logger(None, [LogCapture()], structlog.make_filtering_bound_logger("debug"))
    written.clear()

    run(bus_class(Costly(text="a"), registry=registry, log_level=level, logger=logger))

    assert ["a"] * times == written


class Counted(Command):
    """Counts how often it is validated."""

    model_config = ConfigDict(frozen=False)

    number: Annotated[int, Field(ge=0), AfterValidator(lambda value: validated.append(value) or value)]


class CheckedAgain(Counted, revalidate_instances="always"):
    pass


validated: list[int] = []


@pytest.mark.parametrize("bus_class", [MessageBus, AsyncMessageBus])
def test_instance_is_not_validated_again(bus_class: type[MessageBus | AsyncMessageBus]) -> None:
    """Its fields were validated when it was made [L2]."""
    registry = Registry()
    registry.register(Counted, lambda _: None)
    message = Counted(number=1)
    validated.clear()

    run(bus_class(message, registry=registry, log_level="disabled"))

    assert [] == validated


@pytest.mark.parametrize("bus_class", [MessageBus, AsyncMessageBus])
def test_instance_is_validated_again_where_its_class_asks_for_it(bus_class: type[MessageBus | AsyncMessageBus]) -> None:
    """By `revalidate_instances="always"`, before any handler sees it [L2]."""
    handled: list[Message] = []
    registry = Registry()
    registry.register(CheckedAgain, handled.append)
    message = CheckedAgain(number=1)
    message.number = -4111

    with pytest.raises(InvalidMessageError) as caught:
        run(bus_class(message, registry=registry, log_level="disabled", error_log_level="disabled"))

    assert [] == handled
    assert f"Cannot read {__name__}.CheckedAgain: number: Input should be greater than or equal to 0." == str(
        caught.value
    )
    assert caught.value.__cause__ is None


# Classes without JSON


class Stranger:
    """A class that pydantic knows nothing of."""


class Plain(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    stranger: Stranger | None = None


@pytest.mark.parametrize(
    "annotation",
    [
        Callable[[], None],
        Callable,
        type,
        type[int],
        Stranger,
        Stranger | None,
        list[Stranger],
        dict[str, tuple[Stranger, ...]],
        Exception,
        Generator[int, None, None],
        Iterable[int],
        Plain,
        list[Plain],
        Annotated[Stranger, Field(description="a stranger")],
    ],
    ids=str,
)
def test_class_without_json_is_refused_when_it_is_registered(annotation: Any) -> None:
    """Not when it is first sent; and the error names the field [L3]."""

    class Odd(Event):
        model_config = ConfigDict(arbitrary_types_allowed=True)

        good: int = 0
        wrong: annotation

    registry = Registry()

    with pytest.raises(MessageClassError) as caught:
        registry.register(Odd, print)

    assert (
        f"Cannot register {__name__}.{Odd.__qualname__}: the type of wrong has no JSON form. "
        "Use a type that has one, or give it a serializer." == str(caught.value)
    )
    assert {} == registry.snapshot.handlers


def test_class_with_an_annotation_that_is_not_defined_is_refused() -> None:
    """A name that is only imported for type checkers is a mistake that waits [L3]."""

    class Unfinished(Event):
        later: "NowhereDefined"  # noqa: F821

    with pytest.raises(MessageClassError, match="'NowhereDefined' is not defined"):
        Registry().register(Unfinished)


class Referring(Event):
    later: "Later"


class Later(BaseModel):
    number: int


def test_class_whose_annotation_is_defined_later_is_accepted() -> None:
    """It is resolved when the class is registered."""
    registry = Registry()

    registry.register(Referring)

    read = registry.validate({"type": "Referring", "data": {"later": {"number": 1}}})
    assert Referring(later=Later(number=1)) == read


class Colour(Enum):
    RED = "red"


class Level(IntEnum):
    LOW = 1


class Word(StrEnum):
    HELLO = "hello"


class Pair(NamedTuple):
    left: int
    right: str = ""


class Options(TypedDict, total=False):
    fast: bool


@pydantic_dataclass(frozen=True)
class Point:
    x: int = 0


class Numbers(RootModel[list[int]]):
    pass


T = TypeVar("T")


class Box(BaseModel, Generic[T]):
    content: T


class Tree(BaseModel):
    branches: "tuple[Tree, ...]" = ()


WRITABLE = [
    int, float, bool, str, bytes, None, Any, object, JsonValue, date, datetime, time, timedelta, Decimal, UUID, Path,
    Fraction, complex, Colour, Level, Word, Literal["a", 1], int | None, int | str, IPv4Address, IPv6Network, ZoneInfo,
    AnyUrl, ByteSize, re.Pattern[str], SecretStr, SecretBytes, Annotated[str, Private], Annotated[str | None, Private],
    list[int], tuple[int, ...], tuple[int, str], set[int], frozenset[str], deque[int], dict[str, int], dict[int, int],
    dict[tuple[int, int], int], defaultdict[str, list[int]], OrderedDict[str, int], Counter[str], Pair, Options, Point,
    Numbers, Box[int], Tree, Json[int], PlaceOrder, list[OrderPlaced], BaseModel, Event,
    Annotated[Stranger, PlainSerializer(str)], Annotated[int, AfterValidator(abs)],
]  # fmt: skip


@pytest.mark.parametrize("annotation", WRITABLE, ids=str)
def test_class_with_json_is_accepted(annotation: Any) -> None:
    """Whatever pydantic can write may stand in a message; single values are looked at when they are written [L3]."""
    cls = create_model(
        "Fine",
        __base__=type("Open", (Event,), {"model_config": {"arbitrary_types_allowed": True}, "__module__": __name__}),
        __module__=__name__,
        value=(annotation, ...),
    )
    registry = Registry()

    registry.register(cls)

    assert {"Fine": cls} == registry.snapshot.names


# What is private


class Inner(BaseModel):
    secret: Annotated[str, Private]


class Login(Command):
    user: str
    token: Annotated[str, Private]
    tokens: list[Annotated[str, Private]] = []
    maybe: Annotated[str | None, Private] = None
    by_token: dict[Annotated[str, Private], int] = {}
    password: SecretStr = SecretStr("")
    inner: Inner | None = None
    deep: dict[str, list[Inner]] = {}


PRIVATE = [
    {"token": CANARY},
    {"tokens": ["a", CANARY]},
    {"maybe": CANARY},
    {"by_token": {CANARY: 1}},
    {"password": CANARY},
    {"inner": {"secret": CANARY}},
    {"deep": {"a": [{"secret": CANARY}]}},
]


@pytest.mark.parametrize("data", PRIVATE, ids=lambda data: next(iter(data)))
def test_private_text_is_not_shown(data: dict[str, Any]) -> None:
    """Neither by `repr` nor by `str`, in fields, keys, containers and nested models [L21]."""
    message = Login(**{"user": "u", "token": ""} | data)

    shown = f"{message!r} {message} {[message]}"

    assert CANARY not in shown
    assert "**********" in shown
    assert "user='u'" in shown


@pytest.mark.parametrize("data", PRIVATE, ids=lambda data: next(iter(data)))
def test_private_text_is_in_no_error(data: dict[str, Any]) -> None:
    """A message that cannot be made for another reason says nothing of what it was given [L21]."""
    with pytest.raises(ValidationError) as caught:
        Login(**{"user": 1, "token": ""} | data)

    assert CANARY not in str(caught.value) + repr(caught.value)


@pytest.mark.parametrize(
    "data", [data for data in PRIVATE if "password" not in data], ids=lambda data: next(iter(data))
)
def test_private_text_travels(data: dict[str, Any]) -> None:
    """On the wire it is what it is: the handler needs it [L21]."""
    registry = Registry()
    registry.register(Login)
    message = Login(**{"user": "u", "token": ""} | data)

    payload = to_json(message)

    assert CANARY.encode() in payload
    assert message == registry.validate_json(payload)


def test_private_text_is_a_plain_text_to_the_handler() -> None:
    """Nothing has to be unwrapped."""
    seen: list[str] = []
    registry = Registry()
    registry.register(Login, lambda command: seen.append(command.token))

    handle_message(Login(user="u", token=CANARY), registry=registry)

    assert [CANARY] == seen
    assert str is type(seen[0])


@pytest.mark.parametrize("field", [Field(default=CANARY), Field(examples=[CANARY])], ids=["default", "examples"])
def test_private_text_is_in_no_schema(field: Any) -> None:
    """A JSON schema is published; what is private in it is not [L21]."""
    cls = create_model("Logged", __base__=Command, __module__=__name__, token=(Annotated[str, Private], field))

    schema = json.dumps(cls.model_json_schema())

    assert CANARY not in schema


class SignIn(Command):
    """Shows whole messages as examples."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"token": CANARY}], "example": {"token": CANARY}})
    token: Annotated[str, Private]


def test_example_of_a_message_with_private_text_is_in_no_schema() -> None:
    """What is private would stand in it, if not under its name [L21]."""
    schema = json.dumps(SignIn.model_json_schema())

    assert CANARY not in schema
    assert "Shows whole messages" in schema


@pytest.mark.parametrize("message", [PlaceOrder(order_id="a"), Login(user="u", token=CANARY), Ship(order_id="a")])
def test_message_pickles_and_copies(message: Message) -> None:
    """It may go through a process pool, or be changed into another of its class."""
    assert message == pickle.loads(pickle.dumps(message))
    assert message == message.model_copy(deep=True)
    assert type(message).model_validate(message.model_dump()) == message


@pytest.mark.parametrize(
    "default", [SecretStr("hush"), PurePosixPath("/shop")], ids=lambda default: type(default).__name__
)
def test_default_of_a_type_without_json_is_read_from_json_too(default: Any) -> None:
    """What a payload leaves out has its default, whatever the default is of [L2]."""
    cls = create_model("LogIn", __base__=Command, value=(type(default), default))
    registry = Registry()
    registry.register(cls)

    message = registry.validate_json('{"type": "LogIn", "data": {}}')

    assert cls() == message
    assert default == message.value


@pytest.mark.parametrize("annotation", [ImportString, ImportString[Any] | None, list[ImportString[Any]]])
def test_type_that_imports_is_refused(annotation: Any) -> None:
    """No payload imports a module, whatever the class would allow [L1]."""
    cls = create_model("Plugged", __base__=Command, plugin=(annotation, ...))

    with pytest.raises(MessageClassError, match="a payload could have plugin import any module"):
        Registry().register(cls)
