"""Durable load for a long time, with faults: nothing is lost, memory stays flat, the file is as small as its content.

Two producers and three workers share a file. Of the messages some fail at first and some take long; every few seconds
a producer or a worker is killed, but for one of each, which live through it all and are measured. What is handled is
told by one row for each life of a producer, written in the transaction of its message: how many, and their sum.

A run is a process of its own: ``python -m tests.proof.durable_soak URL FOLDER SECONDS`` prints its story as JSON.
"""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from messagebus import Registry, current_envelope
from messagebus.delivery import Retry, Store, Worker, current_transaction, open_store
from messagebus.testing.shop import OrderPlaced, PlaceOrder
from tests.proof.kills import Killer, Ledger, damage, is_idle

SHORT, LONG = 12, 1_800
COUNTS = "seconds"

AT_ONCE = 20
BACKLOG = 1_000
LEASE = 5.0
MEGABYTE = 2**20
FLAT = 8 * MEGABYTE
LONGEST_LOG = 8 * MEGABYTE
ROOM = MEGABYTE
"""A file that is no larger is not made smaller."""


def prove(size: int, report: Callable[[str], None]) -> str:
    """Work for so many seconds."""
    with TemporaryDirectory(prefix="messagebus-") as folder:
        command = [sys.executable, "-W", "error", "-m", "tests.proof.durable_soak", folder, str(size)]
        root = Path(__file__).parents[2]
        with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8", cwd=root) as process:
            assert process.stdout is not None
            *_, last = (report_all(line, report) for line in process.stdout)
        assert process.returncode == 0, last
    story = json.loads(last)
    problems = story.pop("problems")
    assert [] == problems, f"{problems} {story}"
    return ", ".join(f"{value:,} {name}" for name, value in story.items()) + "; 0 lost, 0 twice"


def report_all(line: str, report: Callable[[str], None]) -> str:
    if not line.startswith("{"):
        report(line.rstrip())
    return line


# Those who work


def produce(store: Store, ledger: Ledger) -> None:
    """Send for ever, as fast as it is handled. T: tries to send all up to this number; A: they were accepted."""
    with store.transaction() as transaction:
        transaction.execute("INSERT INTO tally (life, messages, total) VALUES (:life, 0, 0)", {"life": ledger.life})
    for first in count(1, AT_ONCE):
        while (stats := store.stats()).due > BACKLOG or stats.delayed > BACKLOG:
            time.sleep(0.02)
        last = first + AT_ONCE - 1
        ledger.say("T", ledger.life, last)
        messages = [PlaceOrder(order_id=ledger.life, quantity=number) for number in range(first, last + 1)]
        store.send_many(messages, key=lambda message: f"{ledger.life}/{message.quantity % 50}")
        ledger.say("A", ledger.life, last)


def work(store: Store, _: Ledger, *, until_idle: bool = False) -> None:
    """Handle: one in twenty fails at first, one in five hundred takes long."""
    registry = Registry()

    @registry.handles(PlaceOrder)
    def place(command: PlaceOrder) -> OrderPlaced:
        if command.quantity % 500 == 7:
            time.sleep(0.2)
        if command.quantity % 20 == 3 and current_envelope().attempt == 1:
            raise TimeoutError
        tally = "UPDATE tally SET messages = messages + 1, total = total + :number WHERE life = :life"
        current_transaction().execute(tally, {"number": command.quantity, "life": command.order_id})
        return OrderPlaced(order_id=command.order_id)

    @registry.handles(OrderPlaced)
    def do_nothing(event: OrderPlaced) -> None: ...

    quiet = {"log_level": "disabled", "error_log_level": "disabled"}
    worker = Worker(store, registry, batch=50, lease=LEASE, retry=Retry(attempts=20, first=0.2, longest=2.0), **quiet)
    worker.run(until_idle=until_idle)
    while until_idle and not is_idle(store):
        store.wait(0.05)  # For the leases of those who were killed.
        worker.run(until_idle=True)


def finish(store: Store, ledger: Ledger) -> None:
    work(store, ledger, until_idle=True)


def create_table(store: Store, _: Ledger) -> None:
    with store.transaction() as transaction:
        transaction.execute("CREATE TABLE tally (life TEXT PRIMARY KEY, messages INTEGER, total INTEGER)")


# Who watches


