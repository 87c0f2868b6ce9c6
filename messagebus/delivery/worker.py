"""The worker: lanes that handle stored messages, what keeps their leases, and an orderly end."""

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from types import FrameType
from typing import Any, Final

from messagebus import logs
from messagebus.bus import AsyncMessageBus, MessageBus
from messagebus.delivery.carrier import Carrier, Intake
from messagebus.delivery.handling import Bus, Handling, Reporting, Rules
from messagebus.delivery.lane import Lane, Writer
from messagebus.delivery.retry import Retry
from messagebus.delivery.store import Store
from messagebus.errors import AsyncHandlerError, ConfigurationError, HandlerError, MessageBusError, full_name
from messagebus.registry import DEFAULT_REGISTRY, Registry
from messagebus.versions import refuse_gaps

__all__ = ["Worker"]

_PRUNE_EVERY: Final = 60.0
_TICK: Final = 1.0
_LOOKS: Final = 4
"""How much oftener an idle worker looks into the inbox if it has to be told of what an engine brings as well."""


class _GraceOverError(BaseException):
    """The grace time is over, and a handler is still running: it is broken off, and its message given back."""


class Worker:
    """Handles the messages of a store: ``Worker(store, registry=registry).run()``.

    With an engine, ``Worker(broker, inbox=store, registry=registry).run()``: what the engine brings goes into the
    inbox, is handled from there, and is acknowledged to the engine when that is settled (laws B1 to B3). Events
    sent in this service, and commands that it has no handler for, are published.

    Each handler of a message runs until it has succeeded once, or has failed for good; what it sends, and what it
    writes through `current_transaction`, is stored together with that (laws D2 to D6). Any number of workers may share
    a store. A message runs on the bus as it would in process, with the same overrides and records; what it leads to is
    stored, and handled in its turn.

    Args:
        store: as `open_store` returns it; or a broker, as `messagebus.brokers.connect` returns it.
        registry: of the handlers; by default that of the bus.
        inbox: with a broker: the store for what it brings. Workers of one group share it: by it they know what was
            handled before.
        bus: a class of buses. By default `AsyncMessageBus` if there is an async handler, else `MessageBus`.
        batch: so many messages are claimed at once at most; fewer while they take long.
        concurrency: so many messages are handled at the same time: in threads or, on the async bus, on one event loop.
        lease: seconds after which the messages of a worker that has died go to others. It is extended while a handler
            runs.
        retry: when a handler that failed runs again, and when it has failed for good.
        grace: seconds that `run` waits, after it was told to stop, for handlers to finish.
        log_level: as for `MessageBus`.
        error_log_level: as for `MessageBus`.
        logger: as for `MessageBus`.

    Raises:
        AsyncHandlerError: If ``bus`` is sync and a handler is async.
        HandlerError: If two handlers of a message have the same name: what became of each could not be told apart.
        UpcasterError: If older versions of a message could not be read.
        ConfigurationError: If a number is out of range.
    """

    def __init__(  # noqa: PLR0913 - settings, each named where it is given
        self,
        store: Store | Carrier,
        registry: Registry | None = None,
        *,
        inbox: Store | None = None,
        bus: type[Bus] | None = None,
        batch: int = 100,
        concurrency: int = 1,
        lease: float = 30.0,
        retry: Retry = Retry(),  # noqa: B008 - it never changes
        grace: float = 20.0,
        log_level: logs.LogLevel = "info",
        error_log_level: logs.ErrorLogLevel = "error",
        logger: Any = None,
    ) -> None:
        for name, number, least in (("batch", batch, 1), ("concurrency", concurrency, 1), ("lease", lease, 0.01)):
            if number < least:
                raise ConfigurationError(f"start a worker with {name}={number}", f"it is below {least}", "Raise it.")
        registry = registry or (DEFAULT_REGISTRY if bus is None else bus.registry)
        bus = bus or _bus_for(registry)
        self.is_async = issubclass(bus, AsyncMessageBus)
        _check_handlers(registry, is_async=self.is_async)
        made: Callable[..., Bus] = partial(bus, log_level=log_level, error_log_level=error_log_level, logger=logger)
        carrier, store = _parted(store, inbox)
        self.rules = Rules(store, Reporting(registry, is_async=self.is_async), made, retry, carrier)
        self.batch, self.concurrency, self.lease, self.grace = batch, concurrency, lease, grace
        self.report, self.complain = _guarded(*logs.writers(log_level, error_log_level, logger))
        self.is_stopping = False
        self._lock = threading.Lock()
        self._reset(until_idle=False, limit=None, time_limit=None)

    def _reset(self, *, until_idle: bool, limit: int | None, time_limit: float | None) -> None:
        # Only lanes on one thread have to let each other finish; threads wait for one another in the store.
        shared = Writer() if self.is_async and self.rules.store.has_one_writer else None
        carrier = self.rules.carrier
        self.intake = None if carrier is None else Intake(carrier, self.rules.store)
        self._lanes = [Lane(self, shared or Writer()) for _ in range(self.concurrency)]
        self._idle: set[Lane] = set()
        self._settled = 0
        self._until_idle, self._limit = until_idle, limit
        self._end = None if time_limit is None else time.monotonic() + time_limit
        self._pruned_at = 0.0
        self._has_given_up = False
        self._signals_seen, self._times_given_up = count(), count()

    def run(self, *, until_idle: bool = False, limit: int | None = None, time_limit: float | None = None) -> int:
        """Handle messages until told to stop, by SIGTERM, SIGINT or `stop`; blocks.

        After that nothing is claimed any more; what is being handled is finished, or given back when the grace time is
        over, and the leases on the rest are given back. A second signal does not wait.

        Args:
            until_idle: return when nothing is due; messages and retries that are due later are left where they are.
            limit: stop after about so many messages.
            time_limit: stop after so many seconds.

        Returns:
            How many messages were settled.
        """
        self._reset(until_idle=until_idle, limit=limit, time_limit=time_limit)
        if self.report is not None:
            self.report(logs.WORKER_STARTED, concurrency=self.concurrency, batch=self.batch)
        try:
            with self._signals(), self._kept(), self._carried():
                self._run()
        except _GraceOverError:
            for lane in self._lanes:
                lane.abandon()
        finally:
            self.is_stopping = self._has_given_up  # Threads that were left behind must not begin again.
        if self.report is not None:
            self.report(logs.WORKER_STOPPED, settled=self._settled)
        return self._settled

    def stop(self) -> None:
        """Let `run` return as soon as what is being handled is finished. From any thread; idempotent."""
        self.is_stopping = True

    # What the lanes have in common

    def is_over(self, lane: Lane) -> bool:
        with self._lock:
            self._idle.add(lane)
            return self._until_idle and len(self._idle) == len(self._lanes)

    def count(self, settled: int) -> None:
        with self._lock:
            self._idle.clear()
            self._settled += settled
            if self._limit is not None and self._settled >= self._limit:
                self.is_stopping = True

    # Running the lanes

    def _run(self) -> None:
        if self.is_async:
            asyncio.run(self._run_tasks())
        elif len(self._lanes) == 1:
            self._drive(self._lanes[0])
        else:
            self._run_threads()

    def _drive(self, lane: Lane) -> None:
        steps = lane.steps()
        try:
            for step in steps:
                if isinstance(step, Handling):
                    try:
                        step.bus()  # type: ignore[misc]
                    except Exception as error:  # noqa: BLE001 - the bus has recorded it; the lane settles it
                        step.error = error
                elif isinstance(step, float):
                    self._wait(step)
        finally:
            steps.close()

    async def _adrive(self, lane: Lane) -> None:
        steps = lane.steps()
        try:
            for step in steps:
                if isinstance(step, Handling):
                    try:
                        await step.bus()  # type: ignore[misc]
                    except Exception as error:  # noqa: BLE001 - as above
                        step.error = error
                elif isinstance(step, float):
                    await asyncio.to_thread(self._wait, step)
                else:
                    await lane.turn()
        finally:
            steps.close()

    def _wait(self, seconds: float) -> None:
        carrier = self.rules.carrier
        with suppress(MessageBusError):  # The next claim will tell.
            if carrier is not None and not self.rules.passes_all_on:
                carrier.wait(seconds / _LOOKS)
            else:
                self.rules.store.wait(seconds)
        self._watch_time()

    def _watch_time(self) -> None:
        if self._end is not None and time.monotonic() >= self._end:
            self.is_stopping = True

    async def _run_tasks(self) -> None:
        threads = ThreadPoolExecutor(initializer=_leave_signals_to_the_main_thread)
        asyncio.get_running_loop().set_default_executor(threads)
        async with asyncio.TaskGroup() as group:
            for lane in self._lanes:
                group.create_task(self._adrive(lane))

    def _run_threads(self) -> None:
        errors: list[BaseException] = []

        def drive(lane: Lane) -> None:
            _leave_signals_to_the_main_thread()
            try:
                self._drive(lane)
            except BaseException as error:  # noqa: BLE001 - raised again in the main thread
                errors.append(error)
                self.is_stopping = True

        threads = [threading.Thread(target=drive, args=(lane,), daemon=True) for lane in self._lanes]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(_TICK)
        if errors:
            raise errors[0]

    # What goes on beside

    @contextmanager
    def _kept(self) -> Generator[None, None, None]:
        """Extend leases in time, send what is scheduled, and forget old history, in a thread beside the lanes."""
        self._tend()
        done = threading.Event()
        keeper = threading.Thread(target=self._keep, args=(done,), name="messagebus-keeper", daemon=True)
        keeper.start()
        try:
            yield
        finally:
            done.set()
            keeper.join(_TICK)

    def _keep(self, done: threading.Event) -> None:
        _leave_signals_to_the_main_thread()
        while not done.wait(min(_TICK, self.lease / 3)):
            with suppress(MessageBusError):  # The lanes will tell.
                self._extend()
                self._tend()

    def _extend(self) -> None:
        oldest = time.monotonic() - self.lease / 3
        tokens = [claim.token for lane in self._lanes if (claim := lane.claim) and lane.claimed_at < oldest]
        if tokens:
            self.rules.store.extend(tokens, self.lease)

    def _tend(self) -> None:
        self._watch_time()
        now = time.monotonic()
        self.rules.store.fire()
        if now - self._pruned_at > _PRUNE_EVERY or self._pruned_at == 0:
            self._pruned_at = now
            self.rules.store.prune(self.rules.store.retention)

    @contextmanager
    def _carried(self) -> Generator[None, None, None]:
        """Have messages brought by the engine, if there is one."""
        carrier = self.rules.carrier
        if carrier is None:
            yield
            return
        carrier.begin(self.rules.registry.snapshot, ahead=self.batch * self.concurrency * 2, lease=self.lease)
        try:
            yield
        finally:
            carrier.end()

    @contextmanager
    def _signals(self) -> Generator[None, None, None]:
        """Stop in good order on SIGTERM and SIGINT, if this is the thread that gets them."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        names = (signal.SIGTERM, signal.SIGINT)
        before = {name: signal.signal(name, self._on_signal) for name in names}
        alarm = signal.signal(signal.SIGALRM, self._give_up) if hasattr(signal, "SIGALRM") else None
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(name, handler)
            if hasattr(signal, "SIGALRM"):
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, alarm)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        # One handler may interrupt the other: what counts them must be one step.
        if next(self._signals_seen):
            self._give_up(number, frame)
        self.is_stopping = True
        if hasattr(signal, "SIGALRM"):
            signal.setitimer(signal.ITIMER_REAL, max(self.grace, 0.001))

    def _give_up(self, _number: int, _frame: FrameType | None) -> None:
        if not next(self._times_given_up):  # What gives the messages back must not be broken off as well.
            self._has_given_up = True
            raise _GraceOverError


def _parted(store: Store | Carrier, inbox: Store | None) -> tuple[Carrier | None, Store]:
    if isinstance(store, Carrier):
        if inbox is None:
            remedy = "Give it one: Worker(broker, inbox=open_store(...))."
            raise ConfigurationError("work for a broker", "there is no inbox to keep its messages in", remedy)
        return store, inbox
    if inbox is not None:
        raise ConfigurationError("give a store an inbox", "a store is one", "Leave inbox= out, or give a broker.")
    return None, store


def _leave_signals_to_the_main_thread() -> None:
    """Have no signal delivered to this thread: one that is would not wake the main thread, which handles it."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGALRM))


