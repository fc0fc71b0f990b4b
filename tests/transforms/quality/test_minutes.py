"""Missing minutes are found by what is usual for each symbol."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fibflow.tests.transforms.quality.worlds import (
    MINUTE,
    Lives,
    MinuteCell,
    date_of,
    report_of,
    span_until,
)
from fibflow.transforms.quality.minutes import MinuteGrid
from fibflow.transforms.quality.report import MinuteGap
from fibflow.transforms.quality.span import Span

#: November 29 is a half day, November 28 a holiday.
SPAN = span_until("2024-12-03", window=4, before=10)
HALF = 11
WINDOW = range(SPAN.judged, len(SPAN))


def full(symbol: str, places: range = range(len(SPAN)), span: Span = SPAN) -> set[MinuteCell]:
    return {(symbol, place, minute) for place in places for minute in range(int(span.minutes[place]))}


def world(*symbols: str) -> Lives:
    lives = Lives(SPAN)
    for symbol in symbols:
        lives.old(symbol)
    return lives


LIVES = world("A", "B", "THIN")
NUMBERS = np.random.default_rng(7)
#: Two that trade every minute, one every other, all with some in extended hours.
FULL = frozenset(
    full("A")
    | full("B")
    | {cell for cell in full("THIN") if NUMBERS.random() < 0.5}
    | {(symbol, place, -30) for symbol in "AB" for place in range(len(SPAN))}
)
HOLES = st.sets(st.tuples(st.sampled_from("AB"), st.sampled_from(WINDOW), st.integers(0, 209)), max_size=40)


def runs_of(holes: set[MinuteCell]) -> set[MinuteGap]:
    """Holes that follow one another are one: minute by minute."""
    found = set()
    for symbol, place, minute in holes:
        if (symbol, place, minute - 1) in holes:
            continue
        length = 1
        while (symbol, place, minute + length) in holes:
            length += 1
        ts = int(SPAN.opens[place]) + minute * MINUTE
        found.add(MinuteGap(symbol, date_of(SPAN, place), ts, length))
    return found


@settings(max_examples=15, deadline=None)
@given(HOLES)
def test_holes_are_found_and_none_besides(holes):
    found = report_of(LIVES, LIVES.cells, FULL - holes)
    assert set(found.minute_gaps) == runs_of(holes)
    assert found.minutes_missing == len(holes)
    assert sum(row.minutes_missing for row in found.rows) == len(holes)
    assert found.day_gaps == []
    assert found.dense == 2
    assert found.has_minutes
    assert found.rows[1].half


def test_a_symbol_that_misses_some_is_held_to_that():
    lives = world("A", "SOME")
    # One minute in fifty, in every session.
    usual = {("SOME", place, minute) for place in range(len(SPAN)) for minute in range(7, 200, 50)}
    minutes = full("A") | (full("SOME") - usual)
    assert report_of(lives, lives.cells, minutes).minute_gaps == []
    stretch = {("SOME", 12, minute) for minute in range(100, 106)}
    (gap,) = report_of(lives, lives.cells, minutes - stretch).minute_gaps
    assert (gap.symbol, gap.minutes, gap.ts) == (
        "SOME",
        6,
        int(SPAN.opens[12]) + 100 * MINUTE,
    )


def test_bad_sessions_before_the_window_do_not_blind():
    lives = world("A", "B")
    minutes = {cell for cell in full("A") | full("B") if cell[1] not in {4, 7} or cell[2] > 100}
    hole = {("A", 12, 30)}
    assert set(report_of(lives, lives.cells, minutes - hole).minute_gaps) == runs_of(hole)


def test_what_most_symbols_lack_is_an_outage():
    lives = world(*"ABCD")
    minutes = set().union(*(full(symbol) for symbol in "ABCD"))
    hole = {(symbol, 12, minute) for symbol in "ABC" for minute in range(60, 75)}
    found = report_of(lives, lives.cells, minutes - hole)
    (outage,) = found.outages
    assert (outage.session, outage.minutes, outage.symbols) == (date_of(SPAN, 12), 15, 3)
    assert outage.ts == int(SPAN.opens[12]) + 60 * MINUTE
    assert found.minutes_missing == 45


def test_a_session_without_a_minute_is_missing_as_a_whole_or_a_day():
    lives = world("A", "B")
    minutes = full("A") | {cell for cell in full("B") if cell[1] != HALF}
    (gap,) = report_of(lives, lives.cells, minutes).minute_gaps
    assert (gap.symbol, gap.minutes) == ("B", 210)
    # Without its day it is that day's gap.
    found = report_of(lives, lives.cells - {("B", HALF)}, minutes)
    assert found.minute_gaps == []
    assert [gap.symbol for gap in found.day_gaps] == ["B"]


def test_who_lists_ends_or_has_no_past_is_not_judged():
    lives = Lives(SPAN)
    lives.old("A")
    lives.listed("IPO", 11)
    lives.delisted("GONE", 12)
    some = {cell for cell in full("IPO", range(11, 14)) if cell[2] > 120}
    minutes = full("A") | some | full("GONE", range(12))
    found = report_of(lives, lives.cells, minutes)
    assert found.minute_gaps == []
    assert found.dense == 2
    # With minutes of two sessions before the window none is.
    for first, dense in ((8, 0), (7, 1)):
        found = report_of(lives, lives.cells, full("A", range(first, 14)) - {("A", 12, 5)})
        assert (found.dense, len(found.minute_gaps), found.has_minutes) == (dense, dense, True)


def test_minutes_elsewhere_count_for_nothing():
    grid = MinuteGrid(SPAN)
    outside = np.array([int(SPAN.opens[0]) - 86_400_000_000 * 9, int(SPAN.stop) + MINUTE], np.int64)
    grid.see(np.array([0, 0]), outside)
    grid.see(np.array([-1]), SPAN.opens[:1])
    assert not grid.sessions(1).any()
    early = SPAN.opens[:1] - MINUTE
    grid.see(np.array([70]), early)
    assert grid.sessions(71).sum() == 1
    assert not grid.judge(np.ones((71, len(SPAN)), np.bool_)).dense.any()