class Soak(Killer):
    """Starts them, kills some of them now and then, and measures what must not grow."""

    def __init__(self, folder: Path, seconds: float) -> None:
        super().__init__(f"sqlite:///{folder}/bus.db", folder, seed=int(seconds))
        self.path = folder / "bus.db"
        self.seconds = seconds
        self.settings = {"retention": seconds / 10}
        self.samples: list[dict[str, float]] = []

    def run(self, *_: int) -> None:
        self.join(self.start(create_table))
        steady = [self.start(produce), self.start(work)]
        others = [self.start(role) for role in (produce, work, work)]
        begun = sampled = killed = time.monotonic()
        while (now := time.monotonic()) < begun + self.seconds:
            time.sleep(0.1)
            if now > killed + 2 + self.seconds / 400:
                killed = now
                victim = others.pop(self.random.randrange(len(others)))
                role = self.lives[victim].role
                self.kill(victim)
                self.join(victim)
                others.append(self.start(role))
            if now > sampled + self.seconds / 30:
                sampled = now
                self.sample(now - begun, steady)
        for pid in (*steady, *others):
            self.end(pid)
        self.tend([], waits=True)
        self.join(self.start(finish))

    def end(self, pid: int) -> None:
        self.lives[pid].ends = {0, -signal.SIGTERM}
        os.kill(pid, signal.SIGTERM)

    def sample(self, at: float, pids: list[int]) -> None:
        producer, worker = pids
        sizes = {name: size_of(self.path.with_name(f"bus.db{name}")) for name in ("", "-wal")}
        live = live_size(self.path)
        self.samples.append(
            {
                "at": at,
                "producer": resident(producer),
                "worker": resident(worker),
                "descriptors": len(os.listdir(f"/proc/{worker}/fd")),
                "threads": len(os.listdir(f"/proc/{worker}/task")),
                "file": sizes[""],
                "log": sizes["-wal"],
                "live": live,
            }
        )
        shown = ", ".join(f"{name} {value / MEGABYTE:.1f} MB" for name, value in [*self.samples[-1].items()][1:3])
        print(f"{at:,.0f} s: {shown}, file {sizes[''] / live:.2f} x live ({live / MEGABYTE:.1f} MB)", flush=True)

    def story(self) -> dict[str, Any]:
        store = open_store(self.url)
        with store.transaction() as transaction:
            tallies = {life: (n, total) for life, n, total in transaction.execute("SELECT * FROM tally")}
        stats = store.stats()
        store.close()
        late = self.samples[len(self.samples) // 3 :]  # What comes first is filling up.
        drift = {name: max(one[name] for one in late[1:]) - late[0][name] for name in ("producer", "worker")}
        ratio = max(one["file"] / one["live"] for one in late)
        is_bloated = any(one["file"] > 2 * one["live"] + ROOM for one in late)
        said = [line.split() for line in (self.folder / "ledger").read_text().splitlines()]
        errors = (self.folder / "errors").read_text()[-2_000:]
        wrong = {
            **{f"the {name} grew by {by / MEGABYTE:.1f} MB": by > FLAT for name, by in drift.items()},
            "descriptors or threads pile up": any(
                late[-1][name] > late[0][name] + 3 for name in ("descriptors", "threads")
            ),
            f"the file is {ratio:.2f} times as large as what it holds": is_bloated,
            "the write-ahead log has grown": max(one["log"] for one in late) > LONGEST_LOG,
            f"{stats.dead} dead letters": stats.dead,
            errors: errors,
        }
        return {
            "problems": [
                *self.failed,
                *missing(said, tallies),
                *damage(self.url),
                *(one for one, is_so in wrong.items() if is_so),
            ],
            "kills": self.done["kills"],
            "messages": sum(n for n, _ in tallies.values()),
            "kB that the worker grew by": round(drift["worker"] / 1024),
            "kB that the producer grew by": round(drift["producer"] / 1024),
            "times its content the file, at most": round(ratio, 2),
        }


def missing(said: list[list[str]], tallies: dict[str, tuple[int, int]]) -> Iterator[str]:
    """Yield lives of which something accepted was not handled, or something was handled twice."""
    tried: dict[str, int] = {}
    accepted: dict[str, int] = {}
    for word, life, number, *_ in said:
        if word in "TA":
            (tried if word == "T" else accepted)[life] = int(number)
    for life, last in tried.items():
        handled, total = tallies[life]
        if handled not in {last, accepted.get(life, 0)} or total != handled * (handled + 1) // 2:
            yield f"life {life}: {accepted.get(life, 0)} accepted, {last} tried, {handled} handled, sum {total}"


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def live_size(path: Path) -> int:
    """Return how large a file would be that holds the same, and nothing else."""
    copy = path.with_name("copy.db")
    copy.unlink(missing_ok=True)
    connection = sqlite3.connect(path, timeout=60)
    connection.execute("VACUUM INTO ?", (str(copy),))
    connection.close()
    return size_of(copy)


if __name__ == "__main__":
    soak = Soak(Path(sys.argv[1]), float(sys.argv[2]))
    soak.run()
    print(json.dumps(soak.story()))
