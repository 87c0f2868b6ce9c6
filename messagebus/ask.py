"""Asking: run a command whose answer is known by its class, and return that answer."""

from collections import Counter
from collections.abc import Iterable
from typing import Any, cast

from messagebus import logs
from messagebus.bus import QuietErrorLogLevel, ahandle_message, handle_message
from messagebus.errors import AnswerError, DispatchError, NotAMessageError, full_name
from messagebus.messages import Answer_co, Command, Message, ReturnMessage
from messagebus.registry import Registry

__all__ = ["aask", "ask"]


def ask(
    command: Command[Answer_co],
    *,
    log_level: logs.LogLevel = "disabled",
    error_log_level: QuietErrorLogLevel = "disabled",
    registry: Registry | None = None,
    logger: Any = None,
) -> Answer_co:
    """Run ``command`` and everything it leads to, as `handle_message` does, and return its answer.

    That is the one return message of the class that stands in ``class Quote(Command[Price])``, or of a subclass of it;
    of a plain command, the one return message. Return messages of other classes are left out.

    Raises:
        AnswerError: If there is none, or more than one. The run has taken place.
        Exception: What a handler raised.
    """
    answer = _answer_of(command)
    options: Any = {"log_level": log_level, "error_log_level": error_log_level, "registry": registry, "logger": logger}
    return cast("Answer_co", _only(command, answer, handle_message(command, **options)))


async def aask(
    command: Command[Answer_co],
    *,
    log_level: logs.LogLevel = "disabled",
    error_log_level: QuietErrorLogLevel = "disabled",
    registry: Registry | None = None,
    logger: Any = None,
) -> Answer_co:
    """Do as `ask`, with `ahandle_message`."""
    answer = _answer_of(command)
    options: Any = {"log_level": log_level, "error_log_level": error_log_level, "registry": registry, "logger": logger}
    return cast("Answer_co", _only(command, answer, await ahandle_message(command, **options)))


def _answer_of(command: Message) -> type[ReturnMessage]:
    """Return the class of the answer, before anything has run."""
    cls = type(command)
    if issubclass(cls, Command):
        return cls.__answer__
    if not issubclass(cls, Message):
        raise NotAMessageError(full_name(command if isinstance(command, type) else cls), is_class=cls is type(Message))
    raise DispatchError(f"ask {full_name(cls)}", "only a command has an answer", "Use handle_message.")


def _only(command: Message, answer: type[ReturnMessage], returned: Iterable[ReturnMessage]) -> ReturnMessage:
    found = [one for one in returned if answer in type(one).__mro__]
    if len(found) != 1:
        came = Counter(full_name(type(one)) for one in returned)
        raise AnswerError(full_name(type(command)), full_name(answer), tuple(came.most_common()))
    return found[0]
