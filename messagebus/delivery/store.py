"""The port: what every store promises (laws D1 to D11), and what of it a handler can have."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from datetime import datetime
from typing import Any, Final, Protocol

from messagebus.delivery.entries import Arrival, Claim, DeadLetter, Schedule, Sending, Settlement, Stats, Step, Waiting
from messagebus.envelope import Envelope
from messagebus.errors import DispatchError
from messagebus.messages import Message

__all__ = ["WORK", "Store", "Transaction", "Work", "acurrent_transaction", "current_transaction"]


class Transaction(Protocol):
    """The application's rows and its messages, committed together or not at all (the outbox)."""

    def execute(
        self, statement: str, parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]] = ()
    ) -> list[tuple[Any, ...]]:
        """Execute a statement with named parameters (``:name``), once or once for each mapping; return its rows."""
        ...

    def savepoint(self) -> AbstractContextManager[None]:
        """Open a block within the transaction: an exception rolls back what was written in it, and passes."""
        ...

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
        ...


class Store(Protocol):
    """Keeps messages until they are handled. Safe to use from any thread, and in a forked child.

    Times go in as seconds (``delay``) or aware datetimes (``at``), and come out as aware datetimes in UTC. Every method
    may raise StoreBusyError or StoreUnavailableError: nothing was changed then, and the call may be made again.
    """

    @property
    def clock(self) -> Callable[[], float]:
        """Seconds since the epoch."""
        ...

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
        ...

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
        ...

    def send_many(
        self,
        messages: Iterable[Message],
        *,
        delay: float = 0.0,
        at: datetime | None = None,
        key: str | Callable[[Message], str | None] | None = None,
    ) -> list[str]:
        """Store messages in their order in one transaction: all of them or none. ``key`` may be worked out for each."""
        ...

    def transaction(self) -> AbstractContextManager[Transaction]:
        """Open a transaction for the application's own rows and its messages; an exception rolls both back."""
        ...

    # Waiting messages and dead letters

    def waiting(self, *, type: str | None = None, key: str | None = None, limit: int = 100) -> list[Waiting]:
        """Return messages that wait or are in flight, the earliest due first."""
        ...

    def cancel(self, message_id: str) -> bool:
        """Forget a waiting message. False if it does not wait (it is in flight, finished, dead or unknown)."""
        ...

    def move(self, message_id: str, *, delay: float = 0.0, at: datetime | None = None) -> bool:
        """Change when a waiting message is due. False if it does not wait."""
        ...

    def dead(
        self,
        *,
        id: int | None = None,
        type: str | None = None,
        handler: str | None = None,
        error: str | None = None,
        older_than: float = 0.0,
        limit: int = 100,
    ) -> list[DeadLetter]:
        """Return dead letters, the oldest first. ``older_than``: seconds since it died; ``error``: a class name."""
        ...

    def retry(self, dead_letter_id: int, *, message: Message | None = None) -> bool:
        """Run that one handler again, with all its attempts; ``message`` replaces the stored one. False if unknown.

        Raises:
            ConflictError: If ``message`` is of another type.
        """
        ...

    def drop(self, dead_letter_id: int) -> bool:
        """Give a dead letter up; what its key parked goes on. False if unknown."""
        ...

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
        ...

    def tree(self, message_id: str) -> list[Step]:
        """Return the message and everything it led to, each after its cause, as long as the history is kept."""
        ...

    # Scheduling

    def every(self, cron: str, message: Message, *, name: str, timezone: str = "UTC") -> None:
        """Send a message at the times of a cron expression; a schedule of that name is replaced.

        One worker sends it, however many there are; times that passed while none ran are made up for once.
        """
        ...

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
        ...

    def receive(self, arrivals: Sequence[Arrival], lease: float) -> Claim:
        """Keep what an engine has brought, and take those of it that may be handled now, for ``lease`` seconds.

        One whose id is in the store already is not stored again. Like `claim`, it passes over those whose key is held;
        they wait here. When this returns the engine may forget them all.
        """
        ...

    def settle(
        self, token: str, settlements: Sequence[Settlement], *, transaction: Transaction | None = None
    ) -> set[int]:
        """Store what became of messages, and what they sent, in one transaction.

        Returns:
            The ``seq`` of those whose lease is lost: nothing of theirs was stored.
        """
        ...

    def extend(self, tokens: Iterable[str], lease: float) -> None:
        """Let the leases of these claims end that many seconds from now."""
        ...

    def release(self, token: str, seqs: Iterable[int]) -> None:
        """Give messages back that were not begun: they are due now, and no attempt is counted."""
        ...

    def owns(self, token: str, seq: int, transaction: Transaction) -> bool:
        """Say whether the lease on a message holds, and make sure it holds until the transaction ends."""
        ...

    def fire(self) -> int:
        """Send the scheduled messages that are due; return how many."""
        ...

    def next_due(self) -> float | None:
        """Return when the next message or schedule is due, in seconds of the clock; None if nothing waits."""
        ...

    def wait(self, timeout: float) -> None:
        """Return when something may have been sent, at the latest after so many seconds."""
        ...

    def prune(self, older_than: float) -> int:
        """Forget messages, and their results, that were finished before so many seconds; return how many."""
        ...

    def close(self) -> None:
        """Close what is open. Idempotent."""
        ...


# In a handler


class Work(Protocol):
    """What a worker keeps of the handler that it runs now."""

    @property
    def store(self) -> Store:
        """The store that its message came from."""
        ...

    def add(self, sending: Sending) -> None:
        """Store this together with the acknowledgement, if the handler finishes."""
        ...

    def transaction(self) -> Transaction:
        """Return the transaction in which the message will be acknowledged; opened when first asked for."""
        ...

    async def turn(self) -> None:
        """Wait until `transaction` can be had, where handlers on one event loop have to take turns."""
        ...


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
