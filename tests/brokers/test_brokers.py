"""What a broker promises, on each engine."""

import asyncio
import socket
import subprocess
import sys
import time

import pytest

from messagebus import Envelope, current_envelope
from messagebus.brokers import Broker, BrokerUnavailableError, Relay, connect
from messagebus.delivery import Retry, Worker
from messagebus.errors import ConfigurationError, UnwritableMessageError
from messagebus.testing import Clock
from messagebus.testing.shop import LOG_IN, Confirmation, OrderPlaced, PlaceOrder, orders
from tests import servers
from tests.brokers.nursery import opened
from tests.brokers.services import QUIET, registry_of, working

# From one end to the other


def test_what_is_sent_is_handled_once_and_acknowledged(open_broker, inbox, until):
    """[B1] [B5] With its ids; after that the engine has nothing left to bring."""
    got, broker = [], open_broker()
    registry = registry_of(place=lambda message: got.append((message.order_id, current_envelope().id)))
    ids = [broker.send(PlaceOrder(order_id="o-1")), *broker.send_many(orders("o-2", "o-3"))]
    ids.append(asyncio.run(broker.asend(PlaceOrder(order_id="o-4"))))

    with working(broker, inbox, registry):
        until(lambda: inbox.stats().finished == 4)
    with working(broker, opened("memory://"), registry):
        broker.send(PlaceOrder(order_id="last"))
        until(lambda: len(got) == 5)

    assert sorted(zip(["o-1", "o-2", "o-3", "o-4"], ids, strict=True)) == sorted(got[:4])
    assert "last" == got[4][0]


def test_same_id_is_handled_once(open_broker, inbox, until):
    """[B3] An engine brings the same twice, or a sender does not know and sends again."""
    got, broker = [], open_broker()
    message = PlaceOrder(order_id="o-1")
    for _ in range(3):
        broker.send(message, envelope=Envelope(message, id="0123456789abcdef0123456789abcdef"))
    broker.send(PlaceOrder(order_id="o-2"))

    with working(broker, inbox, registry_of(place=lambda message: got.append(message.order_id))):
        until(lambda: len(got) == 2)

    assert ["o-1", "o-2"] == sorted(got)


def test_event_reaches_each_group_once_and_its_own_too(open_broker, inbox, until, tmp_path):
    """[B3] A handler's event goes out when its command is settled, to every group that has subscribed."""
    here, there, broker = [], [], open_broker("shop")
    second = opened(f"sqlite:///{tmp_path}/second.db")
    shop = registry_of(
        place=lambda message: OrderPlaced(order_id=message.order_id),
        placed=lambda message: here.append((message.order_id, current_envelope().causation_id)),
    )
    billing = registry_of(placed=lambda message: there.append((message.order_id, current_envelope().causation_id)))

    with working(open_broker("billing"), second, billing), working(broker, inbox, shop):
        sent = broker.send(PlaceOrder(order_id="o-1"))
        until(lambda: here and there)

    assert [("o-1", sent)] == here == there
    assert {"published to " + broker.name} == {
        outcome.handler for step in inbox.tree(sent)[1:2] for outcome in step.outcomes
    }


def test_event_that_nobody_handles_here_is_published(open_broker, inbox, until):
    """A service need not register what only others want."""
    got, home = [], open_broker("billing")
    shop = registry_of(place=lambda message: OrderPlaced(order_id=message.order_id))
    billing = registry_of(placed=lambda message: got.append(message.order_id))

    with working(home, opened("memory://"), billing), working(open_broker("shop"), inbox, shop):
        inbox.send(PlaceOrder(order_id="o-1"))
        until(lambda: got)

    assert ["o-1"] == got


def test_command_sent_in_a_handler_goes_where_its_handler_is(open_broker, inbox, until):
    """A command that is handled here does not leave; one that is not does."""
    got = []
    away, home = open_broker("shop"), open_broker("billing")
    shop = registry_of(placed=lambda message: PlaceOrder(order_id=message.order_id))
    other = opened("memory://")

    with (
        working(home, other, registry_of(place=lambda message: got.append(message.order_id))),
        working(away, inbox, shop),
    ):
        inbox.send(PlaceOrder(order_id="o-1"))
        until(lambda: got)

    assert ["o-1"] == got


