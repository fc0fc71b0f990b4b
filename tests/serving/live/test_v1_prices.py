from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pyarrow as pa
import pytest
from fastapi.testclient import TestClient

from fibflow.io.livestore import refill_closed
from fibflow.io.readbars import LakeReader
from fibflow.serving.app import create_app
from fibflow.serving.live.fragments import BAR_MEMBERS
from fibflow.tests.io.livestores import MINUTE, T0, bar, closed, price, prices, table
from fibflow.tests.serving.conftest import NOW, Keyed, make_keyed, now
from fibflow.tests.serving.live.conftest import away
from fibflow.tests.serving.live.opened import write_open

NOW_US = round(NOW.timestamp()) * 1_000_000


@pytest.fixture
def settings(open_settings, server, store):
    return replace(open_settings, redis=server.url, prefix=store.prefix)


@pytest.fixture
def live(settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings, now)) as client:
        yield client


def shown(row: dict) -> dict:
    """A bar as the API shows it."""
    return {name: row[name] // 1_000 if name in ("ts", "end") else row[name] for name in BAR_MEMBERS}


def of_lake(lake, symbol: str, timeframe: str, n: int) -> list[dict]:
    bars = LakeReader(lake).last(symbol, timeframe, n, complete_only=True)
    plain = [bars[name].cast(pa.int64()) if name in ("ts", "end") else bars[name] for name in BAR_MEMBERS]
    rows = zip(*(column.to_pylist() for column in plain), strict=True)
    return [
        {
            name: value
            for name, value in shown(dict(zip(BAR_MEMBERS, row, strict=True))).items()
            if value is not None
        }
        for row in rows
    ]


# Prices.


def test_a_price_says_where_it_is_from_and_how_old_it_is(live, store):
    store.write_prices(prices(price("AAPL", 187.25, NOW_US - 1_500_000, seq=7)))
    answer = live.get("/v1/prices/AAPL")
    assert answer.status_code == 200
    assert answer.json() == {
        "symbol": "AAPL",
        "price": 187.25,
        "size": 100.0,
        "ts": NOW_US // 1_000 - 1_500,
        "seq": 7,
        "source": "redis",
        "kind": "trade",
        "age_ms": 1_500,
    }


def test_answers_are_kept_for_a_second_at_most(live, store):
    store.write_prices(prices(price("AAPL")))
    for path in (
        "/v1/prices/AAPL",
        "/v1/prices?symbols=AAPL",
        "/v1/open-bars",
        "/v1/latest-bars/AAPL?timeframe=1m",
    ):
        answer = live.get(path)
        assert (answer.status_code, answer.headers["cache-control"]) == (200, "private, max-age=1"), path


def test_several_prices_at_once_each_from_its_own_store(live, store):
    store.write_prices(prices(price("MSFT", 2.0), price("AAPL", 1.0)))
    found = live.get("/v1/prices", params={"symbols": "MSFT,Z,AAPL,NONE"}).json()
    assert [(one["symbol"], one["source"]) for one in found["prices"]] == [
        ("AAPL", "redis"),
        ("MSFT", "redis"),
        ("Z", "lake"),
    ]
    assert (found["missing"], found["down"]) == (["NONE"], [])


def test_a_symbol_without_a_price_is_not_found_with_a_reason(live):
    answer = live.get("/v1/prices/NONE")
    assert answer.status_code == 404
    assert answer.json()["code"] == "no_price"
    assert answer.json()["detail"] == "no store has a price of this symbol: redis, lake could be asked"


def test_while_redis_is_away_the_lake_answers(live, server):
    with away(server):
        assert live.get("/v1/prices/AAPL").json()["source"] == "lake"
        assert live.get("/v1/prices", params={"symbols": "AAPL"}).json()["down"] == ["redis"]
        none = live.get("/v1/prices/NONE")
        assert none.status_code == 404
        assert none.json()["detail"].endswith("lake could be asked, redis could not")


def test_the_age_is_never_negative(live, store):
    store.write_prices(prices(price("AAPL", ts=NOW_US + 5_000_000)))
    assert live.get("/v1/prices/AAPL").json()["age_ms"] == 0


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/v1/prices", "bad_symbols"),
        ("/v1/prices?symbols=", "bad_symbols"),
        ("/v1/prices?symbols=,%20,", "bad_symbols"),
        ("/v1/prices?symbols=" + ",".join(f"S{place}" for place in range(1_001)), "too_many_symbols"),
        ("/v1/prices/" + 65 * "A", "bad_symbol"),
        ("/v1/open-bars?timeframes=7m", "bad_timeframe"),
        ("/v1/open-bars?timeframes=,", "bad_timeframes"),
        ("/v1/latest-bars/AAPL?timeframe=", "bad_timeframe"),
        ("/v1/latest-bars/AAPL", "bad_timeframe"),
        ("/v1/latest-bars/AAPL?timeframe=1m&limit=0", "bad_limit"),
        ("/v1/latest-bars/AAPL?timeframe=1m&limit=5001", "bad_limit"),
        ("/v1/latest-bars/AAPL?timeframe=1m&limit=x", "bad_limit"),
    ],
)
def test_what_cannot_be_understood_is_refused(live, path, code):
    answer = live.get(path)
    assert (answer.status_code, answer.json()["code"]) == (400, code)


# Open bars.


