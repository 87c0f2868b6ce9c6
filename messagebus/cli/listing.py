"""``messagebus list``: the messages of an application, their wire names, and who handles them."""

import json
from argparse import ArgumentParser, Namespace
from typing import Any, Final

from messagebus import Command, Event, Message, Registry, wire_name
from messagebus.cli.tables import align
from messagebus.cli.target import add_target, load

__all__ = ["DESCRIPTION", "EXAMPLE", "NAME", "SUMMARY", "add_arguments", "run"]

NAME: Final = "list"
SUMMARY: Final = "show the messages and their handlers"
DESCRIPTION: Final = "Show each registered message: its kind, its name on the wire, its class, its handlers."
EXAMPLE: Final = "example:\n  messagebus list shop.orders --json | jq -r '.[].name'"

_TITLES = ("KIND", "NAME", "CLASS", "HANDLER")


def add_arguments(parser: ArgumentParser) -> None:
    """Declare what the command takes."""
    add_target(parser)
    parser.add_argument("--json", action="store_true", help="write one JSON array instead of a table")


def run(options: Namespace) -> int:
    """Show what the target has registered."""
    rows = _rows(load(options.target))
    print(json.dumps(rows, indent=2) if options.json else _table(rows))
    return 0


def _rows(registry: Registry) -> list[dict[str, Any]]:
    """Return one row per message class, ordered by kind and name."""
    rows = [
        {
            "kind": _kind(cls),
            "name": wire_name(cls),
            "class": f"{cls.__module__}.{cls.__qualname__}",
            "handlers": [
                {"name": handler.name, "place": handler.place, "is_async": handler.is_async}
                for handler in registry.snapshot[cls].handlers
            ],
        }
        for cls in registry.snapshot.handlers
    ]
    return sorted(rows, key=lambda row: (row["kind"], row["name"]))


def _kind(cls: type[Message]) -> str:
    if issubclass(cls, Command):
        return "command"
    return "event" if issubclass(cls, Event) else "return"


def _table(rows: list[dict[str, Any]]) -> str:
    cells: list[tuple[str, ...]] = [_TITLES]
    for row in rows:
        handlers = [f"{h['name']} ({h['place']}){', async' * h['is_async']}" for h in row["handlers"]] or ["-"]
        cells.append((row["kind"], row["name"], row["class"], handlers[0]))
        cells += [("", "", "", handler) for handler in handlers[1:]]
    return align(cells)
