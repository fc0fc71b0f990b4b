"""The vendor's reference data: tickers, their types, and splits."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import Annotated, Any

from fastapi import Depends, Path, Query, Request, Response

from fibflow.serving.access import Scope, require
from fibflow.serving.compat.bodies import listed, single
from fibflow.serving.compat.codes import TICKER_TYPES
from fibflow.serving.compat.paging import Asked, asked, next_url
from fibflow.serving.compat.params import (
    Params,
    Texts,
    choice,
    compared,
    date_of,
    dates_checked,
    flag,
    ticker_of,
    whole,
)
from fibflow.serving.compat.route import compat_router
from fibflow.serving.problems import not_found
from fibflow.serving.reference import Symbol
from fibflow.serving.services import Services, services

router = compat_router()

DEFAULT, LARGEST = 100, 1_000
_LISTED = ("ticker", "name", "type", "primary_exchange")
_TICKERS = (
    *compared("ticker"),
    "ticker.any_of",
    "type",
    "market",
    "exchange",
    "cusip",
    "cik",
    "date",
    "active",
    "search",
    "sort",
    "order",
    "limit",
)
_SPLITS = (
    *compared("ticker", "execution_date", "adjustment_type"),
    "ticker.any_of",
    "adjustment_type.any_of",
    "reverse_split",
    "sort",
    "order",
    "limit",
)
ORDERS = ("asc", "desc")

Shared = Annotated[Services, Depends(services)]
Text = Annotated[str | None, Query()]
Cursor = Annotated[str | None, Query(description="Of `next_url`.")]
HISTORY = [Depends(require(Scope.HISTORY))]


@router.get("/v3/reference/tickers", summary="Tickers", dependencies=HISTORY)
async def list_tickers(
    request: Request,
    shared: Shared,
    ticker: Annotated[str | None, Query(description="Also `.gt`, `.gte`, `.lt`, `.lte`.")] = None,
    type: Text = None,
    market: Text = None,
    exchange: Annotated[str | None, Query(description="ISO 10383, such as `XNAS`.")] = None,
    cusip: Text = None,
    cik: Text = None,
    date: Annotated[str | None, Query(description="Those that were listed on a day, `YYYY-MM-DD`.")] = None,
    active: Annotated[str | None, Query(description="`true` (default) or `false`.")] = None,
    search: Annotated[str | None, Query(description="In the ticker or the name.")] = None,
    sort: Text = None,
    order: Text = None,
    limit: Annotated[str | None, Query(description="Tickers a page, up to 1000. Default 100.")] = None,
    cursor: Cursor = None,
) -> Response:
    """The symbols of the lake that fit, by ticker."""
    return await shared.run(_tickers, request, shared, asked(request, _TICKERS))


def _tickers(request: Request, shared: Services, question: Asked) -> Response:
    params = question.params
    fits = _conditions(params)
    found = [_ticker(symbol) for symbol in shared.reference.symbols() if fits(symbol)]
    key = choice(params, "sort", _LISTED, "ticker")
    limit = whole(params, "limit", DEFAULT, 1, LARGEST)
    return page(request, question, found, (key, "ticker"), limit, choice(params, "order", ORDERS, "asc"))


def page(
    request: Request,
    question: Asked,
    rows: list[dict[str, Any]],
    keys: tuple[str, str],
    limit: int,
    order: str,
) -> Response:
    """Return a page of rows, sorted by two members of theirs, of which the second tells rows apart.

    Rows that lack the first one are sorted as if it were empty.
    """
    descending = order == "desc"

    def place(row: dict[str, Any]) -> list[str]:
        return [str(row[key]) if row[key] is not None else "" for key in keys]

    rows = sorted(rows, key=place, reverse=descending)
    if after := question.place(str, str):
        bound = list(after)
        rows = [row for row in rows if (place(row) < bound if descending else place(row) > bound)]
    shown = rows[:limit]
    more = len(rows) > limit
    following = next_url(request, question.params, place(shown[-1])) if more else None
    return listed(request, shown, len(shown), following)


def _conditions(params: Params) -> Callable[[Symbol], bool]:
    """Return what tells whether a symbol fits a question."""
    names = Texts.of(params, "ticker")
    day = date_of(params["date"], "date") if params.get("date") else None
    # On a day of the past tickers count that trade no more.
    active = flag(params, "active", True) if "active" in params or day is None else None
    kind, exchange = params.get("type"), params.get("exchange")
    search = params.get("search", "").strip().casefold()
    # What is not known of any ticker fits none.
    elsewhere = params.get("market", "stocks") not in ("stocks", "") or bool(params.get("cusip"))
    cik = params.get("cik", "").lstrip("0")

    def fits(symbol: Symbol) -> bool:
        return (
            not elsewhere
            and (active is None or symbol.active is active)
            and names.hold(symbol.symbol)
            and (not kind or symbol.type == kind)
            and (not exchange or symbol.exchange == exchange)
            and (day is None or _was_listed(symbol, day))
            and (not cik or (symbol.cik or "").lstrip("0") == cik)
            and (not search or search in symbol.symbol.casefold() or search in (symbol.name or "").casefold())
        )

    return fits


def _was_listed(symbol: Symbol, day: date) -> bool:
    return (symbol.listed is None or symbol.listed <= day) and (
        symbol.delisted is None or day < symbol.delisted
    )


def _ticker(symbol: Symbol) -> dict[str, Any]:
    return {
        "ticker": symbol.symbol,
        "name": symbol.name,
        "market": "stocks",
        "locale": "us",
        "primary_exchange": symbol.exchange,
        "type": symbol.type,
        "active": symbol.active,
        "currency_name": symbol.currency,
        "cik": symbol.cik,
        "composite_figi": symbol.composite_figi,
        "share_class_figi": symbol.share_class_figi,
        "last_updated_utc": None if symbol.updated is None else f"{symbol.updated:%Y-%m-%dT%H:%M:%SZ}",
        "delisted_utc": None if symbol.delisted is None else f"{symbol.delisted}T00:00:00Z",
    }


@router.get("/v3/reference/tickers/types", summary="Types of tickers", dependencies=HISTORY)
async def ticker_types(request: Request, asset_class: Text = None, locale: Text = None) -> Response:
    """The vendor's codes of types; only those of US stocks."""
    stocks = (asset_class or "stocks") == "stocks" and (locale or "us") == "us"
    rows = [
        {"code": code, "description": told, "asset_class": "stocks", "locale": "us"}
        for code, told in (TICKER_TYPES.items() if stocks else ())
    ]
    return listed(request, rows, len(rows), None, settled=True)


