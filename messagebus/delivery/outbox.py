"""Messages in the transaction of an SQLAlchemy session, and sessions in the transaction of a store."""

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from messagebus.delivery.connection import Row
from messagebus.delivery.schema import POSTGRES, SQLITE, Insert, Update
from messagebus.delivery.sending import add_all, prepare, row_of
from messagebus.delivery.sqlite import driver
from messagebus.delivery.store import Transaction
from messagebus.envelope import Envelope
from messagebus.errors import ConfigurationError
from messagebus.messages import Message

try:
    import sqlalchemy
    from sqlalchemy.orm import Session
except ImportError:
    remedy = "Install it: pip install 'pydantic-messagebus[sqlalchemy]'."
    raise ConfigurationError("send in a session", "SQLAlchemy is not installed", remedy) from None

if TYPE_CHECKING:
    from sqlalchemy.orm import scoped_session

__all__ = ["send_in", "session_in"]


def send_in(
    session: "Session | scoped_session[Session] | sqlalchemy.Connection",
    message: Message,
    *,
    delay: float = 0.0,
    at: datetime | None = None,
    key: str | None = None,
    dedup: str | None = None,
    envelope: Envelope | None = None,
) -> str:
    """Do as `Store.send` in the transaction of a session: the message is sent if that commits, and never if not.

    The session's database, SQLite or PostgreSQL, must be one that `open_store` has opened once: the tables are there
    then. With an AsyncSession: ``await session.run_sync(send_in, message)``. Errors of the database are SQLAlchemy's,
    as those of the session's other statements.

    On SQLite up to 3.51.2 two connections that write and checkpoint at one instant may damage the file; the stores of
    this library take turns, which a session does not know of. Where both write at the same time, install the extra
    ``sqlite``, and have the session use what it brings too: ``create_engine(..., module=pysqlite3)``.

    Raises:
        UnwritableMessageError, ConflictError: As `Store.send`.
        ConfigurationError: If the session's database is of another kind, or its driver another SQLite than the stores'.
    """
    connection = session if isinstance(session, sqlalchemy.Connection) else session.connection()
    if connection.dialect.name not in _ENGINES:
        why, remedy = f"its database is {connection.dialect.name}", "Use SQLite or PostgreSQL, or a store of its own."
        raise ConfigurationError("send in a session", why, remedy)
    if connection.dialect.name == "sqlite":
        _check_driver(connection)
    sending = prepare(message, delay=delay, at=at, key=key, dedup=dedup, envelope=envelope)
    statements = _SessionStatements(connection)
    return add_all(statements, [row_of(sending, statements.now())])[0]


def _check_driver(connection: "sqlalchemy.Connection") -> None:
    """Refuse a second SQLite in one process: the two would not see each other's locks, and damage the file.

    Source: https://sqlite.org/howtocorrupt.html, 2.2.1.
    """
    raw = connection.connection.driver_connection
    theirs, ours = type(raw).__module__.partition(".")[0], driver.__name__
    if theirs != ours and not isinstance(raw, _Lent):
        why = f"it uses the SQLite of {theirs}, and the stores of this process use that of {ours}"
        raise ConfigurationError("send in a session", why, f"Use create_engine(..., module={ours}).")


_ENGINES: Final = {"sqlite": SQLITE, "postgresql": POSTGRES}


class _SessionStatements:
    """The shared statements, on the connection of a session."""

    def __init__(self, connection: "sqlalchemy.Connection") -> None:
        self._connection = connection
        self._engine = _ENGINES[connection.dialect.name]

    def now(self) -> int:
        """Return the time that counts for the store, in milliseconds: on PostgreSQL the server's."""
        if self._engine is SQLITE:
            return int(time.time() * 1000)
        now: int = self.rows(_NOW)[0][0]
        return now

    def rows(self, sql: str, parameters: Mapping[str, Any] = {}) -> list[Row]:
        found = self._connection.execute(sqlalchemy.text(self._engine.translate(sql)), parameters)
        return [tuple(one) for one in found]

    def many(self, statement: Insert | Update, rows: Sequence[Row]) -> int:
        if self._engine is SQLITE:
            return self._connection.exec_driver_sql(statement.sqlite, [*rows]).rowcount
        parameters = {"rows": statement.as_json(rows)}
        return self._connection.execute(sqlalchemy.text(statement.postgres), parameters).rowcount

    def array(self, values: Sequence[Any]) -> Any:
        return self._engine.array(values)


def session_in(transaction: Transaction) -> Session:
    """Return a session whose rows are written in a transaction of a store: ``session_in(current_transaction())``.

    In a handler that a worker runs they are so committed together with the acknowledgement of its message (law D3).
    The session's own ``commit`` keeps what it wrote for that moment, and its ``rollback`` undoes it at once. It is over
    when the transaction is: load what you need in each handler anew.

    Raises:
        DispatchError: If the transaction is over.
        ConfigurationError: If the transaction is one of a store that keeps no tables.
    """
    lender: Any = getattr(transaction, "connection", None)
    if lender is None:
        why = f"{type(transaction).__name__} has no connection to a database"
        raise ConfigurationError("open a session", why, "Use a store of open_store().")
    connection = lender.core if hasattr(lender, "core") else _lent(lender)
    if not connection.in_transaction():
        connection.begin()  # It is open already; so the session knows, and begins with a savepoint.
    return Session(connection, join_transaction_mode="create_savepoint")


def _lent(lender: Any) -> "sqlalchemy.Connection":
    """Return the connection of a store on SQLite as one of SQLAlchemy."""
    if lender not in _LENT:
        raw: Any = _Lent(lender.raw)
        engine = sqlalchemy.create_engine("sqlite://", creator=lambda: raw, poolclass=sqlalchemy.NullPool)
        _LENT[lender] = engine.connect()
    return _LENT[lender]


class _Lent:
    """A driver's connection that whoever borrows it may use, and can neither commit, nor roll back, nor close."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    def commit(self) -> None: ...

    def rollback(self) -> None: ...

    def close(self) -> None: ...


_LENT: Final[WeakKeyDictionary[Any, sqlalchemy.Connection]] = WeakKeyDictionary()

_NOW: Final = "SELECT CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS bigint)"
