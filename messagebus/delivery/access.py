"""How a store comes to its database: connections, lent for reading or in a transaction, and what their errors mean."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from messagebus.delivery.connection import Connection, Pool

__all__ = ["Access"]


class Access(ABC):
    """Lends connections. ``what`` says what they are lent for, as errors tell it: "Cannot ``what``: why."."""

    def __init__(self) -> None:
        self._pool = Pool(self._connect, self._close, self._restart)

    @abstractmethod
    def _restart(self) -> None:
        """Begin anew in a forked child."""

    @abstractmethod
    def _connect(self) -> Connection:
        """Open a connection."""

    @abstractmethod
    def _meaning(self, error: Exception, what: str) -> Exception | None:
        """Return what an error of the driver is to the caller: "Cannot ``what``: why."; None if it is his own."""

    def _close(self, connection: Connection) -> None:
        connection.close()

    @abstractmethod
    def _lock(self, what: str) -> None:
        """Wait until this thread may write, where only one can."""

    @abstractmethod
    def _unlock(self) -> None:
        """Let others write."""

    def _read(self, what: str) -> AbstractContextManager[Connection]:
        return self._connection(what)

    @contextmanager
    def _connection(self, what: str) -> Iterator[Connection]:
        connection, is_sound = None, False
        try:
            connection = self._pool.borrow()
            yield connection
            is_sound = True
        except Exception as error:
            meant = self._meaning(error, what)
            is_sound = meant is None
            if meant is None:
                raise
            raise meant from error
        finally:
            if connection is not None:
                self._pool.give_back(connection, is_sound=is_sound)

    @contextmanager
    def _write(self, what: str, *, is_durable: bool = True) -> Iterator[Connection]:
        with self._connection(what) as connection:
            self._lock(what)
            try:
                self._keep_time(connection)
                connection.begin(is_durable=is_durable)
                try:
                    yield connection
                    connection.commit()
                except BaseException:
                    connection.rollback()
                    raise
            finally:
                self._unlock()

    def _keep_time(self, connection: Connection) -> None:  # noqa: B027 - most have nothing to do
        """Set right what is kept, if somebody has set the clock since."""

    def _once(self, what: str) -> AbstractContextManager[Connection]:
        """Lend a connection for one statement that writes, and what follows from it."""
        return self._write(what)
