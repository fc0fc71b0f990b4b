"""Bars that answer a question, and how the bars of a lake are made."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fibflow.serving.history.fill import with_filled
from fibflow.serving.history.query import Position
from fibflow.serving.history.records import SymbolRows
from fibflow.transforms.schemas import BARS
from fibflow.transforms.timeframe import Anchor, IntradayAnchor


@dataclass(frozen=True)
class Answer:
    """Bars.

    Attributes:
        rows: a table of ``schemas.BARS`` and ``filled``, whether a bar was made by ``fill``; by symbol, and
            by ts up or down as asked for. Or the same of one symbol as records, where none was made so.
        bars, live: the versions of ``silver.bars`` and ``silver.live`` that were read; -1 for no table.
        settled: no bar of the answer can change by policy, and none can come to its range.
        more: the limit cut the answer short.
        stored: the bars are the lake's own; else they were computed for this question.
        daily, minutes: the versions of ``bronze.daily`` and ``bronze.minutes``, likewise.
    """

    rows: pa.Table | SymbolRows
    bars: int
    live: int
    settled: bool
    more: bool
    stored: bool = True
    daily: int = -1
    minutes: int = -1

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def table(self) -> pa.Table:
        """The rows as a table."""
        return _table(self.rows) if isinstance(self.rows, SymbolRows) else self.rows

    @property
    def position(self) -> Position | None:
        """Where the next page goes on; None where this is the last one."""
        if not self.more or not len(self):
            return None
        if isinstance(self.rows, SymbolRows):
            symbol, ts = self.rows.symbol, int(self.rows.records["ts"][-1])
        else:
            symbol = self.rows["symbol"][-1].as_py()
            ts = self.rows["ts"].cast(pa.int64())[-1].as_py()
        return Position(symbol, ts, self.bars, self.live, self.daily, self.minutes)


@dataclass(frozen=True)
class Terms:
    """How the bars of a lake are made.

    Attributes:
        timeframes: that are stored, shortest first.
        anchor, intraday_anchor: of their windows.
        calendar: its name.
        price_basis: ``raw`` or ``split-adjusted``.
        bars, live: versions of ``silver.bars`` and ``silver.live``; -1 for no table.
    """

    timeframes: tuple[str, ...]
    anchor: Anchor
    intraday_anchor: IntradayAnchor
    calendar: str
    price_basis: str
    bars: int
    live: int


def _table(rows: SymbolRows) -> pa.Table:
    """Records as an answer's table."""
    return with_filled(rows.table(BARS), np.zeros(len(rows), np.bool_))


def last_end(rows: pa.Table | SymbolRows) -> int:
    """Return the end of the last of some bars, UTC microseconds."""
    if isinstance(rows, SymbolRows):
        return int(rows.records["end"][-1])
    return int(rows["end"].cast(pa.int64())[-1].as_py())


def are_final(rows: pa.Table | SymbolRows) -> bool:
    """Return whether all of some bars are final."""
    if isinstance(rows, SymbolRows):
        return bool(rows.records["final"].all())
    return bool(pc.all(rows["final"]).as_py())
