"""What a store is, in plain Python: each verb a few lines on lists, by the laws and nothing else.

Times are in milliseconds, messages are known by their uid. A verb changes the book or leaves it as it is; where a real
store would commit more than once, the states in between are kept, in which a crash may leave it.
"""

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["ATTEMPTS", "COUNT", "HANDLERS", "WAIT", "Book", "Fate", "Row", "fails"]

Fate = tuple[Literal["done", "retry", "dead", "dropped"], int, int | None]
"""What became of a handler, after how many attempts, and when it is due again."""

PLACE, COUNT, BILL = (f"tests.proof.store_model.{name}" for name in ("place", "count", "bill"))
HANDLERS = {"proof.placed": (PLACE, COUNT), "proof.bill": (BILL,)}
ATTEMPTS = 2
WAIT = 5_000


def fails(handler: str, quantity: int, attempt: int) -> bool:
    """Say which handlers fail: one that counts does always if there are three, and at first if there are two."""
    return handler == COUNT and (quantity == 3 or (quantity == 2 and attempt == 1))


@dataclass
class Row:
    """A message."""

    uid: str
    type: str = "proof.placed"
    quantity: int = 1
    key: str | None = None
    dedup: str | None = None
    cause: str | None = None
    due: int | None = 0
    attempt: int = 0
    lease: str | None = None
    outcomes: dict[str, Fate] = field(default_factory=dict)
    results: int = 0
    finished: int | None = None
    lenient: set[str] = field(default_factory=set)
    """Handlers whose dead letters do not park the key."""

    def seen(self) -> tuple[Any, ...]:
        """Return what can be seen of it; of a lease, that there is one."""
        outcomes = sorted(self.outcomes.items())
        named = (self.uid, self.type, self.quantity, self.key, self.dedup, self.cause)
        return (*named, self.due, self.attempt, self.lease is not None, outcomes, self.results, self.finished)


