"""Deliveries out of the outbox: claimed by one worker at a time, and settled with what became of them.

A claim is a lease: ``due`` moves to its end, so that whatever its worker does not settle in time is due
again by itself. All functions take the address of a database, or a connection of psycopg2 with no
transaction begun, and have committed when they return. ``now`` is for tests; None is the server's clock.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fibflow.io.alerts.claims import Claim, End, Outcome, Retries
from fibflow.io.alerts.model import Event
from fibflow.io.postgresql.session import Connection, session

#: Deliveries to SNS that may be under way for each one that may be to a webhook: they go many in a call.
SNS_ROOM = 10


#: Characters of an error that are kept.
LONGEST_ERROR = 200


@dataclass(frozen=True)
class Settled:
    """What settling changed.

    Attributes:
        delivered: ids of deliveries.
        dead: ids of deliveries, with those of their destinations.
        disabled: ids of destinations.
    """

    delivered: frozenset[int]
    dead: dict[int, int]
    disabled: frozenset[int]


@contextmanager
def transaction(where: str | Connection) -> Iterator[Any]:
    """Yield a cursor; what it does is committed at the end, or nothing of it is.

    Raises:
        PostgresError: PostgreSQL does not answer, or refuses.
    """
    with session(where, program="fibflow notify") as connection, connection, connection.cursor() as cursor:
        yield cursor


# From destination to destination, not from row to row: a million rows of one are passed in a step.
_WALK = """
RECURSIVE walk AS (
    (SELECT destination FROM alert_deliveries WHERE state = 'pending' ORDER BY destination LIMIT 1)
    UNION ALL
    SELECT (
        SELECT destination FROM alert_deliveries
        WHERE state = 'pending' AND destination > walk.destination ORDER BY destination LIMIT 1
    ) FROM walk WHERE walk.destination IS NOT NULL
),
waiting AS (SELECT destination FROM walk WHERE destination <> ALL (%(without)s)),
"""
_NAMED = "waiting AS (SELECT destination FROM unnest(%(only)s::bigint[]) AS named (destination)),"
# Of each destination the first, then of each the second, and so on. More are looked at than taken, for others
# may be taking the same ones.
_CLAIM = """
ripe AS (
    SELECT here.id, here.place, here.due
    FROM waiting
    LEFT JOIN unnest(%(known)s::bigint[], %(rooms)s::integer[]) AS known (destination, room)
        USING (destination)
    LEFT JOIN alert_destinations AS place_of ON place_of.id = waiting.destination
    CROSS JOIN LATERAL (
        SELECT id, due, row_number() OVER (ORDER BY due) AS place
        FROM alert_deliveries AS each
        WHERE state = 'pending' AND each.destination = waiting.destination
            AND due <= coalesce(%(now)s, now())
        ORDER BY due
        LIMIT coalesce(known.room, CASE place_of.kind WHEN 'sns' THEN %(sns_room)s ELSE %(room)s END)
    ) AS here
    ORDER BY here.place, here.due
    LIMIT %(most)s * 4
),
taken AS (
    SELECT each.id FROM ripe JOIN alert_deliveries AS each USING (id)
    WHERE each.state = 'pending' AND each.due <= coalesce(%(now)s, now())
    ORDER BY ripe.place, ripe.due
    LIMIT %(most)s
    FOR UPDATE OF each SKIP LOCKED
),
claimed AS (
    UPDATE alert_deliveries AS each SET
        claimed_by = %(worker)s,
        claimed_until = coalesce(%(now)s, now()) + %(lease)s * interval '1 second',
        due = coalesce(%(now)s, now()) + %(lease)s * interval '1 second'
    FROM taken WHERE each.id = taken.id
    RETURNING each.id, each.event, each.destination, each.attempts
)
SELECT
    claimed.id, claimed.destination, claimed.attempts,
    extract(epoch FROM coalesce(%(now)s, clock_timestamp()) - event.created)::double precision,
    event.id, event.position, event.alert, event.owner, event.version, event.symbol, event.ts, event.seq,
    event.price, event.previous, event.level, event.operator, event.note, event.test, event.created,
    goes.kind, goes.target, goes.secret,
    CASE WHEN goes.disabled IS NOT NULL THEN coalesce(goes.reason, 'the destination is disabled') END
