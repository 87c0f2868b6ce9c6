"""One line of work: claim messages, have them handled one after another, settle them."""

import asyncio
import threading
from collections.abc import Generator
from contextlib import ExitStack, suppress
from time import monotonic
from typing import Final, Literal, Protocol

from messagebus import logs
from messagebus.delivery.carrier import Intake, begin
from messagebus.delivery.entries import Claim, Outcome, Settlement, Stored
from messagebus.delivery.handling import Handling, Rules
from messagebus.delivery.replies import reply_to
from messagebus.delivery.store import WORK, Store, Transaction
from messagebus.errors import BrokerError, DispatchError, MessageBusError, StoreError

__all__ = ["Lane", "Pause", "Shift", "Step", "Writer"]


class Pause(float):
    """Seconds in which nothing is tried, because it has just failed."""


Step = Handling | Pause | float | Literal["write"]
"""What a lane asks of its driver: to run a bus; to do nothing for so many seconds, or to wait for messages at most so
long; to let nobody else on this thread write."""

_BRIEF: Final = 0.1
"""Seconds of work that are settled at once; a transaction of handlers is not kept open for longer."""
_IDLE: Final = 0.2
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0


class Shift(Protocol):
    """What the lanes of a worker have in common."""

    rules: Rules
    batch: int
    lease: float
    is_stopping: bool
    intake: Intake | None
    report: logs.Write | None
    complain: logs.Write | None

    def is_over(self, lane: "Lane") -> bool:
        """Say whether there is nothing more to do, now that this lane has found nothing."""
        ...

    def count(self, settled: int) -> None:
        """Take down how many messages were settled."""
        ...


class Writer:
    """Whose turn it is to write, of lanes that share an event loop and a store that only one can write at a time."""

    def __init__(self) -> None:
        self._lane: Lane | None = None
        self._waiting: list[asyncio.Future[None]] = []

    def is_free_for(self, lane: "Lane") -> bool:
        return self._lane is None or self._lane is lane

    def take(self, lane: "Lane") -> None:
        self._lane = lane

    def give_back(self) -> None:
        self._lane = None
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def turn(self, lane: "Lane") -> None:
        """Wait until this lane may write; it has to begin before it awaits anything else."""
        while not self.is_free_for(lane):
            future = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            await future


