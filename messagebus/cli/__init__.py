"""The command line: ``messagebus handle``, ``messagebus send``, ``messagebus work`` and others, a module each."""

import os
import re
import sys
from argparse import SUPPRESS, Action, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from typing import Any, NoReturn, TextIO

from messagebus import InvalidMessageError, MessageBusError, UsageError
from messagebus.cli import (
    asyncapi,
    check,
    failed,
    graph,
    handle,
    listing,
    relay,
    schema,
    send,
    stats,
    tree,
    waiting,
    work,
)

__all__ = ["main"]

_FAILED = 1
_USAGE = 2
_REFUSED = 3
_INTERRUPTED = 130
_BROKEN_PIPE = 141  # What a shell shows of a process that SIGPIPE ended.

_EXAMPLE = """\
example:
  messagebus handle shop.orders orders.jsonl >results.jsonl 2>records.jsonl

Each command says more: messagebus handle --help
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code of the process.

    Args:
        argv: the words after ``messagebus``; by default those of this process.

    Returns:
        0 if all went well; 1 if a handler failed, a check found something, or a store cannot do what it was asked; 2 if
        the call itself is wrong; 3 if a payload was refused; 130 after an interrupt; 141 if nobody reads standard
        output any more.
    """
    try:
        options = _parse(argv)
    except SystemExit as stop:  # It has said why.
        return int(stop.code or 0)
    try:
        return _run(options)
    finally:
        _settle_errors()


def _run(options: Namespace) -> int:
    try:
        code: int = options.run(options)
        if sys.stdout is not None:
            sys.stdout.flush()
    except MessageBusError as error:
        code = _explain(str(error), _code_of(error))
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except BrokenPipeError:
        _discard(sys.stdout)
        code = _BROKEN_PIPE
    except OSError as error:
        _discard(sys.stdout)
        code = _explain(f"Cannot go on: {error}.", _FAILED)
    return code


def _code_of(error: MessageBusError) -> int:
    if isinstance(error, UsageError):
        return _USAGE
    return _REFUSED if isinstance(error, InvalidMessageError) else _FAILED


def _parse(argv: Sequence[str] | None) -> Namespace:
    """Return the options; FILEs, or IDs, may stand before and after them, which argparse alone does not take."""
    options, rest = _parser().parse_known_args(argv)
    more = getattr(options, "more", None)
    if rest and (more is None or any(word.startswith("-") and word != "-" for word in rest)):
        options.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if more is not None:
        setattr(options, more, [*getattr(options, more), *rest])
    return options


def _explain(sentence: str, code: int) -> int:
    with suppress(OSError):  # Nobody reads standard error any more.
        print(f"messagebus: {_mask(sentence)}", file=sys.stderr)
    return code


_PASSWORD = re.compile(r"(\w://[^/@:\s]*:)\S*@")


def _mask(sentence: str) -> str:
    """Hide the password of a URL that somebody wrote where no URL belongs, or that an engine repeats in an error."""
    return _PASSWORD.sub(r"\1***@", sentence)


def _settle_errors() -> None:
    """Write what is left for standard error; if nobody reads it, the exit code is still the one that was meant."""
    try:
        if sys.stderr is not None:
            sys.stderr.flush()
    except OSError:
        _discard(sys.stderr)


def _discard(stream: TextIO | None) -> None:
    """Send what is still buffered for a stream nowhere, so that the interpreter does not stumble over it at the end."""
    if stream is not None:
        with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:  # The stream may be no real file.
            os.dup2(nowhere.fileno(), stream.fileno())


def _parser() -> ArgumentParser:
    parser = _Parser(
        prog="messagebus",
        description="Handle messages, keep them in a store, look after what is in it, and see what is registered.",
        epilog=_EXAMPLE,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, dest=SUPPRESS, help="show the version and exit")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in (handle, listing, check, schema, asyncapi, graph, send, work, relay, stats, failed, waiting, tree):
        command = commands.add_parser(
            module.NAME,
            help=module.SUMMARY,
            description=module.DESCRIPTION,
            epilog=module.EXAMPLE,
            formatter_class=RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.set_defaults(run=getattr(module, "run", None), parser=command)  # The verbs of a group have their own.
        module.add_arguments(command)
    return parser


class _Parser(ArgumentParser):
    """Says what is wrong with a call without repeating a password."""

    def error(self, message: str) -> NoReturn:
        super().error(_mask(message))


class _Version(Action):
    """Shows the version of the installed distribution, which is looked up only when asked for."""

    def __call__(self, parser: ArgumentParser, *_args: Any, **_options: Any) -> None:
        try:
            version = metadata.version("pydantic-messagebus")
        except metadata.PackageNotFoundError:
            version = "(not installed: run from its source)"
        print(f"messagebus {version}")
        parser.exit()
