"""``messagebus handle``: JSON Lines in, a run of the bus for each, return messages as JSON Lines out."""

import asyncio
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from messagebus import AsyncMessageBus, MessageBus, ReturnMessage, to_json
from messagebus.cli import records
from messagebus.cli.reading import FAILED, REFUSED, Desk, add_input, add_levels, at_desk

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


def add_arguments(parser: ArgumentParser) -> None:
    """Declare what the command takes."""
    add_input(parser)
    add_levels(parser)


def run(options: Namespace) -> int:
    """Handle every line of every input, and return the exit code that sums them up."""
    levels = {"log_level": options.log_level, "error_log_level": options.error_log_level}
    with at_desk(options, **levels) as desk:
        work = _Work(desk)
        work.run(registry=desk.registry, logger=desk.logger, **levels)
        return work.exit_code


class _Work:
    """All lines of all inputs, and what became of them."""

    def __init__(self, desk: Desk) -> None:
        self._reader, self._results, self._registry = desk.reader, desk.results, desk.registry
        self._has_failed = False

    @property
    def exit_code(self) -> int:
        """0 if all lines were handled; a handler that failed outweighs a payload that was refused."""
        if self._has_failed:
            return FAILED
        return REFUSED if self._reader.has_refused else 0

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
            name, number = self._reader.in_hand
            why = f"Stopped at line {number} of {name}: a handler called sys.exit()."
            raise SystemExit(f"messagebus: {why} Let it raise an exception instead.") from None

    def _run(self, bus: Callable[..., MessageBus]) -> None:
        for entry in self._reader.entries():
            if isinstance(entry, int):
                self._results.flush()
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
        for entry in self._reader.entries():
            if isinstance(entry, int):
                self._results.flush()
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

    def _put(self, returned: Sequence[ReturnMessage]) -> None:
        """Write the results of a line: all of them or, if one cannot be written, none."""
        try:
            lines = b"".join([to_json(message) + b"\n" for message in returned])
        except Exception as error:  # noqa: BLE001 - a serialiser of the user's may raise anything
            self._has_failed = True
            self._reader.record(records.RESULT_REFUSED, error)
        else:
            if lines:
                self._results.write(lines)

    def _fail(self, error: BaseException) -> None:
        """Take a cancellation that nobody asked of the whole for the failure of one line; the bus lets it pass."""
        self._has_failed = True
        self._reader.record(records.MESSAGE_FAILED, error)


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
