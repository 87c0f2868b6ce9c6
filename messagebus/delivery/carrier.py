"""`Carrier`: what a worker needs of an engine that carries messages between services; and what leaves by it."""

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from time import perf_counter
from typing import TYPE_CHECKING, Any

from messagebus import telemetry
from messagebus.delivery.entries import RETURNED, Arrival, Claim, Outcome, Settlement, Stored
from messagebus.delivery.handling import Desk, Handling, Rules
from messagebus.delivery.outcomes import failure_of
from messagebus.delivery.store import Store
from messagebus.errors import BrokerError
from messagebus.messages import Event
from messagebus.registry import Snapshot

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = ["Carrier", "Intake", "begin"]


class Carrier(ABC):
    """An engine, as a worker uses it. Every method may be called from any thread."""

    name: str
    """As records and the history show it: ``NATS``."""

    @abstractmethod
    def begin(self, snapshot: Snapshot, *, ahead: int, lease: float) -> None:
        """Have messages of the types that have handlers brought here.

        Args:
            snapshot: of the registry.
            ahead: so many are brought at most before the first is acknowledged.
            lease: seconds after which those of a process that has died are brought to another.

        Raises:
            BrokerError: If the engine cannot be reached.
        """

    @abstractmethod
    def end(self) -> None:
        """Have nothing brought any more; returns when the engine knows what was acknowledged. Idempotent."""

    @abstractmethod
    def take(self, limit: int) -> Sequence[Arrival]:
        """Return what has been brought, at most so many, in that order; does not wait."""

    @abstractmethod
    def acknowledge(self, receipts: Iterable[Any]) -> None:
        """Have the engine forget these; does not wait. If it does not come to that, they are brought again."""

    @abstractmethod
    def wait(self, timeout: float) -> None:
        """Return when something may have been brought, at the latest after so many seconds."""

    @abstractmethod
    def carry(self, messages: Sequence[Stored]) -> "Sequence[Future[None]]":
        """Publish messages; each is done when the engine has confirmed it.

        Fails with BrokerError if it may be tried again, with InvalidMessageError if the engine will never take it.
        """


# What comes in


class Intake:
    """How the lanes of a worker take what an engine brings: into the inbox, in its order, leased.

    It is acknowledged when it is settled there, or if it is there for good without that.
    """

    def __init__(self, carrier: Carrier, store: Store) -> None:
        self._carrier, self._store = carrier, store
        self._lock = threading.Lock()
        self._arrivals: Sequence[Arrival] = ()
        self._receipts: dict[str, list[Any]] = {}

    def claim(self, limit: int, lease: float) -> Claim | None:
        """Return a claim on what has come in; None if that is nothing.

        Raises:
            StoreError: If the inbox is out of order; what has come in is kept for the next time.
        """
        with self._lock:  # What one lane takes first is stored first, or messages with one key would change places.
            self._arrivals = self._arrivals or self._carrier.take(limit)
            if not self._arrivals:
                return None
            claim = self._store.receive(self._arrivals, lease)
            arrivals, self._arrivals = self._arrivals, ()
            taken = {stored.id.removesuffix(RETURNED) for stored in claim.messages}
            rest = []
            for arrival in arrivals:
                if arrival.id in taken:
                    self._receipts.setdefault(arrival.id, []).append(arrival.receipt)
                else:  # It is in the inbox for good: it has been there before, or waits for what is before it.
                    rest.append(arrival.receipt)
        if rest:
            self._carrier.acknowledge(rest)
        return claim if claim.messages else None

    def settled(self, messages: Iterable[Stored]) -> None:
        """Acknowledge what the inbox has settled, or has to itself."""
        with self._lock:
            found = [one for stored in messages for one in self._receipts.pop(stored.id.removesuffix(RETURNED), ())]
        if found:
            self._carrier.acknowledge(found)


# What goes out


def begin(rules: Rules, desk: Desk, messages: Sequence[Stored]) -> Iterable[Handling]:
    """Return what is to be done with the messages of a claim; those that leave are on their way already."""
    carrier = rules.carrier
    if carrier is None:
        return (Handling(rules, desk, stored) for stored in messages)
    leaving = [stored for stored in messages if _leaves(rules, stored)]
    confirmed = carrier.carry(leaving) if leaving else ()
    confirmations = {stored.seq: future for stored, future in zip(leaving, confirmed, strict=True)}
    return [
        _Publication(rules, desk, stored, confirmations[stored.seq], carrier.name)
        if stored.seq in confirmations
        else Handling(rules, desk, stored)
        for stored in messages
    ]


def _leaves(rules: Rules, stored: Stored) -> bool:
    """Say whether a message is for others: what came from outside is not, nor a command that is handled here."""
    if rules.passes_all_on or "source" in stored.headers:
        return rules.passes_all_on
    snapshot = rules.registry.snapshot
    cls = snapshot.names.get(stored.type)
    if stored.is_event or (cls is not None and issubclass(cls, Event)):
        return True
    return cls is None or not snapshot[cls].handlers


class _Publication(Handling):
    """One stored message on its way to the engine."""

    __slots__ = ("confirmed", "started", "to")

    def __init__(self, rules: Rules, desk: Desk, stored: Stored, confirmed: Any, to: str) -> None:
        super().__init__(rules, desk, stored)
        self.confirmed, self.to = confirmed, to
        """``confirmed``: a future, done when the engine ``to`` which it goes has confirmed it."""
        self.started = 0.0

    def open(self) -> None:
        self.started = perf_counter()
        is_async = self.rules.registry.is_async
        self.bus: Any = self._await_confirmation if is_async else self._wait_for_confirmation

    def _wait_for_confirmation(self) -> None:
        with self._watched():
            self.confirmed.result()

    async def _await_confirmation(self) -> None:
        with self._watched():
            await asyncio.wrap_future(self.confirmed)

    def _watched(self) -> AbstractContextManager[object]:
        watch = telemetry.current
        return nullcontext() if watch is None else watch.passing_on(self.stored, self.to)

    @property
    def is_given_back(self) -> bool:
        return isinstance(self.error, BrokerError)

    def settle(self) -> Settlement:
        name, attempts = f"published to {self.to}", self._attempts(f"published to {self.to}")
        taken = (perf_counter() - self.started) * 1000
        if self.error is None:
            return Settlement(self.stored.seq, [Outcome(name, "done", attempts, taken)])
        failure = failure_of(self.error, None)
        return Settlement(self.stored.seq, [Outcome(name, "dead", attempts, taken, failure=failure)], parks=False)
