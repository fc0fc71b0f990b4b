from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fibflow.io import coverage, tables
from fibflow.transforms.calendar import load_calendar

XNYS = load_calendar()
FIRST = XNYS.position_on_or_before(19_800)


def test_properties_hold_the_stretches_of_each_timeframe():
    changed = coverage.changed({}, tables.COVERED, {"5m": ((1, 2), (5, 9)), "5d": ((None, 7),), "1h": ()})
    assert changed == {"fibflow.covered.5m": "[[1,2],[5,9]]", "fibflow.covered.5d": "[[null,7]]"}
    assert coverage.stretches(changed, tables.COVERED, "5m") == ((1, 2), (5, 9))
    assert coverage.stretches(changed, tables.COVERED, "5d") == ((None, 7),)
    assert coverage.stretches(changed, tables.OF_TICKS, "5m") == ()
    # What stays is not told again; what goes is told to be empty.
    assert coverage.changed(changed, tables.COVERED, {"5m": ((1, 2), (5, 9)), "5d": ()}) == {
        "fibflow.covered.5d": "[]"
    }


@given(st.frozensets(st.integers(0, 40)))
def test_sessions_become_stretches_and_come_back(numbers):
    positions = frozenset(FIRST + number for number in numbers)
    found = coverage.of_sessions(positions, XNYS)
    assert coverage.sessions_in(found, XNYS) == positions
    assert len(found) == len([number for number in numbers if number + 1 not in numbers])
    starts, ends = XNYS.day_starts[FIRST : FIRST + 41], XNYS.day_ends[FIRST : FIRST + 41]
    inside = [FIRST + number in positions for number in range(41)]
    assert coverage.within(found, starts, ends).tolist() == inside
    assert coverage.within(found, starts, ends + 1).tolist() == [
        here and after for here, after in zip(inside, [*inside[1:], False], strict=True)
    ]


@pytest.mark.parametrize(
    ("window", "belongs"), [((10, 20), True), ((9, 20), False), ((10, 21), False), ((30, 40), True)]
)
def test_a_window_belongs_to_a_stretch_that_holds_all_of_it(window, belongs):
    found = ((10, 20), (30, 40))
    start, end = (np.array([instant], np.int64) for instant in window)
    assert coverage.within(found, start, end).tolist() == [belongs]


def test_since_ever():
    assert coverage.within(((None, 20),), np.array([-9, 0]), np.array([20, 21])).tolist() == [True, False]
    assert coverage.sessions_in(((None, int(XNYS.day_ends[2])),), XNYS) == {0, 1, 2}