@router.get("/v3/reference/tickers/{ticker}", summary="One ticker", dependencies=HISTORY)
async def ticker_details(
    request: Request,
    shared: Shared,
    ticker: Annotated[str, Path(description="The symbol, as the source calls it.")],
    date: Annotated[str | None, Query(description="As it was on a day, `YYYY-MM-DD`.")] = None,
) -> Response:
    """What is known of a ticker."""
    name = ticker_of(ticker)
    day = date_of(date, "date") if date else None
    symbol = await shared.run(shared.reference.symbol, name)
    if symbol is None or (day is not None and not _was_listed(symbol, day)):
        raise not_found(f"there is no ticker {name}")
    details = {
        "list_date": None if symbol.listed is None else symbol.listed.isoformat(),
        "description": symbol.description,
        "homepage_url": symbol.homepage,
    }
    return single(request, {**_ticker(symbol), **details})


@router.get("/v3/reference/splits", summary="Splits", dependencies=HISTORY)
@router.get("/stocks/v1/splits", summary="Splits", dependencies=HISTORY)
async def list_splits(
    request: Request,
    shared: Shared,
    ticker: Annotated[str | None, Query(description="Also `.gt`, `.gte`, `.lt`, `.lte`, `.any_of`.")] = None,
    execution_date: Annotated[str | None, Query(description="`YYYY-MM-DD`; also `.gt` and the like.")] = None,
    reverse_split: Annotated[
        str | None, Query(description="`true`: only those that make shares fewer.")
    ] = None,
    adjustment_type: Annotated[str | None, Query(description="`forward_split` or `reverse_split`.")] = None,
    sort: Text = None,
    order: Text = None,
    limit: Annotated[str | None, Query(description="Splits a page, up to 1000. Default 100.")] = None,
    cursor: Cursor = None,
) -> Response:
    """Splits, the latest first."""
    return await shared.run(_splits, request, shared, asked(request, _SPLITS))


def _splits(request: Request, shared: Services, question: Asked) -> Response:
    params = question.params
    names, days, kinds = (Texts.of(params, name) for name in ("ticker", "execution_date", "adjustment_type"))
    dates_checked(params, "execution_date")
    reverse = flag(params, "reverse_split", False) if params.get("reverse_split") else None
    found = [
        _split(row)
        for row in shared.reference.splits(names.equal).to_pylist()
        if names.hold(row["symbol"])
        and days.hold(row["execution_date"].isoformat())
        and (reverse is None or (row["split_from"] > row["split_to"]) is reverse)
    ]
    found = [row for row in found if kinds.hold(row["adjustment_type"])]
    # Massive's client writes `execution_date.desc`, or several of them.
    key, _, told = params.get("sort", "").split(",")[0].partition(".")
    key = choice({"sort": key}, "sort", ("execution_date", "ticker"), "execution_date")
    order = choice({"order": told or params.get("order", "")}, "order", ORDERS, "desc")
    limit = whole(params, "limit", DEFAULT, 1, LARGEST)
    return page(request, question, found, (key, "id"), limit, order)


def _split(row: dict[str, Any]) -> dict[str, Any]:
    many, few = row["split_to"], row["split_from"]
    day = row["execution_date"].isoformat()
    return {
        "id": row["id"] or f"{row['symbol']}-{day}",
        "ticker": row["symbol"],
        "execution_date": day,
        "split_from": few,
        "split_to": many,
        "adjustment_type": "forward_split" if many >= few else "reverse_split",
    }
