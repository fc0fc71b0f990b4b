"""The predecessor's tables, from another PostgreSQL and from files."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from fibflow.io.files import InputError
from fibflow.io.postgresql import dumps as dumps_module
from fibflow.io.postgresql import importing, watermarks
from fibflow.io.postgresql.columns import interval_of
from fibflow.io.postgresql.dumps import dumps
from fibflow.io.postgresql.importing import TABLES, Imported, Terms
from fibflow.io.postgresql.ohlcv import upsert_ohlcv
from fibflow.io.postgresql.session import PostgresError
from fibflow.io.postgresql.symbols import upsert_symbols
from fibflow.io.postgresql.upserts import Upserted
from fibflow.tests.io.postgresql.databases import GUARDED, PASSWORD, bars, execute, rows, select
from fibflow.transforms import schemas
from fibflow.transforms.calendar import load_calendar

XNYS = load_calendar()
TERMS = Terms(XNYS, "raw")
NAMES = {table: table for table in TABLES}
#: New York's midnight.
OPENED = {day: datetime(2024, 1, day, 5, tzinfo=UTC) for day in (2, 3, 4)}

OLD = """
CREATE SCHEMA old;
CREATE TABLE old.symbol_metadata (
    symbol varchar(20) PRIMARY KEY, company_name text, primary_exchange varchar(10), sector text,
    list_date date, is_active boolean, created_at timestamp);
INSERT INTO old.symbol_metadata VALUES
    ('AAPL', 'Apple Inc.', 'xnas', 'Tech', '1980-12-12', true, now()),
    ('TWTR', 'Twitter', 'XNYS', NULL, '2013-11-07', false, now());
CREATE TABLE old.raw_ohlcv (
    id bigserial, symbol varchar(20), "timestamp" timestamp, "interval" varchar(8), open numeric(18,4),
    high numeric(18,4), low numeric(18,4), close numeric(18,4), volume bigint, "VWAP" real,
    num_trades integer, created_at timestamptz DEFAULT now(),
    PRIMARY KEY (symbol, "timestamp", "interval"));
INSERT INTO old.raw_ohlcv
    (symbol, "timestamp", "interval", open, high, low, close, volume, "VWAP", num_trades)
VALUES
    ('AAPL', '2024-01-02', '1d', 187.15, 188.44, 183.885, 185.64, 82488700, 185.5, 1008871),
    ('AAPL', '2024-01-03 05:00', '1D', 184.22, 185.88, 183.43, 184.25, 58414460, NULL, NULL),
    ('AAPL', '2024-01-02 14:30', '1min', 187.15, 187.2, 187.0, 187.1, 1000, NULL, 12),
    ('AAPL', '2024-01-06', '1d', 1, 1, 1, 1, 1, NULL, NULL),
    ('AAPL', '2024-01-04', '1d', 1, 1, 2, 1, 1, NULL, NULL),
    ('AAPL', '2024-01-05', '1d', 0, 1, 0, 1, 1, NULL, NULL),
    ('AAPL', '2024-01-01', '1M', 1, 1, 1, 1, 1, NULL, NULL);
CREATE TABLE old.data_ingestion_watermark (
    symbol text, "interval" text, last_timestamp timestamp, updated_at timestamptz, status text);
INSERT INTO old.data_ingestion_watermark VALUES
    ('AAPL', '1d', '2024-01-03', '2024-01-04 02:00Z', 'done'),
    ('AAPL', '1d', '2024-01-02', '2024-01-03 02:00Z', 'done'),
    ('MSFT', '1d', NULL, NULL, 'new')
