"""The chain of stores: Redis, DynamoDB and PostgreSQL for real, and the small lake."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from fibflow.io.dynamodb import PriceTable
from fibflow.io.lake import Lake
from fibflow.io.readbars import LakeReader
from fibflow.runners.services.stack import Stack
from fibflow.serving.history.bars import History
from fibflow.serving.live.prices import Price, Prices
from fibflow.serving.settings import Settings
from fibflow.tests.io.livestores import MINUTE, T0, fresh, price, prices
from fibflow.tests.io.test_postgres import TABLE, execute, put
from fibflow.tests.serving.conftest import NOW, now
from fibflow.tests.serving.live.conftest import away

NOWHERE = "postgresql://user@127.0.0.1:1/none"


@pytest.fixture(scope="module")
def postgres(tmp_path_factory) -> Iterator[str]:
    with Stack(["postgres"], folder=tmp_path_factory.mktemp("postgres")) as stack:
        execute(stack.env["DATABASE_URL"], TABLE)
        yield stack.env["DATABASE_URL"]


@pytest.fixture(scope="module")
def table(s3_server) -> PriceTable:
    made = PriceTable("chain", s3_server, timeout_s=20.0, clock=lambda: NOW.timestamp())
    made.create_tables()
    return made


@pytest.fixture
def history(lake) -> History:
    return History(lake, 1.0)


@pytest.fixture
def everything(open_settings, server, store, table, postgres) -> Settings:
    return replace(
        open_settings,
        redis=server.url,
        prefix=store.prefix,
        dynamodb=table.name,
        aws=table.aws,
        postgres=postgres,
    )


@pytest.fixture
def chain(history) -> Iterator[Callable[..., Prices]]:
    """Makes prices of settings and a clock, and closes them."""
    with ExitStack() as made:

        def open_prices(settings: Settings, clock: Callable[[], datetime]) -> Prices:
            return made.enter_context(closing(Prices(settings, history, clock)))

        yield open_prices


def test_what_one_store_lacks_the_next_is_asked(everything, chain, store, table, postgres):
    store.write_prices(prices(price("R", 1.0, seq=4)))
    table.write(prices(price("R", 9.0), price("D", 2.0, seq=5, source="second")))
    put(postgres, ("D", T0, "1m", 9.0), ("P", T0, "5m", 3.0))
    found = chain(everything, now).find(["Z", "P", "NONE", "R", "D", "AAPL"])
    assert list(found.prices) == ["Z", "P", "R", "D", "AAPL"]
    assert found.prices["R"] == Price("R", T0, 1.0, 100.0, 4, "redis", "trade")
    assert found.prices["D"] == Price("D", T0, 2.0, 100.0, 5, "dynamodb", "second")
    assert found.prices["P"] == Price("P", T0 + 5 * MINUTE, 3.0, None, None, "postgres", "bar")
    assert (found.prices["Z"].source, found.prices["AAPL"].source) == ("lake", "lake")
    assert (found.asked, found.down) == (("redis", "dynamodb", "postgres", "lake"), {})


def test_where_the_first_has_all_no_other_is_asked(everything, chain, store):
    store.write_prices(prices(price("AAPL", 1.0)))
    found = chain(everything, now).find(["AAPL"])
    assert (found.asked, found.prices["AAPL"].source) == (("redis",), "redis")


def test_of_rows_of_one_time_the_one_that_ends_last_counts(everything, chain, postgres):
    put(postgres, ("E", T0, "1m", 1.0), ("E", T0, "1h", 3.0), ("E", T0, "5m", 2.0), ("E", T0, "odd", 4.0))
    (found,) = chain(everything, now).last(["E"]).values()
    assert (found.price, found.ts) == (3.0, T0 + 60 * MINUTE)


def test_the_lakes_last_bar_is_its_last_minute_or_a_later_day(open_settings, chain, lake):
    found = chain(open_settings, now).last(["AAPL", "BRK.B", "Z", "NONE"])
    assert set(found) == {"AAPL", "BRK.B", "Z"}
    minutes = close_of(lake, "AAPL", "1m")
    assert (found["AAPL"].price, found["AAPL"].ts) == minutes
    assert (found["Z"].price, found["Z"].ts) == close_of(lake, "Z", "1d")
    assert {price_.kind for price_ in found.values()} == {"bar"}


def close_of(lake: Lake, symbol: str, timeframe: str) -> tuple[float, int]:
    bars = LakeReader(lake).bars(symbol, timeframe, complete_only=True)
    return bars["close"][-1].as_py(), round(bars["end"][-1].as_py().timestamp() * 1e6)


def test_a_store_that_is_down_is_passed_over(everything, chain, server, store):
    stopped = chain(replace(everything, dynamodb="no-such-table", postgres=NOWHERE), now)
    with away(server):
        found = stopped.find(["AAPL", "NONE"])
    assert (found.prices["AAPL"].source, found.asked) == ("lake", ("lake",))
    assert set(found.down) == {"redis", "dynamodb", "postgres"}
    assert "no such table" in found.down["dynamodb"]


def test_each_store_says_what_is_wrong_with_it(everything, chain, server, store):
    assert chain(everything, now).stores() == {"redis": None, "dynamodb": None, "postgres": None}
    broken = chain(replace(everything, dynamodb="no-such-table", postgres=NOWHERE), now)
    with away(server):
        told = broken.stores()
    assert list(told) == ["redis", "dynamodb", "postgres"]
    assert all(line and "\n" not in line for line in told.values())


def test_only_stores_that_are_named_are_asked(open_settings, chain):
    plain = chain(open_settings, now)
    assert (plain.live, plain.stores()) == (None, {})
    assert plain.find(["NONE"]).asked == ("lake",)


def test_a_database_without_raw_rows_is_no_fault(everything, chain, postgres):
    execute(postgres, "ALTER TABLE raw_ohlcv RENAME TO hidden")
    try:
        keys_only = chain(everything, now)
        assert keys_only.find(["AAPL"]).down == {}
        assert keys_only.stores()["postgres"] is None
    finally:
        execute(postgres, "ALTER TABLE hidden RENAME TO raw_ohlcv")


def test_prices_of_dynamodb_expire_by_the_servers_clock(everything, chain, table):
    table.write(prices(price("OLD", 2.0)))
    settings = replace(everything, redis=None, postgres=None)
    assert chain(settings, now).last(["OLD"])["OLD"].source == "dynamodb"
    assert chain(settings, lambda: NOW + timedelta(days=2)).last(["OLD"]) == {}


def test_no_secret_shows(everything, chain):
    settings = replace(
        everything, redis="redis://:hush@localhost", postgres="postgresql://u:hush@localhost/x"
    )
    assert "hush" not in repr(chain(settings, now))


def test_many_symbols_at_once(everything, chain, server):
    store = fresh(server)
    symbols = [f"S{place}" for place in range(1_000)]
    store.write_prices(prices(*(price(symbol, place + 1.0) for place, symbol in enumerate(symbols))))
    found = chain(everything, now).last(symbols)
    assert [found[symbol].price for symbol in symbols] == [place + 1.0 for place in range(1_000)]
