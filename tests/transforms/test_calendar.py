from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fibflow.tests.transforms import oracle
from fibflow.tests.transforms.tables import calendar, days, ny, us
from fibflow.transforms.calendar import NO_SESSION, CalendarError, TradingCalendar, load_calendar

HOUR = 3_600_000_000
XNYS = calendar("XNYS")
CMES = calendar("CMES")
ARRAYS = ("days", "opens", "closes", "day_starts", "day_ends", "transitions", "offsets")


def position(of: TradingCalendar, day: str) -> int:
    found = int(of.positions(np.array(days(day)))[0])
    assert found != NO_SESSION
    return found


def unpickled(data: bytes) -> TradingCalendar:
    return pickle.loads(data)  # noqa: S301 - made by the test itself


def same_arrays(one: TradingCalendar, other: TradingCalendar) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ARRAYS)


# --- what the calendar holds --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["XNYS", "XIST", "AIXK"])
def test_sessions_equal_the_librarys(name):
    found, expected = calendar(name), oracle.calendar(name).sessions
    assert len(found) == len(expected)
    assert found.days.tolist() == [(session.day - date(1970, 1, 1)).days for session in expected]
    for column, of in (
        ("opens", "opens"),
        ("closes", "closes"),
        ("day_starts", "start"),
        ("day_ends", "end"),
    ):
        assert getattr(found, column).tolist() == [getattr(session, of) for session in expected]


@pytest.mark.parametrize(
    ("day", "opens", "closes"),
    [
        ("2024-07-02", "09:30", "16:00"),
        ("2024-07-03", "09:30", "13:00"),
        ("2024-11-29", "09:30", "13:00"),
        ("1962-01-02", "09:30", "16:00"),
    ],
)
def test_xnys_opens_and_closes_by_new_yorks_clock(day, opens, closes):
    at = position(XNYS, day)
    assert (XNYS.opens[at], XNYS.closes[at]) == (ny(f"{day}T{opens}"), ny(f"{day}T{closes}"))
    following = str(date.fromisoformat(day) + timedelta(days=1))
    assert (XNYS.day_starts[at], XNYS.day_ends[at]) == (ny(day), ny(following))


@pytest.mark.parametrize(
    "closed",
    [
        ("2024-07-04", "2024-12-25", "2025-01-01"),
        (
            "1962-01-01",
            "1962-02-22",
            "1962-04-20",
            "1962-05-30",
            "1962-07-04",
            "1962-09-03",
            "1962-11-22",
            "1962-12-25",
        ),
        ("1968-11-05", "1969-12-25", "1970-01-01"),
        ("1963-11-25", "1968-06-12", "1977-07-14", "2001-09-11", "2012-10-29", "2025-01-09"),
        ("2024-07-06", "2024-07-07"),
        ("1800-01-01", "1899-12-31", "2031-01-01", "2200-01-01"),
    ],
    ids=["holidays", "1962", "around 1970", "unscheduled", "weekend", "outside"],
)
def test_no_session(closed):
    assert (XNYS.positions(np.array(days(*closed))) == NO_SESSION).all()


def test_history_since_1962_has_its_real_number_of_sessions():
    first, last = days("1962-01-02", "2025-10-03")
    assert XNYS.position_on_or_before(last) - XNYS.position_on_or_before(first) + 1 == 16_047


def test_positions_count_sessions_from_the_first_on():
    assert XNYS.positions(XNYS.days).tolist() == list(range(len(XNYS)))
    assert XNYS.days[XNYS.origin] == days("2000-01-03")[0]
    before, after = position(XNYS, "2024-07-03"), position(XNYS, "2024-07-05")
    assert after == before + 1


def test_a_calendar_that_begins_after_2000_counts_from_its_first_session():
    assert calendar("AIXK").origin == 0


