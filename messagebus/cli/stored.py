"""The store on the command line: which one, opened for the time of a command."""

import os
from argparse import ArgumentParser, Namespace
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import unquote

from messagebus import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Generator

    from messagebus.delivery import Store

__all__ = ["add_json", "add_url", "opened"]

_FILE = "sqlite:///"


def add_url(parser: ArgumentParser) -> None:
    """Let a command take the URL of a store."""
    text = "the store, as in sqlite:///bus.db or postgresql+psycopg://user@host/name (default: MESSAGEBUS_URL)"
    parser.add_argument("--url", metavar="URL", help=text)


def add_json(parser: ArgumentParser) -> None:
    """Let a command write for programs."""
    parser.add_argument("--json", action="store_true", help="write JSON Lines instead of text for people")


@contextmanager
def opened(options: Namespace, *, creates: bool = False) -> "Generator[Store, None, None]":
    """Open the store of a command, and close it in the end.

    Args:
        options: of the command, with ``url``.
        creates: whether a file that does not exist is made; who only looks would take a misspelt path for an empty
            store.

    Raises:
        ConfigurationError: If there is no such store.
    """
    from messagebus.delivery import open_store  # noqa: PLC0415 - help, and what needs no store, loads faster without

    url = os.environ.get("MESSAGEBUS_URL", "") if options.url is None else options.url
    if url == "memory://":
        remedy = "Name a file, sqlite:///bus.db, or a database."
        raise ConfigurationError("use memory:// here", "it ends with the process that opened it", remedy)
    path = unquote(url.removeprefix(_FILE))
    if url.startswith(_FILE) and not creates and not os.path.exists(path):
        remedy = "Check the path and the current directory; `messagebus send` and `messagebus work` create it."
        raise ConfigurationError(f"open {url}", "there is no such file", remedy)
    store = open_store(url)
    try:
        yield store
    finally:
        store.close()
