"""The bare driver: a queue in one table, by hand, with nothing around it. It keeps no history and knows no handlers.

The table and its statements are those of the usual queue in SQL: the lease is the time at which a row is due again,
what was handled is deleted, and the last batch is acknowledged in the transaction that claims the next.
"""

import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pydantic import BaseModel

__all__ = ["Queue", "work"]

Row = tuple[Any, ...]

_TABLE = """
CREATE TABLE IF NOT EXISTS queue(
  id INTEGER PRIMARY KEY AUTOINCREMENT, queue TEXT NOT NULL, type TEXT NOT NULL, body TEXT NOT NULL,
  headers TEXT NOT NULL DEFAULT '{}', available_at INTEGER NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, lease TEXT,
  dedup TEXT, UNIQUE(queue, dedup));
CREATE INDEX IF NOT EXISTS ready ON queue(queue, available_at, id);
"""
_PUT = "INSERT INTO queue(queue, type, body, available_at) VALUES ('default', ?, ?, ?)"
_CLAIM = """
UPDATE queue SET available_at = :until, attempts = attempts + 1, lease = 'me' WHERE id IN (
  SELECT id FROM queue WHERE queue = 'default' AND available_at <= :now ORDER BY available_at, id LIMIT :limit
) RETURNING id, type, body, attempts
"""
_LEASE = 30_000


def _now() -> int:
    return time.time_ns() // 1_000_000


class Queue:
    """One connection, set as the store sets its own."""

    def __init__(self, path: str) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None, timeout=30)
        self.connection.execute("PRAGMA journal_mode = WAL")
        self.connection.execute("PRAGMA synchronous = FULL")
        self.connection.executescript(_TABLE)

    def put(self, type: str, body: str) -> None:
        self.connection.execute(_PUT, (type, body, _now()))

    def put_many(self, messages: Iterable[tuple[str, str]]) -> None:
        self.connection.execute("BEGIN IMMEDIATE")
        self._insert(messages)
        self.connection.execute("COMMIT")

    def _insert(self, messages: Iterable[tuple[str, str]]) -> None:
        now = _now()
        self.connection.executemany(_PUT, [(type, body, now) for type, body in messages])

    def step(self, done: Iterable[int], limit: int, sends: Sequence[tuple[str, str]] = ()) -> list[Row]:
        """Acknowledge what is done, store what that sent, and claim the next; in one transaction."""
        self.connection.execute("BEGIN IMMEDIATE")
        self.connection.executemany("DELETE FROM queue WHERE id = ? AND lease = 'me'", [(id,) for id in done])
        if sends:
            self._insert(sends)
        now = _now()
        claim = {"until": now + _LEASE, "now": now, "limit": limit}
        rows = self.connection.execute(_CLAIM, claim).fetchall()
        self.connection.execute("COMMIT")
        rows.sort()
        return rows

    def close(self) -> None:
        self.connection.close()


def work(
    queue: Queue, models: dict[str, type[BaseModel]], handlers: dict[str, Callable[[Any], BaseModel | None]], batch: int
) -> int:
    """Handle all there is: claim a batch, validate each message, call its handler if it has one, acknowledge."""
    done: list[int] = []
    sends: list[tuple[str, str]] = []
    count = 0
    while rows := queue.step(done, batch, sends):
        done, sends = [], []
        for id, type, body, _ in rows:
            message = models[type].model_validate_json(body)
            handler = handlers.get(type)
            if handler is not None and (event := handler(message)) is not None:
                sends.append((event.__class__.__name__, event.model_dump_json()))
            done.append(id)
        count += len(rows)
    return count
