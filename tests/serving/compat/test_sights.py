"""Snapshots with a live store: open bars and last prices are its own; while it is away, all is the lake's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from fibflow.io.livestore import LiveStore
from fibflow.serving.app import create_app, make_services
from fibflow.serving.compat.sights import of_market
from fibflow.tests.io.livestores import MINUTE, Server, bar, closed, price, table
from fibflow.tests.io.livestores import prices as prices_of
from fibflow.tests.serving.compat.answers import get
from fibflow.tests.serving.compat.conftest import settings_of
from fibflow.tests.serving.compat.lakes import NOW, Made, clock
from fibflow.tests.serving.servers import running
from fibflow.transforms.buckets import bucket_of
from fibflow.transforms.openbars import Flush

HOME = "/v2/snapshot/locale/us/markets/stocks"
#: The minute before the clock's, and midnight in New York.
LAST = round(NOW.timestamp()) * 1_000_000 - MINUTE
TODAY = round(datetime(2024, 4, 8, 4, tzinfo=UTC).timestamp()) * 1_000_000


@dataclass(frozen=True)
class Live:
    url: str
    store: LiveStore


def day(symbol: str, close: float, **values: Any) -> dict[str, Any]:
    return bar(symbol, "1d", TODAY, close, end=TODAY + 1440 * MINUTE, **values)


@pytest.fixture
def live(raw: Made, server: Server, store: LiveStore) -> Iterator[Live]:
    """A server of the raw lake and a store in which AAPL and a newcomer trade."""
    opened = [day("AAPL", 18.5, volume=5e5), bar("AAPL", "1m", LAST + MINUTE, 18.5, volume=300.0)]
    for row in [*opened, day("IPO", 44.0, volume=2e4)]:
        bucket, of_days = bucket_of(row["symbol"], store.buckets), row["timeframe"] == "1d"
        store.write_open([Flush(bucket, LAST, of_days, False, table(row))])
    store.write_closed(table(closed("AAPL", "1m", LAST, 18.0), closed("IPO", "1m", LAST, 43.0)), written=LAST)
    store.write_prices(
        prices_of({**price("AAPL", 18.75, LAST + 5, 9), "size": 3.0}, price("IPO", 44.5, LAST + 6))
    )
    settings = replace(settings_of(raw), redis=server.url, prefix=store.prefix, buckets=store.buckets)
    with running(create_app(settings, clock)) as url:
        yield Live(url, store)


def test_the_day_is_the_open_bar_and_the_day_before_the_lakes_last(raw, live, make_client):
    found = make_client(live.url).get_snapshot_ticker("stocks", "AAPL")
    [before] = raw.rows("SELECT * FROM days WHERE symbol = 'AAPL' ORDER BY session DESC LIMIT 1")
    assert (found.day.close, found.day.volume, found.prev_day.close) == (18.5, 5e5, before["close"])
    assert (found.min.close, found.min.volume, found.min.accumulated_volume) == (18.5, 300.0, 5e5)
    assert found.todays_change == 18.75 - before["close"]
    trade = get(live.url, f"{HOME}/tickers/AAPL")["ticker"]["lastTrade"]
    assert trade == {"p": 18.75, "s": 3.0, "t": (LAST + 5) * 1000, "source": "redis", "kind": "trade"}


def test_without_an_open_minute_it_is_the_last_closed_one(live, make_client):
    found = make_client(live.url).get_snapshot_ticker("stocks", "IPO")
    assert (found.min.close, found.day.close, found.prev_day, found.todays_change) == (43.0, 44.0, None, None)


def test_all_tickers_are_those_of_the_lake_and_of_the_store(live, make_client):
    found = {one.ticker: one for one in make_client(live.url).get_snapshot_all("stocks")}
    assert sorted(found) == ["AAPL", "BRK A", "BRK.B", "IPO", "MSFT", "SPLT"]
    assert (found["AAPL"].day.close, found["IPO"].last_trade.price) == (18.5, 44.5)


def test_the_last_trade_is_the_stores(live, make_client):
    found = make_client(live.url).get_last_trade("AAPL")
    assert (found.price, found.size, found.sip_timestamp, found.sequence_number) == (
        18.75,
        3.0,
        (LAST + 5) * 1000,
        9,
    )


def test_while_the_store_is_away_all_is_the_lakes(live, server, raw_url):
    server.kill()
    try:
        for path in ("/tickers/AAPL", "/tickers", "/gainers", "/losers"):
            assert get(live.url, HOME + path) == get(raw_url, HOME + path)
    finally:
        server.start()


def test_the_market_is_looked_at_once_while_it_is_fresh(raw):
    services = make_services(settings_of(raw), clock)
    first = of_market(services, lambda: 10.0)
    assert of_market(services, lambda: 10.9) is first
    again = of_market(services, lambda: 11.0)
    assert again is not first
    assert again.symbols == first.symbols


def test_an_open_bar_whose_window_has_closed_meanwhile_does_not_show(raw, live, make_client):
    [newest] = raw.rows("SELECT * FROM days WHERE symbol = 'MSFT' ORDER BY session DESC LIMIT 1")
    start = round(datetime(2024, 4, 5, 4, tzinfo=UTC).timestamp()) * 1_000_000
    stale = bar("MSFT", "1d", start, 99.0, end=start + 1440 * MINUTE)
    live.store.write_open([Flush(bucket_of("MSFT", live.store.buckets), LAST, True, False, table(stale))])
    found = make_client(live.url).get_snapshot_ticker("stocks", "MSFT")
    assert (found.day.close, found.todays_change_percent is None) == (newest["close"], False)
