"""``messagebus check``: what is likely wrong with what an application has registered."""

from argparse import ArgumentParser, Namespace
from typing import Final

from messagebus import UsageError
from messagebus.cli.target import ImportFailedError, add_target, load

__all__ = ["DESCRIPTION", "EXAMPLE", "NAME", "SUMMARY", "add_arguments", "run"]

NAME: Final = "check"
SUMMARY: Final = "look for mistakes in what is registered"
DESCRIPTION: Final = """\
Look for commands without handler, events that nobody handles, fields of secret types, clashes of names, classes that
cannot be written as JSON, and older versions without upcaster. Each problem is one line; the exit code is 1 if there
is any, else 0."""
EXAMPLE: Final = "example:\n  messagebus check shop.orders"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare what the command takes."""
    add_target(parser)


def run(options: Namespace) -> int:
    """Print each problem of the target, or that there is none."""
    problems = _problems(options.target)
    print("\n".join(problems) or "ok")
    return 1 if problems else 0


def _problems(target: str) -> list[str]:
    try:
        registry = load(target)
    except ImportFailedError as failed:
        if isinstance(failed.error, UsageError):  # What registering refuses is what a check looks for.
            return [f"{failed.place}: {failed.error}"]
        raise
    if not registry.snapshot.handlers:
        return [f"No message is registered in {target}. If it has a registry of its own, write module:registry."]
    return registry.check()
