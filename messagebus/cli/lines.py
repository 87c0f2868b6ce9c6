"""Input: the lines of files and of standard input, read in constant memory however long the stream or a line is."""

import os
import stat
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from messagebus import ConfigurationError, MessageTooLargeError

__all__ = ["Input", "find_inputs", "read_lines"]

_CHUNK = 65_536


@dataclass(frozen=True, slots=True)
class Input:
    """A file, or standard input, that is known to be readable."""

    name: str
    """The path as it was given, or ``-``."""
    size: int | None
    """In bytes; None for what has no size before its end, such as a pipe."""

    @contextmanager
    def open(self) -> Generator[int, None, None]:
        """Yield a file descriptor."""
        if self.name == "-":
            yield sys.stdin.fileno()
        else:
            with open(self.name, "rb", buffering=0) as file:
                yield file.fileno()


def find_inputs(names: Sequence[str]) -> list[Input]:
    """Return the inputs of these names, ``-`` for standard input, each looked at so that a mistake shows early.

    Raises:
        ConfigurationError: If one of them cannot be read.
    """
    return [_find(name) for name in names]


def _find(name: str) -> Input:
    try:
        status = os.stat(_stdin() if name == "-" else name)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(0, "it is a directory")
        if name != "-" and not os.access(name, os.R_OK):
            raise PermissionError(0, "there is no permission to read it")
    except OSError as error:
        why = str(error.strerror)
        remedy = "Name files of JSON Lines, or - for standard input."
        raise ConfigurationError(f"read {name}", why[:1].lower() + why[1:], remedy) from None
    return Input(name, status.st_size if stat.S_ISREG(status.st_mode) else None)


def _stdin() -> int:
    if sys.stdin is None:
        raise OSError(0, "standard input is closed")
    return sys.stdin.fileno()


def read_lines(descriptor: int, max_bytes: int) -> Iterator[bytes | MessageTooLargeError | None]:
    """Yield each line without its newline, and None before each read, which may have to wait for input.

    Of a line that is longer than ``max_bytes`` nothing is kept: an error stands in its place. A line that is too long
    but came whole in one read may be yielded all the same.
    """
    start, skipped = bytearray(), 0
    while True:
        yield None
        chunk = os.read(descriptor, _CHUNK)
        first, *lines = chunk.split(b"\n")
        start += first
        if skipped or len(start) > max_bytes:
            skipped += len(start)
            start.clear()
        if not lines and chunk:
            continue
        if skipped:
            yield MessageTooLargeError(skipped, max_bytes)
        elif start or chunk:
            yield bytes(start)
        if not chunk:
            return
        start[:], skipped = lines.pop(), 0
        yield from lines
