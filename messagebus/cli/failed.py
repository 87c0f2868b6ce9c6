"""``messagebus failed``: dead letters, and what somebody decides about them."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from messagebus import ConfigurationError, InvalidMessageError, logs
from messagebus.cli import rehearsing
from messagebus.cli.reading import FAILED
from messagebus.cli.stored import add_json, add_url, opened
from messagebus.cli.tables import align, cell, complain, plain, say, say_json, time_text
from messagebus.cli.target import load
from messagebus.cli.values import above_zero, seconds
from messagebus.cli.verbs import add_ids, add_verb

if TYPE_CHECKING:
    from messagebus.delivery import DeadLetter, Store

__all__ = ["DESCRIPTION", "EXAMPLE", "NAME", "SUMMARY", "add_arguments"]

NAME: Final = "failed"
SUMMARY: Final = "list, show, retry and drop what failed for good"
DESCRIPTION: Final = """\
Dead letters: a message and the handler of it that failed for good, kept until somebody decides. A retry runs that one
handler again, with all its attempts; to drop a dead letter gives it up. Either lets go on what its key holds up."""
EXAMPLE: Final = """\
example:
  messagebus failed list --older-than 1h
  messagebus failed retry --error TimeoutError"""

_FILTERS: Final = ("type", "handler", "error")
_ALL: Final = 2**31 - 1
_AT_ONCE: Final = 500
_SHOWN_IDS: Final = 3


def add_arguments(parser: ArgumentParser) -> None:
    """Declare what the verbs take."""
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    listing = add_verb(verbs, "list", "count what failed, by error and place; with --json show each", _list)
    listing.add_argument("--limit", type=above_zero("number of dead letters"), default=_ALL, help="look at the oldest")
    showing = add_verb(verbs, "show", "show one dead letter", _show)
    showing.add_argument("ids", metavar="ID", nargs=1, help="as `messagebus failed list` shows it")
    showing.add_argument("--target", metavar="TARGET", help="show its payload too, what is private masked: its classes")
    retrying = add_verb(verbs, "retry", "run handlers again that failed for good", _retry)
    rehearsing.add_arguments(retrying)
    dropping = add_verb(verbs, "drop", "give dead letters up", _drop)
    for verb in (retrying, dropping):
        add_ids(verb, "of dead letters; else say which by a filter, or --all", nargs="*")
        verb.add_argument("--all", action="store_true", help="every dead letter")
    for verb in (listing, retrying, dropping):
        verb.add_argument("--type", help="only of messages with this wire name")
        verb.add_argument("--handler", help="only of this handler, as in shop.place_order")
        verb.add_argument("--error", help="only with this class of errors, as in TimeoutError or shop.SoldOut")
        verb.add_argument("--older-than", type=seconds, metavar="AGE", help="only what died before: 30s, 5m, 2h, 1d")
    for verb in (listing, showing, retrying, dropping):
        add_url(verb)
        add_json(verb)


# Looking


def _list(options: Namespace) -> int:
    with opened(options) as store:
        letters = _letters(store, options)
        if options.json:
            for letter in letters:
                say_json(_facts(letter))
        else:
            say(_grouped(letters))
    return 0


def _letters(store: "Store", options: Namespace) -> "Iterator[DeadLetter]":
    """Yield dead letters as they are read, a piece at a time: there may be more than memory holds."""
    after, left = 0, options.limit
    while found := store.dead(**_filters(options), after=after, limit=min(left, _AT_ONCE)):
        yield from found
        after, left = found[-1].id, left - len(found)
        if not left:
            return


def _filters(options: Namespace) -> dict[str, Any]:
    return {**{name: getattr(options, name) for name in _FILTERS}, "older_than": options.older_than or 0.0}


def _facts(letter: "DeadLetter") -> dict[str, Any]:
    """Return what may be shown of a dead letter: all but what was sent."""
    facts = asdict(letter)
    failure: dict[str, Any] = facts.pop("failure")
    del facts["body"], facts["headers"]
    return facts | failure


@dataclass(slots=True)
class _Group:
    """What is told of dead letters with one error and one place."""

    oldest: datetime
    newest: datetime
    count: int = 0
    handlers: set[str] = field(default_factory=set)
    ids: list[int] = field(default_factory=list)


def _grouped(letters: "Iterable[DeadLetter]") -> str:
    groups: dict[tuple[str, str], _Group] = {}
    for letter in letters:
        what = letter.failure.error, letter.failure.place
        group = groups.setdefault(what, _Group(letter.died_at, letter.died_at))
        group.newest = letter.died_at
        group.count += 1
        group.handlers.add(letter.handler)
        if len(group.ids) <= _SHOWN_IDS:
            group.ids.append(letter.id)
    rows = [("COUNT", "ERROR", "PLACE", "HANDLER", "OLDEST", "NEWEST", "IDS")]
    for (error, place), group in sorted(groups.items(), key=lambda item: -item[1].count):
        more = f" and {len(group.handlers) - 1} more" if len(group.handlers) > 1 else ""
        ids = ", ".join(map(str, group.ids[:_SHOWN_IDS])) + (", ..." if group.count > _SHOWN_IDS else "")
        handler, times = f"{plain(min(group.handlers))}{more}", (time_text(group.oldest), time_text(group.newest))
        rows.append((f"{group.count:,}", plain(error), plain(place), handler, *times, ids))
    return align(rows)


def _show(options: Namespace) -> int:
    with opened(options) as store:
        letter = _find(store, options.ids[0])
    facts = _facts(letter)
    if options.target is not None:
        facts["payload"] = _payload(letter, options.target)
    if options.json:
        say_json(facts)
    else:
        say(align((name.replace("_", " "), cell(value)) for name, value in facts.items()))
    return 0


def _payload(letter: "DeadLetter", target: str) -> Any:
    """Return the payload with what is private masked: without its class nobody knows what is."""
    try:
        message, _ = load(target).read_json(letter.body, max_bytes=len(letter.body))
    except InvalidMessageError as error:
        return f"(not shown, since it fits no class of {target}: {error})"
    return logs.shown(message)


def _find(store: "Store", text: str) -> "DeadLetter":
    for letter in store.dead(id=_number(text)):
        return letter
    raise rehearsing.unknown(text)


def _number(text: str) -> int:
    if text.isdecimal() and int(text) <= _ALL:
        return int(text)
    remedy = "Take one that `messagebus failed list` shows."
    raise ConfigurationError(f"use {text!r} as the id of a dead letter", "it is no such number", remedy)


# Deciding


def _retry(options: Namespace) -> int:
    _check_choice(options)
    if options.dry_run or options.payload is not None:
        with opened(options) as store:
            return rehearsing.retry_one(store, _find(store, options.ids[0]), options)
    return _decide(options, lambda store, id: store.retry(id), "retry")


def _drop(options: Namespace) -> int:
    _check_choice(options)
    return _decide(options, lambda store, id: store.drop(id), "drop")


def _check_choice(options: Namespace) -> None:
    """Refuse a call that leaves it open which dead letters are meant.

    Raises:
        ConfigurationError: If none, or more than one way to choose was taken.
    """
    is_filtered = any(getattr(options, name) is not None for name in (*_FILTERS, "older_than"))
    ways = bool(options.ids) + is_filtered + options.all
    if ways != 1:
        why = "ids, filters and --all exclude each other" if ways else "it is not said which dead letters are meant"
        remedy = "Give ids, or a filter (--type, --handler, --error, --older-than), or --all."
        raise ConfigurationError("decide about dead letters", why, remedy)
    rehearsing.check(options)


def _decide(options: Namespace, change: "Callable[[Store, int], bool]", verb: str) -> int:
    """Decide about each dead letter; one that is not there is a sentence on standard error."""
    count = missing = 0
    with opened(options) as store:
        for id in _chosen(store, options):
            is_done = change(store, id)
            count += is_done
            if options.json:
                say_json({"id": id, "done": is_done})
            if not is_done and options.ids:
                missing += 1
                complain(str(rehearsing.unknown(str(id))))
    if not options.json:
        say(f"{verb}: {count:,} of {count + missing:,}")
    return FAILED if missing else 0


def _chosen(store: "Store", options: Namespace) -> Iterator[int]:
    """Yield the ids that were given; or of the dead letters that died before now, a piece at a time."""
    if options.ids:
        yield from [_number(text) for text in options.ids]
        return
    now = datetime.fromtimestamp(store.clock(), UTC)
    while True:
        # What has been decided is not there any more; what fails again died later.
        found = [letter for letter in store.dead(**_filters(options), limit=_AT_ONCE) if letter.died_at <= now]
        yield from [letter.id for letter in found]
        if not found:
            return