def test_relay_empties_an_outbox(open_broker, inbox, until, tmp_path):
    """[B3] What a transaction has stored arrives, with its key, and nothing is left."""
    outbox, got = opened(f"sqlite:///{tmp_path}/outbox.db"), []
    broker = open_broker()
    registry = registry_of(
        place=lambda message: got.append((message.order_id, current_envelope().headers.get("partitionkey")))
    )
    with working(broker, inbox, registry):
        with outbox.transaction() as transaction:
            for number in range(5):
                transaction.send(PlaceOrder(order_id=f"o-{number}"), key="k")

        Relay(outbox, open_broker("shop"), **QUIET).run(until_idle=True)

        until(lambda: len(got) == 5)
    assert [(f"o-{number}", "k") for number in range(5)] == got
    assert 5 == outbox.stats().finished


def test_relay_publishes_what_was_sent_for_later(open_broker, until):
    """[D7] Delayed, at a time, and again and again: when it is due, a command as a command, an event as an event."""
    clock, got, broker = Clock(), [], open_broker()
    outbox, relay_to = opened("memory://", clock=clock), open_broker("shop")
    registry = registry_of(
        place=lambda message: got.append(("command", message.order_id)),
        placed=lambda message: got.append(("event", message.order_id)),
    )
    with working(broker, opened("memory://"), registry):
        for send in (PlaceOrder, OrderPlaced):
            outbox.send(send(order_id="delayed"), delay=60)
            outbox.send(send(order_id="at"), at=clock.time(60))
            outbox.every("* * * * *", send(order_id="again"), name=f"each minute {send.__name__}")
        relay = Relay(outbox, relay_to, **QUIET)
        assert 0 == relay.run(until_idle=True)

        clock.advance(60)
        relayed = relay.run(until_idle=True)

        until(lambda: len(got) == 6)
    assert 6 == relayed
    assert [(kind, one) for kind in ("command", "event") for one in ("again", "at", "delayed")] == sorted(got)


def test_return_messages_are_kept_in_the_inbox(open_broker, inbox, until):
    """[D12] Whoever has the inbox can ask for them."""
    broker = open_broker()
    with working(broker, inbox, registry_of(place=lambda message: Confirmation(order_id=message.order_id))):
        sent = broker.send(PlaceOrder(order_id="o-1"))
        until(lambda: inbox.stats().finished == 1)

    assert b'[{"type":"shop.confirmation","data":{"order_id":"o-1"}}]' == inbox.result(sent)


# Failure


def test_failing_handler_is_tried_three_times_and_holds_up_nobody(open_broker, inbox, until):
    """[B2] Retries and dead letters are the bus's own; the engine has been told long ago."""
    tried, broker = [], open_broker()

    def place(message):
        tried.append(message.order_id)
        if message.order_id == "poison":
            raise ValueError

    broker.send_many(orders("poison", "o-1", "o-2"))
    with working(broker, inbox, registry_of(place=place), retry=Retry(attempts=3, first=0.05)):
        until(lambda: len(tried) == 5 and inbox.dead())

    (letter,) = inbox.dead()
    assert 3 == tried.count("poison") == letter.attempts
    assert 2 == inbox.stats().finished


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


def test_messages_with_one_key_keep_their_order(open_broker, inbox, until):
    """[D5] One after another, also if one of them fails and the others could overtake it."""
    got, broker, failed = [], open_broker(), set()

    def place(message):
        if message.order_id == "3" and "3" not in failed:
            failed.add("3")
            raise ValueError
        got.append(message.order_id)

    broker.send_many(orders(*map(str, range(20))), key="k")
    with working(broker, inbox, registry_of(place=place), retry=Retry(first=0.01, factor=1), concurrency=2):
        until(lambda: len(got) == 20)

    assert [*map(str, range(20))] == got


def test_order_across_workers_is_refused_where_it_cannot_be_had(engine, open_broker):
    """What an application needs and an engine lacks is refused at the start."""
    if engine.name == "redis":
        with pytest.raises(ConfigurationError, match="ordered=True"):
            open_broker(ordered=True)
    else:
        assert open_broker(ordered=True).engine.settings.is_ordered


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


def test_what_an_engine_cannot_do_is_refused(open_broker):
    """Delays are kept by a store."""
    broker = open_broker()

    for more in ({"delay": 1.0}, {"dedup": "d"}):
        with pytest.raises(ConfigurationError, match="through a store"):
            broker.send(PlaceOrder(order_id="o-1"), **more)
    with pytest.raises(UnwritableMessageError):
        broker.send(LOG_IN)


def test_closed_broker_says_so(open_broker):
    """And may be closed twice."""
    broker = open_broker()
    broker.close()
    broker.close()

    with pytest.raises(RuntimeError, match="it is closed"):
        broker.send(PlaceOrder(order_id="o-1"))


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
