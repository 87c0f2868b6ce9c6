"""``messagebus graph``: who sends what to whom, as a picture."""

from argparse import ArgumentParser, Namespace
from typing import Final

from messagebus.cli.stored import opened
from messagebus.cli.tables import say
from messagebus.cli.target import add_target, load

__all__ = ["DESCRIPTION", "EXAMPLE", "NAME", "SUMMARY", "add_arguments", "run"]

NAME: Final = "graph"
SUMMARY: Final = "draw who sends what to whom"
DESCRIPTION: Final = """\
Draw which messages lead to which handlers, and these to which messages, by the return annotations of the handlers; a
question mark stands for what these do not tell. With --from-history, what a store has recorded is added, with how
often it was seen; dashed is what no annotation tells."""
EXAMPLE: Final = """\
example:
  messagebus graph shop.orders
  messagebus graph shop.orders --format svg --from-history sqlite:///bus.db >messages.svg"""


def add_arguments(parser: ArgumentParser) -> None:
    """Declare what the command takes."""
    add_target(parser)
    formats = ("mermaid", "dot", "svg")
    text = "mermaid for Markdown, dot for Graphviz, svg drawn by Graphviz (default: %(default)s)"
    parser.add_argument("--format", choices=formats, default=formats[0], help=text)
    parser.add_argument("--from-history", metavar="URL", help="a store, as in sqlite:///bus.db")


def run(options: Namespace) -> int:
    """Draw the graph of the target."""
    from messagebus.documents import message_graph  # noqa: PLC0415 - help loads faster without

    registry = load(options.target)
    if options.from_history is None:
        say(message_graph(registry, options.format))
    else:
        with opened(Namespace(url=options.from_history)) as store:
            say(message_graph(registry, options.format, history=store))
    return 0
