"""``messagebus failed retry`` for one dead letter: with another payload, or only to see what would happen."""

import sys
from argparse import ArgumentParser, Namespace
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Final

from messagebus import ConfigurationError, Message, MessageBusError, Registry, logs, wire_name
from messagebus.cli.lines import find_inputs
from messagebus.cli.reading import FAILED
from messagebus.cli.tables import cell, complain, plain, say, say_json
from messagebus.cli.target import load
from messagebus.errors import StoreError, full_name
from messagebus.registry import MAX_BYTES
from messagebus.tracebacks import describe

if TYPE_CHECKING:
    from messagebus.delivery import DeadLetter, Store

__all__ = ["add_arguments", "check", "retry_one", "unknown"]

_OPTIONS: Final = ("payload", "dry_run", "target")


def add_arguments(parser: ArgumentParser) -> None:
    """Declare what the retry of one dead letter takes."""
    parser.add_argument(
        "--payload", metavar="FILE", help="with one ID: a message to take its place; - is standard input"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="with one ID: run the handler, show what it would send, keep nothing"
    )
    parser.add_argument("--target", metavar="TARGET", help="for --payload and --dry-run: where the classes come from")


def check(options: Namespace) -> None:
    """Refuse options for one dead letter without one, or without what they need.

    Raises:
        ConfigurationError: If they do not go together.
    """
    payload, dry_run, target = (getattr(options, name, None) for name in _OPTIONS)
    is_special = bool(payload is not None or dry_run)
    name = "--dry-run" if dry_run else "--payload"
    if is_special and len(options.ids) != 1:
        raise ConfigurationError(f"use {name}", "it is for one dead letter", "Give one ID.")
    if is_special and target is None:
        raise ConfigurationError(f"use {name}", "the message classes are not known", "Add --target TARGET.")
    if target is not None and not is_special:
        raise ConfigurationError("use --target", "a plain retry needs no classes", "Add --payload or --dry-run.")


def unknown(id: str) -> StoreError:
    """Return the error for a dead letter that is not there."""
    why = "there is none with this id, or somebody has decided about it"
    return StoreError(f"find dead letter {id}", why, "See `messagebus failed list`.")


def retry_one(store: "Store", letter: "DeadLetter", options: Namespace) -> int:
    """Retry a dead letter with another payload, or rehearse that."""
    registry = load(options.target)
    message = None if options.payload is None else _read(options.payload, registry)
    if options.dry_run:
        return _rehearse(store, letter, registry, message, options)
    is_done = store.retry(letter.id, message=message)
    if options.json:
        say_json({"id": letter.id, "done": is_done})
    elif is_done:
        say("retry: 1 of 1")
    if not is_done:
        raise unknown(str(letter.id))
    return 0


def _read(name: str, registry: Registry) -> Message:
    """Return the message in a file: a JSON object, on one line or many."""
    (found,) = find_inputs([name])
    with found.open() as descriptor, open(descriptor, "rb", closefd=False) as file:
        payload = file.read(MAX_BYTES + 1)
    return registry.validate_json(payload)


def _rehearse(
    store: "Store", letter: "DeadLetter", registry: Registry, message: Message | None, options: Namespace
) -> int:
    from messagebus.delivery import rehearse  # noqa: PLC0415 - help, and what needs no store, loads faster without

    message = message or registry.validate_json(letter.body, max_bytes=len(letter.body))
    try:
        with redirect_stdout(sys.stderr):  # For what the handler prints.
            sent = rehearse(store, letter.id, registry, message=message)
    except MessageBusError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever the handler raises
        facts = describe(error, message)[0]
        places = [f" ({frame['filename']}:{frame['lineno']})" for frame in facts["frames"][-1:]]
        text = f"{full_name(type(error))}: {facts['exc_value']}{''.join(places)}"
        complain(f"{plain(letter.handler or letter.type)} would fail again: {plain(text)}")
        return FAILED
    for one in sent:
        if options.json:
            say_json({"type": wire_name(type(one)), "data": logs.shown(one)})
        else:
            say(f"would send {wire_name(type(one))} {cell(logs.shown(one))}")
    if not sent and not options.json:
        say("would send nothing")
    return 0