@pytest.mark.parametrize(
    ("day", "expected"),
    [("2024-07-03", "2024-07-03"), ("2024-07-04", "2024-07-03"), ("2024-07-07", "2024-07-05")],
)
def test_position_on_or_before_a_date(day, expected):
    assert XNYS.position_on_or_before(days(day)[0]) == position(XNYS, expected)


def test_position_before_the_first_session():
    assert XNYS.position_on_or_before(days("1899-12-31")[0]) == NO_SESSION


def test_always_open_is_a_session_every_day():
    always = calendar("24/7")
    assert np.all(np.diff(always.days) == 1)
    assert np.array_equal(always.day_starts, always.days.astype(np.int64) * 24 * HOUR)
    assert np.array_equal(always.day_ends[:-1], always.day_starts[1:])


# --- clocks -------------------------------------------------------------------------------------------------


def test_a_day_lasts_from_midnight_to_midnight_through_a_change_of_clocks():
    # Istanbul's clocks went forward at three in the morning of a session; Astana's back at its end.
    for name, day, hours in (
        ("XIST", "2014-03-31", 23),
        ("AIXK", "2024-02-29", 25),
        ("AIXK", "2024-02-28", 24),
    ):
        of = calendar(name)
        at = position(of, day)
        assert of.day_ends[at] - of.day_starts[at] == hours * HOUR
    spring, summer = position(XNYS, "2024-03-08"), position(XNYS, "2024-03-11")
    assert XNYS.opens[spring] % (24 * HOUR) == 14.5 * HOUR
    assert XNYS.opens[summer] % (24 * HOUR) == 13.5 * HOUR


@pytest.mark.parametrize("name", ["XNYS", "XIST", "AIXK", "XPAR", "XDUB"])
def test_offsets_change_when_the_zone_does(name):
    # Paris and Dublin kept clocks of their own, minutes and seconds off, when the calendar began.
    of = calendar(name)
    zone = ZoneInfo(of.zone)

    def offset(ts: int) -> timedelta | None:
        return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=ts)).astimezone(zone).utcoffset()

    changes = of.transitions[1:].tolist()
    assert changes == sorted(changes)
    for change, kept in zip(changes, of.offsets[1:].tolist(), strict=True):
        assert offset(change) == timedelta(microseconds=kept) != offset(change - 1)


@given(instant=st.integers(us("1901-01-01"), us("2030-12-30")))
@pytest.mark.parametrize("name", ["XNYS", "XDUB"])
def test_clock_and_local_days_equal_the_zones(name, instant):
    of = calendar(name)
    ts = np.array([instant])
    local = oracle.instant(instant).astimezone(ZoneInfo(of.zone))
    offset, since, until = of.clock(ts)
    assert timedelta(microseconds=int(offset[0])) == local.utcoffset()
    assert since[0] <= ts[0] < until[0]
    assert of.local_days(ts)[0] == (local.date() - date(1970, 1, 1)).days


@pytest.mark.parametrize(
    ("name", "day", "expected"),
    [
        ("XNYS", "2024-07-03", "2024-07-03T04:00"),
        ("XNYS", "2024-07-04", "2024-07-04T04:00"),
        ("XNYS", "2024-03-10", "2024-03-10T05:00"),
        ("XNYS", "2024-11-04", "2024-11-04T05:00"),
        ("24/7", "2024-03-10", "2024-03-10T00:00"),
    ],
)
def test_midnight_of_any_date(name, day, expected):
    assert calendar(name).midnight(days(day)[0]) == us(expected)


@pytest.mark.parametrize(
    "stamp",
    [
        us("2024-03-11"),
        ny("2024-03-11T00:00"),
        ny("2024-03-11T16:00"),
        ny("2024-03-11T20:00") + 1,
        ny("2024-03-11T23:59:59"),
    ],
)
def test_stamps_that_name_the_session_of_11_march(stamp):
    assert XNYS.session_days(np.array([stamp])).tolist() == days("2024-03-11")


