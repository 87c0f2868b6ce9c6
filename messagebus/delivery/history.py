"""What a store knows: figures, results, what led to what, and what may be forgotten."""

from collections import Counter
from typing import Any, Final

from pydantic_core import from_json

from messagebus.delivery.connection import Connection
from messagebus.delivery.entries import Flow, Stats, Step
from messagebus.delivery.outcomes import unpack
from messagebus.delivery.sending import moment
from messagebus.errors import DeliveryFailedError, ResultTimeoutError

__all__ = ["flows", "prune", "result", "stats", "tree"]

_STATS: Final = """
    SELECT
    (SELECT count(*) FROM mb_message WHERE key IS NULL AND lease IS NULL AND due_at <= :now),
    (SELECT count(*) FROM mb_message WHERE key IS NOT NULL AND lease IS NULL AND turn > 0 AND due_at <= :now),
    (SELECT count(*) FROM mb_message
        WHERE key IS NOT NULL AND finished_at IS NULL AND lease IS NULL AND turn = 0 AND due_at <= :now),
    (SELECT count(*) FROM mb_message WHERE lease IS NOT NULL AND due_at <= :now),
    (SELECT count(*) FROM mb_message WHERE key IS NULL AND lease IS NULL AND due_at > :now),
    (SELECT count(*) FROM mb_message WHERE key IS NOT NULL AND lease IS NULL AND turn > 0 AND due_at > :now),
    (SELECT count(*) FROM mb_message
        WHERE key IS NOT NULL AND finished_at IS NULL AND lease IS NULL AND turn = 0 AND due_at > :now),
    (SELECT count(*) FROM mb_message WHERE lease IS NOT NULL AND due_at > :now),
    (SELECT count(*) FROM mb_dead),
    (SELECT count(*) FROM mb_message WHERE finished_at IS NOT NULL),
    (SELECT min(due_at) FROM mb_message WHERE key IS NULL AND lease IS NULL AND due_at <= :now),
    (SELECT min(due_at) FROM mb_message WHERE key IS NOT NULL AND lease IS NULL AND turn > 0 AND due_at <= :now),
    (SELECT min(due_at) FROM mb_message
        WHERE key IS NOT NULL AND finished_at IS NULL AND lease IS NULL AND turn = 0 AND due_at <= :now),
    (SELECT min(due_at) FROM mb_message WHERE lease IS NOT NULL AND due_at <= :now)
"""
_BELOW: Final = """
    WITH RECURSIVE below(id) AS (
        SELECT id FROM mb_message WHERE id = :id
        UNION
        SELECT m.id FROM mb_message m JOIN below b ON m.causation_id = b.id
    )
"""
_TREE: Final = f"""
    {_BELOW} SELECT m.id, m.type, m.causation_id, m.sent_at, m.finished_at, m.outcomes
    FROM below b JOIN mb_message m ON m.id = b.id ORDER BY m.seq
"""
_DEAD_BELOW: Final = f"""
    {_BELOW} SELECT m.type, d.handler, d.error
    FROM below b CROSS JOIN mb_message m CROSS JOIN mb_dead d WHERE m.id = b.id AND d.seq = m.seq ORDER BY d.id
"""
_RESULTS: Final = f"""
    {_BELOW} SELECT m.id, m.finished_at, m.results
    FROM below b JOIN mb_message m ON m.id = b.id
    ORDER BY CASE WHEN m.id = :id THEN 0 ELSE 1 END, m.finished_at, m.seq
"""
_FLOWS: Final = """
    SELECT c.type, m.type, count(*) FROM mb_message m JOIN mb_message c ON c.id = m.causation_id GROUP BY c.type, m.type
"""
_LATEST_RESULTS: Final = """
    SELECT type, results FROM mb_message WHERE results IS NOT NULL ORDER BY seq DESC LIMIT 10000
"""
_PRUNE: Final = """
    DELETE FROM mb_message WHERE seq IN (
        SELECT seq FROM mb_message m WHERE finished_at <= :before
        AND NOT EXISTS (SELECT 1 FROM mb_dead d WHERE d.seq = m.seq)
        ORDER BY finished_at LIMIT :limit
    )
"""


def stats(connection: Connection, now: int) -> Stats:
    """Count; see `Store.stats`."""
    row = connection.rows(_STATS, {"now": now})[0]
    free, keyed, behind, lost, free_later, keyed_later, behind_later, in_flight, dead, finished = row[:10]
    oldest = min((at for at in row[10:] if at is not None), default=now)
    delayed = free_later + keyed_later + behind_later
    return Stats(free + keyed + behind + lost, delayed, in_flight, dead, finished, (now - oldest) / 1000)


def result(connection: Connection, message_id: str) -> bytes | int:
    """Return the results of all that a message led to, or how many messages of these are not finished.

    Raises:
        ResultTimeoutError: If the message is unknown.
        DeliveryFailedError: If a handler failed for good.
    """
    rows = connection.rows(_RESULTS, {"id": message_id})
    what = f"return the result of message {message_id}"
    if not rows:
        why = "the store does not hold it: it was not sent here, or its history is no longer kept"
        raise ResultTimeoutError(what, why, "Look at its id.")
    dead = connection.rows(_DEAD_BELOW, {"id": message_id})
    if dead:
        raise DeliveryFailedError(message_id, tuple(f"{handler or type} ({error})" for type, handler, error in dead))
    count = sum(finished is None for _, finished, _ in rows)
    return count or b"[%b]" % b",".join(bytes(results)[1:-1] for *_, results in rows if results and results != b"[]")


def tree(connection: Connection, message_id: str) -> list[Step]:
    """Tell what led to what; see `Store.tree`."""
    return [
        Step(
            id,
            type,
            causation_id,
            moment(sent_at),
            None if finished_at is None else moment(finished_at),
            [*unpack(outcomes).values()],
        )
        for id, type, causation_id, sent_at, finished_at, outcomes in connection.rows(_TREE, {"id": message_id})
    ]


def flows(connection: Connection) -> list[Flow]:
    """Count which type led to which; see `Store.flows`."""
    counts = Counter({(cause, type): count for cause, type, count in connection.rows(_FLOWS)})
    for cause, results in connection.rows(_LATEST_RESULTS):
        counts.update((cause, type) for type in _types_in(bytes(results)))
    return [Flow(cause, type, count) for (cause, type), count in sorted(counts.items())]


def _types_in(results: bytes) -> list[str]:
    returned: list[Any] = from_json(results)
    return [one["type"] for one in returned if isinstance(one, dict) and isinstance(one.get("type"), str)]


def prune(connection: Connection, before: int, limit: int) -> int:
    """Forget up to so many messages that were finished before."""
    return connection.change(_PRUNE, {"before": before, "limit": limit})
