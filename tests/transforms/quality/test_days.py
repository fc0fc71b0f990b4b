"""Holes of days are found, and nothing besides; what has stopped is quiet, what has ended is not."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fibflow.tests.transforms.quality.worlds import QUIET, Cell, Lives, date_of, report_of, rows, span_until
from fibflow.transforms.quality.days import active_at
from fibflow.transforms.quality.report import DayGap, Quiet
from fibflow.transforms.schemas import SYMBOLS

#: Windows around Thanksgiving and Christmas: half days on November 29 and December 24, holidays before both.
LASTS = ("2024-11-29", "2024-12-02", "2024-12-04", "2024-12-24", "2024-12-27", "2024-12-31")


@st.composite
def punched(draw: st.DrawFn) -> tuple[Lives, set[Cell]]:
    """Symbols that list, are delisted and renamed in the window, and the cells that are missing."""
    span = span_until(draw(st.sampled_from(LASTS)), draw(st.integers(1, 6)))
    inside = st.integers(span.judged, len(span) - 1)
    lives = Lives(span)
    for name in ("A", "BRK.B"):
        lives.old(name)
    lives.listed("IPO", draw(inside))
    lives.delisted("GONE", draw(inside))
    lives.renamed("FB", "META", draw(inside))
    holes = draw(st.sets(st.sampled_from(lives.holes())))
    # What lacks all of the last sessions is quiet.
    return lives, {(symbol, place) for symbol, place in holes if place != len(span) - QUIET}


@settings(max_examples=60, deadline=None)
@given(punched())
def test_holes_are_found_and_none_besides(world):
    lives, holes = world
    found = report_of(lives, lives.cells - holes)
    expected = {DayGap(symbol, date_of(lives.span, place)) for symbol, place in holes}
    assert set(found.day_gaps) == expected
    assert len(found.day_gaps) == len(holes)
    assert found.quiet == []
    assert found.found == bool(holes)
    by_session = {row.session: row.day_gaps for row in found.rows}
    assert sum(by_session.values()) == len(holes)
    for gap in expected:
        assert by_session[gap.session] == sum(other.session == gap.session for other in expected)


def test_sessions_are_those_of_the_exchange():
    lives = Lives(span_until("2024-12-02"))
    lives.old("A")
    found = report_of(lives, lives.cells)
    assert [row.session.isoformat() for row in found.rows] == [
        "2024-11-25",
        "2024-11-26",
        "2024-11-27",
        "2024-11-29",
        "2024-12-02",
    ]
    assert [row.half for row in found.rows] == [False, False, False, True, False]
    assert found.document()["gaps"] == {"1d": 0, "1m": 0}


def test_a_session_that_nobody_has_is_missing_for_all_and_held_against_none():
    lives = Lives(span_until("2024-12-04"))
    for name in ("A", "B", "C"):
        lives.old(name)
    none_has = {3, 4, 5, 6, 22}
    found = report_of(lives, {cell for cell in lives.cells if cell[1] not in none_has})
    day = date_of(lives.span, 22)
    assert found.day_gaps == [DayGap(name, day) for name in ("A", "B", "C")]


def test_who_trades_seldom_has_no_gaps():
    lives = Lives(span_until("2024-12-04"))
    lives.old("A")
    lives.old("SELDOM")
    numbers = np.random.default_rng(3)
    missing = {("SELDOM", place) for place in range(1, 25) if numbers.random() < 0.4}
    found = report_of(lives, lives.cells - missing)
    assert found.day_gaps == []
    assert found.quiet == []
    # One that lacks a day in twenty trades daily.
    found = report_of(lives, lives.cells - {("SELDOM", 4), ("SELDOM", 22)})
    assert found.day_gaps == [DayGap("SELDOM", date_of(lives.span, 22))]


def test_who_is_new_is_taken_to_trade_daily():
    lives = Lives(span_until("2024-12-04"))
    lives.old("A")
    for first, gaps in ((17, 1), (14, 0)):
        lives.listed("NEW", first)
        missing = {("NEW", place) for place in range(first + 1, 20)} | {("NEW", 22)}
        found = report_of(lives, lives.cells - missing)
        assert len(found.day_gaps) == gaps
        assert {gap.symbol for gap in found.day_gaps} <= {"NEW"}


def test_who_stops_is_quiet_once_and_no_gap():
    lives = Lives(span_until("2024-12-04"))
    lives.old("A")
    lives.old("B")
    for silence in range(1, 8):
        missing = {("B", place) for place in range(25 - silence, 25)}
        found = report_of(lives, lives.cells - missing)
        if silence < QUIET:
            assert (len(found.day_gaps), found.quiet) == (silence, [])
        else:
            assert found.day_gaps == []
            assert found.quiet == [Quiet("B", date_of(lives.span, 24 - silence), silence)]
            assert found.document()["quiet_symbols"] == ["B"]


def test_who_seldom_trades_must_be_silent_for_long():
    lives = Lives(span_until("2024-12-04", before=40))
    lives.old("A")
    lives.old("B")
    every_other = {("B", place) for place in range(1, 45, 2)}
    for silence, quiet in ((4, []), (12, ["B"])):
        missing = every_other | {("B", place) for place in range(45 - silence, 45)}
        found = report_of(lives, lives.cells - missing)
        assert [each.symbol for each in found.quiet] == quiet
        assert found.day_gaps == []


@pytest.mark.parametrize("how", ["delisted", "inactive", "renamed", "renamed before"])
def test_who_has_ended_is_neither_quiet_nor_missing(how):
    lives = Lives(span_until("2024-12-04"))
    lives.old("A")
    match how:
        case "renamed":
            lives.renamed("B", "C", 18)
        case "renamed before":
            # The last sessions before it are missing too: nobody can tell.
            lives.renamed("B", "C", 21)
            lives.last["B"] = 17
        case _:
            lives.delisted("B", 18)
            if how == "inactive":
                lives.symbols[-1]["delisted"] = None
    found = report_of(lives, lives.cells)
    assert found.quiet == []
    assert found.day_gaps == []


def test_a_ticker_that_is_given_again_has_a_second_life():
    lives = Lives(span_until("2024-12-04"))
    lives.old("A")
    lives.renamed("FB", "META", 12)
    again = {("FB", place) for place in range(16, 25)}
    found = report_of(lives, (lives.cells | again) - {("FB", 22)})
    assert found.day_gaps == [DayGap("FB", date_of(lives.span, 22))]


def test_an_active_symbol_without_anything_is_quiet():
    lives = Lives(span_until("2024-12-04"))
    lives.old("A")
    lives.symbols += [
        {"symbol": "NEVER", "active": True},
        {"symbol": "OLD", "active": False},
        {"symbol": "SOON", "active": True, "listed": date_of(lives.span, 23)},
    ]
    found = report_of(lives, lives.cells)
    assert found.quiet == [Quiet("NEVER", None, 25)]


def test_active_is_what_is_listed_and_not_yet_delisted():
    def on(day: str) -> list[str]:
        table = rows(
            [
                {"symbol": "A", "active": True, "listed": np.datetime64("2024-01-05").item()},
                {"symbol": "B", "active": True, "delisted": np.datetime64("2024-01-05").item()},
                {"symbol": "C", "active": None},
            ],
            SYMBOLS,
        )
        return active_at(table, int(np.datetime64(day, "D").astype(int))).to_pylist()

    assert on("2024-01-04") == ["B"]
    assert on("2024-01-05") == ["A"]
    assert isinstance(active_at(rows([], SYMBOLS), 0), pa.Array)
