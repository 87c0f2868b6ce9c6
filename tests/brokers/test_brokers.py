"""What a broker promises, on each engine."""

import asyncio
import socket
import subprocess
import sys
import time

import pytest

from messagebus.brokers import Broker, BrokerUnavailableError, connect
from messagebus.delivery import Worker
from messagebus.errors import ConfigurationError
from messagebus.testing.broker_laws import registry_of, working
from messagebus.testing.shop import PlaceOrder
from tests import servers
from tests.brokers.nursery import opened

# From one end to the other


# Failure


def publish_raw(engine, namespace, body, headers):
    """Publish as somebody does who does not know this library."""
    place = f"{namespace}.command.shop.place_order"
    asyncio.run(globals()[f"publish_to_{engine.name}"](engine.url, place, body, headers))


async def publish_to_nats(url, place, body, headers):
    import nats  # noqa: PLC0415 - only where there is this engine

    client = await nats.connect(url)
    await client.jetstream().publish(place, body, headers=headers or None)
    await client.close()


async def publish_to_redis(url, place, body, headers):
    from redis.asyncio import Redis  # noqa: PLC0415 - only where there is this engine

    client = Redis.from_url(url)
    await client.xadd(place, {"data": body, **headers})
    await client.aclose()


async def publish_to_rabbitmq(url, place, body, headers):
    import aio_pika  # noqa: PLC0415 - only where there is this engine

    connection = await aio_pika.connect(url)
    channel = await connection.channel()
    await channel.default_exchange.publish(aio_pika.Message(body, headers=headers), place)
    await connection.close()


async def publish_to_kafka(url, place, body, headers):
    from aiokafka import AIOKafkaProducer  # noqa: PLC0415 - only where there is this engine

    producer = AIOKafkaProducer(bootstrap_servers=url.partition("://")[2])
    await producer.start()
    await producer.send_and_wait(place, body, headers=[(name, value.encode()) for name, value in headers.items()])
    await producer.stop()


BINARY = {"nats": "ce-", "redis": "ce-", "rabbitmq": "cloudEvents:", "kafka": "ce_"}


def test_foreign_events_are_handled_and_what_is_none_is_kept(engine, open_broker, namespace, inbox, until):
    """[B5] Structured and binary mode are read; anything else is a dead letter with its raw bytes."""
    got, broker = [], open_broker()
    attributes = {"specversion": "1.0", "id": "1", "source": "/theirs", "type": "shop.place_order"}
    structured = b'{"specversion":"1.0","id":"2","source":"/theirs","type":"shop.place_order","data":{"order_id":"s"}}'
    binary = {BINARY[engine.name] + name: value for name, value in attributes.items()}
    garbage = b"\xff\x00 no JSON"

    with working(broker, inbox, registry_of(place=lambda message: got.append(message.order_id))):
        broker.send(PlaceOrder(order_id="ours"))
        publish_raw(engine, namespace, garbage, {})
        publish_raw(engine, namespace, structured, {})
        publish_raw(engine, namespace, b'{"order_id":"b"}', binary)
        publish_raw(engine, namespace, structured.replace(b"place_order", b"unknown").replace(b'"2"', b'"3"'), {})
        until(lambda: len(got) == 3 and len(inbox.dead()) == 2)

    assert ["b", "ours", "s"] == sorted(got)
    assert {garbage, structured.replace(b"place_order", b"unknown").replace(b'"2"', b'"3"')} == {
        letter.body for letter in inbox.dead()
    }


# Order


# Errors


