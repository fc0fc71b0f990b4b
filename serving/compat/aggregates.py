"""The vendor's aggregates: bars of a range, of the day before, of all tickers on a day; a day's prices."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any

import numpy as np
import orjson
from fastapi import Depends, Path, Query, Request, Response

from fibflow.serving.access import Scope, require
from fibflow.serving.caching import respond
from fibflow.serving.compat.bodies import JSON, NAMED_BAR, alone, answered, bar_rows, without_nulls
from fibflow.serving.compat.paging import Asked, asked, next_url
from fibflow.serving.compat.params import choice, flag, moment_of, ticker_of, whole
from fibflow.serving.compat.route import compat_router
from fibflow.serving.compat.source import (
    DAY_SPAN,
    NO_ROWS,
    Range,
    Rows,
    at_close,
    extended_hours,
    is_raw,
    now_us,
    read,
    rows,
    rows_at_close,
    rows_at_hand,
)
from fibflow.serving.compat.spans import Span, bounds_us, local_date
from fibflow.serving.problems import bad_request, not_found
from fibflow.serving.services import Services, services
from fibflow.transforms.calendar import NO_SESSION, TradingCalendar

router = compat_router()

DEFAULT, LARGEST = 5_000, 50_000
_SORTS = ("asc", "desc")
_RANGE = ("adjusted", "sort", "limit")

Ticker = Annotated[str, Path(description="The symbol, as the source calls it.")]
Adjusted = Annotated[str | None, Query(description="`false`: not scaled to later splits. Default `true`.")]
Sort = Annotated[str | None, Query(description="`asc` (default) or `desc`, by time.")]
Limit = Annotated[str | None, Query(description="Bars a page, up to 50000. Default 5000.")]
Cursor = Annotated[str | None, Query(description="Of `next_url`: the question's next page.")]
Day = Annotated[str, Path(description="`YYYY-MM-DD`.")]


@router.get(
    "/v2/aggs/ticker/{ticker}/range/{multiplier}/{timespan}/{from}/{to}",
    summary="Bars of a ticker in a range",
    dependencies=[Depends(require(Scope.HISTORY))],
)
async def range_aggregates(
    request: Request,
    shared: Annotated[Services, Depends(services)],
    ticker: Ticker,
    multiplier: Annotated[str, Path(description="How many timespans a bar is long.")],
    timespan: Annotated[str, Path(description="minute, hour, day, week, month, quarter or year.")],
    first: Annotated[str, Path(alias="from", description="`YYYY-MM-DD`, or an epoch in milliseconds.")],
    last: Annotated[str, Path(alias="to", description="Likewise; a date is in with all of its day.")],
    adjusted: Adjusted = None,
    sort: Sort = None,
    limit: Limit = None,
    cursor: Cursor = None,
) -> Response:
    """Bars whose window meets the range: `from` snaps down to a window's start, `to` up to its end.

    `limit` counts the bars of the answer. `next_url` is there when the range has more.
    """
    question, name, path = asked(request, _RANGE), ticker_of(ticker), (multiplier, timespan, first, last)
    answer = _at_hand(shared, question, name, path)
    if answer is None:
        answer = await shared.run(_found, shared, question, name, path)
    wanted, found = answer
    members = _members(name, wanted.adjusted or not is_raw(shared), found.count, found.base)
    if found.last is not None:
        members["next_url"] = next_url(request, question.params, [found.last])
    return _bars(request, members, found.body, found.settled)


def _at_hand(
    shared: Services, question: Asked, ticker: str, path: tuple[str, str, str, str]
) -> tuple[Range, Rows] | None:
    """Return the question and its answer where no data file has to be read for it."""
    if shared.history.state.known() is None:
        return None
    wanted = _wanted(question, ticker, path, shared.history.calendar)
    found = rows_at_hand(shared, wanted)
    return None if found is None else (wanted, found)


def _found(
    shared: Services, question: Asked, ticker: str, path: tuple[str, str, str, str]
) -> tuple[Range, Rows]:
    wanted = _wanted(question, ticker, path, shared.history.calendar)
    return wanted, rows(shared, wanted)


def _wanted(
    question: Asked, ticker: str, path: tuple[str, str, str, str], calendar: TradingCalendar
) -> Range:
    """Return which bars a path and its parameters ask for.

    Raises:
        Problem: one of them cannot be read.
    """
    span = Span.of(path[0], path[1])
    first, last = moment_of(path[2], "from"), moment_of(path[3], "to")
    if bounds_us(first, calendar)[0] > bounds_us(last, calendar)[1]:
        raise bad_request("the parameter 'to' is a time before 'from'", "bad_range")
    params, after = question.params, question.place(int)
    return Range(
        ticker,
        span,
        flag(params, "adjusted", True),
        span.start(first, calendar),
        span.end(last, calendar),
        whole(params, "limit", DEFAULT, 1, LARGEST),
        choice(params, "sort", _SORTS, "asc") == "desc",
        None if after is None else after[0],
    )


@router.get(
    "/v2/aggs/ticker/{ticker}/prev",
    summary="The last day before today",
    dependencies=[Depends(require(Scope.HISTORY))],
)
async def previous_close(
    request: Request,
    shared: Annotated[Services, Depends(services)],
    ticker: Ticker,
    adjusted: Adjusted = None,
) -> Response:
    """The bar of the last session before today on which the ticker traded; `t` is that session's close."""
    wish = flag(request.query_params, "adjusted", True)
    return await shared.run(_previous, request, shared, ticker_of(ticker), wish)


