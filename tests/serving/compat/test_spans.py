"""Where spans begin and end."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fibflow.serving.compat.spans import Span, bounds_us, local_date, midnights
from fibflow.transforms.calendar import load_calendar

XNYS = load_calendar()
NEW_YORK = ZoneInfo("America/New_York")
DAYS = st.dates(date(1990, 1, 1), date(2029, 12, 31))
EPOCH = date(1970, 1, 1)


def us(moment: datetime) -> int:
    return round(moment.timestamp()) * 1_000_000


def midnight(day: date) -> int:
    return us(datetime(day.year, day.month, day.day, tzinfo=NEW_YORK))


@given(st.lists(DAYS, min_size=1, max_size=20))
def test_midnights_of_new_york(days):
    numbers = np.array([(day - EPOCH).days for day in days], np.int64)
    assert midnights(numbers, XNYS).tolist() == [midnight(day) for day in days]


def first_of(unit: str, day: date) -> date:
    if unit == "week":
        return day - timedelta(days=(day.weekday() + 1) % 7)
    if unit == "month":
        return day.replace(day=1)
    if unit == "quarter":
        return date(day.year, (day.month - 1) // 3 * 3 + 1, 1)
    return date(day.year, 1, 1)


@given(st.sampled_from(["week", "month", "quarter", "year"]), DAYS)
def test_periods_begin_with_their_first_day(unit, day):
    span = Span.of("1", unit)
    number = span.periods(np.array([(day - EPOCH).days], np.int64))
    assert EPOCH + timedelta(days=int(span.first_days(number)[0])) == first_of(unit, day)


@given(st.sampled_from(["week", "month", "quarter", "year"]), st.integers(1, 50), DAYS)
def test_several_periods_follow_each_other(unit, count, day):
    span = Span.of(str(count), unit)
    number = span.periods(np.array([(day - EPOCH).days], np.int64))
    first, following = span.first_days(number)[0], span.first_days(number + 1)[0]
    assert first <= (day - EPOCH).days < following
    assert span.periods(np.array([first, following - 1])).tolist() == [number[0], number[0]]


@pytest.mark.parametrize(
    ("unit", "first", "last", "start", "end"),
    [
        ("day", date(2024, 3, 9), date(2024, 3, 10), date(2024, 3, 11), date(2024, 3, 11)),
        ("day", date(2024, 3, 8), date(2024, 3, 8), date(2024, 3, 8), date(2024, 3, 11)),
        ("hour", date(2024, 3, 8), date(2024, 3, 8), date(2024, 3, 8), date(2024, 3, 9)),
        ("week", date(2024, 3, 9), date(2024, 3, 9), date(2024, 3, 3), date(2024, 3, 10)),
        ("month", date(2024, 2, 29), date(2024, 3, 1), date(2024, 2, 1), date(2024, 4, 1)),
        ("quarter", date(2024, 2, 29), date(2024, 2, 29), date(2024, 1, 1), date(2024, 4, 1)),
        ("year", date(2023, 12, 31), date(2024, 1, 1), date(2023, 1, 1), date(2025, 1, 1)),
    ],
)
def test_ranges_of_dates(unit, first, last, start, end):
    span = Span.of("1", unit)
    assert (span.start(first, XNYS), span.end(last, XNYS)) == (midnight(start), midnight(end))


def test_ranges_of_instants():
    at = datetime(2024, 4, 5, 13, 38, 59, tzinfo=UTC)
    moment = us(at) * 1000 + 5
    five = Span.of("5", "minute")
    assert five.start(moment, XNYS) == us(datetime(2024, 4, 5, 13, 35, tzinfo=UTC))
    assert five.end(moment, XNYS) == us(at) + 1
    assert Span.of("4", "hour").start(moment, XNYS) == us(datetime(2024, 4, 5, 12, tzinfo=UTC))
    assert Span.of("1", "day").start(moment, XNYS) == midnight(date(2024, 4, 5))
    assert Span.of("1", "week").end(moment, XNYS) == midnight(date(2024, 4, 7))
    assert bounds_us(moment, XNYS) == (us(at), us(at))
    assert local_date(us(datetime(2024, 4, 6, 3, tzinfo=UTC)), XNYS) == date(2024, 4, 5)


@pytest.mark.parametrize("day", [date.min, date(1899, 12, 31), date(2040, 1, 1), date.max])
@pytest.mark.parametrize("unit", ["minute", "day", "week", "year"])
def test_dates_beyond_the_calendar_are_no_error(unit, day):
    span = Span.of("1", unit)
    assert span.start(day, XNYS) <= span.end(day, XNYS)


def test_timeframes():
    assert str(Span.of("5", "minute").timeframe) == "5m"
    assert str(Span.of("60", "minute").timeframe) == "1h"
    assert str(Span.of("13", "day").timeframe) == "13d"
    assert Span.of("3", "MONTH").timeframe is None
