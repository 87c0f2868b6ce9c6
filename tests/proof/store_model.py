"""Any sequence of verbs, on a store and on a reference of it: they answer the same, and hold the same afterwards.

Time is virtual. In any verb the process may die before or after any of its statements; then the store is opened again,
and has to be as it was before the verb, or as after it, or as after one of its commits: nothing in between.
"""

import asyncio
import itertools
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from pydantic_core import from_json

from messagebus import Command, Event, Message, Registry, current_envelope
from messagebus.delivery import (
    ConflictError,
    Outcome,
    Retry,
    Settlement,
    Stored,
    StoreFileError,
    Worker,
    current_transaction,
)
from messagebus.delivery.postgres import PostgresStore
from messagebus.delivery.sqlite import MemoryStore, SqliteStore
from messagebus.envelope import Envelope
from messagebus.testing import Clock
from messagebus.testing.laws import FAILURE, sending
from messagebus.testing.shop import Confirmation
from tests import servers
from tests.older import make_older
from tests.proof.power import MEMORY
from tests.proof.reference_store import ATTEMPTS, COUNT, HANDLERS, WAIT, Book, Fate, Row, fails

SHORT, LONG = 60, 20_000
COUNTS = "examples"

STEPS = 50
LEASE = 30.0


def prove(size: int, report: Callable[[str], None]) -> str:
    """Try so many sequences on each store: half as many in memory, where nobody dies, and a quarter on PostgreSQL."""
    told = []

    def try_on(machine: type[Machine], examples: int) -> None:
        told.append(try_out(machine, examples, is_random=size > SHORT))
        report(told[-1])

    with TemporaryDirectory(prefix="messagebus-", dir=MEMORY) as folder:
        try_on(InMemory, size // 2)
        try_on(sqlite_machine(Path(folder)), size)
        try:
            with servers.postgres() as server:
                try_on(postgres_machine(server.fresh(), server), size // 4)
        except pytest.skip.Exception as reason:
            report(f"skipped: {reason}")
    return "; ".join(told)


# Dying


class Death(BaseException):
    """The process is gone: nothing of it goes on."""


class Fuse:
    """Counts the statements until the process dies, before one of them or after it."""

    def __init__(self, left: int | None = None, comes_after: bool = False) -> None:
        self.left, self.comes_after, self.has_blown = left, comes_after, False
        self.session: int | None = None
        """Which a server has to notice that it is over."""

    def around(self, raw: Any, statement: Callable[..., Any], *arguments: Any) -> Any:
        if self.has_blown:
            raise Death
        if self.left is None:
            return statement(*arguments)
        self.left -= 1
        if self.left > 0:
            return statement(*arguments)
        self.has_blown = True
        if self.comes_after:
            statement(*arguments)
        if hasattr(raw, "info"):
            self.session = raw.info.backend_pid
        raise Death


class Mortal:
    """A driver's connection with a fuse."""

    def __init__(self, raw: Any, fuse: Fuse) -> None:
        self._raw, self._fuse = raw, fuse

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    def execute(self, *arguments: Any) -> Any:
        return self._fuse.around(self._raw, self._raw.execute, *arguments)

    def executemany(self, *arguments: Any) -> Any:
        return self._fuse.around(self._raw, self._raw.executemany, *arguments)


class MortalFile(SqliteStore):
    def __init__(self, address: str, clock: Clock, fuse: Fuse) -> None:
        self.fuse = fuse
        super().__init__(address, clock=clock)

    def _connect(self) -> Any:
        connection = super()._connect()
        connection.raw = Mortal(connection.raw, self.fuse)
        return connection


class MortalServer(PostgresStore):
    def __init__(self, address: str, clock: Clock, fuse: Fuse) -> None:
        self.fuse = fuse
        super().__init__(address, clock=clock)

    def _connect(self) -> Any:
        connection: Any = super()._connect()
        connection.raw = Mortal(connection.raw, self.fuse)
        return connection


# The messages, and handlers of which the reference knows what they do


class Placed(Event, name="proof.placed"):
    order_id: str
    quantity: int = 1


class Bill(Command, name="proof.bill"):
    order_id: str


def place(event: Placed) -> Iterable[Message]:
    current_transaction().execute("INSERT INTO effect VALUES (:uid)", {"uid": event.order_id})
    yield Bill(order_id=f"{event.order_id}/e")
    yield Confirmation(order_id=event.order_id)


def count(event: Placed) -> None:
    current_transaction().execute("INSERT INTO effect VALUES (:uid)", {"uid": f"counted {event.order_id}"})
    if fails(COUNT, event.quantity, current_envelope().attempt):
        raise ValueError


def bill(command: Bill) -> None: ...


def registry_of_handlers() -> Registry:
    registry = Registry()
    registry.register(Placed, place)
    registry.register(Placed, count)
    registry.register(Bill, bill)
    return registry


# The machine

STATE = """
    SELECT seq, id, body, key, dedup, causation_id, due_at, attempt, lease, outcomes, results, finished_at
    FROM mb_message ORDER BY seq
"""
LETTERS = "SELECT m.id, d.handler, d.attempts FROM mb_dead d JOIN mb_message m ON m.seq = d.seq"
fuses = st.none() | st.tuples(st.integers(1, 9), st.booleans())
"""At which statement the process dies, and whether after it."""
keys = st.sampled_from([None, "a", "a", "b"])
endings = st.lists(st.sampled_from(["done", "retry", "dead"]), min_size=2, max_size=2)


class Machine(RuleBasedStateMachine):
    """Does everything twice."""

    claims = Bundle("claims")
    can_die: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self.clock, self.book, self.count = Clock(), Book(), 0
        self.uids: dict[str, str] = {}
        self.registry = registry_of_handlers()
        self.store: Any = None

    def open(self, fuse: Fuse) -> Any:
        raise NotImplementedError

    @initialize(fuse=st.none() | st.tuples(st.integers(1, 30), st.booleans()), some=st.lists(keys, max_size=3))
    def begin(self, fuse: Any, some: list[str | None]) -> None:
        """Begin with nothing in the store; the first who tries may die of it."""
        self.store = self.reopen(fuse)
        with self.store.transaction() as transaction:
            transaction.execute("CREATE TABLE IF NOT EXISTS effect (uid VARCHAR(200))")
            for table in ("mb_message", "mb_dead", "effect"):  # Where the place is not a new one.
                transaction.execute(f"DELETE FROM {table}")
        for key in some:
            self.send("send", key, 0.0, 2, False, None)

    def reopen(self, fuse: Any) -> Any:
        if fuse is not None and self.can_die:
            with suppress(Death):
                self.open(Fuse(*fuse)).close()
        return self.open(Fuse())

    def teardown(self) -> None:
        self.store.close()

    @property
    def now(self) -> int:
        return int(self.clock() * 1000)

    # How a verb is tried

    def same(self, verb: Callable[[], Any], change: Callable[[Book], Any], fuse: tuple[int, bool] | None = None) -> Any:
        """Do it on both; return what the store said, or None if the process has died of it.

        ``change`` returns what the store should say, or the books after each of several commits.
        """
        after = self.book.copy()
        wanted = change(after)
        if fuse is not None and self.can_die:
            self.store.fuse.left, self.store.fuse.comes_after = fuse
        try:
            got = verb()
        except Death:
            states = wanted if isinstance(wanted, list) and wanted and isinstance(wanted[0], Book) else []
            self.come_back([self.book, *states, after])
            return None
        if self.can_die:
            self.store.fuse.left = None
        self.book = after
        return got, wanted

    def come_back(self, books: list[Book], fuse: Any = None) -> None:
        """Open the store again after a crash: it is as one of these books says."""
        with suppress(Death):
            self.store.close()
        self.store = self.reopen(fuse)
        seen = self.look()
        self.book = next((book for book in books if book.seen() == seen), books[0])
        states = [book.seen() for book in books]
        assert seen in states, f"the reference may be as one of\n{states}\nand the store is\n{seen}"

    def look(self) -> tuple[Any, ...]:
        """Return what is in the store, as `Book.seen` does."""
        with self.store.transaction() as transaction:
            rows = transaction.execute(STATE)
            letters = transaction.execute(LETTERS)
            effects = transaction.execute("SELECT uid FROM effect ORDER BY uid")
        wires = [from_json(bytes(row[2])) for row in rows]
        self.uids |= {row[1]: wire["data"]["order_id"] for row, wire in zip(rows, wires, strict=True)}
        found = [self.seen(row, wire) for row, wire in zip(rows, wires, strict=True)]
        return found, {(self.uids[id], handler): n for id, handler, n in letters}, [uid for (uid,) in effects]

    def seen(self, row: tuple[Any, ...], wire: dict[str, Any]) -> tuple[Any, ...]:
        _, _, _, key, dedup, cause, due, attempt, lease, packed, results, finished = row
        outcomes = {}
        for handler, state, attempts, _, *rest in from_json(packed) if packed else ():
            at = rest[0] if rest else None
            outcomes[handler] = (state, attempts, at if at is None else round(at * 1000))
        return Row(
            wire["data"]["order_id"], wire["type"], wire["data"].get("quantity", 1), key, dedup,
            cause and self.uids[cause], due, attempt, lease, outcomes,
            len(from_json(bytes(results))) if results else 0, finished,
        ).seen()  # fmt: skip

    @invariant()
    def holds_the_same(self) -> None:
        wanted, got = self.book.seen(), self.look()
        assert wanted == got, f"the reference has\n{wanted}\nand the store\n{got}"

    @invariant()
    def tells_the_same(self) -> None:
        """Figures and listings, as a user sees them."""
        now, rows, stats = self.now, self.book.rows, self.store.stats()
        waiting = [row for row in rows if row.due is not None]
        is_in_flight = [row.lease is not None and row.due > now for row in waiting]
        due = sum(row.due <= now for row in waiting)
        figures = (due, len(waiting) - due - sum(is_in_flight), sum(is_in_flight), len(self.book.letters))
        assert (*figures, sum(row.finished is not None for row in rows)) == (
            stats.due, stats.delayed, stats.in_flight, stats.dead, stats.finished
        )  # fmt: skip
        waiting.sort(key=lambda row: row.due or 0)
        listed = self.store.waiting(limit=1_000)
        assert [row.uid for row in waiting] == [self.uids[one.id] for one in listed]
        assert {*self.book.letters} == {(self.uids[one.message_id], one.handler) for one in self.store.dead()}

    # Sending

    def fresh(self) -> str:
        self.count += 1
        return f"u{self.count}"

    @rule(
        way=st.sampled_from(["send", "asend", "transaction"]),
        key=keys,
        delay=st.sampled_from([0.0, 20.0]),
        quantity=st.integers(1, 3),
        has_dedup=st.booleans(),
        fuse=fuses,
    )
    def send(self, way: str, key: str | None, delay: float, quantity: int, has_dedup: bool, fuse: Any) -> None:
        uid = self.fresh()
        row = Row(uid, quantity=quantity, key=key, dedup=uid if has_dedup else None, due=self.now + int(delay * 1000))
        message = Placed(order_id=uid, quantity=quantity)
        options = {"key": key, "delay": delay, "dedup": row.dedup}

        def verb() -> str:
            if way == "transaction":
                with self.store.transaction() as transaction:
                    transaction.execute("INSERT INTO effect VALUES (:uid)", {"uid": f"row {uid}"})
                    return transaction.send(message, **options)
            return (
                asyncio.run(self.store.asend(message, **options))
                if way == "asend"
                else self.store.send(message, **options)
            )

        def change(book: Book) -> None:
            book.rows.append(row)
            book.effects += [f"row {uid}"] * (way == "transaction")

        self.same(verb, change, None if way == "asend" else fuse)  # Its thread would outlive the process.

    @rule(keys=st.lists(keys, min_size=1, max_size=4), fuse=fuses)
    def send_many(self, keys: list[str | None], fuse: Any) -> None:
        new = {self.fresh(): key for key in keys}
        messages = [Bill(order_id=uid) for uid in new]
        self.same(
            lambda: self.store.send_many(messages, key=lambda message: new[message.order_id]),
            lambda book: book.rows.extend(Row(uid, "proof.bill", key=key, due=self.now) for uid, key in new.items()),
            fuse,
        )

    @precondition(lambda self: any(row.dedup for row in self.book.rows))
    @rule(data=st.data(), differs=st.booleans(), by_id=st.booleans())
    def send_again(self, data: Any, differs: bool, by_id: bool) -> None:
        row = data.draw(st.sampled_from([row for row in self.book.rows if row.dedup]))
        message = Placed(order_id=row.uid, quantity=row.quantity + differs)
        id = next(id for id, uid in self.uids.items() if uid == row.uid)
        options = {"envelope": Envelope(message, id=id)} if by_id else {"dedup": row.dedup}
        if differs:
            with pytest.raises(ConflictError):
                self.store.send(message, **options)
        else:
            assert id == self.store.send(message, **options)

    @rule(uid=st.just("rolled back"))
    def roll_back(self, uid: str) -> None:
        with pytest.raises(KeyError), self.store.transaction() as transaction:
            transaction.send(Placed(order_id=uid))
            transaction.execute("INSERT INTO effect VALUES (:uid)", {"uid": uid})
            raise KeyError

    # Working by hand

    @rule(target=claims, limit=st.sampled_from([1, 2, 5]), lease=st.sampled_from([LEASE, 5.0]), fuse=fuses)
    def claim(self, limit: int, lease: float, fuse: Any) -> Any:
        token, messages = self.take(limit, lease, fuse)
        return (token, messages) if messages else multiple()

    def take(self, limit: int, lease: float, fuse: Any) -> tuple[str, list[Stored]]:
        done = self.same(
            lambda: self.store.claim(limit, lease),
            lambda book: book.claim(self.now, limit, int(lease * 1000), f"claim {self.count}"),
            fuse,
        )
        if done is None:
            return "", []
        claim, wanted = done
        assert wanted == [self.uids[message.id] for message in claim.messages]
        for row in self.book.rows:
            if row.uid in wanted:
                row.lease = claim.token
        return claim.token, [*claim.messages]

    @rule(
        claim=claims,
        states=endings,
        parks=st.booleans(),
        ends=st.sampled_from(["sends", "writes", "rolls back"]),
        fuse=fuses,
    )
    def settle(self, claim: tuple[str, list[Stored]], states: list[Any], parks: bool, ends: str, fuse: Any) -> None:
        """Stale claims and fresh ones, alone or with a row of the application."""
        token, messages = claim
        uids = {self.uids[message.id]: message for message in messages}
        fates = {uid: self.fates(message, states) for uid, message in uids.items()}
        news = {uid: self.fresh() for uid in uids}
        settlements = [
            Settlement(message.seq, outcomes(fates[uid]), [sending(Bill(order_id=news[uid]), message)], parks=parks)
            for uid, message in uids.items()
        ]

        def change(book: Book) -> list[str]:
            if ends == "rolls back":
                return [uid for uid in uids if not book.held(uid, token)]
            lost = [uid for uid in uids if not book.settle(self.now, token, uid, fates[uid], parks=parks)]
            kept = [uid for uid in uids if uid not in lost]
            book.rows += [Row(news[uid], "proof.bill", cause=uid, due=self.now) for uid in kept]
            book.effects += [f"{token} {uid}" for uid in kept if ends == "writes"]
            return lost

        if uids:
            done = self.same(lambda: self.end(token, settlements, uids, ends), change, fuse)
            if done is not None:
                assert {uids[uid].seq for uid in done[1]} == done[0]

    def end(self, token: str, settlements: list[Settlement], uids: dict[str, Stored], ends: str) -> set[int]:
        if ends == "sends":
            lost: set[int] = self.store.settle(token, settlements)
            return lost
        with suppress(KeyError), self.store.transaction() as transaction:
            for uid, message in uids.items():
                if self.store.owns(token, message.seq, transaction):
                    transaction.execute("INSERT INTO effect VALUES (:uid)", {"uid": f"{token} {uid}"})
            lost = self.store.settle(token, settlements, transaction=transaction)
            if ends == "rolls back":
                raise KeyError
        return lost

    def fates(self, message: Stored, states: list[Any]) -> dict[str, Fate]:
        """Say what becomes of those handlers that were not done before."""
        left = [handler for handler in HANDLERS[message.type] if handler not in message.outcomes]
        return {
            handler: (state, message.attempt, self.now + wait if state == "retry" else None)
            for handler, state, wait in zip(left, states, (2 * WAIT, WAIT), strict=False)
        }

    @rule(states=endings, parks=st.booleans(), fuse=fuses)
    def handle(self, states: list[Any], parks: bool, fuse: Any) -> None:
        """Claim one and settle it, as is done most of the time."""
        self.settle(self.take(1, LEASE, None), states, parks, "writes", fuse)

    @rule(claim=claims, fuse=fuses)
    def release(self, claim: tuple[str, list[Stored]], fuse: Any) -> None:
        token, messages = claim
        given_back = messages[len(messages) // 2 :]
        self.same(
            lambda: self.store.release(token, [message.seq for message in given_back]),
            lambda book: book.release(self.now, token, [self.uids[message.id] for message in given_back]),
            fuse,
        )

    @rule(claim=claims, lease=st.sampled_from([LEASE, 2 * LEASE]), fuse=fuses)
    def extend(self, claim: tuple[str, list[Stored]], lease: float, fuse: Any) -> None:
        token, _ = claim
        self.same(
            lambda: self.store.extend([token], lease),
            lambda book: book.extend(self.now, token, int(lease * 1000)) if token else None,
            fuse,
        )

    # Deciding

    @precondition(lambda self: self.book.letters)
    @rule(data=st.data(), verb=st.sampled_from(["retry", "drop"]), fuse=fuses)
    def decide(self, data: Any, verb: str, fuse: Any) -> None:
        letter = data.draw(st.sampled_from(self.store.dead()))
        place = self.uids[letter.message_id], letter.handler
        assert self.book.letters[place] == letter.attempts
        done = self.same(
            lambda: getattr(self.store, verb)(letter.id),
            lambda book: getattr(book, verb)(self.now, *place),
            fuse,
        )
        assert done is None or done[0] is True

    @precondition(lambda self: self.book.rows)
    @rule(data=st.data(), verb=st.sampled_from(["cancel", "move"]), fuse=fuses)
    def change_plans(self, data: Any, verb: str, fuse: Any) -> None:
        uid = data.draw(st.sampled_from([row.uid for row in self.book.rows]))
        id = next(id for id, known in self.uids.items() if known == uid)
        ways: dict[str, tuple[Callable[[], Any], Callable[[Book], Any]]] = {
            "cancel": (lambda: self.store.cancel(id), lambda book: book.cancel(uid)),
            "move": (lambda: self.store.move(id, delay=3), lambda book: book.move(uid, self.now + 3_000)),
        }
        done = self.same(*ways[verb], fuse)
        assert done is None or done[0] == done[1]

    @rule(older_than=st.sampled_from([0, 10]), fuse=fuses)
    def prune(self, older_than: int, fuse: Any) -> None:
        done = self.same(
            lambda: self.store.prune(older_than), lambda book: book.prune(self.now - older_than * 1000), fuse
        )
        assert done is None or done[0] == done[1]

    # A worker, time, and ends of processes

    @rule(fuse=st.none() | st.tuples(st.integers(1, 60), st.booleans()))
    def work(self, fuse: Any) -> None:
        retry = Wait(attempts=ATTEMPTS)
        quiet = {"log_level": "disabled", "error_log_level": "disabled"}
        worker = Worker(self.store, self.registry, batch=1, lease=LEASE, retry=retry, **quiet)
        self.same(lambda: worker.run(until_idle=True), lambda book: book.work(self.now, int(LEASE * 1000)), fuse)

    @rule(seconds=st.sampled_from([1.0, 5.0, LEASE - 0.001, LEASE, LEASE + 0.001]))
    def let_time_pass(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @precondition(lambda self: self.can_die)
    @rule(fuse=fuses)
    def restart(self, fuse: Any) -> None:
        self.come_back([self.book], fuse)

    @precondition(lambda self: self.can_die)
    @rule()
    def meet_a_newer_version(self) -> None:
        """What a newer one has upgraded is refused, and left as it is."""
        for step in (1, -1):
            if step == -1:
                with pytest.raises(StoreFileError):
                    self.open(Fuse())
            with self.store.transaction() as transaction:
                transaction.execute(f"UPDATE mb_meta SET version = version + {step}")

    @precondition(lambda self: self.can_die)
    @rule(fuse=fuses)
    def meet_an_older_version(self, fuse: Any) -> None:
        """It is brought up to date with all that is in it, though whoever tries first may die of it."""
        make_older(self.store, is_sqlite=isinstance(self.store, SqliteStore))
        self.come_back([self.book], fuse)


class Wait(Retry):
    def wait(self, attempt: int) -> float:
        return WAIT / 1000


def outcomes(fates: dict[str, Fate]) -> list[Outcome]:
    return [
        Outcome(
            handler, state, attempts, 0.0, None if due is None else due / 1000, None if state == "done" else FAILURE
        )
        for handler, (state, attempts, due) in fates.items()
    ]


# Where the stores are


class InMemory(Machine):
    can_die = False

    def open(self, fuse: Fuse) -> Any:
        return MemoryStore(clock=self.clock)


def sqlite_machine(folder: Path) -> type[Machine]:
    numbers = itertools.count(1)

    class InFile(Machine):
        def __init__(self) -> None:
            super().__init__()
            self.path = folder / f"{next(numbers)}.db"

        def open(self, fuse: Fuse) -> Any:
            return MortalFile(str(self.path), self.clock, fuse)

        def teardown(self) -> None:
            super().teardown()
            for path in folder.glob(f"{self.path.name}*"):
                path.unlink()

    return InFile


def postgres_machine(url: str, server: servers.PostgreSQL) -> type[Machine]:
    class OnServer(Machine):
        def open(self, fuse: Fuse) -> Any:
            if self.store is not None and (session := self.store.fuse.session) is not None:
                # Until it has noticed, what the dead one has locked is passed over.
                while server.execute(f"SELECT 1 FROM pg_stat_activity WHERE pid = {session}"):
                    continue
            return MortalServer(url.partition("://")[2], self.clock, fuse)

    return OnServer


def try_out(machine: type[Machine], examples: int, *, is_random: bool) -> str:
    chosen = settings(
        max_examples=examples,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        derandomize=not is_random,
        suppress_health_check=[*HealthCheck],
    )
    run_state_machine_as_test(machine, settings=chosen)
    return f"{machine.__name__}: {examples:,} sequences of up to {STEPS} verbs"
