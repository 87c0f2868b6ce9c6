"""Group commit: what many tasks want to store at the same time shares one transaction."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Final

from messagebus.delivery.connection import Row, closed
from messagebus.errors import ConflictError

__all__ = ["Group"]

_MOST: Final = 500
"""Messages in one commit."""

_Job = tuple[Row, asyncio.AbstractEventLoop, "asyncio.Future[str]"]


class Group:
    """A thread that stores what tasks hand to it; while it waits for the disk, the next group gathers.

    Args:
        store: writes messages in one transaction; returns an id, or an error, for each.
    """

    def __init__(self, store: Callable[[Sequence[Row]], Sequence[str | ConflictError]]) -> None:
        self._store = store
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="messagebus-group-commit", daemon=True)
        self._thread.start()

    async def add(self, row: Row) -> str:
        """Return the id of the message when it is stored."""
        loop = asyncio.get_running_loop()
        stored: asyncio.Future[str] = loop.create_future()
        with self._lock:
            if self._is_closed:
                raise closed()
            self._jobs.put((row, loop, stored))
        return await stored

    def close(self) -> None:
        """Store what was handed over, then end."""
        with self._lock:
            self._is_closed = True
            self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        is_open = True
        while is_open:
            jobs = [self._jobs.get()]
            try:
                while len(jobs) < _MOST:
                    jobs.append(self._jobs.get_nowait())
            except Empty:
                pass
            is_open = None not in jobs
            self._commit([job for job in jobs if job is not None])

    def _commit(self, jobs: list[_Job]) -> None:
        answers: Sequence[Any]
        try:
            answers = self._store([row for row, _, _ in jobs]) if jobs else ()
        except Exception as error:  # noqa: BLE001 - it is the senders' to handle
            answers = [error] * len(jobs)
        loops: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[str], Any]]] = {}
        for (_, loop, stored), answer in zip(jobs, answers, strict=True):
            loops.setdefault(loop, []).append((stored, answer))
        for loop, settled in loops.items():
            with suppress(RuntimeError):  # A loop that is closed waits for nothing.
                loop.call_soon_threadsafe(_answer, settled)


def _answer(settled: list[tuple["asyncio.Future[str]", Any]]) -> None:
    for stored, answer in settled:
        if stored.done():
            continue
        if isinstance(answer, str):
            stored.set_result(answer)
        else:
            stored.set_exception(answer)
