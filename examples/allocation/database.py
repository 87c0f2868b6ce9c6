"""The SQLite file: its tables, and how it is opened and written."""

import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

__all__ = ["create_tables", "opened", "transaction"]

_TABLES = """
CREATE TABLE IF NOT EXISTS product (sku TEXT PRIMARY KEY, version INTEGER);
CREATE TABLE IF NOT EXISTS batch (reference TEXT PRIMARY KEY, sku TEXT, quantity INTEGER, eta TEXT);
CREATE TABLE IF NOT EXISTS order_line (batch TEXT, order_id TEXT, sku TEXT, quantity INTEGER, UNIQUE (order_id, sku));
CREATE TABLE IF NOT EXISTS allocation_view (order_id TEXT, sku TEXT, batch TEXT, PRIMARY KEY (order_id, sku));
"""


def create_tables(path: Path) -> None:
    with opened(path) as connection:
        connection.executescript(_TABLES)


@contextmanager
def opened(path: Path) -> Generator[sqlite3.Connection]:
    """Open the file; each statement is a transaction of its own, unless it stands in a `transaction`."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Generator[None]:
    """Commit what the block wrote, or roll all of it back if it raised."""
    connection.execute("BEGIN IMMEDIATE")
    with connection:
        yield
