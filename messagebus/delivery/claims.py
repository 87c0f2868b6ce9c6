"""What workers do with a store: take what is due, say what became of it, give it back."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from messagebus.delivery.connection import Connection, Row
from messagebus.delivery.entries import RETURNED, Arrival, Claim, Settlement, Stored
from messagebus.delivery.outcomes import clean, fate_of, pack, read, unpack
from messagebus.delivery.schema import ADD_DEAD, ADD_MESSAGES, SETTLE
from messagebus.delivery.sending import add_all, row_of, row_of_arrival
from messagebus.envelope import new_id

__all__ = ["claim", "extend", "may_pick", "next_due", "owns", "pick", "receive", "release", "settle"]

# The earliest message that is not finished holds its key; and so does what is in flight, which may be a later one if
# the earlier was committed late, or taken up again. Both as values: PostgreSQL would join NOT EXISTS, row by row.
_IS_FIRST: Final = """
    m.seq = (
        SELECT p.seq FROM mb_message p WHERE p.key = m.key AND p.finished_at IS NULL ORDER BY p.key, p.seq LIMIT 1
    )
"""
_IS_IN_NO_HAND: Final = """
    COALESCE((SELECT max(p.due_at) FROM mb_message p WHERE p.key = m.key AND p.lease IS NOT NULL), 0) <= :now
"""
_SUSPECT: Final = f"""
    SELECT m.due_at, m.seq FROM mb_message m
    WHERE m.lease IS NOT NULL AND m.due_at <= :now AND (m.key IS NULL OR ({_IS_FIRST} AND {_IS_IN_NO_HAND}))
    ORDER BY m.due_at, m.seq LIMIT 1
"""
_UNKEYED: Final = """
    SELECT due_at, seq FROM mb_message WHERE key IS NULL AND lease IS NULL AND due_at <= :now
    ORDER BY due_at, seq LIMIT :limit
"""
_ARE_KEYED: Final = "FROM mb_message m WHERE m.key IS NOT NULL AND m.lease IS NULL AND m.due_at <="
_HAS_KEYED: Final = f"SELECT 1 {_ARE_KEYED} :now LIMIT 1"
_LAST_KEYED: Final = f"SELECT m.due_at, m.seq {_ARE_KEYED} :now ORDER BY m.due_at, m.seq LIMIT 1 OFFSET :window"
# In the order of its index, so that it ends with the last that is wanted.
_KEYED: Final = f"""
    SELECT m.due_at, m.seq {_ARE_KEYED} :last_due AND (m.due_at, m.seq) <= (:last_due, :last_seq)
    AND {_IS_FIRST} AND {_IS_IN_NO_HAND} ORDER BY m.due_at, m.seq LIMIT :limit
"""
# Steps from key to key through their index, whatever waits behind each.
_HEADS: Final = f"""
    WITH RECURSIVE k(key) AS (
        SELECT min(key) FROM mb_message WHERE key IS NOT NULL AND finished_at IS NULL
        UNION ALL
        SELECT (SELECT min(n.key) FROM mb_message n WHERE n.key > k.key AND n.finished_at IS NULL)
        FROM k WHERE k.key IS NOT NULL
    )
    SELECT m.due_at, m.seq FROM k JOIN mb_message m
    ON m.seq = (SELECT min(p.seq) FROM mb_message p WHERE p.key = k.key AND p.finished_at IS NULL)
    WHERE m.lease IS NULL AND m.due_at <= :now AND {_IS_IN_NO_HAND}
    ORDER BY m.due_at, m.seq LIMIT :limit
"""
_WINDOW: Final = 1_000
"""How many due messages with keys are looked at one by one, before the keys are."""
_LAST_SEQ: Final = 2**63 - 1

_CLAIM: Final = """
    UPDATE mb_message SET due_at = :until, attempt = attempt + 1, lease = :token
    WHERE seq IN [seqs] AND due_at <= :now
    RETURNING seq, id, type, body, key, correlation_id, causation_id, sent_at, headers, attempt, outcomes
