"""Messages that are sent again and again, at the times of a cron expression."""

from datetime import UTC, datetime, tzinfo
from typing import Any, Final
from zoneinfo import ZoneInfo

from messagebus.delivery.connection import Connection
from messagebus.delivery.entries import Schedule
from messagebus.delivery.schema import ADD_MESSAGES
from messagebus.delivery.sending import moment
from messagebus.envelope import new_id
from messagebus.errors import ConfigurationError

__all__ = ["every", "fire", "is_due", "next_time", "schedules", "unschedule"]

_KNOWN: Final = "SELECT cron, timezone, next_at FROM mb_schedule WHERE name = :name"
_PUT: Final = """
    INSERT INTO mb_schedule(name, cron, timezone, type, body, headers, next_at)
    VALUES (:name, :cron, :timezone, :type, :body, :headers, :next_at)
    ON CONFLICT (name) DO UPDATE SET cron = excluded.cron, timezone = excluded.timezone, type = excluded.type,
    body = excluded.body, headers = excluded.headers, next_at = excluded.next_at
"""
_LIST: Final = "SELECT name, cron, timezone, type, next_at FROM mb_schedule ORDER BY next_at, name"
_REMOVE: Final = "DELETE FROM mb_schedule WHERE name = :name"
_DUE: Final = "SELECT name, cron, timezone, type, body, headers FROM mb_schedule WHERE next_at <= :now"
_ADVANCE: Final = "UPDATE mb_schedule SET next_at = :next_at WHERE name = :name"


def next_time(cron: str, timezone: str, after: int) -> int:
    """Return the first time of a cron expression after another, both in milliseconds since the epoch.

    Where clocks are set forward, what would fall into the hour that is missing comes right after it; where they are
    set back, what has a fixed hour comes once.

    Raises:
        ConfigurationError: If it is no cron expression, has no such time, or there is no such zone.
    """
    what = f"schedule {cron!r} in {timezone!r}"
    try:
        from cronsim import CronSim, CronSimError  # noqa: PLC0415 - an extra
    except ImportError:
        remedy = "Install it: pip install 'pydantic-messagebus[cron]'."
        raise ConfigurationError(what, "the package cronsim is not installed", remedy) from None
    try:
        zone: tzinfo = UTC if timezone == "UTC" else ZoneInfo(timezone)
    except (LookupError, ValueError, OSError):
        remedy = "Give a name as in Europe/Berlin; where the system has no time zones, install tzdata."
        raise ConfigurationError(what, "no such time zone is known", remedy) from None
    try:
        following = next(CronSim(cron, datetime.fromtimestamp(after / 1000, zone)))
    except (CronSimError, StopIteration):
        remedy = "Write minute, hour, day of month, month and day of week: '0 3 * * *' is every day at three."
        raise ConfigurationError(what, "it is no cron expression that has a next time", remedy) from None
    return round(following.timestamp() * 1000)


def every(connection: Connection, now: int, schedule: dict[str, Any]) -> None:
    """Keep a schedule; see `Store.every`. One that stays as it was keeps its next time too."""
    next_at = next_time(schedule["cron"], schedule["timezone"], now)
    for cron, timezone, known in connection.rows(_KNOWN, {"name": schedule["name"]}):
        if (cron, timezone) == (schedule["cron"], schedule["timezone"]):
            next_at = known
    connection.change(_PUT, {**schedule, "next_at": next_at})


def schedules(connection: Connection) -> list[Schedule]:
    """List the schedules, the next one first."""
    return [
        Schedule(name, cron, timezone, type, moment(next_at))
        for name, cron, timezone, type, next_at in connection.rows(_LIST)
    ]


def unschedule(connection: Connection, name: str) -> bool:
    """Forget a schedule."""
    return connection.change(_REMOVE, {"name": name}) > 0


def is_due(connection: Connection, now: int) -> bool:
    """Say whether there is something to fire."""
    return bool(connection.rows(_DUE, {"now": now}))


def fire(connection: Connection, now: int) -> int:
    """Send what is due, once each, however often it would have been due until now."""
    due = connection.rows(_DUE + " /* skip locked */", {"now": now})
    for name, cron, timezone, *_ in due:
        connection.change(_ADVANCE, {"name": name, "next_at": next_time(cron, timezone, now)})
    rows = [(new_id(), type, bytes(body), headers, None, None, None, None, now, now) for *_, type, body, headers in due]
    if rows:
        connection.many(ADD_MESSAGES, rows)
    return len(rows)
