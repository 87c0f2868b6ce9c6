"""One stored message and its handlers: what runs, what it sent and wrote, and what became of each."""

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

from messagebus import logs
from messagebus.bus import AsyncMessageBus, MessageBus
from messagebus.delivery.entries import RETURNED, Failure, Outcome, Sending, Settlement, Stored
from messagebus.delivery.retry import Retry
from messagebus.delivery.sending import moment, prepare
from messagebus.delivery.store import WORK, Store, Transaction
from messagebus.envelope import Envelope
from messagebus.errors import DispatchError, HandlerError, InvalidMessageError, NoHandlerError, full_name
from messagebus.messages import Message, to_json
from messagebus.registry import Handler, Plan, Registry, Snapshot
from messagebus.tracebacks import describe

if TYPE_CHECKING:
    from messagebus.delivery.carrier import Carrier

__all__ = ["Bus", "Desk", "Handling", "Reporting", "Rules", "failure_of"]

Bus = MessageBus | AsyncMessageBus


class Desk(Protocol):
    """Where a message is handled: it holds the transaction in which that will be settled."""

    def transaction_for(self, seq: int) -> Transaction:
        """Return the open transaction, in which the lease on that message is sure to hold.

        Raises:
            DispatchError: If it cannot be had here and now, or the lease is lost.
        """
        ...

    async def turn(self) -> None:
        """Wait until the transaction can be had."""
        ...


@dataclass(frozen=True, slots=True)
class Rules:
    """What is the same for all messages of a worker."""

    store: Store
    registry: "Reporting"
    bus: Callable[..., Bus]
    """Makes the bus of one message; takes ``envelope=``."""
    retry: Retry
    carrier: "Carrier | None" = None
    """By which messages come from other services, and go to them."""
    passes_all_on: bool = False
    """Nothing is handled here, and everything goes to others."""


# Handlers that report


class Reporting:
    """A registry as a bus of the worker sees it: each handler reports what it sent, and how it ended."""

    def __init__(self, registry: Registry, *, is_async: bool) -> None:
        self._registry, self.is_async = registry, is_async
        self._made: tuple[Snapshot, _Reporting] | None = None

    @property
    def snapshot(self) -> Snapshot:
        """The handlers as they are now."""
        made, source = self._made, self._registry.snapshot
        if made is None or made[0] is not source:
            made = self._made = source, _Reporting(source, is_async=self.is_async)
        return made[1]


class _Reporting(Snapshot):
    def __init__(self, source: Snapshot, *, is_async: bool) -> None:
        super().__init__(source.handlers, source.names, source.upcasters, strict=source.strict)
        self._source, self._is_async = source, is_async

    def __missing__(self, cls: type) -> Plan:
        plan = self._source[cls]
        wrap = _reporting_later if self._is_async else _reporting
        handlers = tuple(wrap(handler) for handler in plan.handlers)
        made = self[cls] = replace(plan, handlers=handlers)
        return made


def _reporting(handler: Handler) -> Handler:
    function = handler.function

    def run(message: Message) -> None:
        work = _HandlerWork(WORK.get(), handler)
        token = WORK.set(work)
        try:
            work.take(function(message))
        except BaseException as error:
            work.fail(error)
            raise
        finally:
            WORK.reset(token)
        work.finish()

    return replace(handler, function=run)


def _reporting_later(handler: Handler) -> Handler:
    async def run(message: Message) -> None:
        work = _HandlerWork(WORK.get(), handler)
        token = WORK.set(work)
        try:
            work.take(await work.handling.call(handler, message))
        except BaseException as error:
            work.fail(error)
            raise
        finally:
            WORK.reset(token)
        work.finish()

    return replace(handler, function=run, is_async=True, is_coroutine=True, is_blocking=False)


