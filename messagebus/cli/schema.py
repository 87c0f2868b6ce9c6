"""``messagebus schema``: the JSON Schema of every message, and what breaks since it was last written."""

import json
import sys
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from messagebus import ConfigurationError
from messagebus.cli.tables import align, plain, say, say_json
from messagebus.cli.target import add_target, load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from messagebus.documents import Break

__all__ = ["DESCRIPTION", "EXAMPLE", "NAME", "SUMMARY", "add_arguments", "run"]

NAME: Final = "schema"
SUMMARY: Final = "write the JSON Schema of the messages, or check what a change breaks"
DESCRIPTION: Final = """\
Write one JSON Schema (2020-12) document with every message of an application: what its readers accept. With --check,
compare with a document that was written before, and show each change that breaks something; the exit code is 1 if
there is any, else 0. What breaks are

  old messages   the new code refuses some that are stored, or on their way
  old readers    code that is not updated yet refuses some of the new messages: workers during a deployment, other
                 services

To accept a change, write the document anew. Validators of your own stand in no schema, and are not compared."""
EXAMPLE: Final = """\
example:
  messagebus schema shop.orders >messages.json
  messagebus schema shop.orders --check messages.json"""

_TITLES = ("BREAKS", "MESSAGE", "FIELD", "CHANGE")


def add_arguments(parser: ArgumentParser) -> None:
    """Declare what the command takes."""
    add_target(parser)
    parser.add_argument("--check", metavar="OLD", help="a document written before; - is standard input")
    parser.add_argument("--json", action="store_true", help="with --check, write JSON Lines instead of a table")


def run(options: Namespace) -> int:
    """Write the document of the target, or what breaks since another was written."""
    from messagebus.documents import breaking_changes, json_schema  # noqa: PLC0415 - help loads faster without

    if options.check is None:
        print(json.dumps(json_schema(load(options.target)), indent=2))
        return 0
    old = _read(options.check)
    breaks = breaking_changes(old, json_schema(load(options.target)))
    _show(breaks, as_json=options.json)
    return 1 if breaks else 0


def _read(path: str) -> Any:
    from pydantic_core import from_json  # noqa: PLC0415 - as above

    what = f"read {'standard input' if path == '-' else plain(path)}"
    try:
        if path == "-":
            text = sys.stdin.buffer.read()
        else:
            with open(path, "rb") as file:
                text = file.read()
        return from_json(text, allow_inf_nan=False)
    except OSError as error:
        raise ConfigurationError(what, str(error.strerror or error), "Check the path.") from None
    except ValueError:
        remedy = "Write one: messagebus schema TARGET >old.json."
        raise ConfigurationError(what, "it is no JSON document", remedy) from None


def _show(breaks: "Sequence[Break]", *, as_json: bool) -> None:
    if as_json:
        for one in breaks:
            say_json(asdict(one))
    elif breaks:
        rows = [(one.breaks, plain(one.message), plain(one.field), plain(one.change)) for one in breaks]
        say(align([_TITLES, *rows]))
    else:
        print("ok")
