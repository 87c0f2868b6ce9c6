"""`Broker`: an engine for applications and workers; all that goes on with it goes on in one thread, on one loop."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from datetime import datetime
from typing import Any, Final, Self, TypeVar

from messagebus import logs
from messagebus.brokers.engine import CONFIRM, Engine, Want
from messagebus.brokers.wire import Parcel, parcel_of, parcel_of_sending
from messagebus.delivery.carrier import Carrier
from messagebus.delivery.entries import Arrival, Stored
from messagebus.delivery.sending import prepare
from messagebus.envelope import Envelope
from messagebus.errors import (
    BrokerError,
    BrokerUnavailableError,
    ConfigurationError,
    DispatchError,
    InvalidMessageError,
    MessageBusError,
    UnwritableMessageError,
    full_name,
)
from messagebus.messages import Command, Event, Message
from messagebus.registry import Snapshot
from messagebus.telemetry import sends

__all__ = ["Broker"]

T = TypeVar("T")
_Answer = Future[None] | asyncio.Future[None]
_IN_FLIGHT: Final = 512
"""Parcels that are published at the same time."""


class Broker(Carrier):
    """An engine that carries messages between services, as `connect` returns it. Safe to use from any thread.

    What is sent has been confirmed by the engine when the call returns: it is as durable as the engine makes it.
    """

    def __init__(self, engine: Engine, source: str) -> None:
        self.engine, self.source, self.name = engine, source, engine.name
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="messagebus-broker", daemon=True)
        self._thread.start()
        self._is_closed = False
        self._leaving: deque[tuple[Parcel, _Answer]] = deque()
        self._is_flushing = False
        self._publishing = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stop_subscribing: Callable[[], None] | None = None
        self._reset()
        self._open()

    def _reset(self) -> None:
        self._arrivals: deque[Arrival] = deque()
        self._has_arrivals = threading.Event()
        self._unacknowledged: dict[int, Any] = {}
        self._room = asyncio.Event()
        self._ahead = 1
        self._is_bringing = False

    # Sending

    @sends("publish")
    def send(
        self,
        message: Message,
        *,
        key: str | None = None,
        envelope: Envelope | None = None,
        delay: float = 0.0,
        at: datetime | None = None,
        dedup: str | None = None,
    ) -> str:
        """Publish a command or an event; when this returns, the engine has confirmed it.

        Args:
            message: a command goes to one worker, an event to one worker of each group that has subscribed.
            key: messages of one type with one key keep their order as far as the engine does; see `connect`.
            envelope: the ids and headers it came with; by default those of the message in hand are continued.
            delay: an engine keeps nothing for later: refused unless 0.
            at: as delay.
            dedup: an engine knows messages by their ids only: refused.

        Returns:
            The id of the message. It may be sent again with the same id if this raised: the inbox will see to it.

        Raises:
            UnwritableMessageError: If it could not be read back the same.
            BrokerError: If the engine has not confirmed it; it may have got it all the same.
        """
        _refuse(delay, at, dedup)
        parcel = self._parcel(message, key, envelope)
        self._submit([parcel])[0].result()
        return parcel.id

    @sends("publish")
    async def asend(
        self,
        message: Message,
        *,
        key: str | None = None,
        envelope: Envelope | None = None,
        delay: float = 0.0,
        at: datetime | None = None,
        dedup: str | None = None,
    ) -> str:
        """Do as `send`, without blocking the event loop; what is awaited at the same time is published together."""
        _refuse(delay, at, dedup)
        parcel = self._parcel(message, key, envelope)
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._enqueue([(parcel, answer)])
        await answer
        return parcel.id

    @sends("publish", many=True)
    def send_many(
        self, messages: Iterable[Message], *, key: str | Callable[[Message], str | None] | None = None
    ) -> list[str]:
        """Publish messages at the same time; return when all are confirmed. ``key`` may be worked out for each.

        Raises:
            BrokerError: If one of them was not confirmed; others may have been.
        """
        parcels = [self._parcel(message, key(message) if callable(key) else key, None) for message in messages]
        for confirmed in self._submit(parcels):
            confirmed.result()
        return [parcel.id for parcel in parcels]

    def _parcel(self, message: Message, key: str | None, envelope: Envelope | None) -> Parcel:
        sending = prepare(message, key=key, envelope=envelope)
        return parcel_of_sending(sending, self.source, is_event=isinstance(message, Event))

    def carry(self, messages: Sequence[Stored]) -> Sequence["Future[None]"]:
        answers: list[Future[None]] = []
        parcels = []
        for stored in messages:
            try:
                parcels.append(parcel_of(stored, self.source))
            except InvalidMessageError as error:
                answers.append(_failed(error))
            else:
                answers.append(Future())
        waiting = [answer for answer in answers if not answer.done()]
        self._enqueue(list(zip(parcels, waiting, strict=True)))
        return answers

    def _submit(self, parcels: Sequence[Parcel]) -> "list[Future[None]]":
        answers: list[Future[None]] = [Future() for _ in parcels]
        self._enqueue(list(zip(parcels, answers, strict=True)))
        return answers

    def _enqueue(self, leaving: "Sequence[tuple[Parcel, _Answer]]") -> None:
        if self._is_closed:
            raise _closed()
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
            self._start(self._publish(batch))

    async def _publish(self, batch: "Sequence[tuple[Parcel, _Answer]]") -> None:
        parcels = [parcel for parcel, _ in batch]
        try:
            failures = await asyncio.wait_for(self.engine.publish(parcels), 2 * CONFIRM)
        except Exception as error:  # noqa: BLE001 - it is the senders' to handle
            failures = [error] * len(batch)
        self._publishing -= len(batch)
        self._flush()
        awaited: dict[asyncio.AbstractEventLoop, list[tuple[_Answer, MessageBusError | None]]] = {}
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
        if self.engine.is_refusal(error):
            return UnwritableMessageError(parcel.type, "", f"is refused by {self.name} ({type(error).__name__})")
        return BrokerError(f"publish {parcel.type} to {self.name}", self._told(error))

    def _told(self, error: Exception) -> str:
        """Say what an error of a client is, with nothing of the URL that may be secret."""
        if isinstance(error, TimeoutError):
            return f"there was no answer within {CONFIRM:g} s"
        text = str(error).partition("\n")[0][:200].replace(self.engine.settings.url, self.engine.settings.place)
        for secret in self.engine.settings.secrets:
            text = text.replace(secret, "***")
        return f"{full_name(type(error))}{': ' if text else ''}{text}"

    # What a worker does

    def begin(self, snapshot: Snapshot, *, ahead: int, lease: float) -> None:
        wants = [
            Want("command" if issubclass(cls, Command) else "event", snapshot[cls].name)
            for cls in snapshot.handlers
            if snapshot[cls].handlers
        ]
        self.engine.ahead, self.engine.lease = ahead, lease
        self._run(self._subscribe(wants, ahead, lease), f"subscribe on {self.name}")

    async def _subscribe(self, wants: Sequence[Want], ahead: int, lease: float) -> None:
        self._reset()
        self._ahead = ahead
        self._is_bringing = True
        await self.engine.subscribe(wants, self._put)
        self._renewing = self._start(self._renew(lease / 3))

    async def _put(self, arrivals: Sequence[Arrival]) -> None:
        while len(self._unacknowledged) >= self._ahead and self._is_bringing:
            self._room.clear()
            await self._room.wait()
        for arrival in arrivals:
            self._unacknowledged[id(arrival.receipt)] = arrival.receipt
        self._arrivals.extend(arrivals)
        self._has_arrivals.set()

    def take(self, limit: int) -> Sequence[Arrival]:
        self._has_arrivals.clear()
        taken: list[Arrival] = []
        with suppress(IndexError):
            while len(taken) < limit:
                taken.append(self._arrivals.popleft())
        return taken

    def wait(self, timeout: float) -> None:
        if not self._arrivals:
            self._has_arrivals.wait(timeout)

    def acknowledge(self, receipts: Iterable[Any]) -> None:
        self._loop.call_soon_threadsafe(self._acknowledge, [*receipts])

    def _acknowledge(self, receipts: Sequence[Any]) -> None:
        for receipt in receipts:
            self._unacknowledged.pop(id(receipt), None)
        self._room.set()
        self._start(self._tried(self.engine.acknowledge(receipts)))

    async def _renew(self, pause: float) -> None:
        while self._is_bringing:
            await asyncio.sleep(pause)
            await self._tried(self.engine.renew([*self._unacknowledged.values()]))

    async def _tried(self, action: Coroutine[Any, Any, None]) -> None:
        """Do what is as good as done later: the engine will bring again what it was not told of."""
        try:
            await asyncio.wait_for(action, CONFIRM)
        except Exception as error:  # noqa: BLE001 - whatever a client raises
            self._complain(error)

    def end(self) -> None:
        if self._is_bringing and not self._is_closed:
            with suppress(BrokerError):
                self._run(self._unsubscribe(), f"leave {self.name}")

    async def _unsubscribe(self) -> None:
        self._is_bringing = False
        self._room.set()
        self._renewing.cancel()
        others = [task for task in self._tasks if task not in {asyncio.current_task(), self._renewing}]
        if others:
            await asyncio.wait(others, timeout=CONFIRM)
        await self._tried(self.engine.give_back([arrival.receipt for arrival in self._arrivals]))
        await self.engine.unsubscribe()
        self._reset()

    # The thread

    def _open(self) -> None:
        place = self.engine.settings.place
        try:
            self._run(asyncio.wait_for(self._connect(), CONFIRM), f"connect to {self.name} at {place}")
        except BaseException:
            self._stop()
            raise

    async def _connect(self) -> None:
        await self.engine.connect()
        for weakness, remedy in await self.engine.weaknesses():
            _, complain = logs.writers("info", "warning")
            if complain is not None:
                complain(logs.BROKER_WEAK, logger=logs.NAME, broker=self.name, reason=weakness, remedy=remedy)

    def _run(self, action: Coroutine[Any, Any, T], what: str) -> T:
        """Do something in the thread, and wait until it is done."""
        if self._is_closed:
            action.close()
            raise _closed()
        try:
            return asyncio.run_coroutine_threadsafe(action, self._loop).result()
        except MessageBusError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a client raises
            remedy = "See that it runs and that the URL is right; then try again."
            raise BrokerUnavailableError(what, self._told(error), remedy) from None

    def _start(self, action: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        task = self._loop.create_task(action)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _complain(self, error: Exception) -> None:
        _, complain = logs.writers("info", "warning")
        if complain is not None:
            complain(logs.BROKER_FAILED, logger=logs.NAME, broker=self.name, reason=self._told(error))

    def close(self) -> None:
        """Disconnect, after what is being published. Idempotent."""
        if self._is_closed:
            return
        self.end()
        end = time.monotonic() + CONFIRM
        while (self._leaving or self._publishing) and time.monotonic() < end:
            time.sleep(0.01)
        with suppress(BrokerError):
            self._run(asyncio.wait_for(self.engine.close(), CONFIRM), f"disconnect from {self.name}")
        self._stop()

    def _stop(self) -> None:
        self._is_closed = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CONFIRM)
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _refuse(delay: float, at: datetime | None, dedup: str | None) -> None:
    remedy = "Send it through a store, which a Relay, or a Worker with this broker, empties into the engine."
    if delay or at is not None:
        raise ConfigurationError("publish a message later", "an engine keeps nothing for later", remedy)
    if dedup is not None:
        raise ConfigurationError("publish with a dedup key", "an engine knows messages by their ids only", remedy)


def _tell(answers: "Sequence[tuple[_Answer, MessageBusError | None]]") -> None:
    for answer, failure in answers:
        if answer.done():
            continue
        if failure is None:
            answer.set_result(None)
        else:
            answer.set_exception(failure)


def _failed(error: Exception) -> "Future[None]":
    answer: Future[None] = Future()
    answer.set_exception(error)
    return answer


def _closed() -> DispatchError:
    return DispatchError("use this broker", "it is closed", "Open it again with connect().")
