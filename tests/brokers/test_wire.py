"""[B5] The wire: CloudEvents 1.0, as others write and read them; and what is none."""

import json
from datetime import UTC, datetime

import pytest

from messagebus import Envelope, Registry
from messagebus.brokers.wire import arrival, parcel_of, parcel_of_sending
from messagebus.delivery import Sending, Stored
from messagebus.delivery.sending import prepare
from messagebus.errors import UnwritableMessageError
from messagebus.testing.shop import OrderPlaced, PlaceOrder

http = pytest.importorskip("cloudevents.core.bindings.http", reason="no SDK here: pip install cloudevents")
JSONFormat = pytest.importorskip("cloudevents.core.formats.json").JSONFormat
CloudEvent = pytest.importorskip("cloudevents.core.v1.event").CloudEvent
ID = "0123456789abcdef0123456789abcdef"


def sent(message=PlaceOrder(order_id="o-1", quantity=2), **more):
    return parcel_of_sending(prepare(message, **more), "urn:shop", is_event=isinstance(message, OrderPlaced))


def came(body, headers=(), **more):
    settings = {"place": "mb.command.x", "position": "7", "receipt": None, **more}
    return arrival(body, dict(headers), **settings)


def event(**attributes):
    given = {"specversion": "1.0", "id": ID, "source": "/theirs", "type": "shop.place_order",
             "data": {"order_id": "o-1"}, **attributes}  # fmt: skip
    return json.dumps({name: value for name, value in given.items() if value is not None}).encode()


def message_in(found):
    registry = Registry()
    registry.register(PlaceOrder)
    return registry.validate_json(found.body)


# The SDK as oracle


def test_sdk_reads_what_is_written():
    """What is published is a CloudEvent to others, with all that it carries."""
    envelope = Envelope(
        PlaceOrder(order_id="o-1", quantity=2), id=ID, correlation_id="c-1", causation_id="k-1",
        time=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), headers={"traceparent": "00-ab-cd-01", "source": "/old"},
    )  # fmt: skip
    parcel = sent(envelope.message, envelope=envelope, key="customer-7")

    read = http.from_http(
        http.HTTPMessage({"content-type": "application/cloudevents+json"}, parcel.body), JSONFormat(), CloudEvent
    )

    assert {"order_id": "o-1", "quantity": 2} == read.get_data()
    assert {
        "specversion": "1.0", "id": ID, "source": "urn:shop", "type": "shop.place_order",
        "time": envelope.time, "datacontenttype": "application/json", "correlationid": "c-1", "causationid": "k-1",
        "partitionkey": "customer-7", "traceparent": "00-ab-cd-01",
    } == read.get_attributes()  # fmt: skip


@pytest.mark.parametrize("mode", ["structured", "binary"])
def test_what_the_sdk_writes_is_read(mode):
    """Others write both modes; their extensions arrive as headers."""
    attributes = {
        "id": "1", "source": "/theirs", "type": "shop.place_order", "datacontenttype": "application/json",
        "time": datetime(2026, 1, 2, tzinfo=UTC), "specversion": "1.0", "partitionkey": "customer-7", "flavour": "dark",
    }  # fmt: skip
    theirs = CloudEvent(attributes=attributes, data={"order_id": "o-1", "quantity": 3})
    written = (http.to_structured if mode == "structured" else http.to_binary)(theirs, JSONFormat())

    found = came(written.body, written.headers)

    assert PlaceOrder(order_id="o-1", quantity=3) == message_in(found)
    assert ("/theirs#1", "shop.place_order", "customer-7") == (found.id, found.type, found.key)
    assert datetime(2026, 1, 2, tzinfo=UTC).timestamp() == found.sent_at
    assert {"source": "/theirs", "flavour": "dark"} == {
        name: value for name, value in found.headers.items() if name != "partitionkey"
    }


# Both ways


