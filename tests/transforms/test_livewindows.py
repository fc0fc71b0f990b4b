from __future__ import annotations

import numpy as np
import pyarrow as pa

from fibflow.tests.transforms.tables import calendar, dicts, ny
from fibflow.transforms.grid import Grid
from fibflow.transforms.livestate import COUNT, N0, N1, N2, NO_COUNT, NO_VWAP, VOLUME, Base
from fibflow.transforms.livewindows import (
    Bars,
    Window,
    next_due,
    same_content,
    table_of,
    windows_due,
    windows_with,
)
from fibflow.transforms.partials import BAR_BATCH
from fibflow.transforms.timeframe import IntradayAnchor, parse_timeframes

MINUTE = 60_000_000
OPEN = ny("2024-07-02T09:30")
FRAMES = parse_timeframes("1m,5m")
GRID = Grid(FRAMES, calendar("XNYS"), IntradayAnchor.MIDNIGHT)
LATENESS = 15 * MINUTE


def placed(*numbers: int):
    return GRID.place(OPEN + np.array(numbers, np.int64) * MINUTE)


def spans(windows: list[Window]) -> list[tuple]:
    return [
        (each.number, (each.start - OPEN) // MINUTE, (each.end - OPEN) // MINUTE, each.first, each.stop)
        for each in windows
    ]


def test_windows_that_hold_minutes():
    where = placed(1, 2, 4, 7, 11)
    assert spans(windows_with(where, np.array([2]))) == [(0, 4, 5, 2, 3), (1, 0, 5, 0, 3)]
    assert spans(windows_with(where, np.array([1, 3]))) == [
        (0, 2, 3, 1, 2),
        (0, 7, 8, 3, 4),
        (1, 0, 5, 0, 3),
        (1, 5, 10, 3, 4),
    ]


def test_windows_that_end_or_are_final():
    where = placed(1, 7)
    base = Base.empty(2)
    base.starts[1], base.ends[1] = OPEN - 5 * MINUTE, OPEN

    def due(after: int, until: int) -> list[tuple]:
        return spans(windows_due(where, base, OPEN + after * MINUTE, OPEN + until * MINUTE, LATENESS))

    assert due(-1, 0) == [(1, -5, 0, 0, 0)]
    assert due(1, 2) == [(0, 1, 2, 0, 1)]
    assert due(4, 5) == [(1, 0, 5, 0, 1)]
    assert due(14, 17) == [(0, 1, 2, 0, 1), (1, -5, 0, 0, 0)]
    assert due(25, 99) == []
    # A window of which a part left the ring is still one.
    base.starts[1], base.ends[1] = OPEN, OPEN + 5 * MINUTE
    assert due(4, 5) == [(1, 0, 5, 0, 1)]


def test_the_next_instant_at_which_something_is_due():
    where, base = placed(1), Base.empty(2)
    ends = np.array([OPEN + 2 * MINUTE])
    clock, seen = OPEN, []
    while (due := next_due(where, ends, base, clock, LATENESS)) is not None:
        seen.append((due - OPEN) // MINUTE)
        clock = due
    assert seen == [2, 5, 17, 20]


def bars(*told: tuple[int, int, float, int, int]) -> Bars:
    """Bars of (window, symbol, price, inputs without a vwap, inputs without a count)."""
    window, symbol, price, no_vwap, no_count = (np.array(column) for column in zip(*told, strict=True))
    sums = np.zeros((7, len(told)), np.int64)
    sums[VOLUME], sums[COUNT], sums[NO_VWAP], sums[NO_COUNT] = 2_000_000, 5, no_vwap, no_count
    # Three shares' worth in words that are not carried: 2**64 + 2**64.
    sums[N2], sums[N1], sums[N0] = 0, 2**32, 0
    return Bars(window, symbol, np.tile(price, (4, 1)), sums, np.ones(len(told), np.int32))


def test_bars_as_a_table():
    windows = [Window(0, OPEN, OPEN + MINUTE, 0, 1), Window(1, OPEN, OPEN + 5 * MINUTE, 0, 1)]
    final, revision = np.array([True, False]), np.array([3, 0], np.int32)
    made = bars((0, 1, 10.0, 0, 0), (1, 0, 11.0, 1, 1))
    table = table_of(made, windows, pa.array(["A", "B"]), FRAMES, True, final, revision)
    assert table.schema.equals(BAR_BATCH)
    one, two = dicts(table)
    assert (one["symbol"], one["timeframe"], one["end"], one["close"]) == ("B", "1m", OPEN + MINUTE, 10.0)
    assert (one["volume"], one["vwap"], one["trade_count"]) == (2.0, 2**64 / 2e12, 5)
    assert (one["complete"], one["final"], one["revision"]) == (True, True, 3)
    assert (two["symbol"], two["timeframe"], two["vwap"], two["trade_count"]) == ("A", "5m", None, None)
    assert (two["final"], two["revision"]) == (False, 0)


def test_what_counts_as_a_change():
    before = bars((0, 3, 10.0, 1, 0), (0, 1, 10.0, 0, 0), (1, 3, 10.0, 0, 0), (1, 5, 9.0, 0, 1))
    after = bars(
        (0, 1, 10.0, 1, 0), (0, 3, 10.0, 1, 0), (0, 4, 10.0, 0, 0), (1, 3, 10.5, 0, 0), (1, 5, 9.0, 0, 1)
    )
    same, place = same_content(before, after)
    assert same.tolist() == [False, True, False, False, True]
    assert place.tolist() == [1, 0, -1, 2, 3]


def test_nothing_before_and_nothing_after():
    none = Bars.concat([])
    assert [part.tolist() for part in same_content(none, bars((0, 0, 1.0, 0, 0)))] == [[False], [-1]]
    assert [part.tolist() for part in same_content(none, none)] == [[], []]
