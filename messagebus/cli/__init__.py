"""The command line: ``messagebus handle``, ``messagebus list`` and ``messagebus check``."""

import os
import sys
from argparse import SUPPRESS, Action, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from typing import Any, TextIO

from messagebus import ConfigurationError
from messagebus.cli import check, handle, listing

__all__ = ["main"]

_FAILED = 1
_USAGE = 2
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
        0 if all went well; 1 if a handler failed or a check found something; 2 if the call itself is wrong; 3 if a
        payload was refused; 130 after an interrupt; 141 if nobody reads standard output any more.
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
    except ConfigurationError as error:
        code = _explain(str(error), _USAGE)
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except BrokenPipeError:
        _discard(sys.stdout)
        code = _BROKEN_PIPE
    except OSError as error:
        _discard(sys.stdout)
        code = _explain(f"Cannot go on: {error}.", _FAILED)
    return code


def _parse(argv: Sequence[str] | None) -> Namespace:
    """Return the options; FILEs may stand before and after them, which argparse alone does not take."""
    options, rest = _parser().parse_known_args(argv)
    if rest and ("files" not in options or any(word.startswith("-") and word != "-" for word in rest)):
        options.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.files = [*getattr(options, "files", ()), *rest]
    return options


def _explain(sentence: str, code: int) -> int:
    with suppress(OSError):  # Nobody reads standard error any more.
        print(f"messagebus: {sentence}", file=sys.stderr)
    return code


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
    parser = ArgumentParser(
        prog="messagebus",
        description="Handle messages from files and pipes, and look at what an application has registered.",
        epilog=_EXAMPLE,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, dest=SUPPRESS, help="show the version and exit")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in (handle, listing, check):
        command = commands.add_parser(
            module.NAME,
            help=module.SUMMARY,
            description=module.DESCRIPTION,
            epilog=module.EXAMPLE,
            formatter_class=RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run, parser=command)
    return parser


class _Version(Action):
    """Shows the version of the installed distribution, which is looked up only when asked for."""

    def __call__(self, parser: ArgumentParser, *_args: Any, **_options: Any) -> None:
        try:
            version = metadata.version("pydantic-messagebus")
        except metadata.PackageNotFoundError:
            version = "(not installed: run from its source)"
        print(f"messagebus {version}")
        parser.exit()
