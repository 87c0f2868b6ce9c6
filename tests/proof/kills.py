"""Producers and workers that are killed: what they say before they die, and what must be true of it all the same.

They are killed (SIGKILL), told to end (SIGTERM), or made to stand still for up to two leases (SIGSTOP, SIGCONT), each
by its pid and at a random moment. A run is a process of its own: ``python -m tests.proof.kills URL FOLDER KILLS PACE
SEED`` prints its story as JSON. It forks its producers and workers, so that a life costs milliseconds.
"""

import asyncio
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from messagebus import Registry, current_envelope, wire_name
from messagebus.delivery import Settlement, Store, Stored, Worker, current_transaction, open_store
from messagebus.testing.laws import outcome, sending
from messagebus.testing.shop import OrderPlaced, PlaceOrder, order_ids, orders
from tests.proof import places

SHORT, LONG = 60, 3_000
COUNTS = "kills"

BATCH = 10
LEASE = 1.0
WORKERS = 3
PACE = 35
"""So many messages are accepted for each kill at least, so that a long run is of more than 100,000."""
TABLES = ["CREATE TABLE effect (uid VARCHAR(100))", "CREATE TABLE outbox_row (uid VARCHAR(100))"]


class Ledger:
    """What processes say, in the order in which they said it; nothing that was said is lost with its speaker."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.life = "killer"
        """Who speaks: not a pid, which others have had before."""

    def say(self, *words: object) -> None:
        """Append a line in one write, which the system keeps whole."""
        line = " ".join(map(str, (*words, self.life, f"{time.monotonic():.3f}")))
        os.write(self.descriptor, f"{line}\n".encode())


# Those who are killed


def produce(store: Store, ledger: Ledger) -> None:
    """Send for ever, in each of the ways there are. T: tries to send it; A: it was accepted."""
    for number in count():
        way = ["one", "many", "row", "tasks"][number % 4]
        key = None if way == "tasks" else f"{ledger.life}/{number % 3}"
        uids = [f"{ledger.life}:{number:05}{letter}" for letter in ("abc" if way in {"many", "tasks"} else "a")]
        for uid in uids:
            ledger.say("T", uid, way, key)
        if way == "one":
            store.send(*orders(*uids), key=key)
        elif way == "many":
            store.send_many(orders(*uids), key=key)
        elif way == "row":
            with store.transaction() as transaction:
                transaction.execute("INSERT INTO outbox_row (uid) VALUES (:uid)", {"uid": uids[0]})
                transaction.send(*orders(*uids), key=key)
        else:
            asyncio.run(send_side_by_side(store, orders(*uids)))
        for uid in uids:
            ledger.say("A", uid, way, key)


async def send_side_by_side(store: Store, messages: Iterable[PlaceOrder]) -> None:
    await asyncio.gather(*(store.asend(message) for message in messages))


def work(store: Store, ledger: Ledger, *, until_idle: bool = False) -> None:
    """Handle with a worker. S: a handler starts; D: it has done all it can."""
    registry = Registry()

    def handle(message: PlaceOrder | OrderPlaced) -> OrderPlaced | None:
        what = (message.order_id, wire_name(type(message)), current_envelope().id)
        ledger.say("S", *what)
        if has_effect(message.order_id):
            row = {"uid": effect_of(*what[:2])}
            current_transaction().execute("INSERT INTO effect (uid) VALUES (:uid)", row)
        ledger.say("D", *what)
        return OrderPlaced(order_id=message.order_id) if isinstance(message, PlaceOrder) else None

    registry.register(PlaceOrder, handle)
    registry.register(OrderPlaced, handle)
    quiet = {"log_level": "disabled", "error_log_level": "disabled"}  # That a lease is lost is no error here.
    worker = Worker(store, registry, batch=BATCH, lease=LEASE, **quiet)
    worker.run(until_idle=until_idle)
    while until_idle and not is_idle(store):
        store.wait(0.05)  # For the leases of those who were killed.
        worker.run(until_idle=True)


def is_idle(store: Store) -> bool:
    stats = store.stats()
    return not stats.due + stats.delayed + stats.in_flight


def work_by_hand(store: Store, ledger: Ledger) -> None:
    """Handle by nothing but the port. L: was told that the lease is lost."""
    while True:
        claim = store.claim(BATCH, LEASE)
        if not claim.messages:
            store.wait(0.05)
        settlements = []
        for message in claim.messages:
            (uid,) = order_ids([message])
            what = (uid, message.type, message.id)
            ledger.say("S", *what)
            settlement = settle(message, uid)
            if has_effect(uid):
                lost = write_effect(store, claim.token, settlement, uid, message.type)
            else:
                settlements.append(settlement)
                lost = set()
            ledger.say("L" if lost else "D", *what)
        for seq in store.settle(claim.token, settlements) if settlements else ():
            (message,) = [one for one in claim.messages if one.seq == seq]
            ledger.say("L", *order_ids([message]), message.type, message.id)


def settle(message: Stored, uid: str) -> Settlement:
    """A command leads to one event, and an event to nothing."""
    sends = [sending(OrderPlaced(order_id=uid), message)] if message.type == "shop.place_order" else []
    return Settlement(message.seq, [outcome()], sends)


def has_effect(uid: str) -> bool:
    """Half of the messages write a row together with their acknowledgement."""
    return int(uid.partition(":")[2][:5]) % 8 < 4


def effect_of(uid: str, type: str) -> str:
    """Return the row that handling a message writes."""
    return f"{uid} {type}"


def write_effect(store: Store, token: str, settlement: Settlement, uid: str, type: str) -> set[int]:
    """Write a row, if the message is still ours, and settle in the same transaction."""
    with store.transaction() as transaction:
        if not store.owns(token, settlement.seq, transaction):
            return {settlement.seq}
        row = {"uid": effect_of(uid, type)}
        transaction.execute("INSERT INTO effect (uid) VALUES (:uid)", row)
        return store.settle(token, [settlement], transaction=transaction)


# Who kills


@dataclass
class Life:
    """One process: its name, what it does, and what was done to it."""

    name: str
    role: Callable[[Store, Ledger], None]
    ends: set[int] = field(default_factory=lambda: {0})
    """With which codes it may end."""
    wakes_at: float | None = None
    """It stands still until then."""


class Killer:
    """Starts them, kills them, and lets the survivors finish."""

    def __init__(self, url: str, folder: Path, seed: int) -> None:
        self.url, self.folder, self.random = url, folder, random.Random(seed)
        self.ledger = Ledger(folder / "ledger")
        self.seen = self.counted = 0
        self.lives: dict[int, Life] = {}
        self.failed: list[str] = []
        self.names = count()
        self.done: Counter[str] = Counter()
        self.settings: dict[str, Any] = {}

    def start(self, role: Callable[[Store, Ledger], None]) -> int:
        """Fork a process that opens the store and plays its role."""
        life = Life(str(next(self.names)), role)
        pid = os.fork()
        if pid:
            self.lives[pid] = life
            return pid
        code = 1
        try:
            errors = os.open(self.folder / "errors", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(errors, 2)
            self.ledger.life = life.name
            store = open_store(self.url, **self.settings)
            role(store, self.ledger)
            store.close()
            code = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)

    def join(self, pid: int, *, waits: bool = True) -> bool:
        """Wait for the end of a process: killed, told to end, or its work done."""
        found, status = os.waitpid(pid, 0 if waits else os.WNOHANG)
        if not found:
            return False
        life, code = self.lives.pop(pid), os.waitstatus_to_exitcode(status)
        if code not in life.ends:
            self.failed.append(f"{life.role.__name__} {life.name} ended with {code}")
        return True

    def run(self, kills: int, pace: int) -> None:
        """Kill so often, wherever they are in their work, then let two workers finish it.

        Before each kill as many messages as ``pace`` have to be accepted.
        """
        self.join(self.start(create_tables))
        active = [self.start(role) for role in [produce, produce, work, work, work_by_hand]]
        while self.done["kills"] < kills:
            time.sleep(self.random.random() * 0.06)
            self.tend(active)
            if self.accepted < self.done["kills"] * pace:
                continue
            victim = self.random.choice(active)
            (how,) = self.random.choices([self.kill, self.end, self.halt], [30, 4, 1])
            how(victim)
            if how != self.halt:
                active.remove(victim)
                active.append(self.start(self.lives[victim].role))
        for pid in active:
            self.kill(pid)
        self.tend([], waits=True)
        for pid in [self.start(finish) for _ in range(2)]:
            self.join(pid)

    @property
    def accepted(self) -> int:
        """How many messages are in the store for sure, by what was added to the ledger since this was last asked."""
        with (self.folder / "ledger").open("rb") as ledger:
            ledger.seek(self.seen)
            said = ledger.read()
        self.seen += len(said)
        self.counted += said.count(b"\nA ")
        return self.counted

    def tend(self, active: list[int], *, waits: bool = False) -> None:
        """Wake those that have stood still for long enough, and bury those that have ended."""
        for pid, life in [*self.lives.items()]:
            if life.wakes_at is not None and (waits or time.monotonic() >= life.wakes_at):
                self.wake(pid)
        for pid in {*self.lives} - {*active}:
            self.join(pid, waits=waits)

    # What is done to them. X: killed, or ended by a signal; P: stands still, for so long; C: goes on.

    def kill(self, pid: int) -> None:
        self.done["kills"] += 1
        self.lives[pid].ends = {-signal.SIGKILL}
        self.fell(pid, signal.SIGKILL)

    def end(self, pid: int) -> None:
        """A worker ends in good order, unless it has not even begun; others end as any program does."""
        life = self.lives[pid]
        self.done["ends"] += 1
        life.ends = {0, -signal.SIGTERM}
        if life.role is work:
            os.kill(pid, signal.SIGTERM)
        else:
            self.fell(pid, signal.SIGTERM)
        if life.wakes_at is not None:
            self.wake(pid)

    def fell(self, pid: int, how: signal.Signals) -> None:
        self.ledger.say("X", self.lives[pid].name)
        os.kill(pid, how)

    def halt(self, pid: int) -> None:
        life, seconds = self.lives[pid], self.random.random() * 2 * LEASE
        if life.wakes_at is None:
            self.done["halts"] += 1
            self.ledger.say("P", life.name, f"{seconds:.3f}")
            life.wakes_at = time.monotonic() + seconds
            os.kill(pid, signal.SIGSTOP)

    def wake(self, pid: int) -> None:
        life = self.lives[pid]
        life.wakes_at = None
        os.kill(pid, signal.SIGCONT)
        self.ledger.say("C", life.name)

    def story(self) -> dict[str, object]:
        """Return what happened, and what is wrong with it."""
        store = open_store(self.url)
        with store.transaction() as transaction:
            effects = [row[0] for row in transaction.execute("SELECT uid FROM effect")]
            rows = [row[0] for row in transaction.execute("SELECT uid FROM outbox_row")]
        stats = store.stats()
        store.close()
        lines = [line.split() for line in (self.folder / "ledger").read_text().splitlines()]
        problems = [*self.failed, *judge(lines, effects, rows), *damage(self.url)]
        errors = (self.folder / "errors").read_text()[-2000:]
        left = stats.due + stats.delayed + stats.in_flight + stats.dead
        return {
            "problems": problems + [errors] * bool(errors) + [f"{left} messages are left"] * bool(left),
            **self.done,
            "accepted": sum(line[0] == "A" for line in lines),
            "duplicates": sum(times - 1 for times in deliveries(lines).values()),
        }


def finish(store: Store, ledger: Ledger) -> None:
    work(store, ledger, until_idle=True)


def damage(url: str) -> Iterator[str]:
    """Look an SQLite file through."""
    scheme, _, path = url.partition(":///")
    if scheme == "sqlite":
        connection = sqlite3.connect(path)
        yield from (found for (found,) in connection.execute("PRAGMA integrity_check") if found != "ok")
        connection.close()


def create_tables(store: Store, _: Ledger) -> None:
    with store.transaction() as transaction:
        for statement in TABLES:
            transaction.execute(statement)


# What must be true


def deliveries(lines: list[list[str]]) -> "Counter[tuple[str, str]]":
    """Return how often a worker started with each message: (uid, type)."""
    return Counter((line[1], line[2]) for line in lines if line[0] == "S")


def judge(lines: list[list[str]], effects: list[str], rows: list[str]) -> list[str]:
    """Return each promise that was not kept, with the messages that show it."""
    said = defaultdict(list)
    for word, *rest in lines:
        said[word].append(rest)
    tried, accepted = {rest[0] for rest in said["T"]}, {rest[0] for rest in said["A"]}
    started = {(rest[0], rest[1]) for rest in said["S"]}
    written = Counter(effects)
    done = {(rest[0], rest[1]) for rest in (*said["D"], *said["L"])}
    # Killed after the commit, a worker cannot say any more that it is done; the row says so.
    done |= {(uid, type) for uid, type in started if effect_of(uid, type) in written}
    commands = {uid for uid, type in done if type == "shop.place_order"}
    events = {uid for uid, type in done if type == "shop.order_placed"}
    ids = Counter((uid, type) for uid, type, _ in {(rest[0], rest[1], rest[2]) for rest in said["S"]})
    repeated = sum(times - 1 for times in deliveries(lines).values())
    # Who stands still may keep the lock of the file, and the leases of all the others run out.
    allowed = BATCH * (len(said["X"]) + WORKERS * len(said["P"]))
    expected = {effect_of(uid, type) for uid, type in done if has_effect(uid)}
    by_row = {rest[0] for rest in said["T"] if rest[1] == "row"}
    broken = {
        "lost": accepted - commands,
        "ghosts": (commands | events) - tried,
        "commands whose event is lost": commands - events,
        "stored twice": {uid for (uid, _), times in ids.items() if times > 1},
        "handled twice without a reason": unexplained(lines),
        "more than a batch for each kill": {str(repeated)} if repeated > allowed else set(),
        "effects lost": expected - set(written),
        "effects without a message": set(written) - expected,
        "effects written twice": {uid for uid, times in written.items() if times > 1},
        "rows without their message": set(rows) - commands,
        "messages without their row": (commands & by_row) - set(rows),
        "out of order": out_of_order(said["S"], {rest[0]: rest[2] for rest in said["T"]}),
    }
    return [f"{len(uids)} {name}: {sorted(uids)[:3]}" for name, uids in broken.items() if uids]


def unexplained(lines: list[list[str]]) -> set[str]:
    """Return what was started again though whoever had started it was not killed before, nor told that it is lost.

    That somebody stood still for so long that leases ran out is a reason too: for a while, and for everybody, since
    it may have had the lock of the file.
    """
    found, fallen = set(), set()
    holders: dict[tuple[str, str], tuple[str, float]] = {}
    lost = {(uid, type, life) for word, uid, type, *_, life, _ in filter(lambda line: line[0] == "L", lines)}
    halts = [*standstills(lines)]
    for word, uid, *rest in lines:
        if word == "X":
            fallen.add(uid)
        elif word == "S":
            type, _, life, moment = rest
            before, since = holders.get((uid, type), (life, 0.0))
            is_explained = before in fallen or (uid, type, before) in lost
            if before != life and not is_explained and not any(a < float(moment) and since < b for a, b in halts):
                found.add(uid)
            holders[uid, type] = life, float(moment)
    return found


def standstills(lines: list[list[str]]) -> Iterator[tuple[float, float]]:
    """Return from when to when leases may have been lost because somebody stood still."""
    begun: dict[str, float] = {}
    for word, life, *rest in lines:
        if word == "P" and float(rest[0]) > LEASE / 2:
            begun[life] = float(rest[-1])
        elif word == "C" and life in begun:
            yield begun.pop(life), float(rest[-1]) + LEASE
    yield from ((since, float("inf")) for since in begun.values())


def out_of_order(starts: list[list[str]], keys: dict[str, str]) -> set[str]:
    """Return commands that were first started after one that was sent later with the same key."""
    latest: dict[str, str] = {}
    found, seen = set(), set()
    for uid, type, *_ in starts:
        key = keys.get(uid, "None")
        if type != "shop.place_order" or key == "None":
            continue
        if uid not in seen and uid < latest.get(key, ""):
            found.add(uid)
        seen.add(uid)
        latest[key] = max(latest.get(key, ""), uid)
    return found


# A run


def prove(size: int, report: Callable[[str], None]) -> str:
    """Kill so often, on each store that is here."""

    def kill(url: str) -> str:
        with TemporaryDirectory() as folder:
            story = run(url, folder, size, pace=PACE if size >= LONG else 10)
        problems = story.pop("problems")
        assert [] == problems, f"{problems} {story}"
        return ", ".join(f"{number:,} {name}" for name, number in story.items())

    return (
        places.on_each(kill, report) + "; 0 lost, 0 ghosts, 0 effects twice, 0 out of order, all duplicates explained"
    )


def run(url: str, folder: str, kills: int, pace: int) -> dict[str, Any]:
    """Have everybody killed so often, in a process of its own, and return its story."""
    arguments = [url, folder, str(kills), str(pace), str(random.randrange(2**32))]
    command = [sys.executable, "-W", "error", "-m", "tests.proof.kills", *arguments]
    ended = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=Path(__file__).parents[2])
    story: dict[str, Any] = json.loads(ended.stdout)
    return story


if __name__ == "__main__":
    if sys.argv[1].startswith("postgres"):
        # Whatever takes long to import is imported once, so that a short life is long enough to do something.
        import messagebus.delivery.postgres  # noqa: F401 - for its children
    killer = Killer(sys.argv[1], Path(sys.argv[2]), seed=int(sys.argv[5]))
    killer.run(int(sys.argv[3]), pace=int(sys.argv[4]))
    print(json.dumps(killer.story()))
