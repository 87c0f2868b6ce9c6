"""What a store does when somebody sets the clock: what counts from then until now is kept in step."""

import time
from functools import cache, partial
from pathlib import Path
from typing import Final

from messagebus.delivery.connection import Connection
from messagebus.delivery.entries import Outcome
from messagebus.delivery.outcomes import pack, unpack

__all__ = ["Watch", "running"]

_STEP: Final = 1_000
"""Milliseconds: what is less is no step, but a clock that is adjusted as it goes."""

_LOOK: Final = "SELECT boot, epoch FROM mb_meta"
_NOTE: Final = "UPDATE mb_meta SET boot = :boot, epoch = :epoch"
# Leases, waits for a retry, and what was due already; what was sent for later is due when the clock says so.
_SHIFT: Final = """
    UPDATE mb_message SET due_at = due_at + :step
    WHERE due_at IS NOT NULL AND (lease IS NOT NULL OR outcomes IS NOT NULL OR due_at <= :before)
"""
_WITH_RETRIES: Final = "SELECT seq, outcomes FROM mb_message WHERE due_at IS NOT NULL AND outcomes IS NOT NULL"
_SHIFT_RETRIES: Final = "UPDATE mb_message SET outcomes = :outcomes WHERE seq = :seq"


def running() -> float:
    """Return seconds by a clock that nobody can set, and that goes on while the machine sleeps where there is one."""
    return _steady()


_steady: Final = partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic


@cache
def _boot() -> str | None:
    """Return what names this start of the machine: `running` counts from it, the same in all processes."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_bytes().decode().strip()
    except OSError:
        return None


def can_watch() -> bool:
    """Say whether the system tells one start of it from another; Linux does."""
    return _boot() is not None


class Watch:
    """Notices that the clock of this machine was set.

    The store keeps when `running` began by the clock; whoever finds that it began at another time, in the same start
    of the machine, moves all that it is about by the difference, once for all processes.
    """

    def __init__(self) -> None:
        self._epoch = 0.0

    def is_right(self) -> bool:
        """Say whether the clock is as it was when the store was last kept in step."""
        return -_STEP < (time.time() - running() - self._epoch) * 1000 < _STEP

    def set_right(self, connection: Connection) -> int:
        """Keep the store in step, in an open transaction; return what `note` is told when that is committed."""
        epoch, boot = _epoch(), _boot()
        then, known = connection.rows(_LOOK)[0]
        step = epoch - known if then == boot else 0
        if abs(step) >= _STEP:
            _shift(connection, step)
        if then != boot or step:
            connection.change(_NOTE, {"boot": boot, "epoch": epoch})
        return epoch

    def note(self, epoch: int) -> None:
        """Remember what the store is in step with."""
        self._epoch = epoch / 1000


def _epoch() -> int:
    return round((time.time() - running()) * 1000)


def _shift(connection: Connection, step: int) -> None:
    connection.change(_SHIFT, {"step": step, "before": int(time.time() * 1000) - step})
    for seq, packed in connection.rows(_WITH_RETRIES):
        moved = [_moved(outcome, step / 1000) for outcome in unpack(packed).values()]
        connection.change(_SHIFT_RETRIES, {"outcomes": pack(moved), "seq": seq})


def _moved(outcome: Outcome, seconds: float) -> Outcome:
    if outcome.due is not None:
        outcome.due += seconds
    return outcome
