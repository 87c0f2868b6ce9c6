"""The tables of a store, the same on every engine, and the few places in which the SQL of the engines differs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

from pydantic_core import to_json as dump_json

__all__ = [
    "ADD_DEAD",
    "ADD_KEYED",
    "ADD_MESSAGES",
    "ADD_PLAIN",
    "CHECKS",
    "POSTGRES",
    "SETTLE",
    "SQLITE",
    "VERSION",
    "Engine",
    "Insert",
    "Update",
    "upgrade",
]

VERSION: Final = 2
"""Of the tables; a store refuses what a newer version wrote, and brings up to date what an older one did."""

# A row is in one of the first three indexes at a time: what waits without a key, what waits with one, what is leased.
_TABLES: Final = """
CREATE TABLE mb_meta(version integer NOT NULL, boot text, epoch bigint);
CREATE TABLE mb_message(
    seq {serial} PRIMARY KEY,
    id text NOT NULL UNIQUE,
    type text NOT NULL,
    body {blob} NOT NULL,
    headers text NOT NULL DEFAULT '{{}}',
    key text,
    dedup text,
    correlation_id text,
    causation_id text,
    sent_at bigint NOT NULL,
    due_at bigint,
    attempt integer NOT NULL DEFAULT 0,
    lease text,
    outcomes text,
    results {blob},
    finished_at bigint,
    turn integer NOT NULL DEFAULT 1
){options};
CREATE INDEX mb_unkeyed ON mb_message(due_at, seq) WHERE key IS NULL AND lease IS NULL AND due_at IS NOT NULL;
{keyed};
CREATE INDEX mb_leased ON mb_message(due_at, seq) WHERE lease IS NOT NULL;
CREATE INDEX mb_leased_key ON mb_message(key) WHERE key IS NOT NULL AND lease IS NOT NULL;
CREATE INDEX mb_key ON mb_message(key, seq) WHERE key IS NOT NULL AND finished_at IS NULL;
CREATE UNIQUE INDEX mb_dedup ON mb_message(dedup) WHERE dedup IS NOT NULL;
CREATE INDEX mb_causation ON mb_message(causation_id) WHERE causation_id IS NOT NULL;
CREATE INDEX mb_finished ON mb_message(finished_at) WHERE finished_at IS NOT NULL;
CREATE TABLE mb_dead(
    id {serial} PRIMARY KEY,
    seq bigint NOT NULL,
    handler text NOT NULL,
    attempts integer NOT NULL,
    error text NOT NULL,
    text text NOT NULL,
    place text NOT NULL,
    died_at bigint NOT NULL,
    UNIQUE(seq, handler)
);
CREATE TABLE mb_schedule(
    name text PRIMARY KEY,
    cron text NOT NULL,
    timezone text NOT NULL,
    type text NOT NULL,
    body {blob} NOT NULL,
    headers text NOT NULL,
    next_at bigint NOT NULL
);
INSERT INTO mb_meta(version) VALUES ({version})
"""

# With a turn of 0 a message is known not to be the first of its key: nobody need look at it until that has ended.
_KEYED: Final = """
CREATE INDEX mb_keyed ON mb_message(due_at, seq)
WHERE key IS NOT NULL AND lease IS NULL AND due_at IS NOT NULL AND turn > 0
"""

# By version: what makes the tables of one before into its own.
_UPGRADES: Final = {
    2: f"""
