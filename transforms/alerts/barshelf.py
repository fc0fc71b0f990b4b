"""The last closed bars of a bucket's series, a series being a symbol's bars of one timeframe.

All lie in one array of ``ROW``, a series in one piece of it, in order of time and with room behind it, so
that a batch of bars goes in, and operands come out, without a loop over series.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fibflow.transforms.alerts.barterm import FIELDS
from fibflow.transforms.alerts.groups import ranges, run_starts
from fibflow.transforms.alerts.schema import NEVER
from fibflow.transforms.calendar import TradingCalendar
from fibflow.transforms.partials import numbers

Bool = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]
Rows = npt.NDArray[np.void]

#: Where a bar comes from: read from the lake, told by the stream, told by it first and in order.
SEED, TOLD, FIRST = range(3)
#: A bar as it is kept. ``day``: of its last session, days since 1970; ``values``: by ``FIELDS``, NaN for
#: null.
ROW = np.dtype(
    [
        ("series", "<i4"),
        ("ts", "<i8"),
        ("end", "<i8"),
        ("day", "<i4"),
        ("revision", "<i4"),
        ("rank", "i1"),
        ("values", "<f8", (len(FIELDS),)),
    ]
)


def days_of(ends: Int64, calendar: TradingCalendar) -> npt.NDArray[np.int32]:
    """Return the day of the last session before each instant (days since 1970), shape (n,)."""
    position = np.searchsorted(calendar.day_starts, ends, side="left") - 1
    return calendar.days[np.maximum(position, 0)]


def rows_of(bars: pa.Table, series: npt.NDArray[Any], calendar: TradingCalendar) -> Rows:
    """Return bars as rows of ``ROW``.

    Args:
        bars: with the columns of ``partials.BAR_BATCH``.
        series: of each bar, shape (n,).
        calendar: the exchange's.
    """
    rows = np.zeros(len(bars), ROW)
    rows["series"] = series
    for name in ("ts", "end", "revision"):
        rows[name] = numbers(bars, name)
    rows["day"] = days_of(rows["end"], calendar)
    for place, name in enumerate(FIELDS):
        column: Any = bars[name]
        rows["values"][:, place] = column.cast(pa.float64()).to_numpy()
    return rows


class Shelf:
    """The kept bars.

    Attributes:
        flat: all of them, of ``ROW``.
        start, count: where the bars of each series lie in ``flat``; shape (series,).
        keep: how many are to be kept of each; 0: the series is not wanted.
        mark, mark_end: ``ts`` and ``end`` of the newest bar that was told first and in order; ``NEVER``
            before.
    """

    def __init__(self) -> None:
        self.flat: Rows = np.zeros(0, ROW)
        self.start = self._none()
        self.count = self._none()
        self.keep = self._none()
        self._room = self._none()
        self.mark = self._none()
        self.mark_end = self._none()

    @staticmethod
    def _none() -> Int64:
        return np.zeros(0, np.int64)

    def widen(self, series: int) -> None:
        """Make room for so many series in all."""
        more = series - len(self.start)
        if more > 0:
            for name in ("start", "count", "keep", "_room"):
                setattr(self, name, np.concatenate((getattr(self, name), np.zeros(more, np.int64))))
            for name in ("mark", "mark_end"):
                setattr(self, name, np.concatenate((getattr(self, name), np.full(more, NEVER))))

    # --- looking up -----------------------------------------------------------------------------------------

    def find(self, series: npt.NDArray[Any], instants: Int64, name: str, after: bool = False) -> Int64:
        """Return the place in ``flat`` of the first bar of each series that is not before an instant.

        Args:
            series: shape (n,).
            instants: shape (n,).
            name: ``ts`` or ``end``: what is held against the instant.
            after: of the first bar that is later than it.

        Returns:
            Shape (n,); the place behind the last bar where there is none.
        """
        low = self.start[series]
        high = low + self.count[series]
        column, last = self.flat[name], max(len(self.flat) - 1, 0)
        for _ in range(int(self.count[series].max(initial=0)).bit_length()):
            middle = (low + high) >> 1
            value = column[np.minimum(middle, last)]
            below = (low < high) & ((value <= instants) if after else (value < instants))
            high = np.where(below, high, np.minimum(middle, high))
            low = np.where(below, middle + 1, low)
        return low

    def is_there(self, rows: Rows) -> tuple[Int64, Bool]:
        """Return where the bar of each row lies or belongs in ``flat``, and whether it is there."""
        series = rows["series"]
        at = self.find(series, rows["ts"], "ts")
        there = at < self.start[series] + self.count[series]
        there[there] = self.flat["ts"][at[there]] == rows["ts"][there]
        return at, there

    def is_stale(self, rows: Rows) -> Bool:
        """Return which rows tell nothing new: what the stream told of a bar counts by its revision."""
        at, there = self.is_there(rows)
        stale = np.zeros(len(rows), np.bool_)
        known = self.flat[at[there]]
        stale[there] = (known["rank"] != SEED) & (known["revision"] >= rows["revision"][there])
        return stale

    # --- putting in -----------------------------------------------------------------------------------------

    def put(self, rows: Rows) -> tuple[Rows, Bool]:
        """Keep rows, one a series, that tell something new.

        Returns:
            Those that are kept, with their ``rank``; and which of them are the first news of the newest bar
            of their series, shape (n,).
        """
        self._make_room(rows["series"])
        rows = rows[~self.is_stale(rows)]
        series = rows["series"]
        at, there = self.is_there(rows)
        first = (rows["revision"] == 0) & (rows["ts"] > self.mark[series])
        rows["rank"] = np.where(first, FIRST, TOLD)
        rows["rank"][there] = np.maximum(rows["rank"][there], self.flat["rank"][at[there]])
        self.flat[at[there]] = rows[there]
        behind = ~there & (at == self.start[series] + self.count[series])
        self.flat[at[behind]] = rows[behind]
        self.count[series[behind]] += 1
        # A bar between others: rare, of a symbol whose trade came late.
        for row in np.flatnonzero(~there & ~behind).tolist():
            own, place = series[row], at[row]
            stop = self.start[own] + self.count[own]
            self.flat[place + 1 : stop + 1] = self.flat[place:stop].copy()
            self.flat[place] = rows[row]
            self.count[own] += 1
        self._set_marks(rows[first])
        return rows, first

    def seed(self, rows: Rows) -> Rows:
        """Keep bars read from the lake, where the stream has not told of them; return those that are kept."""
        rows["rank"] = SEED
        at, there = self.is_there(rows)
        told = np.zeros(len(rows), np.bool_)
        told[there] = self.flat["rank"][at[there]] != SEED
        kept = rows[~told]
        self.merge(kept)
        return kept

    def merge(self, rows: Rows) -> None:
        """Keep rows, several of a series; of two of one bar the later one counts, over what is there too."""
        both = np.concatenate((self.rows(), rows))
        order = np.lexsort((np.arange(len(both)), both["ts"], both["series"]))
        both = both[order]
        same = (both["series"][1:] == both["series"][:-1]) & (both["ts"][1:] == both["ts"][:-1])
        self._lay(both[~np.append(same, np.zeros(min(len(both), 1), np.bool_))])
        self._set_marks(rows[rows["rank"] == FIRST])

    def _set_marks(self, rows: Rows) -> None:
        np.maximum.at(self.mark, rows["series"], rows["ts"])
        np.maximum.at(self.mark_end, rows["series"], rows["end"])

    # --- room -----------------------------------------------------------------------------------------------

    def rows(self) -> Rows:
        """Return all bars, by series and time."""
        return self.flat[ranges(self.start, self.count)]

    def trim(self) -> None:
        """Forget bars beyond those that are to be kept, and series that are not wanted."""
        unwanted = self.keep == 0
        self.count[unwanted] = 0
        self.mark[unwanted] = self.mark_end[unwanted] = NEVER
        every = np.arange(len(self.start))
        self._drop(every, self._excess(every))
        self._lay(self.rows())

    def _excess(self, series: Int64) -> Int64:
        """Return how many of the oldest bars of each series are not to be kept."""
        mark = self.mark[series]
        newest = np.where(mark == NEVER, self.count[series], 0)
        marked = mark != NEVER
        newest[marked] = (
            self.find(series[marked], mark[marked], "ts", after=True) - self.start[series[marked]]
        )
        return np.maximum(newest - self.keep[series], 0)

    def _drop(self, series: Int64, counts: Int64) -> None:
        """Drop the oldest bars of series, and move the others to the front."""
        kept = self.count[series] - counts
        moved = ranges(self.start[series] + counts, kept)
        self.flat[ranges(self.start[series], kept)] = self.flat[moved]
        self.count[series] = kept

    def _make_room(self, series: npt.NDArray[Any]) -> None:
        """Make room for one more bar of each series."""
        full = series[self.count[series] >= self._room[series]].astype(np.int64)
        if len(full):
            self._drop(full, self._excess(full))
            if (self.count[full] >= self._room[full]).any():
                self._lay(self.rows(), full)

    def _lay(self, rows: Rows, more: Int64 | None = None) -> None:
        """Lay all bars out anew, each series with room for as many as are kept, and some."""
        self.count = np.zeros(len(self.start), np.int64)
        starts = run_starts(rows["series"])
        self.count[rows["series"][starts]] = np.diff(np.append(starts, len(rows)))
        self._room = np.where((self.count > 0) | (self.keep > 0), 2 * np.maximum(self.keep, 2) + 4, 0)
        self._room = np.maximum(self._room, self.count)
        if more is not None:
            self._room[more] = np.maximum(self._room[more], 2 * self.count[more] + 4)
        self.start = np.cumsum(self._room) - self._room
        self.flat = np.zeros(int(self._room.sum()), ROW)
        self.flat[ranges(self.start, self.count)] = rows
