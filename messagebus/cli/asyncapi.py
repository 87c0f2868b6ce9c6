"""``messagebus asyncapi``: the AsyncAPI document of an application."""

import json
from argparse import ArgumentParser, Namespace
from typing import Final

from messagebus.cli.target import add_target, load

__all__ = ["DESCRIPTION", "EXAMPLE", "NAME", "SUMMARY", "add_arguments", "run"]

NAME: Final = "asyncapi"
SUMMARY: Final = "write the AsyncAPI document of an application"
DESCRIPTION: Final = """\
Write an AsyncAPI 3.0 document: a channel for commands, one for events, one for return messages; what the application
receives is what has a handler, what it sends is what the return annotations of its handlers name."""
EXAMPLE: Final = "example:\n  messagebus asyncapi shop.orders --title Shop --api-version 2.1.0 >asyncapi.json"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare what the command takes."""
    add_target(parser)
    parser.add_argument("--title", metavar="TEXT", help="of the application (default: TARGET)")
    parser.add_argument("--api-version", default="0", metavar="TEXT", help="of the application (default: %(default)s)")


def run(options: Namespace) -> int:
    """Write the document of the target."""
    from messagebus.documents import asyncapi_document  # noqa: PLC0415 - help loads faster without

    title = options.target if options.title is None else options.title
    document = asyncapi_document(load(options.target), title=title, version=options.api_version)
    print(json.dumps(document, indent=2))
    return 0