def _previous(request: Request, shared: Services, ticker: str, wish: bool) -> Response:
    calendar = shared.history.calendar
    today = DAY_SPAN.start(local_date(now_us(shared), calendar), calendar)
    wanted = Range(ticker, DAY_SPAN, wish, end=today, limit=1, descending=True)
    found = read(shared, wanted)
    count = len(found.table)
    body = bar_rows(at_close(found.table, calendar), NAMED_BAR)
    return _bars(request, _members(ticker, wish or not is_raw(shared), count, count), body, settled=False)


@router.get(
    "/v2/aggs/grouped/locale/us/market/stocks/{date}",
    summary="The bars of all tickers on a day",
    dependencies=[Depends(require(Scope.HISTORY))],
)
async def grouped_daily(
    request: Request,
    shared: Annotated[Services, Depends(services)],
    date: Day,
    adjusted: Adjusted = None,
) -> Response:
    """The daily bar of every ticker that traded, by ticker; `t` is the session's close."""
    wish = flag(request.query_params, "adjusted", True)
    return await shared.run(_grouped, request, shared, date, wish)


def _grouped(request: Request, shared: Services, text: str, wish: bool) -> Response:
    calendar = shared.history.calendar
    day = _date(text, calendar)
    found = NO_ROWS
    if _position(day, calendar) != NO_SESSION:
        start, end = DAY_SPAN.start(day, calendar), DAY_SPAN.end(day, calendar)
        found = rows_at_close(shared, start, end, wish)
    members: dict[str, Any] = {
        "status": "OK",
        "adjusted": wish or not is_raw(shared),
        "queryCount": found.count,
        "resultsCount": found.count,
        "count": found.count,
    }
    return _bars(request, members, found.body, found.settled)


@router.get(
    "/v1/open-close/{ticker}/{date}",
    summary="A day's prices",
    dependencies=[Depends(require(Scope.HISTORY))],
)
async def open_close(
    request: Request,
    shared: Annotated[Services, Depends(services)],
    ticker: Ticker,
    date: Day,
    adjusted: Adjusted = None,
) -> Response:
    """A session's prices and volume, its first price before the open and the last one after hours."""
    wish = flag(request.query_params, "adjusted", True)
    return await shared.run(_open_close, request, shared, ticker_of(ticker), date, wish)


def _open_close(request: Request, shared: Services, ticker: str, text: str, wish: bool) -> Response:
    calendar = shared.history.calendar
    day = _date(text, calendar)
    position = _position(day, calendar)
    if position == NO_SESSION:
        raise not_found(f"{day} is no session of {calendar.name}: there are no prices")
    start, end = DAY_SPAN.start(day, calendar), DAY_SPAN.end(day, calendar)
    wanted = Range(ticker, DAY_SPAN, wish, start, end, 1)
    found = read(shared, wanted)
    if not len(found.table):
        raise not_found(f"there is no bar of {ticker} on {day}")
    early, late = extended_hours(shared, ticker, wish, position)
    row = found.table.select(["open", "high", "low", "close", "volume", "final"]).to_pylist()[0]
    body = {
        "status": "OK",
        "from": day.isoformat(),
        "symbol": ticker,
        **row,
        "preMarket": early,
        "afterHours": late,
        "adjusted": wish or not is_raw(shared),
    }
    return respond(request, orjson.dumps(without_nulls(body)), JSON, found.settled)


def _members(ticker: str, is_adjusted: bool, count: int, base: int) -> dict[str, Any]:
    return {
        "status": "OK",
        "ticker": ticker,
        "adjusted": is_adjusted,
        "queryCount": base,
        "resultsCount": count,
        "count": count,
    }


def _bars(request: Request, members: dict[str, Any], body: bytes, settled: bool) -> Response:
    """Return bars in their envelope; without any there is no ``results``."""
    if not members["count"]:
        return respond(request, alone(members), JSON, settled)
    return answered(request, members, "results", body, settled)


def _position(day: date, calendar: TradingCalendar) -> int:
    return int(calendar.positions(np.array([(day - date(1970, 1, 1)).days], np.int64))[0])


def _date(text: str, calendar: TradingCalendar) -> date:
    moment = moment_of(text, "date")
    return moment if isinstance(moment, date) else local_date(moment // 1_000, calendar)
