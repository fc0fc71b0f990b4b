"""When a session runs, with its extended hours, by the exchange's calendar."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from fibflow.io.exporter import metrics
from fibflow.io.exporter.metrics import Sample
from fibflow.io.exporter.sessions import Sessions
from fibflow.transforms.calendar import CalendarError


def seen(at: str, exchange: str = "XNYS") -> tuple[float, float]:
    """Whether a session runs at a time in UTC, and since how many seconds."""
    now = datetime.fromisoformat(at).replace(tzinfo=UTC).timestamp()
    opened, since = Sessions(exchange, lambda: now).look()
    assert (opened.of, since.of) == (metrics.SESSION_OPEN, metrics.SESSION_SECONDS)
    assert opened.labels == since.labels == (exchange,)
    return opened.value, since.value


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ("2024-03-11T07:59:59", (0.0, 0.0)),  # New York is 4 hours behind since the day before
        ("2024-03-11T08:00:00", (1.0, 0.0)),
        ("2024-03-11T13:30:00", (1.0, 19_800.0)),
        ("2024-03-11T23:59:59", (1.0, 57_599.0)),
        ("2024-03-12T00:00:00", (0.0, 0.0)),
        ("2024-03-10T15:00:00", (0.0, 0.0)),  # a Sunday
        ("2024-03-29T15:00:00", (0.0, 0.0)),  # Good Friday
        ("2024-11-29T21:59:59", (1.0, 46_799.0)),  # a half day: up to 17:00
        ("2024-11-29T22:00:00", (0.0, 0.0)),
    ],
)
def test_a_session_runs_or_does_not(at, expected):
    assert seen(at) == expected


def test_extended_hours_stay_within_the_sessions_day():
    assert seen("2024-03-11T23:59:59", "24/7") == (1.0, 86_399.0)
    assert seen("2024-03-12T00:00:00", "24/7") == (1.0, 0.0)


def test_an_exchange_that_nobody_knows():
    with pytest.raises(CalendarError, match="NOWHERE"):
        list(Sessions("NOWHERE", lambda: 0.0).look())


def test_samples_are_of_the_exchange():
    opened, _ = Sessions("XNYS", lambda: 1_710_147_600.0).look()
    assert opened == Sample(metrics.SESSION_OPEN, 1.0, ("XNYS",))
