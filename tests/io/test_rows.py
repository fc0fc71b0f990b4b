"""Where rows come from: raw files in order of precedence, and the files of a bronze table."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fibflow.io import tables
from fibflow.io.files import list_raw
from fibflow.io.lake import Lake, Scope
from fibflow.io.rowfilter import Filter
from fibflow.io.rows import BronzeRows, Origins, RawRows, TickRows
from fibflow.io.storage import LakeError, Storage
from fibflow.tests.io.barlakes import daily_rows, minute_rows
from fibflow.tests.pipelines.streamed import Streamed, day_of_minutes, day_of_trades, session
from fibflow.transforms.calendar import load_calendar
from fibflow.transforms.corrections import CORRECTABLE
from fibflow.transforms.schemas import DAILY_ROWS, MINUTE_INPUT, MINUTE_ROWS

XNYS = load_calendar()
DAYS = ["2024-01-02", "2024-01-03", "2024-01-04", "2024-01-05"]


def write(path, days, symbol=None, price=10.0, at=1_700_000_000, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {
        "symbol": None if symbol is None else [symbol] * len(days),
        "date": days,
        **{name: [price] * len(days) for name in ("open", "high", "low", "close")},
        "volume": [100] * len(days),
    }
    given = {name: column for name, column in (columns | more).items() if column is not None}
    pq.write_table(pa.table(given), path)
    os.utime(path, (at, at))


@pytest.fixture
def raw(tmp_path):
    """A consolidated file of each of two symbols, a ``date=`` file, and a wide file that is newer."""
    base = tmp_path / "raw"
    write(base / "symbol=A" / "data.parquet", DAYS, at=1_700_000_100)
    write(base / "symbol=B" / "data.parquet", DAYS, at=1_700_000_000)
    write(base / "symbol=A" / "date=2024-01-03.parquet", DAYS[1:2], price=11.0, at=1_600_000_000)
    write(base / "wide.parquet", DAYS[:1] * 2, symbol="A", price=12.0, at=1_800_000_000)
    return base


@pytest.fixture
def staging(tmp_path):
    return Storage(str(tmp_path / "staging"))


def rows_of(raw, staging, symbols=None, kind="daily"):
    source = RawRows(str(raw), kind, XNYS, staging, symbols=symbols)
    source.stage(list_raw(str(raw)))
    return source


def names(source):
    return [file.path.rpartition("/raw/")[2] for file in source.files]


# Raw files -------------------------------------------------------------------------------------------------


def test_files_stand_in_order_of_precedence(raw, staging):
    assert names(rows_of(raw, staging)) == [
        "symbol=B/data.parquet",
        "symbol=A/data.parquet",
        "wide.parquet",
        "symbol=A/date=2024-01-03.parquet",
    ]


def test_rows_have_the_rank_of_their_file(raw, staging):
    source = rows_of(raw, staging)
    validated = source.read([3, 0, 2])
    assert validated.rows["rank"].to_pylist() == [3, 0, 0, 0, 0, 2, 2]
    assert validated.rows["symbol"].cast(pa.string()).to_pylist() == ["A", "B", "B", "B", "B", "A", "A"]
    assert validated.rows["open"].to_pylist() == [11.0] + [10.0] * 4 + [12.0] * 2
    assert len(validated.rejected) == 0


def test_a_dictionary_holds_each_symbol_once(raw, staging):
    """Several files are of one symbol."""
    rows = rows_of(raw, staging).read([1, 3, 0]).rows
    (chunk,) = rows["symbol"].chunks
    assert sorted(chunk.dictionary.to_pylist()) == ["A", "B"]


def test_optional_columns_are_left_out_where_no_file_has_them(raw, staging):
    rows = rows_of(raw, staging).read([0, 1]).rows
    assert rows.column_names == [n for n in DAILY_ROWS.names if n not in ("vwap", "trade_count")] + ["rank"]
    write(raw / "symbol=C" / "data.parquet", DAYS, vwap=[1.0, None, None, None])
    source = rows_of(raw, staging)
    rows = source.read(range(len(source.files))).rows
    assert rows["vwap"].null_count == len(rows) - 1
    assert "trade_count" not in rows.column_names


def test_refused_rows_name_their_file(raw, staging):
    write(raw / "symbol=C" / "data.parquet", DAYS, price=-1.0)
    source = rows_of(raw, staging)
    rank = names(source).index("symbol=C/data.parquet")
    validated = source.read([0, rank])
    assert len(validated.rows) == 4
    assert validated.rejected["reason"].unique().to_pylist() == ["non_positive_price"]
    (origin,) = validated.rejected["origin"].unique().to_pylist()
    assert origin.endswith("symbol=C/data.parquet")
    assert Origins(source)[rank] == origin == source.origin(rank)


def test_only_some_symbols(raw, staging):
    source = rows_of(raw, staging, frozenset("A"))
    # Files of other symbols are not read at all; a wide one may hold it.
    assert names(source) == [
        "symbol=A/data.parquet",
        "wide.parquet",
        "symbol=A/date=2024-01-03.parquet",
    ]
    write(raw / "wide.parquet", DAYS, symbol="B")
    source = rows_of(raw, staging, frozenset("A"))
    rows = source.read(range(3)).rows
    assert rows["symbol"].cast(pa.string()).unique().to_pylist() == ["A"]
    assert len(rows) == 5


def test_workers_read_the_list_of_files_from_the_staging_place(raw, staging):
    source = rows_of(raw, staging)
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301 - as Beam sends it
    assert b"data.parquet" not in pickle.dumps(source)
    assert copy.files == source.files
    assert copy.read([0]).rows.equals(source.read([0]).rows)


def test_a_staging_place_that_workers_do_not_see(raw, staging, tmp_path):
    source = RawRows(str(raw), "daily", XNYS, Storage(str(tmp_path / "elsewhere")))
    with pytest.raises(LakeError, match="holds no list of files"):
        source.read([0])


def test_minutes_have_a_version(raw, staging, tmp_path):
    folder = tmp_path / "minutes"
    stamps = pa.array([int(XNYS.opens[-1]), int(XNYS.opens[-1]) + 60_000_000], pa.timestamp("us", "UTC"))
    write(folder / "a.parquet", [1, 2], symbol="A", date=None, timestamp=stamps, version=[7, 8])
    rows = rows_of(folder, staging, kind="minutes").read([0]).rows
    assert rows["version"].to_pylist() == [7, 8]
    assert rows.column_names == [n for n in MINUTE_ROWS.names if n not in ("vwap", "trade_count")] + ["rank"]


# Bronze ----------------------------------------------------------------------------------------------------


@pytest.fixture
def bronze(tmp_path):
    """A table of daily rows in two files."""
    table = Lake(str(tmp_path / "lake")).table(tables.DAILY)
    rows = daily_rows({"A": ("2023-12-20", "2024-01-05"), "B": ("2023-12-29", "2024-01-03")})
    years = [str(day) for day in rows["session"].to_pylist()]
    files = []
    for year in ("2023", "2024"):
        part = rows.filter(pa.array([day.startswith(year) for day in years]))
        part = part.append_column("source", pa.array([1] * len(part)))
        part = part.append_column("landed", pa.array([1] * len(part), pa.int32()))
        files.append(table.writer().write(part, {"period": year}, "rows"))
    table.commit(files, base_version=-1, scope=Scope(), run="run")
    return table


def keys(validated):
    rows = validated.rows
    return list(
        zip(*(rows[name].cast(pa.string()).to_pylist() for name in ("symbol", "session")), strict=True)
    )


def test_bronze_rows_are_those_of_the_files(bronze):
    snapshot = bronze.snapshot()
    source = BronzeRows(bronze.storage, bronze.spec, "daily")
    validated = source.read(snapshot.select())
    assert len(keys(validated)) == snapshot.rows == 14
    assert validated.rows.schema.names == DAILY_ROWS.names
    assert len(validated.rejected) == 0
    assert len(source.read(snapshot.select(where={"period": "2023"})).rows) == 8
    assert source.origin(0) == bronze.storage.uri


def test_bronze_rows_that_meet_a_condition(bronze):
    first = int(np.datetime64("2024-01-02", "D").astype(int))
    condition = Filter.of(bronze.spec, ["B"], first)
    source = BronzeRows(bronze.storage, bronze.spec, "daily", condition)
    files = bronze.snapshot().select()
    assert keys(source.read(files)) == [("B", "2024-01-02"), ("B", "2024-01-03")]
    assert (
        len(BronzeRows(bronze.storage, bronze.spec, "daily", Filter.of(bronze.spec, ["X"])).read(files).rows)
        == 0
    )


def test_bronze_rows_from_a_day_of_each_symbol_on(bronze):
    day = int(np.datetime64("2024-01-03", "D").astype(int))
    never = int(np.iinfo(np.int32).max)
    files = bronze.snapshot().select()
    source = BronzeRows(bronze.storage, bronze.spec, "daily", None, {"A": day})
    assert [key for key in keys(source.read(files)) if key[0] == "A"] == [
        ("A", "2024-01-03"),
        ("A", "2024-01-04"),
        ("A", "2024-01-05"),
    ]
    assert len([key for key in keys(source.read(files)) if key[0] == "B"]) == 3
    source = BronzeRows(bronze.storage, bronze.spec, "daily", None, {"A": never})
    assert {key[0] for key in keys(source.read(files))} == {"B"}


def test_bronze_minutes(tmp_path):
    table = Lake(str(tmp_path / "lake")).table(tables.MINUTES)
    rows = minute_rows("A", ["2024-01-02T14:30"], 5)
    part = rows.append_column("source", pa.array([1] * 5)).append_column(
        "landed", pa.array([1] * 5, pa.int32())
    )
    table.commit(
        [table.writer().write(part, {"period": "2024-01"}, "rows")], base_version=-1, scope=Scope(), run="run"
    )
    found = BronzeRows(table.storage, table.spec, "minutes").read(table.snapshot().select()).rows
    # A version that no row has costs nothing.
    assert found.column_names == [name for name in MINUTE_ROWS.names if name != "version"]
    assert found["close"].equals(rows["close"])


@pytest.mark.parametrize("kind", ["T", "AM"])
def test_rows_of_ticks_are_what_the_kernel_takes(kind, tmp_path):
    made = Streamed(tmp_path / "lake")
    made.archive([*day_of_trades("2024-03-08", trades=9), *day_of_minutes("2024-03-08", minutes=5)])
    start, end = session("2024-03-08").opens, session("2024-03-08").closes
    snapshot = made.lake.table(tables.TICKS).snapshot()
    condition = Filter.of(tables.TICKS, None, start, end, {"kind": kind})
    given = TickRows(snapshot.storage, tables.TICKS, condition, kind == "T")
    source = pickle.loads(pickle.dumps(given))  # noqa: S301 - as Beam sends it
    validated = source.read(snapshot.select())
    schema = CORRECTABLE if kind == "T" else MINUTE_INPUT
    rows = validated.rows
    assert rows.column_names == schema.names
    assert pa.types.is_string(rows.schema.field("sequence").type)
    expected = [row for row in made.messages if row["kind"] == kind and start <= row["ts"] < end]
    names = ["symbol", "seq", "trade_id", "sequence"] if kind == "T" else ["symbol", "open", "version"]
    assert rows.select(names).to_pylist() == [{name: row[name] for name in names} for row in expected]
    assert len(validated.rejected) == 0
    assert source.origin(0) == snapshot.storage.uri
