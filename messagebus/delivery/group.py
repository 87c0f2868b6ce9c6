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

_Job = tuple[Row, "asyncio.Future[str]"]
_Batch = tuple[asyncio.AbstractEventLoop, list[_Job]]


class Group:
    """A thread that stores what tasks hand to it; while it waits for the disk, the next group gathers.

    What the tasks of a loop want to store within one round of it is handed over together.

    Args:
        store: writes messages in one transaction; returns an id, or an error, for each.
    """

    def __init__(self, store: Callable[[Sequence[Row]], Sequence[str | ConflictError]]) -> None:
        self._store = store
        self._gathering: dict[asyncio.AbstractEventLoop, list[_Job]] = {}
        self._batches: SimpleQueue[_Batch | None] = SimpleQueue()
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
            jobs = self._gathering.get(loop)
            if jobs is None:
                jobs = self._gathering[loop] = []
                loop.call_soon(self._hand_over, loop)
            jobs.append((row, stored))
        return await stored

    def _hand_over(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            jobs = self._gathering.pop(loop, None)
            if jobs is not None:
                self._batches.put((loop, jobs))

    def close(self) -> None:
        """Store what was gathered, then end."""
        with self._lock:
            self._is_closed = True
            for batch in self._gathering.items():
                self._batches.put(batch)
            self._gathering.clear()
            self._batches.put(None)
        self._thread.join()

    def _run(self) -> None:
        is_open = True
        while is_open:
            batches = [self._batches.get()]
            try:
                while sum(len(batch[1]) for batch in batches if batch is not None) < _MOST:
                    batches.append(self._batches.get_nowait())
            except Empty:
                pass
            is_open = None not in batches
            self._commit([batch for batch in batches if batch is not None])

    def _commit(self, batches: list[_Batch]) -> None:
        rows = [row for _, jobs in batches for row, _ in jobs]
        answers: Sequence[Any]
        try:
            answers = self._store(rows) if rows else ()
        except Exception as error:  # noqa: BLE001 - it is the senders' to handle
            answers = [error] * len(rows)
        each = iter(answers)
        for loop, jobs in batches:
            settled = [(stored, next(each)) for _, stored in jobs]
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