class Lane:
    """Handles messages one after another, on one thread; see `Worker`."""

    def __init__(self, shift: Shift, writer: Writer) -> None:
        self._shift, self._writer = shift, writer
        self.store: Store = shift.rules.store
        self.claim: Claim | None = None
        self.claimed_at = 0.0
        self._unsettled: list[Stored] = []
        self._settlements: list[Settlement] = []
        self._transaction: Transaction | None = None
        self._open = ExitStack()
        self._size = 1
        self._pause = _FIRST_PAUSE
        self._looks_out = False
        self._failure: BrokerError | None = None

    # The work

    def steps(self) -> Generator[Step, None, None]:
        """Work until the worker stops, or nothing is left; yields what the driver has to do in between."""
        self._thread = threading.get_ident()
        claim: Claim | None = None
        while claim is not None or not self._shift.is_stopping:
            claim = claim or (yield from self._claim())
            if claim is not None:
                claim = yield from self._work(claim)
                if self._failure is not None:
                    error, self._failure = self._failure, None
                    yield self._trouble(error)
            elif self._shift.is_over(self):
                return
            else:
                yield _IDLE

    def _claim(self) -> Generator[Step, None, Claim | None]:
        while True:
            yield "write"
            try:
                claim = self._next()
                break
            except StoreError as error:
                yield self._trouble(error)
            if self._shift.is_stopping:
                return None
        self._pause = _FIRST_PAUSE
        return claim if claim.messages else None

    def _next(self) -> Claim:
        """Claim what has come in, and what waits in the store, in turn."""
        intake, lease = self._shift.intake, self._shift.lease
        self._looks_out = intake is not None and not self._looks_out
        if intake is not None and self._looks_out:
            claim = intake.claim(self._size, lease)
            if claim is not None:
                return claim
            self._looks_out = False
        return self.store.claim(self._size, lease)

    def _work(self, claim: Claim) -> Generator[Step, None, Claim | None]:
        """Have messages handled, and settle them; return what was claimed in the transaction that settled the last."""
        self._unsettled = [*claim.messages]
        self.claim, self.claimed_at = claim, monotonic()
        begun = settled_at = self.claimed_at
        rules = self._shift.rules
        try:
            for handling in begin(rules, self, claim.messages):
                if self._shift.is_stopping:
                    break
                token = WORK.set(handling)
                try:
                    handling.open()
                    if handling.bus is not None:
                        yield handling
                finally:
                    WORK.reset(token)
                    if handling.has_exited:  # The attempt counts: the lease has to run out.
                        self._unsettled.remove(handling.stored)
                self._keep(handling)
                if monotonic() - settled_at > _BRIEF:
                    yield from self._settle()
                    settled_at = monotonic()
            self._adapt(monotonic() - begun, len(claim.messages))
            return (yield from self._settle(claims=self._shift.intake is None))
        finally:
            self._give_back(claim)

    def _keep(self, handling: Handling) -> None:
        if handling.is_given_back:
            self._failure = handling.error if isinstance(handling.error, BrokerError) else None
            return
        settlement = handling.settle()
        reply = None if self._shift.intake is None else reply_to(handling.stored, settlement)
        if reply is not None:
            settlement.sends = [*settlement.sends, reply]
        self._settlements.append(settlement)
        for outcome in settlement.outcomes:
            if outcome.state != "done":
                self._tell(handling.stored, outcome)

    def _adapt(self, taken: float, handled: int) -> None:
        """Claim more at a time while that is quick, and less when it is slow: others could have had it."""
        if taken < _BRIEF and handled == self._size:
            self._size = min(self._size * 2, self._shift.batch)
        elif taken > 2 * _BRIEF:
            self._size = max(self._size // 2, 1)

    # The transaction

    def transaction_for(self, seq: int) -> Transaction:
        """Return the transaction in which what is in hand will be settled; opened when first asked for."""
        if self._transaction is None:
            self._transaction = self._begin()
        claim = self.claim
        if claim is None or not self.store.owns(claim.token, seq, self._transaction):
            why = "the lease on the message was lost, and another worker may have it"
            raise DispatchError("call current_transaction()", why, "Nothing of this run will be stored.")
        return self._transaction

    def _begin(self) -> Transaction:
        if threading.get_ident() != self._thread:
            remedy = "Call it in a handler that is not blocking=True, nor in a thread that a handler started."
            raise DispatchError("call current_transaction()", "this is not the thread of the worker", remedy)
        if not self._writer.is_free_for(self):
            why = "a handler that runs at the same time on this event loop is using it"
            raise DispatchError("call current_transaction()", why, "Call `await acurrent_transaction()`.")
        token = WORK.set(None)  # This is not the handler's own.
        try:
            transaction = self._open.enter_context(self.store.transaction())
        finally:
            WORK.reset(token)
        self._writer.take(self)
        return transaction

    async def turn(self) -> None:
        """Wait until this lane may write."""
        await self._writer.turn(self)

    def _close(self, error: BaseException | None) -> None:
        """Commit the transaction of handlers, or roll it back."""
        self._transaction = None
        self._writer.give_back()
        if error is None:
            self._open.close()
        else:
            self._open.__exit__(type(error), error, error.__traceback__)

    # Settling

    def _settle(self, *, claims: bool = False) -> Generator[Step, None, Claim | None]:
        """Store what became of messages; if the store is out of order, until it is not, or the work would be lost."""
        while self._settlements:
            if self._transaction is None:
                yield "write"
            try:
                return self._store(claims=claims and not self._shift.is_stopping)
            except StoreError as error:
                yield self._trouble(error)
        return None

    def _store(self, *, claims: bool) -> Claim | None:
        """Settle and, if told to, claim the next messages in the same transaction: the disk is waited for once."""
        claim, settlements = self.claim, self._settlements
        if claim is None:
            return None
        if self._transaction is None:
            with self.store.transaction() as transaction:
                lost, found = self._write(claim, transaction, settlements, claims=claims)
        else:
            # If this fails, what the handlers have written is gone, and they have to run again.
            self._settlements = []
            try:
                lost, found = self._write(claim, self._transaction, settlements, claims=claims)
            except BaseException as error:
                self._close(error)
                raise
            self._close(None)
        self._settlements = []
        settled = {settlement.seq for settlement in settlements}
        if self._shift.intake is not None:
            self._shift.intake.settled([stored for stored in self._unsettled if stored.seq in settled])
        self._unsettled = [stored for stored in self._unsettled if stored.seq not in settled]
        self._pause = _FIRST_PAUSE
        self._shift.count(len(settled))
        for settlement in settlements:
            if settlement.seq in lost and self._shift.complain is not None:
                self._shift.complain(logs.LEASE_LOST, seq=settlement.seq)
        return found

    def _write(
        self, claim: Claim, transaction: Transaction, settlements: list[Settlement], *, claims: bool
    ) -> tuple[set[int], Claim | None]:
        lost = self.store.settle(claim.token, settlements, transaction=transaction)
        found = self.store.claim(self._size, self._shift.lease, transaction=transaction) if claims else None
        return lost, found if found is not None and found.messages else None

    def _give_back(self, claim: Claim) -> None:
        """Leave nothing behind: store what is settled, and let others have what was not begun, or broken off."""
        try:
            if self._settlements:
                self._store(claims=False)
            if self._unsettled and self._transaction is None:
                self.store.release(claim.token, [stored.seq for stored in self._unsettled])
                if self._shift.intake is not None:
                    self._shift.intake.settled(self._unsettled)
        except MessageBusError as error:  # The lease will run out, and others take over.
            self._trouble(error)
        finally:
            if self._transaction is not None:
                self._close(GeneratorExit())
            self.claim = None
            self._settlements, self._unsettled = [], []

    def abandon(self) -> None:
        """Let others have what another thread is still at; this process is about to end."""
        claim = self.claim
        if claim is not None and self._transaction is None:
            with suppress(MessageBusError):
                self.store.release(claim.token, [stored.seq for stored in self._unsettled])

    # Records

    def _tell(self, stored: Stored, outcome: Outcome) -> None:
        if outcome.state == "dead" and self._shift.complain is not None:
            self._shift.complain(logs.DEAD_LETTER_KEPT, **_fields(stored, outcome))
        elif outcome.state == "retry" and self._shift.report is not None:
            self._shift.report(logs.HANDLER_POSTPONED, **_fields(stored, outcome))

    def _trouble(self, error: MessageBusError) -> Pause:
        if self._shift.complain is not None:
            event = logs.BROKER_FAILED if isinstance(error, BrokerError) else logs.STORE_FAILED
            self._shift.complain(event, reason=str(error))
        pause, self._pause = self._pause, min(self._pause * 2, _LONGEST_PAUSE)
        return Pause(pause)


def _fields(stored: Stored, outcome: Outcome) -> dict[str, object]:
    failure = outcome.failure
    return {
        "message_type": stored.type,
        "message_id": stored.id,
        "correlation_id": stored.correlation_id,
        "causation_id": stored.causation_id,
        "handler": outcome.handler,
        "attempts": outcome.attempts,
        "due": outcome.due,
        "error": None if failure is None else failure.error,
        "reason": None if failure is None else failure.text,
        "place": None if failure is None else failure.place,
    }
