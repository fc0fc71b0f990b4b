from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fibflow.tests.transforms import oracle
from fibflow.tests.transforms.tables import calendar, days, ny, us
from fibflow.transforms.calendar import CalendarError
from fibflow.transforms.timeframe import (
    FIBONACCI,
    INTRADAY,
    Anchor,
    IntradayAnchor,
    SessionWindows,
    Timeframe,
    TimeframeError,
    count_from,
    intraday_windows,
    parse_timeframes,
)

XNYS = calendar("XNYS")
MINUTE = 60_000_000


# --- names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sessions", "minutes", "canonical"),
    [
        ("1m", 0, 1, "1m"),
        ("5m", 0, 5, "5m"),
        ("30m", 0, 30, "30m"),
        ("60m", 0, 60, "1h"),
        ("90m", 0, 90, "90m"),
        ("1h", 0, 60, "1h"),
        ("4h", 0, 240, "4h"),
        ("240m", 0, 240, "4h"),
        ("12h", 0, 720, "12h"),
        ("1d", 1, 0, "1d"),
        ("34d", 34, 0, "34d"),
        ("55d", 55, 0, "55d"),
        ("1000d", 1000, 0, "1000d"),
        (" 5M ", 0, 5, "5m"),
        ("13D", 13, 0, "13d"),
    ],
)
def test_names(name, sessions, minutes, canonical):
    timeframe = Timeframe.parse(name)
    assert timeframe == Timeframe(sessions, minutes)
    assert timeframe.name == str(timeframe) == canonical
    assert timeframe.is_intraday is (minutes > 0)
    assert Timeframe.parse(canonical) == timeframe


@pytest.mark.parametrize(
    "name", ["", "d", "5", "0d", "05m", "-3d", "3.5d", "3 d", "3w", "5min", "10000d", "3d,5d", "٣d"]
)
def test_malformed_names(name):
    with pytest.raises(
        TimeframeError, match=r"^unknown timeframe .*: write <N>m, <N>h or <N>d, such as 5m, 4h or 13d$"
    ):
        Timeframe.parse(name)


@pytest.mark.parametrize("name", ["7m", "25m", "5h", "7h", "24h", "1440m", "48h", "2880m"])
def test_lengths_that_do_not_divide_a_day(name):
    with pytest.raises(
        TimeframeError, match=rf"^timeframe {name} does not divide a day: choose minutes or hours"
    ):
        Timeframe.parse(name)


def test_too_many_sessions():
    with pytest.raises(TimeframeError, match=r"^timeframe 1001d: at most 1000 sessions$"):
        Timeframe.parse("1001d")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("3d", "3d"),
        ("34d, 3d ,5d,3d", "3d 5d 34d"),
        ("fibonacci", "3d 5d 8d 13d 21d 34d"),
        ("intraday", "1m 5m 15m 30m 1h 2h 4h"),
        ("5d,fibonacci,1d", "1d 3d 5d 8d 13d 21d 34d"),
        (["60m", "1h", "5m"], "5m 1h"),
        ("4h,30m,", "30m 4h"),
    ],
)
def test_lists_are_sorted_and_hold_each_once(names, expected):
    assert " ".join(timeframe.name for timeframe in parse_timeframes(names)) == expected


@pytest.mark.parametrize("names", ["", " , ", []])
def test_an_empty_list(names):
    with pytest.raises(TimeframeError, match=r"^no timeframe given: name some, such as 3d,5d,8d$"):
        parse_timeframes(names)


def test_a_list_with_a_bad_name():
    with pytest.raises(TimeframeError, match="unknown timeframe 'x'"):
        parse_timeframes("3d,x")


def test_named_sets():
    assert parse_timeframes("fibonacci") == FIBONACCI
    assert parse_timeframes("intraday") == INTRADAY


# --- windows of sessions ------------------------------------------------------------------------------------


def number_of(sessions: int, day: str) -> int:
    positions = XNYS.positions(np.array(days(day))).astype(np.intp)
    return int(SessionWindows(XNYS, sessions).numbers(count_from(positions, XNYS.origin))[0])


