"""A lock between processes, and between the threads of each, with a bounded wait."""

import os
import sys
import threading
import time
from typing import Final

from messagebus.errors import DispatchError, StoreBusyError, StoreUnavailableError

if sys.platform != "win32":
    import fcntl

__all__ = ["FileLock"]

_FIRST_PAUSE: Final = 0.000_1
_LONGEST_PAUSE: Final = 0.002


class FileLock:
    """One holder at a time, of all threads of all processes that name the same file; gone when its process is.

    Where there is no ``fcntl`` it holds off the threads of this process only.
    """

    def __init__(self, path: str | None, timeout: float) -> None:
        self._path, self._timeout = path, timeout
        self._fd = -1
        self.restart()

    def restart(self) -> None:
        """Begin anew in a child: the descriptor that it inherited would keep its parent's lock."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1
        self._lock = threading.Lock()
        self._owner = 0

    def acquire(self, what: str) -> None:
        """Wait until nobody else holds it.

        Raises:
            DispatchError: If this thread holds it: it would wait for itself.
            StoreBusyError: If others hold it for too long.
        """
        me = threading.get_ident()
        if not self._lock.acquire(blocking=False):
            if self._owner == me:
                why = "this thread has a transaction of the store open, and would wait for itself"
                raise DispatchError(what, why, "Use the transaction, or do it when it is over.")
            if not self._lock.acquire(timeout=self._timeout):
                raise self._busy(what)
        self._owner = me
        try:
            self._lock_file(what)
        except BaseException:
            self._owner = 0
            self._lock.release()
            raise

    def is_mine(self) -> bool:
        """Say whether this thread holds it."""
        return self._owner == threading.get_ident()

    def release(self) -> None:
        """Let others have it. In a child it is the parent's, and stays so."""
        if not self.is_mine():
            return
        self._owner = 0
        if self._fd >= 0 and sys.platform != "win32":
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        self._lock.release()

    def _busy(self, what: str) -> StoreBusyError:
        return StoreBusyError(what, f"others have kept the store locked for {self._timeout:g} s")

    def _lock_file(self, what: str) -> None:
        if self._path is None or sys.platform == "win32":
            return
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        pause, end = _FIRST_PAUSE, None
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                # flock() has no time limit; to ask often is as fast as to be woken.
                end = end or time.monotonic() + self._timeout
                if time.monotonic() >= end:
                    raise self._busy(what) from None
                time.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
            except OSError as error:
                raise StoreUnavailableError(what, f"{error.strerror} ({self._path})") from error
            else:
                return

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
