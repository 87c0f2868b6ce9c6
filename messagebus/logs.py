"""Logs: the vocabulary of the records, the two filters, and finding the logger without configuring anything."""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final, Literal

import structlog
from pydantic_core import to_json as dump_json
from structlog.contextvars import merge_contextvars
from structlog.tracebacks import ExceptionDictTransformer

from messagebus.errors import ConfigurationError
from messagebus.messages import HIDDEN, MASK, Message

__all__ = ["ActivityLevel", "ErrorLevel", "Write", "describe", "writer"]

ActivityLevel = Literal["debug", "info", "disabled"]
ErrorLevel = Literal["debug", "info", "warning", "error", "disabled"]
Write = Callable[..., object]

COMMAND_HANDLED: Final = "command.handled"
EVENT_HANDLED: Final = "event.handled"
EVENT_UNHANDLED: Final = "event.unhandled"
MESSAGE_SKIPPED: Final = "message.skipped"
MESSAGE_FAILED: Final = "message.failed"
HANDLER_FINISHED: Final = "handler.finished"
HANDLER_FAILED: Final = "handler.failed"

_NAME: Final = "messagebus"
_LEVELS: Final = {
    "log_level": ("debug", "info", "disabled"),
    "error_log_level": ("info", "warning", "error", "disabled"),
}


def writer(argument: str, level: str, logger: Any = None) -> Write | None:
    """Return the method that writes records at ``level``, found as in law L18; None for ``"disabled"``.

    The order: ``logger``; structlog as the host configured it; ``logging.getLogger("messagebus")`` if the host gave it
    a handler or a level; else JSON lines on stderr. The host's own threshold applies in each.

    Raises:
        ConfigurationError: If the level is none of those that ``argument`` takes.
    """
    if level not in _LEVELS[argument]:
        allowed = ", ".join(repr(name) for name in _LEVELS[argument])
        other = " Failures have a level of their own: error_log_level." if argument == "log_level" else ""
        raise ConfigurationError(f"set {argument} to {level!r}", f"it takes {allowed}", f"Choose one of these.{other}")
    if level == "disabled":
        return None
    if logger is None and structlog.is_configured():
        logger = structlog.get_logger(_NAME)
    if logger is None:
        named = logging.getLogger(_NAME)
        logger = named if named.handlers or named.level else _default_logger(level)
    if isinstance(logger, logging.Logger):
        logger = structlog.wrap_logger(logger, [_filter, _render_text], structlog.stdlib.BoundLogger)
    method: Write = getattr(logger.bind(logger=_NAME), level)
    return method


@cache
def _default_logger(level: str) -> Any:
    wrapper = structlog.make_filtering_bound_logger(level)
    return structlog.wrap_logger(_Stderr(), [_render], wrapper, context_class=dict)


class _Stderr:
    """A sink for JSON lines: one write each, whole and without a lock, to what ``sys.stderr`` is then.

    A lock that another thread holds while the process forks stays locked in the child for ever.
    """

    def msg(self, line: bytes) -> None:
        stream = sys.stderr
        try:
            descriptor = stream.fileno()
        except (AttributeError, OSError, ValueError):
            stream.write(line.decode())
            return
        stream.flush()
        while line:
            line = line[os.write(descriptor, line) :]

    debug = info = warning = error = msg


def _render(_logger: Any, level: str, record: MutableMapping[str, Any]) -> bytes:
    """Do in one step what the chain of merge_contextvars, add_log_level, TimeStamper and JSONRenderer would do."""
    record = merge_contextvars(None, level, record)
    record["level"] = level
    record["timestamp"] = datetime.now(UTC).isoformat()
    return dump_json(record, fallback=_shown, inf_nan_mode="constants") + b"\n"


def _render_text(logger: Any, level: str, record: MutableMapping[str, Any]) -> str:
    return _render(logger, level, record)[:-1].decode()


_filter = structlog.stdlib.filter_by_level


def _shown(value: object) -> str:
    try:
        return repr(value)
    except Exception as error:  # noqa: BLE001 - the repr of a user's class
        return f"<{type(value).__name__}: its repr raised {type(error).__name__}>"


def shown(message: Message) -> Any:
    """Return a message as data for a record, with what is private masked."""
    try:
        return message.model_dump(mode="json", context=HIDDEN, by_alias=True, warnings=False)
    except Exception as error:  # noqa: BLE001 - a value without JSON, or a serialiser of the user's
        return f"<no JSON: {type(error).__name__}>"


def guarded(write: Write, *args: Any, **kwargs: Any) -> None:
    """Write a record; a sink that fails is a warning, and never the message's failure."""
    try:
        write(*args, **kwargs)
    except Exception as error:  # noqa: BLE001 - whatever a sink, a processor or an override raises
        text = f"A log record could not be written ({type(error).__name__}); the message's outcome stands."
        with suppress(RuntimeWarning):
            warnings.warn(text, RuntimeWarning, stacklevel=2)


# Tracebacks as data

_MAX_CHAIN = 10
_MAX_TEXT = 2_000
_transform = ExceptionDictTransformer(show_locals=False, max_frames=20)


def describe(error: Exception, private: list[str]) -> list[dict[str, Any]]:
    """Return an exception with its causes as data: no locals, bounded, and without the private texts."""
    try:
        chain: Any = _transform((type(error), error, error.__traceback__))[:_MAX_CHAIN]
    except Exception:  # noqa: BLE001 - an exception class of the user's may break anything that looks at it
        chain = [{"exc_type": type(error).__name__, "exc_value": "<cannot be shown>"}]
    described: list[dict[str, Any]] = _cleaned(chain, private)
    return described


def _cleaned(value: Any, private: list[str]) -> Any:
    if isinstance(value, str):
        for text in private:
            value = value.replace(text, MASK)
        return value if len(value) <= _MAX_TEXT else f"{value[:_MAX_TEXT]}… ({len(value):,} characters)"
    if isinstance(value, Mapping):
        return {key: _cleaned(item, private) for key, item in value.items()}
    return [_cleaned(item, private) for item in value] if isinstance(value, list | tuple) else value
