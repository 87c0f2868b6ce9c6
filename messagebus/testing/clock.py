"""A clock that stands still until somebody moves it."""

from datetime import UTC, datetime

__all__ = ["Clock"]


class Clock:
    """Tells a store the time, and passes only when told to: ``open_store(url, clock=Clock())``.

    It begins with the year 2026, on a Thursday.
    """

    def __init__(self, now: float = 1_767_225_600.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """Return the seconds since the epoch."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    def time(self, later: float = 0.0) -> datetime:
        """Return the time that it will be so many seconds from now; aware, in UTC."""
        return datetime.fromtimestamp(self.now + later, UTC)
