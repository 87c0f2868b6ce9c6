"""A store in an SQLite file, beside the application's own tables if it likes, or in memory."""

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from itertools import chain
from typing import Any, Final, cast

from messagebus.delivery.claims import may_pick
from messagebus.delivery.connection import Connection, Row
from messagebus.delivery.entries import Claim
from messagebus.delivery.filelock import FileLock
from messagebus.delivery.schema import CHECKS, SQLITE, VERSION, Insert, Update
from messagebus.delivery.sql import RETENTION, TIMEOUT, SqlStore
from messagebus.delivery.store import Transaction
from messagebus.errors import DispatchError, StoreBusyError, StoreFileError, StoreUnavailableError

__all__ = ["APPLICATION_ID", "MemoryStore", "SqliteStore", "has_wal_reset_bug"]


def has_wal_reset_bug(version: tuple[int, ...]) -> bool:
    """Say whether two connections of this SQLite that write and checkpoint at one instant may damage the file.

    Source: https://sqlite.org/wal.html, "The WAL-Reset Bug".
    """
    is_fixed = version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)
    return version >= (3, 7) and not is_fixed


driver: Any = sqlite3
"""The module that speaks to SQLite: the standard library's, or that of the extra ``sqlite`` where it is the sounder."""
if has_wal_reset_bug(sqlite3.sqlite_version_info):
    with suppress(ImportError):
        import pysqlite3  # pyright: ignore[reportMissingImports] - an extra

        driver = pysqlite3

APPLICATION_ID: Final = 0x6D62_7573  # "mbus"
_CHECKED_AT_OPEN: Final = 64 * 2**20
"""Bytes: larger files are not read through when they are opened, only what of them is used."""
_SETTINGS: Final = (
    "PRAGMA trusted_schema = OFF",
    "PRAGMA cell_size_check = ON",
    "PRAGMA journal_size_limit = 4194304",
)


