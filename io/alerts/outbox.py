"""The outbox: events are written once each, with the deliveries that they are to have.

Writers of events go one after the other, so that the events' positions are committed in their order, and a
reader that has seen one has seen all before it.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute

from fibflow.io.postgresql.session import Connection, told
from fibflow.transforms.alerts.schema import EVENTS

# The stubs know too few types of columns.
pc: Any = pyarrow.compute

#: ``LISTEN`` to it: notified when there are new events, or new deliveries.
CHANNEL = "fibflow_alert_events"
_LOCK = 0x66696265
#: Events of one statement.
_ROWS = 5_000
# In the order of their ids, as every writer does, so that none waits in a circle.
_ALERTS = "SELECT count(*) FROM (SELECT FROM alerts WHERE id = ANY (%s) ORDER BY id FOR NO KEY UPDATE) AS a"
# What is told of the owner's is the version's that fired, also where another has replaced it since.
_WRITE = """
WITH written AS (
    INSERT INTO alert_events
        (id, alert, owner, version, symbol, ts, seq, price, previous, level, operator, note)
    SELECT given.id, given.alert, coalesce(alerts.owner, ''), given.version, given.symbol,
        timestamptz 'epoch' + given.ts * interval '1 microsecond', given.seq, given.price, given.previous,
        given.level,
        CASE WHEN alerts.bars IS NULL THEN coalesce(old.operator, alerts.operator, '') ELSE 'bars' END,
        coalesce(old.note, alerts.note, '')
    FROM unnest(
        %(id)s::text[], %(alert)s::bigint[], %(version)s::integer[], %(symbol)s::text[], %(ts)s::bigint[],
        %(seq)s::bigint[], %(price)s::float8[], %(previous)s::float8[], %(level)s::float8[]
    ) WITH ORDINALITY AS given (id, alert, version, symbol, ts, seq, price, previous, level, place)
    LEFT JOIN alerts ON alerts.id = given.alert
    LEFT JOIN alert_changes AS old ON old.id = given.alert AND old.version = given.version
    ORDER BY given.place
    ON CONFLICT (id) DO NOTHING
    RETURNING id, position, alert, version, (extract(epoch FROM ts) * 1000000)::bigint AS ts
), fired AS (
    UPDATE alerts SET fired = greatest(alerts.fired, found.ts), firings = alerts.firings + found.count,
        state = CASE WHEN found.ts IS NOT NULL AND frequency = 'once' AND state = 'active' THEN 'fired'
            ELSE state END
    FROM (
        SELECT held.id, max(written.ts) FILTER (WHERE written.version = held.version) AS ts,
            count(*) AS count
        FROM written JOIN alerts AS held ON held.id = written.alert GROUP BY held.id
    ) AS found
    WHERE alerts.id = found.id
), waiting AS (
    INSERT INTO alert_deliveries (event, destination, due)
    SELECT written.id, kept.id, clock_timestamp() FROM written
    JOIN alerts ON alerts.id = written.alert
    LEFT JOIN alert_changes AS old ON old.id = written.alert AND old.version = written.version
    CROSS JOIN LATERAL unnest(coalesce(old.destinations, alerts.destinations)) AS named (id)
    JOIN alert_destinations AS kept
        ON kept.id = named.id AND kept.owner = alerts.owner AND kept.disabled IS NULL
    ORDER BY written.position
    ON CONFLICT DO NOTHING
)
SELECT count(*) FROM written
"""


def write_events(connection: Connection, events: pa.Table) -> int:
    """Write events (``EVENTS``) in one transaction, and return how many were new.

    An event that is new counts for its alert; where the alert is still at the event's version and was to fire
    once, it has fired then. Each destination of that version that is not disabled gets a delivery.

    Args:
        connection: of psycopg2, within no transaction; committed, or rolled back where it fails. After a
            ``PostgresError`` it may be broken: open another.
        events: of any versions; of alerts that are not known they are kept with the owner ''.

    Raises:
        PostgresError: PostgreSQL does not answer, or refuses. Nothing is written then.
    """
    if not len(events):
        return 0
    with told(), connection, connection.cursor() as cursor:
        take_turn(cursor)
        cursor.execute(_ALERTS, (pc.unique(events["alert"]).to_pylist(),))
        new = sum(_write(cursor, events.slice(start, _ROWS)) for start in range(0, len(events), _ROWS))
        if new:
            cursor.execute(f"NOTIFY {CHANNEL}")
    return new


def take_turn(cursor: Any) -> None:
    """Let nobody else write events until this transaction ends."""
    cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))


def _write(cursor: Any, events: pa.Table) -> int:
    columns: dict[str, list[Any]] = {}
    for field in EVENTS:
        column = events[field.name].cast(field.type)
        if field.name in ("previous", "level"):
            column = pc.if_else(pc.is_nan(column), pa.scalar(None, pa.float64()), column)
        columns[field.name] = column.to_pylist()
    cursor.execute(_WRITE, columns)
    return int(cursor.fetchone()[0])
