"""What stored messages cost: ``python -m tests.benchmarks.delivery``, from the root of the repository.

Rates by the clock, fsync on both sides; contenders take turns, and ratios are of the same rounds.
"""

import asyncio
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from messagebus.delivery import open_store
from messagebus.delivery.entries import Outcome, Settlement
from tests.benchmarks import bare, orders
from tests.benchmarks.comparison import environment
from tests.benchmarks.drain import BATCH
from tests.benchmarks.machine import ROOT, describe_machine
from tests.benchmarks.memory import grow
from tests.benchmarks.rates import Comparison, Line, Rate, as_rows, compare_rates, measure_rates
from tests.benchmarks.report import aligned, piped

_ENGINES = Path(__file__).parent / "engines"
_HEADS = ("what", "beside", "ours, /s", "that, /s", "ratio", "of rounds", "goal", "met")


@dataclass(frozen=True)
class _Size:
    rounds: int
    sends: int
    """So many commits one contender makes within one round."""
    commands: int
    """Stored, and handled by one worker."""
    jobs: int
    """The same for other engines, of which most take longer."""
    waiting: int
    long: int


_SIZES = {
    "full": _Size(rounds=7, sends=200, commands=20_000, jobs=1_000, waiting=100_000, long=1_000_000),
    "quick": _Size(rounds=3, sends=100, commands=20_000, jobs=300, waiting=100_000, long=200_000),
    "smoke": _Size(rounds=1, sends=5, commands=50, jobs=20, waiting=2_000, long=2_000),
}
_FEW = 1_000
_KEYS = 500
_CLAIMS = 10


def _parse(arguments: Sequence[str] | None) -> Namespace:
    parser = ArgumentParser("python -m tests.benchmarks.delivery", description="Measure what stored messages cost.")
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--quick", dest="size", action="store_const", const="quick", help="fewer rounds")
    sizes.add_argument("--smoke", dest="size", action="store_const", const="smoke", help="hardly any: only see it run")
    parser.set_defaults(size="full")
    parser.add_argument("--postgres", action="store_true", help="on PostgreSQL too: a server is started")
    help_peers = "compare with other engines; an environment for each is made in DIR, if it is not there"
    parser.add_argument("--peers", metavar="DIR", type=Path, help=help_peers)
    parser.add_argument("--long", action="store_true", help="the memory of a worker over a million messages too")
    parser.add_argument("--only", metavar="WORD", help="only the tables whose name has this word in it")
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write the table to FILE, as Markdown")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    size = _SIZES[options.size]
    lines: list[Line] = []
    with ExitStack() as stack:
        places = {"SQLite": _files(stack)}
        if options.postgres:
            places["PostgreSQL"] = _schemas(stack)
        for name, table in _tables(options, size, places).items():
            if options.only is None or options.only in name:
                print(f"measuring {name} …", file=sys.stderr)
                lines += table()
    machine = describe_machine()
    rows = as_rows(lines)
    plain = [[cell.replace("`", "") for cell in row] for row in rows]
    print("\n".join(f"{name:<11}{value}" for name, value in machine.items()))
    print(f"{'size':<11}{options.size}; rates by the clock, medians; ratios of the same rounds\n")
    print(aligned(_HEADS, plain))
    if options.markdown:
        about = f"Measured on {machine['date']}: {machine['python']}, {machine['processor']}, {machine['system']}."
        options.markdown.write_text(f"{about}\n\n{piped(_HEADS, rows)}\n")


Place = Callable[[], str]
"""Returns the URL of a new and empty place for a store."""


def _tables(options: Namespace, size: _Size, places: dict[str, Place]) -> dict[str, Callable[[], list[Line]]]:
    sqlite = places["SQLite"]
    tables = {"sending": lambda: sending(sqlite, size), "handling": lambda: handling(sqlite, size)}
    for name, place in places.items():
        tables[f"claims on {name}"] = lambda name=name, place=place: claims(name, place, size)
    if options.peers:
        tables["engines on files"] = lambda: engines(sqlite, size, options.peers, "SQLite", ("huey", "dbos"), 2.0)
        if "PostgreSQL" in places:
            tables["engines on PostgreSQL"] = lambda: engines(
                places["PostgreSQL"], size, options.peers, "PostgreSQL", ("procrastinate", "pgqueuer"), 3.0
            )
    if options.long:
        tables["memory"] = lambda: [memory(sqlite(), size.long)]
    return tables


