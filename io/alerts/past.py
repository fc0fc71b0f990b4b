"""Events of another system: kept beside ours, and delivered nowhere."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg2.extras import execute_values

from fibflow.io.alerts.events import IMPORT
from fibflow.io.alerts.model import Past
from fibflow.io.alerts.outbox import take_turn
from fibflow.transforms.alerts.definition import BARS

_ALERTS = """
SELECT given.place, alerts.id, alerts.owner, alerts.version, alerts.symbol, alerts.operator, alerts.note
FROM unnest(%s::text[], %s::text[]) WITH ORDINALITY AS given (origin, owner, place)
JOIN alerts ON alerts.origin = given.origin AND (given.owner IS NULL OR alerts.owner = given.owner)
"""
_INSERT = """
INSERT INTO alert_events (id, alert, owner, version, symbol, ts, price, level, operator, note) VALUES %s
ON CONFLICT (id) DO NOTHING RETURNING alert, (extract(epoch FROM ts) * 1000000)::bigint
"""
# One that is to fire once and waits, though it has fired, was set to wait again: it is as good as new.
_COUNT = """
UPDATE alerts SET firings = firings + new.count, fired = CASE
    WHEN state = 'fired' OR frequency <> 'once' AND version = 1 THEN greatest(fired, new.ts) ELSE fired END
FROM (
    SELECT alert, count(*) AS count, max(ts) AS ts
    FROM unnest(%s::bigint[], %s::bigint[]) AS given (alert, ts) GROUP BY alert
) AS new
WHERE alerts.id = new.alert
"""
_HOLD = "SELECT count(*) FROM (SELECT FROM alerts WHERE id = ANY (%s) ORDER BY id FOR NO KEY UPDATE) AS held"


@dataclass(frozen=True)
class Brought:
    """What became of events of another system.

    Attributes:
        new: kept now.
        known: kept before.
        strays: ids of those whose alert was not imported, or may be one of several owners'.
    """

    new: int = 0
    known: int = 0
    strays: tuple[str, ...] = ()

    def __add__(self, other: Brought) -> Brought:
        return Brought(self.new + other.new, self.known + other.known, self.strays + other.strays)


def bring_in(cursor: Any, given: Sequence[Past]) -> Brought:
    """Keep events whose alert was imported, under ``import-`` and their id there; each once.

    An alert's firings grow by those that are new.
    """
    cursor.execute(_ALERTS, ([each.origin for each in given], [each.owner for each in given]))
    found: dict[int, list[tuple[Any, ...]]] = defaultdict(list)
    for place, *alert in cursor.fetchall():
        found[place - 1].append(tuple(alert))
    rows = [_row(each, found[place][0]) for place, each in enumerate(given) if len(found[place]) == 1]
    strays = tuple(each.id for place, each in enumerate(given) if len(found[place]) != 1)
    if not rows:
        return Brought(strays=strays)
    take_turn(cursor)
    new = execute_values(cursor, _INSERT, rows, page_size=1_000, fetch=True)
    alerts, instants = [alert for alert, _ in new], [ts for _, ts in new]
    cursor.execute(_HOLD, (alerts,))
    cursor.execute(_COUNT, (alerts, instants))
    return Brought(len(new), len(rows) - len(new), strays)


def _row(given: Past, alert: tuple[Any, ...]) -> tuple[Any, ...]:
    number, owner, version, symbol, operator, note = alert
    return (
        f"{IMPORT}{given.id}",
        number,
        owner,
        version,
        given.symbol or symbol,
        given.ts,
        given.price,
        given.level,
        given.operator or operator or BARS,
        note if given.note is None else given.note,
    )
