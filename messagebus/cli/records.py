"""Records on standard error: one JSON object per line, each with the line of input that was in hand."""

import json
import os
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final

import structlog
from pydantic_core import to_json as dump_json
from structlog.tracebacks import ExceptionDictTransformer

__all__ = ["IN_HAND", "LINE_REFUSED", "MESSAGE_FAILED", "RESULT_REFUSED", "make_logger"]

LINE_REFUSED: Final = "line.refused"
MESSAGE_FAILED: Final = "message.failed"
RESULT_REFUSED: Final = "result.refused"

# Set for every line, and read only when a record is written: that is cheaper than to bind and unbind two values.
IN_HAND: Final[ContextVar[tuple[str, int] | None]] = ContextVar("messagebus.cli", default=None)
"""The file and the number of the line that is being handled."""

_LEVELS = ("debug", "info", "warning", "error", "critical")


def make_logger(log_level: str, error_log_level: str) -> Any:
    """Return a logger for the bus, and let the lines that handlers write through structlog come out the same.

    The bus's own records keep this form even if the application configures structlog for itself.
    """
    least = min({log_level, error_log_level} - {"disabled"}, key=_LEVELS.index, default="critical")
    wrapper = structlog.make_filtering_bound_logger(least)
    stream = sys.stderr or open(os.devnull, "w")  # noqa: SIM115 - as long as the process lives
    first: list[Any] = [structlog.contextvars.merge_contextvars, _stamp]
    exceptions = structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False))
    # JSONRenderer shows an object by its repr, in which what is private in a message is masked.
    last: list[Any] = [exceptions, structlog.processors.JSONRenderer()]
    structlog.configure([*first, *last], wrapper, logger_factory=structlog.WriteLoggerFactory(stream))
    logger = structlog.wrap_logger(structlog.WriteLogger(stream), [*first, _render], wrapper, context_class=dict)
    return logger.bind(logger="messagebus")


def _stamp(_logger: Any, level: str, record: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    in_hand = IN_HAND.get()
    if in_hand is not None:
        record["file"], record["line"] = in_hand
    record["level"] = level
    record["timestamp"] = datetime.now(UTC).isoformat()
    return record


def _render(_logger: Any, _level: str, record: MutableMapping[str, Any]) -> str:
    """Write a record of the bus, which is plain data, as JSON in ASCII: no encoding of standard error can spoil it."""
    with suppress(ValueError):  # A lone surrogate, in the name of a file.
        text = dump_json(record, fallback=repr, inf_nan_mode="constants").decode()
        if text.isascii():
            return text
    return json.dumps(record, default=repr)