class _HandlerWork:
    """What one handler sends and writes while it runs: kept if it finishes."""

    duration_ms = 0.0
    _savepoint: AbstractContextManager[None] | None = None

    def __init__(self, outer: Any, handler: Handler) -> None:
        self.handling: Handling = outer.handling
        self.handler = handler
        self.sends: list[Sending] = []
        self.results: list[bytes] = []
        self._started = perf_counter()

    @property
    def store(self) -> Store:
        return self.handling.rules.store

    def add(self, sending: Sending) -> None:
        self.sends.append(sending)

    def transaction(self) -> Transaction:
        transaction = self.handling.desk.transaction_for(self.handling.stored.seq)
        if self._savepoint is None:
            if self.handling.has_savepoint:
                why = "another handler of this message, which runs at the same time, is using it"
                remedy = "Let one handler of a concurrent bus write, or run them one after another."
                raise DispatchError("call current_transaction()", why, remedy)
            self._savepoint = transaction.savepoint()
            self._savepoint.__enter__()
            self.handling.has_savepoint = True
        return transaction

    async def turn(self) -> None:
        await self.handling.desk.turn()

    def take(self, result: Any) -> None:
        """Make of what a handler returned what will be stored; whatever is wrong with it is the handler's failure."""
        if result is None:
            return
        bus: Any = self.handling.bus
        plan = bus._snapshot.get(type(result))
        if plan is not None and plan.handlers:  # One message: there is nothing to take apart, nor to look at.
            self.sends.append(prepare(result))
            bus._count += 1
            return
        messages = bus._follow_ups(bus._in_hand, self.handler, result)
        for message in messages:
            plan = bus._snapshot[type(message)]
            if plan.is_return:
                self.results.append(to_json(message))
            elif self._is_wanted(plan, type(message)):
                self.sends.append(prepare(message))
            else:
                self._note_unhandled(bus, message)
        bus._count += len(messages)

    def _is_wanted(self, plan: Plan, cls: type) -> bool:
        """Say whether a message is to be stored: what nobody handles here, others may, if there is an engine."""
        snapshot: Snapshot = self.handling.bus._snapshot  # type: ignore[union-attr]
        is_known = plan.is_command or snapshot.strict or cls in snapshot.handlers
        return bool(plan.handlers) or is_known or self.handling.rules.carrier is not None

    def _note_unhandled(self, bus: Any, message: Message) -> None:
        """Record an event of a class that is not registered: nobody could read it again, and nobody has to (law L7)."""
        if bus._is_logged:
            sending = prepare(message)
            ids = dict(zip(logs.ID_NAMES, _ids(sending.envelope), strict=True))
            fields = {"handlers": [], "duration_ms": 0.0, "emitted": 0}
            bus._log(logs.EVENT_UNHANDLED, {"message_type": sending.envelope.type, **ids, **fields})

    def finish(self) -> None:
        self._leave(None)
        self.handling.finished[self.handler.name] = self

    def fail(self, error: BaseException) -> None:
        self._leave(error)
        if isinstance(error, SystemExit):
            self.handling.has_exited = True
        if isinstance(error, Exception):
            self.handling.failed[self.handler.name] = error, self.duration_ms

    def _leave(self, error: BaseException | None) -> None:
        self.duration_ms = (perf_counter() - self._started) * 1000
        if self._savepoint is None:
            return
        savepoint, self._savepoint = self._savepoint, None
        self.handling.has_savepoint = False
        if error is None:
            savepoint.__exit__(None, None, None)
        else:
            with suppress(type(error)):  # It passes on by itself.
                savepoint.__exit__(type(error), error, error.__traceback__)


def _ids(envelope: Envelope) -> tuple[str, str, str | None]:
    return envelope.id, envelope.correlation_id, envelope.causation_id


# A message


