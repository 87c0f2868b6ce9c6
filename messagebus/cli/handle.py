"""``messagebus handle``: JSON Lines in, a run of the bus for each, return messages as JSON Lines out."""

import asyncio
import io
import signal
import sys
import threading
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from functools import partial
from types import FrameType
from typing import Any, Final

from messagebus import (
    AsyncMessageBus,
    Envelope,
    Message,
    MessageBus,
    MessageBusError,
    MessageTooLargeError,
    Registry,
    ReturnMessage,
    to_json,
)
from messagebus.cli import records
from messagebus.cli.lines import Input, find_inputs, read_lines
from messagebus.cli.progress import Progress
from messagebus.cli.results import Results
from messagebus.cli.target import add_target, load
from messagebus.registry import MAX_BYTES

__all__ = ["DESCRIPTION", "EXAMPLE", "NAME", "SUMMARY", "add_arguments", "run"]

NAME: Final = "handle"
SUMMARY: Final = "handle messages from files or a pipe"
DESCRIPTION: Final = """\
Read messages as JSON Lines, {"type": ..., "data": {...}} or CloudEvents, and run each with everything it leads to.
Return messages go to standard output, one JSON object per line, in the order of the input. Records go to standard
error as JSON, each with file and line; what handlers print goes there too. A line that is refused, or whose handler
fails, is one record and has no results; the next line is handled all the same.

Results are written after each line; into a regular file, when a buffer is full, and before waiting for more input.

exit code: 0 all lines were handled, 1 a handler failed, 2 the call itself is wrong, 3 a payload was refused"""
EXAMPLE: Final = """\
example:
  echo '{"type": "PlaceOrder", "data": {"order_id": "o-1", "quantity": 2}}' | messagebus handle shop.orders"""

_FAILED = 1
_REFUSED = 3
_TERMINATED = 143


def add_arguments(parser: ArgumentParser) -> None:
    """Declare what the command takes."""
    add_target(parser)
    parser.add_argument("files", metavar="FILE", nargs="*", help="JSON Lines; - is standard input, and the default")
    parser.add_argument(
        "--max-bytes",
        type=_positive,
        default=MAX_BYTES,
        metavar="N",
        help="refuse lines of more than N bytes (default: %(default)s)",
    )
    parser.add_argument("--no-progress", action="store_true", help="show no progress line on a terminal")
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


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is no number of bytes above 0")
    return int(text)


def run(options: Namespace) -> int:
    """Handle every line of every input, and return the exit code that sums them up."""
    inputs = find_inputs(options.files or ["-"])
    levels = {"log_level": options.log_level, "error_log_level": options.error_log_level}
    with (
        _terminable(),
        _progress(inputs, is_wanted=not options.no_progress) as progress,
        Results(progress) as results,
        redirect_stdout(sys.stderr),  # For what handlers print: standard output belongs to data.
    ):
        logger = records.make_logger(**levels)
        registry = load(options.target)
        write_error = None if options.error_log_level == "disabled" else getattr(logger, options.error_log_level)
        work = _Work(inputs, options.max_bytes, registry, write_error, results, progress)
        if progress is not None:
            progress.start()
        work.run(registry=registry, logger=logger, **levels)
        return work.exit_code


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


@contextmanager
def _progress(inputs: Sequence[Input], *, is_wanted: bool) -> Generator[Progress | None, None, None]:
    """Put a progress line on standard error, if that is a terminal and the end of all inputs is known."""
    sizes = [found.size for found in inputs if found.size is not None]
    if not is_wanted or len(sizes) < len(inputs) or sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    progress = Progress(sys.stderr.fileno(), sum(sizes))
    stream = io.TextIOWrapper(progress, sys.stderr.encoding, sys.stderr.errors, line_buffering=True)
    with redirect_stderr(stream):
        try:
            yield progress
        finally:
            stream.flush()
            progress.finish()


