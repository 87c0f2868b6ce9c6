"""Messages that wait, and dead letters: what is listed, and what somebody decides about them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from pydantic_core import from_json

from messagebus.delivery.claims import pass_on
from messagebus.delivery.connection import Connection, Row
from messagebus.delivery.entries import DeadLetter, Failure, Outcome, Waiting
from messagebus.delivery.outcomes import fate_of, pack, unpack
from messagebus.delivery.sending import due_at, moment
from messagebus.errors import ConflictError, full_name
from messagebus.messages import Message, to_json, wire_name

__all__ = ["cancel", "dead", "drop", "move", "retry", "waiting"]

# Waiting

_WAITS: Final = "lease IS NULL AND due_at IS NOT NULL AND NOT EXISTS (SELECT 1 FROM mb_dead d WHERE d.seq = m.seq)"
_FIND_CANCELLED: Final = f"SELECT seq FROM mb_message m WHERE id = :id AND {_WAITS} /* lock */"
_CANCEL: Final = "DELETE FROM mb_message WHERE seq = :seq"
_FIND_WAITING: Final = "SELECT seq, outcomes FROM mb_message WHERE id = :id AND lease IS NULL AND due_at IS NOT NULL"
_MOVE: Final = "UPDATE mb_message SET due_at = :due, outcomes = :outcomes WHERE seq = :seq"


def waiting(connection: Connection, now: int, conditions: Mapping[str, Any], limit: int) -> list[Waiting]:
    """List what waits or is in flight; ``conditions`` are columns and their values."""
    where = "".join(f" AND {column} = :{column}" for column in conditions)
    sql = f"""
        SELECT id, type, key, due_at, sent_at, lease, outcomes FROM mb_message WHERE due_at IS NOT NULL{where}
        ORDER BY due_at, seq LIMIT :limit
    """
    return [_waiting(row, now) for row in connection.rows(sql, {**conditions, "limit": limit})]


def _waiting(row: Row, now: int) -> Waiting:
    id, type, key, due, sent_at, lease, outcomes = row
    retries = {name: outcome.attempts for name, outcome in unpack(outcomes).items() if outcome.state == "retry"}
    is_in_flight = lease is not None and due > now
    return Waiting(id, type, key, moment(due), moment(sent_at), is_in_flight, retries)


def cancel(connection: Connection, message_id: str) -> bool:
    """Forget a waiting message."""
    for (seq,) in connection.rows(_FIND_CANCELLED, {"id": message_id}):
        pass_on(connection, [seq])
        connection.change(_CANCEL, {"seq": seq})
        return True
    return False


def move(connection: Connection, now: int, message_id: str, delay: float, at: datetime | None) -> bool:
    """Change when a waiting message, or what is to be retried of it, is due."""
    due = due_at(now, delay, at)
    for seq, packed in connection.rows(_FIND_WAITING + " /* lock */", {"id": message_id}):
        outcomes = unpack(packed).values()
        moved = [replace(one, due=due / 1000) if one.state == "retry" else one for one in outcomes]
        connection.change(_MOVE, {"due": due, "outcomes": packed and pack(moved), "seq": seq})
        return True
    return False


# Dead letters

_DEAD: Final = """
    SELECT d.id, m.id, m.type, m.key, d.handler, d.attempts, d.error, d.text, d.place, d.died_at, m.sent_at,
    m.correlation_id, m.causation_id, m.headers, m.body
    FROM mb_dead d JOIN mb_message m ON m.seq = d.seq WHERE d.id > :after AND d.died_at <= :before
"""
_FIND_DEAD: Final = """
    SELECT m.seq, d.handler, m.type, m.body, m.due_at, m.lease, m.finished_at, m.outcomes
    FROM mb_dead d JOIN mb_message m ON m.seq = d.seq WHERE d.id = :id /* lock */
"""
_BURY: Final = "DELETE FROM mb_dead WHERE id = :id"
_DECIDE: Final = """
    UPDATE mb_message SET outcomes = :outcomes, body = :body, due_at = :due_at, finished_at = :finished_at,
    turn = turn + 1 WHERE seq = :seq
