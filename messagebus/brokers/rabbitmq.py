"""RabbitMQ: a quorum queue for the commands of each type, and one for the events of each type and group."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from messagebus.brokers.engine import CONFIRM, Engine, Put, Want, missing
from messagebus.brokers.wire import CONTENT_TYPE, Parcel, arrival

try:
    from aio_pika import DeliveryMode, ExchangeType, Message
    from aio_pika.exceptions import ChannelNotFoundEntity
    from faststream.rabbit import RabbitBroker
except ImportError as error:
    raise missing("RabbitMQ", "rabbitmq") from error

__all__ = ["RabbitMQ"]

_AGAIN: Final = 1.0
"""Seconds between attempts to connect again."""
_SOUND: Final = 4
"""The version from which on a queue is on disk when it is declared."""
_REST: Final = 2.0
"""Seconds after which an older one has written a queue to disk.

Killed within the first second of a queue it does not find it again, with all that it has confirmed: its table of quorum
queues is saved a second after it has changed. Source: https://github.com/rabbitmq/ra/pull/443.
"""


class RabbitMQ(Engine):
    """Publishes with confirms, to quorum queues, which sync before they confirm.

    An event reaches the groups that have subscribed before it was published.
    """

    name = "RabbitMQ"
    capabilities = frozenset({"order", "replies"})

    async def connect(self) -> None:
        self._broker = RabbitBroker(self.settings.url, logger=None, apply_types=False, reconnect_interval=_AGAIN)
        self._connection: Any = await self._broker.connect()
        self._consumers: list[tuple[Any, str]] = []
        self._declared: set[str] = set()
        self._channel = await self._connection.channel(publisher_confirms=True, on_return_raises=True)
        self._events = await self._channel.declare_exchange(
            f"{self.settings.namespace}.event", ExchangeType.DIRECT, durable=True
        )

    # Publishing

    async def publish(self, parcels: Sequence[Parcel]) -> Sequence[Exception | None]:
        queues = {self.settings.destination(one.kind, one.to) for one in parcels if one.kind == "command"}
        async with self.in_line:
            await self._declare(queues)
        answers = await asyncio.gather(*map(self._publish, parcels), return_exceptions=True)
        return [answer if isinstance(answer, Exception) else None for answer in answers]

    async def _publish(self, parcel: Parcel) -> None:
        is_event, is_command = parcel.kind == "event", parcel.kind == "command"
        message = Message(
            parcel.body, content_type=CONTENT_TYPE, message_id=parcel.id, delivery_mode=DeliveryMode.PERSISTENT
        )
        exchange = self._events if is_event else self._channel.default_exchange
        key = parcel.to if is_event else self.settings.destination(parcel.kind, parcel.to)
        # A command that no queue takes comes back as an error. An event that nobody has subscribed to is for nobody,
        # and so is a reply to somebody who is gone.
        await exchange.publish(message, key, mandatory=is_command, timeout=CONFIRM)

    async def _declare(self, names: Iterable[str]) -> None:
        """Make sure that queues are there, and on disk; one that is, is left as somebody has made it.

        Nobody can tell how old a queue is that somebody else has made, perhaps just now.
        """
        unknown = [name for name in names if name not in self._declared]
        for name in unknown:
            await self._make(name)
        if unknown and self._version < _SOUND:
            await asyncio.sleep(_REST)
        self._declared.update(unknown)

    async def _make(self, name: str) -> None:
        channel = await self._connection.channel()
        try:
            await channel.declare_queue(name, passive=True)
        except ChannelNotFoundEntity:
            channel = await self._connection.channel()
            await channel.declare_queue(name, durable=True, arguments=self._arguments())
        await channel.close()

    @property
    def _version(self) -> int:
        told = str(self._connection.transport.connection.server_properties.get("version", ""))
        return int(told.partition(".")[0]) if told[:1].isdigit() else _SOUND

    def _arguments(self) -> dict[str, Any]:
        arguments: dict[str, Any] = {"x-queue-type": "quorum"}
        if self.settings.is_ordered:
            arguments["x-single-active-consumer"] = True
        return arguments

    # Reading

    async def listen(self, address: str, take: Callable[[bytes], None]) -> None:
        async def receive(message: Any) -> None:
            take(message.body)

        channel = await self._connection.channel()
        # It ends with the connection, and is made again with it.
        queue = await channel.declare_queue(self.settings.destination("reply", address), exclusive=True)
        await queue.consume(receive, no_ack=True)

    async def subscribe(self, wants: Sequence[Want], put: Put) -> None:
        queues = {want: self._queue(want) for want in wants}
        for name in queues.values():
            await self._make(name)
        # Whoever publishes a command has waited, or will; of these queues those know nothing who publish events.
        await self._declare([name for want, name in queues.items() if want.kind == "event"])
        for want, name in queues.items():
            if want.kind == "event":
                channel = await self._connection.channel()
                queue = await channel.get_queue(name)
                await queue.bind(self._events.name, want.type)
                await channel.close()
            await self._consume(name, put)

    def _queue(self, want: Want) -> str:
        name = self.settings.destination(want.kind, want.type)
        return name if want.kind == "command" else f"{name}.{self.settings.group}"

    async def _consume(self, name: str, put: Put) -> None:
        # FastStream's subscriber parses each message for a handler of its own, which takes longer than all else.
        channel = await self._connection.channel()
        await channel.set_qos(prefetch_count=min(self.ahead, 65_535))
        queue = await channel.get_queue(name)

        async def receive(raw: Any) -> None:
            await put([_arrival(raw, name)])

        self._consumers.append((queue, await queue.consume(receive)))

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
        consumers, self._consumers = self._consumers, []
        for queue, tag in consumers:
            if not queue.channel.is_closed:
                await queue.cancel(tag)

    async def close(self) -> None:
        await self._broker.stop()


def _arrival(raw: Any, place: str) -> Any:
    headers = {name: value for name, value in raw.headers.items() if isinstance(value, str | bytes | int | bool)}
    if raw.content_type:
        headers["content-type"] = raw.content_type
    return arrival(raw.body, headers, place=place, position=raw.message_id or "", receipt=raw)
