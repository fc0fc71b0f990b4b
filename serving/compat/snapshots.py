"""The vendor's snapshots: of one ticker, of all, of those that moved most, and the universal ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from fastapi import Depends, Path, Query, Request, Response

from fibflow.serving.access import Scope, require
from fibflow.serving.compat import sightjson
from fibflow.serving.compat.bodies import answered, listed
from fibflow.serving.compat.paging import Asked, asked, next_url
from fibflow.serving.compat.params import Texts, choice, compared, ticker_of, whole
from fibflow.serving.compat.route import compat_router
from fibflow.serving.compat.sightjson import snapshot, snapshots
from fibflow.serving.compat.sights import Sights, of_market, of_symbols
from fibflow.serving.compat.source import now_us
from fibflow.serving.market import Status, status
from fibflow.serving.problems import bad_request, not_found
from fibflow.serving.services import Services, services

router = compat_router()

_HOME = "/v2/snapshot/locale/us/markets/stocks"
_MOVERS = 20
_LEAST_VOLUME = 10_000.0
_MOST_TICKERS = 250
_UNIVERSAL = (*compared("ticker"), "ticker.any_of", "type", "order", "sort", "limit")

Shared = Annotated[Services, Depends(services)]
_LIVE = [Depends(require(Scope.LIVE))]


@router.get(f"{_HOME}/tickers", summary="Snapshots of all tickers", dependencies=_LIVE)
async def all_tickers(
    request: Request,
    shared: Shared,
    tickers: Annotated[str | None, Query(description="Some only, with commas: 250 at most.")] = None,
) -> Response:
    """Snapshots of the tickers that are named, or of all that have traded within the last 15 sessions."""
    names = [ticker_of(part) for text in (tickers or "").split(",") if (part := text.strip())]
    _check(names)
    return await shared.run(_some, request, shared, names)


def _some(request: Request, shared: Services, names: Sequence[str]) -> Response:
    return _listed(request, of_symbols(shared, names) if names else of_market(shared))


def _listed(request: Request, sights: Sights) -> Response:
    return listed(request, snapshots(sights), len(sights.symbols), None, key="tickers")


@router.get(_HOME + "/tickers/{ticker}", summary="The snapshot of a ticker", dependencies=_LIVE)
async def one_ticker(
    request: Request,
    shared: Shared,
    ticker: Annotated[str, Path(description="The symbol, as the source calls it.")],
) -> Response:
    """The day's bar, the one before, the last minute's and the last price."""
    return await shared.run(_one, request, shared, ticker_of(ticker))


def _one(request: Request, shared: Services, name: str) -> Response:
    sights = of_symbols(shared, [name])
    if not sights.symbols:
        raise not_found(f"there is no ticker {name}")
    return answered(request, {"status": "OK"}, "ticker", snapshot(sights))


@router.get(_HOME + "/gainers", summary="The tickers that rose most", dependencies=_LIVE)
async def gainers(request: Request, shared: Shared) -> Response:
    """Twenty tickers at most, of those with a volume of 10,000 shares or more on the day."""
    return await shared.run(_movers, request, shared, 1)


@router.get(_HOME + "/losers", summary="The tickers that fell most", dependencies=_LIVE)
async def losers(request: Request, shared: Shared) -> Response:
    """Twenty tickers at most, of those with a volume of 10,000 shares or more on the day."""
    return await shared.run(_movers, request, shared, -1)


def _movers(request: Request, shared: Services, sign: int) -> Response:
    sights = of_market(shared)
    change = sights.change_percent * sign
    at = np.flatnonzero((change > 0) & (sights.day.doubles("volume") >= _LEAST_VOLUME))
    # Stable: of equal ones the first ticker comes first.
    best = at[np.argsort(-change[at], kind="stable")][:_MOVERS]
    return _listed(request, sights.take(best))


@router.get("/v3/snapshot", summary="Snapshots of any tickers", dependencies=_LIVE)
async def universal(
    request: Request,
    shared: Shared,
    ticker: Annotated[str | None, Query(description="Also `.gt`, `.gte`, `.lt`, `.lte`, `.any_of`.")] = None,
    type: Annotated[str | None, Query(description="`stocks`: others there are none of.")] = None,
    order: Annotated[str | None, Query(description="`asc` (default) or `desc`, by ticker.")] = None,
    limit: Annotated[str | None, Query(description="Tickers a page, up to 250. Default 10.")] = None,
    cursor: Annotated[str | None, Query(description="Of `next_url`.")] = None,
) -> Response:
    """Snapshots of the tickers that are named, or of all; one that is not there is told in its place."""
    return await shared.run(_universal, request, shared, asked(request, _UNIVERSAL))


def _universal(request: Request, shared: Services, question: Asked) -> Response:
    params = question.params
    texts = Texts.of(params, "ticker")
    limit = whole(params, "limit", 10, 1, _MOST_TICKERS)
    descending = choice(params, "order", ("asc", "desc"), "asc") == "desc"
    if params.get("type", "stocks") not in ("stocks", ""):
        names: list[str] = []
    elif texts.among is not None:
        named = [ticker_of(name) for name in texts.among if name]
        _check(named)
        names = [name for name in named if texts.hold(name)]
    else:
        symbols = shared.reference.symbols()
        names = [one.symbol for one in symbols if one.has_bars and texts.hold(one.symbol)]
    names.sort(reverse=descending)
    if after := question.place(str):
        names = [name for name in names if (name < after[0] if descending else name > after[0])]
    shown = names[:limit]
    following = next_url(request, params, [shown[-1]]) if len(names) > limit else None
    return listed(request, _universals(shared, shown), len(shown), following)


def _universals(shared: Services, names: Sequence[str]) -> bytes:
    told = {symbol.symbol: symbol.name for symbol in map(shared.reference.symbol, names) if symbol}
    market = status(shared.reference.calendar, now_us(shared))
    return sightjson.universal(of_symbols(shared, names), names, told, _market(market))


def _market(market: Status) -> str:
    if market.early:
        return "early_trading"
    return "late_trading" if market.after else str(market.market)


def _check(names: Sequence[str]) -> None:
    if len(names) > _MOST_TICKERS:
        raise bad_request(f"{len(names)} tickers at once: name {_MOST_TICKERS} at most, or none for all")
