"""Where a range of bars of several sessions begins."""

from __future__ import annotations

import numpy as np
import pytest

from fibflow.serving.compat.source import window_start
from fibflow.transforms.calendar import load_calendar

XNYS = load_calendar("XNYS")


@pytest.mark.parametrize("sessions", [2, 3, 34])
def test_a_window_begins_with_its_first_session(sessions):
    for position in (0, 1, XNYS.origin - 1, XNYS.origin, XNYS.origin + 40, len(XNYS) - 1):
        first = position
        while (first - XNYS.origin) % sessions:
            first -= 1
        begin = int(XNYS.day_starts[max(first, 0)])
        opens, ends = int(XNYS.day_starts[position]), int(XNYS.day_ends[position])
        for instant in (opens, (opens + ends) // 2, ends - 1):
            assert window_start(XNYS, sessions, instant) == begin


def test_between_two_sessions_it_is_the_next_ones_window_or_the_instant():
    gaps = np.flatnonzero(XNYS.day_starts[1:] > XNYS.day_ends[:-1])[-50:]
    for before in gaps.tolist():
        instant = int(XNYS.day_ends[before])
        following = before + 1
        first = following - (following - XNYS.origin) % 3
        inside = first <= before
        assert window_start(XNYS, 3, instant) == (int(XNYS.day_starts[first]) if inside else instant)


def test_outside_of_all_sessions_it_is_the_instant():
    late, early = int(XNYS.day_ends[-1]), int(XNYS.day_starts[0]) - 1
    assert window_start(XNYS, 5, late) == late
    assert window_start(XNYS, 5, early) == early