def test_stamps_of_both_kinds_in_one_column():
    stamps = np.array([us("2024-03-11"), ny("2024-03-12T16:00"), us("2024-03-13")])
    assert XNYS.session_days(stamps).tolist() == days("2024-03-11", "2024-03-12", "2024-03-13")
    assert stamps[0] == us("2024-03-11"), "the column itself is left alone"


def test_stamps_at_midnight_utc_need_no_clock():
    assert XNYS.session_days(np.array([us("1962-01-02"), us("2024-03-11")])).tolist() == days(
        "1962-01-02", "2024-03-11"
    )


# --- sessions' days -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("instant", "session"),
    [
        (ny("2024-07-03T00:00"), "2024-07-03"),
        (ny("2024-07-03T04:00"), "2024-07-03"),
        (ny("2024-07-03T23:59:59"), "2024-07-03"),
        (ny("2024-07-04T00:00"), None),
        (ny("2024-07-05T00:00"), "2024-07-05"),
        (ny("2024-07-06T12:00"), None),
        (us("1850-01-01"), None),
        (us("2200-01-01"), None),
    ],
)
def test_pre_and_post_market_belong_to_the_sessions_day(instant, session):
    expected = NO_SESSION if session is None else position(XNYS, session)
    assert XNYS.positions_at(np.array([instant])).tolist() == [expected]


def test_futures_days_run_from_open_to_the_next_open():
    at = position(CMES, "2024-03-12")
    evening = us("2024-03-11T17:00", "America/Chicago")
    assert CMES.opens[at] == CMES.day_starts[at] == evening
    assert CMES.day_ends[at] == CMES.day_starts[at + 1] == us("2024-03-12T17:00", "America/Chicago")
    assert CMES.positions_at(np.array([evening - 1, evening])).tolist() == [at - 1, at]


def test_days_never_overlap():
    for name in ("XNYS", "CMES", "24/7", "XIST", "AIXK"):
        of = calendar(name)
        assert (of.day_starts[1:] >= of.day_ends[:-1]).all()
        assert ((of.day_starts <= of.opens) & (of.opens < of.closes) & (of.closes <= of.day_ends)).all()


# --- closures, hashes, pickles ------------------------------------------------------------------------------


def test_an_unscheduled_closure_takes_its_session_out():
    closed = XNYS.without("2024-07-02", "2024-07-03")
    assert len(closed) == len(XNYS) - 2
    assert closed.positions(np.array(days("2024-07-02", "2024-07-03"))).tolist() == [NO_SESSION] * 2
    assert position(closed, "2024-07-05") == position(closed, "2024-07-01") + 1
    assert closed.digest != XNYS.digest
    assert closed.name == XNYS.name


def test_closing_what_is_closed_changes_nothing():
    assert same_arrays(XNYS.without("2024-07-04"), XNYS)
    assert XNYS.without("2024-07-04").digest == XNYS.digest


def test_hashes_tell_the_year_that_changed():
    before, after = XNYS.hashes(2026), XNYS.without("2024-07-03").hashes(2026)
    assert list(before) == [str(year) for year in range(1900, 2027)]
    assert {year for year in before if before[year] != after[year]} == {"2024"}


def test_hashes_see_a_changed_close():
    late = replace(XNYS, closes=np.where(XNYS.days == days("2024-07-03")[0], XNYS.closes + HOUR, XNYS.closes))
    assert {year for year, text in XNYS.hashes(2030).items() if late.hashes(2030)[year] != text} == {"2024"}


def test_a_loaded_calendar_is_pickled_by_name():
    pickled = pickle.dumps(XNYS)
    assert len(pickled) < 500
    again = unpickled(pickled)
    assert same_arrays(again, XNYS)
    assert (again.name, again.zone, again.through_year) == (XNYS.name, XNYS.zone, XNYS.through_year)


def test_a_changed_calendar_is_pickled_by_its_arrays():
    closed = XNYS.without("2024-07-03")
    again = unpickled(pickle.dumps(closed))
    assert same_arrays(again, closed)
    assert again.digest == closed.digest
    assert again.through_year is None


