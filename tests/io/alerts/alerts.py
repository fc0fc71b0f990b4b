"""Alerts and events for tests of what PostgreSQL keeps of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import psycopg2
import pyarrow as pa

from fibflow.io.alerts.model import Alert
from fibflow.io.alerts.outbox import write_events
from fibflow.transforms.alerts.definition import Definition
from fibflow.transforms.alerts.schema import EVENTS

#: 5 January 2026, 15:00 UTC: within the session, and ``T0`` in microseconds.
NOW = datetime(2026, 1, 5, 15, tzinfo=UTC)
T0 = 1_767_625_200_000_000
#: Two seconds later: from when on what is asked for at ``NOW`` is in force.
SINCE = T0 + 2_000_000


def above(symbol: str = "A", value: float = 10.0, **more: Any) -> Definition:
    """An alert on a price above a value."""
    return Definition(symbol, "above", value, **more)


def fired(*alerts: Alert, at: int = 3, nth: int = 0) -> pa.Table:
    """Events of alerts, ``at`` seconds after ``T0`` the first, a microsecond apart."""
    levels = [each.definition.value or 0.0 for each in alerts]
    columns: dict[str, Any] = {
        "id": [f"{each.id}-{each.version}-{nth}" for each in alerts],
        "alert": [each.id for each in alerts],
        "version": [each.version for each in alerts],
        "symbol": [each.definition.symbol for each in alerts],
        "ts": [T0 + at * 1_000_000 + place for place in range(len(alerts))],
        "seq": [7] * len(alerts),
        "price": [level + 0.5 for level in levels],
        "previous": [float("nan")] * len(alerts),
        "level": levels,
    }
    return pa.table(columns, schema=EVENTS)


@contextmanager
def connected(url: str) -> Iterator[Any]:
    """A connection of a job's worker."""
    connection = psycopg2.connect(url, options="-c TimeZone=UTC")
    try:
        yield connection
    finally:
        connection.close()


def write(url: str, events: pa.Table) -> int:
    """Write events over a connection of their own."""
    with connected(url) as connection:
        return write_events(connection, events)


def randbytes(byte: int = 1) -> Callable[[int], bytes]:
    """What is not random at all."""
    return lambda count: bytes([byte]) * count
