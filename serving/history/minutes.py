"""Bars of minutes and hours, computed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fibflow.io import tables
from fibflow.io.coverage import stretches
from fibflow.serving.history.derived import VALUES, Derived, by_symbol_and, ints, table_of
from fibflow.serving.history.sources import NEVER, column_max, column_min, rows_of_files, timeframes_in
from fibflow.serving.problems import bad_request
from fibflow.transforms.bars import BarSpec, minute_bars
from fibflow.transforms.timeframe import IntradayAnchor

Int64 = npt.NDArray[np.int64]

#: How many rows of minutes a session has about, of one symbol.
_REGULAR_MINUTES = 390


@dataclass(frozen=True)
class Minutes(Derived):
    """Bars of minutes and hours.

    Attributes:
        anchor: ``midnight`` or ``open``.
    """

    anchor: IntradayAnchor = IntradayAnchor.MIDNIGHT
    anchored: bool = True

    @property
    def history(self) -> Any:
        """``bronze.minutes``."""
        return self.found.minutes

    @property
    def finer(self) -> str:
        """The stream's minutes."""
        return "1m"

    @cached_property
    def own(self) -> bool:
        """Whether the stream has the timeframe, and history has some of it."""
        return self.anchored and self.timeframe.name in timeframes_in(self.found.live)

    @cached_property
    def last_session(self) -> int:
        """By the table's statistics."""
        ts = column_max(self.history, "ts")
        return -1 if ts is None else int(np.searchsorted(self.calendar.day_starts, ts, side="right")) - 1

    @cached_property
    def first_session(self) -> int:
        """By the tables' statistics."""
        found = [self.history, *(self.found.view.tables if self.streams else ())]
        known = [ts for table in found if (ts := column_min(table, "ts")) is not None]
        return min(
            (int(np.searchsorted(self.calendar.day_ends, ts, side="right")) for ts in known),
            default=len(self.calendar),
        )

    @property
    def reach(self) -> int:
        """No window leaves its session."""
        return 0

    def sessions_for(self, bars: int) -> int:
        """Return so many that a symbol which trades all day has them."""
        return 1 + bars * self.timeframe.minutes // _REGULAR_MINUTES

    def official(self, symbols: Collection[str] | None, first: int, last: int) -> pa.Table:
        """Return rows of ``bronze.minutes``."""
        if self.history is None or first > last:
            return tables.MINUTES.schema.empty_table().select(["symbol", "ts", *VALUES])
        since, until = int(self.calendar.day_starts[first]), int(self.calendar.day_ends[last])
        rows, _ = self.history.read(["symbol", "ts", *VALUES], symbols, since, until)
        return rows

    def rows_of(self, bars: pa.Table, schema: pa.Schema) -> pa.Table:
        """Return ``1m`` bars as minute rows.

        Raises:
            Problem: their vwap was rounded, so that coarser ones cannot be told from them.
        """
        if self._rounded(ints(bars["ts"])) and bars["vwap"].null_count < len(bars):
            raise bad_request(
                f"{self.timeframe} is not stored, and cannot be made exactly of 1m bars that trades made, as "
                "their vwap is rounded: ask for a stored timeframe (/v1/timeframes)"
                + ("" if self.last_session < 0 else ", or for a range before them"),
                "not_exact",
            )
        return bars.select(["symbol", "ts", *VALUES]).cast(schema)

    def _rounded(self, ts: Int64) -> bool:
        """Whether any of the stream's minutes was made of trades."""
        bars, live = self.found.bars, self.found.live
        covered = self.found.view.covered(self.finer)
        if live is not None and live.properties.get(tables.BARS_FROM) != "minutes":
            inside = np.zeros(len(ts), np.bool_)
            for since, until in covered:
                inside |= (ts < until) if since is None else (ts >= since) & (ts < until)
            if not inside.all():
                return True
        ticks = () if bars is None else stretches(bars.properties, tables.OF_TICKS, self.finer)
        return any(bool(((ts >= (since or NEVER)) & (ts < until)).any()) for since, until in ticks)

    def days_of(self, rows: pa.Table) -> Int64:
        """Return the dates of the rows' sessions."""
        return self.calendar.days[self.calendar.positions_at(ints(rows["ts"]))].astype(np.int64)

    def _order(self, rows: pa.Table) -> Any:
        return by_symbol_and(rows, "ts")

    def make(
        self, rows: pa.Table, as_of: int, start: int | None, end: int | None, symbols: Collection[str] | None
    ) -> pa.Table:
        """Return the bars of minute rows."""
        spec = BarSpec(
            (self.timeframe,), self.calendar, as_of, intraday_anchor=self.anchor, start=start, end=end
        )
        return table_of(minute_bars(rows, spec))

    def weight(self, start: int | None, end: int | None) -> int:
        """Return how many rows a range's files have."""
        first, last = self._sessions(start, end)
        if first > last:
            return 0
        since, until = int(self.calendar.day_starts[first]), int(self.calendar.day_ends[last])
        return rows_of_files(self.history, since, until, None)