class SqliteConnection:
    """One connection to a file, as the verbs of a store need it."""

    def __init__(self, raw: Any) -> None:
        self.raw = raw
        self._translated = _TRANSLATED
        self._process = os.getpid()
        self._is_durable: bool | None = None  # Not said yet: what SQLite takes then depends on how it was built.

    def rows(self, sql: str, parameters: Mapping[str, Any] = {}) -> list[Row]:
        rows: list[Row]
        try:
            rows = self.raw.execute(self._translated[sql], parameters).fetchall()
        except UnicodeDecodeError:  # Of one driver; the other says so itself.
            raise driver.OperationalError("cannot decode a text") from None
        return rows

    def change(self, sql: str, parameters: Mapping[str, Any]) -> int:
        count: int = self.raw.execute(self._translated[sql], parameters).rowcount
        return count

    def many(self, statement: Insert | Update, rows: Sequence[Row]) -> int:
        count, done = 0, 0
        # With each step of SQLite a thread has to win Python's lock back, which a busy one does not yield for 5 ms.
        for size in _AT_ONCE if isinstance(statement, Insert) else ():
            while len(rows) - done >= size:
                values = [*chain.from_iterable(rows[done : done + size])]
                count += self.raw.execute(_inserting(statement, size), values).rowcount
                done += size
        if done < len(rows):
            count += self.raw.executemany(statement.sqlite, rows[done:]).rowcount
        return count

    def execute(self, statement: str, parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> list[Row]:
        if parameters and not isinstance(parameters, Mapping):
            self.raw.executemany(statement, parameters)
            rows: list[Row] = []
        else:
            rows = self.raw.execute(statement, parameters).fetchall()
        if not self.raw.in_transaction:
            why = "the statement has ended it"
            raise DispatchError("go on with this transaction", why, "Leave BEGIN, COMMIT and ROLLBACK to the store.")
        return rows

    def array(self, values: Sequence[Any]) -> Any:
        return SQLITE.array(values)

    def wait_in_line(self) -> None:
        """The file has one write lock."""

    def begin(self, *, is_durable: bool = True) -> None:
        if is_durable is not self._is_durable:
            self.raw.execute("PRAGMA synchronous = FULL" if is_durable else "PRAGMA synchronous = NORMAL")
            self._is_durable = is_durable
        self.raw.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        if self._process != os.getpid():
            why = "this process was forked while the transaction was open, and only its parent can commit it"
            raise DispatchError("commit a transaction", why, "Open a transaction in the child.")
        self.raw.execute("COMMIT")

    def rollback(self) -> None:
        if self._process == os.getpid() and self.raw.in_transaction:
            with suppress(driver.Error):
                self.raw.execute("ROLLBACK")

    def close(self) -> None:
        self.raw.close()


_AT_ONCE: Final = (100, 10)


@cache
def _inserting(statement: Insert, count: int) -> str:
    return statement.sqlite_of(count)


class _Translated(dict[str, str]):
    def __missing__(self, sql: str) -> str:
        translated = self[sql] = SQLITE.translate(sql)
        return translated


_TRANSLATED: Final = _Translated()


class SqliteStore(SqlStore):
    """A store in a file that any number of threads and processes of one machine share.

    Args:
        path: the file. It is created, readable by its owner alone, if there is none; a database of the application
            gets the store's tables beside its own. Not on a network file system.
        clock: seconds since the epoch.
        retention: seconds for which workers keep the history of finished messages.
        timeout: seconds to wait for others who keep the file locked.

    Raises:
        StoreFileError: If the file is no database, holds tables of others under our names or those of a newer version,
            or is damaged. It is left as it is.
    """

    has_one_writer = True

    def __init__(
        self,
        path: str,
        *,
        clock: Callable[[], float] = time.time,
        retention: float = RETENTION,
        timeout: float = TIMEOUT,
    ) -> None:
        self._path = os.path.realpath(path)
        self._timeout = timeout
        self._file_lock = FileLock(f"{self._path}-lock", timeout)
        super().__init__(clock, retention)
        try:
            with self._read("open the store") as connection, self._alone("open the store"):
                _prepare_file(cast("SqliteConnection", connection), self._path)
        except UnicodeDecodeError:  # SQLite quotes what is damaged, and its driver cannot read that.
            self.close()
            raise _unfit(self._path, _DAMAGED[_CORRUPT], "Restore a backup, or name another file.") from None
        except BaseException:
            self.close()
            raise

    def _connect(self) -> SqliteConnection:
        if self._pool.was_busy_at_fork:
            why = "the process was forked while a transaction was open, and SQLite in it has its parent's locks"
            raise DispatchError("use this store", why, "Fork when no transaction is open, or start the child anew.")
        with self._alone("open the store"):
            with suppress(FileExistsError):
                os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            raw = driver.connect(
                self._path, isolation_level=None, timeout=self._timeout, check_same_thread=False, cached_statements=256
            )
            try:
                for setting in _SETTINGS:
                    raw.execute(setting)
            except BaseException:
                raw.close()
                raise
        return SqliteConnection(raw)

    def _restart(self) -> None:
        super()._restart()
        self._file_lock.restart()

    def _close(self, connection: Connection) -> None:
        # Who closes a file last checkpoints it. Where another has the lock for so long, ours is not the last.
        with ExitStack() as stack:
            with suppress(StoreBusyError):
                stack.enter_context(self._alone("close the store"))
            connection.close()

    def _lock(self, what: str) -> None:
        self._file_lock.acquire(what)

    def _unlock(self) -> None:
        self._file_lock.release()

    @contextmanager
    def _alone(self, what: str) -> Iterator[None]:
        if self._file_lock.is_mine():
            yield
            return
        self._lock(what)
        try:
            yield
        finally:
            self._unlock()

    def _meaning(self, error: Exception, what: str) -> Exception | None:
        return _meaning(error, what, self._path)

    def claim(self, limit: int, lease: float, *, transaction: Transaction | None = None) -> Claim:
        # Who finds nothing must not keep others waiting for the file's one write lock.
        if transaction is None:
            with self._read("look for what is due") as connection:
                if not may_pick(connection, self._now()):
                    return Claim("", ())
        return super().claim(limit, lease, transaction=transaction)

    def close(self) -> None:
        super().close()
        if not self._file_lock.is_mine():
            self._file_lock.close()


class MemoryStore(SqliteStore):
    """A store like any other, in the memory of this process: for tests. In a forked child it is a copy of its own."""

    def __init__(
        self, *, clock: Callable[[], float] = time.time, retention: float = RETENTION, timeout: float = TIMEOUT
    ) -> None:
        self._path = ":memory:"
        self._file_lock = FileLock(None, timeout)
        self._raw = driver.connect(":memory:", isolation_level=None, check_same_thread=False)
        SqlStore.__init__(self, clock, retention)
        _create_tables(SqliteConnection(self._raw))

    def _connect(self) -> SqliteConnection:
        return SqliteConnection(self._raw)

    def _close(self, connection: Connection) -> None:
        """Keep it: there is no other."""

    def _restart(self) -> None:
        super()._restart()
        if self._raw.in_transaction:
            self._raw.execute("ROLLBACK")

    @contextmanager
    def _read(self, what: str) -> Iterator[Connection]:
        with self._connection(what) as connection, self._alone(what):
            yield connection

    def close(self) -> None:
        super().close()
        self._raw.close()


# The file


def _prepare_file(connection: SqliteConnection, path: str) -> None:
    """Make a file ready for a store, or leave it as it is and say why not."""
    raw = connection.raw
    application, version = (raw.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
    tables = {row[0] for row in raw.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if os.path.getsize(path) <= _CHECKED_AT_OPEN:
        found = raw.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise _unfit(path, f"it is damaged ({found})", "Restore a backup, or name another file.")
    ours = {name for name in tables if name.startswith("mb_")}
    if application == APPLICATION_ID and version > VERSION:
        raise _newer(path, version)
    if ours:
        _check_tables(connection, ours, path)
    if raw.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
        raise _unfit(path, "its journal cannot be a write-ahead log", "Name a file on a local disk.")
    if not ours:
        _create_tables(connection, is_alone=not tables and application == 0 and version == 0)


def _check_tables(connection: SqliteConnection, ours: set[str], path: str) -> None:
    if "mb_meta" not in ours:
        raise _unfit(path, f"its table {min(ours)} is none of this library", "Name another file.")
    try:
        version = connection.raw.execute("SELECT max(version) FROM mb_meta").fetchone()[0] or 0
        if version > VERSION:
            raise _newer(path, version)
        for check in CHECKS:
            connection.rows(check)
    except driver.OperationalError as error:
        raise _unfit(path, f"its tables are not those of version {VERSION} ({error})", "Restore a backup.") from None


def _create_tables(connection: SqliteConnection, *, is_alone: bool = True) -> None:
    connection.begin()
    try:
        for statement in SQLITE.tables():
            connection.raw.execute(statement)
        if is_alone:  # Otherwise the application may use these for itself.
            connection.raw.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.raw.execute(f"PRAGMA user_version = {VERSION}")
        connection.commit()
    except BaseException:
        connection.rollback()
        raise


def _newer(path: str, version: int) -> StoreFileError:
    why = f"its tables are of version {version}, newer than {VERSION}"
    return _unfit(path, why, "Update pydantic-messagebus.")


def _unfit(path: str, why: str, remedy: str) -> StoreFileError:
    return StoreFileError(f"open {path} as a store", why, remedy)


# Errors

_BUSY: Final = {5: "the database is locked by others", 6: "a table is locked by others"}
_UNAVAILABLE: Final = {
    3: "access is denied",
    7: "memory is exhausted",
    8: "the file or its folder is read-only",
    10: "the disk failed",
    13: "the disk is full",
    14: "the file cannot be opened",
    15: "the file's locks do not work",
}
_CORRUPT: Final = 11
_UNREADABLE: Final = ("decode", "unsupported file format")
_DAMAGED: Final = {_CORRUPT: "it is damaged", 26: "it is no SQLite database"}


def _meaning(error: Exception, what: str, path: str) -> Exception | None:
    """Return what an error of SQLite, or of the lock file, is to the caller; None if it is the caller's own."""
    if isinstance(error, OSError) and error.filename in (path, f"{path}-lock"):
        return StoreUnavailableError(what, f"{error.strerror} ({error.filename})")
    if not isinstance(error, driver.Error):
        return None
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    for cls, reasons in ((StoreBusyError, _BUSY), (StoreUnavailableError, _UNAVAILABLE)):
        if code in reasons:
            return cls(what, f"{reasons[code]} ({path})")
    # Damage that SQLite, or its driver, takes for a mistake of the caller's.
    is_unreadable = isinstance(error, driver.OperationalError) and any(words in str(error) for words in _UNREADABLE)
    why = _DAMAGED.get(_CORRUPT if is_unreadable else code)
    return None if why is None else _unfit(path, why, "Restore a backup, or name another file.")
