"""The port: what every store promises (laws D1 to D11), and the words in which a store and its users speak."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal, Protocol

from messagebus.envelope import Envelope
from messagebus.errors import DispatchError
from messagebus.messages import Message

__all__ = [
    "WORK", "Claim", "DeadLetter", "Failure", "Outcome", "Schedule", "Sending", "Settlement", "State", "Stats", "Step",
    "Store", "Stored", "Transaction", "Waiting", "Work", "acurrent_transaction", "current_transaction",
]  # fmt: skip

State = Literal["done", "retry", "dead", "dropped"]
"""What became of a handler: it finished; it is to run again when due; it is a dead letter; somebody dropped that."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What a dead letter tells of the error: nothing in it is private in the message."""

    error: str
    """The full name of the exception's class."""
    text: str
    """What it says, bounded and cleared of what is private."""
    place: str = ""
    """``path/to/file.py:12``, where it was raised."""


@dataclass(slots=True)  # Nobody changes it; to freeze it would take longer than to make it.
class Outcome:
    """What became of one handler of a message; the handler is "" where the message could not even be dispatched."""

    handler: str
    state: State
    attempts: int
    duration_ms: float = 0.0
    due: float | None = None
    """For ``retry``: when, in seconds of the store's clock."""
    failure: Failure | None = None
    """For ``retry`` and ``dead``."""


@dataclass(slots=True)  # Nobody changes it; to freeze it would take longer than to make it.
class Stored:
    """A message that a worker has claimed."""

    seq: int
    """Its place in the order of sending."""
    id: str
    type: str
    body: bytes
    """The wire form, ``{"type": ..., "data": {...}}``, as it was sent."""
    key: str | None
    correlation_id: str
    causation_id: str | None
    sent_at: float
    headers: Mapping[str, str]
    attempt: int
    """How often it has been claimed since anything was settled about it, this time included: more than once only after
    a crash or a lost lease. It counts on top of the attempts in ``outcomes``."""
    outcomes: Mapping[str, Outcome]
    """By handler: what was settled before. Empty at the first delivery."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Messages that are one worker's until the lease ends; ``token`` is the fence (law D6)."""

    token: str
    messages: Sequence[Stored]


@dataclass(slots=True)
class Settlement:
    """What a worker has to say about one message of its claim.

    ``outcomes`` replaces what is stored of the handlers it names. A message is finished when every handler named is
    done or dropped; while one is to be retried it waits until the earliest is due; while one is dead it is kept, and
    parks its key if ``parks``.
    """

    seq: int
    outcomes: Sequence[Outcome]
    sends: Sequence["Sending"] = ()
    """What its finished handlers sent; stored in the same transaction (law D3)."""
    results: bytes | None = None
    """The return messages of its finished handlers, as a JSON array; appended to those stored before."""
    parks: bool = True


@dataclass(slots=True)  # Nobody changes it; to freeze it would take longer than to make it.
class Sending:
    """A message on its way into a store."""

    envelope: Envelope
    body: bytes
    delay: float = 0.0
    at: datetime | None = None
    key: str | None = None
    dedup: str | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message that is not finished and not dead, as a listing shows it."""

    id: str
    type: str
    key: str | None
    due: datetime
    sent_at: datetime
    is_in_flight: bool
    """A worker holds a lease on it."""
    retries: Mapping[str, int]
    """Attempts so far, by handler, of those that have failed."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A (message, handler) pair that failed for good and is kept until someone decides."""

    id: int
    message_id: str
    type: str
    key: str | None
    handler: str
    """"" if the message could not be dispatched at all: it is unreadable, of no known type, or has no handler."""
    attempts: int
    failure: Failure
    died_at: datetime
    sent_at: datetime
    correlation_id: str
    causation_id: str | None
    body: bytes = field(repr=False)
    """The raw bytes, with whatever is private in them: for programs, not for listings."""


@dataclass(frozen=True, slots=True)
class Step:
    """One message in the history of what led to what."""

    id: str
    type: str
    causation_id: str | None
    sent_at: datetime
    finished_at: datetime | None
    outcomes: Sequence[Outcome]


@dataclass(frozen=True, slots=True)
class Schedule:
    """A message that is sent again and again."""

    name: str
    cron: str
    timezone: str
    type: str
    next_at: datetime


