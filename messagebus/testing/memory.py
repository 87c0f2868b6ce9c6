"""A store in memory with a clock of its own, which notes what is sent and handled, for users' tests."""

from collections.abc import Callable, Sequence
from typing import Any

from messagebus import InvalidMessageError, Message, MessageBus, ReturnMessage, wire_name
from messagebus.delivery import Claim, Retry, Transaction, Worker
from messagebus.delivery.sqlite import MemoryStore
from messagebus.door import Door
from messagebus.registry import Handler, Registry
from messagebus.testing.clock import Clock
from messagebus.testing.recording import AnyBus, Recording, changed, watched

__all__ = ["RecordedStore"]

_WATCH = """
    CREATE TEMP TABLE sent(seq integer PRIMARY KEY, body blob);
    CREATE TEMP TRIGGER watch AFTER INSERT ON mb_message BEGIN INSERT INTO sent VALUES (new.seq, new.body); END;
"""


class RecordedStore(Recording, MemoryStore):
    """A store like any other, but in memory, and with time that passes only when `clock` is told to.

    `sent` is all that was sent to it and committed: by the test, by what it tests, by handlers.
    """

    clock: Clock

    def __init__(self, bus: AnyBus = MessageBus, *, clock: Clock | None = None) -> None:
        Recording.__init__(self, bus)
        MemoryStore.__init__(self, clock=clock or Clock())
        self._raw.executescript(_WATCH)
        self._vary: Callable[[Handler], Handler] = _unchanged
        self._arrange: Callable[[Sequence[Any]], Sequence[Any]] = _unchanged

    @property
    def sent(self) -> Sequence[Message]:
        """The commands and events that were sent, of the classes that the registry of the bus knows."""
        return self._sent_of(self._bus.registry.snapshot.names)

    def run_until_idle(self, *, within: float = 0.0, retry: Retry = Retry()) -> list[ReturnMessage]:  # noqa: B008
        """Handle what is due, and what that leads to, as a worker would; return what the handlers returned.

        Args:
            within: seconds by which the clock may be moved on, to whatever is due next: retries and delays.
            retry: as for `Worker`.
        """
        before, end = len(self.returned), self.clock() + within
        while True:
            Worker(self, self._watched(), bus=self._recorded(), batch=_ALL, retry=retry, logger=self._logger()).run(
                until_idle=True
            )
            due = self.next_due()
            if due is None or due > end:
                return self.returned[before:]
            self.clock.now = max(self.clock.now, due)

    def close(self) -> None:
        Recording.close(self)
        MemoryStore.close(self)

    def claim(self, limit: int, lease: float, *, transaction: Transaction | None = None) -> Claim:
        claim = super().claim(max(limit, _ALL), lease, transaction=transaction)
        return Claim(claim.token, self._arrange(claim.messages))

    def _watched(self) -> Registry:
        return changed(self._bus.registry, lambda handler: self._vary(watched(handler, self._note)))

    def _sent_with(self, message_class: type[Message]) -> Sequence[Message]:
        return self._sent_of({**self._bus.registry.snapshot.names, wire_name(message_class): message_class})

    def _sent_of(self, names: Any) -> Sequence[Message]:
        door, found = Door(names, self._bus.registry.snapshot.upcasters), []
        with self._read("look at what was sent") as connection:
            rows = connection.rows("SELECT body FROM sent ORDER BY seq")
        for (body,) in rows:
            try:
                found.append(door.read_json(bytes(body), len(body))[0])
            except InvalidMessageError:  # Of a class that nobody here asks for.
                continue
        return found


_ALL = 1_000


def _unchanged(thing: Any) -> Any:
    return thing
