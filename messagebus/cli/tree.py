"""``messagebus tree``: what a stored message led to, and what became of it."""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from messagebus.cli.stored import add_json, add_url, opened
from messagebus.cli.tables import align, plain, say, say_json, time_text
from messagebus.errors import StoreError

if TYPE_CHECKING:
    from messagebus.delivery import Outcome, Step

__all__ = ["DESCRIPTION", "EXAMPLE", "NAME", "SUMMARY", "add_arguments", "run"]

NAME: Final = "tree"
SUMMARY: Final = "show what a message led to"
DESCRIPTION: Final = """\
Show a message and everything it led to, each below its cause, with what became of each handler: done, retry, dead or
dropped, after how many attempts, how long the last one took. History is kept for a while, and then pruned."""
EXAMPLE: Final = "example:\n  messagebus tree 4b1f0c6d8e9a4b7c8d5e6f7a8b9c0d1e"

_TITLES = ("MESSAGE", "ID", "HANDLER", "OUTCOME", "ATTEMPTS", "DURATION", "SENT", "FINISHED", "ERROR")


def add_arguments(parser: ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("id", metavar="ID", help="of a message, as `messagebus send` printed it")
    add_url(parser)
    add_json(parser)


def run(options: Namespace) -> int:
    """Show the history of a message."""
    with opened(options) as store:
        steps = store.tree(options.id)
    if not steps:
        why = "the store does not hold it: it was not sent there, or its history is no longer kept"
        raise StoreError(f"show what {plain(options.id)} led to", why, "Look at its id.")
    if options.json:
        for depth, step in _walk(steps, options.id):
            say_json({"depth": depth, **asdict(step)})
    else:
        say(align([_TITLES, *(row for depth, step in _walk(steps, options.id) for row in _rows(depth, step))]))
    return 0


def _walk(steps: "Sequence[Step]", root: str) -> "Iterator[tuple[int, Step]]":
    """Yield each step after its cause, with how deep it stands; siblings in the order they were sent."""
    below: dict[str | None, list[Step]] = {}
    for step in steps:
        below.setdefault(step.causation_id if step.id != root else None, []).append(step)
    todo = [(0, step) for step in below[None]]
    while todo:
        depth, step = todo.pop()
        yield depth, step
        todo += [(depth + 1, child) for child in reversed(below.pop(step.id, []))]


def _rows(depth: int, step: "Step") -> Iterator[tuple[str, ...]]:
    name, id = f"{'  ' * depth}{plain(step.type)}", plain(step.id)
    times = time_text(step.sent_at), time_text(step.finished_at)
    if not step.outcomes:
        yield name, id, "-", "waiting" if step.finished_at is None else "done", "-", "-", *times, ""
    for outcome in step.outcomes:
        cells = plain(outcome.handler), outcome.state, str(outcome.attempts), f"{outcome.duration_ms:.1f} ms"
        yield name, id, *cells, *times, _error(outcome)
        name, id, times = "", "", ("", "")


def _error(outcome: "Outcome") -> str:
    failure = outcome.failure
    return "" if failure is None else f"{plain(failure.error)} ({plain(failure.place)})"
