"""Markets: what their rows are, and that a seed makes them."""

from __future__ import annotations

from collections import Counter
from datetime import date
from itertools import groupby

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fibflow.serving.standin.market import Market
from fibflow.transforms import schemas

FIRST, LAST = date(2023, 10, 2), date(2024, 1, 31)
sizes = st.tuples(st.integers(1, 30), st.integers(0, 2**32))


def rows_of(table: pa.Table) -> list[dict]:
    return table.to_pylist()


@settings(max_examples=15, deadline=None)
@given(sizes)
def test_days_and_minutes_are_rows_that_a_lake_takes(size):
    market = Market.make(size[0], FIRST, LAST, size[1])
    session = market.sessions[len(market.sessions) // 2]
    minutes = market.minutes(session)
    for table in (market.daily, minutes):
        low, high = (table[name].to_numpy() for name in ("low", "high"))
        assert (low > 0).all()
        for name in ("open", "close", "vwap"):
            values = table[name].to_numpy()
            # A vwap has four places, prices have two.
            room = 1e-4 if name == "vwap" else 0
            assert (values >= low - room).all()
            assert (values <= high + room).all()
        assert (table["volume"].to_numpy() >= 1).all()
        assert (table["trade_count"].to_numpy() >= 1).all()
    keys = list(zip(market.daily["symbol"].to_pylist(), market.daily["session"].to_pylist(), strict=True))
    assert len(set(keys)) == len(keys)
    assert set(market.daily["session"].to_pylist()) <= set(market.sessions)


@settings(max_examples=15, deadline=None)
@given(sizes)
def test_symbols_trade_from_their_listing_until_they_are_delisted_or_renamed(size):
    market = Market.make(size[0], FIRST, LAST, size[1])
    known = {row["symbol"]: row for row in rows_of(market.symbols)}
    days = sorted(zip(market.daily["symbol"].to_pylist(), market.daily["session"].to_pylist(), strict=True))
    for symbol, found in groupby(days, key=lambda pair: pair[0]):
        sessions = [session for _, session in found]
        row = known[symbol]
        assert row["listed"] <= sessions[0]
        assert row["delisted"] is None or sessions[-1] < row["delisted"]
        assert row["active"] is (row["delisted"] is None)
    renames = rows_of(market.renames)
    assert len(renames) >= 1
    for rename in renames:
        old, new = known[rename["old_symbol"]], known[rename["symbol"]]
        assert old["delisted"] == new["listed"] == rename["date"]
        assert old["composite_figi"] == new["composite_figi"] == rename["composite_figi"]


def test_each_kind_of_event_is_in_a_market():
    market = Market.make(200, FIRST, LAST, 1)
    assert len(market.renames) == 2
    assert len(market.splits) == 6
    assert len(market.dividends) > 50
    known = market.symbols
    assert sum(day is not None and day > FIRST for day in known["listed"].to_pylist()) == 10 + 2
    assert Counter(known["active"].to_pylist())[False] == 8 + 2
    assert {str(name).count(".") for name in known["symbol"].to_pylist()} == {0, 1}
    for table, schema in (
        (market.symbols, schemas.SYMBOLS),
        (market.splits, schemas.SPLITS),
        (market.dividends, schemas.DIVIDENDS),
        (market.renames, schemas.RENAMES),
    ):
        assert table.schema == schema


def test_prices_step_with_a_split():
    market = Market.make(200, FIRST, LAST, 1)
    closes = {
        (row["symbol"], row["session"]): row["close"]
        for row in rows_of(market.daily.select(["symbol", "session", "close"]))
    }
    for split in rows_of(market.splits):
        at = market.sessions.index(split["execution_date"])
        before, after = (closes[split["symbol"], market.sessions[place]] for place in (at - 1, at))
        assert 0.85 < after / before / (split["split_from"] / split["split_to"]) < 1.15


def test_minutes_go_from_the_days_open_to_its_close_and_no_further():
    market = Market.make(30, FIRST, LAST, 2)
    # The day after Thanksgiving is half as long.
    for session, length in ((date(2023, 11, 24), 210), (date(2023, 11, 27), 390)):
        minutes = market.minutes(session).sort_by([("symbol", "ascending"), ("ts", "ascending")])
        day = {row["symbol"]: row for row in rows_of(market.daily) if row["session"] == session}
        found = {
            symbol: list(rows) for symbol, rows in groupby(rows_of(minutes), key=lambda row: row["symbol"])
        }
        assert set(found) == set(day)
        for symbol, rows in found.items():
            assert len(rows) <= length
            assert (rows[-1]["ts"] - rows[0]["ts"]).seconds == 60 * (length - 1)
            assert (rows[0]["open"], rows[-1]["close"]) == (day[symbol]["open"], day[symbol]["close"])
            assert min(row["low"] for row in rows) >= day[symbol]["low"]
            assert max(row["high"] for row in rows) <= day[symbol]["high"]
            assert sum(row["volume"] for row in rows) <= day[symbol]["volume"] + 2


def test_a_seed_makes_the_same_market_again_and_another_one_another():
    first, again, other = (Market.make(20, FIRST, LAST, seed) for seed in (5, 5, 6))
    session = first.sessions[-1]
    for name in ("daily", "symbols", "splits", "dividends", "renames"):
        assert getattr(first, name).equals(getattr(again, name))
    assert first.minutes(session).equals(again.minutes(session))
    assert not first.daily.equals(other.daily)
    # In whatever order it is asked.
    assert not np.array_equal(first.minutes(session)["close"], first.minutes(first.sessions[-2])["close"])


def test_a_market_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="10 sessions at least"):
        Market.make(5, FIRST, FIRST)
    with pytest.raises(ValueError, match="no session"):
        Market.make(5, FIRST, LAST).minutes(date(2023, 12, 25))
