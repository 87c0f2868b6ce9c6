"""A store in an SQLite file, beside the application's own tables if it likes, or in memory."""

import os
import re
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
from messagebus.delivery.schema import CHECKS, SQLITE, VERSION, Insert, Update, upgrade
from messagebus.delivery.sql import RETENTION, TIMEOUT, SqlStore
from messagebus.delivery.sqlite_driver import driver
from messagebus.delivery.sqlite_errors import DAMAGED, FAILED, UNAVAILABLE, meaning, unfit
from messagebus.delivery.store import Transaction
from messagebus.delivery.timekeeping import Watch, can_watch
from messagebus.errors import DispatchError, StoreBusyError, StoreFileError, StoreUnavailableError

__all__ = ["APPLICATION_ID", "MemoryStore", "SqliteStore"]

APPLICATION_ID: Final = 0x6D62_7573  # "mbus"
_CHECKED_AT_OPEN: Final = 64 * 2**20
"""Bytes: larger files are not read through when they are opened, only what of them is used."""
_SHRUNK_AT_ONCE: Final = 256
"""Pages; a file that has fewer is left as it is."""
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
        if len(rows) == 1:
            return int(self.raw.execute(statement.sqlite, rows[0]).rowcount)
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
        self.sync(is_durable=is_durable)
        self.raw.execute("BEGIN IMMEDIATE")

    def sync(self, *, is_durable: bool) -> None:
        """Say whether commits wait for the disk."""
        if is_durable is not self._is_durable:
            self.raw.execute("PRAGMA synchronous = FULL" if is_durable else "PRAGMA synchronous = NORMAL")
            self._is_durable = is_durable

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
        self._watch = Watch() if clock is time.time and can_watch() else None
        super().__init__(clock, retention)
        try:
            try:
                self._prepare()
            except StoreFileError:  # SQLite says of a page that it is damaged even if it only could not be read.
                self._prepare()
        except UnicodeDecodeError:  # SQLite quotes what is damaged, and its driver cannot read that.
            self.close()
            raise unfit(self._path, DAMAGED, "Restore a backup, or name another file.") from None
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        with self._read("open the store") as connection, self._alone("open the store"):
            _prepare_file(cast("SqliteConnection", connection), self._path)
            self._keep_time(connection)

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
    def _once(self, what: str) -> Iterator[Connection]:
        with self._connection(what) as connection:
            self._lock(what)
            try:
                self._keep_time(connection)
                cast("SqliteConnection", connection).sync(is_durable=True)
                yield connection
            finally:
                self._unlock()

    def _keep_time(self, connection: Connection) -> None:
        if self._watch is None or self._watch.is_right():
            return
        with _transaction(connection):
            epoch = self._watch.set_right(connection)
        self._watch.note(epoch)

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
        return meaning(error, what, self._path)

    def claim(self, limit: int, lease: float, *, transaction: Transaction | None = None) -> Claim:
        # Who finds nothing must not keep others waiting for the file's one write lock.
        if transaction is None:
            with self._read("look for what is due") as connection:
                if not may_pick(connection, self._now()):
                    return Claim("", ())
        return super().claim(limit, lease, transaction=transaction)

    def prune(self, older_than: float) -> int:
        count = super().prune(older_than)
        while self._has_too_much_room():
            # A bit at a time, so that others are not kept from writing.
            with self._write("shrink the file", is_durable=False) as connection:
                cast("SqliteConnection", connection).raw.execute(
                    f"PRAGMA incremental_vacuum({_SHRUNK_AT_ONCE})"
                ).fetchall()
        return count

    def _has_too_much_room(self) -> bool:
        """Say whether more than a third of the file is empty, which can be given back."""
        with self._read("look for room") as connection:
            raw = cast("SqliteConnection", connection).raw
            names = ("auto_vacuum", "freelist_count", "page_count")
            is_shrinkable, empty, pages = (raw.execute(f"PRAGMA {name}").fetchone()[0] for name in names)
        return bool(is_shrinkable) and empty * 3 > pages and pages > _SHRUNK_AT_ONCE

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
        self._watch = None
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
        _check_pages(raw, path)
    ours = {name for name in tables if name.startswith("mb_")}
    if application == APPLICATION_ID and version > VERSION:
        raise _newer(path, version)
    if ours:
        _check_tables(connection, ours, path, is_alone=application == APPLICATION_ID)
    elif not tables:  # Afterwards it would be too late.
        raw.execute("PRAGMA auto_vacuum = INCREMENTAL")
    if raw.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
        raise unfit(path, "its journal cannot be a write-ahead log", "Name a file on a local disk.")
    if not ours:
        _create_tables(connection, is_alone=not tables and application == 0 and version == 0)


def _check_pages(raw: Any, path: str) -> None:
    found = raw.execute("PRAGMA quick_check(1)").fetchone()[0]
    failed = re.search(r"error code=(\d+)", found)
    if failed and int(failed[1]) & 0xFF == FAILED:  # What cannot be read now need not be damaged.
        raise StoreUnavailableError("open the store", f"{UNAVAILABLE[FAILED]} ({path})")
    if "Failed to read" in found:  # Of a page that tells of others, without a code: a disk that failed does so again.
        raw.execute("PRAGMA shrink_memory")
        raw.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if found != "ok":
        raise unfit(path, f"it is damaged ({found})", "Restore a backup, or name another file.")


def _check_tables(connection: SqliteConnection, ours: set[str], path: str, *, is_alone: bool) -> None:
    if "mb_meta" not in ours:
        raise unfit(path, f"its table {min(ours)} is none of this library", "Name another file.")
    try:
        version = connection.raw.execute("SELECT max(version) FROM mb_meta").fetchone()[0]
        if not isinstance(version, int) or version < 1:
            raise unfit(path, "its version is none", "Restore a backup.")
        if version > VERSION:
            raise _newer(path, version)
        if version < VERSION:
            _upgrade(connection, version, is_alone=is_alone)
        for check in CHECKS:
            connection.rows(check)
    except driver.OperationalError as error:
        raise unfit(path, f"its tables are not those of version {VERSION} ({error})", "Restore a backup.") from None


@contextmanager
def _transaction(connection: Connection) -> Iterator[None]:
    connection.begin()
    try:
        yield
        connection.commit()
    except BaseException:
        connection.rollback()
        raise


def _create_tables(connection: SqliteConnection, *, is_alone: bool = True) -> None:
    with _transaction(connection):
        for statement in SQLITE.tables():
            connection.raw.execute(statement)
        if is_alone:  # Otherwise the application may use these for itself.
            connection.raw.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.raw.execute(f"PRAGMA user_version = {VERSION}")


def _upgrade(connection: SqliteConnection, version: int, *, is_alone: bool) -> None:
    with _transaction(connection):
        for statement in upgrade(version):
            connection.raw.execute(statement)
        if is_alone:
            connection.raw.execute(f"PRAGMA user_version = {VERSION}")


def _newer(path: str, version: int) -> StoreFileError:
    why = f"its tables are of version {version}, newer than {VERSION}"
    return unfit(path, why, "Update pydantic-messagebus.")
