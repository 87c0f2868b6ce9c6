"""When a handler that failed is tried again: pure arithmetic."""

import random
from dataclasses import dataclass

__all__ = ["Retry"]


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a handler is tried, how long it waits in between, and what is not worth another try.

    After the n-th failure it waits for a random time between nothing and ``first * factor ** (n - 1)`` seconds, at most
    ``longest``: full jitter, so that messages that failed together do not come back together.

    Args:
        attempts: a handler fails for good with this many; a crash while it ran is one of them.
        first: seconds.
        factor: by how much the wait grows with each failure.
        longest: seconds.
        permanent: exceptions after which another try is useless: the message becomes a dead letter at once.
        parks: whether later messages with the same key wait until somebody decides about the dead letter.

    Source: M. Brooker, "Exponential Backoff And Jitter".
    """

    attempts: int = 5
    first: float = 1.0
    factor: float = 4.0
    longest: float = 3_600.0
    permanent: tuple[type[Exception], ...] = ()
    parks: bool = True

    def ceiling(self, attempt: int) -> float:
        """Return the longest wait after the failure of this attempt, in seconds; attempts count from 1."""
        try:
            return min(self.longest, self.first * self.factor ** (attempt - 1))
        except OverflowError:
            return self.longest

    def wait(self, attempt: int) -> float:
        """Return how long to wait after the failure of this attempt, in seconds: any time up to its ceiling."""
        return random.uniform(0, self.ceiling(attempt))  # noqa: S311 - to spread load, not to keep a secret

    def is_final(self, attempt: int, error: Exception) -> bool:
        """Say whether a handler that failed so at this attempt has failed for good."""
        return attempt >= self.attempts or isinstance(error, self.permanent)
