"""Calls to the system that fail below SQLite: the first, the second, the third, until a whole life goes by without.

Each of them fails once, or from then on until the life is over (locks: five times in a row). After that the store is
opened again, and what it said must be true. ``python -m tests.proof.io_faults FOLDER SIZE`` is the process that is
watched; it prints what it found. Without arguments it is one whose records go where nothing can be written.
"""

import asyncio
import errno
import json
import os
import re
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Timer
from typing import Any, NamedTuple

import structlog
from structlog.testing import LogCapture

from messagebus import Message, Registry, handle_message, logs
from messagebus.delivery import Retry, Store, StoreError, StoreFileError, Worker, current_transaction, open_store
from messagebus.testing import Clock
from messagebus.testing.laws import LEASE, end, sending
from messagebus.testing.shop import CancelOrder, Confirmation, OrderPlaced, PlaceOrder, order_ids, orders
from tests.proof import shim
from tests.proof.power import MEMORY
from tests.proof.shim import LOCK, MAP, OPEN, READ, SYNC, TRUNCATE, WRITE

SHORT, LONG = 200, 100_000
COUNTS = "faults at most"


class Fault(NamedTuple):
    """What goes wrong, with which calls, and how often if it is not once."""

    name: str
    kinds: int
    error: int
    often: int = shim.FOREVER


FAULTS = [
    Fault("FULL", WRITE | TRUNCATE, errno.ENOSPC),
    Fault("IOERR", READ | WRITE | SYNC | TRUNCATE | OPEN | MAP, errno.EIO),
    Fault("BUSY", LOCK, errno.EAGAIN, often=5),  # SQLite asks again for ten seconds for what never succeeds.
    Fault("NOLOCK", LOCK, errno.ENOLCK, often=5),
    Fault("short read", READ, 0),
]


def prove(size: int, report: Callable[[str], None]) -> str:
    """Let every call fail, or so many of them, evenly spread."""
    with TemporaryDirectory(prefix="messagebus-", dir=MEMORY) as folder, shim.loaded(Path(folder)) as environment:
        command = [sys.executable, "-W", "error", "-m", "tests.proof.io_faults", folder, str(size)]
        root = Path(__file__).parents[2]
        ended = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, cwd=root)
    found: dict[str, Any] = json.loads(ended.stdout)
    assert [] == found["problems"], "\n".join(found["problems"])
    for line in found["figures"]:
        report(line)
    change_nothing(report)
    return f"{found['faults']:,} faults, {found['refused']:,} calls refused: 0 accepted messages lost, 0 damaged files"


def change_nothing(report: Callable[[str], None]) -> None:
    """Have records written where they can be, on a full disk, and into a pipe that nobody reads."""
    reader, closed = os.pipe()
    os.close(reader)
    sinks = {
        "a file": os.memfd_create("records"),
        "a full disk": os.open("/dev/full", os.O_WRONLY),
        "no reader": closed,
    }
    told = {}
    for name, sink in sinks.items():
        command = [sys.executable, "-m", "tests.proof.io_faults"]
        root = Path(__file__).parents[2]
        ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=sink, check=True, cwd=root)
        told[name] = ended.stdout
    assert os.fstat(sinks["a file"]).st_size > 1_000
    for sink in sinks.values():
        os.close(sink)
    assert len({*told.values()}) == 1, told
    report("records that cannot be written change nothing")


# A life


@dataclass
class Told:
    """What the application knows."""

    accepted: list[str] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    unclear: list[str] = field(default_factory=list)

    def hear(self, verb: Callable[[], Any], *, may_be_damaged: bool) -> Any:
        """Do something, and understand it if it is refused."""
        try:
            return verb()
        except StoreError as error:
            self.refused[str(error)] += 1
            if not str(error).startswith("Cannot ") or len(str(error)) > 400:
                self.unclear.append(repr(error))
        except StoreFileError as error:
            self.refused[str(error)] += 1
            if not may_be_damaged:
                self.unclear.append(repr(error))
        except Exception as error:
            self.unclear.append(repr(error))
        return None


