"""`Publisher`: what leaves by an engine, many at a time, each with its own answer."""

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Final

from messagebus.brokers.engine import CONFIRM, Engine
from messagebus.brokers.wire import Parcel
from messagebus.errors import BrokerError, MessageBusError, UnwritableMessageError

__all__ = ["Answer", "Publisher"]

Answer = Future[None] | asyncio.Future[None]
"""Done when the engine has confirmed it; waited for in a thread, or on an event loop, whichever."""
_IN_FLIGHT: Final = 512
"""Parcels that are published at the same time."""


class Publisher:
    """Publishes what threads and event loops hand to it, on the loop of the broker."""

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop) -> None:
        self._engine, self._loop = engine, loop
        self._leaving: deque[tuple[Parcel, Answer]] = deque()
        self._is_flushing = False
        self._publishing = 0
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def is_busy(self) -> bool:
        """Something is not confirmed yet."""
        return bool(self._leaving or self._publishing)

    async def publish(self, parcel: Parcel) -> None:
        """Publish from the loop of the broker; see `add`."""
        confirmed: asyncio.Future[None] = self._loop.create_future()
        self.add([(parcel, confirmed)])
        await confirmed

    def add(self, leaving: Sequence[tuple[Parcel, Answer]]) -> None:
        """Have these published, in this order. From any thread.

        An answer fails with BrokerError if it may be tried again, or UnwritableMessageError if the engine refuses it.
        """
        self._leaving.extend(leaving)
        if not self._is_flushing:  # Whoever comes while it is set goes with those that are there.
            self._is_flushing = True
            self._loop.call_soon_threadsafe(self._flush)

    def _flush(self) -> None:
        self._is_flushing = False
        while self._leaving and self._publishing < _IN_FLIGHT:
            count = min(len(self._leaving), _IN_FLIGHT - self._publishing)
            batch = [self._leaving.popleft() for _ in range(count)]
            self._publishing += count
            task = self._loop.create_task(self._publish(batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _publish(self, batch: Sequence[tuple[Parcel, Answer]]) -> None:
        parcels = [parcel for parcel, _ in batch]
        try:
            failures = await asyncio.wait_for(self._engine.publish(parcels), 2 * CONFIRM)
        except Exception as error:  # noqa: BLE001 - it is the senders' to handle
            failures = [error] * len(batch)
        self._publishing -= len(batch)
        self._flush()
        awaited: dict[asyncio.AbstractEventLoop, list[tuple[Answer, MessageBusError | None]]] = {}
        for (parcel, answer), failure in zip(batch, failures, strict=True):
            told = None if failure is None else self._meaning(failure, parcel)
            if isinstance(answer, Future):
                _tell([(answer, told)])
            else:
                awaited.setdefault(answer.get_loop(), []).append((answer, told))
        for loop, answers in awaited.items():  # To wake a loop takes longer than all else: once for all.
            with suppress(RuntimeError):  # A loop that is closed waits for nothing.
                loop.call_soon_threadsafe(_tell, answers)

    def _meaning(self, error: Exception, parcel: Parcel) -> MessageBusError:
        name = self._engine.name
        if self._engine.is_refusal(error):
            return UnwritableMessageError(parcel.type, "", f"is refused by {name} ({type(error).__name__})")
        return BrokerError(f"publish {parcel.type} to {name}", self._engine.told(error))


def _tell(answers: Sequence[tuple[Answer, MessageBusError | None]]) -> None:
    for answer, failure in answers:
        if answer.done():
            continue
        if failure is None:
            answer.set_result(None)
        else:
            answer.set_exception(failure)
