"""The vendor's dividends, and what has become of a ticker: cash a share, and names."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any

from fastapi import Path, Query, Request, Response

from fibflow.serving.compat.bodies import single
from fibflow.serving.compat.paging import Asked, asked
from fibflow.serving.compat.params import Params, Texts, choice, compared, dates_checked, ticker_of, whole
from fibflow.serving.compat.route import compat_router
from fibflow.serving.compat.tickers import DEFAULT, HISTORY, LARGEST, ORDERS, Cursor, Shared, Text, page
from fibflow.serving.problems import bad_request, not_found
from fibflow.serving.reference import Listing, Symbol
from fibflow.serving.services import Services

router = compat_router()

_DATES = ("ex_dividend_date", "record_date", "declaration_date", "pay_date")
_NUMBERS = ("cash_amount", "frequency")
_KINDS = ("dividend_type", "distribution_type")
_DIVIDENDS = (
    *compared("ticker", *_DATES, *_NUMBERS),
    "ticker.any_of",
    *_KINDS,
    *(f"{name}.any_of" for name in _KINDS),
    "sort",
    "order",
    "limit",
)
_SORTS = (*_DATES, "ticker")
#: The vendor's newer words for its codes.
_WORDS = {"CD": "recurring", "SC": "special"}
_CHANGES = "ticker_change"
#: What the vendor says of who had a ticker before it began to keep record.
_EVER = date(2003, 9, 10)

DayText = Annotated[str | None, Query(description="`YYYY-MM-DD`; also `.gt` and the like.")]


@router.get("/v3/reference/dividends", summary="Dividends", dependencies=HISTORY)
@router.get("/stocks/v1/dividends", summary="Dividends", dependencies=HISTORY)
async def list_dividends(
    request: Request,
    shared: Shared,
    ticker: Annotated[str | None, Query(description="Also `.gt`, `.gte`, `.lt`, `.lte`, `.any_of`.")] = None,
    ex_dividend_date: DayText = None,
    record_date: DayText = None,
    declaration_date: DayText = None,
    pay_date: DayText = None,
    frequency: Annotated[str | None, Query(description="How many a year; also `.gt` and the like.")] = None,
    cash_amount: Annotated[str | None, Query(description="A share; also `.gt` and the like.")] = None,
    dividend_type: Annotated[str | None, Query(description="`CD`, `SC`, ...")] = None,
    distribution_type: Annotated[str | None, Query(description="`recurring`, `special`, ...")] = None,
    sort: Text = None,
    order: Text = None,
    limit: Annotated[str | None, Query(description="Dividends a page, up to 1000. Default 100.")] = None,
    cursor: Cursor = None,
) -> Response:
    """Cash dividends as they were declared, the latest first. They do not adjust prices."""
    return await shared.run(_dividends, request, shared, asked(request, _DIVIDENDS))


def _dividends(request: Request, shared: Services, question: Asked) -> Response:
    params = question.params
    for name in _DATES:
        dates_checked(params, name)
    names = Texts.of(params, "ticker")
    texts = {name: Texts.of(params, name) for name in (*_DATES, *_KINDS) if _is_asked(params, name)}
    numbers = {name: _bounds(params, name) for name in _NUMBERS if _is_asked(params, name)}
    found = [
        row
        for row in map(_dividend, shared.reference.dividends(names.equal).to_pylist())
        if names.hold(row["ticker"])
        and all(row[name] is not None and wanted.hold(row[name]) for name, wanted in texts.items())
        and all(_lies(row[name], bounds) for name, bounds in numbers.items())
    ]
    # Massive's client writes `ex_dividend_date.desc`, or several of them.
    key, _, told = params.get("sort", "").split(",")[0].partition(".")
    key = choice({"sort": key}, "sort", _SORTS, "ex_dividend_date")
    direction = choice({"order": told or params.get("order", "")}, "order", ORDERS, "desc")
    return page(request, question, found, (key, "id"), whole(params, "limit", DEFAULT, 1, LARGEST), direction)


def _dividend(row: dict[str, Any]) -> dict[str, Any]:
    kind = row["dividend_type"]
    day = row["ex_dividend_date"].isoformat()
    dates = {name: None if row[name] is None else row[name].isoformat() for name in _DATES}
    return {
        "id": f"{row['symbol']}-{day}-{row['id']}" if row["id"] in ("", kind) else row["id"],
        "ticker": row["symbol"],
        **dates,
        "cash_amount": row["cash_amount"],
        "currency": row["currency"],
        "dividend_type": kind,
        "distribution_type": _WORDS.get(kind or "", kind),
        "frequency": row["frequency"],
    }


def _is_asked(params: Params, name: str) -> bool:
    return any(params.get(key) for key in (*compared(name), f"{name}.any_of"))


def _bounds(params: Params, name: str) -> dict[str, float]:
    """Return the numbers that a name is compared with, by the sign; empty for equal.

    Raises:
        Problem: one of them is none.
    """
    try:
        return {key[len(name) :]: float(text) for key in compared(name) if (text := params.get(key))}
    except ValueError:
        raise bad_request(f"{name} is compared with what is no number") from None


def _lies(value: float | None, bounds: dict[str, float]) -> bool:
    if value is None:
        return False
    signs = {
        "": value.__eq__,
        ".gt": value.__gt__,
        ".gte": value.__ge__,
        ".lt": value.__lt__,
        ".lte": value.__le__,
    }
    return all(signs[sign](type(value)(bound)) for sign, bound in bounds.items())


@router.get("/vX/reference/tickers/{id}/events", summary="Names of a company", dependencies=HISTORY)
async def ticker_events(
    request: Request,
    shared: Shared,
    id: Annotated[str, Path(description="A ticker, or a FIGI.")],
    types: Annotated[str | None, Query(description="`ticker_change`, the only one that is known.")] = None,
) -> Response:
    """Which tickers a company has had, and since when, the oldest first."""
    name = ticker_of(id)
    found = await shared.run(lambda: _events(shared.reference.listing(), name))
    if found is None:
        raise not_found(f"there is no ticker {name}")
    if types and _CHANGES not in types.split(","):
        found["events"] = []
    return single(request, found)


def _events(listing: Listing, name: str) -> dict[str, Any] | None:
    rows = listing.renames.to_pylist()
    symbol = listing.by_name.get(name) or _by_figi(listing, name)
    if symbol is None:
        return None
    # Forward to the newest name, then back through all. A name that was given again goes round: once.
    later = {row["old_symbol"]: row["symbol"] for row in rows}
    newest, seen = symbol.symbol, {symbol.symbol}
    while (following := later.get(newest)) is not None and following not in seen:
        newest = following
        seen.add(newest)
    before = {row["symbol"]: row for row in rows}
    events: list[dict[str, Any]] = []
    at: str | None = newest
    while at is not None and len(events) <= len(rows):
        change, known = before.get(at), listing.by_name.get(at)
        since = change["date"] if change is not None else (known and known.listed) or _EVER
        events.append({"type": _CHANGES, "date": str(since), _CHANGES: {"ticker": at}})
        at = None if change is None else change["old_symbol"]
    now = listing.by_name.get(newest, symbol)
    # The vendor's clients make no object of an answer that lacks one of these.
    return {
        "name": now.name or now.symbol,
        "composite_figi": now.composite_figi or "",
        "cik": now.cik or "",
        "events": events[::-1],
    }


def _by_figi(listing: Listing, figi: str) -> Symbol | None:
    same = [one for one in listing.symbols if figi in (one.composite_figi, one.share_class_figi)]
    return max(same, key=lambda one: (one.active, one.listed or date.min), default=None)