def _files(stack: ExitStack) -> Place:
    numbers = count()

    def place() -> str:
        folder = stack.enter_context(TemporaryDirectory(prefix="messagebus-", ignore_cleanup_errors=True))
        return f"sqlite:///{folder}/{next(numbers)}.db"

    return place


def _schemas(stack: ExitStack) -> Place:
    from tests import servers  # noqa: PLC0415 - needs pytest and psycopg

    folder = servers.folder_for_servers()
    server = servers.start_postgres(folder)
    stack.callback(server.stop)
    return server.fresh


# Sending


def sending(place: Place, size: _Size) -> list[Line]:
    store = open_store(place())
    queue = bare.Queue(place().removeprefix("sqlite:///"))
    order = orders.place_orders(1)[0]
    body = orders.PlainOrder(order_id="o-0", quantity=2, unit_price=9.5).model_dump_json()
    few, hundred = range(size.sends), [order] * BATCH
    many = range(max(size.sends // 10, 2))

    def send() -> None:
        for _ in few:
            store.send(order)

    def put() -> None:
        for _ in few:
            queue.put("PlainOrder", body)

    def send_many() -> None:
        for _ in many:
            store.send_many(hundred)

    def put_many() -> None:
        for _ in many:
            queue.put_many([("PlainOrder", body)] * BATCH)

    async def task() -> None:
        for _ in many:
            await store.asend(order)

    async def tasks() -> None:
        await asyncio.gather(*(task() for _ in range(BATCH)))

    with asyncio.Runner() as runner:
        contenders = {
            "put": _timed(put, len(few)),
            "send": _timed(send, len(few)),
            "put_many": _timed(put_many, len(many) * BATCH),
            "send_many": _timed(send_many, len(many) * BATCH),
            "asend": _timed(lambda: runner.run(tasks()), len(many) * BATCH),
        }
        figures = measure_rates(contenders, size.rounds)
    store.close()
    queue.close()
    return compare_rates(
        figures,
        [
            Comparison("`send`, SQLite", "`sqlite3`, an insert per commit", "send", "put", 0.8),
            Comparison("`send_many` of 100", "`executemany` of 100 per commit", "send_many", "put_many", 0.5),
            Comparison("`asend` from 100 tasks", "`executemany` of 100 per commit", "asend", "put_many", 0.5),
        ],
    )


def _timed(run: Callable[[], object], amount: int) -> Rate:
    def rate() -> float:
        started = perf_counter()
        run()
        return amount / (perf_counter() - started)

    return rate


# Handling


def handling(place: Place, size: _Size) -> list[Line]:
    names = ("prototype", "same", "ours", "logged")
    spent: dict[str, list[float]] = {name: [] for name in names}
    contenders = {name: _draining(place, name, size.commands, spent[name]) for name in names}
    figures = measure_rates(contenders, size.rounds)
    for name in names:
        figures[f"{name} on the processor"] = spent[name][-len(figures[name]) :]
    figures["messages"] = [2 * rate for rate in figures["ours"]]
    what = f"{size.commands:,} stored commands"
    loop = "a bare loop: claim, validate, acknowledge"
    return compare_rates(
        figures,
        [
            Comparison(f"{what}, messages handled", f"{loop}; only these commands", "messages", "prototype", 0.4),
            Comparison(f"{what}, with their events", f"{loop}, call, store and handle the events", "ours", "same", 0.4),
            Comparison(
                "the same, in a second of the processor",
                "that of the same loop",
                "ours on the processor",
                "same on the processor",
            ),
            Comparison("the same, a record of each", "the same loop, which records nothing", "logged", "same"),
        ],
    )


def _draining(place: Place, who: str, commands: int, spent: list[float]) -> Rate:
    """Return the rate of a worker process that is run anew each time; ``spent`` gets that by time on the processor."""

    def rate() -> float:
        arguments = [sys.executable, "-m", "tests.benchmarks.drain", who, place(), str(commands)]
        seconds, on_the_processor = _printed(arguments)
        spent.append(commands / on_the_processor)
        return commands / seconds

    return rate


def _printed(arguments: Sequence[str]) -> list[float]:
    """Return the numbers that a process prints in its last line."""
    with TemporaryDirectory() as folder, Path(folder, "log").open("w+") as log:
        done = subprocess.run(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True, check=False)
        if done.returncode:
            log.seek(0)
            raise RuntimeError(f"{' '.join(map(str, arguments))} failed:\n{log.read()[-2_000:]}")
    return [float(number) for number in done.stdout.splitlines()[-1].split()]


# Claiming


def claims(name: str, place: Place, size: _Size) -> list[Line]:
    kinds: dict[str, Callable[[int], str | None]] = {
        "without keys": lambda _: None,
        f"with {_KEYS} keys": lambda i: f"k{i % _KEYS}",
        "half of them behind one key": lambda i: "busy" if i % 2 else f"k{i % _KEYS}",
    }
    lines = []
    for kind, key_of in kinds.items():
        with _claiming(place(), _FEW, key_of) as few, _claiming(place(), size.waiting, key_of) as many:
            figures = measure_rates({"few": few, "many": many}, size.rounds)
        what = f"claim of {BATCH} on {name}, {size.waiting:,} waiting {kind}"
        lines += compare_rates(figures, [Comparison(what, f"{_FEW:,} waiting", "many", "few", 1.5, "within")])
    return lines


@contextmanager
def _claiming(url: str, waiting: int, key_of: Callable[[int], str | None]) -> Iterator[Rate]:
    """Claim where so many messages wait at any time: what is claimed is settled, and others like it are sent."""
    store = open_store(url)

    def send(keys: Sequence[str | None]) -> None:
        each = iter(keys)
        store.send_many(orders.place_orders(len(keys)), key=lambda _: next(each))

    for begin in range(0, waiting, _FEW):
        send([key_of(number) for number in range(begin, begin + _FEW)])

    def rate() -> float:
        taken = 0.0
        for _ in range(_CLAIMS):
            started = perf_counter()
            claim = store.claim(BATCH, 30.0)
            taken += perf_counter() - started
            done = [Settlement(stored.seq, [Outcome("send_mail", "done", 1)]) for stored in claim.messages]
            store.settle(claim.token, done)
            send([stored.key for stored in claim.messages])
        return _CLAIMS / taken

    yield rate
    store.close()


# Other engines


def engines(place: Place, size: _Size, peers: Path, name: str, others: Sequence[str], goal: float) -> list[Line]:
    contenders = {"ours": _draining(place, "ours", size.jobs * 5, [])}
    for other in others:
        extras = ["psycopg[binary,pool]"] if name == "PostgreSQL" else []
        contenders[other] = _engine(environment(other, peers, *extras), other, place, size.jobs)
    figures = measure_rates(contenders, min(size.rounds, 3))
    comparisons = [
        Comparison(f"commands with their events, {name}", _version(peers, other), "ours", other, goal)
        for other in others
    ]
    return compare_rates(figures, comparisons)


def _engine(python: Path, name: str, place: Place, jobs: int) -> Rate:
    def rate() -> float:
        url = place().replace("+psycopg", "").removeprefix("sqlite:///")
        return jobs / _printed([str(python), "-I", str(_ENGINES / f"{name}.py"), url, str(jobs)])[0]

    return rate


def _version(peers: Path, name: str) -> str:
    script = f"from importlib.metadata import version; print(version({name!r}))"
    python = peers / name / "bin" / "python"
    done = subprocess.run([python, "-c", script], stdout=subprocess.PIPE, text=True, check=True)
    return f"{name} {done.stdout.strip()}"


# Memory


def memory(url: str, messages: int) -> Line:
    begin, end = grow(url, messages)
    return Line(
        what=f"memory of a worker over {messages:,} messages, MB",
        beside="after the first tenth",
        ours=f"{end:.1f}",
        other=f"{begin:.1f}",
        ratio=f"{end - begin:+.1f} MB",
        goal="± 20 MB",
        is_met=abs(end - begin) <= 20,
    )


if __name__ == "__main__":
    main()
