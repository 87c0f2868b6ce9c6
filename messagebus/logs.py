"""Logs: the vocabulary of the records, the two filters, and finding the logger without configuring anything."""

import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from contextvars import Token, copy_context
from datetime import UTC, datetime
from typing import Any, Final, Literal

import structlog
from pydantic_core import PydanticSerializationError
from pydantic_core import to_json as dump_json
from structlog.contextvars import STRUCTLOG_KEY_PREFIX, bind_contextvars, merge_contextvars

from messagebus.errors import ConfigurationError
from messagebus.messages import Message
from messagebus.shapes import HIDDEN

__all__ = ["ErrorLogLevel", "LogLevel", "Scope", "Write", "report_broken", "shown", "writers"]

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
HANDLER_POSTPONED: Final = "handler.postponed"
HANDLER_PAUSED: Final = "handler.paused"
HANDLER_RESUMED: Final = "handler.resumed"
DEAD_LETTER_KEPT: Final = "dead_letter.kept"
LEASE_LOST: Final = "lease.lost"
STORE_FAILED: Final = "store.failed"
BROKER_FAILED: Final = "broker.failed"
BROKER_CONNECTED: Final = "broker.connected"
BROKER_WEAK: Final = "broker.weak"
WORKER_STARTED: Final = "worker.started"
WORKER_STOPPED: Final = "worker.stopped"

NAME: Final = "messagebus"
DISABLED: Final = "disabled"
_LOG_LEVELS: Final = ("debug", "info", DISABLED)
_ERROR_LOG_LEVELS: Final = ("info", "warning", "error", DISABLED)


def writers(log_level: str, error_log_level: str, logger: Any = None) -> tuple[Write | None, Write | None]:
    """Return what writes activity, and what writes failures: methods of the logger found, or None where disabled.

    The logger is ``logger``; else structlog as the host configured it; else ``logging.getLogger("messagebus")``, if the
    host gave that a handler or a level; else JSON lines on stderr. The host's own threshold applies in each.

    Raises:
        ConfigurationError: If a level is none of those that may be chosen.
    """
    if log_level not in _LOG_LEVELS:
        other = " Failures have a level of their own: error_log_level."
        raise ConfigurationError(
            f"set log_level to {log_level!r}", _choices(_LOG_LEVELS), f"Choose one of these.{other}"
        )
    if error_log_level not in _ERROR_LOG_LEVELS:
        what = f"set error_log_level to {error_log_level!r}"
        raise ConfigurationError(what, _choices(_ERROR_LOG_LEVELS), "Choose one of these.")
    if logger is None:
        try:
            logger = _found()
        except Exception as error:  # noqa: BLE001 - whatever the factory or the bound logger of the host raises
            report_broken(error)
            return None, None
    elif isinstance(logger, logging.Logger):
        logger = _over_stdlib(logger)
    return (
        None if log_level == DISABLED else getattr(logger, log_level),
        None if error_log_level == DISABLED else getattr(logger, error_log_level),
    )


def _choices(levels: tuple[str, ...]) -> str:
    return f"it takes {', '.join(map(repr, levels))}"


def _found() -> Any:
    if structlog.is_configured():
        return structlog.get_logger(NAME).bind()
    named = logging.getLogger(NAME)
    return _over_stdlib(named) if named.handlers or named.level else _DEFAULT


def _over_stdlib(logger: logging.Logger) -> Any:
    return structlog.wrap_logger(logger, [_filter, _render_text], structlog.stdlib.BoundLogger).bind()


def _at(level: str) -> Callable[..., None]:
    def write(self: Any, event: str, **fields: Any) -> None:
        self._logger.msg(_render(self._logger, level, {**self._context, **fields, "event": event}))

    return write


class _Lines(structlog.BoundLoggerBase):
    """A bound logger of one processor, which it calls directly: a chain takes longer than all the rest of a record."""

    debug, info, warning, error = map(_at, ("debug", "info", "warning", "error"))


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


_DEFAULT: Final = _Lines(_Stderr(), [], {})


def _render(_logger: Any, level: str, record: MutableMapping[str, Any]) -> bytes:
    """Do in one step what the chain of merge_contextvars, add_log_level, TimeStamper and JSONRenderer would do."""
    record = merge_contextvars(None, level, record)
    record["level"] = level
    record["timestamp"] = datetime.now(UTC)
    try:
        line = dump_json(record, fallback=_shown, inf_nan_mode="constants") + b"\n"
    except PydanticSerializationError:  # A lone surrogate, which has no UTF-8.
        line = json.dumps(record, default=_shown).encode() + b"\n"
    return line if line.isascii() and b"\x7f" not in line else _CONTROLS.sub(_escaped, line)


# What JSON lets pass and some reader takes for the end of a line or the start of a command to the terminal: DEL, the
# eight-bit controls, and the separators and directions of Unicode.
_CONTROLS = re.compile(rb"\x7f|\xc2[\x80-\x9f]|\xe2\x80[\xa8-\xae]|\xe2\x81[\xa6-\xa9]")


def _escaped(found: re.Match[bytes]) -> bytes:
    return b"\\u%04x" % ord(found[0].decode())


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
    with suppress(Exception):  # A warning may be an error here, and what shows it may fail as well.
        warnings.warn(text, RuntimeWarning, stacklevel=3)


# The ids of the message in hand, for the records that handlers write. The variables are structlog's own, as
# `bind_contextvars` makes them; setting them directly takes a tenth of the time.

ID_NAMES: Final = ("message_id", "correlation_id", "causation_id")
_MESSAGE_ID, _CORRELATION_ID, _CAUSATION_ID = (
    token.var for token in copy_context().run(bind_contextvars, **dict.fromkeys(ID_NAMES)).values()
)


class Scope:
    """What structlog's records carry during a run: the ids of the message in hand, and what its handlers bind.

    Both end with their message; what was bound before the run comes back when the scope is closed.
    """

    def __init__(self) -> None:
        self._before = copy_context()
        self._tokens: tuple[Token[Any], ...] = ()
        self._is_changed = False

    def open(self, message_id: str, correlation_id: str, causation_id: str | None) -> None:
        """Show the ids of the next message in every structlog record from here on."""
        self.close()
        self._tokens = _MESSAGE_ID.set(message_id), _CORRELATION_ID.set(correlation_id), _CAUSATION_ID.set(causation_id)
        self._opened = copy_context()

    def hide(self) -> None:
        """Show the ids no longer, but what the handlers have bound."""
        if self._tokens:
            # Two contexts are the same object inside, and compared at once, if nothing was bound in between.
            self._is_changed = self._is_changed or copy_context() != self._opened
            for token in self._tokens:
                token.var.reset(token)
            self._tokens = ()

    def close(self) -> None:
        """Make structlog's context what it was before the run."""
        self.hide()
        if self._is_changed:
            self._is_changed = False
            for variable in copy_context():
                old = self._before.get(variable, ...)  # structlog takes an Ellipsis for what is not bound.
                if variable.name.startswith(STRUCTLOG_KEY_PREFIX) and old is not variable.get():
                    variable.set(old)
