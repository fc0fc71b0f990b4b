"""``/v1``: last prices, open bars, and the last bars of a symbol with the open one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
from fastapi import APIRouter, Depends, Query, Response

from fibflow.serving.access import Scope, require
from fibflow.serving.history.bars import History
from fibflow.serving.history.query import MOST_SYMBOLS, BarQuery, symbols_of, timeframe_of
from fibflow.serving.live.circuit import StoreDown
from fibflow.serving.live.fragments import BAR_MEMBERS, array_of, objects
from fibflow.serving.live.prices import LAKE, REDIS, Price
from fibflow.serving.live.store import Live
from fibflow.serving.problems import Problem, bad_request, not_found
from fibflow.serving.services import Services, services
from fibflow.transforms.partials import numbers
from fibflow.transforms.schemas import BARS
from fibflow.transforms.timeframe import Timeframe

router = APIRouter(prefix="/v1", tags=["prices"], dependencies=[Depends(require(Scope.LIVE))])

#: How many of the last bars are given at most.
MOST_LATEST = 5_000
_DEFAULT = 500
_MOST_TIMEFRAMES = 50
_LONGEST_SYMBOL = 64
_MILLI = 1_000
# What moves all the time is kept by nobody for longer than this.
_HEADERS = {"Cache-Control": "private, max-age=1", "Vary": "Authorization, Accept-Encoding"}
_JSON = "application/json"
_DOWN: dict[int | str, dict[str, Any]] = {
    404: {"description": "There is no live store here."},
    503: {"description": "The live store does not answer."},
}


@router.get("/prices", summary="Last prices of symbols")
async def last_prices(
    symbols: Annotated[str, Query(description=f"with commas, {MOST_SYMBOLS:,} at most")],
    state: Annotated[Services, Depends(services)],
) -> Response:
    """The last price of each symbol, from the first store that has one; ``missing`` has those without any."""
    names = symbols_of(symbols)
    found = await state.run(state.prices.find, names)
    now = _now(state)
    return _answer(
        {
            "prices": [_members(price, now) for price in found.prices.values()],
            "missing": [name for name in names if name not in found.prices],
            "down": sorted(found.down),
        }
    )


@router.get("/prices/{symbol}", summary="The last price of a symbol")
async def last_price(symbol: str, state: Annotated[Services, Depends(services)]) -> Response:
    """The last price of a symbol: which store gave it, and how old it is."""
    name = _symbol(symbol)
    found = await state.together.find(name)
    if name not in found.prices:
        raise not_found(_reason(found.asked, found.down), "no_price")
    return _answer(_members(found.prices[name], _now(state)))


@router.get("/open-bars", summary="Bars of windows that have not ended", responses=_DOWN)
async def open_bars(
    state: Annotated[Services, Depends(services)],
    symbols: Annotated[str | None, Query(description="with commas; all by default")] = None,
    timeframes: Annotated[str | None, Query(description="with commas; all by default")] = None,
) -> Response:
    """The open bars of symbols, sorted by symbol, timeframe and ts, as the live store has them."""
    names = None if symbols is None else symbols_of(symbols)
    frames = None if timeframes is None else _timeframes(timeframes)
    live = state.prices.live
    if live is None:
        raise _no_live(
            "there is no live store here: start the server with --redis; history is at /v1/bars", 404
        )
    try:
        body = await state.run(_open_bars, live, names, frames)
    except StoreDown:
        raise _no_live("the live store does not answer: try again; history is at /v1/bars") from None
    return Response(body, headers=_HEADERS, media_type=_JSON)


@router.get("/latest-bars/{symbol}", summary="The last bars of a symbol, open ones with them")
async def latest_bars(
    symbol: str,
    state: Annotated[Services, Depends(services)],
    timeframe: Annotated[str, Query(description="any, such as 5m or 13d")],
    limit: Annotated[int, Query(ge=1, le=MOST_LATEST)] = _DEFAULT,
) -> Response:
    """What a chart shows: closed bars, oldest first, and behind them the open ones.

    They come from the live store; from the lake where that is down, is not filled yet, or has fewer.
    """
    chart = await state.run(
        _chart, state.prices.live, state.history, _symbol(symbol), timeframe_of(timeframe), limit
    )
    return Response(chart, headers=_HEADERS, media_type=_JSON)


def _now(state: Services) -> int:
    return round(state.clock().timestamp() * 1_000_000)


def _answer(document: Any) -> Response:
    return Response(orjson.dumps(document), headers=_HEADERS, media_type=_JSON)


def _members(price: Price, now: int) -> dict[str, Any]:
    return {
        "symbol": price.symbol,
        "price": price.price,
        "size": price.size,
        "ts": price.ts // _MILLI,
        "seq": price.seq,
        "source": price.source,
        "kind": price.kind,
        # A bar's end may lie ahead of its last trade.
        "age_ms": max(0, now - price.ts) // _MILLI,
    }


def _reason(asked: Sequence[str], down: dict[str, str]) -> str:
    said = f"no store has a price of this symbol: {', '.join(asked) or 'none'} could be asked"
    return f"{said}, {', '.join(down)} could not" if down else said


def _symbol(text: str) -> str:
    name = text.strip()
    if not name or len(name) > _LONGEST_SYMBOL:
        raise bad_request(f"a symbol has 1 to {_LONGEST_SYMBOL} characters", "bad_symbol")
    return name


def _timeframes(text: str) -> list[str]:
    found = {timeframe_of(part).name for part in text.split(",") if part.strip()}
    if not 1 <= len(found) <= _MOST_TIMEFRAMES:
        raise bad_request(f"timeframes names {len(found)}: write 1 to {_MOST_TIMEFRAMES}", "bad_timeframes")
    return sorted(found)


def _no_live(detail: str, status: int = 503) -> Problem:
    return Problem(status, detail, "no_live_store", {"Retry-After": "2"} if status == 503 else {})


def _open_bars(live: Live, symbols: Sequence[str] | None, timeframes: Sequence[str] | None) -> bytes:
    bars = live.ask(lambda store: store.open_bars(symbols, timeframes))
    return b'{"bars":' + array_of(objects(bars, BAR_MEMBERS)) + b"}"


@dataclass(frozen=True)
class _Chart:
    """The last bars that the live store has; ``whole`` where the lake has no more of them."""

    bars: pa.Table
    whole: bool
    down: bool


def _chart(live: Live | None, history: History, symbol: str, timeframe: Timeframe, limit: int) -> bytes:
    """Return the document of ``latest_bars``."""
    of_store = _of_store(live, symbol, timeframe, limit)
    bars, sources = of_store.bars, [REDIS] if len(of_store.bars) else []
    if not of_store.whole:
        try:
            of_lake = _of_lake(history, symbol, timeframe, limit)
        except Problem:
            # The live store may know what the lake does not yet; what neither knows is what the lake says.
            if not len(bars):
                raise
            of_lake = BARS.empty_table()
        merged = _merged(of_lake, bars)
        if len(merged) > len(bars):
            sources.append(LAKE)
        bars = merged.slice(max(0, len(merged) - limit))
    head = {
        "symbol": symbol,
        "timeframe": timeframe.name,
        "sources": sources,
        "live": live is not None and not of_store.down,
    }
    return orjson.dumps(head)[:-1] + b',"bars":' + array_of(objects(bars, BAR_MEMBERS)) + b"}"


def _of_store(live: Live | None, symbol: str, timeframe: Timeframe, limit: int) -> _Chart:
    if live is None:
        return _Chart(BARS.empty_table(), False, True)
    try:
        bars, filled = live.ask(
            lambda store: (store.latest_bars(symbol, timeframe.name, limit), store.status().filled)
        )
    except StoreDown:
        return _Chart(BARS.empty_table(), False, True)
    return _Chart(bars, filled and len(bars) >= limit, False)


def _of_lake(history: History, symbol: str, timeframe: Timeframe, limit: int) -> pa.Table:
    query = BarQuery((symbol,), timeframe, limit=limit, descending=True, complete_only=True)
    found: Any = history.bars(query).table.select(BARS.names).cast(BARS)
    return found.sort_by("ts")


def _merged(of_lake: pa.Table, of_store: pa.Table) -> pa.Table:
    """Return both, oldest first; of a window that both have closed what the live store has."""
    if not len(of_store):
        return of_lake
    ended: Any = of_store.filter(of_store["complete"])["ts"].combine_chunks()
    known: Any = pc.is_in(of_lake["ts"], value_set=ended)
    both = pa.concat_tables([of_lake.filter(pc.invert(known)), of_store]).sort_by("ts")
    # An open bar that is not after the last closed one has closed meanwhile.
    complete: Any = both["complete"].to_numpy()
    ts = numbers(both, "ts")
    last = ts[complete].max(initial=-(2**62))
    return both.filter(pa.array(complete | (ts > last)))