"""
STORED = [
    ("AAPL", OPENED[2], "1d", 187.15, 188.44, 183.885, 185.64, 82488700.0, 185.5, 1008871),
    ("AAPL", OPENED[3], "1d", 184.22, 185.88, 183.43, 184.25, 58414460.0, None, None),
    ("AAPL", datetime(2024, 1, 2, 14, 30, tzinfo=UTC), "1m", 187.15, 187.2, 187.0, 187.1, 1000.0, None, 12),
]
COLUMNS = "symbol, timestamp, interval, open, high, low, close, volume, vwap, trade_count"


@pytest.fixture
def old(server) -> str:
    url = server.make()
    execute(url, OLD)
    return url


def bring(
    url: str,
    place: Any,
    *,
    tables: dict[str, str] | None = None,
    schema: str | None = None,
    terms: Terms = TERMS,
    columns: dict[str, dict[str, str]] | None = None,
) -> dict[str, Imported]:
    with dumps(str(place), tables or NAMES, schema) as found:
        planned = importing.plan(found, columns)
        return {
            table: importing.import_table(url, table, sources, "r1", terms)
            for table, sources in planned.items()
        }


def stored(url: str) -> list[tuple]:
    return select(url, f"SELECT {COLUMNS} FROM raw_ohlcv ORDER BY interval, timestamp")


def test_everything_comes_over_and_what_is_not_taken_is_counted(url, old):
    done = bring(url, old, schema="old")
    assert stored(url) == STORED
    bars_done = done["raw_ohlcv"]
    assert (bars_done.read, bars_done.rows) == (7, Upserted(new=3))
    assert +bars_done.refused == {
        "not_a_session": 1,
        "high_low_mismatch": 1,
        "non_positive_price": 1,
        "unknown_interval": 1,
    }
    assert done["symbol_metadata"].rows == Upserted(new=2)
    names = "SELECT symbol, name, exchange, active, listed::text FROM symbol_metadata ORDER BY symbol"
    assert select(url, names) == [
        ("AAPL", "Apple Inc.", "XNAS", True, "1980-12-12"),
        ("TWTR", "Twitter", "XNYS", False, "2013-11-07"),
    ]
    marks = done["data_ingestion_watermark"]
    assert (marks.rows, +marks.refused) == (Upserted(new=1), {"null_time": 1, "older_step": 1})
    mark = watermarks.read(url, "predecessor", "AAPL/1d")
    assert mark is not None
    assert (mark.watermark, mark.updated.hour) == (datetime(2024, 1, 3, tzinfo=UTC), 2)


def test_a_second_import_does_nothing(url, old):
    bring(url, old, schema="old")
    before = select(url, "SELECT *, xmin FROM raw_ohlcv ORDER BY 1, 2, 3")
    done = bring(url, old, schema="old")
    assert [one.rows for one in done.values()] == [
        Upserted(unchanged=2),
        Upserted(unchanged=3),
        Upserted(unchanged=1),
    ]
    assert select(url, "SELECT *, xmin FROM raw_ohlcv ORDER BY 1, 2, 3") == before


def test_how_columns_are_understood_is_told_before_anything_is_read(old):
    with dumps(old, NAMES, "old") as found:
        planned = importing.plan(found)
    told = {table: (dict(mapped.sources), mapped.unknown) for table, [(_, mapped)] in planned.items()}
    assert told["raw_ohlcv"][1] == ("id", "created_at")
    assert told["raw_ohlcv"][0]["vwap"] == "VWAP"
    assert told["raw_ohlcv"][0]["trade_count"] == "num_trades"
    assert told["symbol_metadata"][1] == ("sector", "created_at")
    assert told["data_ingestion_watermark"] == (
        {"key": "symbol", "interval": "interval", "watermark": "last_timestamp", "updated": "updated_at"},
        ("status",),
    )


def test_what_was_written_by_others_stays(url, old):
    day = bars(("AAPL", 0, 9.0))
    ts = pa.array([OPENED[2]], schemas.TIMESTAMP)
    upsert_ohlcv(url, day.set_column(1, "ts", ts), "1d")
    upsert_symbols(url, rows(schemas.SYMBOLS, {"symbol": "AAPL", "name": "Apple"}))
    watermarks.advance(url, "predecessor", "AAPL/1d", datetime(2024, 5, 1, tzinfo=UTC), "r0")
    done = bring(url, old, schema="old")
    assert done["raw_ohlcv"].rows == Upserted(new=2, outdated=1)
    assert done["symbol_metadata"].rows == Upserted(new=1, outdated=1)
    assert done["data_ingestion_watermark"].rows == Upserted(unchanged=1)
    assert select(url, "SELECT close FROM raw_ohlcv WHERE timestamp = %s", OPENED[2]) == [(9.0,)]


def test_a_table_of_the_same_database_under_another_name(url):
    execute(url, OLD, "ALTER TABLE old.raw_ohlcv RENAME TO raw_ohlcv_old")
    done = bring(url, url, tables={"raw_ohlcv": "old.raw_ohlcv_old"})
    assert list(done) == ["raw_ohlcv"]
    assert stored(url) == STORED


# Files -----------------------------------------------------------------------------------------------------


def dumped(old: str, folder: Path, form: str) -> Path:
    """The tables as files."""
    for table in TABLES:
        columns = [name for (name,) in select(old, _NAMES, table)]
        found = select(old, f"SELECT * FROM old.{table}")
        values = [[row[place] for row in found] for place in range(len(columns))]
        arrow = pa.table([pa.array(column) for column in values], names=columns)
        (folder / form).mkdir(exist_ok=True)
        if form == "parquet":
            # In parts, as clusters write them.
            (folder / form / table).mkdir()
            pq.write_table(arrow.slice(0, 2), folder / form / table / "part-0.parquet")
            pq.write_table(arrow.slice(2), folder / form / table / "part-1.parquet")
        else:
            pacsv.write_csv(arrow, folder / form / f"{table}.csv")
    return folder / form


_NAMES = "SELECT column_name FROM information_schema.columns WHERE table_schema = 'old' AND table_name = %s"


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_from_files_comes_the_same(url, server, old, tmp_path, form):
    done = bring(url, dumped(old, tmp_path, form))
    assert stored(url) == STORED
    other = server.make("migrated")
    direct = bring(other, old, schema="old")
    for table in TABLES:
        assert done[table].rows == direct[table].rows
        assert +done[table].refused == +direct[table].refused
    for query in (
        "SELECT symbol, name, exchange, active, listed FROM symbol_metadata ORDER BY 1",
        "SELECT job, key, watermark, updated FROM data_ingestion_watermark ORDER BY 1, 2",
    ):
        assert select(url, query) == select(other, query)


def test_what_psql_and_others_write(url, tmp_path):
    (tmp_path / "raw_ohlcv.csv").write_text(
        "Ticker;Date;O;H;L;C;V;vw;n;timeframe\n"
        "NA;20240102;1.5;2;1;1.5;100;\\N;\\N;daily\n"
        "NULL;20240103;1.5;2;1;1.5;1e3;1.6;7;1 day\n"
    )
    bring(url, tmp_path / "raw_ohlcv.csv")
    assert stored(url) == [
        ("NA", OPENED[2], "1d", 1.5, 2.0, 1.0, 1.5, 100.0, None, None),
        ("NULL", OPENED[3], "1d", 1.5, 2.0, 1.0, 1.5, 1000.0, 1.6, 7),
    ]


def test_columns_that_are_named(url, tmp_path):
    (tmp_path / "raw_ohlcv.csv").write_text(
        "symbol,d,px,high,low,close,open,volume\nA,2024-01-02,1,2,1,1,7,5\n"
    )
    named = {"raw_ohlcv": {"ts": "d", "open": "px"}}
    with pytest.raises(InputError, match=r"no column for ts .*--column raw_ohlcv\.ts=NAME"):
        bring(url, tmp_path)
    with pytest.raises(InputError, match=r"no column for the interval: say --interval"):
        bring(url, tmp_path, columns=named)
    bring(url, tmp_path, columns=named, terms=Terms(XNYS, "raw", "1d"))
    assert [row[3] for row in stored(url)] == [1.0]
    with pytest.raises(InputError, match="raw_ohlcv has no column price here"):
        bring(url, tmp_path, columns={"raw_ohlcv": {"price": "px"}})
    with pytest.raises(InputError, match="there is no column nix, named for ts"):
        bring(url, tmp_path, columns={"raw_ohlcv": {"ts": "nix"}})


def test_more_rows_than_are_written_at_once(url, tmp_path, monkeypatch):
    monkeypatch.setattr(importing, "_ROWS", 1000)
    monkeypatch.setattr(dumps_module, "_ROWS", 300)
    days = XNYS.days[-800:].astype("datetime64[D]").astype(object).tolist()
    count = len(days) * 4
    table = pa.table(
        {
            "symbol": [f"S{n % 4}" for n in range(count)],
            "timestamp": pa.array([days[n // 4] for n in range(count)]),
            **{name: np.arange(1.0, count + 1) for name in ("open", "high", "low", "close", "volume")},
            "interval": ["1d"] * count,
        }
    )
    pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), tmp_path / "raw_ohlcv.parquet")
    done = bring(url, tmp_path)["raw_ohlcv"]
    # The last row is that of a key that was written before.
    assert (done.read, done.rows) == (count + 1, Upserted(new=count, unchanged=1))
    assert select(url, "SELECT count(*), sum(close) FROM raw_ohlcv") == [(count, count * (count + 1) / 2)]


# What cannot be --------------------------------------------------------------------------------------------


def test_nothing_there(url, old, tmp_path):
    with pytest.raises(InputError, match="none of symbol_metadata, raw_ohlcv"):
        bring(url, old)
    with pytest.raises(InputError, match="there is no such folder"):
        bring(url, tmp_path / "nowhere")
    (tmp_path / "raw_ohlcv.csv").write_text("")
    with pytest.raises(InputError, match="no header line"):
        bring(url, tmp_path)
    (tmp_path / "raw_ohlcv.csv").write_bytes(b"symbol,ts,open\nA,2")
    with pytest.raises(InputError, match=r"no column for high"):
        bring(url, tmp_path)


def test_a_file_that_is_broken(url, tmp_path):
    (tmp_path / "raw_ohlcv.csv").write_text("symbol,ts,open,high,low,close,volume\nA,2024-01-02,1,1\n")
    with pytest.raises(InputError, match=r"raw_ohlcv\.csv: it cannot be read: .*[Cc]olumns"):
        bring(url, tmp_path, terms=Terms(XNYS, "raw", "1d"))
    (tmp_path / "raw_ohlcv.csv").unlink()
    (tmp_path / "raw_ohlcv.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(InputError, match=r"raw_ohlcv\.parquet: it cannot be read"):
        bring(url, tmp_path)
    assert stored(url) == []


def test_a_type_that_cannot_be_read(url, tmp_path):
    table = pa.table(
        {
            "symbol": ["A"],
            "ts": [True],
            "open": [1.0],
            "high": [1.0],
            "low": [1.0],
            "close": [1.0],
            "volume": [1.0],
        }
    )
    pq.write_table(table, tmp_path / "raw_ohlcv.parquet")
    with pytest.raises(InputError, match="column ts cannot be read: bool holds no times"):
        bring(url, tmp_path, terms=Terms(XNYS, "raw", "1d"))


def test_a_failure_of_ours_in_the_midst_ends_the_reading_of_theirs(url, server, monkeypatch):
    other = server.make()
    execute(
        other,
        "CREATE TABLE raw_ohlcv AS SELECT 'S' || n AS symbol, date '2024-01-02' AS date, '1d' AS interval, "
        "1 AS open, 1 AS high, 1 AS low, 1 AS close, 1 AS volume FROM generate_series(1, 20000) n",
    )

    def refuse(*_: Any, **__: Any) -> Upserted:
        raise PostgresError("PostgreSQL refuses")

    monkeypatch.setattr(importing, "_ROWS", 1)
    # Far more is still to be written into the pipe than it holds.
    monkeypatch.setattr(dumps_module, "_BLOCK", 1 << 12)
    monkeypatch.setattr(importing, "upsert_ohlcv", refuse)
    with pytest.raises(PostgresError, match="PostgreSQL refuses"):
        bring(url, other)
    monkeypatch.undo()
    done = bring(url, other)["raw_ohlcv"]
    assert (done.read, done.rows) == (20_000, Upserted(new=20_000))


def test_another_price_basis_is_refused(url, old):
    bring(url, old, schema="old")
    with pytest.raises(PostgresError, match="holds raw prices"):
        bring(url, old, schema="old", terms=Terms(XNYS, "split-adjusted"))


def test_no_right_to_read_there(server, url, old):
    place = server.url(old.rpartition("/")[2], GUARDED, PASSWORD)
    execute(old, f"GRANT USAGE ON SCHEMA old TO {GUARDED}")
    with pytest.raises(PostgresError, match="permission denied for table") as raised:
        bring(url, place, schema="old")
    assert PASSWORD not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        *(("1d", "1d"), ("1D", "1d"), ("day", "1d"), ("1 day", "1d"), ("daily", "1d"), ("13d", "13d")),
        *(("1m", "1m"), ("1Min", "1m"), ("5 minutes", "5m"), ("60m", "1h"), ("hour", "1h"), ("4H", "4h")),
        *(("1M", None), ("M", None), ("1w", None), ("", None), (None, None), ("7m", None), ("0d", None)),
    ],
)
def test_intervals_by_many_names(name, found):
    assert interval_of(name) == found
