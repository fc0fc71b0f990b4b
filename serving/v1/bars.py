"""``/v1/bars`` and ``/v1/timeframes``: history of one symbol or many, by timeframe and range."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import orjson
from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from fibflow.serving.access import Scope, require
from fibflow.serving.caching import Page, respond, respond_page
from fibflow.serving.formats import CONTENT_TYPES, Format, encode, json_rows
from fibflow.serving.history.answer import Answer
from fibflow.serving.history.bars import History
from fibflow.serving.history.query import (
    DEFAULT,
    MOST,
    MOST_SYMBOLS,
    BarQuery,
    Fill,
    Flag,
    Order,
    bar_query,
    choice_of,
    cursor_of,
)
from fibflow.serving.history.recordjson import json_records
from fibflow.serving.history.records import SymbolRows
from fibflow.serving.problems import bad_request
from fibflow.serving.services import Services
from fibflow.transforms.schemas import BARS

router = APIRouter(prefix="/v1", tags=["bars"])

_CURSOR = "X-Next-Cursor"
#: The columns of a bar as they are told; ``timeframe`` is told once.
_NAMES = {name: name for name in BARS.names if name != "timeframe"}
_FILLED = {**_NAMES, "filled": "filled"}


class Versions(BaseModel):
    """The versions of the tables that an answer was read from; -1 for a table that is not there."""

    bars: int = Field(description="of silver.bars")
    live: int = Field(description="of silver.live")
    daily: int | None = Field(None, description="of bronze.daily; where bars were computed")
    minutes: int | None = Field(None, description="of bronze.minutes; where bars were computed")


class Bar(BaseModel):
    """A bar. Its window is ``[ts, end)``: a backtest that uses it before ``end`` looks ahead."""

    symbol: str
    ts: int = Field(description="start of the window, UTC milliseconds")
    end: int = Field(description="end of the window, UTC milliseconds; the bar may be known from then on")
    open: float | None = Field(description="first price; null only where fill=null made the bar")
    high: float | None
    low: float | None
    close: float | None = Field(description="last price")
    volume: float | None = Field(description="shares")
    vwap: float | None = Field(
        description="notional / volume; null where it is not known, or there was no volume"
    )
    trade_count: int | None = Field(description="null where it is not known")
    sessions: int = Field(description="how many sessions gave input")
    complete: bool = Field(description="the window has ended")
    final: bool = Field(description="no more input can change the bar, by policy")
    revision: int = Field(description="how often the bar was published with another content")
    filled: bool | None = Field(None, description="made by fill; there where fill is not none")


class BarsDocument(BaseModel):
    """A page of bars, by symbol, and of each by time; with ``next_cursor`` where there are more."""

    timeframe: str
    count: int
    bars: list[Bar]
    next_cursor: str | None = None
    lake: Versions


class TimeframesDocument(BaseModel):
    """What the lake stores. Others are computed where there are rows to do it."""

    timeframes: list[str]
    anchor: str = Field(description="of <N>d")
    intraday_anchor: str = Field(description="of minutes and hours")
    calendar: str = Field(description="as exchange_calendars names it")
    price_basis: str = Field(description="raw or split-adjusted")
    lake: Versions


_BARS_200: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The bars; none where the range has none.",
        "model": BarsDocument,
        "content": {
            CONTENT_TYPES[format]: {"schema": {"type": "string", "format": "binary"}}
            for format in (Format.CSV, Format.PARQUET, Format.ARROW)
        },
        "headers": {
            "ETag": {"description": "names this content", "schema": {"type": "string"}},
            "Link": {
                "description": 'of formats but JSON: the next page, rel="next"',
                "schema": {"type": "string"},
            },
            _CURSOR: {
                "description": "of formats but JSON: the next page's cursor",
                "schema": {"type": "string"},
            },
        },
    },
}


_TIME = "YYYY-MM-DD (a session's date), ISO 8601, or an epoch in s, ms, us or ns"
_FILLS = "where a symbol has no bar from its first one on: nothing, the close before with volume 0, or nulls"
#: What a question may say: what it means, and the words it may be, where these are few.
_PARAMETERS: dict[str, tuple[str, type[StrEnum] | None]] = {
    "symbols": (f"AAPL,MSFT: {MOST_SYMBOLS} at most", None),
    "timeframe": ("such as 5d, 1d, 1h, 5m: any <N>d, and any <N>h and <N>m that divides a day", None),
    "start": (f"bars whose ts is not before: {_TIME}", None),
    "end": (f"bars whose ts is before: {_TIME}", None),
    "limit": (f"bars a page: {DEFAULT}, at most {MOST}", None),
    "order": ("of a symbol's bars; desc without start gives the last ones", Order),
    "fill": (_FILLS, Fill),
    "adjusted": ("true: scaled to the splits up to now; only where prices are raw", Flag),
    "as_of": ("the lake as it was: an instant, or versions such as bars:12,live:340", None),
    "anchor": ("of <N>d: exchange, listing; of minutes and hours: midnight, open; else the lake's", None),
    "complete": ("true: without windows that have not ended", Flag),
    "format": ("of the answer, default json", Format),
    "cursor": ("of the page before; other parameters as there", None),
}


def _described() -> list[dict[str, Any]]:
    """The parameters for the OpenAPI document: FastAPI takes longer to read them than all else together."""
    required = ("symbols", "timeframe")
    return [
        {
            "name": name,
            "in": "query",
            "required": name in required,
            "description": description,
            "schema": {"type": "string", **({} if words is None else {"enum": list(words)})},
        }
        for name, (description, words) in _PARAMETERS.items()
    ]


@router.get(
    "/bars",
    dependencies=[Depends(require(Scope.HISTORY))],
    responses=_BARS_200,
    openapi_extra={"parameters": _described()},
)
async def get_bars(request: Request) -> Response:
    """Bars of one symbol or many.

    Stored timeframes are read, others are computed from daily or minute rows. Answers have an ETag; those of
    ranges that policy no longer changes may be kept for hours.
    """
    shared: Services = request.app.state.services
    history = shared.history
    given: dict[str, str | None] = {name: request.query_params.get(name) for name in _PARAMETERS}
    written = choice_of(given["format"], Format, "format", Format.JSON)
    if history.state.known() is None and any(_is_date(given[name]) for name in ("start", "end")):
        # A date needs the lake's calendar.
        query = await shared.run(bar_query, given, lambda: history.calendar)
    else:
        query = bar_query(given, lambda: history.calendar)
    declined = given["adjusted"] is not None and not query.adjusted
    kind = "v1", written, declined
    page = None
    if not (declined and history.state.known() and history.terms().price_basis == "split-adjusted"):
        page = history.at_hand(query, kind, lambda answer: _written(query, answer, written))
    if page is None:
        page = await shared.run(_page, history, query, kind)
    if _CURSOR in page.headers:
        following = request.url.include_query_params(cursor=page.headers[_CURSOR]).remove_query_params(
            "apiKey"
        )
        link = f'<{following.path}?{following.query}>; rel="next"'
        page = Page(page.body, page.content_type, page.settled, {**page.headers, "Link": link}, page.etag)
    return respond_page(request, page)


def _is_date(text: str | None) -> bool:
    return text is not None and len(text.strip()) == 10


def _page(history: History, query: BarQuery, kind: tuple[str, Format, bool]) -> Page:
    """The answer as bytes."""
    _, written, declined = kind
    if declined and history.terms().price_basis == "split-adjusted":
        raise bad_request(
            "this lake's prices are split-adjusted, and what they were before is not known: leave adjusted "
            "out",
            "bad_adjusted",
        )
    return history.page(query, kind, lambda answer: _written(query, answer, written))


def _written(query: BarQuery, answer: Answer, format: Format) -> Page:
    position = answer.position
    cursor = None if position is None else cursor_of(query, position)
    if format is Format.JSON:
        return Page(_document(query, answer, cursor), CONTENT_TYPES[format], answer.settled)
    table = answer.table if query.fill is not Fill.NONE else answer.table.drop_columns(["filled"])
    headers = {} if cursor is None else {_CURSOR: cursor}
    return Page(encode(table, format), CONTENT_TYPES[format], answer.settled, headers)


def _document(query: BarQuery, answer: Answer, cursor: str | None) -> bytes:
    if isinstance(answer.rows, SymbolRows):
        rows = json_records(answer.rows, _NAMES)
    else:
        rows = json_rows(answer.table, _NAMES if query.fill is Fill.NONE else _FILLED)
    head = orjson.dumps({"timeframe": query.timeframe.name, "count": len(answer)})
    following = b"" if cursor is None else b',"next_cursor":' + orjson.dumps(cursor)
    lake = orjson.dumps(_versions(answer))
    return head[:-1] + b',"bars":' + rows + following + b',"lake":' + lake + b"}"


def _versions(answer: Answer) -> dict[str, int]:
    found = {"bars": answer.bars, "live": answer.live}
    return found if answer.stored else {**found, "daily": answer.daily, "minutes": answer.minutes}


@router.get("/timeframes", dependencies=[Depends(require(Scope.HISTORY))], response_model=TimeframesDocument)
async def get_timeframes(request: Request) -> Response:
    """The stored timeframes, and how the bars of this lake are made."""
    shared: Services = request.app.state.services
    terms = await shared.run(shared.history.terms)
    document = {
        "timeframes": terms.timeframes,
        "anchor": terms.anchor,
        "intraday_anchor": terms.intraday_anchor,
        "calendar": terms.calendar,
        "price_basis": terms.price_basis,
        "lake": {"bars": terms.bars, "live": terms.live},
    }
    return respond(request, orjson.dumps(document), "application/json", False)
