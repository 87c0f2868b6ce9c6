"""What became of the handlers of a message: as JSON in its row, and what follows for the message."""

from collections.abc import Iterable, Mapping
from math import ceil
from typing import Any

from pydantic_core import from_json
from pydantic_core import to_json as dump_json

from messagebus.delivery.entries import Failure, Outcome
from messagebus.errors import StoreFileError

__all__ = ["Fate", "clean", "fate_of", "pack", "read", "unpack"]

Fate = tuple[int | None, int | None]
"""When the message is due, and when it was finished, in milliseconds: one of them at most."""


def clean(text: str) -> str:
    """Return a text as every engine takes it."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()


def pack(outcomes: Iterable[Outcome]) -> str:
    """Write outcomes as JSON."""
    return dump_json([_written(outcome) for outcome in outcomes]).decode()


def _written(outcome: Outcome) -> list[Any]:
    written: list[Any] = [clean(outcome.handler), outcome.state, outcome.attempts, round(outcome.duration_ms, 3)]
    if outcome.due is not None or outcome.failure is not None:
        written.append(outcome.due)
    if outcome.failure is not None:
        failure = outcome.failure
        written.append([clean(failure.error), clean(failure.text), clean(failure.place)])
    return written


def read(text: str) -> Any:
    """Read JSON that a store has written."""
    try:
        return from_json(text)
    except ValueError:
        remedy = "Restore a backup; `PRAGMA integrity_check` tells more."
        raise StoreFileError("read what the store holds", "the record of a message is damaged", remedy) from None


def unpack(text: str | None) -> dict[str, Outcome]:
    """Read outcomes back, by handler."""
    if text is None:
        return {}
    found = {}
    for handler, state, attempts, duration, *rest in read(text):
        failure = Failure(*rest[1]) if len(rest) > 1 else None
        found[handler] = Outcome(handler, state, attempts, duration, rest[0] if rest else None, failure)
    return found


def fate_of(outcomes: Mapping[str, Outcome], now: int, *, parks: bool) -> Fate:
    """Say what follows for a message: it waits for the earliest retry, is kept for a dead letter, or is finished."""
    waits = [outcome.due for outcome in outcomes.values() if outcome.state == "retry"]
    if waits:
        return min(now if due is None else ceil(due * 1000) for due in waits), None
    if parks and any(outcome.state == "dead" for outcome in outcomes.values()):
        return None, None
    return None, now
