"""Power cuts: what a store wrote is written down call by call, and then cut off anywhere; what is left must be whole.

A disk keeps what was synced: the bytes of a file, and the names in a folder. Of what was done since, a cut leaves
nothing, all, the beginning, or any sectors. ``python -m tests.proof.power URL [careless]`` is what is written down.
"""

import os
import random
import shutil
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from messagebus.delivery import open_store
from messagebus.delivery.sqlite import SqliteConnection
from messagebus.testing.laws import end, sending, take_one
from messagebus.testing.shop import CancelOrder, OrderPlaced, PlaceOrder, orders
from tests.proof import shim

SHORT, LONG = 1_000, 20_000
COUNTS = "power cuts"

HEAD = struct.Struct("4q")
SECTOR = 512

Event = tuple[str, str, int, bytes]
"""A kind, a path (or what was told), an offset, bytes. Kinds: a, accepted; f, finished; c, created; w, written;
t, truncated; u, unlinked; s, synced."""


def prove(size: int, report: Callable[[str], None]) -> str:
    """Cut the power so often, in one life of a store after another."""
    cuts = 0
    for life in count():
        with TemporaryDirectory(prefix="messagebus-", dir=MEMORY) as folder:
            events = record(Path(folder, "played"))
            for number, problems in replay(events, Path(folder), random.Random(random.randrange(2**32))):
                assert [] == problems, f"life {life}, event {number}: {problems}"
                cuts += 1
                if cuts == size:
                    return f"{cuts:,} cuts in {life + 1} lives: 0 accepted messages lost, 0 damaged files"
        report(f"{cuts:,} cuts")
    raise AssertionError


MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""Where nothing is ever synced: what is kept here is what was written down, and the disk would only take its time."""


def say(kind: str, what: str) -> None:
    """Write down, between the writes, what the application was told."""
    os.write(int(os.environ["SHIM_LOG"]), HEAD.pack(ord(kind), len(what), 0, 0) + what.encode())


def play(url: str) -> None:
    """Send in each way, and handle; a: accepted, f: finished. Closing checkpoints, and so does the second half."""
    for _ in range(2):
        store = open_store(url)
        with store.transaction() as transaction:
            transaction.execute("CREATE TABLE IF NOT EXISTS invoice (id VARCHAR(100))")
        for number in range(6):
            message = store.send(PlaceOrder(order_id=str(number)))
            say("a", message)
            for message in store.send_many(orders("a", "b" * 6_000), delay=600):
                say("a", message)
            with store.transaction() as transaction:
                message = transaction.send(CancelOrder(order_id="o-1"), delay=600)
                transaction.execute("INSERT INTO invoice (id) VALUES (:id)", {"id": message})
            say("a", message)
            token, claimed = take_one(store)
            end(store, token, claimed, sends=[sending(OrderPlaced(order_id="o-1"), claimed, delay=600.0)])
            say("f", claimed.id)
        store.close()


def record(folder: Path, *arguments: str) -> list[Event]:
    """Play in a process of its own, in a new folder, and return everything that happened."""
    folder.mkdir()
    path = folder.with_suffix(".log")
    log = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    with shim.loaded(folder, log) as environment:
        command = [sys.executable, "-m", "tests.proof.power", f"sqlite:///{folder}/bus.db", *arguments]
        root = Path(__file__).parents[2]
        subprocess.run(command, env=environment, pass_fds=[log], check=True, cwd=root)
    os.close(log)
    return [*_events(path.read_bytes())]


def _events(log: bytes) -> Iterator[Event]:
    at = 0
    while at < len(log):
        kind, name, offset, length = HEAD.unpack_from(log, at)
        at += HEAD.size
        yield chr(kind), log[at : at + name].decode(), offset, log[at + name : at + name + length]
        at += name + length


@dataclass
class Disk:
    """The files of the folder: as they are synced, and what was done to them since."""

    synced: dict[str, bytearray] = field(default_factory=dict)
    since: list[Event] = field(default_factory=list)
    unnamed: set[str] = field(default_factory=set)
    """Files that were created, and the folder not synced since."""

    def do(self, event: Event) -> None:
        kind, path, *_ = event
        if path.endswith(("-shm", "-lock")):
            return
        if kind == "s":  # A file's data, or the names in a folder.
            kept = [one for one in self.since if path == (one[1] if one[0] != "u" else str(Path(one[1]).parent))]
            apply(self.synced, kept)
            self.since = [one for one in self.since if one not in kept]
            self.unnamed = {one for one in self.unnamed if path != str(Path(one).parent)}
        elif kind == "c":
            self.unnamed.add(path)
        elif kind in "wtu":
            if kind != "u" and ("u", path) in [one[:2] for one in self.since]:
                # A new file has taken the name, so that the old one cannot be there.
                self.synced.pop(path, None)
                self.since = [one for one in self.since if one[1] != path]
            self.since.append(event)

    def cut(self, how: str, choose: random.Random) -> dict[str, bytearray]:
        """Return the files that are there when the power is back."""
        files = {path: bytearray(data) for path, data in self.synced.items()}
        if how == "all":
            apply(files, self.since)
        elif how == "beginning":
            apply(files, self.since[: choose.randrange(len(self.since) + 1)])
        elif how == "sectors":
            apply(files, [one for event in self.since for one in sectors(event) if choose.random() < 0.5])
        for path in sorted(self.unnamed & files.keys()):
            if how == "nothing" or (how != "all" and choose.random() < 0.5):
                del files[path]
        return files


def sectors(event: Event) -> Iterator[Event]:
    kind, path, offset, data = event
    if kind != "w":
        yield event
    for start in range(0, len(data), SECTOR):
        yield kind, path, offset + start, data[start : start + SECTOR]


def apply(files: dict[str, bytearray], events: list[Event]) -> None:
    for kind, path, offset, data in events:
        if kind == "u":
            files.pop(path, None)
            continue
        content = files.setdefault(path, bytearray())
        if len(content) < offset + len(data):
            content.extend(bytes(offset + len(data) - len(content)))
        if kind == "w":
            content[offset : offset + len(data)] = data
        else:
            del content[offset:]


def replay(events: list[Event], folder: Path, choose: random.Random) -> Iterator[tuple[int, list[str]]]:
    """Cut the power after half of the events, each in one of the ways; yield where, and what is wrong then."""
    disk, told = Disk(), {"a": set[str](), "f": set[str]()}
    for number, event in enumerate(events):
        disk.do(event)
        if event[0] in told:
            told[event[0]].add(event[1])
        if event[0] in told or choose.random() < 0.5:
            continue
        how = choose.choice(["nothing", "all", "beginning", "sectors"])
        place = folder / str(number)
        place.mkdir()
        for path, content in disk.cut(how, choose).items():
            (place / Path(path).name).write_bytes(content)
        yield number, [f"{how} is left: {wrong}" for wrong in examine(place / "bus.db", told)]
        shutil.rmtree(place)


def examine(path: Path, told: dict[str, set[str]]) -> Iterator[str]:
    """Open what is left of a store; yield which promises were not kept."""
    try:
        store = open_store(f"sqlite:///{path}")
    except Exception as error:
        yield repr(error)
        return
    with store.transaction() as transaction:
        has_table = transaction.execute("SELECT 1 FROM sqlite_master WHERE name = 'invoice'")
        rows = {row[0] for row in transaction.execute("SELECT id FROM invoice")} if has_table else set()
    cancelled = {one.id for one in store.waiting(type="shop.cancel_order", limit=1_000)}
    trees = {id: store.tree(id) for id in told["a"]}
    store.close()
    with sqlite3.connect(path) as connection:
        (integrity,) = connection.execute("PRAGMA integrity_check").fetchone()
    connection.close()
    half_done = [tree for tree in trees.values() if tree and len(tree) != 1 + (tree[0].finished_at is not None)]
    lost = [id for id, tree in trees.items() if not tree]
    undone = [id for id in told["f"] if trees[id] and trees[id][0].finished_at is None]
    problems = {
        f"integrity: {integrity}": integrity != "ok",
        f"accepted and lost: {len(lost)}": lost,
        f"finished and not finished: {len(undone)}": undone,
        f"finished without what it sent: {len(half_done)}": half_done,
        f"rows and messages differ: {len(rows ^ cancelled)}": rows != cancelled,
    }
    yield from (problem for problem, is_there in problems.items() if is_there)


def do_not_sync() -> None:
    """Do what is often advised: `synchronous=NORMAL`."""
    begin = SqliteConnection.begin
    SqliteConnection.begin = lambda self, **_: begin(self, is_durable=False)  # type: ignore[method-assign]


if __name__ == "__main__":
    if "careless" in sys.argv:
        do_not_sync()
    play(sys.argv[1])
