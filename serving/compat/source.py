"""Bars of a span, from the lake: what aggregates and indicators are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from fibflow.serving.caching import Page
from fibflow.serving.compat.bodies import BAR, JSON, NAMED_BAR, bar_rows
from fibflow.serving.compat.periods import fold_days
from fibflow.serving.compat.spans import Span, Unit
from fibflow.serving.history.answer import Answer
from fibflow.serving.history.query import MOST, BarQuery
from fibflow.serving.history.recordjson import json_records
from fibflow.serving.history.records import SymbolRows
from fibflow.serving.problems import Problem
from fibflow.serving.services import Services
from fibflow.transforms.calendar import TradingCalendar
from fibflow.transforms.partials import as_arrow, numbers
from fibflow.transforms.schemas import BARS
from fibflow.transforms.timeframe import DAY, Anchor, IntradayAnchor

_UNKNOWN = "unknown_symbol"
_NO_TIMEFRAME = "unknown_timeframe"
#: The price basis of which splits are not applied yet.
RAW = "raw"
#: More bars than a market has on a day.
_ALL = 10_000_000
DAY_SPAN = Span(1, Unit.DAY)
MINUTE_SPAN = Span(1, Unit.MINUTE)


@dataclass(frozen=True)
class Range:
    """Which bars of a symbol.

    Attributes:
        symbol: whose.
        span: how long they are.
        adjusted: scale to the splits up to now.
        start, end: bars whose ``ts`` lies in ``[start, end)``, UTC microseconds; None for no bound.
        limit: how many at most.
        descending: newest first, and of more than ``limit`` the last ones.
        after: go on behind the bar with this ``ts`` of the order.
    """

    symbol: str
    span: Span
    adjusted: bool
    start: int | None = None
    end: int | None = None
    limit: int = MOST
    descending: bool = False
    after: int | None = None


@dataclass(frozen=True)
class Found:
    """Bars of ``schemas.BARS`` in the order asked for.

    Attributes:
        table: the bars.
        base: how many stored or computed bars they were made of.
        more: the limit cut the range short.
        settled: no bar of the range can change by policy, and none can come to it.
    """

    table: pa.Table
    base: int
    more: bool
    settled: bool


_NOTHING = Found(BARS.empty_table(), 0, False, False)


def now_us(services: Services) -> int:
    """Return now, UTC microseconds."""
    return round(services.clock().timestamp() * 1_000_000)


def is_raw(services: Services) -> bool:
    """Return whether the lake's prices are not adjusted: splits are applied on reading, or left out."""
    return services.history.terms().price_basis == RAW


def read(services: Services, wanted: Range) -> Found:
    """Return the bars of a range; none for a symbol that is not there. Blocks.

    Raises:
        Problem: the lake cannot tell.
    """
    try:
        return _read(services, wanted)
    except Problem as problem:
        if problem.code == _UNKNOWN:
            return _NOTHING
        raise


def _read(services: Services, wanted: Range) -> Found:
    query = _query(services, wanted)
    if query is None:
        return _periods(services, wanted)
    if query.timeframe.sessions > 1 and query.start is not None:
        query = replace(query, start=_window_start(services, query, query.start))
    return _found(services.history.bars(query))


def _found(answer: Answer) -> Found:
    return Found(answer.table, len(answer.table), answer.more, answer.settled)


def _query(services: Services, wanted: Range) -> BarQuery | None:
    """Return the question for stored or computed bars; None for periods of the calendar."""
    timeframe = wanted.span.timeframe
    if timeframe is None:
        return None
    return BarQuery(
        (wanted.symbol,),
        timeframe,
        wanted.start,
        wanted.end,
        wanted.limit,
        wanted.descending,
        # Where nothing is to be scaled, old answers stay as they are.
        wanted.adjusted and is_raw(services),
        intraday_anchor=IntradayAnchor.MIDNIGHT if timeframe.is_intraday else None,
        after=None if wanted.after is None else (wanted.symbol, wanted.after),
    )


@dataclass(frozen=True)
class Rows:
    """Bars as the vendor's JSON.

    Attributes:
        body: an array.
        count: how many there are.
        base: of how many they were made.
        last: the ``ts`` of the last one where the range has more, UTC microseconds.
        settled: no bar of the range can change by policy, and none can come to it.
    """

    body: bytes
    count: int
    base: int
    last: int | None
    settled: bool


NO_ROWS = Rows(b"[]", 0, 0, None, False)
#: Names these answers among those that are kept.
_KIND = "compatible"


def rows_at_hand(services: Services, wanted: Range) -> Rows | None:
    """Return the bars of a range where no data file has to be read for it."""
    query = _plain_query(services, wanted)
    page = None if query is None else services.history.at_hand(query, _KIND, _page_of)
    return None if page is None else _rows_of(page)


def rows(services: Services, wanted: Range) -> Rows:
    """Return the bars of a range; none for a symbol that is not there. Blocks.

    Raises:
        Problem: the lake cannot tell.
    """
    query = _plain_query(services, wanted)
    if query is None:
        return _rows_of(_page(read(services, wanted)))
    try:
        return _rows_of(services.history.page(query, _KIND, _page_of))
    except Problem as problem:
        if problem.code == _UNKNOWN:
            return NO_ROWS
        raise


