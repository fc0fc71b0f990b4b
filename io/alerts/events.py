"""Events and their deliveries as owners see them, and events of tests; within a transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from fibflow.io.alerts import destinations, writing
from fibflow.io.alerts.model import Conflict, Delivery, Event, NotFound, Try
from fibflow.io.alerts.outbox import CHANNEL, take_turn
from fibflow.io.alerts.rows import storable
from fibflow.transforms.alerts.definition import BARS

#: What ids of events begin with that no price fired: tests, and those of another system.
TEST, IMPORT = "test-", "import-"
#: Stands for the instrument where a destination is tested.
TEST_SYMBOL = "TEST"
_RANDOM_BYTES = 12
_COLUMNS = """
id, position, alert, owner, version, symbol, ts, seq, price, previous, level, operator, note, test, created
"""
# There is an index of these words.
_FOLLOW = f"""
SELECT {_COLUMNS} FROM alert_events WHERE position > %s AND id NOT LIKE '{IMPORT}%%'
ORDER BY position LIMIT %s
"""
_DELIVERY = "id, event, destination, state, attempts, due, last_error, finished"
_DELIVERIES = f"SELECT {', '.join(f'd.{name}' for name in _DELIVERY.split(', '))} FROM alert_deliveries AS d"
_PLACE = """
SELECT e.position, -d.id FROM alert_deliveries AS d JOIN alert_events AS e ON e.id = d.event WHERE d.id = %s
"""
_TRIES = "SELECT delivery, at, status, error, took_ms FROM alert_tries WHERE delivery = ANY (%s) ORDER BY id"
_TEST = f"""
INSERT INTO alert_events (id, alert, owner, version, symbol, ts, price, level, operator, note, test)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, true) RETURNING {_COLUMNS}
"""
_DELIVER = """
INSERT INTO alert_deliveries (event, destination, due)
SELECT %s, id, clock_timestamp() FROM alert_destinations
WHERE owner = %s AND id = ANY (%s) AND disabled IS NULL ORDER BY id
"""


def of_owner(
    cursor: Any, owner: str, alert: int | None, after: int | None, limit: int, newest: bool
) -> list[Event]:
    """Return an owner's events; see ``AlertStore.events``."""
    where: list[str] = ["owner = %s"]
    values: list[Any] = [owner]
    if alert is not None:
        where.append("alert = %s")
        values.append(writing.get(cursor, owner, alert, ended=True).id)
    if after is not None:
        where.append("position < %s" if newest else "position > %s")
        values.append(after)
    order = "DESC" if newest else "ASC"
    cursor.execute(
        f"SELECT {_COLUMNS} FROM alert_events WHERE {' AND '.join(where)} ORDER BY position {order} LIMIT %s",
        (*values, limit),
    )
    return [Event(*row) for row in cursor.fetchall()]


def get(cursor: Any, owner: str, event: str) -> Event:
    """Return an owner's event.

    Raises:
        NotFound: there is none.
    """
    row = None
    if storable(event):
        cursor.execute(f"SELECT {_COLUMNS} FROM alert_events WHERE id = %s AND owner = %s", (event, owner))
        row = cursor.fetchone()
    if row is None:
        raise NotFound("there is no such event")
    return Event(*row)


def follow(cursor: Any, after: int, limit: int) -> list[Event]:
    """Return events of all owners; see ``AlertStore.follow``."""
    cursor.execute(_FOLLOW, (after, limit))
    return [Event(*row) for row in cursor.fetchall()]


def last_position(cursor: Any) -> int:
    """Return the position of the last event; 0 for none."""
    cursor.execute("SELECT coalesce(max(position), 0) FROM alert_events")
    return int(cursor.fetchone()[0])


def deliveries(
    cursor: Any, owner: str, event: str | None, alert: int | None, behind: int | None, limit: int
) -> list[Delivery]:
    """Return an owner's deliveries with their tries; see ``AlertStore.deliveries``."""
    where: list[str] = ["e.owner = %s"]
    values: list[Any] = [owner]
    if event is not None:
        where.append("e.id = %s")
        values.append(get(cursor, owner, event).id)
    if alert is not None:
        where.append("e.alert = %s")
        values.append(writing.get(cursor, owner, alert, ended=True).id)
    if behind is not None:
        where.append(f"(e.position, -d.id) < ({_PLACE})")
        values.append(behind)
    cursor.execute(
        f"{_DELIVERIES} JOIN alert_events AS e ON e.id = d.event WHERE {' AND '.join(where)} "
        "ORDER BY e.position DESC, d.id LIMIT %s",
        (*values, limit),
    )
    rows = cursor.fetchall()
    tries = _tries(cursor, [row[0] for row in rows])
    return [Delivery(*(*row, tuple(tries[row[0]]))) for row in rows]


def _tries(cursor: Any, of: Sequence[int]) -> dict[int, list[Try]]:
    found: dict[int, list[Try]] = defaultdict(list)
    cursor.execute(_TRIES, (list(of),))
    for delivery, *told in cursor.fetchall():
        found[delivery].append(Try(*told))
    return found


def test_fire(
    cursor: Any,
    owner: str,
    now: datetime,
    randbytes: Callable[[int], bytes],
    alert: int | None,
    destination: int | None,
) -> Event:
    """Write an event that nothing fired; see ``AlertStore.test_fire``."""
    if (alert is None) == (destination is None):
        raise ValueError("test_fire takes an alert or a destination")
    of, version, symbol, price, operator, note = 0, 0, TEST_SYMBOL, 0.0, "", "a test of this destination"
    if alert is not None:
        held = writing.get(cursor, owner, alert)
        wanted = held.definition
        level = wanted.reference_price if wanted.is_percentage else wanted.value
        of, version, symbol, price = held.id, held.version, wanted.symbol, level or 0.0
        operator, note, named = wanted.operator or BARS, wanted.note, list(wanted.destinations)
    else:
        assert destination is not None
        if destinations.get(cursor, owner, destination).disabled is not None:
            raise Conflict(f"destination {destination} is disabled: enable it first")
        named = [destination]
    take_turn(cursor)
    event = f"{TEST}{randbytes(_RANDOM_BYTES).hex()}"
    cursor.execute(_TEST, (event, of, owner, version, symbol, now, price, price or None, operator, note))
    made = Event(*cursor.fetchone())
    cursor.execute(_DELIVER, (event, owner, named))
    cursor.execute(f"NOTIFY {CHANNEL}")
    return made