"""


def pick(connection: Connection, now: int, limit: int, *, lock: str = "") -> list[int]:
    """Return what may be claimed, the earliest due first: one that was claimed before and not settled, or others."""
    suspect = connection.rows(_SUSPECT + lock, {"now": now})
    if suspect:
        return [suspect[0][1]]
    found = connection.rows(_UNKEYED + lock, {"now": now, "limit": limit})
    if connection.rows(_HAS_KEYED, {"now": now}):
        if lock:
            connection.wait_in_line()
        found += _keyed(connection, now, limit)
    return [seq for _, seq in sorted(found)[:limit]]


def may_pick(connection: Connection, now: int) -> bool:
    """Say in less time than `pick` takes whether it may find something; not, whether earlier ones hold the keys."""
    due = {"now": now}
    return bool(
        connection.rows(_UNKEYED, {**due, "limit": 1})
        or connection.rows(_HAS_KEYED, due)
        or connection.rows(_SUSPECT, due)
    )


def _keyed(connection: Connection, now: int, limit: int) -> list[Row]:
    last = connection.rows(_LAST_KEYED, {"now": now, "window": _WINDOW - 1})
    last_due, last_seq = last[0] if last else (now, _LAST_SEQ)
    window = {"now": now, "limit": limit, "last_due": last_due, "last_seq": last_seq}
    found = connection.rows(_KEYED, window)
    return found if len(found) == limit or not last else connection.rows(_HEADS, {"now": now, "limit": limit})


def claim(connection: Connection, now: int, limit: int, lease: float) -> Claim:
    """Take what is due; see `Store.claim`."""
    return _take(connection, now, pick(connection, now, limit, lock="/* skip locked */"), lease)


def _take(connection: Connection, now: int, seqs: Sequence[int], lease: float) -> Claim:
    token = new_id()
    if not seqs:
        return Claim(token, ())
    until = now + round(lease * 1000)
    parameters = {"seqs": connection.array(seqs), "now": now, "until": until, "token": token}
    found = {one[0]: one for one in connection.rows(_CLAIM, parameters)}
    return Claim(token, [_stored(found[seq]) for seq in seqs if seq in found])


_FREE_OF_THESE: Final = f"""
    SELECT m.due_at, m.seq FROM mb_message m
    WHERE m.id IN [names] AND m.lease IS NULL AND m.due_at <= :now
    AND (m.key IS NULL OR ({_IS_FIRST} AND {_IS_IN_NO_HAND}))
    ORDER BY m.seq
