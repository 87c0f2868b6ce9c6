"""The port that an engine fills: what differs between engines, behind one word for each thing that is done."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

from messagebus.brokers.wire import Kind, Parcel
from messagebus.delivery.entries import Arrival
from messagebus.errors import ConfigurationError, full_name

__all__ = ["CONFIRM", "Capability", "Engine", "Put", "Settings", "Want", "missing"]

CONFIRM = 5.0
"""Seconds to wait for an engine to confirm something."""

Capability = Literal["order", "replies", "history", "delay"]
"""What not every engine can do, and an application may need.

``order``: messages of one type and key are handled in their order by any number of workers, with ``ordered=True``.
``replies``: return messages come back to the sender. ``history``: a group that is new gets the events of before.
``delay``: messages are kept by the engine until they are due; none that is here does, and stores do.
"""

Put = Callable[[Sequence[Arrival]], Awaitable[None]]
"""Takes what has been brought; returns when there is room for more."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How an application uses an engine; see `messagebus.brokers.connect`."""

    url: str
    group: str
    namespace: str
    is_ordered: bool
    retention: float
    partitions: int

    @property
    def place(self) -> str:
        """The URL as it may be shown: without a user, a password or a token."""
        parts = urlsplit(self.url)
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{parts.hostname or ''}{port}"

    @property
    def secrets(self) -> Sequence[str]:
        """What of the URL must not be shown."""
        parts = urlsplit(self.url)
        return [secret for secret in (parts.password, parts.username, parts.query) if secret]

    def destination(self, kind: Kind, type: str) -> str:
        """Return the name under which messages of a type go."""
        return f"{self.namespace}.{kind}.{type}"


@dataclass(frozen=True, slots=True)
class Want:
    """Messages that a worker has handlers for."""

    kind: Kind
    type: str


class Engine(ABC):
    """An engine, reached through FastStream's broker for it; used on one event loop."""

    name: ClassVar[str]
    capabilities: ClassVar[frozenset[Capability]]

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.ahead = 1
        self.lease = 30.0
        self.in_line = asyncio.Lock()
        """Held while parcels are handed to the client, so that those of one call leave before those of the next."""

    @abstractmethod
    async def connect(self) -> None:
        """Connect, and make sure that what is published has a place to go."""

    async def weaknesses(self) -> Sequence[tuple[str, str]]:
        """Say what of the engine's own settings is weaker than what is promised here, and what to set."""
        return ()

    @abstractmethod
    async def publish(self, parcels: Sequence[Parcel]) -> Sequence[Exception | None]:
        """Publish; return for each why it was not confirmed, or None."""

    @abstractmethod
    async def listen(self, address: str, take: Callable[[bytes], None]) -> None:
        """Have the replies brought that go to this address, from now on, also after the connection was lost.

        They are for one who waits now: the engine forgets them by itself, whether somebody takes them or not.
        """

    @abstractmethod
    async def subscribe(self, wants: Sequence[Want], put: Put) -> None:
        """Have messages brought: of commands to one of all workers, of events to one of each group."""

    @abstractmethod
    async def acknowledge(self, receipts: Iterable[Any]) -> None:
        """Have the engine forget these."""

    async def renew(self, receipts: Iterable[Any]) -> None:  # noqa: B027 - most engines need not be told
        """Tell the engine that somebody still works on these."""

    async def give_back(self, receipts: Iterable[Any]) -> None:  # noqa: B027 - or they see that nobody is there
        """Let others have these, which were brought but not begun."""

    @abstractmethod
    async def unsubscribe(self) -> None:
        """Have nothing brought any more."""

    @abstractmethod
    async def close(self) -> None:
        """Disconnect."""

    def is_refusal(self, error: Exception) -> bool:  # noqa: ARG002 - an engine that has such says so
        """Say whether the engine will never take this very message: it is too large, for example."""
        return False

    def told(self, error: Exception) -> str:
        """Say what an error of a client is, with nothing of the URL that may be secret."""
        if isinstance(error, TimeoutError):
            return f"there was no answer within {CONFIRM:g} s"
        text = str(error).partition("\n")[0][:200].replace(self.settings.url, self.settings.place)
        for secret in self.settings.secrets:
            text = text.replace(secret, "***")
        return f"{full_name(type(error))}{': ' if text else ''}{text}"


def missing(engine: str, extra: str) -> ConfigurationError:
    """Return the error of an extra that is not installed."""
    remedy = f"Install it: pip install 'pydantic-messagebus[{extra}]'."
    return ConfigurationError(
        f"use {engine}", f"FastStream's part for it, faststream[{extra}], is not installed", remedy
    )