def rows_at_close(services: Services, start: int, end: int, adjusted: bool) -> Rows:
    """Return the daily bars of all tickers in ``[start, end)``, by ticker, labelled by their closes. Blocks.

    Raises:
        Problem: the lake cannot tell.
    """
    query = BarQuery(None, DAY, start, end, _ALL, adjusted=adjusted and is_raw(services))
    calendar = services.history.calendar

    def write(answer: Answer) -> Page:
        found = _found(answer)
        return _page(replace(found, table=at_close(found.table, calendar)), NAMED_BAR)

    return _rows_of(services.history.page(query, f"{_KIND}-all", write))


def at_close(bars: pa.Table, calendar: TradingCalendar) -> pa.Table:
    """Return daily bars labelled by their sessions' closes: the vendor does where there is one a ticker."""
    at = bars.schema.get_field_index("ts")
    closes = calendar.closes[calendar.positions_at(numbers(bars, "ts"))]
    stamps = as_arrow(closes).view(bars.schema.field(at).type)
    return bars.set_column(at, bars.schema.field(at), stamps)


def _plain_query(services: Services, wanted: Range) -> BarQuery | None:
    """Return the one question that a range takes; None where it takes more."""
    query = _query(services, wanted)
    if query is None or query.timeframe.sessions <= 1 or query.start is None:
        return query
    if services.history.terms().anchor is not Anchor.EXCHANGE:
        return None
    start = window_start(services.history.calendar, query.timeframe.sessions, query.start)
    return replace(query, start=start)


def window_start(calendar: TradingCalendar, sessions: int, instant: int) -> int:
    """Return where the window of the anchor ``exchange`` that holds an instant begins, UTC microseconds.

    The instant where it lies before all sessions, or behind them.
    """
    position = int(np.searchsorted(calendar.day_ends, instant, side="right"))
    if position >= len(calendar):
        return instant
    first = position - (position - calendar.origin) % sessions
    return min(instant, int(calendar.day_starts[max(first, 0)]))


def _page_of(answer: Answer) -> Page:
    if not isinstance(answer.rows, SymbolRows):
        return _page(_found(answer))
    rows = answer.rows
    last = int(rows.records["ts"][-1]) if answer.more else ""
    facts = {"count": str(len(rows)), "base": str(len(rows)), "last": str(last)}
    return Page(json_records(rows, BAR, drop_nulls=True), JSON, answer.settled, facts, etag="-")


def _page(found: Found, names: Mapping[str, str] = BAR) -> Page:
    last = int(numbers(found.table, "ts")[-1]) if found.more else ""
    facts = {"count": str(len(found.table)), "base": str(found.base), "last": str(last)}
    # The envelope is another for each question: an ETag is made of both.
    return Page(bar_rows(found.table, names), JSON, found.settled, facts, etag="-")


def _rows_of(page: Page) -> Rows:
    facts = page.headers
    last = int(facts["last"]) if facts["last"] else None
    return Rows(page.body, int(facts["count"]), int(facts["base"]), last, page.settled)


def _window_start(services: Services, query: BarQuery, start: int) -> int:
    """Return where the bar of several sessions that holds an instant begins; the instant where none does."""
    last = replace(query, start=None, end=start + 1, limit=1, descending=True, after=None)
    table = services.history.bars(last).table
    return int(numbers(table, "ts")[0]) if len(table) and numbers(table, "end")[0] > start else start


def _periods(services: Services, wanted: Range) -> Found:
    adjusted = wanted.adjusted and is_raw(services)
    query = BarQuery((wanted.symbol,), DAY, wanted.start, wanted.end, MOST, adjusted=adjusted)
    answer = services.history.bars(query)
    bars = fold_days(answer.table, wanted.span, services.history.calendar, now_us(services))
    ts = numbers(bars, "ts")
    at = np.arange(len(ts))[::-1] if wanted.descending else np.arange(len(ts))
    if wanted.after is not None:
        at = at[(ts[at] < wanted.after) if wanted.descending else (ts[at] > wanted.after)]
    more = len(at) > wanted.limit
    return Found(bars.take(as_arrow(at[: wanted.limit])), len(answer.table), more, answer.settled)


def extended_hours(
    services: Services, symbol: str, adjusted: bool, position: int
) -> tuple[float | None, float | None]:
    """Return the first price before a session's open, and the last one after its close; None for none.

    They are those of minute bars: None, too, where the lake has none.
    """
    calendar = services.reference.calendar
    opens, closes = int(calendar.opens[position]), int(calendar.closes[position])
    starts, ends = int(calendar.day_starts[position]), int(calendar.day_ends[position])
    early = Range(symbol, MINUTE_SPAN, adjusted, starts, opens, 1)
    late = Range(symbol, MINUTE_SPAN, adjusted, closes, ends, 1, descending=True)
    return _price(services, early, "open"), _price(services, late, "close")


def _price(services: Services, wanted: Range, column: str) -> float | None:
    try:
        table = read(services, wanted).table
    except Problem as problem:
        if problem.code == _NO_TIMEFRAME:
            return None
        raise
    found: list[Any] = table[column].to_pylist()
    return found[0] if found else None