"""

# What arrived has a source; a name in JSON is followed by a colon, and a quotation mark in a text by a backslash.
_SENT_HERE: Final = "SELECT id FROM mb_message WHERE id IN [names] AND headers NOT LIKE :source"
_WITH_SOURCE: Final = '%"source":%'


def receive(connection: Connection, now: int, arrivals: Sequence[Arrival], lease: float) -> Claim:
    """Keep what an engine has brought, and take what may be handled of it; see `Store.receive`."""
    if any(arrival.key is not None for arrival in arrivals):
        connection.wait_in_line()
    rows = [row_of_arrival(arrival, now) for arrival in arrivals]
    ids = [row[0] for row in rows]
    if connection.many(ADD_MESSAGES, rows) < len(rows):
        sent = {id for (id,) in connection.rows(_SENT_HERE, {"names": connection.array(ids), "source": _WITH_SOURCE})}
        back = [(row[0] + RETURNED, *row[1:]) for row in rows if row[0] in sent]
        if back:
            connection.many(ADD_MESSAGES, back)
            ids += [row[0] for row in back]
    names = connection.array(ids)
    found = connection.rows(_FREE_OF_THESE + "/* skip locked */", {"names": names, "now": now})
    return _take(connection, now, [seq for _, seq in found], lease)


def _stored(found: Row) -> Stored:
    seq, id, type, body, key, correlation_id, causation_id, sent_at, written, attempt, outcomes = found
    headers = read(written) if written != "{}" else {}
    return Stored(
        seq,
        id,
        type,
        bytes(body),
        key,
        correlation_id or id,
        causation_id,
        sent_at / 1000,
        headers,
        attempt,
        unpack(outcomes) if outcomes is not None else {},
        headers.pop("is_event", False),
    )


# Settling

_HELD: Final = "SELECT seq, outcomes, results FROM mb_message WHERE seq IN [seqs] AND lease = :token /* lock */"


def settle(connection: Connection, now: int, token: str, settlements: Sequence[Settlement]) -> set[int]:
    """Store what became of messages; see `Store.settle`."""
    seqs = [settlement.seq for settlement in settlements]
    held = {one[0]: one for one in connection.rows(_HELD, {"seqs": connection.array(seqs), "token": token})}
    ours = [settlement for settlement in settlements if settlement.seq in held]
    if ours:
        connection.many(SETTLE, [_settled(one, held[one.seq], now) for one in ours])
    dead = [letter for one in ours for letter in _dead(one, now)]
    if dead:
        connection.many(ADD_DEAD, dead)
    sends = [row_of(sending, now) for one in ours for sending in one.sends]
    if sends:
        add_all(connection, sends)
    return {seq for seq in seqs if seq not in held}


def _settled(settlement: Settlement, held: Row, now: int) -> Row:
    _, before, results = held
    outcomes = settlement.outcomes
    if before is not None:
        merged = unpack(before)
        merged.update((outcome.handler, outcome) for outcome in outcomes)
        outcomes = [*merged.values()]
    due, finished = fate_of(outcomes, now, parks=settlement.parks)
    return pack(outcomes), _joined(results, settlement.results), due, finished, settlement.seq


def _joined(before: Any, after: bytes | None) -> bytes | None:
    """Append a JSON array to a JSON array."""
    if not before or before == b"[]":
        return after
    if not after or after == b"[]":
        return bytes(before)
    return bytes(before)[:-1] + b"," + after[1:]


def _dead(settlement: Settlement, now: int) -> Iterable[Row]:
    for outcome in settlement.outcomes:
        if outcome.state == "dead":
            failure = outcome.failure
            told = (failure.error, failure.text, failure.place) if failure else ("", "", "")
            yield settlement.seq, clean(outcome.handler), outcome.attempts, *map(clean, told), now


# Leases

_EXTEND: Final = """
    UPDATE mb_message SET due_at = :until WHERE seq IN (
        SELECT seq FROM mb_message WHERE lease IS NOT NULL AND lease IN [names] /* skip locked */
    )
"""  # What a handler's transaction has locked nobody can claim, and it must not be waited for.
_RELEASE: Final = """
    UPDATE mb_message SET due_at = :now, attempt = attempt - 1, lease = NULL WHERE seq IN [seqs] AND lease = :token
"""
_OWNS: Final = "SELECT 1 FROM mb_message WHERE seq = :seq AND lease = :token /* lock */"


def extend(connection: Connection, now: int, tokens: Iterable[str], lease: float) -> None:
    """Let leases end later; see `Store.extend`."""
    names = connection.array([*tokens])
    connection.change(_EXTEND, {"names": names, "until": now + round(lease * 1000)})


def release(connection: Connection, now: int, token: str, seqs: Iterable[int]) -> None:
    """Give messages back; see `Store.release`."""
    connection.change(_RELEASE, {"seqs": connection.array([*seqs]), "token": token, "now": now})


def owns(connection: Connection, token: str, seq: int) -> bool:
    """Say whether a lease holds, and keep it; see `Store.owns`."""
    return bool(connection.rows(_OWNS, {"seq": seq, "token": token}))


# Waiting

_NEXT: Final = """
    SELECT min(due_at) FROM (
        SELECT min(due_at) AS due_at FROM mb_message WHERE key IS NULL AND lease IS NULL AND due_at > :now
        UNION ALL
        SELECT min(due_at) FROM mb_message WHERE key IS NOT NULL AND lease IS NULL AND due_at > :now
        UNION ALL
        SELECT min(due_at) FROM mb_message WHERE lease IS NOT NULL AND due_at > :now
        UNION ALL
        SELECT min(next_at) FROM mb_schedule
    ) n
"""


def next_due(connection: Connection, now: int) -> int | None:
    """Return when there may be something to claim, or to send by schedule, in milliseconds since the epoch."""
    if pick(connection, now, 1):
        return now
    due: int | None = connection.rows(_NEXT, {"now": now})[0][0]
    return due