def test_a_worker_with_other_sessions_refuses():
    other = replace(XNYS.without("2024-07-03"), through_year=XNYS.through_year)
    with pytest.raises(
        CalendarError, match=r"this worker has another calendar XNYS .*install the same release"
    ):
        unpickled(pickle.dumps(other))


# --- loading ------------------------------------------------------------------------------------------------


def test_a_calendar_is_kept_in_the_cache_and_read_from_it(tmp_path):
    made = load_calendar("24/7", 2001, tmp_path)
    (kept,) = tmp_path.iterdir()
    assert kept.suffix == ".npz"
    content, before = kept.read_bytes(), kept.stat().st_mtime_ns
    again = load_calendar("24/7", 2001, tmp_path)
    assert same_arrays(made, again)
    assert (again.name, again.zone, again.through_year) == ("24/7", "UTC", 2001)
    assert (kept.read_bytes(), kept.stat().st_mtime_ns) == (content, before)


def test_a_kept_calendar_needs_no_library(tmp_path):
    load_calendar("24/7", 2001, tmp_path)
    code = (
        "import sys, pathlib; from fibflow.transforms.calendar import load_calendar; "
        f"load_calendar('24/7', 2001, pathlib.Path({str(tmp_path)!r})); "
        "sys.exit('exchange_calendars' in sys.modules or 'pandas' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("content", [b"", b"not a calendar", b"PK\x03\x04 cut off"])
def test_a_spoilt_cache_is_made_anew(tmp_path, content):
    made = load_calendar("24/7", 2001, tmp_path)
    (kept,) = tmp_path.iterdir()
    for spoilt in (content, kept.read_bytes()[:-100]):
        kept.write_bytes(spoilt)
        assert same_arrays(load_calendar("24/7", 2001, tmp_path), made)
        assert same_arrays(load_calendar("24/7", 2001, tmp_path), made)


def test_a_cache_of_other_arrays_is_made_anew(tmp_path):
    made = load_calendar("24/7", 2001, tmp_path)
    (kept,) = tmp_path.iterdir()
    np.savez(kept, days=made.days)
    assert same_arrays(load_calendar("24/7", 2001, tmp_path), made)


def test_a_cache_that_cannot_be_written_is_no_failure(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert len(load_calendar("24/7", 2001, blocked / "cache"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_users_cache_directory_is_the_default(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    load_calendar("24/7", 2001)
    assert [path.parent.name for path in tmp_path.rglob("*.npz")] == ["fibflow"]


@pytest.mark.parametrize("name", ["NOPE", "", "xnys "])
def test_an_unknown_calendar_is_one_clear_line(tmp_path, name):
    with pytest.raises(
        CalendarError, match=r"^unknown calendar .*: name one that exchange_calendars has"
    ) as raised:
        load_calendar(name, 2001, tmp_path)
    assert "\n" not in str(raised.value)


def test_another_name_of_a_calendar(tmp_path):
    assert same_arrays(load_calendar("NYSE", 2030, tmp_path), XNYS)


def test_a_year_before_the_calendar_begins_is_refused_in_one_clear_line(tmp_path):
    with pytest.raises(CalendarError, match=r"^exchange_calendars cannot make AIXK through 2010: ") as raised:
        load_calendar("AIXK", 2010, tmp_path)
    assert len(str(raised.value).splitlines()) == 1


def test_a_calendar_ends_where_the_library_knows_no_more_holidays(tmp_path):
    shanghai = load_calendar("XSHG", 2090, tmp_path)
    last = shanghai.days[-1].astype("datetime64[D]").astype(object).year
    assert 2024 <= last < 2090


@pytest.mark.parametrize("name", ["XAMS", "XTSE", "XKRX", "BVMF"])
def test_exchanges_whose_zones_once_skipped_a_midnight(name):
    # Clocks went forward at midnight, long ago: that day begins at one.
    of = calendar(name)
    assert (np.diff(of.day_starts) > 0).all()
    assert position(of, "2024-06-12")