"""


def dead(
    connection: Connection, before: int, conditions: Mapping[str, Any], error: str | None, after: int, limit: int
) -> list[DeadLetter]:
    """List dead letters that died before; see `Store.dead`."""
    where = "".join(f" AND {column} = :{column.partition('.')[2]}" for column in conditions)
    parameters = {column.partition(".")[2]: value for column, value in conditions.items()}
    if error is not None:
        where += " AND (d.error = :error OR d.error LIKE :pattern ESCAPE '!')"
        escaped = error.replace("!", "!!").replace("_", "!_").replace("%", "!%")
        parameters |= {"error": error, "pattern": f"%.{escaped}"}
    parameters |= {"before": before, "after": after, "limit": limit}
    rows = connection.rows(f"{_DEAD}{where} ORDER BY d.id LIMIT :limit", parameters)
    return [_dead_letter(row) for row in rows]


def _dead_letter(row: Row) -> DeadLetter:
    id, message_id, type, key, handler, attempts, error, text, place, died_at, sent_at, *rest = row
    correlation, cause, headers, body = rest
    return DeadLetter(
        id=id,
        message_id=message_id,
        type=type,
        key=key,
        handler=handler,
        attempts=attempts,
        failure=Failure(error, text, place),
        died_at=moment(died_at),
        sent_at=moment(sent_at),
        correlation_id=correlation or message_id,
        causation_id=cause,
        body=bytes(body),
        headers=_own(from_json(headers)),
    )


def _own(headers: dict[str, Any]) -> dict[str, str]:
    headers.pop("is_event", None)
    return headers


@dataclass(slots=True)
class _Case:
    """A dead letter to be decided about, with its message."""

    seq: int
    handler: str
    type: str
    body: bytes
    due_at: int | None
    lease: str | None
    finished_at: int | None
    outcomes: dict[str, Outcome]


def _open(connection: Connection, dead_letter_id: int) -> _Case | None:
    found = connection.rows(_FIND_DEAD, {"id": dead_letter_id})
    if not found:
        return None
    seq, handler, type, body, due, lease, finished, packed = found[0]
    return _Case(seq, handler, type, body, due, lease, finished, unpack(packed))


def _close(connection: Connection, dead_letter_id: int, case: _Case) -> None:
    decided = {
        "seq": case.seq,
        "body": case.body,
        "due_at": case.due_at,
        "finished_at": case.finished_at,
        "outcomes": pack(case.outcomes.values()),
    }
    connection.change(_DECIDE, decided)
    connection.change(_BURY, {"id": dead_letter_id})


def retry(connection: Connection, now: int, dead_letter_id: int, message: Message | None) -> bool:
    """Let that one handler run again; see `Store.retry`."""
    case = _open(connection, dead_letter_id)
    if case is None:
        return False
    if message is not None:
        if wire_name(type(message)) != case.type:
            raise ConflictError(full_name(type(message)), "dead letter id", str(dead_letter_id))
        case.body = to_json(message)
    # What could not be dispatched has no handler to be tried again: the message is.
    case.outcomes.pop(case.handler, None)
    if case.handler:
        case.outcomes[case.handler] = Outcome(case.handler, "retry", 0, due=now / 1000)
    case.finished_at = None
    if case.lease is None:  # Otherwise a worker has it, and will settle it.
        case.due_at = now
    _close(connection, dead_letter_id, case)
    return True


def drop(connection: Connection, now: int, dead_letter_id: int) -> bool:
    """Give a dead letter up; see `Store.drop`."""
    case = _open(connection, dead_letter_id)
    if case is None:
        return False
    before = case.outcomes.get(case.handler, Outcome(case.handler, "dead", 0))
    case.outcomes[case.handler] = replace(before, state="dropped")
    if case.lease is None and case.finished_at is None:
        case.due_at, case.finished_at = fate_of(case.outcomes.values(), now)
    _close(connection, dead_letter_id, case)
    if case.finished_at is not None:
        pass_on(connection, [case.seq])
    return True
