"""RabbitMQ: a quorum queue for the commands of each type, and one for the events of each type and group."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, Final

from messagebus.brokers.engine import CONFIRM, Engine, Put, Want, missing
from messagebus.brokers.wire import CONTENT_TYPE, Parcel, arrival

try:
    from aio_pika import DeliveryMode, ExchangeType, Message
    from aio_pika.exceptions import ChannelNotFoundEntity
    from faststream import AckPolicy
    from faststream.rabbit import Channel, QueueType, RabbitBroker, RabbitQueue
except ImportError as error:
    raise missing("RabbitMQ", "rabbitmq") from error

__all__ = ["RabbitMQ"]

_AGAIN: Final = 1.0
"""Seconds between attempts to connect again."""


class RabbitMQ(Engine):
    """Publishes with confirms, to quorum queues, which sync before they confirm.

    An event reaches the groups that have subscribed before it was published.
    """

    name = "RabbitMQ"
    orders_by_key = True

    async def connect(self) -> None:
        self._broker = RabbitBroker(self.settings.url, logger=None, apply_types=False, reconnect_interval=_AGAIN)
        self._connection: Any = await self._broker.connect()
        self._subscribers: list[Any] = []
        self._declared: set[str] = set()
        self._channel = await self._connection.channel(publisher_confirms=True, on_return_raises=True)
        self._events = await self._channel.declare_exchange(
            f"{self.settings.namespace}.event", ExchangeType.DIRECT, durable=True
        )

    # Publishing

    async def publish(self, parcels: Sequence[Parcel]) -> Sequence[Exception | None]:
        for name in {self.settings.destination("command", one.type) for one in parcels if one.kind == "command"}:
            await self._declare(name)
        answers = await asyncio.gather(*map(self._publish, parcels), return_exceptions=True)
        return [answer if isinstance(answer, Exception) else None for answer in answers]

    async def _publish(self, parcel: Parcel) -> None:
        is_event = parcel.kind == "event"
        message = Message(
            parcel.body, content_type=CONTENT_TYPE, message_id=parcel.id, delivery_mode=DeliveryMode.PERSISTENT
        )
        exchange = self._events if is_event else self._channel.default_exchange
        key = parcel.type if is_event else self.settings.destination("command", parcel.type)
        # A command that no queue takes comes back as an error; an event that nobody has subscribed to is for nobody.
        await exchange.publish(message, key, mandatory=not is_event, timeout=CONFIRM)

    async def _declare(self, name: str) -> None:
        """Make sure that a queue is there; one that is, is left as somebody has made it."""
        if name in self._declared:
            return
        channel = await self._connection.channel()
        try:
            await channel.declare_queue(name, passive=True)
        except ChannelNotFoundEntity:
            channel = await self._connection.channel()
            await channel.declare_queue(name, durable=True, arguments=self._arguments())
        await channel.close()
        self._declared.add(name)

    def _arguments(self) -> dict[str, Any]:
        arguments: dict[str, Any] = {"x-queue-type": "quorum"}
        if self.settings.is_ordered:
            arguments["x-single-active-consumer"] = True
        return arguments

    # Reading

    async def subscribe(self, wants: Sequence[Want], put: Put) -> None:
        for want in wants:
            name = self.settings.destination(want.kind, want.type)
            if want.kind == "event":
                name = f"{name}.{self.settings.group}"
            await self._declare(name)
            if want.kind == "event":
                channel = await self._connection.channel()
                queue = await channel.get_queue(name)
                await queue.bind(self._events.name, want.type)
                await channel.close()
            await self._consume(name, put)

    async def _consume(self, name: str, put: Put) -> None:
        subscriber = self._broker.subscriber(
            RabbitQueue(name, queue_type=QueueType.QUORUM, durable=True, declare=False),
            channel=Channel(prefetch_count=min(self.ahead, 65_535)),
            ack_policy=AckPolicy.MANUAL,
            decoder=_undecoded,
        )

        async def receive(message: Any) -> None:
            await put([_arrival(message.raw_message, name)])

        subscriber(receive)
        await subscriber.start()
        self._subscribers.append(subscriber)

    async def acknowledge(self, receipts: Iterable[Any]) -> None:
        failed = None
        for receipt in receipts:
            try:
                await receipt.ack()
            except Exception as error:  # noqa: BLE001 - one is of a connection that is gone, others are not
                failed = error
        if failed is not None:
            raise failed

    async def give_back(self, receipts: Iterable[Any]) -> None:
        for receipt in receipts:
            await receipt.nack(requeue=True)

    async def unsubscribe(self) -> None:
        subscribers, self._subscribers = self._subscribers, []
        for subscriber in subscribers:
            await subscriber.stop()

    async def close(self) -> None:
        await self._broker.stop()


async def _undecoded(message: Any) -> Any:
    return message


def _arrival(raw: Any, place: str) -> Any:
    headers = {name: value for name, value in raw.headers.items() if isinstance(value, str | bytes | int | bool)}
    if raw.content_type:
        headers["content-type"] = raw.content_type
    return arrival(raw.body, headers, place=place, position=raw.message_id or "", receipt=raw)
