import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fibflow.io.files import InputError
from fibflow.io.silver import Silver
from fibflow.tests.io.barlakes import XNYS, daily_rows
from fibflow.tests.io.silverfiles import silver_bars, write_silver

ROWS = daily_rows({"A": ("2022-12-01", "2023-12-29"), "B": ("2023-03-01", "2023-09-12")})
BARS = silver_bars(ROWS, 3)


def sessions(table):
    """The session that each row's stamp names."""
    days = XNYS.session_days(table["ts"].cast(pa.int64()).to_numpy())
    return days.astype("datetime64[D]").tolist()


def test_timeframes_are_those_of_the_folders(tmp_path):
    for name in ("13d", "3d", "1h"):
        write_silver(tmp_path / "silver", BARS, name)
    (tmp_path / "silver" / "silver_5d").mkdir()
    (tmp_path / "silver" / "silver_8d").mkdir()
    (tmp_path / "silver" / "silver_8d" / "notes.csv").write_text("symbol")
    assert Silver(str(tmp_path)).timeframes == ["1h", "3d", "13d"]
    assert Silver(str(tmp_path / "silver" / "silver_3d" / "year=2023")).timeframes == ["3d"]


def test_rows_come_in_order_of_the_files(tmp_path):
    write_silver(tmp_path, BARS, "3d")
    table = Silver(str(tmp_path)).read("3d")
    assert table.column_names == ["symbol", "ts", "open", "high", "low", "close", "volume"]
    expected = BARS.sort_by([("ts", "ascending"), ("symbol", "ascending")])
    found = table.cast(table.schema.set(0, pa.field("symbol", pa.string())))
    found = found.sort_by([("ts", "ascending"), ("symbol", "ascending")])
    assert found.drop_columns("ts").equals(expected.drop_columns("ts"))
    assert sessions(found) == expected["ts"].to_pylist()


def ts_as_date(bars):
    return bars


def timestamp_at_midnight_utc(bars):
    return bars.set_column(6, "timestamp", bars["ts"].cast(pa.timestamp("ns", "UTC")))


def date_as_text(bars):
    return bars.set_column(6, "date", bars["ts"].cast(pa.string()))


def ts_at_new_yorks_midnight(bars):
    days = bars["ts"].to_numpy().astype("datetime64[D]").astype(np.int32)
    stamps = XNYS.day_starts[XNYS.positions(days)]
    return bars.set_column(6, "ts", pa.array(stamps).cast(pa.timestamp("us", "UTC")))


def integer_volume_and_an_interval(bars):
    bars = bars.set_column(5, "volume", bars["volume"].cast(pa.int64()))
    return bars.append_column("interval", pa.array(["3d"] * len(bars)))


def upper_case(bars):
    return bars.rename_columns([name.upper() if name != "ts" else name for name in bars.column_names])


@pytest.mark.parametrize(
    "dialect",
    [
        ts_as_date,
        timestamp_at_midnight_utc,
        date_as_text,
        ts_at_new_yorks_midnight,
        integer_volume_and_an_interval,
        upper_case,
    ],
)
def test_dialects(tmp_path, dialect):
    path = tmp_path / "silver_3d" / "all.parquet"
    path.parent.mkdir()
    pq.write_table(dialect(BARS), path)
    table = Silver(str(tmp_path)).read("3d")
    assert sessions(table) == BARS["ts"].to_pylist()
    assert table["symbol"].to_pylist() == BARS["symbol"].to_pylist()
    assert table["volume"].equals(BARS["volume"])


def without_low(bars):
    return bars.drop_columns("low")


def without_a_date(bars):
    return bars.set_column(6, "ts", pa.nulls(len(bars), pa.date32()))


def with_flags_for_prices(bars):
    return bars.set_column(1, "open", pa.array([True] * len(bars)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            without_low,
            r"a\.parquet: no column for low \(low or l\); it has symbol, open, high, close, volume, ts$",
        ),
        (without_a_date, r"a\.parquet: a row has no symbol, or no date that can be read$"),
        (with_flags_for_prices, r"a\.parquet: cannot be read as silver bars \(bool holds no numbers\)$"),
        (None, r"a\.parquet: cannot be read as silver bars \(.*\)$"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, change, message):
    path = tmp_path / "silver_3d" / "a.parquet"
    path.parent.mkdir()
    if change is None:
        path.write_bytes(b"no parquet")
    else:
        pq.write_table(change(BARS), path)
    with pytest.raises(InputError, match=message):
        Silver(str(tmp_path)).read("3d")


def test_folders_that_cannot_be_used(tmp_path):
    with pytest.raises(InputError, match="there is no such folder"):
        Silver(str(tmp_path / "nope"))
    pq.write_table(BARS, tmp_path / "bars.parquet")
    with pytest.raises(InputError, match="no folder silver_3d, silver_5d or the like"):
        Silver(str(tmp_path))
    write_silver(tmp_path, BARS, "3d")
    with pytest.raises(InputError, match="no folder silver_5d; there are 3d"):
        Silver(str(tmp_path)).read("5d")
    write_silver(tmp_path, BARS, "7m")
    with pytest.raises(InputError, match="timeframe 7m does not divide a day"):
        _ = Silver(str(tmp_path)).timeframes


def test_silver_in_a_bucket(s3, tmp_path):
    path = tmp_path / "data.parquet"
    pq.write_table(BARS, path)
    s3.put("silver/silver_3d/year=2023/month=01/data_3d_202301.parquet", path.read_bytes())
    silver = Silver(s3.uri("silver"), s3.aws)
    assert silver.timeframes == ["3d"]
    assert silver.read("3d")["close"].equals(BARS["close"])
