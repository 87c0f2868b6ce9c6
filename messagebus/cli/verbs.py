"""Groups of commands: ``messagebus failed list``, ``messagebus waiting cancel`` and the like."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import Any

__all__ = ["add_ids", "add_verb"]


def add_verb(verbs: Any, name: str, summary: str, run: Callable[[Namespace], int]) -> ArgumentParser:
    """Add a verb to a group, and return its parser."""
    parser: ArgumentParser = verbs.add_parser(
        name, help=summary, description=f"{summary[:1].upper()}{summary[1:]}.", allow_abbrev=False
    )
    parser.set_defaults(run=run, parser=parser)
    return parser


def add_ids(parser: ArgumentParser, of: str, nargs: str) -> None:
    """Let a verb take ids, which may stand before and after its options."""
    parser.add_argument("ids", metavar="ID", nargs=nargs, help=of)
    parser.set_defaults(more="ids")
