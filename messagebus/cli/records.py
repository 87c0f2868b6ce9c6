"""Records on standard error: one JSON object per line, each with the line of input that was in hand."""

import os
import sys
from collections.abc import MutableMapping
from contextvars import ContextVar
from typing import Any, Final

import structlog
from structlog.tracebacks import ExceptionDictTransformer

__all__ = ["IN_HAND", "LINE_REFUSED", "RESULT_REFUSED", "make_logger"]

LINE_REFUSED: Final = "line.refused"
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
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        _add_line,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
        structlog.processors.JSONRenderer(),
    ]
    wrapper = structlog.make_filtering_bound_logger(least)
    stream = sys.stderr or open(os.devnull, "w")  # noqa: SIM115 - as long as the process lives
    structlog.configure(processors, wrapper, logger_factory=structlog.WriteLoggerFactory(stream))
    logger = structlog.wrap_logger(structlog.WriteLogger(stream), processors, wrapper, context_class=dict)
    return logger.bind(logger="messagebus")


def _add_line(_logger: Any, _level: str, record: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    in_hand = IN_HAND.get()
    if in_hand is not None:
        record["file"], record["line"] = in_hand
    return record
