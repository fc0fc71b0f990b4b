from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg2
import pytest

from fibflow.io.postgres import LAST_ROWS, NoTable, PostgresError, RawOhlcv
from fibflow.runners.services.stack import Stack
from fibflow.tests.io.livestores import rows

TABLE = """
CREATE TABLE raw_ohlcv (
    symbol text, timestamp timestamptz, interval text, open float8, high float8, low float8, close float8,
    volume float8, vwap float8, trade_count bigint, PRIMARY KEY (symbol, timestamp, interval)
)
"""
T1, T2 = 1_700_000_000_000_000, 1_700_000_060_000_000


@pytest.fixture(scope="module")
def stack(tmp_path_factory) -> Iterator[Stack]:
    with Stack(["postgres"], folder=tmp_path_factory.mktemp("postgres")) as running:
        yield running


@pytest.fixture(scope="module")
def url(stack) -> str:
    return stack.env["DATABASE_URL"]


def execute(url: str, *statements: str) -> None:
    connection = psycopg2.connect(url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
    connection.close()


@pytest.fixture
def table(url) -> Iterator[RawOhlcv]:
    execute(url, "DROP TABLE IF EXISTS raw_ohlcv", TABLE)
    made = RawOhlcv(url, timeout_s=20.0)
    yield made
    made.close()


def put(url: str, *bars: tuple) -> None:
    values = ", ".join(
        f"('{symbol}', to_timestamp({ts / 1e6:.6f}), '{interval}', 1, 2, 0.5, {close}, 10)"
        for symbol, ts, interval, close in bars
    )
    execute(
        url,
        "INSERT INTO raw_ohlcv (symbol, timestamp, interval, open, high, low, close, volume) "
        f"VALUES {values}",
    )


def test_the_newest_row_of_each_symbol_is_read(table, url):
    put(url, ("A", T1, "1m", 1.5), ("A", T2, "1m", 2.5), ("B", T1, "1d", 3.5), ("C", T2, "1m", 4.5))
    found = table.last_rows(["B", "A", "Z", "A"])
    assert found.schema.equals(LAST_ROWS)
    assert rows(found) == [("A", T2, "1m", 2.5, 10.0), ("B", T1, "1d", 3.5, 10.0)]


def test_of_one_time_each_interval_is_read(table, url):
    put(url, ("A", T2, "5m", 2.0), ("A", T2, "1m", 1.0), ("A", T1, "1h", 9.0))
    assert rows(table.last_rows(["A"]), "interval", "close") == [("1m", 1.0), ("5m", 2.0)]


def test_a_row_without_a_close_is_passed_over(table, url):
    put(url, ("A", T1, "1m", 1.0), ("A", T2, "1m", "NULL"))
    assert rows(table.last_rows(["A"]), "ts", "close") == [(T1, 1.0)]


def test_of_no_symbol_or_an_odd_one_there_is_nothing(table):
    assert len(table.last_rows([])) == 0
    assert len(table.last_rows(["'; DROP TABLE raw_ohlcv; --", "a\0b", "%s", "{}"])) == 0
    table.check()


def test_nothing_is_written(table, url):
    with pytest.raises(PostgresError, match="read-only"):
        table._ask("DELETE FROM raw_ohlcv RETURNING 1", ())


def test_threads_share_a_few_connections(table, url):
    put(url, *((f"S{place}", T1, "1m", place + 1.0) for place in range(50)))
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda place: rows(table.last_rows([f"S{place}"]), "close"), range(50)))
    assert found == [[(place + 1.0,)] for place in range(50)]
    assert len(table._idle) <= table.connections


def test_a_statement_that_takes_too_long_is_ended(url):
    table = RawOhlcv(url, timeout_s=0.1)
    with pytest.raises(PostgresError, match="takes too long"):
        table._ask("SELECT 1 FROM pg_sleep(20)", ())
    table.timeout_s = 20.0
    table.check()
    table.close()


def test_a_database_without_the_table_says_so(url):
    execute(url, "DROP TABLE IF EXISTS raw_ohlcv")
    table = RawOhlcv(url, timeout_s=20.0)
    with pytest.raises(NoTable, match="no table raw_ohlcv"):
        table.last_rows(["A"])
    table.check()
    table.close()


def test_a_server_that_was_away_is_found_again(table, url, stack):
    put(url, ("A", T1, "1m", 1.5))
    table.check()
    stack.kill9("postgres")
    try:
        with pytest.raises(PostgresError):
            table.check()
        with pytest.raises(PostgresError, match="does not answer"):
            table.check()
    finally:
        stack.start()
    assert rows(table.last_rows(["A"]), "close") == [(1.5,)]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:hush@127.0.0.1:{port}/fibflow",
        "postgresql://user:hu/sh@nowhere.invalid/x",
        "postgresql//user:hush@host",
        "hush",
        "postgresql://user:hush@127.0.0.1:portless/x",
        "postgresql://user:hush@127.0.0.1:{port}/x?hush=1",
    ],
)
def test_a_wrong_address_is_told_in_one_line_without_secrets(url):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        table = RawOhlcv(url.format(port=taken.getsockname()[1]))
        with pytest.raises(PostgresError) as raised:
            table.check()
    assert "hush" not in str(raised.value)
    assert "hu/" not in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "hush" not in repr(table)
    assert raised.value.__suppress_context__
