"""Exceptions as data, for records: no locals, bounded, and without what is private in the messages they passed."""

import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from traceback import walk_tb
from typing import Any

from pydantic import ValidationError

from messagebus.messages import Message
from messagebus.shapes import MASK, private_values, shape_of

__all__ = ["describe", "mark"]


_MAX_EXCEPTIONS = 10
_MAX_FRAMES = 20
_MAX_NOTES = 5
_MAX_TEXT = 2_000
_MAX_PROBLEMS = 20
_MAX_COUNTED = 200


class Passed(list[Message]):
    """The messages whose handlers an exception has passed through: kept on it, and not pickled with it."""

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return Passed, ()


def mark(error: Exception, message: Message) -> None:
    """Remember on an exception that it was raised in a handler of the message."""
    if not shape_of(type(message)).private_fields:
        return
    with suppress(Exception):  # An exception may refuse attributes.
        error.__dict__.setdefault("__messagebus__", Passed()).append(message)


def describe(error: BaseException, message: Message | None) -> list[dict[str, Any]]:
    """Return an exception with its causes as data: no locals, bounded, and without what is private in the messages."""
    passed = [*([message] if message is not None else [])]
    for one in _related(error):
        passed += [known for known in getattr(one, "__messagebus__", ()) if not any(known is old for old in passed)]
    texts = sorted({text for known in passed for text in private_values(known)}, key=len, reverse=True)
    hide = re.compile("|".join(map(_in_any_spelling, texts)) or "(?!)")
    return _chain(error, hide, iter(range(_MAX_EXCEPTIONS)))


def _related(error: BaseException) -> Iterator[BaseException]:
    todo, seen = [error], set[int]()
    while todo and len(seen) < 5 * _MAX_EXCEPTIONS:
        one = todo.pop(0)
        if id(one) not in seen:
            seen.add(id(one))
            yield one
            todo += [other for other in (one.__cause__, one.__context__) if other is not None]
            todo += one.exceptions[:_MAX_EXCEPTIONS] if isinstance(one, BaseExceptionGroup) else ()


_ESCAPED = r"\\+(?:[abfnrtv0'\"\\/]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})"


def _in_any_spelling(text: str) -> str:
    """Return a pattern that finds the text also where a repr or JSON has escaped what is no letter."""
    return "".join(char if char.isascii() and char.isalnum() else f"(?:{re.escape(char)}|{_ESCAPED})" for char in text)


def _chain(error: BaseException, hide: re.Pattern[str], budget: Iterator[int]) -> list[dict[str, Any]]:
    chain: list[dict[str, Any]] = []
    current: BaseException | None = error
    seen: set[int] = set()
    is_cause = False
    while current is not None and id(current) not in seen and next(budget, None) is not None:
        seen.add(id(current))
        chain.append(_facts(current, hide, is_cause=is_cause))
        if isinstance(current, BaseExceptionGroup):
            parts = (_chain(one, hide, budget) for one in islice(current.exceptions, _MAX_EXCEPTIONS))
            chain[-1]["exceptions"] = [part for part in parts if part]
        is_cause = current.__cause__ is not None
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return chain


def _facts(error: BaseException, hide: re.Pattern[str], *, is_cause: bool) -> dict[str, Any]:
    frames = list(islice(walk_tb(error.__traceback__), 10_000))
    half = _MAX_FRAMES // 2
    shown_frames = frames if len(frames) <= _MAX_FRAMES else [*frames[:half], *frames[-half:]]
    notes = getattr(error, "__notes__", ())
    return {
        "exc_type": type(error).__name__,
        "exc_value": _clean(_text(error), hide),
        "exc_notes": [_clean(str(note), hide) for note in notes[:_MAX_NOTES]] if isinstance(notes, list) else [],
        "is_cause": is_cause,
        "frames": [
            {"filename": frame.f_code.co_filename, "lineno": line, "name": frame.f_code.co_name}
            for frame, line in shown_frames
        ],
        "frames_left_out": len(frames) - len(shown_frames),
    }


def _text(error: BaseException) -> str:
    # The text of pydantic quotes the input and shortens it, so that a secret in it could not be found again.
    if isinstance(error, ValidationError):
        count = error.error_count()
        listed = error.errors(include_url=False, include_input=False)[:_MAX_PROBLEMS] if count <= _MAX_COUNTED else ()
        problems = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in listed)
        return f"{count:,} validation errors for {error.title}: {problems}"
    try:
        return str(error)
    except Exception as other:  # noqa: BLE001 - an exception class of the user's
        return f"<its str raised {type(other).__name__}>"


def _clean(text: str, hide: re.Pattern[str]) -> str:
    text = hide.sub(MASK, text)
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}… ({len(text):,} characters)"
