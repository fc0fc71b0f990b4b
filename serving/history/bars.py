"""Answers to questions for bars, from the lake as it is now, or as it was."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from fibflow.io import tables
from fibflow.io.lake import Lake
from fibflow.io.storage import LakeError
from fibflow.serving.caching import Page, PageCache
from fibflow.serving.history.adjust import Factors
from fibflow.serving.history.answer import Answer, Terms, are_final, last_end
from fibflow.serving.history.choice import source_for
from fibflow.serving.history.fill import Grid, check_fill, filled, with_filled
from fibflow.serving.history.keptsnapshot import KeptSnapshot
from fibflow.serving.history.lakestate import LakeState, Tables, gone, unreachable
from fibflow.serving.history.pages import Range, page_of
from fibflow.serving.history.query import AsOf, BarQuery, Fill
from fibflow.serving.history.records import SymbolRows
from fibflow.serving.history.rowstore import RowStore
from fibflow.serving.history.sources import Source, Stored, timeframes_in
from fibflow.serving.problems import Problem
from fibflow.transforms.calendar import DAY_US, TradingCalendar
from fibflow.transforms.timeframe import DAY, MINUTE_US, Anchor, IntradayAnchor, Timeframe

Kept = TypeVar("Kept")
#: Gives the splits of a symbol, or of all: ``symbol``, ``execution_date``, ``split_from``, ``split_to``.
SplitsOf = Callable[[str | None], pa.Table]

#: How often files may vanish under an answer before it is given up.
_ATTEMPTS = 4
#: How many times more answers may be on the disk than in memory.
_ON_DISK = 96
#: For how long splits that were read are good for an answer that is kept, seconds.
_SPLITS_S = 1.0
#: How many windows of all symbols are read at once.
_SHORT = 200
#: How many facts of versions are kept.
_FACTS = 256
#: So many bars at most are answered in a moment.
_AT_HAND = 5_000
#: How many unknown symbols an error names.
_NAMED = 10


def _utc_now() -> datetime:
    return datetime.now(UTC)


class History:
    """The bars of a lake, for one server process. Safe to use from several threads."""

    def __init__(
        self,
        lake: Lake,
        refresh_s: float,
        splits: SplitsOf | None = None,
        cache_mb: int = 32,
        clock: Callable[[], datetime] = _utc_now,
    ) -> None:
        """Take the lake; ``splits`` gives what ``adjusted`` asks for, ``clock`` says which have happened."""
        self.rows = RowStore()
        self.state = LakeState(lake, refresh_s, wrap=lambda snapshot: KeptSnapshot(snapshot, self.rows))
        #: Answers as bytes.
        self.pages = PageCache(cache_mb * 1_000_000, cache_mb * _ON_DISK * 1_000_000)
        self._splits = splits
        self._clock = clock
        self._all_factors: tuple[Any, int, Factors] | None = None
        self._splits_read = float("-inf")
        self._facts: OrderedDict[Hashable, Any] = OrderedDict()
        self._facts_lock = threading.Lock()
        # Arrow imports pandas with the first of these: not while somebody waits.
        pa.array(np.zeros(1)).to_numpy()

    # What the lake is --------------------------------------------------------------------------------------

    @property
    def calendar(self) -> TradingCalendar:
        """The calendar of the lake's bars. Raises Problem."""
        return self.state.calendar_of(self.state.now())

    def terms(self) -> Terms:
        """Return how the bars are made. Raises Problem."""
        return self._terms(self.state.now())

    def _terms(self, found: Tables) -> Terms:
        def read() -> Terms:
            names = timeframes_in(found.bars) | timeframes_in(found.live)
            return Terms(
                tuple(str(name) for name in sorted(map(Timeframe.parse, names), key=_length)),
                Anchor(found.property(tables.ANCHOR) or Anchor.EXCHANGE),
                IntradayAnchor(found.property(tables.INTRADAY_ANCHOR) or IntradayAnchor.MIDNIGHT),
                found.property(tables.CALENDAR) or "XNYS",
                found.property(tables.PRICE_BASIS) or "raw",
                *found.versions[:2],
            )

        return self._fact(("terms", found.versions), read)

    def _fact(self, key: Hashable, make: Callable[[], Kept]) -> Kept:
        """What is known of versions, made once."""
        with self._facts_lock:
            if key in self._facts:
                self._facts.move_to_end(key)
                found: Kept = self._facts[key]
                return found
        made = make()
        with self._facts_lock:
            self._facts[key] = made
            while len(self._facts) > _FACTS:
                self._facts.popitem(last=False)
        return made

    def warm(self) -> None:
        """Read what every question needs, and answer some: not while the first one waits.

        Raises:
            Problem: there is nothing to answer, or the lake cannot be read.
        """
        found = self.state.now()
        terms = self._terms(found)
        some = next((table for table in found.present if "min.symbol" in table.files.column_names), None)
        symbol = None if some is None or not len(some) else some.files["min.symbol"][0].as_py()
        for timeframe in (*terms.timeframes[:1], DAY.name):
            if symbol is not None:
                self.bars(BarQuery((symbol,), Timeframe.parse(timeframe), limit=1, descending=True))

    # Answers -----------------------------------------------------------------------------------------------

    def bars(self, query: BarQuery) -> Answer:
        """Return the bars.

        Raises:
            Problem: the question cannot be answered; says why.
        """
        for attempt in range(_ATTEMPTS):
            try:
                return self._answer(query, self.state.at(query.as_of))
            except LakeError as error:
                if not isinstance(error.__cause__, FileNotFoundError):
                    raise unreachable(error) from error
                # Compaction and vacuum took a file since its snapshot was read.
                if query.as_of is not None:
                    raise gone() from error
                if attempt == _ATTEMPTS - 1:
                    raise unreachable(error) from error
                self.state.look_again()
        raise AssertionError("unreachable")

    def _answer(self, query: BarQuery, found: Tables) -> Answer:
        terms = self._terms(found)
        calendar = self.state.calendar_of(found)
        symbols = None if query.symbols is None else list(query.symbols)
        factors = self._factors(query, terms, calendar)
        if factors is None and (direct := self._direct(query, found, at_hand=False)) is not None:
            return direct
        source, anchor = source_for(query, found, terms, calendar, factors)
        check_fill(query.fill, symbols, anchor)
        asked = Range(query.start, query.end, query.descending, query.after)
        n = query.limit + 1
        ends = None
        if query.fill is not Fill.NONE:

            def ends(symbol: str, start: int | None, end: int | None, n: int, first: bool) -> pa.Table:
                def grid() -> Grid:
                    return self._grid(query, source, symbol, terms, calendar, anchor)

                return filled(source, grid, symbol, start, end, n, first, query.fill, query.complete_only)

        if symbols is None and not _is_short(query):
            key = "symbols", found.versions, query.timeframe, source.stored
            symbols = self._fact(key, source.symbols)
        rows, without = page_of(source, symbols, asked, n, ends)
        self._check_known(source, query, found, terms, without)
        more = len(rows) > query.limit
        rows = rows.slice(0, query.limit)
        if "filled" not in rows.column_names:
            rows = with_filled(rows, np.zeros(len(rows), np.bool_))
        bars, live, daily, minutes = found.versions
        settled = self._settled(query, rows, more, source, calendar)
        return Answer(rows, bars, live, settled, more, source.stored, daily, minutes)

    def _direct(self, query: BarQuery, found: Tables, at_hand: bool) -> Answer | None:
        """Return stored bars of one symbol, unscaled, as records; None where it takes more, or has none.

        ``at_hand``: None, too, where a file would have to be read.
        """
        if query.symbols is None or len(query.symbols) > 1 or query.fill is not Fill.NONE:
            return None
        (symbol,) = query.symbols
        terms, calendar = self._terms(found), self.state.calendar_of(found)
        source, _ = source_for(query, found, terms, calendar, None)
        if not isinstance(source, Stored):
            return None
        start, end = query.start, query.end
        if query.after is not None:
            if query.after[0] != symbol:
                return None
            start, end = Range(start, end, query.descending, query.after).of_first()
        rows = source.records(symbol, start, end, query.limit + 1, not query.descending, at_hand)
        if rows is None or not len(rows):
            return None
        more = len(rows) > query.limit
        rows = rows.part(slice(None, None, -1) if query.descending else slice(None)).part(slice(query.limit))
        bars, live, daily, minutes = found.versions
        settled = self._settled(query, rows, more, source, calendar)
        return Answer(rows, bars, live, settled, more, True, daily, minutes)

    def _check_known(
        self, source: Source, query: BarQuery, found: Tables, terms: Terms, without: Sequence[str]
    ) -> None:
        """Raise where symbols that have no bar in the range have none at all."""
        if not without or query.after is not None:
            return
        key = ("unknown", found.versions, query.timeframe, source.stored, tuple(without))
        unknown = self._fact(key, lambda: sorted(set(without) - source.held(without)))
        if not unknown:
            return
        named = ", ".join(unknown[:_NAMED]) + (
            f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
        )
        raise Problem(
            404,
            f"the lake has no {query.timeframe} bars of {named}: /v1/symbols lists what it has",
            "unknown_symbol",
            symbols=unknown[:1000],
        )

    # Where bars come from ----------------------------------------------------------------------------------

    def source_of(self, query: BarQuery) -> tuple[Tables, Source, TradingCalendar]:
        """Return the tables that a question reads, where its bars come from, and their calendar.

        Raises:
            Problem: there are no such bars.
        """
        found = self.state.at(query.as_of)
        terms = self._terms(found)
        calendar = self.state.calendar_of(found)
        source, _ = source_for(query, found, terms, calendar, self._factors(query, terms, calendar))
        return found, source, calendar

    def _grid(
        self,
        query: BarQuery,
        source: Source,
        symbol: str,
        terms: Terms,
        calendar: TradingCalendar,
        anchor: Anchor,
    ) -> Grid:
        base = calendar.origin
        if anchor is Anchor.LISTING and query.timeframe.sessions > 1:
            head = source.ends(symbol, None, None, 1, True)
            start = head["ts"].cast(pa.int64())[0].as_py()
            base = int(np.searchsorted(calendar.day_starts, start))
        intraday = query.intraday_anchor or terms.intraday_anchor
        return Grid(calendar, query.timeframe, anchor, intraday, base)

    # Splits ------------------------------------------------------------------------------------------------

    def _factors(
        self, query: BarQuery, terms: Terms, calendar: TradingCalendar, fresh: bool = True
    ) -> Factors | None:
        """What rows are scaled by; None for nothing. Not ``fresh``: by the splits that were read last."""
        if not query.adjusted or terms.price_basis != "raw" or self._splits is None:
            return None
        instant = None if query.as_of is None else query.as_of.instant
        now = int((instant or self._clock()).timestamp() * 1_000_000)
        # A split is executed on the exchange's date.
        until = int(calendar.local_days(np.array([now]))[0])
        known = self._all_factors
        if fresh or known is None:
            splits = self._splits(None)
            self._splits_read = time.monotonic()
        else:
            splits = known[0]
        if known is None or known[0] is not splits or known[1] != until:
            known = splits, until, Factors.of(splits, until)
            self._all_factors = known
        factors = known[2] if query.symbols is None else known[2].only(query.symbols)
        return factors or None

    # Settled -----------------------------------------------------------------------------------------------

    def _settled(
        self,
        query: BarQuery,
        rows: pa.Table | SymbolRows,
        more: bool,
        source: Source,
        calendar: TradingCalendar,
    ) -> bool:
        """Whether the answer stays as it is, by policy."""
        if query.adjusted and self._splits is not None:
            return False
        as_of = query.as_of
        if as_of is not None and as_of.instant is None and None not in (as_of.daily, as_of.minutes):
            return True
        if more and query.symbols is not None and len(query.symbols) == 1 and not query.descending:
            # The range that this page tells of ends with its last bar.
            end = last_end(rows)
        elif query.end is not None:
            end = query.end
        else:
            return False
        if len(rows) and not are_final(rows):
            return False
        return end <= self._first_open(query.timeframe, source.settled_until(query.start), calendar)

    def _first_open(self, timeframe: Timeframe, until: int, calendar: TradingCalendar) -> int:
        """The start of the first window that may end after an instant, whatever the anchor."""
        at = int(np.searchsorted(calendar.day_ends, until, side="right"))
        if at == 0:
            return until
        first = at - max(timeframe.sessions - 1, 0)
        return int(calendar.day_starts[max(first, 0)])

    # Answers as bytes --------------------------------------------------------------------------------------

    def at_hand(self, query: BarQuery, kind: Hashable, write: Callable[[Answer], Page]) -> Page | None:
        """Return the answer as bytes where no data file has to be read for it: kept, or made in a moment.

        Arguments are those of ``page``. Large pages are not made: who calls this has no time.
        """
        if query.adjusted and self._splits is not None and time.monotonic() - self._splits_read > _SPLITS_S:
            # Splits may have to be read.
            return None
        known = self.state.known()
        key = self._key(query, kind, known, fresh=False)
        if known is None or key is None:
            return None
        found = self.pages.get(key)
        if found is not None or query.as_of is not None:
            return found
        *_, scaled_by = key
        if scaled_by is not None or query.limit > _AT_HAND or query.complete_only:
            return None
        answer = self._direct(query, known, at_hand=True)
        if answer is None:
            return None
        found = write(answer)
        self.pages.put(key, found)
        return found

    def page(self, query: BarQuery, kind: Hashable, write: Callable[[Answer], Page]) -> Page:
        """Return the answer as bytes, kept or made; ``kind`` names what ``write`` makes.

        Raises:
            Problem: as ``bars``.
        """
        key = self._key(query, kind, self.state.now())
        found = None if key is None else self.pages.get(key)
        if found is None:
            answer = self.bars(query)
            found = write(answer)
            if key is not None and (query.as_of is not None or self._versions(answer) == key[0]):
                self.pages.put(key, found)
        return found

    def _key(
        self, query: BarQuery, kind: Hashable, found: Tables | None, fresh: bool = True
    ) -> tuple[Any, ...] | None:
        """What names an answer; None where that cannot be told without reading."""
        if found is None or (query.as_of is not None and query.as_of.instant is not None):
            return None
        mark = None
        if query.adjusted and self._splits is not None:
            calendar = self.state.calendar_of(found)
            factors = self._factors(query, self._terms(found), calendar, fresh)
            mark = None if factors is None else factors.mark
        return (None if query.as_of is not None else found.versions), kind, query, mark

    def _versions(self, answer: Answer) -> tuple[int, int, int, int]:
        return answer.bars, answer.live, answer.daily, answer.minutes


def _is_short(query: BarQuery) -> bool:
    """Whether a range is so short that the bars of all symbols can be read at once."""
    if query.start is None or query.end is None:
        return False
    length = query.timeframe.sessions * DAY_US or query.timeframe.minutes * MINUTE_US
    return query.end - query.start <= _SHORT * length


def _length(timeframe: Timeframe) -> tuple[int, int]:
    return timeframe.sessions, timeframe.minutes


def pinned(query: BarQuery, answer: Answer) -> BarQuery:
    """Return a question with the versions that its answer was read from."""
    as_of = AsOf(None, answer.bars, answer.live, answer.daily, answer.minutes)
    return replace(query, as_of=as_of)
