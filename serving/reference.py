"""Symbols, splits and the calendar, as the lake has them.

Symbols are those of ``reference.symbols`` and those that have rows in ``silver.bars``, ``silver.live`` or
``bronze.daily``. A lake without reference tables has the latter.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from fibflow.io import tables
from fibflow.io.lake import Lake
from fibflow.io.reference import DIVIDENDS, RENAMES, SPLITS, SYMBOLS, read_reference
from fibflow.io.storage import LakeError
from fibflow.serving.tablesymbols import Names, TableSymbols, holds, span
from fibflow.transforms.calendar import NO_SESSION, TradingCalendar, load_calendar
from fibflow.transforms.timeframe import Timeframe

# The stubs know too few types of columns.
pc: Any = pyarrow.compute

_LOG = logging.getLogger(__name__)
_SOURCES = (tables.BARS, tables.LIVE, tables.DAILY)
_REFERENCE = (SYMBOLS, SPLITS, DIVIDENDS, RENAMES)
#: A look at the tables may take this part of the time.
_SHARE = 0.1
#: What is so many times older than it may be is waited for.
_STALE = 4
_MOST_KEPT = 4_096


@dataclass(frozen=True)
class Symbol:
    """What is known of a symbol; None for what is not.

    Attributes:
        symbol: as the source calls it.
        name: of the company or fund.
        type: the vendor's code: ``CS``, ``ETF``, ...
        exchange: ISO 10383, such as ``XNAS``.
        currency: lower case, ``usd``.
        active: whether it trades.
        listed, delisted: dates.
        cik, composite_figi, share_class_figi: its numbers elsewhere.
        description, homepage: texts.
        updated: when that was last changed.
        has_bars: the lake has rows of it.
    """

    symbol: str
    name: str | None = None
    type: str | None = None
    exchange: str | None = None
    currency: str | None = None
    active: bool = True
    listed: date | None = None
    delisted: date | None = None
    cik: str | None = None
    composite_figi: str | None = None
    share_class_figi: str | None = None
    description: str | None = None
    homepage: str | None = None
    updated: datetime | None = None
    has_bars: bool = False


@dataclass(frozen=True)
class Held:
    """What the lake has of a symbol.

    Attributes:
        timeframes: of its stored bars, shortest first.
        first, last: the sessions of its first and its last row of a day or less; where it has bars of several
            sessions only, those in which the first and the last window begin. None without rows.
    """

    timeframes: tuple[str, ...]
    first: date | None
    last: date | None


@dataclass(frozen=True)
class Listing:
    """All symbols at one time.

    Attributes:
        table: ``schemas.SYMBOLS`` and ``has_bars``, sorted by symbol.
        splits: ``schemas.SPLITS``, sorted.
        dividends: ``schemas.DIVIDENDS``, sorted.
        renames: ``schemas.RENAMES``, sorted.
        properties: of the first table of bars, or of days, that there is.
        version: of ``reference.splits``, -1 where there is none.
    """

    table: pa.Table
    splits: pa.Table
    dividends: pa.Table
    renames: pa.Table
    properties: dict[str, str] = field(default_factory=dict)
    version: int = -1

    @cached_property
    def symbols(self) -> list[Symbol]:
        """The symbols, sorted."""
        return [Symbol(**row) for row in self.table.to_pylist()]

    @cached_property
    def by_name(self) -> dict[str, Symbol]:
        """The symbols by name."""
        return {symbol.symbol: symbol for symbol in self.symbols}

    @cached_property
    def spans_of_splits(self) -> dict[str, tuple[int, int]]:
        """Where the splits of each symbol stand, as (place, count)."""
        return _spans(self.splits)

    @cached_property
    def spans_of_dividends(self) -> dict[str, tuple[int, int]]:
        """Where the dividends of each symbol stand, as (place, count)."""
        return _spans(self.dividends)

    @cached_property
    def _folded(self) -> tuple[Any, Any]:
        """Symbols, and names with one blank before each word, to search in."""
        names = pc.fill_null(self.table["name"], "")
        words: Any = pc.replace_substring_regex(pc.utf8_lower(names), r"[^\p{L}\p{N}]+", " ")
        return pc.utf8_upper(self.table["symbol"]), pc.binary_join_element_wise("", words, " ")

    def search(self, text: str, conditions: dict[str, Any]) -> list[tuple[int, Symbol]]:
        """Return the symbols that a text finds, each with its rank, best first.

        Rank 0 has symbols that begin with the text, 1 those whose name has a word that begins with each word
        of it. Within a rank they are sorted by symbol.

        Args:
            text: in any case; empty for all.
            conditions: values of columns, exactly.
        """
        keep: Any = pa.array(np.ones(len(self.table), np.bool_))
        for name, value in conditions.items():
            keep = pc.and_(keep, pc.fill_null(pc.equal(self.table[name], value), False))
        text = text.strip()
        if not text:
            return [(0, self.symbols[at]) for at in np.flatnonzero(_bools(keep)).tolist()]
        symbols, words = self._folded
        begins = _bools(pc.and_(keep, pc.starts_with(symbols, pattern=text.upper())))
        named: Any = pc.and_(keep, pc.invert(pc.starts_with(symbols, pattern=text.upper())))
        wanted = (
            pc.replace_substring_regex(pa.array([text.lower()]), r"[^\p{L}\p{N}]+", " ")[0].as_py().split()
        )
        for word in wanted:
            named = pc.and_(named, pc.match_substring(words, pattern=f" {word}"))
        ranked = [(0, begins), *([(1, _bools(named))] if wanted else [])]
        return [(rank, self.symbols[at]) for rank, mask in ranked for at in np.flatnonzero(mask).tolist()]


def _spans(rows: pa.Table) -> dict[str, tuple[int, int]]:
    symbols: Any = rows["symbol"].combine_chunks()
    found = symbols.value_counts()
    counts: list[Any] = found.field("counts").to_pylist()
    places = np.cumsum([0, *counts])[:-1].tolist() if counts else []
    return dict(zip(found.field("values").to_pylist(), zip(places, counts, strict=True), strict=True))


def _bools(mask: Any) -> Any:
    array = mask.combine_chunks() if isinstance(mask, pa.ChunkedArray) else mask
    return array.to_numpy(zero_copy_only=False)


class Reference:
    """Reference data of a lake, for one server process. Safe to use from several threads.

    The tables' versions are looked at when an answer is older than ``refresh_s`` (0: at each question); files
    that are new are read then, each once. Where the lake cannot be read, what was known stays.
    """

    def __init__(self, lake: Lake, refresh_s: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._lake = lake
        self._refresh_s = refresh_s
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._names = Names()
        self._tables = [TableSymbols(lake.table(spec), self._names) for spec in _SOURCES]
        self._reference = {spec.name: (spec.schema.empty_table(), -1) for spec in _REFERENCE}
        self._listing: Listing | None = None
        self._due = 0.0
        self._held: dict[tuple[str, tuple[int, ...]], Held] = {}

    def listing(self) -> Listing:
        """Return all symbols as they are, or were not long ago.

        A look at the tables is a thread's of its own; only what was not looked at for long is waited for.

        Raises:
            LakeError: the lake cannot be read, and never could.
        """
        known, now = self._listing, self._monotonic()
        if known is not None and now < self._due:
            return known
        if known is None or self._refresh_s <= 0:
            with self._lock:
                return self._refreshed()
        # Who comes while another looks takes what is known.
        if self._lock.acquire(blocking=False):
            if now < self._due + _STALE * self._refresh_s:
                threading.Thread(target=self._refresh_and_release, name="reference", daemon=True).start()
            else:
                self._refresh_and_release()
        return self._listing or known

    def _refresh_and_release(self) -> None:
        try:
            self._refreshed()
        finally:
            self._lock.release()

    def _refreshed(self) -> Listing:
        """Look at the tables where it is time; the lock is held."""
        began = self._monotonic()
        if self._listing is not None and began < self._due:
            return self._listing
        try:
            changed = [table.refresh() for table in self._tables]
            changed += [self._reread(spec) for spec in _REFERENCE]
        except LakeError as error:
            if self._listing is None:
                raise
            _LOG.warning("reference data stays as it was: %s", error)
        else:
            if any(changed) or self._listing is None:
                self._listing = self._made()
        now = self._monotonic()
        pause = max(self._refresh_s, (now - began) / _SHARE) if self._refresh_s > 0 else 0.0
        self._due = now + pause
        return self._listing

    def _reread(self, spec: Any) -> bool:
        version = self._lake.table(spec).version
        if version == self._reference[spec.name][1]:
            return False
        self._reference[spec.name] = read_reference(self._lake, spec)
        return True

    def _made(self) -> Listing:
        mask = np.zeros(len(self._names.array), np.bool_)
        for table in self._tables:
            mask |= table.held()
        with_bars = self._names.array.filter(pa.array(mask))
        known, _ = self._reference[SYMBOLS.name]
        names: Any = pa.concat_arrays([known["symbol"].combine_chunks(), with_bars]).unique()
        names = names.take(pc.array_sort_indices(names))
        rows = known.combine_chunks().take(pc.index_in(names, value_set=known["symbol"].combine_chunks()))
        rows = rows.set_column(0, rows.schema.field(0), names)
        at = rows.column_names.index("active")
        rows = rows.set_column(at, "active", pc.fill_null(rows["active"], True))
        rows = rows.append_column("has_bars", pc.is_in(names, value_set=with_bars))
        properties = next((table.properties for table in self._tables if table.snapshot is not None), {})
        splits, version = self._reference[SPLITS.name]
        dividends, renames = (self._reference[spec.name][0] for spec in (DIVIDENDS, RENAMES))
        return Listing(rows, splits, dividends, renames, properties, version)

    # Answers -----------------------------------------------------------------------------------------------

    @property
    def calendar(self) -> TradingCalendar:
        """The calendar of the lake's bars; ``XNYS`` where no table names one."""
        return _calendar(self.listing().properties.get(tables.CALENDAR, "XNYS"))

    def symbol(self, symbol: str) -> Symbol | None:
        """Return what is known of a symbol; None where neither bars nor reference data have it."""
        return self.listing().by_name.get(symbol)

    def symbols(self) -> list[Symbol]:
        """Return all symbols, sorted: those of reference data, and those that have bars."""
        return self.listing().symbols

    def search(
        self,
        text: str = "",
        conditions: dict[str, Any] | None = None,
        limit: int = 100,
        after: tuple[int, str] | None = None,
    ) -> tuple[list[Symbol], tuple[int, str] | None]:
        """Return symbols that a text finds, as ``Listing.search`` orders them.

        Args:
            text: the beginning of a symbol, or of words of a name; empty for all.
            conditions: of ``type``, ``exchange``, ``active``, exactly.
            limit: at most so many.
            after: go on behind this rank and symbol.

        Returns:
            The symbols, and where to go on; None at the end.
        """
        found = self.listing().search(text, conditions or {})
        if after is not None:
            found = [pair for pair in found if (pair[0], pair[1].symbol) > after]
        page = found[:limit]
        more = len(found) > limit and page
        return [symbol for _, symbol in page], (page[-1][0], page[-1][1].symbol) if more else None

    def splits(self, symbol: str | None = None) -> pa.Table:
        """Return splits: ``symbol``, ``execution_date``, ``split_from``, ``split_to``, ``id``, sorted."""
        listing = self.listing()
        if symbol is None:
            return listing.splits
        return listing.splits.slice(*listing.spans_of_splits.get(symbol, (0, 0)))

    def dividends(self, symbol: str | None = None) -> pa.Table:
        """Return dividends of ``schemas.DIVIDENDS``, sorted."""
        listing = self.listing()
        if symbol is None:
            return listing.dividends
        return listing.dividends.slice(*listing.spans_of_dividends.get(symbol, (0, 0)))

    def held(self, symbol: str) -> Held:
        """Return what the lake has of a symbol.

        Raises:
            LakeError: a file cannot be read.
        """
        self.listing()
        snapshots = [table.snapshot for table in self._tables]
        key = symbol, tuple(-1 if found is None else found.version for found in snapshots)
        if key not in self._held:
            if len(self._held) >= _MOST_KEPT:
                self._held.clear()
            self._held[key] = self._look(symbol, snapshots)
        return self._held[key]

    def _look(self, symbol: str, snapshots: Sequence[Any]) -> Held:
        *bars, daily = snapshots
        names = sorted(
            {
                Timeframe.parse(str(name))
                for table in bars
                if table is not None and len(table)
                for name in table.files["partition.timeframe"].unique().to_pylist()
            },
            key=lambda timeframe: (timeframe.sessions, timeframe.minutes),
        )
        mine = [
            timeframe
            for timeframe in names
            if any(
                table is not None and holds(table, symbol, {"timeframe": timeframe.name}) for table in bars
            )
        ]
        days = [] if daily is None else [span(daily, symbol)]
        found = [date.fromordinal(_EPOCH + day) for ends in days if ends is not None for day in ends]
        short = [timeframe for timeframe in mine if timeframe.sessions <= 1]
        for timeframe in (short or ([] if found else mine))[:1]:
            spans = [
                span(table, symbol, {"timeframe": timeframe.name}) for table in bars if table is not None
            ]
            found += self._dates([instant for ends in spans if ends is not None for instant in ends])
        return Held(
            tuple(timeframe.name for timeframe in mine), min(found, default=None), max(found, default=None)
        )

    def _dates(self, instants: Sequence[int]) -> list[date]:
        """Return the sessions in whose day instants (UTC microseconds) fall."""
        calendar = self.calendar
        positions = calendar.positions_at(np.array(instants, np.int64))
        days = calendar.days[positions[positions != NO_SESSION]]
        return [date.fromordinal(_EPOCH + day) for day in days.tolist()]


_EPOCH = date(1970, 1, 1).toordinal()
_calendars: dict[str, TradingCalendar] = {}


def _calendar(name: str) -> TradingCalendar:
    """Return a calendar; a process loads each once."""
    found = _calendars.get(name)
    if found is None:
        found = _calendars[name] = load_calendar(name)
    return found
