"""Logs: the vocabulary of the records, the two filters, and finding the logger without configuring anything."""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from contextlib import suppress
from contextvars import Token, copy_context
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final, Literal

import structlog
from pydantic_core import to_json as dump_json
from structlog.contextvars import bind_contextvars, merge_contextvars
from structlog.tracebacks import ExceptionDictTransformer

from messagebus.errors import ConfigurationError
from messagebus.messages import HIDDEN, MASK, Message

__all__ = ["ErrorLogLevel", "LogLevel", "Write", "describe", "report_broken", "shown", "writers"]

LogLevel = Literal["debug", "info", "disabled"]
ErrorLogLevel = Literal["info", "warning", "error", "disabled"]
Write = Callable[..., object]

COMMAND_HANDLED: Final = "command.handled"
EVENT_HANDLED: Final = "event.handled"
EVENT_UNHANDLED: Final = "event.unhandled"
MESSAGE_SKIPPED: Final = "message.skipped"
MESSAGE_FAILED: Final = "message.failed"
HANDLER_FINISHED: Final = "handler.finished"
HANDLER_FAILED: Final = "handler.failed"

NAME: Final = "messagebus"
DISABLED: Final = "disabled"
_LEVELS: Final = {
    "log_level": ("debug", "info", DISABLED),
    "error_log_level": ("info", "warning", "error", DISABLED),
}


def writers(log_level: str, error_log_level: str, logger: Any = None) -> tuple[Write | None, Write | None]:
    """Return what writes activity, and what writes failures: methods of the logger found, or None where disabled.

    The logger is ``logger``; else structlog as the host configured it; else ``logging.getLogger("messagebus")``, if the
    host gave that a handler or a level; else JSON lines on stderr. The host's own threshold applies in each.

    Raises:
        ConfigurationError: If a level is none of those that may be chosen.
    """
    for argument, level in (("log_level", log_level), ("error_log_level", error_log_level)):
        if level not in _LEVELS[argument]:
            *others, last = (repr(name) for name in _LEVELS[argument])
            other = " Failures have a level of their own, error_log_level." if argument == "log_level" else ""
            why = f"it takes {', '.join(others)} or {last}"
            raise ConfigurationError(f"set {argument} to {level!r}", why, f"Choose one of these.{other}")
    if logger is None:
        logger = _found(log_level if log_level != DISABLED else error_log_level)
    elif isinstance(logger, logging.Logger):
        logger = _over_stdlib(logger)
    return (
        None if log_level == DISABLED else getattr(logger, log_level),
        None if error_log_level == DISABLED else getattr(logger, error_log_level),
    )


def _found(level: str) -> Any:
    if structlog.is_configured():
        return structlog.get_logger(NAME).bind()
    named = logging.getLogger(NAME)
    return _over_stdlib(named) if named.handlers or named.level else _default(level)


def _over_stdlib(logger: logging.Logger) -> Any:
    return structlog.wrap_logger(logger, [_filter, _render_text], structlog.stdlib.BoundLogger).bind()


@cache
def _default(level: str) -> Any:
    wrapper = structlog.make_filtering_bound_logger(level)
    return structlog.wrap_logger(_Stderr(), [_render], wrapper, context_class=dict).bind()


class _Stderr:
    """A sink for JSON lines: one write each, whole and without a lock, to what ``sys.stderr`` is then.

    A lock that another thread holds while the process forks stays locked in the child for ever.
    """

    def msg(self, line: bytes) -> None:
        try:
            descriptor = sys.stderr.fileno()
        except (AttributeError, OSError, ValueError):
            sys.stderr.write(line.decode())
            return
        while line:
            line = line[os.write(descriptor, line) :]

    debug = info = warning = error = msg


def _render(_logger: Any, level: str, record: MutableMapping[str, Any]) -> bytes:
    """Do in one step what the chain of merge_contextvars, add_log_level, TimeStamper and JSONRenderer would do."""
    record = merge_contextvars(None, level, record)
    record["level"] = level
    record["timestamp"] = datetime.now(UTC)
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


def report_broken(error: Exception) -> None:
    """Warn that a record could not be written, which never changes what becomes of a message."""
    text = f"A log record could not be written ({type(error).__name__}); the message's outcome stands."
    with suppress(RuntimeWarning):
        warnings.warn(text, RuntimeWarning, stacklevel=3)


# The ids of the message in hand, for the records that handlers write. The variables are structlog's own, as
# `bind_contextvars` makes them; setting them directly takes a tenth of the time.

_ID_VARIABLES = [
    token.var
    for token in copy_context().run(bind_contextvars, message_id=None, correlation_id=None, causation_id=None).values()
]


def bind_ids(ids: Iterable[str | None]) -> list[Token[Any]]:
    """Show message, correlation and causation id in every structlog record from here on; return how to undo it."""
    return [variable.set(value) for variable, value in zip(_ID_VARIABLES, ids, strict=True)]


def unbind_ids(tokens: list[Token[Any]]) -> None:
    """Give the three back the values that they had."""
    with suppress(ValueError):  # A coroutine that is closed in another context has nothing to give back there.
        for token in tokens:
            token.var.reset(token)


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
