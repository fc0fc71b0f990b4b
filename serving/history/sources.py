"""Where bars of one timeframe come from: one interface over stored bars and those that are computed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fibflow.io import tables
from fibflow.io.coverage import Stretches, stretches
from fibflow.io.readbars import View
from fibflow.io.snapshot import Snapshot
from fibflow.serving.history.keptsnapshot import KeptSnapshot
from fibflow.serving.history.records import SymbolRows
from fibflow.transforms.calendar import TradingCalendar
from fibflow.transforms.schemas import BARS
from fibflow.transforms.timeframe import Timeframe

#: What is known of no time at all.
NEVER = -(2**62)


class Source(Protocol):
    """Bars of one timeframe, from one version of each table. Tables have the columns of ``schemas.BARS``."""

    @property
    def stored(self) -> bool:
        """Whether bars are the lake's own."""

    def ends(self, symbol: str, start: int | None, end: int | None, n: int, first: bool) -> pa.Table:
        """Return the last ``n`` bars of a symbol with ``ts`` in ``[start, end)``, or the first, by ts."""

    def between(self, symbols: Collection[str] | None, start: int | None, end: int | None) -> pa.Table:
        """Return all bars with ``ts`` in ``[start, end)``, sorted by symbol and ts."""

    def held(self, symbols: Collection[str]) -> set[str]:
        """Return those of some symbols that have a bar, or rows to make one of, at any time."""

    def symbols(self) -> list[str]:
        """Return all symbols that have any, sorted."""

    def weight(self, start: int | None, end: int | None) -> int:
        """Return how many rows have to be looked at for all symbols in a range."""

    @property
    def known_until(self) -> int:
        """Until when windows that have no bar have none: the as-of of the data, UTC microseconds."""

    def settled_until(self, start: int | None) -> int:
        """Return until when windows from ``start`` on change by nothing but a restatement, UTC microseconds.

        Those that end up to then: no bar of them can change by policy, and none can come.
        """


def column_max(snapshot: Snapshot | None, name: str, mask: Any = None) -> int | None:
    """Return the greatest ``max.<name>`` of a table's files, as an integer; None where it is not known."""
    if snapshot is None or not len(snapshot) or f"max.{name}" not in snapshot.files.column_names:
        return None
    column = snapshot.files.column(f"max.{name}")
    kind = pa.int32() if pa.types.is_date32(column.type) else pa.int64()
    found = pc.max(column.filter(mask) if mask is not None else column)
    return None if not found.is_valid else int(found.cast(kind).as_py())


def column_min(snapshot: Snapshot | None, name: str) -> int | None:
    """Return the least ``min.<name>`` of a table's files, likewise."""
    if snapshot is None or not len(snapshot) or f"min.{name}" not in snapshot.files.column_names:
        return None
    column = snapshot.files.column(f"min.{name}")
    kind = pa.int32() if pa.types.is_date32(column.type) else pa.int64()
    found = pc.min(column)
    return None if not found.is_valid else int(found.cast(kind).as_py())


def timeframes_in(snapshot: Snapshot | None) -> frozenset[str]:
    """Return the timeframes that a table of bars has."""
    return frozenset() if snapshot is None else snapshot.timeframes


def names_in(snapshot: Snapshot, symbols: Collection[str] | None, timeframe: str | None) -> set[str]:
    """Return the symbols of a table, or those of some that it has."""
    where = None if timeframe is None else {"timeframe": timeframe}
    rows, _ = snapshot.read(["symbol"], symbols, where=where, dictionary=("symbol",))
    return {str(name) for name in rows.column("symbol").unique().to_pylist()}


def rows_of_files(snapshot: Snapshot | None, start: Any, end: Any, timeframe: str | None) -> int:
    """Return how many rows the files have that may hold rows of a range."""
    if snapshot is None:
        return 0
    where = None if timeframe is None else {"timeframe": timeframe}
    return sum(file.rows for file in snapshot.select(None, start, end, where))


