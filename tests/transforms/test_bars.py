from __future__ import annotations

import math
from dataclasses import replace
from datetime import date

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fibflow.tests.transforms.tables import (
    by_key,
    calendar,
    daily,
    days,
    dictionary,
    dicts,
    minutes,
    ny,
    row,
    us,
)
from fibflow.transforms.bars import BarSpec, daily_bars, minute_bars
from fibflow.transforms.calendar import CalendarError
from fibflow.transforms.partials import BAR_BATCH
from fibflow.transforms.schemas import DAILY_ROWS, MINUTE_ROWS
from fibflow.transforms.timeframe import Anchor, IntradayAnchor, parse_timeframes

XNYS = calendar("XNYS")
MINUTE = 60_000_000


def position(day: str) -> int:
    return int(XNYS.positions(np.array(days(day)))[0])


def sessions(first: str, count: int) -> list[date]:
    at = position(first)
    return XNYS.days[at : at + count].astype("datetime64[D]").tolist()


def end_of(day: date) -> int:
    return int(XNYS.day_ends[position(str(day))])


def start_of(day: date) -> int:
    return int(XNYS.day_starts[position(str(day))])


def history(symbol: str, own: list[date]) -> list[dict]:
    """A rising row a session: its open is its number, its close half more."""
    return [row(symbol, day, float(n), high=n + 0.75, close=n + 0.5) for n, day in enumerate(own, 1)]


def spec(names: str, **options) -> BarSpec:
    return BarSpec(timeframes=parse_timeframes(names), calendar=options.pop("calendar", XNYS), **options)


def bars_of(rows: list[dict], names: str, **options) -> list[dict]:
    made = list(daily_bars(daily(rows, rank=False), spec(names, **options)))
    assert all(part.schema == BAR_BATCH for part in made)
    return [bar for part in made for bar in dicts(part)]


JULY = sessions("2024-07-01", 10)


# --- sessions -----------------------------------------------------------------------------------------------


def test_one_window_in_full():
    first = next(day for day in JULY if (position(str(day)) - XNYS.origin) % 5 == 0)
    own = sessions(str(first), 5)
    (bar,) = bars_of(history("A", own), "5d")
    assert bar == {
        "symbol": "A",
        "timeframe": "5d",
        "ts": start_of(own[0]),
        "end": end_of(own[4]),
        "open": 1.0,
        "high": 5.75,
        "low": 1.0,
        "close": 5.5,
        "volume": 500.0,
        "vwap": None,
        "trade_count": None,
        "sessions": 5,
        "complete": True,
        "final": True,
        "revision": 0,
    }


def test_1d_bars_are_the_official_rows():
    rows = [
        row("A", day, 5.0 + n, high=50.0, low=1.0, close=6.0, volume=n, vwap=5.5)
        for n, day in enumerate(JULY)
    ]
    got = bars_of(rows, "1d")
    assert [(bar["ts"], bar["end"]) for bar in got] == [(start_of(day), end_of(day)) for day in JULY]
    for bar, source in zip(got, rows, strict=True):
        assert all(bar[name] == source[name] for name in ("open", "high", "low", "close", "volume"))
        assert bar["vwap"] == (5.5 if source["volume"] else None)


@pytest.mark.parametrize("anchor", Anchor)
def test_a_halted_symbol_has_fewer_sessions(anchor):
    own = sessions("2024-07-01", 40)
    held = own[:3] + own[20:]
    got = bars_of(history("A", held), "8d", anchor=anchor)
    assert sum(bar["sessions"] for bar in got) == len(held)
    most = [bar["sessions"] for bar in got if bar["complete"]]
    assert max(most) == 8
    assert (min(most) == 8) is (anchor is Anchor.ROWS)


def test_exchange_windows_are_the_same_for_every_symbol():
    own = sessions("2024-07-01", 30)
    got = bars_of(history("A", own) + history("B", own[4:]), "5d")
    starts = {name: {bar["ts"] for bar in got if bar["symbol"] == name} for name in "AB"}
    assert starts["B"] <= starts["A"]


