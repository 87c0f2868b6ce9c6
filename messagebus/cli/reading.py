"""Reading: the lines of all inputs as messages, with a record of each that is refused."""

import signal
import sys
import threading
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

from messagebus import Envelope, Message, MessageBusError, MessageTooLargeError, Registry
from messagebus.cli import records
from messagebus.cli.lines import Input, find_inputs, read_lines
from messagebus.cli.progress import LineProgress, on_terminal
from messagebus.cli.results import Results
from messagebus.cli.target import add_target, load
from messagebus.cli.values import above_zero
from messagebus.registry import MAX_BYTES

__all__ = ["FAILED", "REFUSED", "Desk", "Reader", "add_input", "add_levels", "at_desk", "writer"]

FAILED = 1
REFUSED = 3
_TERMINATED = 143


def add_input(parser: ArgumentParser) -> None:
    """Let a command take a target and the files that it reads."""
    add_target(parser)
    parser.add_argument("files", metavar="FILE", nargs="*", help="JSON Lines; - is standard input, and the default")
    parser.set_defaults(more="files")
    parser.add_argument(
        "--max-bytes",
        type=above_zero("number of bytes"),
        default=MAX_BYTES,
        metavar="N",
        help="refuse lines of more than N bytes (default: %(default)s)",
    )
    parser.add_argument("--no-progress", action="store_true", help="show no progress line on a terminal")


def add_levels(parser: ArgumentParser) -> None:
    """Let a command take the levels of its records."""
    parser.add_argument(
        "--log-level",
        choices=("debug", "info", "disabled"),
        default="info",
        help="level of one record per message; debug adds one per handler, and the message (default: %(default)s)",
    )
    parser.add_argument(
        "--error-log-level",
        choices=("info", "warning", "error", "disabled"),
        default="error",
        help="level of the records of what failed or was refused (default: %(default)s)",
    )


class Reader:
    """All lines of all inputs as messages; a line that is refused is one record, and the next is read all the same."""

    def __init__(
        self,
        inputs: Sequence[Input],
        max_bytes: int,
        registry: Registry,
        write_error: Callable[..., object] | None,
        progress: LineProgress | None,
    ) -> None:
        self._inputs, self._max_bytes = inputs, max_bytes
        self._registry, self._write_error, self._progress = registry, write_error, progress
        self.has_refused = False
        self.in_hand = ("", 0)
        """The file and the number of the line that was read last."""

    def entries(self) -> Iterator[tuple[Message, Envelope | None] | int]:
        """Yield each message that can be read; and a file descriptor before each read, which may have to wait."""
        for found in self._inputs:
            number = 0
            with found.open() as descriptor:
                for line in read_lines(descriptor, self._max_bytes):
                    if line is None:
                        yield descriptor
                        continue
                    number += 1
                    self.take_up((found.name, number))
                    if isinstance(line, MessageTooLargeError):
                        self.refuse(line)
                    elif (entry := self._read(line)) is not None:
                        yield entry
                    if self._progress is not None:
                        self._progress.advance(line)

    def take_up(self, place: tuple[str, int]) -> None:
        """Let records say that this line is in hand."""
        self.in_hand = place
        records.IN_HAND.set(place)

    def _read(self, line: bytes) -> tuple[Message, Envelope | None] | None:
        """Return the message in a line; None if it is blank, or refused and recorded."""
        if not line or line.isspace():
            return None
        try:
            return self._registry.read_json(line, max_bytes=self._max_bytes)
        except Exception as error:  # noqa: BLE001 - a validator of the user's may raise anything
            self.refuse(error)
            return None

    def refuse(self, error: Exception) -> None:
        """Record why the line in hand is refused."""
        self.has_refused = True
        self.record(records.LINE_REFUSED, error)

    def record(self, event: str, error: BaseException) -> None:
        """Write a record of an error: its text only if it is one of ours, which hold no value of a payload."""
        if self._write_error is not None:
            cls = type(error)
            reason = {"reason": str(error)} if isinstance(error, MessageBusError) else {}
            with suppress(OSError, ValueError):  # Nobody reads standard error any more.
                self._write_error(event, error=f"{cls.__module__}.{cls.__qualname__}", **reason)


@dataclass(frozen=True, slots=True)
class Desk:
    """What a command that reads messages works with."""

    registry: Registry
    logger: Any
    reader: Reader
    results: Results


@contextmanager
def at_desk(options: Namespace, *, log_level: str, error_log_level: str) -> Generator[Desk, None, None]:
    """Prepare what a command needs that reads messages; what is left of its results is written in the end."""
    inputs = find_inputs(options.files or ["-"])
    sizes = [found.size for found in inputs if found.size is not None]
    # Without the end of all inputs nobody can say how much is done.
    is_wanted = not options.no_progress and len(sizes) == len(inputs)
    with (
        _terminable(),
        on_terminal(lambda terminal: LineProgress(terminal, sum(sizes)), is_wanted=is_wanted) as progress,
        Results(progress) as results,
        redirect_stdout(sys.stderr),  # For what handlers print: standard output belongs to data.
    ):
        logger = records.make_logger(log_level, error_log_level)
        registry = load(options.target)
        reader = Reader(inputs, options.max_bytes, registry, writer(logger, error_log_level), progress)
        if progress is not None:
            progress.start()
        yield Desk(registry, logger, reader, results)


def writer(logger: Any, level: str) -> Callable[..., object] | None:
    """Return what writes a record at a level, None if that is disabled."""
    return None if level == "disabled" else getattr(logger, level)


@contextmanager
def _terminable() -> Generator[None, None, None]:
    """Let SIGTERM end the run as ``sys.exit`` does, so that results that are still buffered are written."""
    is_main_thread = threading.current_thread() is threading.main_thread()
    is_ours = is_main_thread and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if is_ours:
        signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        if is_ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(_TERMINATED)
