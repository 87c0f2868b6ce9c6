"""Kafka: a topic for each type; a partition belongs to one worker of a group, and is committed in its order."""

import asyncio
import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cache
from typing import Any, Final

from messagebus.brokers.engine import CONFIRM, Engine, Put, Want, missing
from messagebus.brokers.wire import CONTENT_TYPE, Parcel, arrival

try:
    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
    from aiokafka.admin import AIOKafkaAdminClient, NewTopic
    from aiokafka.errors import ConsumerStoppedError, MessageSizeTooLargeError, TopicAlreadyExistsError, for_code
    from faststream import AckPolicy
    from faststream.kafka import KafkaBroker
except ImportError as error:
    raise missing("Kafka", "kafka") from error

__all__ = ["Kafka"]

_MOST: Final = 500
_SESSION: Final = 10.0
"""Seconds after which the partitions of a worker that has died go to others, at least."""
_LARGEST: Final = 1_048_576
_HEADERS: Final = [("content-type", CONTENT_TYPE.encode())]
_KEEP_REPLIES: Final = 3_600_000
"""Milliseconds after which the engine may forget a reply."""


class Kafka(Engine):
    """Published with ``acks=all``. Messages with one key are in one partition, and handled in order."""

    name = "Kafka"
    capabilities = frozenset({"order", "replies", "history"})

    async def connect(self) -> None:
        self._servers = self.settings.url.partition("://")[2].strip("/")
        self._broker = KafkaBroker(self._servers, logger=None, apply_types=False)
        self._subscribers: list[Any] = []
        self._known: set[str] = set()
        self._topic = cache(self._name)
        self._replies = f"{self.settings.namespace}.reply"
        """One topic for all who wait for a reply, and come and go; each passes over what is for others."""
        self._listener: Any = None
        self._admin: Any = AIOKafkaAdminClient(
            bootstrap_servers=self._servers, request_timeout_ms=round(CONFIRM * 1000)
        )
        await self._admin.start()
        self._producer: Any = AIOKafkaProducer(
            bootstrap_servers=self._servers, acks="all", request_timeout_ms=round(CONFIRM * 1000), linger_ms=0,
            max_request_size=_LARGEST,
        )  # fmt: skip
        await self._producer.start()
        await self._broker.connect()
        brokers = (await self._admin.describe_cluster()).get("brokers", ())
        self._replicas = max(1, min(3, len(brokers)))

    async def weaknesses(self) -> Sequence[tuple[str, str]]:
        if self._replicas == 1:
            why = "there is one broker: what it has confirmed is on no other, and perhaps not yet on its disk"
            return [(why, "Use three brokers, default.replication.factor=3 and min.insync.replicas=2.")]
        return ()

    def _name(self, kind: str, type: str) -> str:
        # A colon and a slash have no place in the name of a topic.
        return re.sub("[:/]", lambda found: f"_{ord(found[0]):02X}", f"{self.settings.namespace}.{kind}.{type}")

    def _topic_for(self, parcel: Parcel) -> str:
        return self._replies if parcel.kind == "reply" else self._topic(parcel.kind, parcel.to)

    async def _declare(self, topics: Iterable[str]) -> None:
        new = [topic for topic in topics if topic not in self._known]
        if not new:
            return
        wanted = [
            NewTopic(topic, 1, self._replicas, topic_configs={"retention.ms": str(_KEEP_REPLIES)})
            if topic == self._replies
            else NewTopic(topic, self.settings.partitions, self._replicas)
            for topic in new
        ]
        for topic, code, *_ in (await self._admin.create_topics(wanted)).topic_errors:
            if code and for_code(code) is not TopicAlreadyExistsError:
                raise for_code(code)(topic)
            self._known.add(topic)

    # Publishing

    async def publish(self, parcels: Sequence[Parcel]) -> Sequence[Exception | None]:
        async with self.in_line:
            await self._declare({self._topic_for(parcel) for parcel in parcels})
            sent = [await self._publish(parcel) for parcel in parcels]
        answers = await asyncio.gather(*sent, return_exceptions=True)
        return [answer if isinstance(answer, Exception) else None for answer in answers]

    async def _publish(self, parcel: Parcel) -> "asyncio.Future[Any]":
        key = parcel.to if parcel.kind == "reply" else parcel.key
        more = {"headers": _HEADERS, "key": None if key is None else key.encode()}
        try:
            confirmed: asyncio.Future[Any] = await self._producer.send(self._topic_for(parcel), parcel.body, **more)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with this one
            confirmed = asyncio.get_running_loop().create_future()
            confirmed.set_exception(error)
        return confirmed

    def is_refusal(self, error: Exception) -> bool:
        return isinstance(error, MessageSizeTooLargeError)

    # Reading

    async def listen(self, address: str, take: Callable[[bytes], None]) -> None:
        await self._declare([self._replies])
        place = TopicPartition(self._replies, 0)
        listener: Any = AIOKafkaConsumer(bootstrap_servers=self._servers, enable_auto_commit=False)
        try:
            await listener.start()
            listener.assign([place])
            await listener.seek_to_end(place)
            await listener.position(place)  # What comes after this is brought, however late it is looked for.
        except BaseException:
            await listener.stop()
            raise
        self._listener = listener
        self._hearing = asyncio.create_task(self._hear(address.encode(), take))

    async def _hear(self, address: bytes, take: Callable[[bytes], None]) -> None:
        with suppress(ConsumerStoppedError):
            async for record in self._listener:  # It connects again by itself, and ends when it is stopped.
                if record.key == address:
                    take(record.value or b"")

    async def subscribe(self, wants: Sequence[Want], put: Put) -> None:
        await self._declare({self._topic(want.kind, want.type) for want in wants})
        for want in wants:
            await self._subscribe(want, put)

    async def _subscribe(self, want: Want, put: Put) -> None:
        topic = self._topic(want.kind, want.type)
        owner = topic if want.kind == "command" else f"{self.settings.namespace}.{self.settings.group}.{topic}"
        partitions: Any = _Partitions()
        subscriber = self._broker.subscriber(
            topic,
            group_id=owner,
            batch=True,
            max_records=min(self.ahead, _MOST),
            auto_offset_reset="earliest",
            session_timeout_ms=round(_SESSION * 1000),
            heartbeat_interval_ms=round(_SESSION * 1000 / 4),
            listener=partitions,
            ack_policy=AckPolicy.MANUAL,
            decoder=_undecoded,
        )

        async def receive(message: Any) -> None:
            partitions.consumer = message.consumer
            await put([_arrival(record, partitions.of(record)) for record in message.raw_message])

        subscriber(receive)
        await subscriber.start()
        self._subscribers.append(subscriber)

    async def acknowledge(self, receipts: Iterable["tuple[_Progress, int]"]) -> None:
        touched: dict[int, _Progress] = {}
        for progress, offset in receipts:
            progress.finish(offset)
            touched[id(progress)] = progress
        for progress in touched.values():
            await progress.commit()

    async def unsubscribe(self) -> None:
        subscribers, self._subscribers = self._subscribers, []
        for subscriber in subscribers:
            await subscriber.stop()

    async def close(self) -> None:
        if self._listener is not None:
            await self._listener.stop()
        await self._producer.stop()
        await self._admin.close()
        await self._broker.stop()