def test_listing_windows_begin_at_each_symbols_first_row():
    own = sessions("2024-07-01", 12)
    got = bars_of(history("A", own) + history("B", own[4:]), "5d", anchor=Anchor.LISTING)
    expected = [("A", 0), ("A", 5), ("B", 4), ("A", 10), ("B", 9)]
    assert sorted((bar["symbol"], bar["ts"]) for bar in got) == sorted(
        (s, start_of(own[n])) for s, n in expected
    )


@pytest.mark.parametrize("count", [1, 2, 3, 12, 13, 14, 33, 34, 35, 100])
@pytest.mark.parametrize("name", ["3d", "13d", "34d"])
def test_rows_make_as_many_bars_as_n_goes_into_them_rounded_up(count, name):
    length = int(name[:-1])
    held = [day for n, day in enumerate(sessions("2024-01-02", 200)) if n % 3][:count]
    got = bars_of(history("A", held) + history("B", held[:1]), name, anchor=Anchor.ROWS)
    own = [bar for bar in got if bar["symbol"] == "A"]
    assert len(own) == math.ceil(count / length)
    assert [bar["sessions"] for bar in own if bar["complete"]] == [length] * (count // length)
    assert [bar["sessions"] for bar in own if not bar["complete"]] == [count % length] * (count % length > 0)
    complete = bars_of(history("A", held), name, anchor=Anchor.ROWS, complete_only=True)
    assert complete == [bar for bar in own if bar["complete"]]


def test_rows_windows_end_with_their_last_row():
    held = [JULY[0], JULY[4], JULY[5], JULY[9]]
    got = bars_of(history("A", held), "3d", anchor=Anchor.ROWS)
    assert [(bar["ts"], bar["end"]) for bar in got] == [
        (start_of(JULY[0]), end_of(JULY[5])),
        (start_of(JULY[9]), end_of(JULY[9])),
    ]


# --- as-of, complete, start and end -------------------------------------------------------------------------


def test_the_newest_session_of_the_input_is_as_of_by_default():
    own = sessions("2024-07-01", 20)
    assert bars_of(history("A", own), "5d") == bars_of(history("A", own), "5d", as_of=end_of(own[-1]))


def test_a_window_is_complete_from_its_last_sessions_end_on():
    own = sessions(str(next(day for day in JULY if (position(str(day)) - XNYS.origin) % 3 == 0)), 3)
    for as_of, complete in ((end_of(own[2]) - 1, False), (end_of(own[2]), True)):
        (bar,) = bars_of(history("A", own[:2]), "3d", as_of=as_of)
        assert (bar["complete"], bar["final"]) == (complete, complete)


@pytest.mark.parametrize("anchor", Anchor)
def test_rows_after_as_of_are_not_used(anchor):
    own = sessions("2024-07-01", 20)
    rows = history("A", own)
    for count in range(20):
        # Up to the instant before the next session ends, that session is not known.
        for as_of in (end_of(own[count]) - 1, start_of(own[count])):
            expected = bars_of(rows[:count], "5d,8d", anchor=anchor, as_of=as_of)
            assert bars_of(rows, "5d,8d", anchor=anchor, as_of=as_of) == expected
            assert sum(bar["sessions"] for bar in expected) == 2 * count


def test_ended_windows_come_first_and_each_by_symbol_and_ts():
    own = sessions("2024-07-01", 23)
    (made,) = daily_bars(
        daily(history("A", own) + history("B", own) + history("C", own[:4]), rank=False), spec("5d")
    )
    keys = [(not bar["complete"], bar["symbol"], bar["ts"]) for bar in dicts(made)]
    assert keys == sorted(keys)
    assert {complete for complete, *_ in keys} == {True, False}


@pytest.mark.parametrize("anchor", Anchor)
def test_complete_only_leaves_out_open_windows(anchor):
    own = sessions("2024-07-01", 40)
    rows = history("A", own) + history("B", own[3:21])
    everything = bars_of(rows, "5d,13d", anchor=anchor)
    some = bars_of(rows, "5d,13d", anchor=anchor, complete_only=True)
    assert some == [bar for bar in everything if bar["complete"]]
    assert 0 < len(some) < len(everything)


@pytest.mark.parametrize("anchor", Anchor)
@pytest.mark.parametrize(
    ("first", "last"), [(0, 40), (7, 40), (0, 23), (9, 31), (12, 12), (39, 0), (None, 9), (9, None)]
)
def test_start_and_end_choose_bars_and_never_move_a_window(anchor, first, last):
    own = sessions("2024-07-01", 41)
    rows = history("A", own) + history("B", own[5:])
    start, end = (None if n is None else start_of(own[n]) for n in (first, last))
    expected = [
        bar
        for bar in bars_of(rows, "3d,8d", anchor=anchor)
        if (start is None or bar["ts"] >= start) and (end is None or bar["ts"] < end)
    ]
    assert bars_of(rows, "3d,8d", anchor=anchor, start=start, end=end) == expected


@pytest.mark.parametrize("anchor", Anchor)
def test_changed_from_chooses_the_bars_that_a_change_can_touch(anchor):
    own = sessions("2024-07-01", 40)
    before = history("A", own)
    for changed in (0, 7, 20, 39):
        after = [{**r, "close": 999.0, "high": 999.0} if n >= changed else r for n, r in enumerate(before)]
        got = bars_of(after, "3d,8d", anchor=anchor, changed_from=start_of(own[changed]))
        untouched = bars_of(before, "3d,8d", anchor=anchor)
        moved = [bar for bar in bars_of(after, "3d,8d", anchor=anchor) if bar not in untouched]
        assert got == moved


# --- from the middle of a history ---------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    data=st.data(),
    anchor=st.sampled_from([Anchor.LISTING, Anchor.ROWS]),
    length=st.sampled_from([2, 3, 5, 13]),
)
def test_continuing_from_the_middle_gives_the_same_bars(data, anchor, length):
    own = sessions("2024-01-02", 60)
    rows: dict[str, list[dict]] = {}
    for symbol in ("A", "B", "C", "new"):
        held = data.draw(st.lists(st.integers(0, 59), min_size=1, max_size=40, unique=True).map(sorted))
        rows[symbol] = history(symbol, [own[n] for n in held])
    common = spec(f"{length}d", anchor=anchor, as_of=end_of(own[-1]))

    def made(parts: dict[str, list[dict]], of: BarSpec) -> dict:
        return by_key(daily_bars(daily([r for part in parts.values() for r in part], rank=False), of))

    # A symbol without a base begins with its rows.
    cuts = {symbol: data.draw(st.integers(0, len(rows[symbol]) - 1)) for symbol in ("A", "B", "C")}
    first = {symbol: position(str(rows[symbol][0]["session"])) for symbol in cuts}
    later = {symbol: part[cuts.get(symbol, 0) :] for symbol, part in rows.items()}
    got = made(later, replace(common, bases=cuts if anchor is Anchor.ROWS else first))
    begins = {symbol: start_of(part[0]["session"]) for symbol, part in later.items()}
    expected = {key: bar for key, bar in made(rows, common).items() if bar["ts"] >= begins[bar["symbol"]]}
    assert {key: got.get(key) for key in expected} == expected
    if anchor is Anchor.ROWS:
        assert set(got) == set(expected), "a window that begins before these rows is left out"


