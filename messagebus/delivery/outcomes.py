"""What became of the handlers of a message: as JSON in its row, and what follows for the message."""

import os
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from functools import lru_cache
from math import ceil
from typing import Any, Final

from pydantic_core import from_json
from pydantic_core import to_json as dump_json

from messagebus.delivery.entries import Failure, Outcome
from messagebus.errors import StoreFileError, full_name
from messagebus.messages import Message
from messagebus.tracebacks import describe

__all__ = ["Fate", "clean", "failure_of", "fate_of", "pack", "read", "unpack"]

_DONE: Final = {"done"}

Fate = tuple[int | None, int | None]
"""When the message is due, and when it was finished, in milliseconds: one of them at most."""


def clean(text: str) -> str:
    """Return a text as every engine takes it."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()


def pack(outcomes: Iterable[Outcome]) -> str:
    """Write outcomes as JSON."""
    return f"[{','.join(map(_written, outcomes))}]"


def _written(outcome: Outcome) -> str:
    head = f'[{_quoted(outcome.handler)},"{outcome.state}",{outcome.attempts},{outcome.duration_ms:.3f}'
    failure = outcome.failure
    if failure is not None:
        told = [clean(failure.error), clean(failure.text), clean(failure.place)]
        parks = "" if outcome.parks else ",false"
        return f"{head},{_number(outcome.due)},{dump_json(told).decode()}{parks}]"
    return f"{head}]" if outcome.due is None else f"{head},{_number(outcome.due)}]"


def _number(due: float | None) -> str:
    return "null" if due is None else repr(due)


@lru_cache(1_000)
def _quoted(handler: str) -> str:
    return dump_json(clean(handler)).decode()


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
        due, told, *parks = rest if len(rest) > 1 else (*rest, None, None)[:2]
        found[handler] = Outcome(handler, state, attempts, duration, due, Failure(*told) if told else None, not parks)
    return found


def fate_of(outcomes: Collection[Outcome], now: int) -> Fate:
    """Say what follows for a message: it waits for the earliest retry, is kept for a dead letter, or is finished."""
    states = {outcome.state for outcome in outcomes}
    if states == _DONE:
        return None, now
    if "retry" in states:
        waits = [outcome.due for outcome in outcomes if outcome.state == "retry"]
        return min(now if due is None else ceil(due * 1000) for due in waits), None
    if "dead" in states and any(outcome.parks for outcome in outcomes if outcome.state == "dead"):
        return None, None
    return None, now


_MAX_TEXT: Final = 1_000


def failure_of(error: Exception, message: Message | None) -> Failure:
    """Return what a dead letter tells of an error: nothing that is private in the message."""
    described: Mapping[str, Any] = describe(error, message)[0]
    frames = described["frames"]
    place = ""
    if frames:
        path = frames[-1]["filename"]
        with suppress(ValueError):  # On another drive there is no path from here.
            path = min(path, os.path.relpath(path), key=len)
        place = f"{path}:{frames[-1]['lineno']}"
    return Failure(full_name(type(error)), described["exc_value"][:_MAX_TEXT], place)
