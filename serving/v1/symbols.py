"""``/v1/symbols``: which symbols there are, and what is known of them."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import BaseModel
from starlette.responses import Response

from fibflow.serving.access import Scope, require
from fibflow.serving.caching import respond
from fibflow.serving.history.query import bad_cursor, boolean_of, limit_of, pack, unpack
from fibflow.serving.problems import bad_request, not_found
from fibflow.serving.reference import Reference, Symbol
from fibflow.serving.services import Services, services

router = APIRouter(prefix="/v1", tags=["symbols"])

#: How many symbols a page has at most, and by default.
MOST, DEFAULT = 10_000, 100
_LONGEST = 100
_JSON = "application/json"


class SymbolDocument(BaseModel):
    """What is known of a symbol; null for what is not."""

    symbol: str
    name: str | None
    type: str | None
    exchange: str | None
    currency: str | None
    active: bool
    listed: date | None
    delisted: date | None
    has_bars: bool


class SymbolsDocument(BaseModel):
    """A page of symbols. ``next_cursor`` is there where there are more."""

    count: int
    symbols: list[SymbolDocument]
    next_cursor: str | None = None


class SplitDocument(BaseModel):
    """A split: from its day on ``to`` shares stand for ``from`` of before."""

    symbol: str
    execution_date: date
    split_from: float
    split_to: float
    id: str | None


class SymbolDetails(SymbolDocument):
    """All that is known of a symbol. ``first_session`` and ``last_session`` are those of its rows."""

    cik: str | None
    composite_figi: str | None
    share_class_figi: str | None
    description: str | None
    homepage: str | None
    updated: int | None
    timeframes: list[str]
    first_session: date | None
    last_session: date | None
    splits: list[SplitDocument]


@router.get("/symbols", dependencies=[Depends(require(Scope.HISTORY))], response_model=SymbolsDocument)
async def get_symbols(
    request: Request,
    shared: Annotated[Services, Depends(services)],
    search: Annotated[
        str | None, Query(description="the beginning of a symbol, or of words of a name")
    ] = None,
    type: Annotated[str | None, Query(description="the vendor's code: CS, ETF, ...")] = None,
    exchange: Annotated[str | None, Query(description="ISO 10383, such as XNAS")] = None,
    active: Annotated[str | None, Query(description="true: those that trade; false: the others")] = None,
    limit: Annotated[str | None, Query(description=f"1 to {MOST:,}; {DEFAULT} by default")] = None,
    cursor: Annotated[str | None, Query(description="next_cursor of the page before")] = None,
) -> Response:
    """Symbols: those that begin with the search text first, then those with such words in their names."""
    text = (search or "").strip()
    conditions: dict[str, Any] = {}
    for name, value in (("type", type), ("exchange", exchange)):
        if value is not None and value.strip():
            conditions[name] = value.strip().upper()
    for name, value in (("search", text), *conditions.items()):
        if len(value) > _LONGEST:
            raise bad_request(f"{name} has {len(value)} characters: write {_LONGEST} at most", f"bad_{name}")
    if active is not None and active.strip():
        conditions["active"] = boolean_of(active, "active")
    most = limit_of(limit, MOST, DEFAULT)
    asked = [text, sorted(map(str, conditions.items()))]
    after = None if cursor is None or not cursor.strip() else _after(cursor, asked)

    def answer() -> bytes:
        found, more = shared.reference.search(text, conditions, most, after)
        document: dict[str, Any] = {"count": len(found), "symbols": [_document(symbol) for symbol in found]}
        if more is not None:
            document["next_cursor"] = pack([*more, asked])
        return orjson.dumps(document)

    return respond(request, await shared.run(answer), _JSON, False, {})


@router.get("/symbols/{symbol}", dependencies=[Depends(require(Scope.HISTORY))], response_model=SymbolDetails)
async def get_symbol(
    request: Request,
    shared: Annotated[Services, Depends(services)],
    symbol: Annotated[str, Path(description="as the source calls it")],
) -> Response:
    """All that is known of a symbol, its timeframes and its splits."""

    def answer() -> bytes:
        reference = shared.reference
        found = reference.symbol(symbol)
        if found is None:
            raise not_found(
                f"no symbol {symbol[:40]!r} is known: /v1/symbols?search= finds them", "unknown_symbol"
            )
        return orjson.dumps(_details(reference, found))

    return respond(request, await shared.run(answer), _JSON, False, {})


def _details(reference: Reference, symbol: Symbol) -> dict[str, Any]:
    held = reference.held(symbol.symbol)
    return {
        **_document(symbol),
        "cik": symbol.cik,
        "composite_figi": symbol.composite_figi,
        "share_class_figi": symbol.share_class_figi,
        "description": symbol.description,
        "homepage": symbol.homepage,
        "updated": _millis(symbol.updated),
        "timeframes": list(held.timeframes),
        "first_session": held.first,
        "last_session": held.last,
        "splits": reference.splits(symbol.symbol).to_pylist(),
    }


def _document(symbol: Symbol) -> dict[str, Any]:
    return {name: getattr(symbol, name) for name in SymbolDocument.model_fields}


def _millis(instant: datetime | None) -> int | None:
    return None if instant is None else int(instant.timestamp() * 1000)


def _after(cursor: str, asked: list[Any]) -> tuple[int, str]:
    """Return behind which rank and symbol a page goes on.

    Raises:
        Problem: 400 ``bad_cursor``.
    """
    found = unpack(cursor)
    if not (isinstance(found, list) and len(found) == 3 and found[2] == asked):
        raise bad_cursor()
    rank, symbol, _ = found
    if not (rank in (0, 1) and type(rank) is int and isinstance(symbol, str)):
        raise bad_cursor()
    return rank, symbol
