"""Forgetting what is old: events with their deliveries and tries, and alerts that were deleted."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fibflow.io.alerts.events import IMPORT

#: What one transaction forgets at most: nobody waits long for it.
_ROWS = 5_000
# What is still to be delivered is kept; and the past of an alert that was imported, as long as there is the
# alert: imported again, it would be new, and counted twice.
_EVENTS = f"""
SELECT id, position FROM alert_events AS held WHERE ts < %s AND position > %s AND NOT EXISTS (
    SELECT FROM alert_deliveries WHERE event = held.id AND state = 'pending'
)
AND NOT (id LIKE '{IMPORT}%%' AND EXISTS (
    SELECT FROM alerts WHERE alerts.id = held.alert AND alerts.state <> 'deleted'
))
ORDER BY position LIMIT %s
"""
# One may have been replayed meanwhile; from here on none can be.
_HELD = "SELECT event, state FROM alert_deliveries WHERE event = ANY (%s) ORDER BY id FOR UPDATE"
_TRIES = """
DELETE FROM alert_tries USING alert_deliveries
WHERE alert_deliveries.id = alert_tries.delivery AND alert_deliveries.event = ANY (%s)
"""
_ALERTS = """
DELETE FROM alerts WHERE id IN (
    SELECT id FROM alerts AS held WHERE state = 'deleted' AND updated < %s
    AND NOT EXISTS (SELECT FROM alert_events WHERE alert = held.id) ORDER BY id LIMIT %s FOR UPDATE
)
RETURNING id
"""


@dataclass(frozen=True)
class Purged:
    """How many rows of each kind were forgotten."""

    events: int = 0
    deliveries: int = 0
    tries: int = 0
    alerts: int = 0
    versions: int = 0


def purge(transaction: Callable[[], AbstractContextManager[Any]], before: datetime) -> Purged:
    """Forget what is older than an instant.

    That is events that fired before it and wait for no delivery, with all that belongs to them; and alerts
    that were deleted before it and have no events left, with their versions. What is kept whatever its age:
    the versions of an alert that is not deleted, and its events of another system.

    An event that is forgotten would be new to a job that computes it again: ``before`` is before the oldest
    savepoint that may still be restored.

    Args:
        transaction: gives a cursor, and commits at its end.
        before: UTC.
    """
    events = deliveries = tries = alerts = versions = 0
    ids: list[Any] = []
    position = 0
    while True:
        with transaction() as cursor:
            cursor.execute(_EVENTS, (before, position, _ROWS))
            found = cursor.fetchall()
            if not found:
                break
            ids, position = [row[0] for row in found], found[-1][1]
            cursor.execute(_HELD, (ids,))
            waiting = {event for event, state in cursor.fetchall() if state == "pending"}
            ids = [id for id in ids if id not in waiting]
            cursor.execute(_TRIES, (ids,))
            tries += cursor.rowcount
            cursor.execute("DELETE FROM alert_deliveries WHERE event = ANY (%s)", (ids,))
            deliveries += cursor.rowcount
            cursor.execute("DELETE FROM alert_events WHERE id = ANY (%s)", (ids,))
            events += cursor.rowcount
    while True:
        with transaction() as cursor:
            cursor.execute(_ALERTS, (before, _ROWS))
            ids = [row[0] for row in cursor.fetchall()]
            if not ids:
                return Purged(events, deliveries, tries, alerts, versions)
            alerts += len(ids)
            cursor.execute("DELETE FROM alert_changes WHERE id = ANY (%s)", (ids,))
            versions += cursor.rowcount
