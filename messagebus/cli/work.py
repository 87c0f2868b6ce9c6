"""``messagebus work``: a worker that handles what is stored, until it is told to stop."""

import sys
import time
from argparse import SUPPRESS, ArgumentParser, Namespace
from collections.abc import Generator
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from typing import TYPE_CHECKING, Any, Final

from messagebus import MessageBusError
from messagebus.cli import records
from messagebus.cli.engine import add_group, connected
from messagebus.cli.progress import Progress, on_terminal
from messagebus.cli.reading import add_levels
from messagebus.cli.stored import add_url, opened
from messagebus.cli.target import add_target, load
from messagebus.cli.values import above_zero, seconds

if TYPE_CHECKING:
    from messagebus import Registry
    from messagebus.delivery import Store, Worker

__all__ = ["DESCRIPTION", "EXAMPLE", "NAME", "SUMMARY", "add_arguments", "run"]

NAME: Final = "work"
SUMMARY: Final = "handle the messages of a store"
DESCRIPTION: Final = """\
Handle the messages of a store, until SIGTERM or SIGINT: then what is in hand is finished, or given back when the grace
time is over, and the exit code is 0. Any number of workers may share a store. A handler that fails is tried again,
later and later; what has failed for good is shown by `messagebus failed list`. Records go to standard error as JSON;
what handlers print goes there too. With --from, what an engine brings is handled as well, and events are published.

exit code: 0 told to stop, or nothing left to do, 1 the store failed, 2 the call itself is wrong"""
EXAMPLE: Final = "example:\n  messagebus work shop.orders --url sqlite:///bus.db"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare what the command takes."""
    add_target(parser)
    add_url(parser)
    parser.add_argument("--inbox", dest="url", metavar="URL", default=SUPPRESS, help="with --from: the same as --url")
    parser.add_argument("--from", dest="engine", metavar="URL", help="an engine, as in nats://host:4222")
    add_group(parser)
    count = above_zero("number")
    for name, default, text in (
        ("--concurrency", 1, "handle so many messages at the same time (default: %(default)s)"),
        ("--batch", 100, "claim so many messages at once at most (default: %(default)s)"),
        ("--attempts", 5, "a handler fails for good with so many (default: %(default)s)"),
        ("--limit", None, "stop after about so many messages"),
    ):
        parser.add_argument(name, type=count, default=default, metavar="N", help=text)
    for name, length, text in (
        ("--lease", 30.0, "others take over this long after the worker has died (default: 30s)"),
        ("--grace", 20.0, "wait so long, once told to stop, for handlers to finish (default: 20s)"),
        ("--time-limit", None, "stop after this time"),
    ):
        parser.add_argument(name, type=seconds, default=length, metavar="S", help=text)
    parser.add_argument("--until-idle", action="store_true", help="stop when nothing is due")
    parser.add_argument("--no-progress", action="store_true", help="show no progress line on a terminal")
    add_levels(parser)


def run(options: Namespace) -> int:
    """Run a worker to its end."""
    is_wanted = options.until_idle and not options.no_progress
    with (
        on_terminal(WorkProgress, is_wanted=is_wanted) as progress,
        redirect_stdout(sys.stderr),  # For what handlers print.
    ):
        logger = records.make_logger(options.log_level, options.error_log_level)
        registry = load(options.target)
        with (
            opened(options, creates=True) as store,
            nullcontext() if options.engine is None else connected(options) as broker,
            nullcontext() if progress is None else progress.watching(store),
        ):
            source = {"store": store} if broker is None else {"store": broker, "inbox": store}
            _run(_worker(source, registry, progress, logger, options), options)
    return 0


def _run(worker: "Worker", options: Namespace) -> None:
    try:
        worker.run(until_idle=options.until_idle, limit=options.limit, time_limit=options.time_limit)
    except SystemExit as stop:
        if stop.code:
            raise
        # Exit code 0 would say that the worker was told to stop, or had nothing left to do.
        why = "Stopped: a handler called sys.exit(). Let it raise an exception instead."
        raise SystemExit(f"messagebus: {why}") from None


def _worker(
    source: dict[str, Any], registry: "Registry", progress: "WorkProgress | None", logger: Any, options: Namespace
) -> "Worker":
    from messagebus.delivery import Retry, Worker  # noqa: PLC0415 - help, and what needs no store, loads faster without

    class Watched(Worker):
        """Tells the progress line what it has done."""

        def count(self, settled: int) -> None:
            super().count(settled)
            if progress is not None:
                progress.advance(settled)

    return Watched(
        registry=registry,
        **source,
        batch=options.batch,
        concurrency=options.concurrency,
        lease=options.lease,
        retry=Retry(attempts=options.attempts),
        grace=options.grace,
        log_level=options.log_level,
        error_log_level=options.error_log_level,
        logger=logger,
    )


_LEISURE: Final = 50
_SELDOM: Final = 1.0


class WorkProgress(Progress):
    """How many messages a worker has settled, and how many are due.

    The store is asked for that at most every second, and less often where it takes long to count.
    """

    def __init__(self, terminal: int) -> None:
        super().__init__(terminal)
        self._settled = self._left = 0

    @contextmanager
    def watching(self, store: "Store") -> Generator[None, None, None]:
        """Show what becomes of the messages of a store."""
        self._store = store
        self._look()
        self.start()
        try:
            yield
        finally:
            self._look()

    def advance(self, settled: int) -> None:
        """Count messages that are settled."""
        with self._lock:  # Lanes are threads.
            self._settled += settled
            self._left = max(self._left - settled, 0)
            if time.monotonic() >= self._asked_again:
                self._look()
            self.show()

    def _look(self) -> None:
        begun = time.monotonic()
        with suppress(MessageBusError):  # The worker will tell.
            figures = self._store.stats()
            self._left = figures.due + figures.in_flight
        self._asked_again = begun + max(_SELDOM, _LEISURE * (time.monotonic() - begun))

    def describe(self, seconds: float) -> str:
        known = self._settled + self._left
        share = self._settled / known if known else 1
        return (
            f"{self._settled:,} of {known:,} messages ({share:.0%}), {self._left:,} left, "
            f"{self._settled / seconds:,.0f} messages/s"
        )
