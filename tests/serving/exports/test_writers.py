"""Bars as bytes, block by block."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fibflow.serving.exports.writers import ExportFormat, writer_of
from fibflow.serving.formats import Format, encode
from fibflow.tests.io.barlakes import XNYS, daily_rows, make_bars, minute_rows
from fibflow.transforms.schemas import BARS
from fibflow.transforms.timeframe import Timeframe

DAYS = make_bars(daily_rows({"A/B": ("2024-01-02", "2024-06-28"), "C": ("2024-03-01", "2024-06-28")}), "3d")[
    0
]
DAYS = DAYS.sort_by([("symbol", "ascending"), ("ts", "ascending")])
MINUTES = make_bars(
    minute_rows("A", ["2024-03-08T20:00", "2024-03-11T13:30", "2024-03-11T19:30"], 45), "15m"
)[0]


def of_symbol(symbol):
    return DAYS.filter(pa.array([name == symbol for name in DAYS["symbol"].to_pylist()]))


def written(form, table, size=10, columns=tuple(BARS.names), alone=False, timeframe="3d"):
    """The file that blocks of a table come to."""
    writer = writer_of(ExportFormat(form), columns, alone, Timeframe.parse(timeframe), XNYS)
    table = table.select(list(columns)) if form != "backtesting" else table
    parts = [writer.write(table.slice(at, size)) for at in range(0, len(table), size)]
    return b"".join([*parts, writer.close()]), parts


def test_parquet_is_the_rows_in_a_row_group_a_block():
    data, parts = written("parquet", DAYS)
    file = pq.ParquetFile(io.BytesIO(data))
    assert file.read().equals(DAYS)
    assert file.num_row_groups == len(parts)


def test_arrow_is_the_rows_in_a_batch_a_block():
    data, parts = written("arrow", DAYS)
    reader = pa.ipc.open_stream(data)
    batches = list(reader)
    assert pa.Table.from_batches(batches).equals(DAYS)
    assert len(batches) == len(parts)
    # Each block is there for the client as soon as it is made.
    assert all(parts)


def test_csv_is_what_it_is_elsewhere_with_one_header():
    data, _ = written("csv", DAYS)
    assert data == encode(DAYS, Format.CSV)


def test_columns_are_as_asked_for():
    data, _ = written("csv", DAYS, columns=("close", "ts"))
    assert data.splitlines()[0] == b'"close","ts"'


@pytest.mark.parametrize("form", ["parquet", "arrow", "csv", "backtesting"])
@pytest.mark.parametrize("blocks", [0, 1])
def test_without_rows_the_file_is_whole(form, blocks):
    writer = writer_of(ExportFormat(form), BARS.names, True, Timeframe(3, 0), XNYS)
    data = b"".join([writer.write(BARS.empty_table()) for _ in range(blocks)] + [writer.close()])
    if form == "parquet":
        assert pq.read_table(io.BytesIO(data)).equals(BARS.empty_table())
    elif form == "arrow":
        assert pa.ipc.open_stream(data).read_all().equals(BARS.empty_table())
    elif form == "csv":
        assert data == encode(BARS.empty_table(), Format.CSV)
    else:
        assert data == b'"Date","Open","High","Low","Close","Volume"\n'
    again = writer_of(ExportFormat.BACKTESTING, BARS.names, False, Timeframe(3, 0), XNYS)
    assert zipfile.ZipFile(io.BytesIO(again.close())).namelist() == []


def test_a_file_for_a_backtest_of_sessions_has_their_dates():
    rows = of_symbol("C")
    data, _ = written("backtesting", rows, alone=True)
    frame = pd.read_csv(io.BytesIO(data), index_col=0, parse_dates=True)
    assert frame.columns.tolist() == ["Open", "High", "Low", "Close", "Volume"]
    assert isinstance(frame.index, pd.DatetimeIndex)
    assert frame.index.tz is None
    local = pd.DatetimeIndex(rows["ts"].to_pylist()).tz_convert("America/New_York").tz_localize(None)
    assert frame.index.tolist() == local.tolist()
    for name in ("Open", "High", "Low", "Close", "Volume"):
        assert np.array_equal(frame[name].to_numpy(), rows[name.lower()].to_numpy())


def test_a_file_for_a_backtest_of_minutes_has_the_exchanges_time():
    data, _ = written("backtesting", MINUTES, alone=True, timeframe="15m")
    index = pd.read_csv(io.BytesIO(data), index_col=0, parse_dates=True).index
    # Before and after the clock was put forward.
    assert index[0] == pd.Timestamp("2024-03-08 15:00")
    assert index[3] == pd.Timestamp("2024-03-11 09:30")
    assert index.is_monotonic_increasing


def test_several_symbols_for_backtests_are_a_zip():
    data, parts = written("backtesting", DAYS)
    archive = zipfile.ZipFile(io.BytesIO(data))
    assert archive.testzip() is None
    assert archive.namelist() == ["A%2FB.csv", "C.csv"]
    for name, symbol in zip(archive.namelist(), ("A/B", "C"), strict=True):
        rows = of_symbol(symbol)
        assert archive.read(name) == written("backtesting", rows, alone=True)[0]
    # No clock goes into it.
    assert written("backtesting", DAYS)[0] == data
    assert written("backtesting", DAYS, size=7)[0] == data
    assert len(parts) > 2
