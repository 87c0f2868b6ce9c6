"""Replies: how the return messages of a command go back to a sender, on another machine, that waits for them."""

import re
from typing import Final

from pydantic_core import from_json
from pydantic_core import to_json as dump_json

from messagebus.delivery.entries import Sending, Settlement, Stored
from messagebus.envelope import Envelope
from messagebus.errors import DeliveryFailedError
from messagebus.messages import Command

__all__ = ["REPLY", "REPLY_TO", "read_reply", "reply_to"]

REPLY: Final = "messagebus.reply"
"""The wire name of a reply."""
REPLY_TO: Final = "replyto"
"""The attribute of a command, and of its reply, that names who waits."""
_ADDRESS: Final = re.compile("[0-9a-f]{32}")
"""No more than an id: what comes in must not choose where on an engine something goes."""


class Reply(Command, name=REPLY):
    """What became of a command."""


def reply_to(stored: Stored, settlement: Settlement) -> Sending | None:
    """Return the reply to a message that has come in, to be stored with its settlement; None if nobody waits, or yet.

    A handler that has failed for good is an answer too; one that is to be tried again is none.
    """
    address = stored.headers.get(REPLY_TO, "")
    states = {outcome.state for outcome in settlement.outcomes}
    if _ADDRESS.fullmatch(address) is None or "source" not in stored.headers or "retry" in states:
        return None
    data = b'"results":%b' % (settlement.results or b"[]")
    if "dead" in states:
        dead = [one for one in settlement.outcomes if one.state == "dead"]
        told = [f"{one.handler or stored.type} ({one.failure.error if one.failure else ''})" for one in dead]
        data = b'"failed":%b' % dump_json(told)
    envelope = Envelope(
        Reply(), correlation_id=stored.correlation_id, causation_id=stored.id, headers={REPLY_TO: address}
    )
    return Sending(envelope, b'{"type":"%b","data":{%b}}' % (REPLY.encode(), data))


def read_reply(body: bytes) -> tuple[str, bytes | DeliveryFailedError]:
    """Return the id of the command, and its return messages as a JSON array; or what failed for good.

    Raises:
        ValueError, TypeError, LookupError: If these are not the bytes of a reply.
    """
    event = from_json(body)
    id, data = event["causationid"], event["data"]
    if "failed" in data:
        return id, DeliveryFailedError(id, tuple(map(str, data["failed"])))
    return id, dump_json(data["results"])
