"""``messagebus relay``: a process that empties the outbox of a service into an engine."""

from argparse import ArgumentParser, Namespace
from typing import Final

from messagebus.cli import records
from messagebus.cli.engine import add_group, connected
from messagebus.cli.reading import add_levels
from messagebus.cli.stored import opened
from messagebus.cli.values import seconds

__all__ = ["DESCRIPTION", "EXAMPLE", "NAME", "SUMMARY", "add_arguments", "run"]

NAME: Final = "relay"
SUMMARY: Final = "publish the messages of a store"
DESCRIPTION: Final = """\
Publish what waits in the store of a service that only produces, until SIGTERM or SIGINT. A message leaves the store
when the engine has confirmed it; while that is away, all wait. A service that handles messages has no relay: there
`messagebus work --from URL` does this as well.

exit code: 0 told to stop, or nothing left to do, 1 the store or the engine failed, 2 the call itself is wrong"""
EXAMPLE: Final = "example:\n  messagebus relay sqlite:///outbox.db nats://127.0.0.1:4222 --group shop"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("url", metavar="STORE", help="the store, as in sqlite:///bus.db")
    parser.add_argument("engine", metavar="URL", help="the engine, as in nats://host:4222")
    add_group(parser)
    text = "others take over this long after the relay has died (default: 30s)"
    parser.add_argument("--lease", type=seconds, default=30.0, metavar="S", help=text)
    parser.add_argument("--until-idle", action="store_true", help="stop when nothing is due")
    add_levels(parser)


def run(options: Namespace) -> int:
    """Run a relay to its end."""
    from messagebus.brokers import Relay  # noqa: PLC0415 - help loads faster without

    levels = {"log_level": options.log_level, "error_log_level": options.error_log_level}
    logger = records.make_logger(options.log_level, options.error_log_level)
    with opened(options) as store, connected(options) as broker:
        Relay(store, broker, lease=options.lease, logger=logger, **levels).run(until_idle=options.until_idle)
    return 0
