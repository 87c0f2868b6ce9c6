"""``messagebus waiting``: what is not finished yet; to list, to cancel, to move."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from messagebus.cli.reading import FAILED
from messagebus.cli.stored import add_json, add_url, opened
from messagebus.cli.tables import align, complain, plain, say, say_json, time_text
from messagebus.cli.values import above_zero, moment, seconds
from messagebus.cli.verbs import add_ids, add_verb

if TYPE_CHECKING:
    from messagebus.delivery import Waiting

__all__ = ["DESCRIPTION", "EXAMPLE", "NAME", "SUMMARY", "add_arguments"]

NAME: Final = "waiting"
SUMMARY: Final = "list, cancel and move messages that wait"
DESCRIPTION: Final = """\
Messages that are neither finished nor dead: due, delayed, to be tried again, or in flight. What is in flight can be
neither cancelled nor moved."""
EXAMPLE: Final = "example:\n  messagebus waiting list --type shop.place_order --limit 20"

_TITLES = ("ID", "TYPE", "KEY", "SENT", "DUE", "STATE", "RETRIES")


def add_arguments(parser: ArgumentParser) -> None:
    """Declare what the verbs take."""
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    listing = add_verb(verbs, "list", "show what waits, the earliest due first", _list)
    listing.add_argument("--type", help="only messages with this wire name")
    listing.add_argument("--key", help="only messages with this key")
    listing.add_argument("--limit", type=above_zero("number of messages"), default=100, help="(default: %(default)s)")
    cancelling = add_verb(verbs, "cancel", "forget messages that wait", _cancel)
    moving = add_verb(verbs, "move", "change when messages are due", _move)
    for verb in (cancelling, moving):
        add_ids(verb, "of messages", nargs="+")
    when = moving.add_mutually_exclusive_group(required=True)
    when.add_argument("--delay", type=seconds, default=0.0, metavar="S", help="seconds, or 5m, 2h, 1d, from now")
    when.add_argument("--at", type=moment, metavar="TIME", help="2026-12-24T18:00:00Z")
    for verb in (listing, cancelling, moving):
        add_url(verb)
        add_json(verb)


def _list(options: Namespace) -> int:
    with opened(options) as store:
        found = store.waiting(type=options.type, key=options.key, limit=options.limit + 1)
    shown = found[: options.limit]
    if options.json:
        for one in shown:
            say_json(asdict(one))
    else:
        say(align([_TITLES, *map(_row, shown)]))
    if len(found) > len(shown):
        complain(f"More than {options.limit} wait: raise --limit to see them.")
    return 0


def _row(one: "Waiting") -> tuple[str, ...]:
    retries = ", ".join(f"{handler} ({count})" for handler, count in one.retries.items())
    state = "in flight" if one.is_in_flight else "waiting"
    cells = map(plain, (one.id, one.type, one.key, time_text(one.sent_at), time_text(one.due), state, retries))
    return tuple(cells)


def _cancel(options: Namespace) -> int:
    with opened(options) as store:
        return _each(options, store.cancel, "cancel")


def _move(options: Namespace) -> int:
    with opened(options) as store:
        return _each(options, lambda id: store.move(id, delay=options.delay, at=options.at), "move")


def _each(options: Namespace, change: Callable[[str], bool], verb: str) -> int:
    """Change each message; one that does not wait is a sentence on standard error, and the others are changed."""
    done = {id: change(id) for id in options.ids}
    for id, is_done in done.items():
        if options.json:
            say_json({"id": id, "done": is_done})
        if not is_done:
            complain(f"Cannot {verb} {plain(id)}: it does not wait (in flight, finished, dead or unknown).")
    if not options.json:
        say(f"{verb}: {sum(done.values()):,} of {len(done):,}")
    return 0 if all(done.values()) else FAILED
