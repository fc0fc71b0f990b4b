from __future__ import annotations

import numpy as np
import pytest

from fibflow.tests.transforms import oracle
from fibflow.tests.transforms.tables import calendar, ny
from fibflow.transforms.grid import Grid
from fibflow.transforms.timeframe import IntradayAnchor, TimeframeError, parse_timeframes

XNYS = calendar("XNYS")
FRAMES = parse_timeframes("5m,1h,1d")
MINUTE = 60_000_000


@pytest.mark.parametrize("anchor", IntradayAnchor)
def test_minutes_lie_where_the_oracle_says(anchor):
    grid = Grid(FRAMES, XNYS, anchor)
    of = oracle.calendar("XNYS")
    minutes = np.arange(ny("2024-07-03T00:00"), ny("2024-07-06T02:00"), 7 * MINUTE)
    for placed in (grid.place(minutes), grid.look_up(minutes), grid.look_up(minutes)):
        for at, minute in enumerate(minutes.tolist()):
            day = of.local_date(minute)
            if day not in of.index:
                assert (placed.session[at], placed.regular[at]) == (-1, False)
                assert not placed.starts[:, at].any()
                continue
            session = of.session_at(minute)
            assert XNYS.days[placed.session[at]] == (session.day - of.local_date(0)).days - 1
            assert placed.regular[at] == (session.opens <= minute < session.closes)
            windows = list(zip(placed.starts[:, at].tolist(), placed.ends[:, at].tolist(), strict=True))
            assert windows == [
                oracle.intraday_window(minute, 5, anchor, of),
                oracle.intraday_window(minute, 60, anchor, of),
                (session.start, session.end),
            ]


def test_no_minutes():
    placed = Grid(FRAMES, XNYS, IntradayAnchor.MIDNIGHT).look_up(np.zeros(0, np.int64))
    assert placed.session.shape == placed.regular.shape == (0,)
    assert placed.starts.shape == placed.ends.shape == (3, 0)


def test_what_is_remembered_stays_bounded():
    grid = Grid(FRAMES, XNYS, IntradayAnchor.MIDNIGHT)
    start = ny("2024-01-02T00:00")
    for day in range(12):
        minutes = start + np.arange(day * 1440, day * 1440 + 1440) * MINUTE
        found, expected = grid.look_up(minutes), grid.place(minutes)
        assert (found.starts == expected.starts).all()
        assert (found.session == expected.session).all()
    assert len(grid._known) <= 8192 + 1440


def test_several_sessions_are_refused():
    with pytest.raises(TimeframeError, match="timeframe 3d: bars of several sessions come with history"):
        Grid(parse_timeframes("1m,3d"), XNYS, IntradayAnchor.MIDNIGHT)