def test_a_backfill_before_the_first_row_moves_listing_windows_and_no_exchange_windows():
    own = sessions("2024-07-01", 12)
    late, backfilled = history("A", own[1:]), history("A", own)
    for anchor, same in ((Anchor.EXCHANGE, True), (Anchor.LISTING, False), (Anchor.ROWS, False)):
        before = {bar["ts"] for bar in bars_of(late, "5d", anchor=anchor)}
        after = {
            bar["ts"] for bar in bars_of(backfilled, "5d", anchor=anchor) if bar["ts"] > start_of(own[4])
        }
        assert (after <= before) is same


# --- calendars ----------------------------------------------------------------------------------------------


def test_an_unscheduled_closure_changes_the_windows_after_it():
    own = sessions("2024-07-01", 20)
    closed = XNYS.without(str(own[3]))
    rows = [r for r in history("A", own) if r["session"] != own[3]]
    before, after = ({bar["ts"] for bar in bars_of(rows, "5d", calendar=of)} for of in (XNYS, closed))
    assert before != after
    assert bars_of(rows, "5d", calendar=closed) == bars_of(
        history("A", own)[:3] + rows[3:], "5d", calendar=closed
    )


def test_rows_of_a_session_that_the_calendar_has_lost_are_left_out():
    closed = XNYS.without(str(JULY[0]), str(JULY[3]))
    rows = history("A", JULY)
    kept = [r for r in rows if r["session"] not in (JULY[0], JULY[3])]
    for anchor in Anchor:
        assert bars_of(rows, "3d", calendar=closed, anchor=anchor) == bars_of(
            kept, "3d", calendar=closed, anchor=anchor
        )
    assert bars_of(rows[:1], "3d", calendar=closed) == []


