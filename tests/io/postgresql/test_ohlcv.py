"""Bars: what a row holds, which intervals there are, and that its queries find them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest

from fibflow.io.postgres import RawOhlcv
from fibflow.io.postgresql.ohlcv import OHLCV, declare_basis, upsert_ohlcv
from fibflow.io.postgresql.session import PostgresError
from fibflow.io.postgresql.upserts import Upserted
from fibflow.tests.io.livestores import rows as rows_of
from fibflow.tests.io.postgresql.databases import DAY, T0, bars, closes, execute, select
from fibflow.transforms.schemas import BARS
from fibflow.transforms.timeframe import TimeframeError

KNOWN = datetime(2024, 6, 1, tzinfo=UTC)


def test_every_column_arrives(url):
    row = {
        "symbol": "A",
        "timestamp": datetime(2024, 1, 2, 5, 0, 0, 1, UTC),
        **{"open": 1.1, "high": 2.2, "low": 0.1 + 0.2, "close": 1e-300, "volume": 1e11, "vwap": 1 / 3},
        "trade_count": 2**40,
    }
    upsert_ohlcv(url, pa.Table.from_pylist([row], OHLCV), "1m", known=KNOWN)
    names = ", ".join(f'"{name}"' for name in row)
    assert select(url, f"SELECT {names}, interval, known, revision FROM raw_ohlcv") == [
        (*row.values(), "1m", KNOWN, 0)
    ]


def test_a_bar_is_one_piece(url):
    whole = bars(("A", 0, 1.0)).append_column("vwap", pa.array([1.0]))
    upsert_ohlcv(url, whole, "1d")
    assert upsert_ohlcv(url, bars(("A", 0, 1.0)), "1d") == Upserted(changed=1)
    assert select(url, "SELECT vwap FROM raw_ohlcv") == [(None,)]


def test_bars_of_the_lake_go_in_as_they_are(url):
    bar = {"symbol": "A", "timeframe": "5d", "ts": T0, "end": T0 + 7 * DAY, "close": 2.0, "revision": 3}
    bar |= {"open": 2.0, "high": 2.0, "low": 2.0, "volume": 5.0, "complete": True, "final": True}
    stored = pa.Table.from_pylist([bar], BARS)
    symbols: Any = stored["symbol"].dictionary_encode()
    for table in (stored, stored.set_column(0, "symbol", symbols)):
        upsert_ohlcv(url, table, "5d")
    assert closes(url, "5d") == {("A", 0): 2.0}


def test_intervals_have_one_name_each(url):
    assert upsert_ohlcv(url, bars(("A", 0, 1.0)), "60m") == Upserted(new=1)
    assert upsert_ohlcv(url, bars(("A", 0, 1.0)), "1h") == Upserted(unchanged=1)
    assert upsert_ohlcv(url, bars(("A", 0, 1.0)), "1d") == Upserted(new=1)
    assert closes(url, "1h") == closes(url, "1d") == {("A", 0): 1.0}
    with pytest.raises(TimeframeError, match="unknown timeframe"):
        upsert_ohlcv(url, bars(("A", 0, 1.0)), "fortnight")


def test_rows_without_a_column_of_the_key_and_no_rows(url):
    with pytest.raises(PostgresError, match="no column symbol"):
        upsert_ohlcv(url, bars(("A", 0, 1.0)).drop_columns(["symbol"]), "1d")
    assert upsert_ohlcv(url, bars(), "1d") == Upserted()


def test_two_price_bases_never_mix(url):
    declare_basis(url, "raw")
    declare_basis(url, "raw")
    with pytest.raises(PostgresError, match="holds raw prices, and these are split-adjusted"):
        declare_basis(url, "split-adjusted")


def test_the_reader_finds_the_newest_bar_of_each_interval(url):
    upsert_ohlcv(url, bars(("A", 0, 1.0), ("A", 1, 2.0), ("B", 0, 3.0)), "1d")
    upsert_ohlcv(url, bars(("A", 1, 2.5)), "1m")
    reader = RawOhlcv(url, timeout_s=20.0)
    found = rows_of(reader.last_rows(["A", "B"]), "symbol", "interval", "close")
    reader.close()
    assert found == [("A", "1d", 2.0), ("A", "1m", 2.5), ("B", "1d", 3.0)]


QUERIES = {
    "raw_ohlcv_pkey": """
        SELECT close FROM raw_ohlcv WHERE symbol = 'S7' AND close IS NOT NULL
        ORDER BY timestamp DESC FETCH FIRST 1 ROW WITH TIES
    """,
    "raw_ohlcv_symbol_interval": """
        SELECT * FROM raw_ohlcv WHERE symbol = 'S7' AND interval = '1d' AND timestamp >= '2024-01-10'
        ORDER BY timestamp
    """,
    "raw_ohlcv_interval_time": "SELECT * FROM raw_ohlcv WHERE interval = '1d' AND timestamp = '2024-02-02'",
}


@pytest.fixture(scope="module")
def large(server) -> str:
    """Fifty days of a hundred symbols among a hundred times as many minutes."""
    url = server.make("migrated")
    put = (
        "INSERT INTO raw_ohlcv (symbol, timestamp, interval, close) "
        "SELECT 'S' || s, timestamptz '2024-01-02Z'"
    )
    execute(
        url,
        f"{put} + d * interval '1 day', '1d', 1 FROM generate_series(1, 100) s, generate_series(1, 50) d",
        f"{put} + m * interval '1 minute', '1m', 1 FROM generate_series(1, 100) s, generate_series(1, 500) m",
        "ANALYZE raw_ohlcv",
    )
    return url


@pytest.mark.parametrize("index", QUERIES)
def test_the_queries_go_by_an_index(large, index):
    plan = "\n".join(line for (line,) in select(large, f"EXPLAIN {QUERIES[index]}"))
    assert f"using {index}" in plan or f"on {index}" in plan
    assert "Seq Scan" not in plan
    assert "Sort" not in plan
