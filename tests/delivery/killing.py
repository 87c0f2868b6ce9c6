"""Producers and workers that are killed: what they say before they die, and what must be true of it all the same.

A run is a process of its own: ``python killing.py URL FOLDER KILLS SEED`` prints its story as JSON. It forks its
producers and workers, so that a life costs milliseconds, and kills them by their pids at random moments.
"""

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from itertools import count
from pathlib import Path

from messagebus import Registry, current_envelope, wire_name
from messagebus.delivery import Settlement, Store, Stored, Worker, current_transaction, open_store
from messagebus.testing.laws import outcome, sending
from messagebus.testing.shop import OrderPlaced, PlaceOrder, order_ids, orders

BATCH = 10
LEASE = 1.0
TABLES = ["CREATE TABLE effect (uid VARCHAR(100))", "CREATE TABLE outbox_row (uid VARCHAR(100))"]


class Ledger:
    """What processes say, in the order in which they said it; nothing that was said is lost with its speaker."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def say(self, *words: object) -> None:
        """Append a line in one write, which the system keeps whole."""
        os.write(self.descriptor, (" ".join(map(str, (*words, os.getpid()))) + "\n").encode())


# Those who are killed


def produce(store: Store, ledger: Ledger, life: str) -> None:
    """Send for ever, in each of the ways there are. T: tries to send it; A: it was accepted."""
    for number in count():
        way = ["one", "many", "row", "tasks"][number % 4]
        key = None if way == "tasks" else f"{life}/{number % 3}"
        uids = [f"{life}:{number:05}{letter}" for letter in ("abc" if way in {"many", "tasks"} else "a")]
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
    worker = Worker(store, registry, batch=BATCH, lease=LEASE, log_level="disabled")
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


class Killer:
    """Starts them, kills them, and lets the survivors finish."""

    def __init__(self, url: str, folder: Path, seed: int) -> None:
        self.url, self.folder, self.random = url, folder, random.Random(seed)
        self.ledger = Ledger(folder / "ledger")
        self.killed: set[int] = set()
        self.failed: list[str] = []
        self.lives = count()

    def start(self, role: Callable[[Store, Ledger], None]) -> int:
        """Fork a process that opens the store and plays its role."""
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            errors = os.open(self.folder / "errors", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(errors, 2)
            store = open_store(self.url)
            role(store, self.ledger)
            store.close()
            code = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)

    def join(self, pid: int) -> None:
        """Wait for the end of a process: killed, or its work done."""
        _, status = os.waitpid(pid, 0)
        if os.waitstatus_to_exitcode(status) != (-signal.SIGKILL if pid in self.killed else 0):
            self.failed.append(f"process {pid} ended with {os.waitstatus_to_exitcode(status)}")

    def run(self, kills: int) -> None:
        """Kill so often, wherever they are in their work, then let two workers finish it."""
        self.join(self.start(lambda store, _: create_tables(store)))
        roles = {self.start(role): role for role in [self.producer, self.producer, work, work, work_by_hand]}
        while len(self.killed) < kills:
            time.sleep(self.random.random() * 0.06)
            victim = self.random.choice([*roles])
            os.kill(victim, signal.SIGKILL)
            self.killed.add(victim)
            self.join(victim)
            role = roles.pop(victim)
            roles[self.start(role)] = role
        for pid in roles:
            os.kill(pid, signal.SIGKILL)
            self.killed.add(pid)
            self.join(pid)
        for pid in [self.start(lambda store, ledger: work(store, ledger, until_idle=True)) for _ in range(2)]:
            self.join(pid)

    def producer(self, store: Store, ledger: Ledger) -> None:
        """Produce under a name that no other life has."""
        produce(store, ledger, str(os.getpid()))

    def story(self) -> dict[str, object]:
        """Return what happened, and what is wrong with it."""
        store = open_store(self.url)
        with store.transaction() as transaction:
            effects = [row[0] for row in transaction.execute("SELECT uid FROM effect")]
            rows = [row[0] for row in transaction.execute("SELECT uid FROM outbox_row")]
        stats = store.stats()
        store.close()
        lines = [line.split() for line in (self.folder / "ledger").read_text().splitlines()]
        problems = [*self.failed, *judge(lines, effects, rows, {str(pid) for pid in self.killed})]
        errors = (self.folder / "errors").read_text()[-2000:]
        left = stats.due + stats.delayed + stats.in_flight + stats.dead
        return {
            "problems": problems + [errors] * bool(errors) + [f"{left} messages are left"] * bool(left),
            "kills": len(self.killed),
            "accepted": sum(line[0] == "A" for line in lines),
            "duplicates": sum(times - 1 for times in deliveries(lines).values()),
        }


def create_tables(store: Store) -> None:
    with store.transaction() as transaction:
        for statement in TABLES:
            transaction.execute(statement)


# What must be true


def deliveries(lines: list[list[str]]) -> "Counter[tuple[str, str]]":
    """Return how often a worker started with each message: (uid, type)."""
    return Counter((line[1], line[2]) for line in lines if line[0] == "S")


def judge(lines: list[list[str]], effects: list[str], rows: list[str], killed: set[str]) -> list[str]:
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
    expected = {effect_of(uid, type) for uid, type in done if has_effect(uid)}
    by_row = {rest[0] for rest in said["T"] if rest[1] == "row"}
    broken = {
        "lost": accepted - commands,
        "ghosts": (commands | events) - tried,
        "commands whose event is lost": commands - events,
        "stored twice": {uid for (uid, _), times in ids.items() if times > 1},
        "handled twice without a reason": unexplained(lines, killed),
        "more than a batch for each kill": {str(repeated)} if repeated > len(killed) * BATCH else set(),
        "effects lost": expected - set(written),
        "effects without a message": set(written) - expected,
        "effects written twice": {uid for uid, times in written.items() if times > 1},
        "rows without their message": set(rows) - commands,
        "messages without their row": (commands & by_row) - set(rows),
        "out of order": out_of_order(said["S"], {rest[0]: rest[2] for rest in said["T"]}),
    }
    return [f"{len(uids)} {name}: {sorted(uids)[:3]}" for name, uids in broken.items() if uids]


def unexplained(lines: list[list[str]], killed: set[str]) -> set[str]:
    """Return what was started again though whoever had started it was neither killed nor told that it is lost."""
    found, holder, lost = set(), {}, set()
    for word, uid, *rest in lines:
        what, pid = (uid, rest[0]), rest[-1]
        if word == "L":
            lost.add((what, pid))
        elif word == "S":
            holder.setdefault(what, []).append(pid)
    for what, pids in holder.items():
        if any(pid not in killed and (what, pid) not in lost for pid in pids[:-1]):
            found.add(what[0])
    return found


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


if __name__ == "__main__":
    if sys.argv[1].startswith("postgres"):
        # Whatever takes long to import is imported once, so that a short life is long enough to do something.
        import messagebus.delivery.postgres  # noqa: F401 - for its children
    killer = Killer(sys.argv[1], Path(sys.argv[2]), int(sys.argv[4]))
    killer.run(int(sys.argv[3]))
    print(json.dumps(killer.story()))