FROM claimed
JOIN alert_events AS event ON event.id = claimed.event
LEFT JOIN alert_destinations AS goes ON goes.id = claimed.destination
ORDER BY event.position, claimed.id
"""


def claim(
    where: str | Connection,
    worker: str,
    most: int,
    *,
    room: int,
    lease_s: float,
    rooms: Mapping[int, int] | None = None,
    only: Sequence[int] | None = None,
    without: Sequence[int] = (),
    now: datetime | None = None,
) -> list[Claim]:
    """Claim deliveries that are due, in turn of all destinations that have any.

    Args:
        where: a database, or a connection.
        worker: who claims; a name that nobody else has, nor had.
        most: so many, or fewer.
        room: so many of a webhook, or fewer; ``SNS_ROOM`` times that of a topic.
        lease_s: after so many seconds they are due again.
        rooms: of destinations that have another room than ``room``.
        only: destinations; None for all.
        without: destinations, where ``only`` is None.
        now: of the clock.

    Raises:
        PostgresError: PostgreSQL does not answer, or refuses.
    """
    if most <= 0 or (only is not None and not only):
        return []
    rooms = rooms or {}
    asked = {
        "worker": worker,
        "most": most,
        "room": room,
        "sns_room": room * SNS_ROOM,
        "lease": lease_s,
        "known": list(rooms),
        "rooms": [max(0, each) for each in rooms.values()],
        "only": list(only or ()),
        "without": list(without) or [0],
        "now": now,
    }
    with transaction(where) as cursor:
        cursor.execute("WITH " + (_WALK if only is None else _NAMED) + _CLAIM, asked)
        rows = cursor.fetchall()
    return [
        Claim(
            id,
            destination,
            attempts,
            age_s,
            Event(*row[:15]),
            kind=row[15] or "",
            target=row[16] or "",
            secret=row[17],
            disabled=row[18],
        )
        for id, destination, attempts, age_s, *row in rows
    ]


# Whoever changes deliveries locks what he may disable or remove first, and then them, both by their ids: so
# that none waits in a circle. (A claim waits for nobody.)
_HOLD_DESTINATIONS = "SELECT FROM alert_destinations WHERE id = ANY (%s) ORDER BY id FOR UPDATE"
_HOLD = "SELECT FROM alert_deliveries WHERE id = ANY (%s) ORDER BY id FOR NO KEY UPDATE"
_HOLD_WAITING = """
SELECT id FROM alert_deliveries WHERE destination = %s AND state = 'pending' ORDER BY id FOR NO KEY UPDATE
"""
_SETTLE = """
WITH told AS (
    SELECT * FROM unnest(
        %s::bigint[], %s::text[], %s::double precision[], %s::text[], %s::integer[], %s::integer[]
    ) AS told (id, state, wait, error, status, took_ms)
),
tried AS (
    INSERT INTO alert_tries (delivery, at, status, error, took_ms)
    SELECT id, coalesce(%s, now()), status, error, took_ms
    FROM told WHERE EXISTS (SELECT FROM alert_deliveries WHERE alert_deliveries.id = told.id)
)
UPDATE alert_deliveries AS each SET
    state = told.state,
    attempts = each.attempts + 1,
    due = coalesce(%s, now()) + told.wait * interval '1 second',
    last_error = coalesce(told.error, each.last_error),
    finished = CASE told.state WHEN 'pending' THEN NULL ELSE coalesce(%s, now()) END,
    claimed_by = NULL,
    claimed_until = NULL
