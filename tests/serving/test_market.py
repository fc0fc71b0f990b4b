"""What the market is at an instant, and its holidays."""

from __future__ import annotations

from datetime import UTC, date, datetime

import numpy as np
import pytest

from fibflow.serving.market import Market, early_closes, status, upcoming
from fibflow.transforms.calendar import load_calendar

XNYS = load_calendar()


def us(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000


def state(text, calendar=XNYS):
    found = status(calendar, us(text))
    return found.market, found.early, found.after


@pytest.mark.parametrize(
    ("at", "market", "early", "after"),
    [
        # Winter: New York is five hours behind.
        ("2024-01-24T08:59:59", Market.CLOSED, False, False),
        ("2024-01-24T09:00", Market.EXTENDED, True, False),
        ("2024-01-24T14:29:59", Market.EXTENDED, True, False),
        ("2024-01-24T14:30", Market.OPEN, False, False),
        ("2024-01-24T20:59:59", Market.OPEN, False, False),
        ("2024-01-24T21:00", Market.EXTENDED, False, True),
        ("2024-01-25T00:59:59", Market.EXTENDED, False, True),
        ("2024-01-25T01:00", Market.CLOSED, False, False),
        # The Monday after the clock was put forward.
        ("2024-03-11T07:59:59", Market.CLOSED, False, False),
        ("2024-03-11T08:00", Market.EXTENDED, True, False),
        ("2024-03-11T13:30", Market.OPEN, False, False),
        # A half day: closed at 13:00, extended until 17:00.
        ("2024-11-29T17:59:59", Market.OPEN, False, False),
        ("2024-11-29T18:00", Market.EXTENDED, False, True),
        ("2024-11-29T21:59:59", Market.EXTENDED, False, True),
        ("2024-11-29T22:00", Market.CLOSED, False, False),
        # A holiday, and a Saturday.
        ("2024-11-28T15:00", Market.CLOSED, False, False),
        ("2024-01-27T15:00", Market.CLOSED, False, False),
    ],
)
def test_new_york_through_the_day(at, market, early, after):
    assert state(at) == (market, early, after)


def test_the_session_is_the_one_in_whose_day_it_is():
    found = status(XNYS, us("2024-01-25T02:00"))
    assert (found.session, found.opens) == (date(2024, 1, 24), us("2024-01-24T14:30"))
    assert (found.closes, found.next_open) == (us("2024-01-24T21:00"), us("2024-01-25T14:30"))
    found = status(XNYS, us("2024-01-27T15:00"))
    assert (found.session, found.opens, found.closes) == (None, None, None)
    assert found.next_open == us("2024-01-29T14:30")
    # While it is open the next open is the next session's.
    assert status(XNYS, us("2024-01-26T15:00")).next_open == us("2024-01-29T14:30")


def test_the_calendars_ends_are_no_error():
    before, after = status(XNYS, us("1890-01-01T00:00")), status(XNYS, us("2035-01-02T15:00"))
    assert (before.market, before.session) == (Market.CLOSED, None)
    assert (after.market, after.session, after.next_open) == (Market.CLOSED, None, None)
    assert upcoming(XNYS, us("2035-01-02T15:00")) == []


def test_other_calendars_are_open_or_closed():
    london, always = load_calendar("XLON"), load_calendar("24/7")
    assert state("2024-01-24T07:30", london) == (Market.CLOSED, False, False)
    assert state("2024-01-24T12:00", london) == (Market.OPEN, False, False)
    assert state("2024-01-27T03:00", always) == (Market.OPEN, False, False)


def test_the_holidays_of_a_year_have_their_names():
    found = upcoming(XNYS, us("2024-01-01T12:00"), 366)
    assert [(holiday.date.isoformat(), holiday.status, holiday.name) for holiday in found] == [
        ("2024-01-01", "closed", "New Year's Day"),
        ("2024-01-15", "closed", "Martin Luther King Jr. Day"),
        ("2024-02-19", "closed", "Washington's Birthday"),
        ("2024-03-29", "closed", "Good Friday"),
        ("2024-05-27", "closed", "Memorial Day"),
        ("2024-06-19", "closed", "Juneteenth"),
        ("2024-07-03", "early-close", "Independence Day"),
        ("2024-07-04", "closed", "Independence Day"),
        ("2024-09-02", "closed", "Labor Day"),
        ("2024-11-28", "closed", "Thanksgiving"),
        ("2024-11-29", "early-close", "Thanksgiving"),
        ("2024-12-24", "early-close", "Christmas"),
        ("2024-12-25", "closed", "Christmas"),
        ("2025-01-01", "closed", "New Year's Day"),
    ]
    half = next(holiday for holiday in found if holiday.date == date(2024, 7, 3))
    assert (half.opens, half.closes) == (us("2024-07-03T13:30"), us("2024-07-03T17:00"))


def test_every_holiday_of_thirty_years_that_is_in_the_order_has_a_name():
    # Closures for storms, mourning and attacks have none.
    nameless = [
        holiday.date.isoformat()
        for year in range(2000, 2030)
        for holiday in upcoming(XNYS, us(f"{year}-01-01T12:00"), 364)
        if holiday.name is None and holiday.status == "closed"
    ]
    assert nameless == [
        *("2001-09-11", "2001-09-12", "2001-09-13", "2001-09-14"),
        *("2004-06-11", "2007-01-02", "2012-10-29", "2012-10-30", "2018-12-05", "2025-01-09"),
    ]


def test_a_day_of_rest_is_no_holiday_and_there_are_none_where_it_is_always_open():
    assert upcoming(load_calendar("24/7"), us("2024-01-01T12:00")) == []
    riyadh = {holiday.date.weekday() for holiday in upcoming(load_calendar("XSAU"), us("2023-01-01T12:00"))}
    # There Sunday is a day of trading, and Friday and Saturday are not.
    assert riyadh <= {6, 0, 1, 2, 3}
    assert 6 in riyadh


def test_early_closes_are_by_the_exchanges_clock():
    year = np.flatnonzero((XNYS.days >= 19723) & (XNYS.days < 20089))
    early = year[early_closes(XNYS, year)]
    assert XNYS.days[early].astype("datetime64[D]").astype(str).tolist() == [
        "2024-07-03",
        "2024-11-29",
        "2024-12-24",
    ]
    assert early_closes(XNYS, np.array([], np.int64)).tolist() == []
