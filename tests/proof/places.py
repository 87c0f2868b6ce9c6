"""Where stores are proven: a file of SQLite, and a schema of PostgreSQL where there is a server."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests import servers

__all__ = ["each"]


def each() -> Iterator[tuple[str, str]]:
    """Yield each engine that is here, with the URL of an empty place on it, which is gone when the next one is asked for."""
    with TemporaryDirectory() as folder:
        yield "SQLite", f"sqlite:///{Path(folder)}/bus.db"
    try:
        with servers.postgres() as server:
            yield "PostgreSQL", server.fresh()
    except pytest.skip.Exception as reason:
        print(f"PostgreSQL: skipped: {reason}")