@dataclass(frozen=True)
class Stored:
    """Bars as the lake has them.

    Attributes:
        view: the tables.
        timeframe: of the bars.
        calendar: of the bars.
        complete_only: without windows that have not ended.
    """

    view: View
    timeframe: Timeframe
    calendar: TradingCalendar
    complete_only: bool = False
    stored: bool = True

    def ends(self, symbol: str, start: int | None, end: int | None, n: int, first: bool) -> pa.Table:
        """Return the bars at an end of a range; see ``Source``."""
        return self.view.last(
            symbol, self.timeframe.name, n, BARS.names, self.complete_only, start, end, first
        )

    def records(
        self, symbol: str, start: int | None, end: int | None, n: int, first: bool, at_hand: bool
    ) -> SymbolRows | None:
        """Return ``ends`` as records where only ``silver.bars`` has the symbol; None where it takes more.

        ``at_hand``: None, too, where a file would have to be read.
        """
        bars = self._alone(symbol)
        if bars is None:
            return None
        return bars.records(n, symbol, self.timeframe.name, start, end, first, self.complete_only, at_hand)

    def holds(self, symbol: str) -> bool:
        """Whether ``records`` of a symbol reads no data file."""
        bars = self._alone(symbol)
        return bars is not None and bars.holds(symbol, self.timeframe.name)

    def has(self, symbol: str) -> bool:
        """Whether a symbol for which ``holds`` is true has bars."""
        bars = self._alone(symbol)
        return bars is not None and bars.has(symbol, self.timeframe.name)

    def _alone(self, symbol: str) -> KeptSnapshot | None:
        """``silver.bars`` where no other table has bars of a symbol."""
        bars, live = self.view.bars, self.view.live
        if not isinstance(bars, KeptSnapshot):
            return None
        return None if live is not None and live.may_hold(symbol, self.timeframe.name) else bars

    def between(self, symbols: Collection[str] | None, start: int | None, end: int | None) -> pa.Table:
        """Return the bars of a range."""
        return self.view.read(BARS.names, symbols, self.timeframe.name, start, end, self.complete_only)

    def held(self, symbols: Collection[str]) -> set[str]:
        """Return which symbols have bars."""
        found: set[str] = set()
        for table in self.view.tables:
            if missing := set(symbols) - found:
                found |= names_in(table, missing, self.timeframe.name)
        return found

    def symbols(self) -> list[str]:
        """Return all symbols."""
        return sorted(
            set().union(*(names_in(table, None, self.timeframe.name) for table in self.view.tables))
        )

    def weight(self, start: int | None, end: int | None) -> int:
        """Return how many rows a range's files have."""
        return sum(rows_of_files(table, start, end, self.timeframe.name) for table in self.view.tables)

    @cached_property
    def covered(self) -> Stretches:
        """The stretches in which official history alone speaks."""
        return self.view.covered(self.timeframe.name)

    @cached_property
    def known_until(self) -> int:
        """The end of the newest window that has ended, or the beginning of one that is open."""
        known = [until for _, until in self.covered]
        for table in self.view.tables:
            own: Any = of_timeframe(table, self.timeframe.name)
            begun = column_max(table, "ts", own)
            known += [] if begun is None else [begun + 1]
            if table is self.view.bars and "min.complete" in table.files.column_names:
                # Open windows lie in files apart.
                ended: Any = table.files.column("min.complete").combine_chunks()
                own = pc.and_(own, pc.fill_null(ended, True))
            end = column_max(table, "end", own)
            known += [] if end is None else [end]
        return max(known, default=NEVER)

    def settled_until(self, start: int | None) -> int:
        """Return the end of what batch has made of official history, without its newest session."""
        if self.view.bars is None:
            return NEVER
        until = NEVER if self.view.live is not None else self.known_until
        for since, end in self.covered:
            if since is None or (start is not None and since <= start):
                until = max(until, end)
        # What ticks made, official minutes make anew.
        ticks = stretches(self.view.bars.properties, tables.OF_TICKS, self.timeframe.name)
        for since, end in ticks:
            if start is None or end > start:
                until = min(until, NEVER if since is None else since)
        return session_before(self.calendar, until)


def of_timeframe(table: Snapshot, timeframe: str) -> Any:
    """Return which files of a table of bars are of a timeframe."""
    column: Any = table.files.column("partition.timeframe").combine_chunks()
    return pc.is_in(column, value_set=pa.array([timeframe]))


def session_before(calendar: TradingCalendar, until: int) -> int:
    """Return the end of the last session but one up to an instant: the newest may still be landing."""
    at = int(np.searchsorted(calendar.day_ends, until, side="right")) - 2
    return int(calendar.day_ends[at]) if at >= 0 else NEVER


def sorted_bars(bars: pa.Table) -> pa.Table:
    """Bars by symbol and ts."""
    return bars.take(order_of(bars, False))


def order_of(bars: pa.Table, descending: bool) -> Any:
    """Return the order of bars by symbol, and by ts up or down."""
    return pc.sort_indices(
        pa.table({"symbol": ranks_of(bars["symbol"]), "ts": bars["ts"].cast(pa.int64())}),
        sort_keys=[("symbol", "ascending"), ("ts", "descending" if descending else "ascending")],
    )


def ranks_of(symbols: Any) -> Any:
    """Return each symbol's place in their order: texts sort slowly."""
    words: Any = symbols.combine_chunks()
    words = words if pa.types.is_dictionary(words.type) else words.dictionary_encode()
    words = words.chunk(0) if isinstance(words, pa.ChunkedArray) else words
    return pc.rank(words.dictionary, sort_keys="ascending", tiebreaker="dense").take(words.indices)
