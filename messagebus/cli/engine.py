"""The engine on the command line: which one, and under which name, connected for the time of a command."""

from argparse import ArgumentParser, Namespace
from contextlib import contextmanager
from typing import TYPE_CHECKING

from messagebus import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Generator

    from messagebus.brokers import Broker

__all__ = ["add_group", "connected"]


def add_group(parser: ArgumentParser) -> None:
    """Let a command take the name of a service."""
    parser.add_argument("--group", metavar="NAME", help="this service, as other services see it on the engine")


@contextmanager
def connected(options: Namespace) -> "Generator[Broker, None, None]":
    """Connect to the engine of a command, and disconnect in the end.

    Raises:
        ConfigurationError: If no group is given, or it is none.
        BrokerUnavailableError: If it cannot be reached.
    """
    from messagebus.brokers import connect  # noqa: PLC0415 - help, and what needs no engine, loads faster without

    if options.group is None:
        raise ConfigurationError("connect to an engine", "no --group is given", "Name this service: --group billing.")
    with connect(options.engine, group=options.group) as broker:
        yield broker