def live(url: str, clock: Clock, told: Told, *, works: bool, may_be_damaged: bool) -> None:
    """Send in each way, handle by hand, and with a worker if told to, and go on whatever is refused."""

    def hear(verb: Callable[[], Any]) -> Any:
        return told.hear(verb, may_be_damaged=may_be_damaged)

    store = next(filter(None, (hear(lambda: open_store(url, clock=clock, timeout=0.02)) for _ in range(3))), None)
    if store is None:
        return
    for number in range(2):
        ways = [
            lambda: [store.send(*orders("one"))],
            lambda: store.send_many(orders("many", "y" * 6_000)),
            lambda: [send_with_row(store, number)],
            lambda: [asyncio.run(store.asend(*orders("task")))],
        ]
        for way in ways:
            told.accepted += hear(way) or []
        told.finished += hear(lambda: handle_by_hand(store)) or []
        if works:  # It would wait for the end of what does not end.
            hear(lambda: work(store))
        hear(lambda: store.prune(1_000_000))
    hear(store.close)


def send_with_row(store: Store, number: int) -> str:
    with store.transaction() as transaction:
        message = transaction.send(CancelOrder(order_id=str(number)))
        transaction.execute("INSERT INTO invoice (id) VALUES (:id)", {"id": message})
    return message


def handle_by_hand(store: Store) -> list[str]:
    claim = store.claim(1, LEASE)
    done = []
    for message in claim.messages:
        if message.type == "shop.place_order":
            follow_up = sending(OrderPlaced(order_id=order_ids([message])[0]), message)
            assert set() == end(store, claim.token, message, sends=[follow_up])
            done.append(message.id)
        else:  # Where what was sent before it was refused, it comes first.
            assert set() == end(store, claim.token, message)
    return done


def work(store: Store, **settings: Any) -> None:
    """Handle all there is; each command writes a row, and leads to an event."""
    registry = Registry()

    @registry.handles(PlaceOrder)
    def place(command: PlaceOrder) -> OrderPlaced:
        (number,) = current_transaction().execute("SELECT count(*) FROM effect")[0]
        current_transaction().execute("INSERT INTO effect (id) VALUES (:id)", {"id": str(number)})
        return OrderPlaced(order_id=command.order_id)

    @registry.handles(CancelOrder)
    @registry.handles(OrderPlaced)
    def do_nothing(message: CancelOrder | OrderPlaced) -> None: ...

    Worker(store, registry, **{"log_level": "disabled", "error_log_level": "disabled", **settings}).run(until_idle=True)


# Afterwards


def problems(url: str, clock: Clock, told: Told) -> Iterator[str]:
    """Open the store again, let a worker finish, and yield what is not as it was told."""
    yield from told.unclear
    store = open_store(url, clock=clock)
    trees = {id: store.tree(id) for id in told.accepted + told.finished}
    lost = [id for id, tree in trees.items() if not tree]
    undone = [id for id in told.finished if trees[id][0].finished_at is None or len(trees[id]) < 2]
    while (stats := store.stats()).due + stats.delayed + stats.in_flight:
        clock.advance(3_600)
        work(store)
    with store.transaction() as transaction:
        rows = transaction.execute("SELECT id FROM invoice ORDER BY id")
        sent = transaction.execute("SELECT id FROM mb_message WHERE type = 'shop.cancel_order' ORDER BY id")
        (effects,) = transaction.execute("SELECT count(*) FROM effect")[0]
        (commands,) = transaction.execute("SELECT count(*) FROM mb_message WHERE type = 'shop.place_order'")[0]
        (events,) = transaction.execute("SELECT count(*) FROM mb_message WHERE type = 'shop.order_placed'")[0]
    store.close()
    by_hand = commands - effects
    wrong = {
        f"{len(lost)} accepted messages are lost": lost,
        f"{len(undone)} finished messages are not": undone,
        f"{stats.dead} dead letters": stats.dead,
        f"rows {rows} and messages {sent}": rows != sent,
        f"{commands} commands, {events} events": commands != events,
        f"{effects} effects of {commands} commands": not len(told.finished) <= by_hand <= 2,
        f"integrity: {(found := integrity(url))}": found != "ok",
    }
    yield from (what for what, is_so in wrong.items() if is_so)


def integrity(url: str) -> str:
    connection = sqlite3.connect(url.partition(":///")[2])
    found: str = connection.execute("PRAGMA integrity_check").fetchone()[0]
    connection.close()
    return found


