"""What a store keeps and tells: messages as they are sent, claimed, settled and listed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

from messagebus.envelope import Envelope

__all__ = [
    "RETURNED", "Arrival", "Claim", "DeadLetter", "Failure", "Flow", "Outcome", "Schedule", "Sending", "Settlement",
    "State", "Stats", "Step", "Stored", "Waiting",
]  # fmt: skip

RETURNED: Final = "@inbox"
"""At the end of the stored id of a message that left this very store, and came back from the engine as another row."""

State = Literal["done", "retry", "dead", "dropped"]
"""What became of a handler: it finished; it is to run again when due; it is a dead letter; somebody dropped that."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What a dead letter tells of the error: nothing in it is private in the message."""

    error: str
    """The full name of the exception's class."""
    text: str
    """What it says, bounded and cleared of what is private."""
    place: str = ""
    """``path/to/file.py:12``, where it was raised."""


@dataclass(slots=True)  # Nobody changes it; to freeze it would take longer than to make it.
class Outcome:
    """What became of one handler of a message; the handler is "" where the message could not even be dispatched."""

    handler: str
    state: State
    attempts: int
    duration_ms: float = 0.0
    due: float | None = None
    """For ``retry``: when, in seconds of the store's clock."""
    failure: Failure | None = None
    """For ``retry`` and ``dead``."""
    parks: bool = True
    """For ``dead``: later messages with the key of this one wait until somebody decides; as its settlement said."""


@dataclass(slots=True)  # Nobody changes it; to freeze it would take longer than to make it.
class Stored:
    """A message that a worker has claimed."""

    seq: int
    """Its place in the order of sending."""
    id: str
    type: str
    body: bytes
    """The wire form, ``{"type": ..., "data": {...}}``, as it was sent."""
    key: str | None
    correlation_id: str
    causation_id: str | None
    sent_at: float
    headers: Mapping[str, str]
    attempt: int
    """How often it has been claimed since anything was settled about it, this time included: more than once only after
    a crash or a lost lease. It counts on top of the attempts in ``outcomes``."""
    outcomes: Mapping[str, Outcome]
    """By handler: what was settled before. Empty at the first delivery."""
    is_event: bool = False
    """It was sent here, and is an event: many may want it. Of what arrived from elsewhere nothing is said."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Messages that are one worker's until the lease ends; ``token`` is the fence (law D6)."""

    token: str
    messages: Sequence[Stored]


@dataclass(slots=True)
class Settlement:
    """What a worker has to say about one message of its claim.

    ``outcomes`` replaces what is stored of the handlers it names. A message is finished when every handler named is
    done or dropped; while one is to be retried it waits until the earliest is due; while one is dead it is kept, and
    parks its key if the settlement that said so had ``parks``.
    """

    seq: int
    outcomes: Sequence[Outcome]
    sends: Sequence["Sending"] = ()
    """What its finished handlers sent; stored in the same transaction (law D3)."""
    results: bytes | None = None
    """The return messages of its finished handlers, as a JSON array; appended to those stored before."""
    parks: bool = True


@dataclass(slots=True)  # Nobody changes it; to freeze it would take longer than to make it.
class Sending:
    """A message on its way into a store."""

    envelope: Envelope
    body: bytes
    delay: float = 0.0
    at: datetime | None = None
    key: str | None = None
    dedup: str | None = None


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message that an engine has brought, on its way into the inbox: as it came, nothing of it is proven."""

    id: str
    """A second one with this id is the same message."""
    type: str
    body: bytes
    """The raw bytes: a CloudEvent in structured JSON mode, or whatever else came."""
    key: str | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    sent_at: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    receipt: Any = None
    """By which the engine knows what is acknowledged."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message that is not finished and not dead, as a listing shows it."""

    id: str
    type: str
    key: str | None
    due: datetime
    sent_at: datetime
    is_in_flight: bool
    """A worker holds a lease on it."""
    retries: Mapping[str, int]
    """Attempts so far, by handler, of those that have failed."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A (message, handler) pair that failed for good and is kept until someone decides."""

    id: int
    message_id: str
    type: str
    key: str | None
    handler: str
    """"" if the message could not be dispatched at all: it is unreadable, of no known type, or has no handler."""
    attempts: int
    failure: Failure
    died_at: datetime
    sent_at: datetime
    correlation_id: str
    causation_id: str | None
    body: bytes = field(repr=False)
    """The raw bytes, with whatever is private in them: for programs, not for listings."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Step:
    """One message in the history of what led to what."""

    id: str
    type: str
    causation_id: str | None
    sent_at: datetime
    finished_at: datetime | None
    outcomes: Sequence[Outcome]


@dataclass(frozen=True, slots=True)
class Flow:
    """How often messages of one type led to messages of another."""

    cause: str
    type: str
    count: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """A message that is sent again and again."""

    name: str
    cron: str
    timezone: str
    type: str
    next_at: datetime


@dataclass(frozen=True, slots=True)
class Stats:
    """Figures of one moment. Ages in seconds."""

    due: int
    """May be claimed now (those whose key is held by an earlier message included)."""
    delayed: int
    in_flight: int
    dead: int
    finished: int
    oldest_due: float
    """How long the oldest message that is due has been due: the lag of the workers."""
