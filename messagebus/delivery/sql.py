"""`SqlStore`: every verb of the port, once, for any engine that speaks SQL."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from typing import Any, Final, cast

from messagebus.delivery import claims, history, letters, schedule
from messagebus.delivery.access import Access
from messagebus.delivery.connection import Connection, Row
from messagebus.delivery.entries import (
    Arrival,
    Claim,
    DeadLetter,
    Flow,
    Schedule,
    Sending,
    Settlement,
    Stats,
    Step,
    Waiting,
)
from messagebus.delivery.group import Group
from messagebus.delivery.sending import add, add_all, due_at, plain_row, prepare, row_of
from messagebus.delivery.store import WORK, Transaction, Work
from messagebus.delivery.transaction import SqlTransaction
from messagebus.envelope import Envelope
from messagebus.errors import ConflictError, DispatchError, ResultTimeoutError
from messagebus.messages import Message
from messagebus.telemetry import sends

__all__ = ["RETENTION", "TIMEOUT", "SqlStore"]

RETENTION: Final = 86_400.0
"""Seconds for which the history of finished messages is kept, unless told otherwise."""

TIMEOUT: Final = 30.0
"""Seconds to wait for others who keep a store locked."""
_POLL: Final = 0.01
_SLOWEST_POLL: Final = 0.2
_LEISURE: Final = 50
"""A store that is polled is left alone for so many times as long as the look at it took."""
_PRUNED_AT_ONCE: Final = 1_000


class SqlStore(Access):
    """Keeps messages in tables; see `messagebus.delivery.store.Store` for what each method promises.

    A subclass opens connections, tells what its errors mean, and knows what lets only one write.
    """

    has_one_writer: bool = False

    def __init__(self, clock: Callable[[], float], retention: float) -> None:
        self.clock = clock
        self.retention = retention
        super().__init__()
        self._restart()

    def _restart(self) -> None:
        """Begin anew in a forked child: what threads of the parent did goes on there."""
        self._group: Group | None = None
        self._group_lock = threading.Lock()
        self._sent = threading.Event()

    def _now(self) -> int:
        return int(self.clock() * 1000)

    # Sending

    @sends("send")
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
        work = self._work()
        if work is not None:
            return _hand_over(work, prepare(message, delay=delay, at=at, key=key, dedup=dedup, envelope=envelope))
        return self._add([self._row(message, delay, at, key, dedup, envelope)])[0]

    @sends("send")
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
        work = self._work()
        if work is not None:
            return _hand_over(work, prepare(message, delay=delay, at=at, key=key, dedup=dedup, envelope=envelope))
        row = self._row(message, delay, at, key, dedup, envelope)
        return await (self._group or self._start_group()).add(row)

    @sends("send", many=True)
    def send_many(
        self,
        messages: Iterable[Message],
        *,
        delay: float = 0.0,
        at: datetime | None = None,
        key: str | Callable[[Message], str | None] | None = None,
    ) -> list[str]:
        work = self._work()
        keyed = ((message, key(message) if callable(key) else key) for message in messages)
        if work is not None:
            sendings = [prepare(message, delay=delay, at=at, key=key) for message, key in keyed]
            return [_hand_over(work, sending) for sending in sendings]
        now = self._now()
        due = due_at(now, delay, at)
        return self._add([plain_row(message, now, due, key) for message, key in keyed])

    def _work(self) -> Work | None:
        """Return the work of the handler that calls, if a worker of this very store runs it."""
        work = WORK.get()
        return work if work is not None and cast("object", work.store) is self else None

    def _row(
        self,
        message: Message,
        delay: float,
        at: datetime | None,
        key: str | None,
        dedup: str | None,
        envelope: Envelope | None,
    ) -> Row:
        now = self._now()
        if envelope is None:
            return plain_row(message, now, due_at(now, delay, at), key, dedup)
        return row_of(prepare(message, delay=delay, at=at, key=key, dedup=dedup, envelope=envelope), now)

    def _add(self, rows: Sequence[Row]) -> list[str]:
        if not rows:
            return []
        with self._adding(len(rows)) as connection:
            ids = add_all(connection, rows)
        self._wake()
        return ids

    def _add_group(self, rows: Sequence[Row]) -> list[str | ConflictError]:
        with self._adding(len(rows)) as connection:
            answers = add(connection, rows)
        self._wake()
        return answers

    def _adding(self, count: int) -> AbstractContextManager[Connection]:
        return self._once("send a message") if count == 1 else self._write("send messages")

    def _wake(self) -> None:
        if not self._sent.is_set():
            self._sent.set()

    def _start_group(self) -> Group:
        with self._group_lock:
            if self._group is None:
                self._group = Group(self._add_group)
            return self._group

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        work = self._work()
        if work is not None:
            outer = _transaction_of(work)
            with outer.savepoint():
                yield outer
            return
        with self._write("commit a transaction") as connection:
            transaction = SqlTransaction(connection, self._now)
            try:
                yield transaction
            finally:
                transaction.end()
        self._wake()

    # Waiting messages and dead letters

    def waiting(self, *, type: str | None = None, key: str | None = None, limit: int = 100) -> list[Waiting]:
        conditions = _given(type=type, key=key)
        with self._read("list waiting messages") as connection:
            return letters.waiting(connection, self._now(), conditions, limit)

    def cancel(self, message_id: str) -> bool:
        with self._write("cancel a message") as connection:
            return letters.cancel(connection, message_id)

    def move(self, message_id: str, *, delay: float = 0.0, at: datetime | None = None) -> bool:
        with self._write("move a message") as connection:
            is_moved = letters.move(connection, self._now(), message_id, delay, at)
        self._wake()
        return is_moved

    def dead(
        self,
        *,
        id: int | None = None,
        type: str | None = None,
        handler: str | None = None,
        error: str | None = None,
        older_than: float = 0.0,
        after: int = 0,
        limit: int = 100,
    ) -> list[DeadLetter]:
        before = self._now() - round(older_than * 1000)
        conditions = _given(**{"d.id": id, "m.type": type, "d.handler": handler})
        with self._read("list dead letters") as connection:
            return letters.dead(connection, before, conditions, error, after, limit)

    def retry(self, dead_letter_id: int, *, message: Message | None = None) -> bool:
        with self._write("retry a dead letter") as connection:
            is_known = letters.retry(connection, self._now(), dead_letter_id, message)
        self._wake()
        return is_known

    def drop(self, dead_letter_id: int) -> bool:
        with self._write("drop a dead letter") as connection:
            is_known = letters.drop(connection, self._now(), dead_letter_id)
        self._wake()
        return is_known

    # Looking

    def stats(self) -> Stats:
        with self._read("count messages") as connection:
            return history.stats(connection, self._now())

    def result(self, message_id: str, *, timeout: float = 0.0) -> bytes:
        end, pause = time.monotonic() + timeout, _POLL
        while True:
            with self._read("return a result") as connection:
                found = history.result(connection, message_id)
            if isinstance(found, bytes):
                return found
            if time.monotonic() >= end:
                why = f"{found:,} messages of what it led to are not finished after {timeout:g} s"
                remedy = "Wait longer, or see that a worker runs."
                raise ResultTimeoutError(f"return the result of message {message_id}", why, remedy)
            time.sleep(min(pause, max(0.0, end - time.monotonic())))
            pause = min(pause * 1.5, _SLOWEST_POLL)

    def tree(self, message_id: str) -> list[Step]:
        with self._read("tell what a message led to") as connection:
            return history.tree(connection, message_id)

    def flows(self) -> list[Flow]:
        with self._read("count what led to what") as connection:
            return history.flows(connection)

    # Scheduling

    def every(self, cron: str, message: Message, *, name: str, timezone: str = "UTC") -> None:
        _, type, body, headers, *_ = plain_row(message, 0, 0)
        given = {"name": name, "cron": cron, "timezone": timezone, "type": type, "body": body, "headers": headers}
        with self._write("keep a schedule") as connection:
            schedule.every(connection, self._now(), given)

    def schedules(self) -> list[Schedule]:
        with self._read("list schedules") as connection:
            return schedule.schedules(connection)

    def unschedule(self, name: str) -> bool:
        with self._write("forget a schedule") as connection:
            return schedule.unschedule(connection, name)

    # For workers

    def claim(self, limit: int, lease: float, *, transaction: Transaction | None = None) -> Claim:
        if transaction is not None:
            return claims.claim(_connection_of(transaction), self._now(), limit, lease)
        # If a crash of the machine undoes a claim, its messages are due again: it need not wait for the disk.
        with self._write("claim messages", is_durable=False) as connection:
            return claims.claim(connection, self._now(), limit, lease)

    def receive(self, arrivals: Sequence[Arrival], lease: float) -> Claim:
        with self._write("receive messages") as connection:
            return claims.receive(connection, self._now(), arrivals, lease)

    def settle(
        self, token: str, settlements: Sequence[Settlement], *, transaction: Transaction | None = None
    ) -> set[int]:
        if transaction is not None:
            return claims.settle(_connection_of(transaction), self._now(), token, settlements)
        with self._write("settle messages") as connection:
            lost = claims.settle(connection, self._now(), token, settlements)
        self._wake()
        return lost

    def extend(self, tokens: Iterable[str], lease: float) -> None:
        with self._write("extend leases", is_durable=False) as connection:
            claims.extend(connection, self._now(), tokens, lease)

    def release(self, token: str, seqs: Iterable[int]) -> None:
        with self._write("release messages", is_durable=False) as connection:
            claims.release(connection, self._now(), token, seqs)

    def owns(self, token: str, seq: int, transaction: Transaction) -> bool:
        return claims.owns(_connection_of(transaction), token, seq)

    def fire(self) -> int:
        with self._read("look for schedules that are due") as connection:
            if not schedule.is_due(connection, self._now()):
                return 0
        with self._write("send what is scheduled") as connection:
            count = schedule.fire(connection, self._now())
        self._wake()
        return count

    def next_due(self) -> float | None:
        with self._read("look for what is due") as connection:
            due = claims.next_due(connection, self._now())
        return None if due is None else due / 1000

    def wait(self, timeout: float) -> None:
        end = time.monotonic() + timeout
        while True:
            self._sent.clear()
            before = time.monotonic()
            if self._has_work() or before >= end:
                return
            pause = min(max(_POLL, (time.monotonic() - before) * _LEISURE), _SLOWEST_POLL)
            self._sent.wait(min(pause, max(0.0, end - time.monotonic())))

    def _has_work(self) -> bool:
        with self._read("look for what is due") as connection:
            return bool(claims.pick(connection, self._now(), 1))

    def prune(self, older_than: float) -> int:
        before = self._now() - round(older_than * 1000)
        total = 0
        while True:
            with self._write("prune finished messages") as connection:
                count = history.prune(connection, before, _PRUNED_AT_ONCE)
            total += count
            if count < _PRUNED_AT_ONCE:
                return total

    def close(self) -> None:
        with self._group_lock:
            group, self._group = self._group, None
        if group is not None:
            group.close()
        self._pool.close()


def _hand_over(work: Work, sending: Sending) -> str:
    work.add(sending)
    return sending.envelope.id


def _transaction_of(work: Work) -> Transaction:
    """Return the transaction of a handler, which may open it here and now as if it were outside."""
    token = WORK.set(None)
    try:
        return work.transaction()
    finally:
        WORK.reset(token)


def _given(**conditions: Any) -> dict[str, Any]:
    return {column: value for column, value in conditions.items() if value is not None}


def _connection_of(transaction: Transaction) -> Connection:
    if not isinstance(transaction, SqlTransaction):
        raise DispatchError("use this transaction", "it is none of this store", "Use store.transaction().")
    return transaction.connection