@dataclass(frozen=True, slots=True)
class Stats:
    """Figures of one moment. Ages in seconds."""

    due: int
    """May be claimed now (those whose key is held by an earlier message included)."""
    delayed: int
    in_flight: int
    dead: int
    finished: int
    oldest_due: float
    """How long the oldest message that is due has been due: the lag of the workers."""


class Transaction(Protocol):
    """The application's rows and its messages, committed together or not at all (the outbox)."""

    def execute(
        self, statement: str, parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]] = ()
    ) -> list[tuple[Any, ...]]:
        """Execute a statement with named parameters (``:name``), once or once for each mapping; return its rows."""

    def savepoint(self) -> AbstractContextManager[None]:
        """Open a block within the transaction: an exception rolls back what was written in it, and passes."""

    def send(
        self,
        message: Message,
        *,
        delay: float = 0.0,
        at: datetime | None = None,
        key: str | None = None,
        dedup: str | None = None,
        envelope: Envelope | None = None,
    ) -> str:
        """Do as `Store.send`, when the transaction commits."""


class Store(Protocol):
    """Keeps messages until they are handled. Safe to use from any thread, and in a forked child.

    Times go in as seconds (``delay``) or aware datetimes (``at``), and come out as aware datetimes in UTC. Every method
    may raise StoreBusyError or StoreUnavailableError: nothing was changed then, and the call may be made again.
    """

    clock: Callable[[], float]
    """Seconds since the epoch."""
    retention: float
    """Seconds for which workers keep the history of finished messages."""
    has_one_writer: bool
    """A transaction keeps all others from writing until it ends."""

    # Sending

    def send(
        self,
        message: Message,
        *,
        delay: float = 0.0,
        at: datetime | None = None,
        key: str | None = None,
        dedup: str | None = None,
        envelope: Envelope | None = None,
    ) -> str:
        """Store a message; when this returns, the message is on disk and has been proven readable (law D1).

        In a handler that a worker of this store runs, it is stored together with the acknowledgement of the message
        that is being handled, and only if that handler finishes (law D3).

        Args:
            message: a command or an event.
            delay: seconds from now before which it is not handled.
            at: not handled before; aware. One of delay and at may be given.
            key: messages with one key are handled one at a time, in the order they were sent.
            dedup: a second message with this key is not stored, as long as the first is in the store.
            envelope: the ids and headers it came with from outside; by default those of the message in hand are
                continued. A second message with the same id is not stored.

        Returns:
            The id of the message; of the first one, if this one is its duplicate.

        Raises:
            UnwritableMessageError: If it could not be read back the same; names the field.
            ConflictError: If a message with that id, or that dedup key, has another body.
        """

    async def asend(
        self,
        message: Message,
        *,
        delay: float = 0.0,
        at: datetime | None = None,
        key: str | None = None,
        dedup: str | None = None,
        envelope: Envelope | None = None,
    ) -> str:
        """Do as `send`, without blocking the event loop; what is awaited at the same time shares one commit."""

    def send_many(
        self,
        messages: Iterable[Message],
        *,
        delay: float = 0.0,
        at: datetime | None = None,
        key: str | Callable[[Message], str | None] | None = None,
    ) -> list[str]:
        """Store messages in their order in one transaction: all of them or none. ``key`` may be worked out for each."""

    def transaction(self) -> AbstractContextManager[Transaction]:
        """Open a transaction for the application's own rows and its messages; an exception rolls both back."""

    # Waiting messages and dead letters

    def waiting(self, *, type: str | None = None, key: str | None = None, limit: int = 100) -> list[Waiting]:
        """Return messages that wait or are in flight, the earliest due first."""

    def cancel(self, message_id: str) -> bool:
        """Forget a waiting message. False if it does not wait (it is in flight, finished, dead or unknown)."""

    def move(self, message_id: str, *, delay: float = 0.0, at: datetime | None = None) -> bool:
        """Change when a waiting message is due. False if it does not wait."""

    def dead(
        self,
        *,
        type: str | None = None,
        handler: str | None = None,
        error: str | None = None,
        older_than: float = 0.0,
        limit: int = 100,
    ) -> list[DeadLetter]:
        """Return dead letters, the oldest first. ``older_than``: seconds since it died; ``error``: a class name."""

    def retry(self, dead_letter_id: int, *, message: Message | None = None) -> bool:
        """Run that one handler again, with all its attempts; ``message`` replaces the stored one. False if unknown.

        Raises:
            ConflictError: If ``message`` is of another type.
        """

    def drop(self, dead_letter_id: int) -> bool:
        """Give a dead letter up; what its key parked goes on. False if unknown."""

    # Looking

    def stats(self) -> Stats: ...

    def result(self, message_id: str, *, timeout: float = 0.0) -> bytes:
        """Return the return messages of a message and all it led to, as a JSON array, in the order they were returned.

        Args:
            message_id: as `send` returned it.
            timeout: seconds to wait for everything to be finished.

        Raises:
            ResultTimeoutError: If it is not finished by then; says what is known.
            DeliveryFailedError: If a handler failed for good; says which.
        """

    def tree(self, message_id: str) -> list[Step]:
        """Return the message and everything it led to, each after its cause, as long as the history is kept."""

    # Scheduling

    def every(self, cron: str, message: Message, *, name: str, timezone: str = "UTC") -> None:
        """Send a message at the times of a cron expression; a schedule of that name is replaced.

        One worker sends it, however many there are; times that passed while none ran are made up for once.
        """

    def schedules(self) -> list[Schedule]: ...

    def unschedule(self, name: str) -> bool: ...

    # For workers

    def claim(self, limit: int, lease: float, *, transaction: Transaction | None = None) -> Claim:
        """Take messages that are due, the earliest first: at most ``limit``, for ``lease`` seconds.

        A message whose key is held by an earlier one (waiting, in flight, or dead and parking) is passed over. A
        message that was claimed before and not settled is claimed alone, so that one that kills its worker takes no
        others with it.

        In a ``transaction``, that which settles the last ones perhaps, they are taken if it commits.
        """

    def settle(
        self, token: str, settlements: Sequence[Settlement], *, transaction: Transaction | None = None
    ) -> set[int]:
        """Store what became of messages, and what they sent, in one transaction.

        Returns:
            The ``seq`` of those whose lease is lost: nothing of theirs was stored.
        """

    def extend(self, tokens: Iterable[str], lease: float) -> None:
        """Let the leases of these claims end that many seconds from now."""

    def release(self, token: str, seqs: Iterable[int]) -> None:
        """Give messages back that were not begun: they are due now, and no attempt is counted."""

    def owns(self, token: str, seq: int, transaction: Transaction) -> bool:
        """Say whether the lease on a message holds, and make sure it holds until the transaction ends."""

    def fire(self) -> int:
        """Send the scheduled messages that are due; return how many."""

    def next_due(self) -> float | None:
        """Return when the next message or schedule is due, in seconds of the clock; None if nothing waits."""

    def wait(self, timeout: float) -> None:
        """Return when something may have been sent, at the latest after so many seconds."""

    def prune(self, older_than: float) -> int:
        """Forget messages, and their results, that were finished before so many seconds; return how many."""

    def close(self) -> None:
        """Close what is open. Idempotent."""


