"""One stored message and its handlers: what runs, what it sent and wrote, and what became of each."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from messagebus import logs, telemetry
from messagebus.bus import AsyncMessageBus, MessageBus
from messagebus.delivery.entries import RETURNED, Failure, Outcome, Sending, Settlement, Stored
from messagebus.delivery.outcomes import failure_of
from messagebus.delivery.pauses import Pauses
from messagebus.delivery.reporting import Reporting
from messagebus.delivery.retry import Retry
from messagebus.delivery.sending import moment
from messagebus.delivery.store import Store, Transaction
from messagebus.envelope import Envelope
from messagebus.errors import DispatchError, HandlerError, InvalidMessageError, NoHandlerError
from messagebus.messages import Message
from messagebus.registry import Handler

if TYPE_CHECKING:
    from messagebus.delivery.carrier import Carrier

__all__ = ["Bus", "Desk", "Handling", "Rules"]

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
    registry: Reporting
    bus: Callable[..., Bus]
    """Makes the bus of one message; takes ``envelope=``."""
    retry: Retry
    pauses: Pauses
    carrier: "Carrier | None" = None
    """By which messages come from other services, and go to them."""
    passes_all_on: bool = False
    """Nothing is handled here, and everything goes to others."""


class Handling:
    """One stored message while a worker has it in hand."""

    __slots__ = (
        "_handlers", "_message", "_outcomes", "bus", "desk", "error", "failed", "finished", "has_exited",
        "has_savepoint", "rules", "stored",
    )  # fmt: skip

    def __init__(self, rules: Rules, desk: Desk, stored: Stored) -> None:
        self.rules, self.desk, self.stored = rules, desk, stored
        self.bus: Bus | None = None
        """To be called; None if there is nothing to run."""
        self.error: Exception | None = None
        """What the bus raised."""
        self.finished: dict[str, tuple[float, Sequence[Sending], Sequence[bytes]]] = {}
        """By handler: how long it took, in milliseconds; what it sent, and what came back."""
        self.failed: dict[str, tuple[Exception, float]] = {}
        self.has_savepoint = self.has_exited = False
        """`has_exited`: a handler has called `sys.exit()`, which is as good as a crash."""
        self._handlers: Sequence[Handler] = ()
        self._outcomes: list[Outcome] = []
        self._message: Message | None = None

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
            watch = telemetry.current
            if watch is not None:
                watch.refused(stored, self._origin, error)
            return
        bus = self.rules.bus(self._message, registry=self.rules.registry, envelope=self._envelope(self._message))
        bus._origin = self._origin
        delivery: Any = bus._in_hand
        handlers = self._handlers = delivery.plan.handlers
        if stored.outcomes or stored.attempt > self.rules.retry.attempts or self.rules.pauses.until:
            self._handlers = [handler for handler in handlers if self._is_due(handler)]
            self._note_vanished({handler.name for handler in handlers})
            if not self._handlers and handlers:
                return
            if len(self._handlers) < len(handlers):
                delivery.left = tuple(self._handlers)
                delivery.plan = replace(delivery.plan, handlers=delivery.left)
        self.bus = bus

    @property
    def _origin(self) -> str:
        """What the message was received from, for telemetry: an engine, if it came in by one."""
        carrier = self.rules.carrier
        return logs.NAME if carrier is None or "source" not in self.stored.headers else carrier.name

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
        if not self.rules.pauses.may_run(handler.name):
            due, told = self.rules.pauses.due(handler.name), None if before is None else before.failure
            self._outcomes.append(Outcome(handler.name, "retry", attempts - 1, due=due, failure=told))
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
        for _, sent, returned in self.finished.values():
            sends += sent
            results += returned
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
            if self.rules.pauses.failed:
                self.rules.pauses.note_success(name)
            return Outcome(name, "done", self._attempts(name), self.finished[name][0])
        if self.error is None:  # An override of handle_exception has decided that this is the end of it.
            return Outcome(name, "dropped", self._attempts(name))
        return self._failed(name, *self.failed.get(name, (self.error, 0.0)))

    def _failed(self, name: str, error: Exception, duration_ms: float) -> Outcome:
        attempts, retry = self._attempts(name), self.rules.retry
        failure = failure_of(error, self._message)
        self.rules.pauses.note_failure(name, self.stored.seq, error, failure)
        if retry.is_final(attempts, error):
            return Outcome(name, "dead", attempts, duration_ms, failure=failure)
        # In whole milliseconds, as stores count: one that is due now must not come out as due a little later.
        due = int((self.rules.store.clock() + retry.wait(attempts)) * 1000) / 1000
        return Outcome(name, "retry", attempts, duration_ms, due, failure)
