"""The vendor's news: articles by ticker and time, a page at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request, Response

from fibflow.io.lake import Lake
from fibflow.io.news.articles import json_of, micros, us_of
from fibflow.io.news.reading import NewsReader, Wanted
from fibflow.serving.caching import Page, PageCache, respond_page
from fibflow.serving.compat.bodies import JSON, glued
from fibflow.serving.compat.paging import Asked, asked, next_url
from fibflow.serving.compat.params import COMPARISONS, Params, Texts, choice, compared, moment_of, whole
from fibflow.serving.compat.route import CompatRoute
from fibflow.serving.compat.tickers import HISTORY, ORDERS, Cursor, Shared, Text
from fibflow.serving.services import Services

DEFAULT, LARGEST = 10, 1_000
#: Of pages, as bytes.
_CACHE = 8 << 20
_NAMES = (*compared("ticker", "published_utc"), "ticker.any_of", "sort", "order", "limit")
_NS_A_US = 1_000


class _News:
    """What the requests of a process share."""

    def __init__(self, services: Services) -> None:
        settings = services.settings
        self.reader = NewsReader(Lake(settings.lake, settings.aws), settings.refresh_s)
        self.pages = PageCache(_CACHE)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.news = _News(app.state.services)
    yield


router = APIRouter(route_class=CompatRoute, tags=["compatible"], lifespan=_lifespan)


@router.get("/v2/reference/news", summary="News", dependencies=HISTORY)
async def list_news(
    request: Request,
    shared: Shared,
    ticker: Annotated[
        str | None, Query(description="One of an article's; also `.gt`, `.gte`, `.lt`, `.lte`, `.any_of`.")
    ] = None,
    published_utc: Annotated[
        str | None,
        Query(description="`YYYY-MM-DD` (UTC), ISO 8601 or an epoch; also `.gt`, `.gte`, `.lt`, `.lte`."),
    ] = None,
    sort: Text = None,
    order: Annotated[str | None, Query(description="`desc` (default) or `asc`, by time.")] = None,
    limit: Annotated[str | None, Query(description="Articles a page, up to 1000. Default 10.")] = None,
    cursor: Cursor = None,
) -> Response:
    """Articles on tickers as the vendor told them last, the newest first."""
    return await shared.run(_news, request, request.app.state.news, asked(request, _NAMES))


def _news(request: Request, news: _News, question: Asked) -> Response:
    params = question.params
    choice(params, "sort", ("published_utc",), "published_utc")
    names = Texts.of(params, "ticker")
    start, end = _window(params)
    found = news.reader.find(
        Wanted(
            fits=names.hold
            if any(params.get(name) for name in _NAMES if name.startswith("ticker"))
            else None,
            ticker=names.equal,
            start=start,
            end=end,
            limit=whole(params, "limit", DEFAULT, 1, LARGEST),
            descending=choice(params, "order", ORDERS, "desc") == "desc",
            after=question.place(int, str),
        )
    )
    # Files never change: where the same rows answer the same question, so does the same page.
    key = (str(request.base_url), tuple(sorted(params.items())), question.after, found.key)
    page = news.pages.get(key)
    if page is None:
        rows, more = news.reader.read(found)
        members: dict[str, Any] = {"status": "OK", "count": len(rows)}
        if more:
            last = rows.slice(len(rows) - 1)
            place = int(micros(last["published"])[0]), last["id"][0].as_py()
            members["next_url"] = next_url(request, params, place)
        page = Page(glued(members, "results", json_of(rows)), JSON, False)
        news.pages.put(key, page)
    return respond_page(request, page)


def _window(params: Params) -> tuple[int | None, int | None]:
    """Return the range ``[start, end)`` that comparisons leave, UTC microseconds; a date is a day of UTC.

    Raises:
        Problem: one of them is no time.
    """
    starts: list[int] = []
    ends: list[int] = []
    for sign in ("", *COMPARISONS):
        key = f"published_utc.{sign}" if sign else "published_utc"
        if not (text := params.get(key)):
            continue
        first, behind = _moment(text, key)
        if sign in ("", "gt", "gte"):
            starts.append(behind if sign == "gt" else first)
        if sign in ("", "lt", "lte"):
            ends.append(first if sign == "lt" else behind)
    return max(starts, default=None), min(ends, default=None)


def _moment(text: str, key: str) -> tuple[int, int]:
    moment = moment_of(text, key)
    if isinstance(moment, date):
        first = us_of(datetime(moment.year, moment.month, moment.day, tzinfo=UTC))
        return first, first + timedelta(days=1) // timedelta(microseconds=1)
    # Clients make nanoseconds of doubles: they are off by some hundreds.
    first = (moment + _NS_A_US // 2) // _NS_A_US
    return first, first + 1