def test_a_window_that_ends_after_the_calendar_is_refused():
    last = XNYS.days[-1:].astype("datetime64[D]").tolist()
    with pytest.raises(CalendarError, match="calendar XNYS ends before a window of 34 sessions does"):
        bars_of(history("A", last), "34d", anchor=Anchor.LISTING)
    assert len(bars_of(history("A", last), "34d", anchor=Anchor.ROWS)) == 1


def test_negative_windows_and_the_first_one_of_the_calendar():
    own = XNYS.days[:50].astype("datetime64[D]").tolist()
    got = bars_of(history("A", own), "34d")
    assert got[0]["ts"] == XNYS.day_starts[0]
    assert got[0]["sessions"] == XNYS.origin % 34
    assert got[1]["sessions"] == 34


def test_futures_sessions_by_their_days():
    cmes = calendar("CMES")
    at = int(cmes.positions(np.array(days("2024-03-12")))[0])
    (bar,) = bars_of([row("ES", date(2024, 3, 12))], "1d", calendar=cmes)
    assert bar["ts"] == us("2024-03-11T17:00", "America/Chicago") == cmes.day_starts[at]
    assert bar["end"] == us("2024-03-12T17:00", "America/Chicago")


# --- columns that are not there -----------------------------------------------------------------------------


def test_optional_columns_may_be_missing_or_null():
    rows = daily(history("A", JULY), rank=False)
    without = rows.drop_columns(["vwap", "trade_count"])
    expected, got = (list(daily_bars(table, spec("3d"))) for table in (rows, without))
    assert got == expected
    assert got[0]["vwap"].null_count == len(got[0])
    assert got[0]["trade_count"].null_count == len(got[0])


def test_no_rows_make_no_bars():
    assert list(daily_bars(DAILY_ROWS.empty_table(), spec("3d"))) == []
    assert list(minute_bars(MINUTE_ROWS.empty_table(), spec("5m"))) == []


def test_no_bars_where_nothing_is_asked_for():
    assert bars_of(history("A", JULY), "3d", start=end_of(JULY[-1])) == []
    assert bars_of(history("A", JULY[:1]), "34d", complete_only=True) == []


# --- minutes ------------------------------------------------------------------------------------------------


def minutes_of(rows: list[dict], names: str, **options) -> list[dict]:
    made = list(minute_bars(minutes(rows, rank=False), spec(names, **options)))
    assert all(part.schema == BAR_BATCH for part in made)
    return [bar for part in made for bar in dicts(part)]


def tape(symbol: str, start: str, count: int) -> list[dict]:
    """A rising row a minute."""
    return [row(symbol, ny(start) + n * MINUTE, n + 1.0, vwap=n + 1.0, trade_count=1) for n in range(count)]


def test_five_minutes_in_full():
    (bar,) = minutes_of(tape("A", "2024-07-02T09:30", 5), "5m")
    assert bar == {
        "symbol": "A",
        "timeframe": "5m",
        "ts": ny("2024-07-02T09:30"),
        "end": ny("2024-07-02T09:35"),
        "open": 1.0,
        "high": 5.0,
        "low": 1.0,
        "close": 5.0,
        "volume": 500.0,
        "vwap": 3.0,
        "trade_count": 5,
        "sessions": 1,
        "complete": True,
        "final": True,
        "revision": 0,
    }