class _Work:
    """All lines of all inputs, and what became of them."""

    def __init__(
        self,
        inputs: Sequence[Input],
        max_bytes: int,
        registry: Registry,
        write_error: Callable[..., object] | None,
        results: Results,
        progress: Progress | None,
    ) -> None:
        self._inputs, self._max_bytes = inputs, max_bytes
        self._registry, self._write_error = registry, write_error
        self._results, self._progress = results, progress
        self._has_failed = self._has_refused = False
        self._in_hand = ("", 0)

    @property
    def exit_code(self) -> int:
        """0 if all lines were handled; a handler that failed outweighs a payload that was refused."""
        if self._has_failed:
            return _FAILED
        return _REFUSED if self._has_refused else 0

    def run(self, **options: Any) -> None:
        """Run the bus for each line: in one event loop if there is any async handler.

        Args:
            options: for the bus.
        """
        handlers = (handler for found in self._registry.snapshot.handlers.values() for handler in found)
        try:
            if any(handler.is_async for handler in handlers):
                asyncio.run(self._arun(partial(AsyncMessageBus, **options)))
            else:
                self._run(partial(MessageBus, **options))
        except asyncio.CancelledError:  # Somebody cancelled the whole, not one line; Ctrl-C can come out as that too.
            raise KeyboardInterrupt from None
        except SystemExit as stop:
            if stop.code:
                raise
            # Exit code 0 would say that all lines were handled.
            name, number = self._in_hand
            why = f"Stopped at line {number} of {name}: a handler called sys.exit()."
            raise SystemExit(f"messagebus: {why} Let it raise an exception instead.") from None

    def _run(self, bus: Callable[..., MessageBus]) -> None:
        for entry in self._entries():
            if isinstance(entry, int):
                continue
            message, envelope = entry
            try:
                returned = bus(message, envelope=envelope)()
            except Exception:  # noqa: BLE001 - the bus has recorded it
                self._has_failed = True
            except asyncio.CancelledError as error:
                self._fail(error)
            else:
                self._put(returned)

    async def _arun(self, bus: Callable[..., AsyncMessageBus]) -> None:
        task = asyncio.current_task()
        for entry in self._entries():
            if isinstance(entry, int):
                await _readable(entry)
                continue
            message, envelope = entry
            try:
                returned = await bus(message, envelope=envelope)()
            except Exception:  # noqa: BLE001 - the bus has recorded it
                self._has_failed = True
            except asyncio.CancelledError as error:
                if task is not None and task.cancelling():
                    raise
                self._fail(error)
            else:
                self._put(returned)
            # The loop has its turn after every line, also if no handler ever waits: for other tasks, and for Ctrl-C.
            await asyncio.sleep(0)

    def _entries(self) -> Iterator[tuple[Message, Envelope | None] | int]:
        """Yield each message that can be read; and a file descriptor before each read, which may have to wait."""
        for found in self._inputs:
            number = 0
            with found.open() as descriptor:
                for line in read_lines(descriptor, self._max_bytes):
                    if line is None:
                        self._results.flush()
                        yield descriptor
                        continue
                    number += 1
                    self._in_hand = (found.name, number)
                    records.IN_HAND.set(self._in_hand)
                    if isinstance(line, MessageTooLargeError):
                        self._refuse(line)
                    elif (entry := self._read(line)) is not None:
                        yield entry
                    if self._progress is not None:
                        self._progress.advance(line)

    def _read(self, line: bytes) -> tuple[Message, Envelope | None] | None:
        """Return the message in a line; None if it is blank, or refused and recorded."""
        if not line or line.isspace():
            return None
        try:
            return self._registry.read_json(line, max_bytes=self._max_bytes)
        except Exception as error:  # noqa: BLE001 - a validator of the user's may raise anything
            self._refuse(error)
            return None

    def _refuse(self, error: Exception) -> None:
        self._has_refused = True
        self._record(records.LINE_REFUSED, error)

    def _put(self, returned: Sequence[ReturnMessage]) -> None:
        """Write the results of a line: all of them or, if one cannot be written, none."""
        try:
            lines = b"".join([to_json(message) + b"\n" for message in returned])
        except Exception as error:  # noqa: BLE001 - a serialiser of the user's may raise anything
            self._has_failed = True
            self._record(records.RESULT_REFUSED, error)
        else:
            if lines:
                self._results.write(lines)

    def _fail(self, error: BaseException) -> None:
        """Take a cancellation that nobody asked of the whole for the failure of one line; the bus lets it pass."""
        self._has_failed = True
        self._record(records.MESSAGE_FAILED, error)

    def _record(self, event: str, error: BaseException) -> None:
        """Write a record of an error: its text only if it is one of ours, which hold no value of a payload."""
        if self._write_error is not None:
            cls = type(error)
            reason = {"reason": str(error)} if isinstance(error, MessageBusError) else {}
            with suppress(OSError, ValueError):  # Nobody reads standard error any more.
                self._write_error(event, error=f"{cls.__module__}.{cls.__qualname__}", **reason)


async def _readable(descriptor: int) -> None:
    """Wait until there is something to read, while the event loop goes on."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        loop.add_reader(descriptor, ready.set)
    except (PermissionError, NotImplementedError):  # A regular file, which never waits; or a loop that cannot.
        return
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)
