"""The tables, the port for whatever executes SQL, and its adapter for an SQLite file."""

import sqlite3
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

__all__ = ["Connect", "Connection", "create_tables", "opened", "transaction"]

_TABLES = """
CREATE TABLE IF NOT EXISTS product (sku TEXT PRIMARY KEY, version INTEGER);
CREATE TABLE IF NOT EXISTS batch (reference TEXT PRIMARY KEY, sku TEXT, quantity INTEGER, eta TEXT);
CREATE TABLE IF NOT EXISTS order_line (batch TEXT, order_id TEXT, sku TEXT, quantity INTEGER, UNIQUE (order_id, sku));
CREATE TABLE IF NOT EXISTS allocation_view (order_id TEXT, sku TEXT, batch TEXT, PRIMARY KEY (order_id, sku));
"""


class Connection(Protocol):
    """Executes a statement with named parameters, and returns its rows. A transaction of a store is one."""

    def execute(self, statement: str, parameters: Mapping[str, Any] = ..., /) -> list[tuple[Any, ...]]: ...


Connect = Callable[[], AbstractContextManager[Connection]]
"""Lends a connection: ``with connect() as connection``."""


class SqliteConnection:
    """A connection to an SQLite file; each statement is a transaction of its own, unless it is in a `transaction`."""

    def __init__(self, raw: sqlite3.Connection) -> None:
        self.raw = raw

    def execute(self, statement: str, parameters: Mapping[str, Any] = {}) -> list[tuple[Any, ...]]:
        return self.raw.execute(statement, parameters).fetchall()


@contextmanager
def opened(path: Path) -> Generator[SqliteConnection]:
    """Open the file."""
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        yield SqliteConnection(raw)


@contextmanager
def transaction(connection: SqliteConnection) -> Generator[None]:
    """Commit what the block wrote, or roll all of it back if it raised."""
    connection.execute("BEGIN IMMEDIATE")
    with connection.raw:
        yield


def create_tables(connection: Connection) -> None:
    for statement in _TABLES.strip().split("\n"):
        connection.execute(statement)
