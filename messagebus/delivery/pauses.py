"""Handlers that fail whatever they are given: what they need is down, and they are left alone until it is not."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from messagebus.delivery.entries import Failure
from messagebus.delivery.retry import Retry

__all__ = ["Pauses"]

_IN_A_ROW: Final = 10
"""So many messages, one after another, make a handler fail: then it is not they that are wrong."""
_SPREAD: Final = 30
"""Those that wait for a pause to end come back within so many pauses, and not all at once."""


@dataclass(slots=True)
class Pauses:
    """Which handlers of a worker are paused: one message is tried in each pause, and the first success ends it.

    A pause is as long as the first wait of the retries. What would not be tried again anyway does not count: a
    permanent error is the message's own.
    """

    retry: Retry
    clock: Callable[[], float]
    tell: Callable[[str, Failure | None], None] = lambda _handler, _failure: None
    """Called when a handler is paused, with what failed last; and when it goes on, with None."""
    until: dict[str, float] = field(default_factory=dict)
    """When the pause of each handler that is paused ends."""
    failed: dict[str, set[int]] = field(default_factory=dict)
    """Which messages, of the first few, have failed since the last success of each handler."""

    def may_run(self, handler: str) -> bool:
        """Say whether a handler may run now. Where one is paused, who is told so first is the one that tries."""
        until, now = self.until.get(handler), self.clock()
        if until is None:
            return True
        if 0 < until - now <= self.retry.first:
            return False
        self.until[handler] = now + self.retry.first
        return True

    def due(self, handler: str) -> float:
        """Return when a message is due again that was not tried."""
        return self.until.get(handler, self.clock()) + random.uniform(0, _SPREAD * self.retry.first)  # noqa: S311 - as retries

    def note_success(self, handler: str) -> None:
        """Begin to count anew."""
        if self.failed.pop(handler, None) and self.until.pop(handler, None) is not None:
            self.tell(handler, None)

    def note_failure(self, handler: str, seq: int, error: Exception, failure: Failure) -> None:
        """Count the messages that have failed since the last success."""
        if self.retry.is_final(1, error):
            return
        failed = self.failed.setdefault(handler, set())
        if len(failed) < _IN_A_ROW:
            failed.add(seq)
        if len(failed) == _IN_A_ROW:
            is_new = handler not in self.until
            self.until[handler] = self.clock() + self.retry.first
            if is_new:
                self.tell(handler, failure)
