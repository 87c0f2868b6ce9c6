"""Text for people: aligned columns, times and durations, in characters that every terminal shows."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

__all__ = ["align", "cell", "complain", "plain", "say", "say_json", "time_text"]

Cells = Sequence[str]


def align(rows: Iterable[Cells]) -> str:
    """Return rows of cells as lines, each column as wide as its widest cell."""
    cells = [*rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells)


def plain(value: object) -> str:
    """Return a value as one line that cannot command the terminal; ``-`` for what is not there."""
    if value is None or value == "":
        return "-"
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in str(value))


def time_text(time: datetime | None) -> str:
    """Return a time in UTC as ISO 8601, to the second."""
    return "-" if time is None else time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def cell(value: object) -> str:
    """Return any value as one line: a time in UTC, a payload as JSON."""
    if isinstance(value, datetime):
        return time_text(value)
    return plain(json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value)


def say(text: str) -> None:
    """Print for people; what standard output has no character for is escaped."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))


def say_json(data: Mapping[str, Any]) -> None:
    """Print one JSON object on a line, in ASCII; times in UTC as ISO 8601."""
    print(json.dumps(data, default=_json))


def complain(sentence: str) -> None:
    """Say what went wrong, or is missing, on standard error."""
    with suppress(OSError):  # Nobody reads it any more.
        print(f"messagebus: {sentence}", file=sys.stderr)


def _json(value: object) -> object:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    raise TypeError(f"{type(value).__name__} has no JSON")
