"""``messagebus stats``: how many messages of a store are in which state, and how far behind the workers are."""

from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from typing import Final

from messagebus.cli.stored import add_json, add_url, opened
from messagebus.cli.tables import align, say, say_json

__all__ = ["DESCRIPTION", "EXAMPLE", "NAME", "SUMMARY", "add_arguments", "run"]

NAME: Final = "stats"
SUMMARY: Final = "count the messages of a store"
DESCRIPTION: Final = """\
Count the messages of a store: due (a worker may take them now), delayed, in flight (a worker has them), dead
(handlers that failed for good), finished (as long as their history is kept); and tell how long the oldest one that is
due has been due."""
EXAMPLE: Final = "example:\n  messagebus stats --url sqlite:///bus.db"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare what the command takes."""
    add_url(parser)
    add_json(parser)


def run(options: Namespace) -> int:
    """Show the figures of this moment."""
    with opened(options) as store:
        figures = asdict(store.stats())
    if options.json:
        say_json(figures)
    else:
        texts = {name: f"{value:.1f} s" if name == "oldest_due" else str(value) for name, value in figures.items()}
        width = max(map(len, texts.values()))
        say(align((name.replace("_", " "), text.rjust(width)) for name, text in texts.items()))
    return 0