def test_what_is_written_is_read():
    """Nothing is lost on the way."""
    cause = Stored(1, ID, "shop.order_placed", b'{"type":"shop.order_placed","data":{"order_id":"o-1"}}', "k", "c-1",
                   "m-1", 1_700_000_000.25, {"flavour": "dark"}, 1, {}, is_event=True)  # fmt: skip

    found = came(parcel_of(cause, "urn:shop").body)

    assert (ID, "shop.order_placed", "k", "c-1", "m-1", 1_700_000_000.25) == (
        found.id, found.type, found.key, found.correlation_id, found.causation_id, found.sent_at,
    )  # fmt: skip
    assert {"source": "urn:shop", "flavour": "dark", "partitionkey": "k"} == found.headers


def test_command_and_event_are_told_apart():
    """A command goes to one, an event to many."""
    assert "command" == sent().kind
    assert "event" == sent(OrderPlaced(order_id="o-1")).kind


def test_header_that_is_no_attribute_is_refused():
    """Somebody else could not read it."""
    sending = Sending(Envelope(PlaceOrder(order_id="o-1"), headers={"Bad Name": "x"}), b'{"type":"x","data":{}}')

    with pytest.raises(UnwritableMessageError):
        parcel_of_sending(sending, "urn:shop", is_event=False)


# Foreign events


def test_minimal_event_is_read():
    """Four attributes are enough."""
    found = came(event())

    assert PlaceOrder(order_id="o-1") == message_in(found)
    assert (ID, None, None, None) == (found.id, found.key, found.correlation_id, found.sent_at)


def test_ids_of_two_sources_are_two_messages():
    """An id is unique together with its source, says the standard; a long random one is so by itself."""
    assert "/a#1" == came(event(id="1", source="/a")).id
    assert "/b#1" == came(event(id="1", source="/b")).id
    assert ID == came(event()).id
    assert "a8098c1a-f86e-11da-bd1a-00112444be1e" == came(event(id="a8098c1a-f86e-11da-bd1a-00112444be1e")).id


@pytest.mark.parametrize("prefix", ["ce-", "CE-", "ce_", "cloudEvents:", "cloudEvents_"])
@pytest.mark.parametrize("convert", [str, str.encode])
def test_binary_mode_of_each_protocol_is_read(prefix, convert):
    """NATS and HTTP, Kafka, AMQP: each has a prefix of its own."""
    attributes = {"specversion": "1.0", "id": ID, "source": "/theirs", "type": "shop.place_order"}
    headers = {f"{prefix}{name}": convert(value) for name, value in attributes.items()}

    found = came(b'{"order_id":"o-1"}', {**headers, "content-type": "application/json"})

    assert PlaceOrder(order_id="o-1") == message_in(found)
    assert ID == found.id


@pytest.mark.parametrize(
    "body",
    [
        b"", b"\x00\xff", b"[]", b"null", b'"text"', b"{", event(id=None), event(id=7), event(source=""),
        event(time="yesterday"), event(flavour={"a": 1}), event(partitionkey="a\0b"), b'{"a":' * 100_000,
        event(id="x" * 3000),
    ],
)  # fmt: skip
def test_what_cannot_be_read_keeps_its_bytes(body):
    """It becomes a dead letter, which shows it as it came."""
    found = came(body, {"content-type": "text/plain"})

    assert body == found.body
    assert ("mb.command.x:7", "mb.command.x") == (found.id, found.headers["source"])


@pytest.mark.parametrize("body", [b'{"order_id":"o-1"},"id":"other"', b'1,"type":"shop.cancel_order","data":{}', b"{"])
def test_data_in_binary_mode_is_one_json_value(body):
    """Or what follows it in the body would stand for other attributes than those of the headers."""
    headers = {"ce-specversion": "1.0", "ce-id": ID, "ce-source": "/theirs", "ce-type": "shop.place_order"}

    found = came(body, headers)

    assert body == found.body
    assert "mb.command.x:7" == found.id


def test_what_has_no_position_is_taken_for_new():
    """Two that look alike may be two."""
    assert came(b"?", position="").id != came(b"?", position="").id
