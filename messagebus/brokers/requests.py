"""Requests: commands of which the sender waits for the return messages."""

import asyncio
import time
from contextlib import suppress
from typing import Any

from messagebus.brokers.engine import CONFIRM, Engine
from messagebus.brokers.publisher import Publisher
from messagebus.brokers.wire import Parcel
from messagebus.delivery.replies import read_reply
from messagebus.envelope import new_id
from messagebus.errors import BrokerError, BrokerUnavailableError, DeliveryFailedError, ReplyTimeoutError

__all__ = ["Requests"]

_Answer = bytes | DeliveryFailedError
"""Return messages as a JSON array, or what failed for good."""


class Requests:
    """Who waits for which reply, of one broker; used on its event loop."""

    def __init__(self, engine: Engine, publisher: Publisher) -> None:
        self.address = new_id()
        self._engine, self._publisher = engine, publisher
        self._waiting: dict[str, list[asyncio.Future[_Answer]]] = {}
        self._asking: set[asyncio.Task[Any] | None] = set()
        self._is_closed = False
        self._listening: asyncio.Task[None] | None = None

    async def ask(self, parcel: Parcel, patience: float) -> bytes:
        """Publish a command, and return what comes back within so many seconds; see `Broker.request`."""
        begun, confirmed_after = time.monotonic(), None
        reply: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(parcel.id, []).append(reply)
        task = asyncio.current_task()
        self._asking.add(task)
        try:
            if self._is_closed:
                raise asyncio.CancelledError
            async with asyncio.timeout(patience):
                await self._listen()
                await self._publisher.publish(parcel)
                confirmed_after = time.monotonic() - begun
                answer = await reply
        except TimeoutError:
            raise ReplyTimeoutError(parcel.type, parcel.id, self._engine.name, patience, confirmed_after) from None
        except asyncio.CancelledError:
            if not self._is_closed:
                raise
            raise BrokerError(f"return the reply to {parcel.id}", "the broker was closed meanwhile") from None
        finally:
            self._asking.discard(task)
            self._waiting[parcel.id].remove(reply)
            if not self._waiting[parcel.id]:
                del self._waiting[parcel.id]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def close(self) -> None:
        """Let nobody wait any longer."""
        self._is_closed = True
        tasks = [task for task in (*self._asking, self._listening) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self) -> None:
        """Have replies brought before the first command leaves; those who ask at the same time wait together."""
        if self._listening is None or (self._listening.done() and self._listening.exception() is not None):
            self._listening = asyncio.create_task(self._begin())
        await asyncio.shield(self._listening)

    async def _begin(self) -> None:
        try:
            await asyncio.wait_for(self._engine.listen(self.address, self._take), CONFIRM)
        except Exception as error:  # noqa: BLE001 - whatever a client raises
            what = f"listen for replies on {self._engine.name}"
            raise BrokerUnavailableError(what, self._engine.told(error)) from None

    def _take(self, body: bytes) -> None:
        """Give a reply to those who wait for it; one that comes too late, or again, is for nobody."""
        with suppress(ValueError, TypeError, LookupError):
            id, answer = read_reply(body)
            for reply in self._waiting.get(id, ()):
                if not reply.done():
                    reply.set_result(answer)