@dataclass
class Book:
    """All messages in the order of sending, the dead letters, and the rows of the application."""

    rows: list[Row] = field(default_factory=list)
    letters: dict[tuple[str, str], int] = field(default_factory=dict)
    effects: list[str] = field(default_factory=list)

    def seen(self) -> tuple[Any, ...]:
        return [row.seen() for row in self.rows], self.letters, sorted(self.effects)

    def copy(self) -> "Book":
        return deepcopy(self)

    def __getitem__(self, uid: str) -> Row:
        return next(row for row in self.rows if row.uid == uid)

    # Claims

    def claim(self, now: int, limit: int, lease: int, token: str) -> list[str]:
        """The earliest due first; of a key the first that is not finished; one that was claimed before comes alone."""
        free = [row for row in self.rows if row.due is not None and row.due <= now and self._may_go(row, now)]
        free.sort(key=lambda row: row.due or 0)
        suspects = [row for row in free if row.lease is not None][:1]
        taken = suspects or free[:limit]
        for row in taken:
            row.due, row.attempt, row.lease = now + lease, row.attempt + 1, token
        return [row.uid for row in taken]

    def _may_go(self, row: Row, now: int) -> bool:
        line = [other for other in self.rows if other.key == row.key]
        is_held = any(other.lease is not None and (other.due or 0) > now for other in line)
        first = next((other for other in line if other.finished is None), None)
        return row.key is None or (first is row and not is_held)

    def settle(self, now: int, token: str, uid: str, fates: dict[str, Fate], *, parks: bool, results: int = 0) -> bool:
        """Take down what became of handlers; nothing, if the lease is lost."""
        row = self.held(uid, token)
        if row is None:
            return False
        row.outcomes |= fates
        row.attempt, row.lease, row.results = 0, None, row.results + results
        row.lenient = row.lenient - {*fates} if parks else row.lenient | {*fates}
        row.due, row.finished = follow(row, now)
        self.letters |= {(uid, handler): fate[1] for handler, fate in fates.items() if fate[0] == "dead"}
        return True

    def held(self, uid: str, token: str) -> Row | None:
        return next((row for row in self.rows if row.uid == uid and row.lease == token), None)

    def release(self, now: int, token: str, uids: Iterable[str]) -> None:
        for row in filter(None, (self.held(uid, token) for uid in uids)):
            row.due, row.attempt, row.lease = now, row.attempt - 1, None

    def extend(self, now: int, token: str, lease: int) -> None:
        for row in self.rows:
            if row.lease == token:
                row.due = now + lease

    # Decisions

    def retry(self, now: int, uid: str, handler: str) -> None:
        row = self[uid]
        row.outcomes[handler] = ("retry", 0, now)
        row.finished = None
        row.due = now if row.lease is None else row.due
        del self.letters[uid, handler]

    def drop(self, now: int, uid: str, handler: str) -> None:
        row = self[uid]
        row.outcomes[handler] = ("dropped", *row.outcomes[handler][1:])
        if row.lease is None and row.finished is None:
            row.due, row.finished = follow(row, now)
        del self.letters[uid, handler]

    def waits(self, uid: str) -> bool:
        row = self[uid]
        return row.lease is None and row.due is not None

    def cancel(self, uid: str) -> bool:
        may = self.waits(uid) and uid not in {letter for letter, _ in self.letters}
        self.rows = [row for row in self.rows if not (may and row.uid == uid)]
        return may

    def move(self, uid: str, due: int) -> bool:
        may = self.waits(uid)
        if may:
            row = self[uid]
            row.due = due
            row.outcomes = {
                handler: (state, attempts, due if state == "retry" else at)
                for handler, (state, attempts, at) in row.outcomes.items()
            }
        return may

    def prune(self, before: int) -> int:
        dead = {uid for uid, _ in self.letters}
        kept = [r for r in self.rows if r.finished is None or r.finished > before or r.uid in dead]
        count, self.rows = len(self.rows) - len(kept), kept
        return count

    # A worker that takes one message at a time

    def work(self, now: int, lease: int) -> list["Book"]:
        """Handle all that is due; return the book as it was after each commit."""
        states = []
        taken = self.claim(now, 1, lease, "worker")
        while taken:
            states.append(self.copy())
            self._handle(now, self[taken[0]])
            states.append(self.copy())
            taken = self.claim(now, 1, lease, "worker")
        return states

    def _handle(self, now: int, row: Row) -> None:
        fates: dict[str, Fate] = {}
        before = dict(row.outcomes)
        told = row.attempt + max((fate[1] for fate in before.values() if fate[0] == "retry"), default=0)
        sends, results = [], 0
        for handler in HANDLERS[row.type]:
            state, tried, due = before.get(handler, ("retry", 0, now))
            attempts = row.attempt + tried
            if state != "retry" or (due or 0) > now:
                continue
            if attempts > ATTEMPTS:  # Its worker did not survive it.
                fates[handler] = ("dead", attempts - 1, None)
            elif fails(handler, row.quantity, told):
                fates[handler] = ("dead", attempts, None) if attempts >= ATTEMPTS else ("retry", attempts, now + WAIT)
            else:
                fates[handler] = ("done", attempts, None)
                self.effects += [f"counted {row.uid}"] * (handler == COUNT)
                if handler == PLACE:
                    self.effects.append(row.uid)
                    sends.append(Row(f"{row.uid}/e", "proof.bill", cause=row.uid, due=now))
                    results += 1
        self.settle(now, "worker", row.uid, fates, parks=True, results=results)
        self.rows += sends


def follow(row: Row, now: int) -> tuple[int | None, int | None]:
    """When a message is due, and when it was finished."""
    tries = [due for state, _, due in row.outcomes.values() if state == "retry" and due is not None]
    if tries:
        return min(tries), None
    parks = any(fate[0] == "dead" and handler not in row.lenient for handler, fate in row.outcomes.items())
    return None, None if parks else now
