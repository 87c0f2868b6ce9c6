"""The progress line on a terminal, and the stream that keeps it and what else is written there apart."""

import io
import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, redirect_stderr
from threading import RLock
from time import perf_counter
from typing import Any, TypeVar

from messagebus import MessageTooLargeError

__all__ = ["LineProgress", "Progress", "on_terminal"]

_INTERVAL = 0.1  # Seconds between two pictures.
_MEGABYTE = 1_000_000


class Progress(io.RawIOBase):
    """The last line of a terminal: what is done, and how fast; a subclass says it in words.

    It is a stream too: what is written to it appears above the progress line. Any thread may write.
    """

    name = "<stderr>"

    def __init__(self, terminal: int) -> None:
        super().__init__()
        self._terminal = terminal
        self._width = 0
        self._started = self._due = 0.0
        self._has_begun = self._is_line_open = self._is_finished = False
        self._lock = RLock()

    def describe(self, seconds: float) -> str:
        """Say what is done after so many seconds."""
        raise NotImplementedError

    def start(self) -> None:
        """Start the clock, and show that nothing is done yet."""
        self._started = perf_counter()
        self._put(self._draw())

    def show(self) -> None:
        """Show what is done now, if the last picture is old enough."""
        self._has_begun = True
        if perf_counter() >= self._due:
            with self._lock:
                self._put(self._clear() + self._draw())

    def clear(self) -> None:
        """Take the progress line away until the next picture, for somebody else who writes to the same terminal."""
        with self._lock:
            self._put(self._clear())
        self._due = 0.0

    def finish(self) -> None:
        """Leave the last picture standing, if there was anything to show; what is written later appears below it."""
        with self._lock:
            if self._has_begun:
                end = b"\n" if self._is_line_open else b""
                self._is_line_open = False
                self._put(self._clear() + end + self._draw() + b"\n")
            self._width, self._is_finished = 0, True

    # What a stream has

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._terminal

    def write(self, data: Any, /) -> int:
        """Write above the progress line, in one piece with clearing and drawing it."""
        text = bytes(data)
        if text:
            with self._lock:
                self._is_line_open = not text.endswith(b"\n")
                self._put(self._clear() + text + self._draw())
        return len(text)

    def _put(self, text: bytes) -> None:
        while text:
            text = text[os.write(self._terminal, text) :]

    def _clear(self) -> bytes:
        # Spaces, not an escape sequence: every terminal knows them.
        width, self._width = self._width, 0
        return b"\r" + b" " * width + b"\r" if width else b""

    def _draw(self) -> bytes:
        if not self._started or self._is_finished or self._is_line_open:
            return b""
        now = perf_counter()
        self._due = now + _INTERVAL
        text = self.describe(max(now - self._started, 0.001))
        # A terminal that does not know its width says 0.
        text = text[: (os.get_terminal_size(self._terminal).columns or 80) - 1]
        self._width = len(text)
        return text.encode()


class LineProgress(Progress):
    """How many lines and bytes of inputs are done.

    Args:
        terminal: its file descriptor.
        total: the size of all inputs, in bytes.
    """

    def __init__(self, terminal: int, total: int) -> None:
        super().__init__(terminal)
        self._total = total
        self._lines = self._bytes = 0

    def advance(self, line: bytes | MessageTooLargeError) -> None:
        """Count one more line."""
        self._lines += 1
        self._bytes += (len(line) if isinstance(line, bytes) else line.size) + 1
        self.show()

    def describe(self, seconds: float) -> str:
        done, total = (f"{size / _MEGABYTE:,.1f}" for size in (self._bytes, self._total))
        share = min(self._bytes / self._total, 1) if self._total else 1
        return f"{self._lines:,} lines, {done} of {total} MB ({share:.0%}), {self._lines / seconds:,.0f} lines/s"


P = TypeVar("P", bound=Progress)


@contextmanager
def on_terminal(make: Callable[[int], P], *, is_wanted: bool) -> Generator[P | None, None, None]:
    """Put a progress line on standard error, if it is wanted and that is a terminal.

    Args:
        make: makes it of the terminal's file descriptor.
        is_wanted: yield None if not.
    """
    if not is_wanted or sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    progress = make(sys.stderr.fileno())
    stream = io.TextIOWrapper(progress, sys.stderr.encoding, sys.stderr.errors, line_buffering=True)
    with redirect_stderr(stream):
        try:
            yield progress
        finally:
            stream.flush()
            progress.finish()