def _bus_for(registry: Registry) -> type[Bus]:
    handlers = [handler for several in registry.snapshot.handlers.values() for handler in several]
    return AsyncMessageBus if any(handler.is_async for handler in handlers) else MessageBus


def _check_handlers(registry: Registry, *, is_async: bool) -> None:
    snapshot = registry.snapshot
    refuse_gaps(snapshot.names.values(), snapshot.upcasters)
    for cls, handlers in snapshot.handlers.items():
        places: dict[str, str] = {}
        for handler in handlers:
            if handler.is_async and not is_async:
                raise AsyncHandlerError(full_name(cls), str(handler))
            if handler.name in places:
                why = f"another handler of {full_name(cls)} has the same name ({places[handler.name]})"
                raise HandlerError(f"work with {handler}", why, "Give each a name of its own: def, not lambda.")
            places[handler.name] = handler.place


def _guarded(*writers: logs.Write | None) -> Sequence[logs.Write | None]:
    """Have records written without letting a broken sink stop the work."""

    def guard(write: logs.Write) -> logs.Write:
        def guarded(event: str, **fields: object) -> None:
            try:
                write(event, logger=logs.NAME, **fields)
            except Exception as error:  # noqa: BLE001 - whatever a processor or a sink raises
                logs.report_broken(error)

        return guarded

    return [None if write is None else guard(write) for write in writers]
