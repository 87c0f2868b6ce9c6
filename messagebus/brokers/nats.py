"""NATS JetStream: a stream of commands, each for one worker, and a stream of events, which every group reads."""

import asyncio
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, Final

from messagebus.brokers.engine import CONFIRM, Engine, Put, Want, missing
from messagebus.brokers.wire import CONTENT_TYPE, Parcel, arrival

try:
    from faststream.nats import NatsBroker
    from nats.errors import Error, MaxPayloadError
    from nats.js.api import AckPolicy, ConsumerConfig, RetentionPolicy, StorageType, StreamConfig
    from nats.js.errors import BadRequestError
except ImportError as error:
    raise missing("NATS", "nats") from error

__all__ = ["Nats"]

_PULL: Final = 5.0
"""Seconds that a request for messages waits on the server."""
_MOST: Final = 200
_PAUSE: Final = 0.5


class Nats(Engine):
    """Commands are removed when acknowledged; events are kept for ``retention`` seconds.

    With ``ordered=True`` one message of a type is under way at a time: some hundred a second.

    JetStream confirms before it syncs to disk, by default up to two minutes later, which a client cannot see: for a
    single server set ``sync_interval: always``, or keep three replicas.
    """

    name = "NATS"
    capabilities = frozenset({"order", "replies", "history"})

    async def connect(self) -> None:
        patience: Any = {"connect_timeout": CONFIRM, "reconnect_time_wait": _PAUSE, "max_reconnect_attempts": -1}
        self._broker = NatsBroker(self.settings.url, logger=None, apply_types=False, **patience)
        self._pulls: list[tuple[Any, asyncio.Task[None]]] = []
        self._is_pulling = False
        self._subject = cache(self._name)
        self._streams = {kind: f"{self.settings.namespace}-{kind}".replace(".", "_") for kind in ("command", "event")}
        self._client = await self._broker.connect()
        self._jetstream = self._client.jetstream(timeout=CONFIRM)
        for kind, retention in (("command", RetentionPolicy.WORK_QUEUE), ("event", RetentionPolicy.LIMITS)):
            config = StreamConfig(
                name=self._streams[kind], subjects=[f"{self.settings.namespace}.{kind}.>"], retention=retention,
                max_age=self.settings.retention if kind == "event" else 0,
            )  # fmt: skip
            try:
                await self._jetstream.add_stream(config)
            except BadRequestError:  # It is there with other settings, which somebody has chosen.
                await self._jetstream.stream_info(self._streams[kind])

    async def weaknesses(self) -> Sequence[tuple[str, str]]:
        infos = [await self._jetstream.stream_info(stream) for stream in self._streams.values()]
        return [
            (f"a crash loses what it has confirmed: stream {info.config.name} is in memory", "Make it anew, in files.")
            for info in infos
            if info.config.storage == StorageType.MEMORY
        ]

    async def publish(self, parcels: Sequence[Parcel]) -> Sequence[Exception | None]:
        async with self.in_line:
            sent = [await self._publish(parcel) for parcel in parcels]
        if any(parcel.kind == "reply" for parcel in parcels):
            await self._client.flush(round(CONFIRM))
        await asyncio.wait(sent, timeout=CONFIRM)
        return [_outcome(confirmed) for confirmed in sent]

    async def _publish(self, parcel: Parcel) -> "asyncio.Future[Any]":
        headers = {"Nats-Msg-Id": parcel.id, "content-type": CONTENT_TYPE}
        confirmed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        try:
            if parcel.kind == "reply":  # In no stream: only who listens gets it.
                await self._client.publish(self.settings.destination("reply", parcel.to), parcel.body, headers=headers)
                confirmed.set_result(None)
            else:
                # Its `publish` takes a task and a timer for each message.
                subject = self._subject(parcel.kind, parcel.to)
                confirmed = await self._jetstream.publish_async(subject, parcel.body, headers=headers)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with this one
            confirmed.set_exception(error)
        return confirmed

    def _name(self, kind: str, type: str) -> str:
        # What has no place in a subject, a dot beside nothing, is escaped.
        return f"{self.settings.namespace}.{kind}.{re.sub('(?<=[.])[.]|[.]$', '=2E', type)}"

    async def listen(self, address: str, take: Callable[[bytes], None]) -> None:
        async def receive(raw: Any) -> None:
            take(raw.data)

        await self._client.subscribe(self.settings.destination("reply", address), cb=receive)
        await self._client.flush(round(CONFIRM))

    async def subscribe(self, wants: Sequence[Want], put: Put) -> None:
        self._is_pulling = True
        for want in wants:
            await self._subscribe(want, put)

    async def _subscribe(self, want: Want, put: Put) -> None:
        subject = self._subject(want.kind, want.type)
        owner = want.kind if want.kind == "command" else self.settings.group
        durable = re.sub("[^A-Za-z0-9_-]", lambda found: f"={ord(found[0]):02X}", f"{owner}:{want.type}")
        stream = self._streams[want.kind]
        config = ConsumerConfig(
            durable_name=durable,
            filter_subject=subject,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=self.lease,
            max_ack_pending=1 if self.settings.is_ordered else max(1_000, 10 * self.ahead),
        )
        await self._jetstream.add_consumer(stream, config)  # Or change it, if it is there with another lease.
        subscription = await self._jetstream.pull_subscribe_bind(durable, stream)
        task = asyncio.create_task(self._pull(subscription, put))
        self._pulls.append((subscription, task))

    async def _pull(self, subscription: Any, put: Put) -> None:
        # FastStream's subscriber gathers until a batch is full or a time is over. With a time that is short enough,
        # messages get lost in nats-py between the end of a wait and the next (until they are brought again).
        # Of more than the server gives out at a time it would wait for the rest.
        count = 1 if self.settings.is_ordered else min(self.ahead, _MOST)
        while self._is_pulling:
            try:
                found = await subscription.fetch(count, timeout=_PULL)
            except TimeoutError:
                continue
            except Error:  # The connection is lost, or the stream has no leader now; the client connects again.
                await asyncio.sleep(_PAUSE)
                continue
            await put([_arrival(raw) for raw in found])

    async def acknowledge(self, receipts: Iterable[Any]) -> None:
        for receipt in receipts:
            await receipt.ack()

    async def renew(self, receipts: Iterable[Any]) -> None:
        for receipt in receipts:
            await receipt.in_progress()

    async def give_back(self, receipts: Iterable[Any]) -> None:
        for receipt in receipts:
            await receipt.nak()

    async def unsubscribe(self) -> None:
        pulls, self._pulls, self._is_pulling = self._pulls, [], False
        if pulls:  # One that is busy ends by itself, and loses nothing; others have nothing to lose.
            await asyncio.wait([task for _, task in pulls], timeout=0.1)
        for subscription, task in pulls:
            task.cancel()
            await subscription.unsubscribe()
        await self._client.flush()

    async def close(self) -> None:
        await self._broker.stop()

    def is_refusal(self, error: Exception) -> bool:
        return isinstance(error, MaxPayloadError)


def _outcome(confirmed: "asyncio.Future[Any]") -> Exception | None:
    if not confirmed.done():
        confirmed.cancel()
        return TimeoutError()
    error = confirmed.exception()
    return error if isinstance(error, Exception) else None


def _arrival(raw: Any) -> Any:
    found = raw.metadata
    position = f"{found.stream}:{found.sequence.stream}"
    return arrival(raw.data, raw.headers or {}, place=raw.subject, position=position, receipt=raw)
