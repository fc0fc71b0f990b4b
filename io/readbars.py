"""The closed bars of a lake, whoever made them: ``silver.bars`` where batch has been, ``silver.live`` after.

- A window that batch has been through (``coverage``) is what ``silver.bars`` says of it, also where that is
  nothing. Where no run has said how far it went, batch has been where it has an ended bar.
- Every other window is what ``silver.live`` says. A bar of ``silver.bars`` whose window has not ended gives
  way to it.

No Beam, no pandas.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fibflow.io import coverage, tables
from fibflow.io.bars import check_held, checked_columns, session_start, timeframes_of, where_of
from fibflow.io.datafiles import DataFile, TableSpec
from fibflow.io.lake import Lake, TableMissing, VersionMissing
from fibflow.io.rowfilter import Filter, Instant, mask_array, plain_array
from fibflow.io.snapshot import Snapshot
from fibflow.io.storage import LakeError
from fibflow.transforms.calendar import TradingCalendar, load_calendar
from fibflow.transforms.schemas import BARS

_DAY_US = 86_400_000_000
#: What both tables say of how their bars are made.
_TERMS = (tables.CALENDAR, tables.ANCHOR, tables.INTRADAY_ANCHOR, tables.PRICE_BASIS)
#: Of rows with one key the greatest counts: by where it is from, its commit, and its place in the stream.
_RANKS = ("source", "commit", "revision", "final")
_OPEN, _LIVE, _ENDED = 0, 1, 2
#: How many files of a stream are read at once at most.
_AT_ONCE = 64


@dataclass(frozen=True)
class View:
    """One version of ``silver.bars`` and one of ``silver.live``; None for a table that is not there.

    Any two versions fit: ``silver.live`` is not asked for what batch has been through, and keeps the rest.
    """

    bars: Snapshot | None
    live: Snapshot | None

    @property
    def tables(self) -> list[Snapshot]:
        """The tables that are there."""
        return [table for table in (self.bars, self.live) if table is not None]

    def covered(self, timeframe: str) -> coverage.Stretches:
        """The stretches in which ``silver.bars`` is asked alone."""
        properties = {} if self.bars is None else self.bars.properties
        return coverage.stretches(properties, tables.COVERED, timeframe)

    def read(
        self,
        columns: Sequence[str],
        symbols: str | Collection[str] | None,
        timeframe: str,
        start: Instant | None = None,
        end: Instant | None = None,
        complete_only: bool = False,
    ) -> pa.Table:
        """The bars whose ``ts`` lies in ``[start, end)``, each once, sorted by symbol and ts."""
        parts = []
        where = where_of(timeframe, complete_only)
        if self.bars is not None:
            rows, _ = self.bars.read(_needed(columns), symbols, start, end, where)
            parts.append(_ranked(rows))
        if self.live is not None:
            condition = Filter.of(self.live.spec, symbols, start, end, where)
            parts.append(self._live(self.live.located(condition), condition, columns, timeframe))
        return _settled(parts, columns)

    def last(
        self,
        symbol: str,
        timeframe: str,
        n: int,
        columns: Sequence[str],
        complete_only: bool = False,
        start: Instant | None = None,
        end: Instant | None = None,
        first: bool = False,
    ) -> pa.Table:
        """The last ``n`` bars of a symbol with ``ts`` in ``[start, end)``, or the ``first``, oldest first.

        Files are opened from that end on, as few as need be.
        """
        parts = []
        where = where_of(timeframe, complete_only)
        if self.bars is not None and (self.live is None or not self.live.may_hold(symbol, timeframe)):
            return self.bars.tail(n, symbol, columns, where, start, end, first)[0]
        if self.bars is not None:
            rows, _ = self.bars.tail(n, symbol, _needed(columns), where, start, end, first)
            parts.append(_ranked(rows))
        if self.live is not None:
            parts.append(self._end_of_live(self.live, symbol, timeframe, n, columns, start, end, first))
        found = _settled(parts, columns)
        return found.slice(0, n) if first else found.slice(max(0, len(found) - n))

    def _live(
        self, files: Sequence[DataFile], condition: Filter, columns: Sequence[str], timeframe: str
    ) -> pa.Table:
        """The rows of files of ``silver.live`` that ``silver.bars`` does not speak for, with their ranks."""
        assert self.live is not None
        rows, stamps = self.live.stamped(files, _needed(columns), condition)
        rows = rows.append_column("source", _constant(_LIVE, pa.int8(), len(rows)))
        rows = rows.append_column("commit", stamps)
        hidden = self.covered(timeframe)
        return rows.filter(pc.invert(_covered(rows, hidden))) if hidden else rows

    def _end_of_live(
        self,
        live: Snapshot,
        symbol: str,
        timeframe: str,
        n: int,
        columns: Sequence[str],
        start: Instant | None,
        end: Instant | None,
        first: bool,
    ) -> pa.Table:
        found: list[pa.Table] = []
        known: set[int] = set()
        files = 0
        asked = Filter.of(live.spec, symbol, start, end, {"timeframe": timeframe})
        gaps = _gaps(self.covered(timeframe), timeframe)
        for since, until in reversed(gaps) if first else gaps:
            condition = _narrowed(asked, Filter.of(live.spec, None, since, until))
            waiting = live.by_time(condition, first)
            while waiting:
                bound = waiting[0][1]
                if sum((ts < bound) if first else (ts > bound) for ts in known) >= n:
                    break
                # As many files as hold about what is missing, if they are like those before.
                each = max(1, len(known) // max(1, files))
                some = min(max(1, -(-(n - len(known)) // each)) if files else 1, _AT_ONCE)
                batch, waiting = waiting[:some], waiting[some:]
                files += len(batch)
                rows = self._live([file for file, _ in batch], condition, columns, timeframe)
                stamps: list[Any] = rows["ts"].cast(pa.int64()).to_pylist()
                known.update(stamps)
                found.append(rows)
            if len(known) >= n:
                break
        return pa.concat_tables(found) if found else self._live([], Filter({}), columns, timeframe)


def _narrowed(condition: Filter, other: Filter) -> Filter:
    """A condition, and the range of another one."""
    starts = [at for at in (condition.start, other.start) if at is not None]
    stops = [at for at in (condition.stop, other.stop) if at is not None]
    value = operator.attrgetter("value")
    return replace(
        condition, start=max(starts, key=value, default=None), stop=min(stops, key=value, default=None)
    )


@dataclass(frozen=True)
class LakeReader:
    """Reads the closed bars of a lake. Nothing is kept: each call sees the newest version of both tables.

    Tables have the columns of ``schemas.BARS``, or those asked for, in that order.
    """

    lake: Lake

    def view(self, as_of: datetime | None = None) -> View:
        """The tables as they are, or as they were at an instant.

        Raises:
            LakeError: there are no bars, or the tables' bars do not mix.
        """
        found = View(self._snapshot(tables.BARS, as_of), self._snapshot(tables.LIVE, as_of))
        if not found.tables:
            at = "" if as_of is None else f" at {as_of.isoformat()}"
            raise LakeError(
                f"there are no bars in {self.lake.uri}{at}: pipelines.batch and pipelines.stream make them"
            )
        check_terms(found)
        return found

    def _snapshot(self, spec: TableSpec, as_of: datetime | None) -> Snapshot | None:
        try:
            return self.lake.table(spec).snapshot(as_of)
        except (TableMissing, VersionMissing):
            return None

    @cached_property
    def calendar(self) -> TradingCalendar:
        """The calendar that the bars were made with."""
        for table in self.view().tables:
            if name := table.properties.get(tables.CALENDAR):
                return load_calendar(name)
        return load_calendar()

    def bars(
        self,
        symbols: str | Collection[str] | None,
        timeframe: str,
        start: Instant | None = None,
        end: Instant | None = None,
        *,
        as_of: datetime | None = None,
        limit: int | None = None,
        columns: Sequence[str] | None = None,
        complete_only: bool = False,
    ) -> pa.Table:
        """The bars whose ``ts`` lies in ``[start, end)``, each once, sorted by symbol and ts.

        A range that holds none is no error where the symbols have other bars.

        Args:
            symbols: one, several, or None for all.
            timeframe: its canonical name, such as ``5d`` or ``1h``.
            start: an instant with a zone, UTC microseconds, or a date: the start of its session, or of the
                next one where it is none.
            end: likewise.
            as_of: an instant: read the tables as they were.
            limit: at most so many, the first ones of the order.
            columns: names of ``schemas.BARS``.
            complete_only: leave out windows that have not ended.

        Raises:
            LakeError: the lake has no bars, none of this timeframe, or none of a symbol.
            ValueError: an unknown column, or an instant without zone.
        """
        wanted, view = checked_columns(columns), self.view(as_of)
        first, stop = (session_start(bound, lambda: self.calendar) for bound in (start, end))
        needed = list(dict.fromkeys([*wanted, "symbol"]))
        found = view.read(needed, symbols, timeframe, first, stop, complete_only)
        asked = {symbols} if isinstance(symbols, str) else None if symbols is None else set(symbols)
        missing = None if asked is None else asked - set(found["symbol"].unique().to_pylist())
        if missing or not len(found):
            check_held(view.tables, missing, timeframe)
        return found.select(wanted).slice(0, limit)

    def last(
        self,
        symbol: str,
        timeframe: str,
        n: int,
        *,
        as_of: datetime | None = None,
        columns: Sequence[str] | None = None,
        complete_only: bool = False,
    ) -> pa.Table:
        """The last ``n`` bars of one symbol, oldest first: files are opened from the newest on.

        Arguments and errors are those of ``bars``.
        """
        wanted, view = checked_columns(columns), self.view(as_of)
        found = view.last(symbol, timeframe, n, wanted, complete_only)
        if not len(found):
            check_held(view.tables, {symbol}, timeframe)
        return found

    def timeframes(self, symbol: str | None = None, as_of: datetime | None = None) -> list[str]:
        """The timeframes that the tables, or a symbol in them, have, shortest first."""
        return timeframes_of(self.view(as_of).tables, symbol)


def check_terms(view: View) -> None:
    """Raise LakeError where the tables say that their bars were made in different ways."""
    if view.bars is None or view.live is None:
        return
    for key in _TERMS:
        mine, theirs = view.bars.properties.get(key), view.live.properties.get(key)
        if mine is not None and theirs is not None and mine != theirs:
            name = key.partition(".")[2]
            raise LakeError(
                f"{view.bars.spec.name} was made with {name}={mine}, {view.live.spec.name} with {name}="
                f"{theirs}: their bars do not mix; use a lake for each"
            )


def _needed(columns: Sequence[str]) -> list[str]:
    return list(dict.fromkeys([*columns, "symbol", "ts", "end", "complete", "revision", "final"]))


def _constant(value: int, kind: pa.DataType, count: int) -> Any:
    return pa.repeat(plain_array([value], kind)[0], count)


def _ranked(rows: pa.Table) -> pa.Table:
    """Rows of ``silver.bars`` with their ranks."""
    kind = pa.int8()
    ended, still_open = (plain_array([value], kind)[0] for value in (_ENDED, _OPEN))
    source = pc.if_else(rows["complete"], ended, still_open)
    return rows.append_column("source", source).append_column("commit", _constant(0, pa.int64(), len(rows)))


def _covered(rows: pa.Table, hidden: coverage.Stretches) -> Any:
    """Which windows belong to a stretch."""
    starts, ends = (rows[name].cast(pa.int64()) for name in ("ts", "end"))
    masks = []
    for since, until in hidden:
        mask: Any = pc.less_equal(ends, plain_array([until], pa.int64())[0])
        if since is not None:
            mask = pc.and_(mask, pc.greater_equal(starts, plain_array([since], pa.int64())[0]))
        masks.append(mask)
    found = masks[0]
    for mask in masks[1:]:
        found = pc.or_(found, mask)
    return found


def _gaps(hidden: coverage.Stretches, timeframe: str) -> list[tuple[int | None, int | None]]:
    """Where windows that belong to no stretch may begin, the newest first; UTC microseconds."""
    # A window of days may begin long before the end of a stretch that does not hold all of it.
    back = (2 * int(timeframe[:-1]) + 10) * _DAY_US if timeframe.endswith("d") else 0
    found: list[tuple[int | None, int | None]] = []
    end: int | None = None
    for since, until in reversed(hidden):
        found.append((until - back, end))
        if since is None:
            return found
        end = since
    return [*found, (None, end)]


def _settled(parts: Sequence[pa.Table], columns: Sequence[str]) -> pa.Table:
    """Of the rows of each bar the one that counts, sorted by symbol and ts, with their stored types."""
    rows = pa.concat_tables(list(parts))
    # Strings and booleans sort slowly or not at all.
    words: Any = rows["symbol"].combine_chunks().dictionary_encode()
    places: Any = pc.rank(words.dictionary, sort_keys="ascending", tiebreaker="dense")
    keys = {"symbol": places.take(words.indices), "ts": rows["ts"].cast(pa.int64())}
    keys |= {name: rows[name].cast(pa.int64()) for name in _RANKS}
    sorts: Any = [(name, "ascending") for name in keys]
    order = pc.sort_indices(pa.table(keys), sort_keys=sorts)
    symbol, ts = (
        pa.chunked_array([keys[name]]) if name == "symbol" else keys[name] for name in ("symbol", "ts")
    )
    last = _ends_of_runs(symbol.take(order), ts.take(order))
    found = rows.select(list(columns)).take(order.filter(last))
    return found.cast(pa.schema([BARS.field(name) for name in columns]))


def _ends_of_runs(*keys: Any) -> Any:
    """Which rows of sorted columns are the last of their key."""
    count = len(keys[0])
    differs: Any = mask_array(np.ones(min(count, 1), np.bool_))
    if count < 2:
        return differs
    masks = [pc.not_equal(key.slice(0, count - 1), key.slice(1)).combine_chunks() for key in keys]
    found = masks[0]
    for mask in masks[1:]:
        found = pc.or_(found, mask)
    return pa.concat_arrays([found, differs])
