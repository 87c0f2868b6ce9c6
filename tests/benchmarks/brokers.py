"""Brokers beside FastStream's own publish and its ordinary pydantic subscriber, on one server, turn by turn.

``python -m tests.benchmarks.brokers nats redis rabbitmq kafka``
"""

import asyncio
import statistics
import sys
import tempfile
import threading
import time

from pydantic import BaseModel

from messagebus import Registry
from messagebus.brokers import connect
from messagebus.delivery import Worker, open_store
from messagebus.testing.shop import PlaceOrder
from tests import servers

MESSAGES = 4_000
IN_FLIGHT = 100
ROUNDS = 3
STARTS = {"nats": servers.start_nats, "redis": servers.start_valkey, "rabbitmq": servers.start_rabbitmq,
          "kafka": servers.start_tansu}  # fmt: skip


class Order(BaseModel):
    order_id: str
    quantity: int


async def in_flight(send):
    """Send with so many under way at a time; return messages per second."""
    numbers = iter(range(MESSAGES))

    async def one_after_another():
        for number in numbers:
            await send(number)

    begun = time.perf_counter()
    await asyncio.gather(*(one_after_another() for _ in range(IN_FLIGHT)))
    return MESSAGES / (time.perf_counter() - begun)


def ours(url, round):
    """Publish and consume as a service does; the handler does nothing."""
    namespace = f"bench{round}"
    with connect(url, group="bench", namespace=namespace, partitions=1) as broker:
        broker.send(PlaceOrder(order_id="first"))  # As theirs is, its queue is declared before the clock runs.
        published = asyncio.run(in_flight(lambda n: broker.asend(PlaceOrder(order_id=f"o-{n}", quantity=1))))
        seen, times, registry = [], [], Registry()

        def handle(message: PlaceOrder) -> None:
            seen.append(message)
            times.append(time.perf_counter())
            if len(seen) == MESSAGES:
                worker.stop()

        registry.register(PlaceOrder, handle)
        store = open_store(f"sqlite:///{tempfile.mkdtemp()}/inbox.db")
        worker = Worker(broker, registry, inbox=store, batch=200, log_level="disabled")
        thread = threading.Thread(target=worker.run)
        thread.start()
        thread.join()
        return published, MESSAGES / (times[-1] - times[0])


async def theirs(name, url, round):
    """Publish and consume with FastStream's defaults, acknowledged after the handler."""
    place, done, seen = f"fs{round}", asyncio.Event(), []

    async def handle(order: Order) -> None:
        seen.append(time.perf_counter())
        if len(seen) == MESSAGES:
            done.set()

    broker, publish, subscribe = globals()[f"faststream_{name}"](url, place)
    await broker.start()
    if name == "nats":
        await broker._connection.jetstream().add_stream(name=place, subjects=[f"{place}.*"])
    if name == "rabbitmq":
        await broker.declare_queue(subscribe.pop("queue_object"))

    async def send(number):
        await publish(Order(order_id=f"o-{number}", quantity=1))

    published = await in_flight(send)
    subscriber = broker.subscriber(**subscribe)
    subscriber(handle)
    await subscriber.start()
    await done.wait()
    await broker.stop()
    return published, MESSAGES / (seen[-1] - seen[0])


def faststream_nats(url, place):
    from faststream.nats import JStream, NatsBroker, PullSub  # noqa: PLC0415 - only what is measured

    broker = NatsBroker(url, logger=None)
    stream = JStream(place, subjects=[f"{place}.*"], declare=False)
    more = {"subject": f"{place}.m", "stream": stream, "durable": "bench", "pull_sub": PullSub(batch_size=200)}
    return broker, lambda order: broker.publish(order, f"{place}.m", stream=place), more


def faststream_redis(url, place):
    from faststream.redis import RedisBroker, StreamSub  # noqa: PLC0415 - only what is measured

    broker = RedisBroker(url, logger=None)
    more = {"stream": StreamSub(place, group="bench", consumer="bench", last_id="0", max_records=200)}
    return broker, lambda order: broker.publish(order, stream=place), more


def faststream_rabbitmq(url, place):
    from faststream.rabbit import Channel, QueueType, RabbitBroker, RabbitQueue  # noqa: PLC0415 - only what is measured

    broker = RabbitBroker(url, logger=None, default_channel=Channel(prefetch_count=200))
    queue = RabbitQueue(place, queue_type=QueueType.QUORUM, durable=True)
    return broker, lambda order: broker.publish(order, place, persist=True), {"queue": queue, "queue_object": queue}


def faststream_kafka(url, place):
    from faststream import AckPolicy  # noqa: PLC0415 - only what is measured
    from faststream.kafka import KafkaBroker  # noqa: PLC0415 - only what is measured

    broker = KafkaBroker(url.partition("://")[2], logger=None, acks="all")
    more = {"group_id": place, "auto_offset_reset": "earliest", "ack_policy": AckPolicy.ACK}

    class Subscribing:
        def __getattr__(self, name):
            return getattr(broker, name)

        def subscriber(self, **given):
            return broker.subscriber(place, **given)

    return Subscribing(), lambda order: broker.publish(order, place), more


def main():
    print(
        f"{'':10}{'publish ours':>14}{'FastStream':>12}{'ratio':>7}{'consume ours':>14}{'FastStream':>12}{'ratio':>7}"
    )
    for name in sys.argv[1:] or STARTS:
        server = STARTS[name]()
        try:
            rounds = [(ours(server.url, n), asyncio.run(theirs(name, server.url, n))) for n in range(ROUNDS)]
        finally:
            server.stop()
        columns = zip(*((*mine, *other) for mine, other in rounds), strict=True)
        publish, consume, their_publish, their_consume = map(statistics.median, columns)
        print(
            f"{name:10}{publish:14,.0f}{their_publish:12,.0f}{publish / their_publish:7.2f}"
            f"{consume:14,.0f}{their_consume:12,.0f}{consume / their_consume:7.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
