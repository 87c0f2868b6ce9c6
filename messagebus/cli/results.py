"""Standard output: the return messages, written in order and not held back longer than is worth it."""

import io
import os
import stat
import sys
from types import TracebackType
from typing import BinaryIO, Self

from messagebus import ConfigurationError
from messagebus.cli.progress import Progress

__all__ = ["Results"]

_BUFFER = 65_536


class Results:
    """Standard output as bytes; what is still buffered is written at the end of the ``with`` block, come what may.

    Each write goes out at once, so that whoever reads from a pipe has a result before the next line is handled, and
    a handler that ends the process takes none with it. A regular file, which nobody waits for, is written when the
    buffer is full or somebody calls `flush`.
    """

    def __init__(self, progress: Progress | None) -> None:
        if sys.stdout is None:
            raise ConfigurationError("write results", "standard output is closed", "Send it to a file or /dev/null.")
        sys.stdout.flush()
        try:
            descriptor = sys.stdout.fileno()
        except io.UnsupportedOperation:  # Whoever calls main() in a program of their own has replaced it.
            self._file: BinaryIO = sys.stdout.buffer
            self._is_buffered, self._progress = False, None
            return
        self._file = open(descriptor, "wb", _BUFFER, closefd=False)  # noqa: SIM115 - it stays open
        self._is_buffered = stat.S_ISREG(os.fstat(descriptor).st_mode)
        self._progress = progress if os.isatty(descriptor) else None

    def write(self, data: bytes) -> None:
        """Write whole lines."""
        if self._progress is not None:
            self._progress.clear()
        self._file.write(data)
        if not self._is_buffered:
            self._file.flush()

    def flush(self) -> None:
        """Write what is buffered."""
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.flush()
