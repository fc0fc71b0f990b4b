"""Stored bars: ranges, and the last few of a symbol, as of now or of an older version. No Beam, no pandas."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fibflow.io import tables
from fibflow.io.lake import Lake, TableMissing
from fibflow.io.rowfilter import Instant, Where
from fibflow.io.snapshot import Snapshot
from fibflow.io.storage import LakeError
from fibflow.transforms.calendar import TradingCalendar, load_calendar
from fibflow.transforms.schemas import BARS

#: A version of the table, or an instant: the table as it was then. None: as it is.
AsOf = int | datetime | None

_NAMED = 5


@dataclass(frozen=True)
class BarReader:
    """Reads ``silver.bars`` of a lake. Nothing of the table is kept: each call sees the newest version.

    Tables have the columns of ``schemas.BARS``, or those asked for, in that order.
    """

    lake: Lake

    def snapshot(self, as_of: AsOf = None) -> Snapshot:
        """The files of one version.

        Raises:
            LakeError: there are no bars, or no such version.
        """
        try:
            return self.lake.table(tables.BARS).snapshot(as_of)
        except TableMissing as error:
            raise LakeError(f"there are no bars in {self.lake.uri}: pipelines.batch makes them") from error

    @cached_property
    def calendar(self) -> TradingCalendar:
        """The calendar that the bars were made with."""
        name = self.lake.table(tables.BARS).properties.get(tables.CALENDAR)
        return load_calendar(name) if name else load_calendar()

    def bars(
        self,
        symbols: str | Collection[str] | None,
        timeframe: str,
        start: Instant | None = None,
        end: Instant | None = None,
        *,
        as_of: AsOf = None,
        limit: int | None = None,
        columns: Sequence[str] | None = None,
        complete_only: bool = False,
    ) -> pa.Table:
        """The bars whose ``ts`` lies in ``[start, end)``, sorted by symbol and ts.

        A range that holds none is no error where the symbols have other bars.

        Args:
            symbols: one, several, or None for all.
            timeframe: its canonical name, such as ``5d`` or ``1h``.
            start: an instant with a zone, UTC microseconds, or a date: the start of its session, or of the
                next one where it is none.
            end: likewise.
            as_of: read the table as it was.
            limit: at most so many, the first ones of the order.
            columns: names of ``schemas.BARS``.
            complete_only: leave out windows that have not ended.

        Raises:
            LakeError: the lake has no bars, none of this timeframe, or none of a symbol.
            ValueError: an unknown column, or an instant without zone.
        """
        wanted = checked_columns(columns)
        snapshot = self.snapshot(as_of)
        several = isinstance(symbols, str) or symbols is None or len(symbols) != 1
        needed = list(dict.fromkeys([*wanted, *(["symbol"] if several else []), "ts"]))
        rows, _ = snapshot.read(
            needed, symbols, self._instant(start), self._instant(end), where_of(timeframe, complete_only)
        )
        asked = {symbols} if isinstance(symbols, str) else None if symbols is None else set(symbols)
        if asked is None or len(asked) == 1:
            missing = None if rows.num_rows else asked
        else:
            missing = asked - set(rows.column("symbol").unique().to_pylist())
        if missing or (asked is None and not rows.num_rows):
            check_held([snapshot], missing, timeframe)
        keys: list[Any] = [(name, "ascending") for name in ("symbol", "ts") if name in needed]
        order = pc.sort_indices(rows, sort_keys=keys)
        return rows.select(wanted).take(order if limit is None else order[:limit])

    def last(
        self,
        symbol: str,
        timeframe: str,
        n: int,
        *,
        as_of: AsOf = None,
        columns: Sequence[str] | None = None,
        complete_only: bool = False,
    ) -> pa.Table:
        """The last ``n`` bars of one symbol, oldest first: files are opened from the newest on.

        Arguments and errors are those of ``bars``.
        """
        snapshot = self.snapshot(as_of)
        rows, _ = snapshot.tail(n, symbol, checked_columns(columns), where_of(timeframe, complete_only))
        if not rows.num_rows:
            check_held([snapshot], {symbol}, timeframe)
        return rows

    def timeframes(self, symbol: str | None = None, as_of: AsOf = None) -> list[str]:
        """The timeframes that the table, or a symbol in it, has, shortest first."""
        return timeframes_of([self.snapshot(as_of)], symbol)

    def _instant(self, value: Instant | None) -> Instant | None:
        return session_start(value, lambda: self.calendar)


def session_start(value: Instant | None, calendar: Callable[[], TradingCalendar]) -> Instant | None:
    """A date as the start of the first session from it on, UTC microseconds; anything else as it is."""
    if not isinstance(value, date) or isinstance(value, datetime):
        return value
    found = calendar()
    at = int(np.searchsorted(found.days, (value - date(1970, 1, 1)).days))
    return int(found.day_starts[at]) if at < len(found) else int(found.day_ends[-1])


def checked_columns(columns: Sequence[str] | None) -> list[str]:
    """Columns of bars, all by default. Raises ValueError for one that they do not have."""
    wanted = BARS.names if columns is None else list(columns)
    if unknown := [name for name in wanted if name not in BARS.names]:
        raise ValueError(f"bars have no column {unknown[0]!r}: they have {', '.join(BARS.names)}")
    return wanted


def where_of(timeframe: str, complete_only: bool) -> Where:
    """The condition on bars of a timeframe."""
    return {"timeframe": timeframe, **({"complete": True} if complete_only else {})}


def check_held(snapshots: Sequence[Snapshot], symbols: set[str] | None, timeframe: str) -> None:
    """Raise LakeError where no table has a bar of the timeframe, or of one of the symbols, at any time."""
    if timeframe not in (all_of_them := timeframes_of(snapshots)):
        raise LakeError(
            f"no {timeframe} bars in this lake; it has {', '.join(all_of_them) or 'no bars at all'}"
        )
    if symbols is None:
        return
    missing = set(symbols)
    for snapshot in snapshots:
        held, _ = snapshot.read(["symbol"], symbols, where={"timeframe": timeframe}, dictionary=("symbol",))
        missing -= set(held.column("symbol").unique().to_pylist())
    if not missing:
        return
    lacking = sorted(missing)
    if len(lacking) > 1:
        named = ", ".join(lacking[:_NAMED]) + (
            f" and {len(lacking) - _NAMED} more" if len(lacking) > _NAMED else ""
        )
        raise LakeError(f"no {timeframe} bars of {named} in this lake")
    others = timeframes_of(snapshots, lacking[0])
    has = f"it has {', '.join(others)}" if others else "the symbol is not in it"
    raise LakeError(f"no bars of {lacking[0]} {timeframe} in this lake; {has}")


def timeframes_of(snapshots: Sequence[Snapshot], symbol: str | None = None) -> list[str]:
    """The timeframes that tables of bars, or a symbol in them, have, shortest first."""
    names: set[str] = set()
    for snapshot in snapshots:
        if symbol is None:
            names |= {str(file.partition["timeframe"]) for file in snapshot.select()}
        else:
            rows, _ = snapshot.read(["timeframe"], symbol, dictionary=("timeframe",))
            names |= {str(name) for name in rows.column("timeframe").unique().to_pylist()}
    return sorted(names, key=lambda name: ("mhd".find(name[-1]), int(name[:-1])))