class _Progress:
    """How far one partition is handled: an offset is committed when all before it are finished as well."""

    def __init__(self, partition: TopicPartition, consumer: Any) -> None:
        self._partition, self._consumer = partition, consumer
        self._begun: deque[int] = deque()
        self._finished: set[int] = set()
        self._next: int | None = None
        self.is_lost = False

    def start(self, offset: int) -> None:
        self._begun.append(offset)

    def finish(self, offset: int) -> None:
        self._finished.add(offset)
        while self._begun and self._begun[0] in self._finished:
            first = self._begun.popleft()
            self._finished.discard(first)
            self._next = first + 1

    async def commit(self) -> None:
        following, self._next = self._next, None
        if following is not None and not self.is_lost:
            await self._consumer.commit({self._partition: following})


class _Partitions(ConsumerRebalanceListener):  # type: ignore[misc,unused-ignore]
    """The partitions that this worker has now; after each change of hands they begin anew where they were committed."""

    def __init__(self) -> None:
        self.consumer: Any = None
        self._progress: dict[TopicPartition, _Progress] = {}

    def of(self, record: Any) -> "tuple[_Progress, int]":
        partition = TopicPartition(record.topic, record.partition)
        progress = self._progress.get(partition)
        if progress is None:
            progress = self._progress[partition] = _Progress(partition, self.consumer)
        progress.start(record.offset)
        return progress, record.offset

    def on_partitions_revoked(self, revoked: Any) -> None:  # noqa: ARG002 - all are given up at once
        for progress in self._progress.values():
            progress.is_lost = True
        self._progress = {}

    def on_partitions_assigned(self, assigned: Any) -> None:
        """Nothing is known of them yet."""


async def _undecoded(message: Any) -> Any:
    return message


def _arrival(record: Any, receipt: "tuple[_Progress, int]") -> Any:
    headers = dict(record.headers or ())
    position = f"{record.partition}:{record.offset}"
    return arrival(record.value or b"", headers, place=record.topic, position=position, receipt=receipt)
