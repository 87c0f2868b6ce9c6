"""What workers do with a store: take what is due, say what became of it, give it back."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

from messagebus.delivery.connection import Connection, Row
from messagebus.delivery.entries import RETURNED, Arrival, Claim, Settlement, Stored
from messagebus.delivery.outcomes import clean, fate_of, pack, read, unpack
from messagebus.delivery.schema import ADD_DEAD, ADD_KEYED, ADD_MESSAGES, SETTLE
from messagebus.delivery.sending import add_all, row_of, row_of_arrival
from messagebus.envelope import new_id

__all__ = ["claim", "extend", "may_pick", "next_due", "owns", "pass_on", "pick", "receive", "release", "settle"]

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
_IS_KEYED: Final = "m.key IS NOT NULL AND m.lease IS NULL AND m.turn > 0 AND m.due_at <= :now"
_HAS_KEYED: Final = f"SELECT 1 FROM mb_message m WHERE {_IS_KEYED} LIMIT 1"
_KEYED: Final = f"""
    SELECT m.due_at, m.seq, m.turn, CASE WHEN {_IS_FIRST} THEN {_IS_IN_NO_HAND} END FROM mb_message m
    WHERE {_IS_KEYED} AND (m.due_at, m.seq) > (:due_at, :seq) ORDER BY m.due_at, m.seq LIMIT :window
"""
_WINDOW: Final = 100
"""So many are looked at at once, at least; and so many that have to wait for their turn are in the way."""

# Whose turn has come meanwhile has another number; whom another transaction is about to give it is left alone.
_WAIT: Final = """
    UPDATE mb_message SET turn = 0 WHERE seq IN (
        SELECT seq FROM mb_message WHERE seq IN [seqs] AND turn = :turn /* skip locked */
    )
"""
_NEXT: Final = """
    SELECT n.seq FROM mb_message f JOIN mb_message n ON n.seq = (
        SELECT p.seq FROM mb_message p
        WHERE p.key = f.key AND p.finished_at IS NULL AND p.seq > f.seq ORDER BY p.key, p.seq LIMIT 1
    ) WHERE f.seq IN [seqs] /* without a turn */
"""
_GIVE_TURN: Final = "UPDATE mb_message SET turn = turn + 1 WHERE seq IN [seqs] AND finished_at IS NULL"

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
        found += _keyed(connection, now, limit, may_write=bool(lock))
    return [seq for _, seq in sorted(found)[:limit]]


def may_pick(connection: Connection, now: int) -> bool:
    """Say in less time than `pick` takes whether it may find something; not, whether earlier ones hold the keys."""
    due = {"now": now}
    return bool(
        connection.rows(_UNKEYED, {**due, "limit": 1})
        or connection.rows(_HAS_KEYED, due)
        or connection.rows(_SUSPECT, due)
    )


def _keyed(connection: Connection, now: int, limit: int, *, may_write: bool) -> list[Row]:
    """Return what is the first of its key, and note of what is in its way that it is not."""
    found: list[Row] = []
    window, after, waiting = max(limit, _WINDOW), (0, 0), []
    while True:
        place = {"due_at": after[0], "seq": after[1], "window": window}
        rows = connection.rows(_KEYED, {"now": now, **place})
        found += [row[:2] for row in rows if row[3]]
        waiting += [row for row in rows if row[3] is None]
        if len(found) >= limit or len(rows) < window:
            break
        after = rows[-1][:2]
    if may_write and len(waiting) >= _WINDOW:
        for turn in {row[2] for row in waiting}:
            seqs = [row[1] for row in waiting if row[2] == turn]
            connection.change(_WAIT, {"seqs": connection.array(seqs), "turn": turn})
    return found


def pass_on(connection: Connection, seqs: Sequence[int]) -> None:
    """Give those their turn that come after these in their keys: these are at an end."""
    while True:
        following = [seq for (seq,) in connection.rows(_NEXT, {"seqs": connection.array(seqs)})]
        # One of them may have come to its end itself, just now: then it is another's turn.
        given = {"seqs": connection.array(following)}
        if not following or connection.change(_GIVE_TURN, given) == len(following):
            return


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
    is_keyed = any(arrival.key is not None for arrival in arrivals)
    if is_keyed:
        connection.wait_in_line()
    kind = ADD_KEYED if is_keyed else ADD_MESSAGES
    rows = [row_of_arrival(arrival, now) for arrival in arrivals]
    ids = [row[0] for row in rows]
    if connection.many(kind, rows) < len(rows):
        sent = {id for (id,) in connection.rows(_SENT_HERE, {"names": connection.array(ids), "source": _WITH_SOURCE})}
        back = [(row[0] + RETURNED, *row[1:]) for row in rows if row[0] in sent]
        if back:
            connection.many(kind, back)
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

_HELD: Final = "SELECT seq, outcomes, results, key FROM mb_message WHERE seq IN [seqs] AND lease = :token /* lock */"


def settle(connection: Connection, now: int, token: str, settlements: Sequence[Settlement]) -> set[int]:
    """Store what became of messages; see `Store.settle`."""
    seqs = [settlement.seq for settlement in settlements]
    held = {one[0]: one for one in connection.rows(_HELD, {"seqs": connection.array(seqs), "token": token})}
    ours = [settlement for settlement in settlements if settlement.seq in held]
    if ours:
        rows = [_settled(one, held[one.seq], now) for one in ours]
        connection.many(SETTLE, rows)
        keyed = [row[-1] for row in rows if row[3] is not None and held[row[-1]][3] is not None]
        if keyed:
            pass_on(connection, keyed)
    dead = [letter for one in ours for letter in _dead(one, now)]
    if dead:
        connection.many(ADD_DEAD, dead)
    sends = [row_of(sending, now) for one in ours for sending in one.sends]
    if sends:
        add_all(connection, sends)
    return {seq for seq in seqs if seq not in held}


def _settled(settlement: Settlement, held: Row, now: int) -> Row:
    _, before, results, _ = held
    outcomes = settlement.outcomes
    if not settlement.parks:
        outcomes = [replace(one, parks=False) if one.state == "dead" else one for one in outcomes]
    if before is not None:
        merged = unpack(before)
        merged.update((outcome.handler, outcome) for outcome in outcomes)
        outcomes = [*merged.values()]
    due, finished = fate_of(outcomes, now)
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

_NEXT_DUE: Final = """
    SELECT min(due_at) FROM (
        SELECT min(due_at) AS due_at FROM mb_message WHERE key IS NULL AND lease IS NULL AND due_at > :now
        UNION ALL
        SELECT min(due_at) FROM mb_message WHERE key IS NOT NULL AND lease IS NULL AND turn > 0 AND due_at > :now
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
    due: int | None = connection.rows(_NEXT_DUE, {"now": now})[0][0]
    return due
