"""Bars of ``1d`` and ``<N>d``, computed."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fibflow.io import tables
from fibflow.serving.history.derived import TICKS, VALUES, Derived, by_symbol_and, ints, table_of
from fibflow.serving.history.keptsnapshot import KeptSnapshot
from fibflow.serving.history.sources import column_max, column_min, rows_of_files, timeframes_in
from fibflow.transforms.bars import BarSpec, daily_bars
from fibflow.transforms.calendar import NO_SESSION
from fibflow.transforms.partials import as_arrow
from fibflow.transforms.schemas import BARS
from fibflow.transforms.timeframe import Anchor

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Days(Derived):
    """Bars of ``1d`` and ``<N>d``.

    Attributes:
        anchor: ``exchange`` or ``listing``.
        listed: the first session of symbols, by position, as far as known; shared by questions to one
            version.
    """

    anchor: Anchor = Anchor.EXCHANGE
    anchored: bool = True
    listed: dict[str, int] = field(default_factory=dict)

    @property
    def history(self) -> Any:
        """``bronze.daily``."""
        return self.found.daily

    @property
    def finer(self) -> str:
        """The stream's days."""
        return "1d"

    @cached_property
    def own(self) -> bool:
        """Whether the stream has the timeframe."""
        return self.anchored and self.timeframe.name in timeframes_in(self.found.live)

    @cached_property
    def last_session(self) -> int:
        """By the table's statistics."""
        day = column_max(self.history, "session")
        return -1 if day is None else self.calendar.position_on_or_before(day)

    @cached_property
    def first_session(self) -> int:
        """By the tables' statistics."""
        day = column_min(self.history, "session")
        known = [] if day is None else [int(np.searchsorted(self.calendar.days, day))]
        for table in self.found.view.tables if self.streams else ():
            ts = column_min(table, "ts")
            known += [] if ts is None else [int(np.searchsorted(self.calendar.day_ends, ts, side="right"))]
        return min(known, default=len(self.calendar))

    @property
    def reach(self) -> int:
        """All sessions of a window but one."""
        return self.timeframe.sessions - 1

    def sessions_for(self, bars: int) -> int:
        """Return whole windows, and one for the range's ends."""
        return (bars + 1) * self.timeframe.sessions

    def official(self, symbols: Collection[str] | None, first: int, last: int) -> pa.Table:
        """Return rows of ``bronze.daily``."""
        if self.history is None or first > last:
            return tables.DAILY.schema.empty_table().select(["symbol", "session", *VALUES])
        days = self.calendar.days
        rows, _ = self.history.read(
            ["symbol", "session", *VALUES], symbols, int(days[first]), int(days[last]) + 1
        )
        return rows

    def ends(self, symbol: str, start: int | None, end: int | None, n: int, first: bool) -> pa.Table:
        """Return the bars at an end of a range; of official rows alone the last ones by one reading."""
        low, high = self._sessions(start, end)
        plain = not (first or self.streams or self.own) and low <= high
        if not plain or not isinstance(self.history, KeptSnapshot):
            return super().ends(symbol, start, end, n, first)
        # So many rows hold so many windows and a part of one; an open one may be left out.
        enough = (n + 2) * self.timeframe.sessions
        stop = int(self.calendar.days[high]) + 1
        found = self.history.records(enough, symbol, None, None, stop)
        if found is None:
            return super().ends(symbol, start, end, n, first)
        if not len(found):
            return BARS.empty_table()
        schema = pa.schema([tables.DAILY.schema.field(name) for name in ("symbol", "session", *VALUES)])
        rows = found.table(schema)
        days = self.days_of(rows)
        positions = self.calendar.positions(days)
        if (positions == NO_SESSION).any():
            # The calendar has lost a session: its rows make no bar, so that more have to be read.
            return super().ends(symbol, start, end, n, first)
        if self.factors:
            rows = self.factors.scaled(rows, days)
        since = start
        if len(found) == enough:
            whole = int(self.calendar.day_starts[positions[0]])
            since = whole if start is None else max(start, whole)
        bars = self._of_rows(rows, BARS.empty_table().select(TICKS), [symbol], high, since, end)
        return bars.slice(max(0, len(bars) - n))

    def rows_of(self, bars: pa.Table, schema: pa.Schema) -> pa.Table:
        """Return ``1d`` bars as daily rows."""
        days = self.calendar.days[self.calendar.positions_at(ints(bars["ts"]))]
        session = as_arrow(days.astype(np.int32)).view(pa.date32())
        columns = [bars["symbol"], session, *(bars[name] for name in VALUES)]
        return pa.table(columns, names=schema.names).cast(schema)

    def days_of(self, rows: pa.Table) -> Int64:
        """Return the rows' dates."""
        return ints(rows["session"]).astype(np.int64)

    def _order(self, rows: pa.Table) -> Any:
        return by_symbol_and(rows, "session")

    def make(
        self, rows: pa.Table, as_of: int, start: int | None, end: int | None, symbols: Collection[str] | None
    ) -> pa.Table:
        """Return the bars of daily rows."""
        bases = self._bases(rows) if self.anchor is Anchor.LISTING and self.reach else {}
        spec = BarSpec(
            (self.timeframe,), self.calendar, as_of, self.anchor, start=start, end=end, bases=bases
        )
        return table_of(daily_bars(rows, spec))

    def _bases(self, rows: pa.Table) -> dict[str, int]:
        """The first session of each symbol of the rows, by position."""
        names = [str(name) for name in rows["symbol"].unique().to_pylist()]
        missing = [name for name in names if name not in self.listed]
        if missing:
            firsts: dict[str, int] = {}
            # The stream's days come after all official ones.
            for part in self._firsts(missing):
                for name, day in zip(
                    part["symbol"].to_pylist(), ints(part["session_min"]).tolist(), strict=True
                ):
                    firsts.setdefault(str(name), int(np.searchsorted(self.calendar.days, day)))
            self.listed.update(firsts)
        return {name: self.listed[name] for name in names}

    def _firsts(self, symbols: Sequence[str]) -> Iterator[pa.Table]:
        if self.history is not None:
            rows, _ = self.history.read(["symbol", "session"], symbols)
            yield _first_days(rows)
        moving = self._ticks(symbols, self.last_session + 1, self.newest)
        if len(moving):
            schema = tables.DAILY.schema
            yield _first_days(
                self.rows_of(moving, pa.schema([schema.field(n) for n in ("symbol", "session", *VALUES)]))
            )

    def weight(self, start: int | None, end: int | None) -> int:
        """Return how many rows a range's files have."""
        first, last = self._sessions(start, end)
        if first > last:
            return 0
        days = self.calendar.days
        return rows_of_files(self.history, int(days[first]), int(days[last]) + 1, None)


def _first_days(rows: pa.Table) -> pa.Table:
    days = rows["session"].cast(pa.int32())
    return (
        pa.table({"symbol": rows["symbol"], "session": days})
        .group_by("symbol")
        .aggregate([("session", "min")])
    )