# In a handler


class Work(Protocol):
    """What a worker keeps of the handler that it runs now."""

    @property
    def store(self) -> Store:
        """The store that its message came from."""

    def add(self, sending: Sending) -> None:
        """Store this together with the acknowledgement, if the handler finishes."""

    def transaction(self) -> Transaction:
        """Return the transaction in which the message will be acknowledged; opened when first asked for."""

    async def turn(self) -> None:
        """Wait until `transaction` can be had, where handlers on one event loop have to take turns."""


WORK: Final[ContextVar[Work | None]] = ContextVar("messagebus.work", default=None)


def current_transaction() -> Transaction:
    """Return the transaction in which the message in hand will be acknowledged, for the handler's own rows (law D3).

    What is written through it is committed with the acknowledgement, or rolled back if the handler fails. On SQLite it
    holds the file's one write lock from here until then: ask for it late, and do not wait for others while you have it.

    Raises:
        DispatchError: If no worker is running a handler here.
    """
    return _work().transaction()


async def acurrent_transaction() -> Transaction:
    """Do as `current_transaction` in an async handler, which has to wait while another on the loop is writing."""
    work = _work()
    await work.turn()
    return work.transaction()


def _work() -> Work:
    work = WORK.get()
    if work is None:
        remedy = "Call it in a handler that a Worker runs; elsewhere use store.transaction()."
        raise DispatchError("call current_transaction()", "no worker is running a handler here", remedy)
    return work
