"""Schema: one document that says what readers accept, and nothing of what is private."""

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum
from ipaddress import IPv4Address
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from hypothesis import given, settings
from jsonschema import Draft202012Validator
from pydantic import BaseModel, ConfigDict, Field, InstanceOf, PlainSerializer, PositiveInt, SecretBytes, SecretStr
from typing_extensions import TypedDict

from messagebus import (
    Command,
    ConfigurationError,
    DuplicateNameError,
    Event,
    InvalidMessageError,
    MessageClassError,
    Private,
    Registry,
    ReturnMessage,
    to_json,
)
from messagebus.documents import asyncapi_document, json_schema
from tests.documents.specimens import message_class_of, models, values_of
from tests.test_privacy import SECRET, leaks


class Colour(Enum):
    RED = "red"
    TWO = 2


class Address(BaseModel):
    street: str
    zip: Annotated[str, Field(pattern="^[0-9]{5}$")] = "12345"


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]
    friends: "list[Dog | Cat]" = []


class Page(TypedDict):
    number: int


class PlaceOrder(Command, name="shop/orders:place"):
    """Ask for an order."""

    order_id: UUID
    quantity: PositiveInt = 1
    address: Address
    pet: Annotated[Cat | Dog, Field(discriminator="kind")] | None = None
    colours: frozenset[Colour] = frozenset()
    by_number: dict[int, Decimal] = {}
    page: Page = {"number": 1}
    size: tuple[float, float] = (1.0, 1.0)
    sent_at: datetime | None = None
    wait: timedelta = timedelta(1)
    raw: bytes = b""
    path: PurePosixPath = PurePosixPath("a")
    host: IPv4Address | None = None
    anything: Any = None
    label: str = Field("", alias="Label")
    again: "PlaceOrder | None" = None


class OrderPlaced(Event):
    order_id: str


class Confirmation(ReturnMessage):
    order_id: str


def placing(command: PlaceOrder) -> Iterator[OrderPlaced | Confirmation]: ...


def shop() -> Registry:
    registry = Registry()
    registry.register(PlaceOrder, placing)
    return registry


def document_of(*classes: Any) -> dict[str, Any]:
    registry = Registry()
    for cls in classes:
        registry.register(cls)
    return json_schema(registry)


ORDER = {"order_id": "6f0b6c5e-1a52-4a57-9d52-0d6a0e3a9d11", "address": {"street": "High Street"}}


def test_document_is_json_schema_2020_12():
    """It holds to the meta-schema, and a field that is none would not."""
    document = json_schema(shop())

    Draft202012Validator.check_schema(document)

    assert "https://json-schema.org/draft/2020-12/schema" == document["$schema"]
    document["$defs"]["OrderPlaced"]["properties"] = 1
    assert not Draft202012Validator(Draft202012Validator.META_SCHEMA).is_valid(document)


def test_messages_stand_under_their_wire_names_and_models_under_their_class_names():
    """Those that are registered, and those that a handler is annotated to return; references lead to them."""
    document = json_schema(shop())

    assert [
        "Address", "Cat", "Colour", "Confirmation", "Dog", "OrderPlaced", "Page", "shop/orders:place",
    ] == [*document["$defs"]]  # fmt: skip
    again = document["$defs"]["shop/orders:place"]["properties"]["again"]
    assert {"$ref": "#/$defs/shop~1orders:place"} == again["anyOf"][0]
    assert ("Ask for an order.", "command") == (
        document["$defs"]["shop/orders:place"]["description"],
        document["$defs"]["shop/orders:place"]["x-kind"],
    )
    assert ["event", "return"] == [document["$defs"][name]["x-kind"] for name in ("OrderPlaced", "Confirmation")]


@pytest.mark.parametrize(
    ("data", "is_right"),
    [
        (ORDER, True),
        (
            {**ORDER, "Label": "x", "pet": {"kind": "dog", "friends": [{"kind": "cat"}]}, "by_number": {"1": "2.5"}},
            True,
        ),
        ({**ORDER, "again": ORDER, "colours": ["red", 2], "size": [1, 2.5], "raw": "YQ=="}, True),
        ({}, False),
        ({**ORDER, "unknown": 1}, False),
        ({**ORDER, "quantity": 0}, False),
        ({**ORDER, "pet": {"kind": "cow"}}, False),
        ({**ORDER, "again": {}}, False),
        ({**ORDER, "by_number": {"one": 1}}, False),
        ({**ORDER, "size": [1]}, False),
        ({**ORDER, "address": {"street": "a", "zip": "1"}}, False),
    ],
)
def test_document_accepts_what_the_registry_accepts(data, is_right):
    """The whole of it is the wire form."""
    registry, wire = shop(), {"type": "shop/orders:place", "data": data}
    try:
        written = json.loads(to_json(registry.validate(wire)))
    except InvalidMessageError:
        written = None

    validator = Draft202012Validator(json_schema(registry))

    assert (is_right, is_right) == (written is not None, validator.is_valid(wire))
    assert written is None or validator.is_valid(written)
    assert not validator.is_valid({**wire, "type": "OrderPlaced"})
    assert not validator.is_valid({**wire, "type": "Unknown"})


@settings(max_examples=40, deadline=None)
@given(models())
def test_whatever_fits_a_class_fits_its_schema(kind):
    """Random classes, and values at their limits."""
    cls = message_class_of(kind)

    validator = Draft202012Validator(document_of(cls))

    assert [] == [value for value in values_of(kind) if not validator.is_valid({"type": "Order", "data": value})]


