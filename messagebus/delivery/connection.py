"""What the verbs of a store need of a database: a connection, and a pool of them that is safe in a forked child."""

import ctypes
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol
from weakref import WeakSet

from messagebus.delivery.schema import Insert, Update
from messagebus.errors import DispatchError

__all__ = ["Connection", "Pool", "Row", "Statements", "closed"]

Row = tuple[Any, ...]


class Statements(Protocol):
    """Executes the statements that the engines share."""

    def rows(self, sql: str, parameters: Mapping[str, Any] = ...) -> list[Row]:
        """Execute a statement; return its rows."""
        ...

    def many(self, statement: Insert | Update, rows: Sequence[Row]) -> int:
        """Write rows, at least one; return how many were written."""
        ...

    def array(self, values: Sequence[Any]) -> Any:
        """Return values as what stands for a list among parameters."""
        ...


class Connection(Statements, Protocol):
    """One connection to a database. Outside of a transaction each statement is its own."""

    def change(self, sql: str, parameters: Mapping[str, Any]) -> int:
        """Execute one of the shared statements; return how many rows it changed."""
        ...

    def execute(self, statement: str, parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> list[Row]:
        """Execute a statement of the application."""
        ...

    def wait_in_line(self) -> None:
        """Let no two transactions be past this point at once; where only one can write that is so already."""
        ...

    def begin(self, *, is_durable: bool = True) -> None:
        """Begin a transaction. One that is not durable is committed without waiting for the disk.

        A crash of the machine may undo it, but then nothing that was committed after it is there either.
        """
        ...

    def commit(self) -> None: ...

    def rollback(self) -> None:
        """Undo what is open; never raises."""
        ...

    def close(self) -> None: ...


def closed() -> DispatchError:
    """Return the error of a store that is used after it was closed."""
    return DispatchError("use this store", "it is closed", "Open it again with open_store().")


class Pool:
    """Connections that are open, and who uses one now. No two threads use one at the same time.

    Before a fork all are closed, so that a child inherits none: SQLite's locks, and a server's session, belong to
    the process that opened them. One that a transaction keeps busy meanwhile is left to the parent alone.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        close: Callable[[Connection], None],
        restart: Callable[[], None],
    ) -> None:
        self._connect, self._close, self._restart = connect, close, restart
        self.is_closed = False
        self.was_busy_at_fork = False
        self._begin()
        _POOLS.add(self)

    def _begin(self) -> None:
        self._process = os.getpid()
        self._idle: list[Connection] = []
        self._users: list[int] = []
        self._busy: list[Connection] = []
        self._changed = threading.Condition(threading.Lock())
        self._is_paused = False

    def borrow(self) -> Connection:
        """Return a connection that nobody else uses until it is given back."""
        me = threading.get_ident()
        with self._changed:
            while self._is_paused and me not in self._users:
                self._changed.wait()
            if self.is_closed:
                raise closed()
            self._users.append(me)
        try:
            connection = self._idle.pop() if self._idle else self._connect()
        except BaseException:
            self._leave(me)
            raise
        self._busy.append(connection)
        return connection

    def give_back(self, connection: Connection, *, is_sound: bool) -> None:
        """Take a connection back; one that is not sound is closed."""
        if connection not in self._busy:
            return  # It is the parent's, and this is a child that was forked while it was in use.
        self._busy.remove(connection)
        try:
            if is_sound and not self.is_closed:
                self._idle.append(connection)
            else:
                self._close(connection)
        finally:
            self._leave(threading.get_ident())

    def _leave(self, user: int) -> None:
        with self._changed:
            self._users.remove(user)
            if self._is_paused:
                self._changed.notify_all()

    def close(self) -> None:
        """Close what is idle now, and what is in use as soon as it comes back."""
        self.is_closed = True
        self.close_idle()

    def close_idle(self) -> None:
        """Close what nobody uses."""
        while self._idle:
            self._close(self._idle.pop())

    # Forks

    def pause(self) -> None:
        """Let nobody begin anything; close all that is not kept busy for longer than `_PATIENCE`."""
        me, end = threading.get_ident(), time.monotonic() + _PATIENCE
        with self._changed:
            self._is_paused = True
            while set(self._users) - {me} and time.monotonic() < end:
                self._changed.wait(max(0.0, end - time.monotonic()))
        if not set(self._users) - {me}:
            self.close_idle()

    def resume(self) -> None:
        """Go on in the parent."""
        with self._changed:
            self._is_paused = False
            self._changed.notify_all()

    def restart(self) -> None:
        """Begin anew in the child, and let go of nothing that is the parent's: to close it would disturb the parent."""
        for connection in [*self._busy, *self._idle]:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
        self.was_busy_at_fork = self.was_busy_at_fork or bool(self._busy)
        self._begin()
        self._restart()


_PATIENCE: Final = 5.0
_POOLS: Final[WeakSet[Pool]] = WeakSet()


def _each(verb: Callable[[Pool], None]) -> Callable[[], None]:
    def apply() -> None:
        for pool in [*_POOLS]:
            verb(pool)

    return apply


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_each(Pool.pause), after_in_parent=_each(Pool.resume), after_in_child=_each(Pool.restart)
    )
