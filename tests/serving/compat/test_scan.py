"""Every endpoint answers, holds no null, and makes a model of every call of the vendor's own clients."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import date
from typing import Any

import pytest
from fastapi.routing import APIRoute

from fibflow.serving.compat import (
    aggregates,
    dividends,
    indicators,
    market,
    snapshots,
    tickers,
    trades,
)
from fibflow.tests.serving.compat.answers import ask, get, nulls

HOME = "/v2/snapshot/locale/us/markets/stocks"
#: For tickers of which much, little, and nothing is known.
OF_TICKER = [
    "/v2/aggs/ticker/{}/range/1/day/2024-03-01/2024-04-08",
    "/v2/aggs/ticker/{}/range/5/day/2024-03-01/2024-04-08?limit=2",
    "/v2/aggs/ticker/{}/range/1/minute/2024-03-01/2024-04-08?limit=50",
    "/v2/aggs/ticker/{}/range/1/month/2023-03-01/2024-04-08?sort=desc&limit=1",
    "/v2/aggs/ticker/{}/prev",
    "/v1/open-close/{}/2024-02-29",
    "/v2/last/trade/{}",
    "/v2/last/nbbo/{}",
    "/v3/trades/{}?limit=10",
    HOME + "/tickers/{}",
    HOME + "/tickers?tickers={},MSFT",
    "/v3/snapshot?ticker.any_of={},MSFT",
    "/v3/reference/tickers?ticker={}",
    "/v3/reference/tickers/{}",
    "/v3/reference/splits?ticker={}&limit=1",
    "/v3/reference/dividends?ticker={}",
    "/stocks/v1/splits?ticker={}",
    "/stocks/v1/dividends?ticker={}",
    "/vX/reference/tickers/{}/events",
    "/v1/indicators/sma/{}?window=5",
    "/v1/indicators/ema/{}?window=5&expand_underlying=true",
    "/v1/indicators/rsi/{}?window=5&timespan=week",
    "/v1/indicators/macd/{}?short_window=2&long_window=4&signal_window=2",
]
OTHERS = [
    "/v2/aggs/grouped/locale/us/market/stocks/2024-03-08?locale=us&market_type=stocks&include_otc=false",
    HOME + "/tickers?include_otc=false",
    HOME + "/gainers?include_otc=false",
    HOME + "/losers",
    "/v3/snapshot",
    "/v3/reference/tickers?limit=2",
    "/v3/reference/tickers?active=false",
    "/v3/reference/tickers/types",
    "/v1/marketstatus/now",
    "/v1/marketstatus/upcoming",
    "/v3/reference/conditions",
    "/v3/reference/exchanges",
]
TICKERS = ["AAPL", "MSFT", "GONE", "BRK%20A", "NOBARS", "NOSUCH"]


def paths() -> Iterator[str]:
    for path in OF_TICKER:
        yield from (path.format(ticker) for ticker in TICKERS)
    yield from OTHERS


@pytest.mark.parametrize("path", list(paths()))
@pytest.mark.parametrize("which", ["raw_url", "adjusted_url"])
def test_no_answer_holds_a_null(request, which, path):
    url = request.getfixturevalue(which)
    while path:
        status, document, _ = ask(url, path)
        assert status in (200, 404), document
        assert nulls(document) == []
        following = document.get("next_url", "") if isinstance(document, dict) else ""
        path = following.removeprefix(url)


def test_every_route_is_among_those_that_are_scanned():
    modules = (aggregates, dividends, indicators, market, snapshots, tickers, trades)
    routes = [route for module in modules for route in module.router.routes if isinstance(route, APIRoute)]
    assert len(routes) >= 24
    asked = [path.partition("?")[0] for path in paths()]
    for route in routes:
        pattern = re.sub(r"\{[^}]+\}", "[^/]+", route.path_format)
        assert any(re.fullmatch(pattern, path) for path in asked), route.path_format


@pytest.mark.parametrize("path", [path.format("AAPL") for path in OF_TICKER] + OTHERS)
def test_what_is_not_known_of_a_query_is_ignored(raw_url, path):
    more = ("&" if "?" in path else "?") + "include_otc=false&locale=us&ticker=AAPL&nonsense=%00&x[]=1"
    if (
        "nbbo" in path
        or "/tickers?" in path
        or "/splits" in path
        or "/dividends" in path
        or path.startswith("/v3/snapshot")
    ):
        more = more.replace("&ticker=AAPL", "")
    status, document, _ = ask(raw_url, path)
    again, same, _ = ask(raw_url, path + more.replace("%00", "1"))
    assert again == status
    if status == 200 and "next_url" not in str(document):
        assert same == document


#: A call of a client, and the name of the model that it makes: of one, or of each of some.
CALLS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "aggs": (lambda c: c.get_aggs("AAPL", 1, "day", "2024-03-01", "2024-03-31"), "Agg"),
    "list_aggs": (
        lambda c: list(c.list_aggs("AAPL", 1, "hour", date(2024, 3, 1), date(2024, 4, 8), limit=3)),
        "Agg",
    ),
    "prev": (lambda c: c.get_previous_close_agg("AAPL"), "PreviousCloseAgg"),
    "grouped": (lambda c: c.get_grouped_daily_aggs("2024-03-08"), "GroupedDailyAgg"),
    "open_close": (lambda c: c.get_daily_open_close_agg("AAPL", "2024-03-08"), "DailyOpenCloseAgg"),
    "last_trade": (lambda c: c.get_last_trade("AAPL"), "LastTrade"),
    "trades": (lambda c: list(c.list_trades("AAPL", limit=7)), "Trade"),
    "snapshot": (lambda c: c.get_snapshot_ticker("stocks", "AAPL"), "TickerSnapshot"),
    "snapshots": (lambda c: c.get_snapshot_all("stocks"), "TickerSnapshot"),
    "gainers": (lambda c: c.get_snapshot_direction("stocks", "gainers"), "TickerSnapshot"),
    "losers": (lambda c: c.get_snapshot_direction("stocks", "losers"), "TickerSnapshot"),
    "universal": (lambda c: list(c.list_universal_snapshots(limit=2)), "UniversalSnapshot"),
    "tickers": (lambda c: list(c.list_tickers(limit=2)), "Ticker"),
    "details": (lambda c: c.get_ticker_details("AAPL"), "TickerDetails"),
    "types": (lambda c: c.get_ticker_types(), "TickerTypes"),
    "status": (lambda c: c.get_market_status(), "MarketStatus"),
    "holidays": (lambda c: c.get_market_holidays(), "MarketHoliday"),
    "splits": (lambda c: list(c.list_splits(limit=1)), "Split"),
    "conditions": (lambda c: list(c.list_conditions(limit=20)), "Condition"),
    "exchanges": (lambda c: c.get_exchanges(), "Exchange"),
    "sma": (lambda c: c.get_sma("AAPL", window=5), "SingleIndicatorResults"),
    "ema": (lambda c: c.get_ema("AAPL", window=5), "SingleIndicatorResults"),
    "rsi": (lambda c: c.get_rsi("AAPL", window=5, expand_underlying=True), "SingleIndicatorResults"),
    "macd": (lambda c: c.get_macd("AAPL"), "MACDIndicatorResults"),
}


@pytest.mark.parametrize("name", sorted(CALLS))
@pytest.mark.parametrize("which", ["raw_url", "adjusted_url"])
def test_every_call_makes_its_model(request, make_client, which, name):
    call, model = CALLS[name]
    found = call(make_client(request.getfixturevalue(which)))
    models = found if isinstance(found, list) else [found]
    assert models
    assert {type(one).__name__ for one in models} == {model}


def test_the_openapi_document_lists_the_surface(raw_url):
    listed = get(raw_url, "/openapi.json")["paths"]
    assert "/v2/aggs/ticker/{ticker}/range/{multiplier}/{timespan}/{from}/{to}" in listed
    assert "/v3/reference/tickers/types" in listed
