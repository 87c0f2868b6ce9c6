"""A store in PostgreSQL, which many machines share."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any, Final

from messagebus.delivery.connection import Connection, Row
from messagebus.delivery.schema import CHECKS, POSTGRES, VERSION, Insert, Update, upgrade
from messagebus.delivery.sql import RETENTION, TIMEOUT, SqlStore
from messagebus.delivery.timekeeping import running
from messagebus.errors import (
    ConfigurationError,
    DispatchError,
    StoreBusyError,
    StoreFileError,
    StoreUnavailableError,
)

try:
    import psycopg
    import sqlalchemy
    from psycopg.pq import TransactionStatus
    from sqlalchemy import exc
except ImportError as missing:
    why = f"{missing.name} is not installed"
    remedy = "Install it: pip install 'pydantic-messagebus[postgres]'."
    raise ConfigurationError("open a store on PostgreSQL", why, remedy) from None

__all__ = ["PostgresStore"]

# The lock has one number for each table of messages, which no other use of such locks is likely to take. Without the
# setting a planner that has no statistics yet sorts all that waits for a key, instead of reading an index from its end.
_LINE: Final = """
    SELECT pg_advisory_xact_lock(7824502126 * 1000000000 + CAST(CAST(CAST('mb_message' AS regclass) AS oid) AS bigint)),
    set_config('enable_bitmapscan', 'off', true)
"""
_SCHEMA_LINE: Final = "SELECT pg_advisory_xact_lock(7824502126)"


_BEGIN: Final = "BEGIN ISOLATION LEVEL READ COMMITTED"
_SETTINGS: Final = "SELECT set_config('lock_timeout', :timeout, false)"
_SERVER: Final = """
    SELECT CAST(extract(epoch FROM clock_timestamp()) AS double precision), current_setting('synchronous_commit')
