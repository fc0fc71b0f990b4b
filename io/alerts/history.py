"""The bars of a lake that were before a job's own, for alerts on bars."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from fibflow.io import tables
from fibflow.io.lake import Lake
from fibflow.io.readbars import LakeReader
from fibflow.io.storage import LakeError
from fibflow.transforms.alerts.groups import run_starts
from fibflow.transforms.bars import BarSpec, daily_bars
from fibflow.transforms.calendar import TradingCalendar
from fibflow.transforms.partials import BAR_BATCH, as_arrow, numbers
from fibflow.transforms.schemas import BARS, DAILY_ROWS
from fibflow.transforms.timeframe import Timeframe

# The stubs know too few types of columns.
pc: Any = pyarrow.compute

_SESSION_MINUTES = 390
#: Of symbols that have too few bars in as many sessions as hold enough, these times as many are looked at.
_WIDER = (1, 8, 64)
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class BarHistory:
    """Reads the last bars of symbols, as ``barkernel.Reader``. Nothing is kept; pickled with the job.

    They are those of ``LakeReader``; of sessions that ``bronze.daily`` holds they are made of its rows.
    Of a symbol that hardly ever trades there may be fewer than are asked for.

    Attributes:
        lake: that the job writes, or another.
        calendar: of the job's bars, which count sessions as the exchange does.
    """

    lake: Lake
    calendar: TradingCalendar

    def __call__(self, symbols: Sequence[str], timeframe: str, end: int, count: int) -> pa.Table | None:
        """Return bars of ``BAR_BATCH``; None where the lake cannot be read now, which is logged."""
        try:
            return self._last(list(symbols), Timeframe.parse(timeframe), end, count)
        except LakeError as error:
            _LOG.warning("bars before those of the stream were not read, and are asked for again: %s", error)
            return None

    def _last(self, symbols: list[str], timeframe: Timeframe, end: int, count: int) -> pa.Table:
        last = int(np.searchsorted(self.calendar.day_starts, end, side="right")) - 1
        of_session = max(1, _SESSION_MINUTES // timeframe.minutes) if timeframe.is_intraday else 1
        # One more: the last session, or window, may have just begun.
        needed = (-(-count // of_session) + 1) * max(1, timeframe.sessions)
        parts: list[pa.Table] = []
        for wider in _WIDER:
            first = max(0, last + 1 - needed * wider)
            bars = self._between(symbols, timeframe, first, last, end)
            counted: Any = bars["symbol"].value_counts()
            counts = {each["values"]: each["counts"] for each in counted.to_pylist()}
            lacking = [symbol for symbol in symbols if counts.get(symbol, 0) < count]
            if not lacking or not first or wider == _WIDER[-1]:
                parts.append(bars)
                break
            parts.append(bars.filter(pc.invert(_is_of(bars, lacking))))
            symbols = lacking
        return _newest(pa.concat_tables(parts), count).cast(BAR_BATCH)

    def _between(self, symbols: list[str], timeframe: Timeframe, first: int, last: int, end: int) -> pa.Table:
        """Return complete bars (``BARS``) that begin in these sessions, by position, and have ended."""
        bounds = int(self.calendar.day_starts[first]), int(self.calendar.day_ends[last])
        bars = BARS.empty_table()
        if any(self.lake.table(spec).exists for spec in (tables.BARS, tables.LIVE)):
            view = LakeReader(self.lake).view()
            bars = view.read(BARS.names, symbols, timeframe.name, *bounds, complete_only=True)
        if not timeframe.is_intraday:
            official = self._official(symbols, timeframe, first, last, end)
            known = pc.is_in(_keys(bars), value_set=_keys(official).combine_chunks())
            bars = pa.concat_tables([official, bars.filter(pc.invert(known))])
        return bars.filter(as_arrow(numbers(bars, "end") <= end))

    def _official(
        self, symbols: list[str], timeframe: Timeframe, first: int, last: int, end: int
    ) -> pa.Table:
        """Return the bars of rows of ``bronze.daily``."""
        table = self.lake.table(tables.DAILY)
        if not table.exists:
            return BARS.empty_table()
        snapshot, days = table.snapshot(), self.calendar.days
        newest = pc.max(snapshot.files["max.session"].cast(pa.int32())).as_py() if len(snapshot) else None
        if newest is None:
            return BARS.empty_table()
        # A window that begins before the first session is read from its middle on, and left out.
        since = max(0, first - timeframe.sessions + 1)
        rows, _ = snapshot.read(
            DAILY_ROWS.names, symbols, int(days[since]), int(days[last]) + 1, dictionary=["symbol"]
        )
        order = pc.sort_indices(
            pa.table({"symbol": rows["symbol"].cast(pa.string()), "session": rows["session"]}),
            sort_keys=[("symbol", "ascending"), ("session", "ascending")],
        )
        told = int(self.calendar.day_ends[self.calendar.position_on_or_before(newest)])
        spec = BarSpec(
            (timeframe,),
            self.calendar,
            min(end, told),
            complete_only=True,
            start=int(self.calendar.day_starts[first]),
        )
        made = list(daily_bars(rows.take(order).combine_chunks(), spec))
        return pa.concat_tables(made).cast(BARS) if made else BARS.empty_table()


def _is_of(bars: pa.Table, symbols: list[str]) -> Any:
    return pc.is_in(bars["symbol"], value_set=pa.array(symbols, pa.string()))


def _keys(bars: pa.Table) -> Any:
    """Return what names a bar among those of one timeframe."""
    ts = bars["ts"].cast(pa.int64()).cast(pa.string())
    return pc.binary_join_element_wise(bars["symbol"], ts, "\0")


def _newest(bars: pa.Table, count: int) -> pa.Table:
    """Return the last bars of each symbol, by symbol and time."""
    order = pc.sort_indices(bars, sort_keys=[("symbol", "ascending"), ("ts", "ascending")])
    bars = bars.take(order)
    codes: Any = bars["symbol"].combine_chunks().dictionary_encode()
    codes = codes.indices.to_numpy()
    stops = np.append(run_starts(codes), len(bars))[1:]
    behind = np.repeat(stops, np.diff(np.append(0, stops))) - np.arange(len(bars))
    return bars.filter(as_arrow(behind <= count))
