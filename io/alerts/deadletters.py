"""Deliveries that were given up, and the way back: list them, enable their destination, send them again."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from fibflow.io.alerts.deliveries import transaction
from fibflow.io.alerts.model import Conflict, NotFound
from fibflow.io.alerts.outbox import CHANNEL
from fibflow.io.postgresql.session import Connection


@dataclass(frozen=True)
class DeadLetter:
    """A delivery that was given up.

    Attributes:
        id: its number.
        event: id of the event.
        owner: whose.
        symbol: of the event.
        destination: id of where it was to go.
        kind: of the destination; empty where that was deleted.
        target: an https address, or a topic's ARN; empty likewise.
        disabled: nothing is sent to the destination.
        attempts: at the last tries.
        error: why it was given up.
        finished: when, UTC.
    """

    id: int
    event: str
    owner: str
    symbol: str
    destination: int
    kind: str
    target: str = field(repr=False)
    disabled: bool
    attempts: int
    error: str | None
    finished: datetime | None


def dead_letters(
    where: str | Connection,
    *,
    owner: str | None = None,
    destination: int | None = None,
    after: int = 0,
    limit: int = 100,
) -> list[DeadLetter]:
    """Return what was given up, the oldest first.

    Args:
        where: a database, or a connection.
        owner: of whom; None for all.
        destination: for which; None for all.
        after: id of the last one that was seen.
        limit: so many, or fewer.

    Raises:
        PostgresError: PostgreSQL does not answer, or refuses.
    """
    statement = """
        SELECT each.id, each.event, event.owner, event.symbol, each.destination, coalesce(goes.kind, ''),
            coalesce(goes.target, ''), goes.disabled IS NOT NULL, each.attempts, each.last_error,
            each.finished
        FROM alert_deliveries AS each
        JOIN alert_events AS event ON event.id = each.event
        LEFT JOIN alert_destinations AS goes ON goes.id = each.destination
        WHERE each.state = 'dead' AND each.id > %(after)s
            AND (%(owner)s::text IS NULL OR event.owner = %(owner)s)
            AND (%(destination)s::bigint IS NULL OR each.destination = %(destination)s)
        ORDER BY each.id LIMIT %(limit)s
    """
    with transaction(where) as cursor:
        asked = {"after": after, "owner": owner, "destination": destination, "limit": limit}
        cursor.execute(statement, asked)
        return [DeadLetter(*row) for row in cursor.fetchall()]


def replay(
    where: str | Connection,
    *,
    delivery: int | None = None,
    destination: int | None = None,
    owner: str | None = None,
    now: datetime | None = None,
) -> int:
    """Send dead letters again, and return how many.

    Their tries are counted anew. An event that is too old for more by then has the fewest there may be
    (``Retries.least_attempts``), which takes minutes: replay once its destination answers.

    What goes to a destination that is disabled, or was deleted, stays where it is.

    Args:
        where: a database, or a connection.
        delivery: one.
        destination: all for this one.
        owner: all of this one; with ``delivery`` or ``destination``: only if they are this one's.
        now: of the clock.

    Raises:
        NotFound: there is no such dead letter, or no such destination.
        Conflict: its destination is disabled.
        PostgresError: PostgreSQL does not answer, or refuses.
    """
    statement = """
        WITH held AS (
            SELECT each.id
            FROM alert_deliveries AS each
            JOIN alert_events AS event ON event.id = each.event
            JOIN alert_destinations AS goes ON goes.id = each.destination
            WHERE each.state = 'dead' AND goes.disabled IS NULL
                AND (%(delivery)s::bigint IS NULL OR each.id = %(delivery)s)
                AND (%(destination)s::bigint IS NULL OR each.destination = %(destination)s)
                AND (%(owner)s::text IS NULL OR event.owner = %(owner)s)
            ORDER BY each.id
            FOR NO KEY UPDATE OF each
        )
        UPDATE alert_deliveries AS each SET
            state = 'pending', attempts = 0, due = coalesce(%(now)s, now()), finished = NULL
        FROM held WHERE each.id = held.id
    """
    asked = {"delivery": delivery, "destination": destination, "owner": owner, "now": now}
    with transaction(where) as cursor:
        if delivery is not None:
            cursor.execute(_ONE, asked)
            _check(cursor.fetchone(), f"there is no dead letter {delivery}")
        if destination is not None:
            cursor.execute(_DESTINATION, asked)
            _check(cursor.fetchone(), f"there is no destination {destination}")
        cursor.execute(statement, asked)
        count = cursor.rowcount
        cursor.execute(f"NOTIFY {CHANNEL}")
        return count


def enable(where: str | Connection, destination: int, *, owner: str | None = None) -> bool:
    """Send events to a destination again; its dead letters stay dead until they are replayed.

    Returns:
        Whether it was disabled.

    Raises:
        NotFound: there is no such destination (of this owner).
        PostgresError: PostgreSQL does not answer, or refuses.
    """
    asked = {"destination": destination, "owner": owner}
    with transaction(where) as cursor:
        cursor.execute(_DESTINATION, asked)
        found = cursor.fetchone()
        if found is None:
            raise NotFound(f"there is no destination {destination}")
        cursor.execute(
            "UPDATE alert_destinations SET disabled = NULL, reason = NULL WHERE id = %(destination)s", asked
        )
        return found[1]


_ONE = """
SELECT goes.id, goes.disabled IS NOT NULL
FROM alert_deliveries AS each
JOIN alert_events AS event ON event.id = each.event
JOIN alert_destinations AS goes ON goes.id = each.destination
WHERE each.id = %(delivery)s AND each.state = 'dead' AND (%(owner)s::text IS NULL OR event.owner = %(owner)s)
"""
_DESTINATION = """
SELECT id, disabled IS NOT NULL FROM alert_destinations
WHERE id = %(destination)s AND (%(owner)s::text IS NULL OR owner = %(owner)s)
FOR UPDATE
"""


def _check(found: tuple[int, bool] | None, missing: str) -> None:
    if found is None:
        raise NotFound(missing)
    destination, is_disabled = found
    if is_disabled:
        raise Conflict(f"destination {destination} is disabled: enable it first")
