"""Words of the command line as values: numbers, durations, times."""

import re
from argparse import ArgumentTypeError
from collections.abc import Callable
from datetime import datetime
from typing import Final

__all__ = ["above_zero", "moment", "seconds"]

_DURATION = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)([smhd]?)")
_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}


def above_zero(what: str) -> Callable[[str], int]:
    """Return a function that reads a whole number from 1 up; ``what`` says what it counts."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < 1:
            raise ArgumentTypeError(f"{text!r} is no {what} above 0")
        return int(text)

    return read


def seconds(text: str) -> float:
    """Read a duration: ``30`` or ``30s``, ``5m``, ``2h``, ``1d``."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ArgumentTypeError(f"{text!r} is no duration: write 30s, 5m, 2h or 1d")
    return float(found[1]) * _UNITS[found[2]]


def moment(text: str) -> datetime:
    """Read a time with its offset from UTC: ``2026-12-24T18:00:00Z``."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise ArgumentTypeError(f"{text!r} is no time with an offset: write 2026-12-24T18:00:00Z")
    return found
