"""Where stores are proven: a file of SQLite, and a schema of PostgreSQL where there is a server."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory

import pytest

from tests import servers

__all__ = ["on_each"]


@contextmanager
def sqlite() -> Iterator[str]:
    with TemporaryDirectory(prefix="messagebus-") as folder:
        yield f"sqlite:///{folder}/bus.db"


@contextmanager
def postgres() -> Iterator[str]:
    with servers.postgres() as server:
        yield server.fresh()


def on_each(prove: Callable[[str], str], report: Callable[[str], None]) -> str:
    """Prove something at an empty place on each engine that is here; return what came of it."""
    told = []
    for engine, place in (("SQLite", sqlite), ("PostgreSQL", postgres)):
        try:
            with place() as url:
                told.append(f"{engine}: {prove(url)}")
        except pytest.skip.Exception as reason:
            told.append(f"{engine}: skipped: {reason}")
        report(told[-1])
    return "; ".join(told)
