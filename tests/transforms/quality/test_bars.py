"""Bars that cannot be."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from fibflow.tests.transforms.quality.worlds import (
    MINUTE,
    NOW,
    QUIET,
    Lives,
    day_rows,
    minute_rows,
    report_of,
    span_until,
)
from fibflow.transforms.quality.assess import assess
from fibflow.transforms.quality.bars import KEPT, RULES, broken
from fibflow.transforms.quality.evidence import LIVE, MADE, OFFICIAL, Evidence
from fibflow.transforms.quality.report import QualityReport

SPAN = span_until("2024-12-03", window=3, before=4)
NAN = float("nan")


def looked(**prices: float | None) -> dict[str, bool]:
    """The rules that a bar breaks."""
    values = {"open": 10.0, "high": 11.0, "low": 9.0, "close": 10.5, "volume": 1.0, **prices}
    table = pa.table({name: pa.array([value], pa.float64()) for name, value in values.items()})
    return {rule: True for rule, mask in broken(table).items() if mask[0]}


@pytest.mark.parametrize(
    ("prices", "rule"),
    [
        ({}, None),
        ({"volume": 0.0}, None),
        ({"open": 9.0, "close": 11.0}, None),
        ({"high": 8.0}, "high_below_low"),
        ({"open": 11.1}, "outside_high_low"),
        ({"open": 8.9}, "outside_high_low"),
        ({"close": 11.1}, "outside_high_low"),
        ({"close": 8.9}, "outside_high_low"),
        ({"low": None}, "no_price"),
        ({"high": NAN}, "no_price"),
        ({"high": float("inf")}, "no_price"),
        ({"open": 0.0, "low": 0.0}, "no_price"),
        ({"low": -1.0}, "no_price"),
        ({"volume": -1.0}, "no_volume"),
        ({"volume": None}, "no_volume"),
        ({"volume": float("inf")}, "no_volume"),
    ],
)
def test_a_bar_breaks_one_rule(prices, rule):
    assert list(looked(**prices)) == ([] if rule is None else [rule])
    assert rule is None or rule in RULES


def assessed(seen: Evidence) -> QualityReport:
    return assess(seen, Lives(SPAN).told(), QUIET, has_days=True, now=NOW)


def test_broken_bars_are_counted_by_table_and_session():
    seen = Evidence(SPAN, 2)
    cells = {(symbol, place) for symbol in "AB" for place in range(7)}
    seen.see_days(day_rows(SPAN, cells, {"high": 1.0}))
    seen.see_minutes(OFFICIAL, minute_rows(SPAN, {("A", 5, 0), ("A", 5, 1), ("B", 6, -90)}, {"volume": -1.0}))
    seen.see_minutes(MADE, minute_rows(SPAN, {("A", 4, 7)}))
    bars = minute_rows(SPAN, {("A", 6, 0)}, {"close": 12.0})
    seen.see_bars(LIVE, bars.append_column("timeframe", pa.array(["5m"])))
    found = assessed(seen)
    # Days before the window are not looked at.
    assert found.broken == {
        ("bronze.daily", "1d", "high_below_low"): 6,
        ("bronze.minutes", "1m", "no_volume"): 3,
        ("silver.live", "5m", "outside_high_low"): 1,
    }
    assert [row.broken for row in found.rows] == [2, 4, 4]
    assert ("bronze.minutes", "1m", "no_volume", "B", int(SPAN.opens[6]) - 90 * MINUTE) in found.broken_bars
    assert found.found


def test_a_day_that_is_there_twice_is_told():
    seen = Evidence(SPAN, 2)
    rows = day_rows(SPAN, {("A", place) for place in range(7)})
    seen.see_days(pa.concat_tables([rows, rows.slice(0, 1), rows.slice(5, 1)]))
    assert assessed(seen).broken == {("bronze.daily", "1d", "twice"): 1}


def test_only_some_are_kept():
    seen = Evidence(SPAN, 2)
    many = {("A", 5, minute) for minute in range(KEPT + 50)}
    seen.see_minutes(OFFICIAL, minute_rows(SPAN, many, {"volume": -1.0}))
    found = assessed(seen)
    assert sum(found.broken.values()) == KEPT + 50
    assert len(found.broken_bars) == KEPT


@pytest.mark.parametrize(
    ("day", "rules"),
    [
        ({"volume": 400.0}, []),
        ({"volume": 438.0}, []),
        ({"volume": 480.0}, ["volume_of_minutes"]),
        ({"volume": 350.0}, ["volume_of_minutes"]),
        ({"volume": 400.0, "high": 10.95}, []),
        ({"volume": 400.0, "high": 10.8}, ["range_of_minutes"]),
        ({"volume": 400.0, "low": 9.2}, ["range_of_minutes"]),
        ({"volume": 400.0, "high": 99.0, "low": 1.0}, []),
    ],
)
def test_a_day_is_held_against_its_minutes(day, rules):
    """Four minutes of 100 shares, one of them in extended hours; official minutes go before others."""
    seen = Evidence(SPAN, 2)
    minutes = [minute_rows(SPAN, {("A", 6, minute) for minute in range(3)})]
    minutes.append(minute_rows(SPAN, {("A", 6, -5)}, {"high": 50.0}))
    for part in minutes:
        seen.see_minutes(OFFICIAL, part)
    seen.see_minutes(MADE, minute_rows(SPAN, {("A", 6, 0)}, {"volume": 9e9, "high": 90.0}))
    # B has no minutes, C no day.
    seen.see_minutes(MADE, minute_rows(SPAN, {("C", 6, 0)}))
    seen.see_days(day_rows(SPAN, {("A", 6), ("B", 6)}, day))
    seen.compare_days()
    found = assessed(seen)
    assert [rule for _, _, rule in found.broken] == rules
    if rules:
        assert [(bar.symbol, bar.ts) for bar in found.broken_bars] == [("A", SPAN.start(6))]


def test_bars_of_the_stream_stand_in_for_official_minutes():
    seen = Evidence(SPAN, 2)
    seen.see_minutes(MADE, minute_rows(SPAN, {("A", 6, minute) for minute in range(3)}))
    seen.see_days(day_rows(SPAN, {("A", 6)}, {"volume": 900.0}))
    seen.compare_days()
    assert assessed(seen).broken == {("bronze.daily", "1d", "volume_of_minutes"): 1}


def test_nothing_seen_is_nothing_found():
    seen = Evidence(SPAN, 2)
    seen.see_days(day_rows(SPAN, set()))
    seen.compare_days()
    found = assessed(seen)
    assert not found.found
    assert found.symbols == 0
    assert np.array_equal([row.symbols for row in found.rows], [0, 0, 0])


def test_a_full_lake_has_nothing():
    lives = Lives(SPAN)
    lives.old("A")
    assert not report_of(lives, lives.cells, before=2).found