def test_a_half_days_last_hour_is_cut_at_the_close_only_under_the_anchor_open():
    rows = tape("A", "2024-07-03T12:25", 40)
    by_open = minutes_of(rows, "1h", intraday_anchor=IntradayAnchor.OPEN)
    clocks = [("11:30", "12:30"), ("12:30", "13:00"), ("13:00", "14:00")]
    assert [(bar["ts"], bar["end"]) for bar in by_open] == [
        (ny(f"2024-07-03T{start}"), ny(f"2024-07-03T{end}")) for start, end in clocks
    ]
    assert [bar["volume"] for bar in by_open] == [500.0, 3000.0, 500.0]
    by_midnight = minutes_of(rows, "1h")
    assert [bar["ts"] for bar in by_midnight] == [ny("2024-07-03T12:00"), ny("2024-07-03T13:00")]


@pytest.mark.parametrize("anchor", IntradayAnchor)
def test_a_coarse_timeframe_is_the_same_alone_and_beside_finer_ones(anchor):
    rows = tape("A", "2024-03-08T09:00", 700) + tape("B", "2024-03-11T03:55", 900)
    together = minutes_of(rows, "1m,5m,15m,30m,45m,1h,2h,4h,12h", intraday_anchor=anchor)
    for name in ("1m", "5m", "15m", "30m", "45m", "1h", "2h", "4h", "12h"):
        alone = minutes_of(rows, name, intraday_anchor=anchor)
        assert alone == [bar for bar in together if bar["timeframe"] == name]


def test_a_day_is_as_of_known_only_when_it_has_ended():
    rows = tape("A", "2024-07-02T15:50", 20) + tape("A", "2024-07-03T09:30", 20)
    first, second = (end_of(date(2024, 7, day)) for day in (2, 3))
    assert minutes_of(rows, "5m", as_of=second - 1) == minutes_of(rows[:20], "5m")
    assert minutes_of(rows, "5m", as_of=first - 1) == []
    assert minutes_of(rows, "5m") == minutes_of(rows, "5m", as_of=second)


def test_start_and_end_choose_intraday_bars():
    rows = tape("A", "2024-07-02T09:30", 120)
    start, end = ny("2024-07-02T09:58"), ny("2024-07-02T10:30")
    every = minutes_of(rows, "5m,15m")
    assert minutes_of(rows, "5m,15m", start=start, end=end) == [
        bar for bar in every if start <= bar["ts"] < end
    ]
    assert minutes_of(rows, "5m,15m", changed_from=start) == [bar for bar in every if bar["end"] > start]
    assert minutes_of(rows, "5m,15m", start=end_of(date(2024, 7, 2))) == []


def test_minutes_of_a_session_that_the_calendar_has_lost_are_left_out():
    rows = tape("A", "2024-07-02T09:30", 10)
    later = tape("A", "2024-07-05T09:30", 10)
    closed = XNYS.without("2024-07-02")
    assert minutes_of(rows + later, "5m", calendar=closed) == minutes_of(later, "5m")
    assert minutes_of(rows, "5m", calendar=closed) == []


def test_no_window_of_futures_mixes_two_sessions():
    cmes = calendar("CMES")
    evening = us("2024-03-11T17:00", "America/Chicago")
    rows = [row("ES", evening + n * MINUTE, 5.0 + n) for n in range(-3, 3)]
    got = minutes_of(rows, "4h", calendar=cmes)
    assert [(bar["ts"] < evening, bar["volume"], bar["sessions"]) for bar in got] == [
        (True, 300.0, 1),
        (False, 300.0, 1),
    ]
    assert got[0]["end"] == got[1]["ts"] == evening


def test_a_window_whose_volume_no_bar_can_hold_is_refused():
    rows = [row("A", ny("2024-07-02T09:30") + n * MINUTE, volume=1e11) for n in range(93)]
    assert len(minutes_of(rows[:64], "12h")) == 1
    with pytest.raises(OverflowError, match="a window's volume reaches"):
        minutes_of(rows, "12h")


def test_bars_in_memory_hold_their_strings_once():
    (made,) = daily_bars(daily(history("A", JULY) + history("B", JULY), rank=False), spec("1d"))
    assert dictionary(made, "symbol") == ["A", "B"]
    assert dictionary(made, "timeframe") == ["1d"]
    assert pa.types.is_dictionary(made.schema.field("symbol").type)