def test_open_bars_are_those_of_the_live_store(live, store):
    bars = [bar("A", close=2.0), bar("B", "5m"), bar("A", "1d", vwap=None, trade_count=None)]
    write_open(store, *bars)
    every = live.get("/v1/open-bars").json()["bars"]
    day = {name: value for name, value in shown(bars[2]).items() if value is not None}
    assert every == [day, shown(bars[0]), shown(bars[1])] or every == [shown(bars[0]), day, shown(bars[1])]
    assert live.get("/v1/open-bars", params={"symbols": "B,C"}).json() == {"bars": [shown(bars[1])]}
    assert live.get("/v1/open-bars", params={"timeframes": "1d,5m", "symbols": "A"}).json() == {"bars": [day]}


def test_open_bars_need_the_live_store(live, server, open_settings):
    with TestClient(create_app(open_settings, now)) as without:
        none = without.get("/v1/open-bars")
    assert (none.status_code, none.json()["code"]) == (404, "no_live_store")
    assert "--redis" in none.json()["detail"]
    with away(server):
        gone = live.get("/v1/open-bars")
        assert (gone.status_code, gone.json()["code"]) == (503, "no_live_store")
        assert int(gone.headers["retry-after"]) <= 2
        assert live.get("/v1/latest-bars/AAPL?timeframe=1d").status_code == 200


# The last bars.


def test_the_last_bars_are_closed_ones_and_the_open_one(live, store):
    written = [closed("NEW", ts=T0), closed("NEW", ts=T0 + MINUTE, revision=2)]
    refill_closed(store, [table(*written)], owner="one")
    write_open(store, bar("NEW", ts=T0 + 2 * MINUTE, close=3.0))
    found = live.get("/v1/latest-bars/NEW", params={"timeframe": "1m", "limit": 3}).json()
    assert found == {
        "symbol": "NEW",
        "timeframe": "1m",
        "sources": ["redis"],
        "live": True,
        "bars": [shown(written[0]), shown(written[1]), shown(bar("NEW", ts=T0 + 2 * MINUTE, close=3.0))],
    }
    two = live.get("/v1/latest-bars/NEW", params={"timeframe": "1m", "limit": 2}).json()
    assert two["bars"] == found["bars"][1:]


def test_a_store_that_is_not_filled_is_completed_from_the_lake(live, store, lake):
    last = of_lake(lake, "AAPL", "1m", 5)
    end = last[-1]["end"] * 1_000
    newer = closed("AAPL", ts=end, close=11.0)
    replaced = closed("AAPL", ts=last[-1]["ts"] * 1_000, close=12.0, revision=1)
    store.write_closed(table(newer, replaced), NOW_US)
    write_open(store, bar("AAPL", ts=end + MINUTE, close=13.0))
    found = live.get("/v1/latest-bars/AAPL", params={"timeframe": "1m", "limit": 6}).json()
    assert found["sources"] == ["redis", "lake"]
    assert found["bars"] == [
        *last[1:-1],
        shown(replaced),
        shown(newer),
        shown(bar("AAPL", ts=end + MINUTE, close=13.0)),
    ]


def test_a_filled_store_with_fewer_bars_is_completed_too(live, store, lake):
    last = of_lake(lake, "AAPL", "1d", 3)
    begin = last[-1]["end"] * 1_000
    refill_closed(store, [table(closed("AAPL", "1d", begin))], owner="one")
    found = live.get("/v1/latest-bars/AAPL", params={"timeframe": "1d", "limit": 4}).json()
    assert found["bars"] == [*last, shown(closed("AAPL", "1d", begin))]


def test_an_open_bar_that_the_lake_has_closed_is_left_out(live, store, lake):
    last = of_lake(lake, "AAPL", "5m", 4)
    write_open(store, bar("AAPL", "5m", last[-2]["ts"] * 1_000))
    found = live.get("/v1/latest-bars/AAPL", params={"timeframe": "5m", "limit": 4}).json()
    assert found["bars"] == last


def test_without_a_live_store_the_lake_has_the_last_bars(client, lake):
    found = client.get("/v1/latest-bars/AAPL", params={"timeframe": "60m", "limit": 3}).json()
    assert found == {
        "symbol": "AAPL",
        "timeframe": "1h",
        "sources": ["lake"],
        "live": False,
        "bars": of_lake(lake, "AAPL", "1h", 3),
    }


def test_while_redis_is_away_too(live, server, lake):
    with away(server):
        found = live.get("/v1/latest-bars/AAPL", params={"timeframe": "1m", "limit": 2}).json()
    assert (found["live"], found["bars"]) == (False, of_lake(lake, "AAPL", "1m", 2))


def test_a_symbol_that_nobody_knows_is_not_found(live):
    answer = live.get("/v1/latest-bars/NONE", params={"timeframe": "1m"})
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_symbol")


# Keys.


@pytest.fixture
def keyed_live(settings, tmp_path) -> Iterator[tuple[TestClient, Keyed]]:
    made = make_keyed(settings, tmp_path / "keys.sqlite")
    with TestClient(made.app) as client:
        yield client, made
    made.store.close()


@pytest.mark.parametrize(
    "path",
    ["/v1/prices/AAPL", "/v1/prices?symbols=AAPL", "/v1/open-bars", "/v1/latest-bars/AAPL?timeframe=1m"],
)
def test_no_key_no_data(keyed_live, path):
    client, keyed = keyed_live
    assert client.get(path).status_code == 401
    assert client.get(path, headers=keyed.headers("revoked")).status_code == 401
    assert client.get(path, headers=keyed.headers("history")).status_code == 403
    assert client.get(path, headers=keyed.headers("live")).status_code == 200