def test_model_makes_way_for_a_message_of_its_name():
    """Wire names are the messages' own."""

    class Moved(Event, name="Address"):
        to: Address

    document = document_of(Moved)

    assert ["Address", "Address_"] == [*document["$defs"]]
    assert {"$ref": "#/$defs/Address_"} == document["$defs"]["Address"]["properties"]["to"]
    assert Draft202012Validator(document).is_valid({"type": "Address", "data": {"to": {"street": "a"}}})


def test_document_is_the_same_whatever_the_order_of_registration():
    """It is kept under version control."""
    first, second = document_of(PlaceOrder, OrderPlaced), document_of(OrderPlaced, PlaceOrder)

    assert json.dumps(first) == json.dumps(second)


def test_message_without_fields_may_come_without_data():
    """As at the door."""

    class Tick(Event): ...

    registry = Registry()
    registry.register(Tick)

    assert Tick() == registry.validate({"type": "Tick"})
    assert Draft202012Validator(json_schema(registry)).is_valid({"type": "Tick"})


def test_message_of_a_later_version_says_its_version():
    """As it is written; one of the first version need not say so."""

    class Move(Command, version=2):
        to: str

    registry = Registry()
    registry.register(Move)
    registry.upcasts(Move, from_version=1)(lambda data: data)

    document = json_schema(registry)

    wire = json.loads(to_json(Move(to="a")))
    assert 2 == wire["dataversion"] == document["$defs"]["Move"]["x-version"]
    assert Draft202012Validator(document).is_valid(wire)
    del wire["dataversion"]
    assert not Draft202012Validator(document).is_valid(wire)


# What is private

Token = Annotated[str, Private]


class Card(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"number": SECRET}]})
    number: Token = SECRET
    either: Annotated[Literal["Qx7zKw9vJp3uHy5tGr1s", "b"], Private] = "b"


class Vault(BaseModel):
    card: Card = Card()
    cards: tuple[Card, ...] = (Card(),)


class LogIn(Command):
    model_config = ConfigDict(json_schema_extra={"example": {"token": SECRET}})
    token: Token = Field(SECRET, examples=[SECRET])
    maybe: Token | None = Field(None, examples=[SECRET])
    many: list[Token] = [SECRET]
    by_name: dict[str, Token] = {"a": SECRET}
    fixed: Annotated[Literal["Qx7zKw9vJp3uHy5tGr1s"], Private] = "Qx7zKw9vJp3uHy5tGr1s"
    password: SecretStr = Field(SecretStr(SECRET), examples=[SECRET])
    key: SecretBytes = SecretBytes(SECRET.encode())
    card: Card = Field(Card(), examples=[{"number": SECRET}])
    vault: Vault = Vault()
    extra: Annotated[str, Private, Field(json_schema_extra={"default": SECRET, "const": SECRET})] = ""
    public: str = Field("shown", examples=["also shown"])


def test_private_fields_are_marked_and_no_value_of_them_is_shown():
    """[L21] No default and no example, wherever they stand; what is public keeps its own."""
    document = document_of(LogIn)

    assert [] == leaks(json.dumps(document))
    fields = document["$defs"]["LogIn"]["properties"]
    mark = {"type": "string", "format": "password", "writeOnly": True}
    assert {**mark, "title": "Token"} == fields["token"]
    assert mark == fields["maybe"]["anyOf"][0]
    assert mark == fields["many"]["items"]
    assert {**mark, "title": "Password"} == fields["password"]
    assert {**mark, "title": "Number"} == document["$defs"]["Card"]["properties"]["number"]
    assert {"type": "string", "title": "Public", "default": "shown", "examples": ["also shown"]} == fields["public"]


def test_private_fields_stay_private_in_asyncapi():
    """[L21] It holds the same schemas."""
    registry = Registry()
    registry.register(LogIn)

    assert [] == leaks(json.dumps(asyncapi_document(registry)))


def test_default_that_is_no_json_is_left_out_without_a_word():
    """[L21] A warning would quote it, and warnings are errors here."""

    class Odd(Command):
        token: Annotated[Any, Private] = object
        other: Any = object

    document = document_of(Odd)

    assert ["other", "token"] == sorted(document["$defs"]["Odd"]["properties"])
    assert "default" not in json.dumps(document)


# What cannot be described


def test_type_without_schema_is_an_error_that_names_the_class():
    """And says how to give it one."""

    class Weird(Command):
        it: Annotated[InstanceOf[Registry], PlainSerializer(str)]

    with pytest.raises(
        MessageClassError, match=r"Cannot describe .*Weird: .* field has no JSON Schema\. .*WithJsonSchema"
    ):
        document_of(OrderPlaced, Weird)


def test_two_messages_of_one_name_are_an_error():
    """The registry knows only one of them; the other is in an annotation."""

    class Other(ReturnMessage, name="OrderPlaced"): ...

    registry = shop()
    registry.register(OrderPlaced, _returning(Other))

    with pytest.raises(DuplicateNameError, match="OrderPlaced has that name"):
        json_schema(registry)


def _returning(cls: Any) -> Any:
    def handler(message: Any) -> Any: ...

    handler.__annotations__["return"] = cls
    return handler


def test_registry_without_messages_is_an_error():
    """It is not the one that was meant."""
    with pytest.raises(ConfigurationError, match="none is registered"):
        json_schema(Registry())