def speak() -> None:
    """Say what comes of messages, in process and stored, of which some fail; the records go to stderr."""
    registry, seen, clock = Registry(), [], Clock()

    @registry.handles(PlaceOrder)
    def place(command: PlaceOrder) -> Iterator[Message]:
        seen.append(command.order_id)
        yield OrderPlaced(order_id=command.order_id)
        yield Confirmation(order_id=command.order_id)

    @registry.handles(OrderPlaced)
    def fail(event: OrderPlaced) -> None:
        seen.append(f"{event.order_id} is placed")
        if event.order_id == "2":
            raise ValueError(event.order_id)

    for message in orders("1", "2"):
        try:
            say(handle_message(message, log_level="debug", error_log_level="error", registry=registry))
        except ValueError as error:
            say(repr(error), error.__notes__)
    store = open_store("memory://", clock=clock)
    ids = store.send_many(orders("1", "2"))
    Worker(store, registry, retry=Retry(attempts=2, first=0.0), log_level="debug").run(until_idle=True)
    say(store.stats(), [letter.failure for letter in store.dead()], store.result(ids[0]), seen)
    store.close()


def say(*what: object) -> None:
    """Print what is the same in every run."""
    print(re.sub(r"[0-9a-f]{32}", "an id", repr(what)))


# Every fault


def prepare(url: str) -> None:
    store = open_store(url)
    with store.transaction() as transaction:
        transaction.execute("CREATE TABLE invoice (id TEXT)")
        transaction.execute("CREATE TABLE effect (id TEXT UNIQUE)")
    store.close()


def suffer(fault: Fault, times: int, number: int, folder: Path) -> tuple[Told, list[str], int]:
    """Let this call of a life fail; return what was told, what is wrong, and how many calls there were."""
    url, clock, told = f"sqlite:///{folder}/{number}.db", Clock(), Told()
    prepare(url)
    shim.arm(fault.kinds, number, times, fault.error)
    try:
        live(url, clock, told, works=times == 1, may_be_damaged=fault.error == 0)
        total = shim.calls()
    finally:
        shim.disarm()
    found = [*problems(url, clock, told)]
    for path in folder.glob(f"{number}.db*"):
        path.unlink()
    return told, found, total


def outlast(fault: Fault, folder: Path) -> Iterator[str]:
    """Let everything fail for a while, under a worker that has just begun; yield what is wrong then."""
    url, clock, told, capture = f"sqlite:///{folder}/{fault.name}.db", Clock(), Told(), LogCapture()
    prepare(url)
    store = open_store(url, clock=clock, timeout=0.02)
    told.accepted = store.send_many(orders(*map(str, range(100))))
    logger = structlog.wrap_logger(None, [capture], structlog.make_filtering_bound_logger("error"))
    passes = Timer(0.5, shim.disarm)
    shim.arm(fault.kinds, 30, shim.FOREVER, fault.error)
    passes.start()
    told.hear(lambda: work(store, error_log_level="error", logger=logger), may_be_damaged=False)
    passes.join()
    if (left := store.stats().due) > 0:
        yield f"the worker ended and left {left} messages that were due"
    told.hear(store.close, may_be_damaged=False)
    records = [record["event"] for record in capture.entries]
    if records.count(logs.STORE_FAILED) > 20:
        yield f"{records.count(logs.STORE_FAILED)} records of half a second of trouble"
    yield from problems(url, clock, told)


def main(folder: Path, size: int) -> dict[str, Any]:
    result: dict[str, Any] = {"problems": [], "figures": [], "faults": 0, "refused": 0}
    for fault in FAULTS:
        for times in (1, fault.often):
            *_, total = suffer(fault, 1, shim.FOREVER, folder)
            step = max(1, total * len(FAULTS) * 2 // size)
            said: Counter[str] = Counter()
            for number in count(1, step):
                told, found, total = suffer(fault, times, number, folder)
                if total < number:
                    assert not told.refused
                    break
                said += told.refused
                result["faults"] += 1
                result["problems"] += [f"{fault.name}, call {number} and {times - 1} more: {one}" for one in found]
            result["refused"] += said.total()
            result["figures"].append(
                f"{fault.name}: {len(range(1, number, step))} of {number - 1} calls, {times} times"
            )
        if fault.error:  # What is not read in the end is no trouble of the disk.
            result["problems"] += [f"{fault.name}, for a while: {one}" for one in outlast(fault, folder)]
    return result


if __name__ == "__main__":
    if len(sys.argv) == 1:
        speak()
        sys.exit()
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]))))
