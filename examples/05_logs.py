"""Logs: one record for each message, without any configuration, in JSON on stderr.

What differs from run to run is shown as dots.

Output::

    Nothing configured: a line on stderr.
        logger          messagebus
        message_type    LogIn
        message_id      ...
        correlation_id  ...
        causation_id    None
        handlers        ['__main__.log_in']
        duration_ms     ...
        emitted         0
        event           command.handled
        level           info
        timestamp       ...
    At debug: a record for each handler too, and the message, in which what is private is masked.
        event           handler.finished
        data            None
        event           command.handled
        data            {'user': 'ada', 'password': '**********', 'address': '**********'}
    Disabled: nothing.
        -
    The logger named messagebus has a handler of yours: the line goes there, and not to stderr.
        event           command.handled
        -
"""

import io
import json
import logging
from contextlib import redirect_stderr
from typing import Annotated

from pydantic import SecretStr

from messagebus import Command, MessageBus, Private, handles


class LogIn(Command):
    user: str
    password: SecretStr  # Has no JSON: the message stays in this process.
    address: Annotated[str, Private]  # Travels in JSON, and never shows in a log.


@handles(LogIn)
def log_in(command: LogIn) -> None:
    """Let everybody in."""


def show(lines: str, *names: str) -> None:
    for line in lines.splitlines():
        record = json.loads(line)
        record |= dict.fromkeys(record.keys() & {"message_id", "correlation_id", "duration_ms", "timestamp"}, "...")
        for name in names or record:
            print(f"    {name:15} {record.get(name)}")


message = LogIn(user="ada", password=SecretStr("analytical engine"), address="St James's Square 12")

print("Nothing configured: a line on stderr.")
with redirect_stderr(io.StringIO()) as stderr:
    MessageBus(message)()
show(stderr.getvalue())

print("At debug: a record for each handler too, and the message, in which what is private is masked.")
with redirect_stderr(io.StringIO()) as stderr:
    MessageBus(message, log_level="debug")()
show(stderr.getvalue(), "event", "data")

print("Disabled: nothing.")
with redirect_stderr(io.StringIO()) as stderr:
    MessageBus(message, log_level="disabled")()
print("   ", stderr.getvalue() or "-")

print("The logger named messagebus has a handler of yours: the line goes there, and not to stderr.")
yours = io.StringIO()
logger = logging.getLogger("messagebus")
logger.setLevel(logging.INFO)
logger.addHandler(logging.StreamHandler(yours))
with redirect_stderr(io.StringIO()) as stderr:
    MessageBus(message)()
show(yours.getvalue(), "event")
print("   ", stderr.getvalue() or "-")