@pytest.mark.parametrize(
    ("sessions", "day", "number"),
    [
        (3, "2000-01-03", 0),
        (3, "2000-01-05", 0),
        (3, "2000-01-06", 1),
        (3, "1999-12-31", -1),
        (3, "1999-12-29", -1),
        (3, "1999-12-28", -2),
        (34, "1999-12-31", -1),
        (1, "1999-12-30", -2),
        (1, "2000-01-10", 5),
    ],
)
def test_exchange_windows_count_from_2000_and_are_negative_before(sessions, day, number):
    assert number_of(sessions, day) == number


@pytest.mark.parametrize("timeframe", FIBONACCI, ids=str)
def test_exchange_windows_hold_n_sessions_and_leave_none_out(timeframe):
    windows = SessionWindows(XNYS, timeframe.sessions)
    whole = np.arange(len(XNYS) - timeframe.sessions)
    numbers = windows.numbers(count_from(whole, XNYS.origin))
    assert np.array_equal(numbers, (whole - XNYS.origin) // timeframe.sessions)
    start, end = windows.bounds(numbers, XNYS.origin)
    assert ((start <= XNYS.day_starts[whole]) & (XNYS.day_ends[whole] <= end)).all()
    first = np.flatnonzero(np.diff(numbers)) + 1
    assert np.array_equal(start[first], XNYS.day_starts[first])
    assert np.array_equal(end[first - 1], XNYS.day_ends[first - 1])


def test_a_window_that_reaches_back_before_the_calendar_starts_with_it():
    windows = SessionWindows(XNYS, 34)
    assert XNYS.origin % 34, "the first window would be whole"
    start, end = windows.bounds(windows.numbers(count_from(np.array([0]), XNYS.origin)), XNYS.origin)
    assert start[0] == XNYS.day_starts[0]
    assert end[0] == XNYS.day_ends[XNYS.origin % 34 - 1]


def test_a_window_that_ends_after_the_calendar_is_refused():
    windows = SessionWindows(XNYS, 34)
    for base in (XNYS.origin, np.full(1, XNYS.origin)):
        with pytest.raises(CalendarError, match="calendar XNYS ends before a window of 34 sessions does"):
            windows.bounds(np.array([10**4]), base)


def test_a_base_for_each_row():
    windows = SessionWindows(XNYS, 5)
    base = np.array([100, 200, 200])
    numbers = windows.numbers(count_from(np.array([104, 205, 199]), base))
    assert numbers.tolist() == [0, 1, -1]
    start, end = windows.bounds(numbers, base)
    assert start.tolist() == XNYS.day_starts[[100, 205, 195]].tolist()
    assert end.tolist() == XNYS.day_ends[[104, 209, 199]].tolist()


def test_counts_are_small_where_they_fit_and_right_where_they_do_not():
    near, far = np.array([-32768, 32767]), np.array([-32769, 40000])
    assert [count_from(positions, 0).itemsize for positions in (near, far)] == [2, 4]
    for positions in (near, far):
        assert count_from(positions, 7).tolist() == (positions - 7).tolist()


def test_no_rows_have_no_windows():
    windows = SessionWindows(XNYS, 5)
    none = np.zeros(0, np.intp)
    for base in (XNYS.origin, none):
        assert [len(part) for part in windows.bounds(windows.numbers(count_from(none, base)), base)] == [0, 0]


def test_half_days_count_and_holidays_do_not():
    # The 3rd closed early, the 4th is a holiday: 1, 2, 3, 5 and 8 July are one window's five sessions.
    window = SessionWindows(XNYS, 5)
    base = int(XNYS.positions(np.array(days("2024-07-01")))[0])
    start, end = window.bounds(np.array([0]), base)
    assert (start[0], end[0]) == (ny("2024-07-01"), ny("2024-07-09"))


# --- intraday windows ---------------------------------------------------------------------------------------


def window(instant: int, name: str, anchor: IntradayAnchor, of: str = "XNYS") -> tuple[int, int]:
    start, end = intraday_windows(np.array([instant]), Timeframe.parse(name), calendar(of), anchor)
    return int(start[0]), int(end[0])


@pytest.mark.parametrize(
    ("at", "name", "start", "end"),
    [
        ("2024-07-02T09:30", "1m", "2024-07-02T09:30", "2024-07-02T09:31"),
        ("2024-07-02T09:34:59", "5m", "2024-07-02T09:30", "2024-07-02T09:35"),
        ("2024-07-02T09:30", "1h", "2024-07-02T09:00", "2024-07-02T10:00"),
        ("2024-07-02T15:59", "2h", "2024-07-02T14:00", "2024-07-02T16:00"),
        ("2024-07-02T16:00", "4h", "2024-07-02T16:00", "2024-07-02T20:00"),
        ("2024-07-02T04:00", "4h", "2024-07-02T04:00", "2024-07-02T08:00"),
        ("2024-07-02T00:00", "4h", "2024-07-02T00:00", "2024-07-02T04:00"),
        ("2024-07-02T23:59", "4h", "2024-07-02T20:00", "2024-07-03T00:00"),
        ("2024-07-03T12:59", "4h", "2024-07-03T12:00", "2024-07-03T16:00"),
    ],
)
def test_anchor_midnight(at, name, start, end):
    assert window(ny(at), name, IntradayAnchor.MIDNIGHT) == (ny(start), ny(end))


@pytest.mark.parametrize(
    ("at", "name", "start", "end"),
    [
        # Regular hours from the open on; the last window ends at the close.
        ("2024-07-02T09:30", "1h", "2024-07-02T09:30", "2024-07-02T10:30"),
        ("2024-07-02T15:29", "1h", "2024-07-02T14:30", "2024-07-02T15:30"),
        ("2024-07-02T15:30", "1h", "2024-07-02T15:30", "2024-07-02T16:00"),
        ("2024-07-02T15:59", "4h", "2024-07-02T13:30", "2024-07-02T16:00"),
        # A half day.
        ("2024-07-03T12:31", "1h", "2024-07-03T12:30", "2024-07-03T13:00"),
        ("2024-07-03T12:59", "4h", "2024-07-03T09:30", "2024-07-03T13:00"),
        # After the close, counted from it.
        ("2024-07-02T16:00", "1h", "2024-07-02T16:00", "2024-07-02T17:00"),
        ("2024-07-03T13:00", "2h", "2024-07-03T13:00", "2024-07-03T15:00"),
        ("2024-07-03T23:00", "4h", "2024-07-03T21:00", "2024-07-04T00:00"),
        # Before the open, counted back from it.
        ("2024-07-02T09:29", "1h", "2024-07-02T08:30", "2024-07-02T09:30"),
        ("2024-07-02T04:00", "2h", "2024-07-02T03:30", "2024-07-02T05:30"),
        ("2024-07-02T00:15", "1h", "2024-07-02T00:00", "2024-07-02T00:30"),
    ],
)
def test_anchor_open(at, name, start, end):
    assert window(ny(at), name, IntradayAnchor.OPEN) == (ny(start), ny(end))


def test_windows_follow_the_exchanges_clock_from_winter_to_summer():
    for day in ("2024-03-08", "2024-03-11"):
        at = ny(f"{day}T09:45")
        assert window(at, "4h", IntradayAnchor.MIDNIGHT) == (ny(f"{day}T08:00"), ny(f"{day}T12:00"))
        assert window(at, "1h", IntradayAnchor.OPEN) == (ny(f"{day}T09:30"), ny(f"{day}T10:30"))


def test_a_window_that_holds_the_change_of_clocks_is_cut_in_two():
    # Istanbul, 31 March 2014: at 01:00 UTC the clock went from 03:00 to 04:00.
    change = us("2014-03-31T01:00")
    before, after = (window(at, "4h", IntradayAnchor.MIDNIGHT, "XIST") for at in (change - 1, change))
    assert before == (us("2014-03-30T22:00"), change)
    assert after == (change, us("2014-03-31T05:00"))
    assert window(change, "12h", IntradayAnchor.MIDNIGHT, "XIST") == (change, us("2014-03-31T09:00"))


def test_an_hour_that_comes_twice_is_two_windows():
    # Astana, 29 February 2024: at 18:00 UTC the clock went back from 24:00 to 23:00.
    change = us("2024-02-29T18:00")
    hour = 60 * MINUTE
    for name, before, after in (("1h", hour, hour), ("4h", 4 * hour, hour), ("12h", 12 * hour, hour)):
        assert window(change - 1, name, IntradayAnchor.MIDNIGHT, "AIXK") == (change - before, change)
        assert window(change, name, IntradayAnchor.MIDNIGHT, "AIXK") == (change, change + after)


def test_windows_of_futures_are_cut_where_one_sessions_day_meets_the_next():
    evening = us("2024-03-11T17:00", "America/Chicago")
    hour = 60 * MINUTE
    assert window(evening - 1, "4h", IntradayAnchor.MIDNIGHT, "CMES") == (evening - hour, evening)
    assert window(evening, "4h", IntradayAnchor.MIDNIGHT, "CMES") == (evening, evening + 3 * hour)
    assert window(evening, "4h", IntradayAnchor.OPEN, "CMES") == (evening, evening + 4 * hour)


@pytest.mark.parametrize("anchor", IntradayAnchor)
@pytest.mark.parametrize("instant", [ny("2024-07-04T12:00"), ny("2024-07-06T12:00"), us("1800-01-01")])
def test_an_instant_of_no_session_has_no_window(anchor, instant):
    with pytest.raises(ValueError, match="an instant lies in no session's day"):
        window(instant, "1h", anchor)


def test_anchors_are_named_as_on_the_command_line():
    assert [str(anchor) for anchor in Anchor] == ["exchange", "listing", "rows"]
    assert [str(anchor) for anchor in IntradayAnchor] == ["midnight", "open"]


DAYS = {
    "XNYS": ["2024-07-02", "2024-07-03", "2024-03-11", "1962-01-02"],
    "XIST": ["2014-03-28", "2014-03-31"],
    "AIXK": ["2024-02-29"],
    "CMES": ["2024-03-11", "2024-03-12", "2024-07-03", "2024-11-04"],
    "24/7": ["2024-03-10"],
}
LENGTHS = [Timeframe(0, n) for n in range(1, 1440) if 1440 % n == 0]
OF_DAYS = st.sampled_from([(name, day) for name, own in DAYS.items() for day in own])


@given(day=OF_DAYS, timeframe=st.sampled_from(LENGTHS), anchor=st.sampled_from(list(IntradayAnchor)))
def test_windows_of_a_day_lie_end_to_end(day, timeframe, anchor):
    name, date = day
    of = calendar(name)
    at = int(of.positions(np.array(days(date)))[0])
    minutes = np.arange(of.day_starts[at], of.day_ends[at], MINUTE)
    start, end = intraday_windows(minutes, timeframe, of, anchor)
    assert ((start <= minutes) & (minutes < end)).all()
    assert (end - start <= timeframe.minutes * MINUTE).all()
    same = start[1:] == start[:-1]
    assert np.array_equal(end[:-1][same], end[1:][same])
    assert np.array_equal(end[:-1][~same], start[1:][~same])
    assert (start[0], end[-1]) == (of.day_starts[at], of.day_ends[at])


@given(
    day=st.sampled_from([(name, day) for name in ("XNYS", "XIST", "AIXK") for day in DAYS[name]]),
    timeframe=st.sampled_from(LENGTHS),
    anchor=st.sampled_from(list(IntradayAnchor)),
    minute=st.integers(0, 1499),
)
def test_windows_equal_the_oracles(day, timeframe, anchor, minute):
    name, date = day
    of = calendar(name)
    at = int(of.positions(np.array(days(date)))[0])
    instant = int(min(of.day_starts[at] + minute * MINUTE, of.day_ends[at] - 1))
    expected = oracle.intraday_window(instant, timeframe.minutes, str(anchor), oracle.calendar(name))
    assert window(instant, timeframe.name, anchor, name) == expected


@given(
    timeframe=st.sampled_from(LENGTHS),
    finer=st.sampled_from(LENGTHS),
    anchor=st.sampled_from(list(IntradayAnchor)),
)
@pytest.mark.parametrize("day", [("XNYS", "2024-07-03"), ("XIST", "2014-03-31"), ("CMES", "2024-03-12")])
def test_a_window_holds_finer_ones_whole(day, timeframe, finer, anchor):
    if timeframe.minutes % finer.minutes:
        timeframe, finer = LENGTHS[-1], LENGTHS[0]
    name, date = day
    of = calendar(name)
    at = int(of.positions(np.array(days(date)))[0])
    minutes = np.arange(of.day_starts[at], of.day_ends[at], MINUTE)
    start, end = intraday_windows(minutes, timeframe, of, anchor)
    fine_start, fine_end = intraday_windows(minutes, finer, of, anchor)
    assert ((start <= fine_start) & (fine_end <= end)).all()