@dataclass(slots=True)
class Handling:
    """One stored message while a worker has it in hand."""

    rules: Rules
    desk: Desk
    stored: Stored
    bus: Bus | None = None
    """To be called; None if there is nothing to run."""
    error: Exception | None = None
    """What the bus raised."""
    finished: dict[str, _HandlerWork] = field(default_factory=dict)
    failed: dict[str, tuple[Exception, float]] = field(default_factory=dict)
    has_savepoint: bool = False
    has_exited: bool = False
    """A handler has called `sys.exit()`: as good as a crash."""
    _handlers: Sequence[Handler] = ()
    _outcomes: list[Outcome] = field(default_factory=list)
    _message: Message | None = None

    @property
    def is_given_back(self) -> bool:
        """Nothing came of it now: others may have it, and no attempt is counted."""
        return False

    @property
    def handling(self) -> "Handling":
        return self

    @property
    def store(self) -> Store:
        return self.rules.store

    def add(self, sending: Sending) -> None:
        """Refuse what is sent outside of a handler: nobody could say whether to keep it."""
        raise DispatchError("send a message", "no handler is running", f"Send {sending.envelope.type} in a handler.")

    def transaction(self) -> Transaction:
        raise DispatchError("call current_transaction()", "no handler is running", "Call it in a handler.")

    async def turn(self) -> None:
        """No handler is running, and `transaction` will say so."""

    def call(self, handler: Handler, message: Message) -> Awaitable[object]:
        """Call a handler of any kind on the async bus, with nothing left to wait for in what it returns."""
        bus: Any = self.bus
        called: Awaitable[object] = bus._call(handler, message)
        return called

    def open(self) -> None:
        """Read the message and make its bus, or note why it cannot be handled."""
        stored = self.stored
        try:
            self._message, _ = self.rules.registry.snapshot.door.read_json(stored.body, len(stored.body))
        except InvalidMessageError as error:
            self._note_dead("", stored.attempt, error)
            return
        bus = self.rules.bus(self._message, registry=self.rules.registry, envelope=self._envelope(self._message))
        delivery: Any = bus._in_hand
        handlers = self._handlers = delivery.plan.handlers
        if stored.outcomes or stored.attempt > self.rules.retry.attempts:
            self._handlers = [handler for handler in handlers if self._is_due(handler)]
            self._note_vanished({handler.name for handler in handlers})
            if not self._handlers and handlers:
                return
            if len(self._handlers) < len(handlers):
                delivery.left = tuple(self._handlers)
                delivery.plan = replace(delivery.plan, handlers=delivery.left)
        self.bus = bus

    def _envelope(self, message: Message) -> Envelope:
        stored, before = self.stored, 0
        if stored.outcomes:
            tried = [outcome.attempts for outcome in stored.outcomes.values() if outcome.state == "retry"]
            before = max(tried, default=0)
        return Envelope(
            message,
            id=stored.id.removesuffix(RETURNED),
            correlation_id=None if stored.correlation_id == stored.id else stored.correlation_id,
            causation_id=stored.causation_id,
            time=moment(stored.sent_at * 1000),
            attempt=stored.attempt + before,
            headers=stored.headers,
        )

    def _is_due(self, handler: Handler) -> bool:
        """Say whether a handler is to run now; one that its worker did not survive too often is dead instead."""
        before = self.stored.outcomes.get(handler.name)
        if before is not None and (before.state != "retry" or (before.due or 0) > self.rules.store.clock()):
            return False
        attempts = self._attempts(handler.name)
        if attempts > self.rules.retry.attempts:
            text = "its worker was stopped, or lost its lease, each time it ran"
            failure = Failure("messagebus.delivery.WorkerLost", text, handler.place)
            self._outcomes.append(Outcome(handler.name, "dead", attempts - 1, failure=failure))
            return False
        return True

    def _attempts(self, handler: str) -> int:
        stored = self.stored
        if not stored.outcomes or handler not in stored.outcomes:
            return stored.attempt
        return stored.attempt + stored.outcomes[handler].attempts

    def _note_vanished(self, names: set[str]) -> None:
        for outcome in self.stored.outcomes.values():
            if outcome.state == "retry" and outcome.handler not in names:
                why = f"no handler of {self.stored.type} has this name any more"
                error = HandlerError(f"run {outcome.handler}", why, "Register it, or drop the dead letter.")
                self._note_dead(outcome.handler, outcome.attempts, error)

    def _note_dead(self, handler: str, attempts: int, error: Exception) -> None:
        self._outcomes.append(Outcome(handler, "dead", attempts, failure=failure_of(error, self._message)))

    # Afterwards

    def settle(self) -> Settlement:
        """Return what is to be stored about the message."""
        if self.error is not None and not self.finished and not self.failed:
            self._note_refused(self.error)
        else:
            self._outcomes += map(self._outcome, self._handlers)
        sends: list[Sending] = []
        results: list[bytes] = []
        for work in self.finished.values():
            sends += work.sends
            results += work.results
        packed = b"[" + b",".join(results) + b"]" if results else None
        return Settlement(self.stored.seq, self._outcomes, sends, packed, self.rules.retry.parks)

    def _note_refused(self, error: Exception) -> None:
        """Say what follows if nothing has run: the message cannot be dispatched, or an override would not have it."""
        if isinstance(error, NoHandlerError | InvalidMessageError) or not self._handlers:
            self._note_dead("", self.stored.attempt, error)
        else:
            self._outcomes += [self._failed(handler.name, error, 0.0) for handler in self._handlers]

    def _outcome(self, handler: Handler) -> Outcome:
        name = handler.name
        if name in self.finished:
            return Outcome(name, "done", self._attempts(name), self.finished[name].duration_ms)
        if self.error is None:  # An override of handle_exception has decided that this is the end of it.
            return Outcome(name, "dropped", self._attempts(name))
        return self._failed(name, *self.failed.get(name, (self.error, 0.0)))

    def _failed(self, name: str, error: Exception, duration_ms: float) -> Outcome:
        attempts, retry = self._attempts(name), self.rules.retry
        failure = failure_of(error, self._message)
        if retry.is_final(attempts, error):
            return Outcome(name, "dead", attempts, duration_ms, failure=failure)
        # In whole milliseconds, as stores count: one that is due now must not come out as due a little later.
        due = int((self.rules.store.clock() + retry.wait(attempts)) * 1000) / 1000
        return Outcome(name, "retry", attempts, duration_ms, due, failure)


_MAX_TEXT = 1_000


def failure_of(error: Exception, message: Message | None) -> Failure:
    """Return what a dead letter tells of an error: nothing that is private in the message."""
    described: Mapping[str, Any] = describe(error, message)[0]
    frames = described["frames"]
    place = ""
    if frames:
        path = frames[-1]["filename"]
        with suppress(ValueError):  # On another drive there is no path from here.
            path = min(path, os.path.relpath(path), key=len)
        place = f"{path}:{frames[-1]['lineno']}"
    return Failure(full_name(type(error)), described["exc_value"][:_MAX_TEXT], place)
