"""Bars of weeks, months, quarters and years: daily bars folded over the calendar by the bar kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fibflow.serving.compat.spans import Span, midnights
from fibflow.transforms import accumulators as acc
from fibflow.transforms.calendar import TradingCalendar
from fibflow.transforms.partials import Rows, Runs, encode_symbols, finish, fold, numbers, run_starts
from fibflow.transforms.schemas import BARS


def fold_days(days: pa.Table, span: Span, calendar: TradingCalendar, now: int) -> pa.Table:
    """Return the bars that daily bars make.

    Args:
        days: of ``schemas.BARS`` and ``1d``, each once, sorted by symbol and ts.
        span: periods of the calendar.
        calendar: of the bars.
        now: UTC microseconds. Periods that end later are not complete.

    Returns:
        A table of ``schemas.BARS``, sorted by symbol and ts. ``ts`` and ``end`` are midnights of the
        exchange's clock; ``timeframe`` is the span. A bar is final where its period has ended and its days
        are.
    """
    if not len(days):
        return BARS.empty_table()
    symbols, codes = encode_symbols(days["symbol"])
    positions = calendar.positions_at(numbers(days, "ts"))
    period = span.periods(calendar.days[positions].astype(np.int64))
    starts = run_starts(codes, period)
    stops = np.append(starts[1:], len(days))
    rows = Rows(
        symbols=symbols,
        symbol=codes,
        **{name: numbers(days, name) for name in ("open", "high", "low", "close")},
        volume=acc.to_micro(numbers(days, "volume")),
        vwap=_optional(days, "vwap", float("nan")),
        trade_count=_optional(days, "trade_count", -1),
    )
    ts = midnights(span.first_days(period[starts]), calendar)
    end = midnights(span.first_days(period[starts] + 1), calendar)
    runs = Runs(
        starts=starts,
        chosen=None,
        first=starts,
        last=stops - 1,
        ts=ts,
        end=end,
        begins=None,
        finishes=None,
        sessions=(stops - starts).astype(np.int32),
    )
    final = np.logical_and.reduceat(np.asarray(days["final"]), starts)
    bars = finish(fold(rows, runs), span.base, (end <= now) & final)
    return bars.cast(BARS)


def _optional(table: pa.Table, name: str, missing: Any) -> Any:
    if table[name].null_count == len(table):
        return None
    return pc.fill_null(table[name], missing).to_numpy()