ALTER TABLE mb_meta ADD COLUMN boot text;
ALTER TABLE mb_meta ADD COLUMN epoch bigint;
ALTER TABLE mb_message ADD COLUMN turn integer NOT NULL DEFAULT 1;
ALTER TABLE mb_schedule ADD COLUMN headers text NOT NULL DEFAULT '{{}}';
DROP INDEX mb_keyed;
{_KEYED};
UPDATE mb_meta SET version = 2
"""
}


# What fails if a table, or a column of it, is not there.
CHECKS: Final = (
    """SELECT seq, id, type, body, headers, key, dedup, correlation_id, causation_id, sent_at, due_at, attempt, lease,
    outcomes, results, finished_at, turn FROM mb_message LIMIT 0""",
    "SELECT id, seq, handler, attempts, error, text, place, died_at FROM mb_dead LIMIT 0",
    "SELECT name, cron, timezone, type, body, headers, next_at FROM mb_schedule LIMIT 0",
    "SELECT version, boot, epoch FROM mb_meta LIMIT 0",
)


@dataclass(frozen=True, slots=True)
class Engine:
    """How one engine writes what the other writes differently."""

    serial: str
    blob: str
    options: str
    has_arrays: bool
    words: tuple[tuple[str, str], ...]
    """What stands for the marks in shared statements: ``[name]`` is a list, the comments lock rows."""

    def translate(self, sql: str) -> str:
        """Return a shared statement as this engine writes it."""
        for mark, word in self.words:
            sql = sql.replace(mark, word)
        return sql

    def array(self, values: Sequence[Any]) -> Any:
        """Return values as what stands for a list among parameters."""
        return [*values] if self.has_arrays else dump_json(values).decode()

    def tables(self) -> list[str]:
        """Return the statements that create the tables."""
        filled = _TABLES.format(serial=self.serial, blob=self.blob, options=self.options, keyed=_KEYED, version=VERSION)
        return _statements(filled)


def upgrade(version: int) -> list[str]:
    """Return the statements that bring tables of an older version up to date; none if they are."""
    return [statement for newer in range(version + 1, VERSION + 1) for statement in _statements(_UPGRADES[newer])]


def _statements(script: str) -> list[str]:
    return [statement.strip() for statement in script.split(";")]


SQLITE: Final = Engine(
    serial="integer",
    blob="blob",
    options="",
    has_arrays=False,
    words=(
        ("IN [seqs]", "IN (SELECT value FROM json_each(:seqs))"),
        ("IN [names]", "IN (SELECT value FROM json_each(:names))"),
        ("/* without a turn */", "AND n.turn = 0"),
    ),
)
POSTGRES: Final = Engine(
    serial="bigint GENERATED ALWAYS AS IDENTITY",
    blob="bytea",
    options=" WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02)",
    has_arrays=True,
    words=(
        ("IN [seqs]", "= ANY(:seqs)"),
        ("IN [names]", "= ANY(:names)"),
        ("/* lock */", "FOR UPDATE"),
        ("/* skip locked */", "FOR UPDATE SKIP LOCKED"),
    ),
)


_NUMBERS: Final = frozenset({"seq", "sent_at", "due_at", "died_at", "finished_at", "attempts"})
_BYTES: Final = frozenset({"body", "results"})


class _Bulk:
    """Many rows in one statement. PostgreSQL gets them as JSON, which takes a driver less time than arrays do."""

    columns: tuple[str, ...]

    def as_json(self, rows: Sequence[tuple[Any, ...]]) -> str:
        """Return rows as PostgreSQL gets them; bytes in hexadecimal, whatever the encoding of the database."""
        return dump_json([dict(zip(self.columns, map(_plain, row), strict=True)) for row in rows]).decode()

    @property
    def _values(self) -> list[str]:
        return [f"decode(n.{name}, 'hex')" if name in _BYTES else f"n.{name}" for name in self.columns]

    @property
    def _records(self) -> str:
        typed = ", ".join(f"{name} {'bigint' if name in _NUMBERS else 'text'}" for name in self.columns)
        return f"json_to_recordset(CAST(:rows AS json)) AS n({typed})"


def _plain(value: Any) -> Any:
    return value.hex() if type(value) is bytes else value


@dataclass(frozen=True)
class Insert(_Bulk):
    """Many rows for a table."""

    table: str
    columns: tuple[str, ...]
    conflict: str
    has_turns: bool = False
    """What has to wait behind another with its key is known at once where only one can write."""

    @cached_property
    def sqlite(self) -> str:
        return self.sqlite_of(1)

    def sqlite_of(self, count: int) -> str:
        """Return the statement for so many rows at once."""
        marks = f"({', '.join('?' * len(self.columns))})"
        values = ", ".join([marks] * count)
        if self.has_turns:
            key = f"column{self.columns.index('key') + 1}"
            turn = f"NOT EXISTS (SELECT 1 FROM mb_message p WHERE p.key = v.{key} AND p.finished_at IS NULL)"
            into = f"{self.table}({', '.join(self.columns)}, turn)"
            return f"INSERT INTO {into} SELECT v.*, {turn} FROM (VALUES {values}) v WHERE true {self.conflict}"
        return f"INSERT INTO {self.table}({', '.join(self.columns)}) VALUES {values} {self.conflict}"

    @cached_property
    def postgres(self) -> str:
        return (
            f"INSERT INTO {self.table}({', '.join(self.columns)}) "
            f"SELECT {', '.join(self._values)} FROM {self._records} {self.conflict}"
        )


@dataclass(frozen=True)
class Update(_Bulk):
    """New values for many rows of a table; the last column is the key."""

    table: str
    columns: tuple[str, ...]
    constants: str

    @cached_property
    def sqlite(self) -> str:
        sets = ", ".join(f"{column} = ?" for column in self.columns[:-1])
        return f"UPDATE {self.table} SET {sets}, {self.constants} WHERE {self.columns[-1]} = ?"

    @cached_property
    def postgres(self) -> str:
        values = zip(self.columns[:-1], self._values[:-1], strict=True)
        sets = ", ".join(f"{column} = {value}" for column, value in values)
        key = self.columns[-1]
        return f"UPDATE {self.table} m SET {sets}, {self.constants} FROM {self._records} WHERE m.{key} = n.{key}"


ADD_MESSAGES: Final = Insert(
    "mb_message",
    ("id", "type", "body", "headers", "key", "dedup", "correlation_id", "causation_id", "sent_at", "due_at"),
    "ON CONFLICT DO NOTHING",
)
ADD_KEYED: Final = replace(ADD_MESSAGES, has_turns=True)
ADD_PLAIN: Final = Insert("mb_message", ("id", "type", "body", "sent_at", "due_at"), "ON CONFLICT DO NOTHING")
"""For messages with nothing in the other columns of `ADD_MESSAGES`: to bind as many again would take half the time."""

ADD_DEAD: Final = Insert(
    "mb_dead",
    ("seq", "handler", "attempts", "error", "text", "place", "died_at"),
    "ON CONFLICT (seq, handler) DO UPDATE SET attempts = excluded.attempts, error = excluded.error, "
    "text = excluded.text, place = excluded.place, died_at = excluded.died_at",
)
SETTLE: Final = Update(
    "mb_message", ("outcomes", "results", "due_at", "finished_at", "seq"), "attempt = 0, lease = NULL"
)
