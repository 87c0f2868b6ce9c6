"""Which SQLite is spoken to: the standard library's, or one that is sounder."""

import sqlite3
from contextlib import suppress
from typing import Any

__all__ = ["driver", "has_wal_reset_bug"]


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