"""


class PostgresConnection:
    """One connection to a server, as the verbs of a store need it."""

    def __init__(self, core: sqlalchemy.Connection) -> None:
        self.core = core
        self.raw: psycopg.Connection[Row] = core.connection.driver_connection  # type: ignore[assignment]

    # The library's own statements go to the driver: Core would take as long again for each as the server does.

    def rows(self, sql: str, parameters: Mapping[str, Any] = {}) -> list[Row]:
        return self.raw.execute(_STATEMENTS[sql], parameters).fetchall()

    def change(self, sql: str, parameters: Mapping[str, Any]) -> int:
        return self.raw.execute(_STATEMENTS[sql], parameters).rowcount

    def many(self, statement: Insert | Update, rows: Sequence[Row]) -> int:
        return self.change(statement.postgres, {"rows": statement.as_json(rows)})

    def execute(self, statement: str, parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> list[Row]:
        result = self.core.execute(sqlalchemy.text(statement), parameters or None)
        rows = [tuple(row) for row in result] if result.returns_rows else []
        if self.raw.info.transaction_status == TransactionStatus.IDLE:
            why = "the statement has ended it"
            raise DispatchError("go on with this transaction", why, "Leave BEGIN, COMMIT and ROLLBACK to the store.")
        return rows

    def array(self, values: Sequence[Any]) -> Any:
        return POSTGRES.array(values)

    def wait_in_line(self) -> None:
        self.rows(_LINE)

    def begin(self, *, is_durable: bool = True) -> None:
        self.raw.execute(_BEGIN if is_durable else f"{_BEGIN}; SET LOCAL synchronous_commit = off")

    def commit(self) -> None:
        if self.raw.info.transaction_status == TransactionStatus.INERROR:
            why = "a statement in it has failed, and PostgreSQL would roll it back without a word"
            raise DispatchError("commit a transaction", why, "Have what may fail in a savepoint().")
        self.raw.execute("COMMIT")

    def rollback(self) -> None:
        with suppress(psycopg.Error):
            self.raw.execute("ROLLBACK")

    def close(self) -> None:
        with suppress(exc.SQLAlchemyError):
            self.core.close()


class _Statements(dict[str, bytes]):
    def __missing__(self, sql: str) -> bytes:
        statement = self[sql] = _PARAMETER.sub(r"%(\1)s", POSTGRES.translate(sql)).encode()
        return statement


_PARAMETER: Final = re.compile(r":(\w+)")
_STATEMENTS: Final = _Statements()


class PostgresStore(SqlStore):
    """A store in the tables of a PostgreSQL database, in the first schema of its search path.

    Leases, and what is due, go by the clock of the server: how far it is from one here that nobody can set is measured
    with each connection. A send whose connection is lost while it commits may have been stored all the same; with a
    ``dedup`` key, or an envelope with an id, it can be repeated without harm.

    Args:
        address: ``user:password@host:port/database?option=...``, as in a URL of SQLAlchemy.
        clock: seconds since the epoch, instead of the server's clock; for tests.
        retention: seconds for which workers keep the history of finished messages.
        timeout: seconds to wait for a lock, and for a connection.

    Raises:
        StoreFileError: If there are tables of others under our names, or those of a newer version.
        StoreUnavailableError: If the server cannot be reached.
    """

    def __init__(
        self,
        address: str,
        *,
        clock: Callable[[], float] = time.time,
        retention: float = RETENTION,
        timeout: float = TIMEOUT,
    ) -> None:
        self._timeout = timeout
        self._skew = 0.0
        try:
            url = sqlalchemy.make_url(f"postgresql+psycopg://{address}")
        except (exc.ArgumentError, ValueError):
            remedy = "Write postgresql+psycopg://user@host/database."
            raise ConfigurationError("open a store", "its address is no URL", remedy) from None
        self._engine = sqlalchemy.create_engine(
            url,
            isolation_level="AUTOCOMMIT",
            poolclass=sqlalchemy.NullPool,
            hide_parameters=True,
            connect_args={"connect_timeout": max(1, round(timeout))},
        )
        super().__init__(self._server_time if clock is time.time else clock, retention)
        with self._write("open a store on PostgreSQL") as connection:
            _prepare_schema(connection)

    def _server_time(self) -> float:
        return running() + self._skew

    def _connect(self) -> Connection:
        connection = PostgresConnection(self._engine.connect())
        connection.rows(_SETTINGS, {"timeout": f"{round(self._timeout * 1000)}ms"})
        before = running()
        server, durability = connection.rows(_SERVER)[0]
        self._skew = server - (before + running()) / 2
        if durability == "off":  # Then what was acknowledged could be lost (law D1).
            connection.change("SET synchronous_commit = on", {})
        return connection

    def _once(self, what: str) -> AbstractContextManager[Connection]:
        return self._connection(what)

    def _lock(self, what: str) -> None:
        """Any number may write."""

    def _unlock(self) -> None:
        """Nobody was kept from it."""

    def _meaning(self, error: Exception, what: str) -> Exception | None:
        cause = error.orig if isinstance(error, exc.DBAPIError) else error
        meant = _meaning(cause, what) if isinstance(cause, psycopg.Error) else None
        if isinstance(meant, StoreUnavailableError):
            self._pool.close_idle()
        return meant

    def close(self) -> None:
        super().close()
        self._engine.dispose()


def _prepare_schema(connection: Connection) -> None:
    connection.rows(_SCHEMA_LINE)
    ours = "SELECT to_regclass('mb_meta') IS NOT NULL, to_regclass('mb_message') IS NOT NULL"
    has_meta, has_messages = connection.rows(ours)[0]
    if has_meta:
        _check_schema(connection)
    elif has_messages:
        raise _unfit("its table mb_message is none of this library", "Use another database, or another schema.")
    else:
        for statement in POSTGRES.tables():
            connection.change(statement, {})


def _check_schema(connection: Connection) -> None:
    version = connection.rows("SELECT max(version) FROM mb_meta")[0][0]
    if version is None or version < 1:
        raise _unfit("its version is none", "Restore a backup, or use another schema.")
    if version > VERSION:
        raise _unfit(f"its tables are of version {version}, newer than {VERSION}", "Update pydantic-messagebus.")
    try:
        for statement in upgrade(version):
            connection.change(statement, {})
        for check in CHECKS:
            connection.rows(check)
    except psycopg.ProgrammingError as error:
        why = f"its tables are not those of version {version} ({error})"
        raise _unfit(why, "Restore a backup, or use another schema.") from None


def _unfit(why: str, remedy: str) -> StoreFileError:
    return StoreFileError("open a store on PostgreSQL", why, remedy)


# Errors

_BUSY: Final = {
    "55P03": "others kept it locked for too long",
    "40P01": "it and others waited for each other",
    "40001": "others changed the same at the same time",
}
_UNAVAILABLE: Final = {
    "08": "the connection was lost",
    "25006": "the server is read-only",
    "28": "the server does not let us in",
    "3D": "the server has no such database",
    "53": "the server has no more room, or no more connections",
    "57": "the server is shutting down or starting",
    "58": "the server has a problem with its disk",
}


def _meaning(error: psycopg.Error, what: str) -> Exception | None:
    """Return what an error of PostgreSQL is to the caller; None if it is the caller's own."""
    state = error.sqlstate
    if state is None:
        is_lost = isinstance(error, psycopg.OperationalError)
        return StoreUnavailableError(what, "the server cannot be reached") if is_lost else None
    if state in _BUSY:
        return StoreBusyError(what, _BUSY[state])
    known = _UNAVAILABLE.get(state) or _UNAVAILABLE.get(state[:2])
    return StoreUnavailableError(what, f"{known} ({state})") if known else None
