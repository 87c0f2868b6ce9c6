"""Logs where structlog is configured: the bus keeps your processors, your threshold and your format.

What your handlers write carries the ids of the message in hand.

Output::

    level=warning event=password.expired user=ada message_id=m-1
    level=info event=command.handled message_type=LogIn message_id=m-1
"""

import structlog
from structlog.typing import EventDict, WrappedLogger

from messagebus import Command, Envelope, MessageBus, handles

log = structlog.get_logger()


class LogIn(Command):
    user: str


@handles(LogIn)
def log_in(command: LogIn) -> None:
    log.warning("password.expired", user=command.user)


def pick(_logger: WrappedLogger, _method: str, record: EventDict) -> EventDict:
    shown = ("level", "event", "message_type", "user", "message_id")
    return {name: record[name] for name in shown if name in record}


structlog.configure(
    wrapper_class=structlog.make_filtering_bound_logger("info"),
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        pick,
        structlog.processors.LogfmtRenderer(),
    ],
)

# Ids make themselves; here one is given, to be the same in every run.
message = LogIn(user="ada")
MessageBus(message, envelope=Envelope(message, id="m-1"))()
