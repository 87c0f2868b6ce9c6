"""Redis and Valkey: a stream for each type, read by a consumer group; those of the dead are claimed by the living."""

import asyncio
import os
import re
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from messagebus.brokers.engine import CONFIRM, Engine, Put, Want, missing
from messagebus.brokers.wire import CONTENT_TYPE, Parcel, arrival

try:
    from faststream.redis import RedisBroker
    from redis.exceptions import RedisError, ResponseError
except ImportError as error:
    raise missing("Redis", "redis") from error

__all__ = ["Redis"]

_BLOCK: Final = 250
"""Milliseconds that a request for messages waits on the server."""
_MOST: Final = 200
_PAUSE: Final = 0.5
_PATIENCE: Final = 5.0
"""Seconds that a look for replies waits."""
_AT_ONCE: Final = 16
_DATA: Final = b"data"

Receipt = tuple[str, str, bytes]
"""Stream, group and id of an entry."""


class Redis(Engine):
    """Commands are removed when acknowledged; events are kept for ``retention`` seconds.

    It needs Redis 6.2 or newer, or Valkey, and is as durable as its append-only file.
    """

    name = "Redis"
    capabilities = frozenset({"replies", "history"})

    async def connect(self) -> None:
        options: Any = {"logger": None, "apply_types": False}
        self._broker = RedisBroker(re.sub("^valkey", "redis", self.settings.url), **options)
        self._redis: Any = await self._broker.connect()
        await self._redis.ping()
        self._me = f"{socket.gethostname()}-{os.getpid()}"
        self._gate = asyncio.Semaphore(_AT_ONCE)
        self._groups: dict[str, str] = {}
        self._loops: list[asyncio.Task[None]] = []
        self._is_reading = False
        self._listening: asyncio.Task[None] | None = None

    async def weaknesses(self) -> Sequence[tuple[str, str]]:
        try:
            found = await self._redis.config_get("append*")
        except ResponseError:  # Where others run it, nobody may ask.
            return ()
        settings = {_text(name): _text(value) for name, value in found.items()}
        if settings.get("appendonly") != "yes":
            return [
                ("a crash loses what it has confirmed: appendonly is no", "Set appendonly yes, appendfsync always.")
            ]
        if settings.get("appendfsync") != "always":
            why = f"a crash loses the last second or more: appendfsync is {settings.get('appendfsync')}"
            return [(why, "Set appendfsync always, or send through a store.")]
        return ()

    # Publishing

    async def publish(self, parcels: Sequence[Parcel]) -> Sequence[Exception | None]:
        oldest = round((time.time() - self.settings.retention) * 1000)
        async with self._gate, self._redis.pipeline(transaction=False) as pipeline:
            for parcel in parcels:
                stream = self.settings.destination(parcel.kind, parcel.to)
                if parcel.kind == "reply":  # On a channel: only who listens gets it.
                    pipeline.publish(stream, parcel.body)
                    continue
                bounds = {"minid": oldest} if parcel.kind == "event" else {}
                pipeline.xadd(stream, {_DATA: parcel.body, "content-type": CONTENT_TYPE}, **bounds)
            answers = await pipeline.execute(raise_on_error=False)
        return [answer if isinstance(answer, Exception) else None for answer in answers]

    # Reading

    async def listen(self, address: str, take: Callable[[bytes], None]) -> None:
        channel = self._redis.pubsub(ignore_subscribe_messages=True)
        await channel.subscribe(self.settings.destination("reply", address))
        self._listening = asyncio.create_task(self._hear(channel, take))

    async def _hear(self, channel: Any, take: Callable[[bytes], None]) -> None:
        while True:
            try:
                message = await channel.get_message(timeout=_PATIENCE)
            except (RedisError, OSError):  # The next call connects, and subscribes, again.
                await asyncio.sleep(_PAUSE)
                continue
            if message is not None:
                take(message["data"])

    async def subscribe(self, wants: Sequence[Want], put: Put) -> None:
        self._groups = {
            self.settings.destination(want.kind, want.type): want.kind
            if want.kind == "command"
            else self.settings.group
            for want in wants
        }
        await self._create_groups()
        self._is_reading = True
        streams = defaultdict(list)
        for stream, group in self._groups.items():
            streams[group].append(stream)
        self._loops = [asyncio.create_task(self._read(group, names, put)) for group, names in streams.items()]
        self._loops.append(asyncio.create_task(self._take_over(put)))

    async def _create_groups(self) -> None:
        for stream, group in self._groups.items():
            try:
                await self._redis.xgroup_create(stream, group, id="0", mkstream=True)
            except ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise

    async def _read(self, group: str, streams: Sequence[str], put: Put) -> None:
        wanted = dict.fromkeys(streams, ">")
        while self._is_reading:
            try:
                count = min(self.ahead, _MOST)
                found = await self._redis.xreadgroup(group, self._me, wanted, count=count, block=_BLOCK)
            except (RedisError, OSError) as error:
                await self._recover(error)
                continue
            for stream, entries in found.items() if isinstance(found, Mapping) else found or ():
                flat = entries[0] if isinstance(found, Mapping) else entries
                await put([_arrival(_text(stream), group, *entry) for entry in flat])

    async def _recover(self, error: Exception) -> None:
        """Wait a little for a server that is away; one that has come back empty has no groups any more."""
        await asyncio.sleep(_PAUSE)
        if "NOGROUP" in str(error):
            with suppress(RedisError, OSError):
                await self._create_groups()

    async def _take_over(self, put: Put) -> None:
        """Take what was brought to somebody who has not acknowledged it, nor renewed, for as long as the lease."""
        while self._is_reading:
            try:
                for stream, group in self._groups.items():
                    await self._take_over_from(stream, group, put)
            except (RedisError, OSError) as error:
                await self._recover(error)
            await asyncio.sleep(min(self.lease / 2, 5.0))

    async def _take_over_from(self, stream: str, group: str, put: Put) -> None:
        start: Any = "0-0"
        while self._is_reading:
            idle = round(self.lease * 1000)
            start, entries, *_ = await self._redis.xautoclaim(stream, group, self._me, idle, start, count=_MOST)
            taken = [_arrival(stream, group, *entry) for entry in entries if entry[1]]
            if taken:
                await put(taken)
            if _text(start) == "0-0":
                return

    async def acknowledge(self, receipts: Iterable[Receipt]) -> None:
        async with self._redis.pipeline(transaction=False) as pipeline:
            for (stream, group), ids in _by_group(receipts):
                pipeline.xack(stream, group, *ids)
                if group == "command":
                    pipeline.xdel(stream, *ids)
            await pipeline.execute()

    async def renew(self, receipts: Iterable[Receipt]) -> None:
        await self._mark(receipts, idle=0)

    async def give_back(self, receipts: Iterable[Receipt]) -> None:
        await self._mark(receipts, idle=round(self.lease * 1000))

    async def _mark(self, receipts: Iterable[Receipt], *, idle: int) -> None:
        async with self._redis.pipeline(transaction=False) as pipeline:
            for (stream, group), ids in _by_group(receipts):
                pipeline.xclaim(stream, group, self._me, 0, ids, idle=idle, justid=True)
            await pipeline.execute()

    async def unsubscribe(self) -> None:
        self._is_reading = False
        loops, self._loops = self._loops, []
        if loops:
            await asyncio.wait(loops, timeout=min(CONFIRM, 2 * _BLOCK / 1000))
        for loop in loops:
            loop.cancel()

    async def close(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
        await self._broker.stop()


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _by_group(receipts: Iterable[Receipt]) -> Iterable[tuple[tuple[str, str], list[bytes]]]:
    ids = defaultdict(list)
    for stream, group, id in receipts:
        ids[stream, group].append(id)
    return ids.items()


def _arrival(stream: str, group: str, id: bytes, fields: Mapping[bytes, bytes]) -> Any:
    headers = {name.decode(errors="replace"): value for name, value in fields.items() if name != _DATA}
    receipt: Receipt = (stream, group, id)
    return arrival(fields.get(_DATA, b""), headers, place=stream, position=_text(id), receipt=receipt)