FROM told
WHERE each.id = told.id AND (
    (told.state = 'delivered' AND each.state <> 'delivered')
    OR (each.state = 'pending' AND each.claimed_by = %s)
)
RETURNING each.id, each.state, each.destination
"""
# Of what was given up after its last try: where nothing at all was taken since the event was written.
_SILENT = """
SELECT each.destination, max(each.last_error)
FROM alert_deliveries AS each JOIN alert_events AS event ON event.id = each.event
WHERE each.id = ANY (%s) AND NOT EXISTS (
    SELECT FROM alert_deliveries AS other
    WHERE other.destination = each.destination AND other.state = 'delivered'
        AND other.finished >= event.created
)
GROUP BY each.destination
"""


def settle(
    where: str | Connection,
    worker: str,
    results: Sequence[tuple[Claim, Outcome]],
    retries: Retries,
    dice: random.Random,
    now: datetime | None = None,
) -> Settled:
    """Write down what became of claims: each is delivered, due again later, or dead.

    What was delivered is so, whoever has the claim by now; all else counts from who has it. Each is a row in
    the log of tries. A destination that is gone, or took nothing from the writing of an event until that was
    given up, is disabled.

    Args:
        where: a database, or a connection.
        worker: who claimed.
        results: claims with their outcomes.
        retries: when to try again.
        dice: for that.
        now: of the clock.

    Raises:
        PostgresError: PostgreSQL does not answer, or refuses. Nothing is written then.
    """
    told: list[tuple[int, str, float, str | None, int | None, int]] = []
    spent: dict[int, int] = {}
    gone: dict[int, str] = {}
    for each, outcome in results:
        state, wait = "dead", 0.0
        error = outcome.error and outcome.error[:LONGEST_ERROR]
        if outcome.end is End.DELIVERED:
            state = "delivered"
        elif outcome.end is End.FAILED:
            next_s = retries.after(each.attempts + 1, each.age_s, outcome.wait, dice)
            if next_s is None:
                spent[each.id] = each.destination
            else:
                state, wait = "pending", next_s
        elif outcome.end is End.GONE:
            gone[each.destination] = error or "gone"
        told.append((each.id, state, wait, error, outcome.status, outcome.took_ms))
    if not told:
        return Settled(frozenset(), {}, frozenset())
    with transaction(where) as cursor:
        if ending := {*gone, *spent.values()}:
            cursor.execute(_HOLD_DESTINATIONS, (list(ending),))
        cursor.execute(_HOLD, ([id for id, *_ in told],))
        cursor.execute(_SETTLE, (*map(list, zip(*told, strict=True)), now, now, now, worker))
        changed = cursor.fetchall()
        delivered = frozenset(id for id, state, _ in changed if state == "delivered")
        dead = {id: destination for id, state, destination in changed if state == "dead"}
        if lost := [id for id in spent if id in dead]:
            cursor.execute(_SILENT, (lost,))
            for destination, error in cursor.fetchall():
                gone.setdefault(destination, f"given up, as nothing was taken for too long: {error}")
        disabled = set()
        for destination, reason in gone.items():
            ended = _disable(cursor, destination, reason, now)
            if ended is not None:
                disabled.add(destination)
                dead.update(dict.fromkeys(ended, destination))
    return Settled(delivered, dead, frozenset(disabled))


def give_back(where: str | Connection, worker: str, ids: Sequence[int], now: datetime | None = None) -> int:
    """Let go of claims that were not tried: they are due at once. Returns how many.

    Raises:
        PostgresError: PostgreSQL does not answer, or refuses.
    """
    statement = """
        UPDATE alert_deliveries SET due = coalesce(%s, now()), claimed_by = NULL, claimed_until = NULL
        WHERE id = ANY (%s) AND state = 'pending' AND claimed_by = %s
    """
    with transaction(where) as cursor:
        cursor.execute(_HOLD, (list(ids),))
        cursor.execute(statement, (now, list(ids), worker))
        return cursor.rowcount


def disable(where: str | Connection, destination: int, reason: str, now: datetime | None = None) -> int:
    """Send nothing more to a destination; what waits for it is dead, with the reason. Returns how many.

    Raises:
        PostgresError: PostgreSQL does not answer, or refuses.
    """
    with transaction(where) as cursor:
        return len(_disable(cursor, destination, reason, now) or ())


def _disable(cursor: Any, destination: int, reason: str, now: datetime | None) -> list[int] | None:
    """Return ids of the deliveries that this ended; None where it was disabled before, or is not there."""
    cursor.execute(
        "UPDATE alert_destinations SET disabled = coalesce(%s, now()), reason = %s "
        "WHERE id = %s AND disabled IS NULL",
        (now, reason, destination),
    )
    if not cursor.rowcount:
        return None
    return give_up(cursor, destination, reason, now)


def give_up(cursor: Any, destination: int, reason: str, now: datetime | None) -> list[int]:
    """Give up what waits for a destination, whose row is locked; returns ids of deliveries."""
    cursor.execute(_HOLD_WAITING, (destination,))
    ids = [id for (id,) in cursor.fetchall()]
    cursor.execute(
        "UPDATE alert_deliveries SET state = 'dead', last_error = %s, finished = coalesce(%s, now()), "
        "claimed_by = NULL, claimed_until = NULL WHERE id = ANY (%s)",
        (reason, now, ids),
    )
    return ids


@dataclass(frozen=True)
class Waiting:
    """What waits in the outbox.

    Attributes:
        count: deliveries.
        oldest_s: seconds since the oldest one's event was written; 0 where there is none.
    """

    count: int
    oldest_s: float


def waiting(where: str | Connection, now: datetime | None = None) -> Waiting:
    """Return what waits.

    Raises:
        PostgresError: PostgreSQL does not answer, or refuses.
    """
    statement = """
        SELECT count(*), coalesce(extract(epoch FROM coalesce(%s, now()) - min(event.created)), 0)::float8
        FROM alert_deliveries AS each JOIN alert_events AS event ON event.id = each.event
        WHERE each.state = 'pending'
    """
    with transaction(where) as cursor:
        cursor.execute(statement, (now,))
        count, oldest = cursor.fetchone()
    return Waiting(count, max(0.0, oldest))