def test_connect_to_nobody_fails_soon_and_tells_no_password(engine):
    """A clear sentence within five seconds."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    scheme = engine.url.partition("://")[0]
    began = time.monotonic()

    with pytest.raises(BrokerUnavailableError) as caught:
        connect(f"{scheme}://ann:canary@127.0.0.1:{port}", group="billing")

    assert 6 > time.monotonic() - began
    assert str(caught.value).startswith(
        f"Cannot connect to {caught.value.what.split()[2]} at {scheme}://127.0.0.1:{port}:"
    )
    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None


# No engine


def test_worker_needs_an_inbox():
    """What an engine brings has to be kept somewhere."""
    with pytest.raises(ConfigurationError, match="no inbox"):
        Worker(object.__new__(Broker))
    with pytest.raises(ConfigurationError, match="a store is one"):
        Worker(opened("memory://"), inbox=opened("memory://"))


@pytest.mark.parametrize(
    ("url", "more"), [("http://x", {}), ("", {}), ("nats://x", {"group": "a b"}), ("nats://x", {"namespace": "a.b"})]
)
def test_wrong_arguments_are_refused(url, more):
    """Before anything is connected to."""
    with pytest.raises(ConfigurationError):
        connect(url, **{"group": "billing", **more})


@pytest.mark.parametrize("engine", ["nats", "redis", "rabbitmq", "kafka"])
def test_missing_extra_is_named(engine, fresh_python):
    """The error is the line to type."""
    url = {"rabbitmq": "amqp"}.get(engine, engine)
    script = f"""
        import sys
        sys.modules["faststream"] = None
        from messagebus.brokers import connect
        connect("{url}://127.0.0.1:1", group="billing")
    """

    ended = fresh_python(script)

    assert f"pip install 'pydantic-messagebus[{engine}]'" in ended.stderr.splitlines()[-1]


def test_nothing_is_imported_before_it_is_used():
    """FastStream takes a second to import."""
    script = (
        "import messagebus.brokers, messagebus.delivery, sys; print({'faststream', 'nats', 'redis'} & {*sys.modules})"
    )

    assert "set()" == subprocess.check_output([sys.executable, "-c", script], text=True).strip()


@pytest.mark.parametrize(
    ("settings", "weak"),
    [
        (("--appendonly", "no"), "appendonly is no"),
        (("--appendonly", "yes", "--appendfsync", "everysec"), "appendfsync is everysec"),
        (("--appendonly", "yes", "--appendfsync", "always"), ""),
    ],
)
def test_redis_that_forgets_is_warned_of(settings, weak, records):
    """[B4] With the setting to change."""
    pytest.importorskip("faststream.redis")
    server = servers.start_valkey(*settings)
    try:
        connect(server.url, group="billing").close()
    finally:
        server.stop()

    found = [record for record in records() if record["event"] == "broker.weak"]
    assert [weak] * bool(weak) == [record["reason"].partition(": ")[2] for record in found]
    assert all("appendonly" in record["remedy"] or "appendfsync" in record["remedy"] for record in found)


@pytest.mark.parametrize(("storage", "weak"), [("memory", ["event"]), ("file", [])])
def test_nats_that_forgets_is_warned_of(storage, weak, records):
    """[B4] A stream that somebody has made before, and that no disk holds."""
    pytest.importorskip("faststream.nats")
    import nats  # noqa: PLC0415 - an extra

    async def make_stream(url):
        client = await nats.connect(url)
        await client.jetstream().add_stream(name="mb-event", subjects=["mb.event.>"], storage=storage)
        await client.close()

    server = servers.start_nats()
    try:
        asyncio.run(make_stream(server.url))
        connect(server.url, group="billing").close()
    finally:
        server.stop()

    found = [record for record in records() if record["event"] == "broker.weak"]
    assert [f"stream mb-{kind} is in memory" for kind in weak] == [one["reason"].partition(": ")[2] for one in found]


def test_kafka_with_one_broker_is_warned_of(records):
    """[B4] What it has confirmed is in one place."""
    pytest.importorskip("aiokafka")
    server = servers.start_tansu()
    try:
        connect(server.url, group="billing").close()
    finally:
        server.stop()

    [found] = [record for record in records() if record["event"] == "broker.weak"]
    assert "there is one broker" in found["reason"]
    assert "min.insync.replicas=2" in found["remedy"]
