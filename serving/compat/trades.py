"""The vendor's trades: the last one of a ticker, and those that a stream archived."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Path, Query, Request, Response

from fibflow.io.lake import Lake
from fibflow.serving.access import Scope, require
from fibflow.serving.compat.bodies import listed, ns, single
from fibflow.serving.compat.paging import Asked, asked, next_url
from fibflow.serving.compat.params import choice, compared, ticker_of, whole
from fibflow.serving.compat.route import compat_router
from fibflow.serving.compat.spans import window_us
from fibflow.serving.compat.ticks import TRADE, Ticks, Trades, place_of
from fibflow.serving.formats import json_rows
from fibflow.serving.problems import not_found
from fibflow.serving.services import Services, services

router = compat_router()

DEFAULT, LARGEST = 1_000, 50_000
_NAMES = (*compared("timestamp"), "limit", "order", "sort")
_ORDERS = ("asc", "desc")

Ticker = Annotated[str, Path(description="The symbol, as the source calls it.")]


@router.get(
    "/v2/last/trade/{ticker}",
    summary="The last trade of a ticker",
    dependencies=[Depends(require(Scope.LIVE))],
)
async def last_trade(
    request: Request, shared: Annotated[Services, Depends(services)], ticker: Ticker
) -> Response:
    """The last price, from the first store that has one; `source` and `kind` say which, and what it is of."""
    name = ticker_of(ticker)
    found = (await shared.together.find(name)).prices.get(name)
    if found is None:
        raise not_found(f"there is no price of {name}")
    result = {
        "T": name,
        "p": found.price,
        "s": found.size,
        "t": ns(found.ts),
        "q": found.seq,
        "source": found.source,
        "kind": found.kind,
    }
    return single(request, result)


@router.get(
    "/v2/last/nbbo/{ticker}",
    summary="The last quote of a ticker: there are none",
    dependencies=[Depends(require(Scope.LIVE))],
)
async def last_quote(request: Request, ticker: Ticker) -> Response:
    """Always 404: no quotes are kept here."""
    raise not_found(
        f"there is no quote of {ticker_of(ticker)}: quotes are not kept here, ask for the last trade"
    )


@router.get(
    "/v3/trades/{ticker}",
    summary="Trades of a ticker",
    dependencies=[Depends(require(Scope.HISTORY))],
)
async def list_trades(
    request: Request,
    shared: Annotated[Services, Depends(services)],
    ticker: Ticker,
    timestamp: Annotated[
        str | None, Query(description="`YYYY-MM-DD` or an epoch in ns; also `.gt`, `.gte`, `.lt`, `.lte`.")
    ] = None,
    order: Annotated[str | None, Query(description="`desc` (default) or `asc`, by time.")] = None,
    limit: Annotated[str | None, Query(description="Trades a page, up to 50000. Default 1000.")] = None,
    cursor: Annotated[str | None, Query(description="Of `next_url`.")] = None,
) -> Response:
    """Trades that a stream archived, as they came: cancels and corrections are trades with a `correction`."""
    return await shared.run(_trades, request, shared, asked(request, _NAMES), ticker_of(ticker))


def _trades(request: Request, shared: Services, question: Asked, ticker: str) -> Response:
    params = question.params
    start, end = window_us(params, "timestamp", shared.reference.calendar)
    wanted = Trades(
        ticker,
        start,
        end,
        whole(params, "limit", DEFAULT, 1, LARGEST),
        choice(params, "order", _ORDERS, "desc") == "desc",
        question.place(int, int, int),
    )
    choice(params, "sort", ("timestamp",), "timestamp")
    lake = Lake(shared.settings.lake, shared.settings.aws)
    rows, more = Ticks(lake).trades(wanted)
    following = next_url(request, params, place_of(rows)) if more else None
    return listed(request, json_rows(rows, TRADE, drop_nulls=True), len(rows), following)
