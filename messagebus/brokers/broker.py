"""`Broker`: an engine for applications and workers; all that goes on with it goes on in one thread, on one loop."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from datetime import datetime
from typing import Any, Self, TypeVar

from messagebus import logs
from messagebus.brokers.engine import CONFIRM, Engine, Want
from messagebus.brokers.publisher import Answer, Publisher
from messagebus.brokers.requests import Requests
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
    full_name,
)
from messagebus.messages import Command, Event, Message
from messagebus.registry import Snapshot
from messagebus.telemetry import sends

__all__ = ["Broker"]

T = TypeVar("T")


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
        self._tasks: set[asyncio.Task[Any]] = set()
        self._publisher = Publisher(engine, self._loop)
        self._requests = Requests(engine, self._publisher)
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
        self._leave([(parcel, answer)])
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

    def request(
        self, command: Command, *, key: str | None = None, envelope: Envelope | None = None, timeout: float = 30.0
    ) -> bytes:
        """Publish a command, and return what its handler returns, on whatever machine: its return messages as JSON.

        They come when the handler's inbox has settled the command, in an array as `Store.result` returns it. Who dies,
        or does not wait any more, gets none, and nothing is kept for it.

        Args:
            command: an event has many receivers, and no reply.
            key: as for `send`.
            envelope: as for `send`; asked again with the same id, by this very broker, a command is handled once.
            timeout: seconds to wait, from now.

        Raises:
            ReplyTimeoutError: If there is no reply by then; says whether the engine has confirmed the command.
            DeliveryFailedError: If its handler failed for good, and it is a dead letter there; says which.
            BrokerError: If the engine has not confirmed it; it may have got it all the same.
        """
        return self._ask(command, key, envelope, timeout).result()

    async def arequest(
        self,
        command: Command,
        *,
        key: str | None = None,
        envelope: Envelope | None = None,
        timeout: float = 30.0,  # noqa: ASYNC109 - as `request` has it
    ) -> bytes:
        """Do as `request`, without blocking the event loop."""
        return await asyncio.wrap_future(self._ask(command, key, envelope, timeout))

    def _ask(self, command: Command, key: str | None, envelope: Envelope | None, timeout: float) -> "Future[bytes]":
        if self._is_closed:
            raise _closed()
        if not isinstance(command, Command):
            why = "only of a command it is known who answers"
            raise DispatchError(f"request {full_name(type(command))}", why, "Send it with send().")
        sending = prepare(command, key=key, envelope=envelope)
        parcel = parcel_of_sending(sending, self.source, is_event=False, reply_to=self._requests.address)
        return asyncio.run_coroutine_threadsafe(self._requests.ask(parcel, timeout), self._loop)

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
        self._leave(list(zip(parcels, waiting, strict=True)))
        return answers

    def _submit(self, parcels: Sequence[Parcel]) -> "list[Future[None]]":
        answers: list[Future[None]] = [Future() for _ in parcels]
        self._leave(list(zip(parcels, answers, strict=True)))
        return answers

    def _leave(self, parcels: Sequence[tuple[Parcel, Answer]]) -> None:
        if self._is_closed:
            raise _closed()
        self._publisher.add(parcels)

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
            raise BrokerUnavailableError(what, self.engine.told(error), remedy) from None

    def _start(self, action: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        task = self._loop.create_task(action)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _complain(self, error: Exception) -> None:
        _, complain = logs.writers("info", "warning")
        if complain is not None:
            complain(logs.BROKER_FAILED, logger=logs.NAME, broker=self.name, reason=self.engine.told(error))

    def close(self) -> None:
        """Disconnect, after what is being published. Idempotent."""
        if self._is_closed:
            return
        self.end()
        end = time.monotonic() + CONFIRM
        while self._publisher.is_busy and time.monotonic() < end:
            time.sleep(0.01)
        with suppress(BrokerError):
            self._run(asyncio.wait_for(self._disconnect(), CONFIRM), f"disconnect from {self.name}")
        self._stop()

    async def _disconnect(self) -> None:
        await self._requests.close()
        await self.engine.close()

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


def _failed(error: Exception) -> "Future[None]":
    answer: Future[None] = Future()
    answer.set_exception(error)
    return answer


def _closed() -> DispatchError:
    return DispatchError("use this broker", "it is closed", "Open it again with connect().")
