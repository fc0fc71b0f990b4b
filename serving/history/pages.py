"""A page of an answer: of many symbols the first rows of the order, reading few more than that."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fibflow.serving.history.sources import Source, order_of
from fibflow.transforms.schemas import BARS

#: How many times more symbols are read at once than the step before.
_GROWTH = 8

Ends = Callable[[str, int | None, int | None, int, bool], pa.Table]


@dataclass(frozen=True)
class Range:
    """What a page is taken from.

    Attributes:
        start, end: bounds of ``ts``, UTC microseconds.
        descending: of each symbol the newest first.
        after: go on behind this (symbol, ts).
    """

    start: int | None
    end: int | None
    descending: bool
    after: tuple[str, int] | None = None

    def of_first(self) -> tuple[int | None, int | None]:
        """Return the bounds for the symbol in which the page before ended."""
        assert self.after is not None
        ts = self.after[1]
        if self.descending:
            return self.start, ts if self.end is None else min(ts, self.end)
        return ts + 1 if self.start is None else max(ts + 1, self.start), self.end


def page_of(
    source: Source, symbols: Sequence[str] | None, asked: Range, n: int, ends: Ends | None = None
) -> tuple[pa.Table, list[str]]:
    """Return the first ``n`` rows of the order, and the symbols that were looked at and have none of them.

    Args:
        source: of the bars.
        symbols: sorted; None for all at once, where the range is short.
        asked: the range.
        n: how many rows at most.
        ends: what gives the rows of one symbol at an end of a range: by default the source's. With another
            one symbols are read one by one.
    """
    if symbols is None:
        return _of_all(source, asked, n), []
    if asked.after is not None:
        symbols = symbols[bisect_left(symbols, asked.after[0]) :]
    parts: list[pa.Table] = []
    got, at, step = 0, 0, 1
    while at < len(symbols) and got < n:
        some = symbols[at : at + step]
        start, end = asked.start, asked.end
        if asked.after is not None and some[0] == asked.after[0]:
            some = some[:1]
            start, end = asked.of_first()
        if len(some) == 1 or ends is not None:
            some = some[:1]
            rows = (ends or source.ends)(some[0], start, end, n - got, not asked.descending)
            rows = reversed_rows(rows) if asked.descending else rows
        else:
            rows = source.between(some, start, end)
            rows = rows.take(order_of(rows, asked.descending))
        parts.append(rows)
        got += len(rows)
        at += len(some)
        # As many symbols as about fill the page, if those to come are like these.
        each = max(1, len(rows) // len(some))
        step = max(1, min(len(some) * _GROWTH, (n - got) // each + 1))
    if len(symbols) == 1 and len(parts) == 1:
        return parts[0], [] if got else list(symbols)
    rows = pa.concat_tables(parts).slice(0, n) if parts else BARS.empty_table()
    looked = symbols[:at]
    if got > n or (got == n and at < len(symbols)):
        # Of the last one only some rows are there.
        looked = looked[: bisect_right(looked, rows["symbol"][-1].as_py())]
    have = set(rows["symbol"].unique().to_pylist())
    return rows, [name for name in looked if name not in have]


def _of_all(source: Source, asked: Range, n: int) -> pa.Table:
    rows = source.between(None, asked.start, asked.end)
    rows = rows.take(order_of(rows, asked.descending)) if asked.descending else rows
    if asked.after is not None:
        symbol, ts = asked.after
        name: Any = pa.scalar(symbol)
        stamp: Any = pa.scalar(ts)
        stamps: Any = rows["ts"].cast(pa.int64())
        beyond: Any = pc.less(stamps, stamp) if asked.descending else pc.greater(stamps, stamp)
        here: Any = pc.equal(rows["symbol"], name)
        later: Any = pc.greater(rows["symbol"], name)
        rows = rows.filter(pc.or_(later, pc.and_(here, beyond)))
    return rows.slice(0, n)


def reversed_rows(rows: pa.Table) -> pa.Table:
    """Return rows from the last to the first."""
    return rows.take(pa.array(np.arange(len(rows) - 1, -1, -1))) if len(rows) > 1 else rows
