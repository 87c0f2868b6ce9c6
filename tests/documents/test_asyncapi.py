"""AsyncAPI: the document holds to the official schema, and says what the application receives and sends."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from jsonschema import Draft7Validator
from pydantic import BaseModel, Field

from messagebus import Command, ConfigurationError, Event, Registry, ReturnMessage
from messagebus.documents import asyncapi_document
from messagebus.documents.nodes import schemas_below

OFFICIAL = json.loads(gzip.decompress((Path(__file__).parent / "asyncapi" / "3.0.0.json.gz").read_bytes()))


class Card(BaseModel):
    kind: Literal["card"]


class Cash(BaseModel):
    kind: Literal["cash"]
    next: "Card | Cash | None" = None


class PlaceOrder(Command, name="shop.place_order"):
    order_id: str
    size: tuple[int, str] = (1, "a")
    payment: Annotated[Card | Cash, Field(discriminator="kind")] | None = None


class Ship(Command, name="shop/ship"): ...


class ShipAlso(Command, name="shop:ship"): ...


class OrderPlaced(Event):
    order_id: str


class OrderShipped(Event): ...


class Confirmation(ReturnMessage):
    order_id: str


def place(command: PlaceOrder) -> Iterator[OrderPlaced | Confirmation]: ...


def ship(event: OrderPlaced) -> Ship: ...


def done(command: Ship) -> OrderShipped: ...


@pytest.fixture
def registry() -> Registry:
    registry = Registry()
    registry.register(PlaceOrder, place)
    registry.register(OrderPlaced, ship)
    registry.register(Ship, done)
    registry.register(ShipAlso)
    return registry


def problems(document: Any) -> list[str]:
    return [error.json_path for error in Draft7Validator(OFFICIAL).iter_errors(document)]


def test_document_holds_to_the_official_schema(registry):
    """Of AsyncAPI 3.0.0, with every kind of message, tuples, unions and recursion in it."""
    assert [] == problems(asyncapi_document(registry, title="Shop", version="2.1.0"))


@pytest.mark.parametrize(
    "path",
    [
        ("info",),
        ("info", "version"),
        ("operations", "receive_OrderPlaced", "action"),
        ("channels", "events", "messages"),
    ],
    ids=".".join,
)
def test_official_schema_sees_what_is_wrong(registry, path):
    """A check that takes anything would be green for ever."""
    document = asyncapi_document(registry)
    node = document
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = 12

    assert [] != problems(document)


def test_second_reader_reads_it(registry):
    """FastStream has models of its own for AsyncAPI 3.0."""
    schema = pytest.importorskip("faststream.specification.asyncapi.v3_0_0.schema.schema")

    read = schema.ApplicationSchema.model_validate(asyncapi_document(registry, title="Shop"))

    assert ("Shop", {"commands", "events", "returns"}) == (read.info.title, {*read.channels})


def test_each_channel_has_all_its_messages(registry):
    """Their type is the last part of the address."""
    channels = asyncapi_document(registry, namespace="acme")["channels"]

    assert {
        "commands": ["shop_place_order", "shop_ship", "shop_ship_"],
        "events": ["OrderPlaced", "OrderShipped"],
        "returns": ["Confirmation"],
    } == {name: sorted(channel["messages"]) for name, channel in channels.items()}
    assert ["acme.command.{type}", "acme.event.{type}", None] == [one["address"] for one in channels.values()]
    types = channels["commands"]["parameters"]["type"]
    assert ["shop.place_order", "shop/ship", "shop:ship"] == sorted(types["enum"], key=len, reverse=True)


def test_address_is_that_of_the_engines(registry):
    """What the document says is where messages go."""
    engine = pytest.importorskip("messagebus.brokers.engine")
    settings = engine.Settings("nats://host", "shop", "mb", is_ordered=False, retention=1.0, partitions=1)

    address = asyncapi_document(registry)["channels"]["commands"]["address"]

    assert settings.destination("command", "shop.place_order") == address.format(type="shop.place_order")


def test_operations_are_what_is_handled_and_what_handlers_are_annotated_to_send(registry):
    """A command with return messages has a reply."""
    operations = asyncapi_document(registry)["operations"]

    assert {
        "receive_shop_place_order": "receive",
        "receive_OrderPlaced": "receive",
        "receive_shop_ship": "receive",
        "send_OrderPlaced": "send",
        "send_OrderShipped": "send",
        "send_shop_ship": "send",
    } == {name: operation["action"] for name, operation in operations.items()}
    placing = operations["receive_shop_place_order"]
    assert [{"$ref": "#/channels/returns/messages/Confirmation"}] == placing["reply"]["messages"]
    assert "reply" not in operations["receive_shop_ship"]


def test_every_reference_leads_somewhere(registry):
    """Operations to channels, channels to messages, messages to schemas."""
    document = asyncapi_document(registry)

    refs = references(document)

    assert len(refs) > 20
    assert [] == [ref for ref in refs if resolved(document, ref) is None]
    assert "discriminator" not in json.dumps(document)


def references(value: Any) -> list[str]:
    if isinstance(value, list):
        return [ref for part in value for ref in references(part)]
    if not isinstance(value, dict):
        return []
    own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
    return own + [ref for part in value.values() for ref in references(part)]


def resolved(document: Any, ref: str) -> Any:
    node = document
    for step in ref.removeprefix("#/").split("/"):
        node = node.get(step.replace("~1", "/").replace("~0", "~"), {})
    return node or None


def test_payload_is_a_cloud_event(registry):
    """With the wire name for its type, and the message for its data."""
    document = asyncapi_document(registry)

    message = document["components"]["messages"]["shop_place_order"]

    assert ("shop.place_order", "PlaceOrder") == (message["name"], message["title"])
    properties = message["payload"]["properties"]
    assert ({"const": "shop.place_order"}, {"$ref": "#/components/schemas/shop_place_order"}) == (
        properties["type"],
        properties["data"],
    )
    schema = resolved(document, properties["data"]["$ref"])
    assert ["order_id", "size", "payment"] == [*schema["properties"]]
    assert [*schemas_below(schema)]


def test_application_without_messages_is_an_error():
    """It is not the one that was meant."""
    with pytest.raises(ConfigurationError, match="none is registered"):
        asyncapi_document(Registry())
