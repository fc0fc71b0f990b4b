from __future__ import annotations

import gzip
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fibflow.io.files import InputError, filesystem_for, list_raw
from fibflow.io.raw import FileStats, RawReader
from fibflow.transforms.schemas import RAW

TIMES = [datetime(2024, 3, day, tzinfo=UTC) for day in (8, 11, 12)]
MICROS = [int(t.timestamp()) * 1_000_000 for t in TIMES]
PRICES = {"open": [1.0, 2.0, 3.0], "high": [2.0, 3.0, 4.0], "low": [0.5, 1.5, 2.5], "close": [1.5, 2.5, 3.5]}
VOLUME = [100, 200, 300]


def rows(**changes):
    """Columns as the predecessor writes them, without symbol; None drops one."""
    columns = {**PRICES, "volume": VOLUME, "timestamp": pa.array(TIMES, pa.timestamp("us", "UTC"))}
    columns["interval"] = ["1d"] * 3
    columns |= changes
    return {name: values for name, values in columns.items() if values is not None}


def expected(symbol="AAPL", **changes):
    columns = {
        "symbol": [symbol] * 3,
        "ts": TIMES,
        **PRICES,
        "volume": [float(v) for v in VOLUME],
        "vwap": [None] * 3,
        "trade_count": [None] * 3,
        "version": [None] * 3,
    }
    return columns | changes


@dataclass
class Folder:
    path: Path

    def parquet(self, columns, name="symbol=AAPL/data.parquet", **options):
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), target, **options)
        return self

    def text(self, text, name="data.csv"):
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        data = text if isinstance(text, bytes) else text.encode()
        target.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return self

    def read(self, *args, **kwargs):
        """Read the one file there is."""
        (file,) = list_raw(str(self.path))
        table = RawReader(filesystem_for(str(self.path))[0]).read(file, *args, **kwargs)
        table.validate(full=True)
        return table

    def refuse(self, *args):
        """Return the one line that refuses the one file there is, without its path."""
        (file,) = list_raw(str(self.path))
        with pytest.raises(InputError) as caught:
            RawReader(filesystem_for(str(self.path))[0]).read(file, *args)
        line = str(caught.value)
        assert "\n" not in line
        assert line.startswith(f"{file.path}: ")
        return line.removeprefix(f"{file.path}: ")

    def statistics(self):
        (file,) = list_raw(str(self.path))
        return RawReader(filesystem_for(str(self.path))[0]).statistics(file)


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


# --- layouts and names ----------------------------------------------------------------------------


def test_the_predecessors_consolidated_file(folder):
    table = folder.parquet(rows()).read()
    assert table.schema.equals(RAW, check_metadata=True)
    assert table.to_pydict() == expected()


@pytest.mark.parametrize("statistics", [True, False])
def test_a_symbol_column_that_agrees_with_the_path(folder, statistics):
    table = folder.parquet(rows(symbol=["AAPL", None, "AAPL"]), write_statistics=statistics).read()
    assert table.to_pydict() == expected()


def test_older_files_call_the_time_timestamp_1(folder):
    columns = rows(timestamp=None, timestamp_1=pa.array(TIMES, pa.timestamp("ns")))
    assert folder.parquet(columns, "symbol=AAPL/date=2024-03-11.parquet").read().to_pydict() == expected()


@pytest.mark.parametrize("write", ["parquet", "csv"])
def test_consolidated_files_may_hold_both_times(folder, write):
    both = rows(
        timestamp=pa.array([None, TIMES[1], None], pa.timestamp("us", "UTC")),
        t=["A", "B", "C"],
        timestamp_1=pa.array([TIMES[0], None, TIMES[2]], pa.timestamp("us", "UTC")),
    )
    if write == "parquet":
        folder.parquet(both)
    else:
        (folder.path / "symbol=AAPL").mkdir()
        pacsv.write_csv(pa.table(both), folder.path / "symbol=AAPL" / "data.csv")
    assert folder.read().to_pydict() == expected()
    columns = folder.read(columns=["ts", "open"])
    assert columns.column_names == ["ts", "open"]
    assert columns["ts"].to_pylist() == TIMES


def test_a_second_time_that_is_none_fills_nothing(folder):
    columns = rows(timestamp=pa.array([None, *TIMES[1:]], pa.timestamp("us", "UTC")), t=[True, True, False])
    assert folder.parquet(columns).read()["ts"].to_pylist() == [None, *TIMES[1:]]


def test_one_file_a_year_with_the_symbol_in_a_column(folder):
    columns = {"symbol": ["A", None, ""], **rows()}
    table = folder.parquet(columns, "year=2024/month=03/data.parquet").read()
    assert table.schema.equals(RAW)
    assert table.to_pydict() == expected() | {"symbol": ["A", None, ""]}


POLYGON = {
    "ticker": ["AAPL"] * 3,
    "volume": VOLUME,
    "open": PRICES["open"],
    "close": PRICES["close"],
    "high": PRICES["high"],
    "low": PRICES["low"],
    "window_start": [m * 1000 for m in MICROS],
    "transactions": [7, 8, None],
}
SHORT = {
    "SYM": ["AAPL"] * 3,
    "O": PRICES["open"],
    "H": PRICES["high"],
    "L": PRICES["low"],
    "C": PRICES["close"],
    "V": VOLUME,
    "VW": [1.1, None, 3.3],
    "N": [7, 8, None],
    "T": [m // 1000 for m in MICROS],
    "Version": [1, 2, 3],
}


@pytest.mark.parametrize("write", ["parquet", "csv", "csv.gz"])
@pytest.mark.parametrize(
    ("columns", "changes"),
    [
        (POLYGON, {"trade_count": [7, 8, None]}),
        (SHORT, {"trade_count": [7, 8, None], "vwap": [1.1, None, 3.3], "version": [1, 2, 3]}),
    ],
)
def test_names_of_other_vendors(folder, columns, changes, write):
    if write == "parquet":
        folder.parquet(columns, "a.parquet")
    else:
        sink = pa.BufferOutputStream()
        pacsv.write_csv(pa.table(columns), sink)
        folder.text(sink.getvalue().to_pybytes(), f"a.{write}")
    assert folder.read("minutes").to_pydict() == expected(**changes)


def test_the_exact_name_goes_before_another_case_and_an_alias(folder):
    columns = rows(Close=["x"] * 3, c=[9.0] * 3, date=pa.array([date(2000, 1, 3)] * 3))
    assert folder.parquet(columns).read().to_pydict() == expected()


def test_columns_that_are_not_asked_for_are_not_needed(folder):
    folder.parquet({"close": PRICES["close"]})
    assert folder.read(columns=["close", "symbol"]).to_pydict() == {
        "symbol": ["AAPL"] * 3,
        "close": PRICES["close"],
    }
    assert folder.read(columns=["symbol"]).num_rows == 3
    assert folder.read(columns=["vwap"]).to_pydict() == {"vwap": [None] * 3}


def test_the_layout_of_one_file_is_not_taken_for_anothers(tmp_path):
    folder = Folder(tmp_path)
    folder.parquet(rows(), "symbol=A/1.parquet")
    folder.parquet(rows(timestamp=None, ts=pa.array([t.date() for t in TIMES])), "symbol=A/2.parquet")
    folder.parquet(rows(), "symbol=A/3.parquet").parquet({"open": [1.0]}, "symbol=A/4.parquet")
    *good, bad = list_raw(str(tmp_path))
    reader = RawReader(filesystem_for(str(tmp_path))[0])
    for file in good:
        assert reader.read(file).to_pydict() == expected("A")
    with pytest.raises(InputError, match="no column for ts"):
        reader.read(bad)


# --- types ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "times",
    [
        pa.array(TIMES, pa.timestamp("ms")),
        pa.array(TIMES, pa.timestamp("ns", "America/New_York")),
        pa.array([t.date() for t in TIMES]),
        pa.array(MICROS),
        pa.array([m // 1_000_000 for m in MICROS]),
        pa.array([f"{t:%Y-%m-%dT%H:%M:%S}Z" for t in TIMES]),
        pa.array([f"{t:%Y-%m-%d}" for t in TIMES]).dictionary_encode(),
    ],
    ids=lambda array: str(array.type),
)
def test_times_of_any_type(folder, times):
    assert folder.parquet(rows(timestamp=times)).read()["ts"].to_pylist() == TIMES


def test_times_of_sparks_int96(folder):
    table = pa.table(rows(timestamp=pa.array(TIMES, pa.timestamp("ns"))))
    folder.parquet(table, use_deprecated_int96_timestamps=True)
    assert folder.read().to_pydict() == expected()
    assert folder.statistics() == FileStats(3, 1, "AAPL", "AAPL", None, None)


@pytest.mark.parametrize(
    "kind", [pa.float32(), pa.int32(), pa.uint64(), pa.decimal128(10, 2), pa.string(), pa.large_string()]
)
def test_prices_of_any_type(folder, kind):
    whole = [1.0, None, 3.0]
    values = [None if v is None else Decimal(int(v)) if pa.types.is_decimal(kind) else v for v in whole]
    array = pa.array(values, kind) if pa.types.is_decimal(kind) else pa.array(whole).cast(kind)
    assert folder.parquet(rows(close=array)).read()["close"].to_pylist() == whole


def test_what_is_no_price_is_null(folder):
    columns = rows(open=["1", "one", ""], volume=["1e3", None, "-"])
    table = folder.parquet(columns).read()
    assert table["open"].to_pylist() == [1.0, None, None]
    assert table["volume"].to_pylist() == [1000.0, None, None]


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("close", [True] * 3, "close has the type bool, which cannot be read; write it as a number"),
        ("close", [[1.0]] * 3, "the column for close has the type list"),
        ("timestamp", [True] * 3, "ts has the type bool, which cannot be read; write it as a timestamp,"),
    ],
)
def test_a_type_that_cannot_be_read(folder, column, values, message):
    assert message in folder.parquet(rows(**{column: values})).refuse()


def test_a_symbol_type_that_cannot_be_read(folder):
    assert (
        "the column for symbol has the type double"
        in folder.parquet(rows(symbol=[1.5] * 3), "a.parquet").refuse()
    )


@pytest.mark.parametrize(
    "symbols",
    [
        pa.array(["A", "B", "A"]),
        pa.array(["A", "B", "A"], pa.large_string()),
        pa.array([b"A", b"B", b"A"], pa.binary()),
        pa.array(["A", "B", "A"]).dictionary_encode(),
    ],
    ids=lambda array: str(array.type),
)
def test_symbols_of_any_type_in_several_row_groups(folder, symbols):
    table = folder.parquet(rows(symbol=symbols), "a.parquet", row_group_size=1).read()
    assert table.schema.equals(RAW)
    assert table["symbol"].to_pylist() == ["A", "B", "A"]
    assert len({tuple(chunk.dictionary.to_pylist()) for chunk in table["symbol"].chunks}) == 1


def test_row_groups_are_read_alone(folder):
    folder.parquet(rows(symbol=["A", "B", "C"]), "a.parquet", row_group_size=2)
    assert folder.read(row_groups=[1]).to_pydict() == {
        name: values[2:] for name, values in (expected() | {"symbol": ["A", "B", "C"]}).items()
    }


def test_an_empty_file(folder):
    table = folder.parquet(pa.table(rows()).slice(0, 0)).read()
    assert table.num_rows == 0
    assert table.schema.equals(RAW)
    assert folder.statistics() == FileStats(0, 1, "AAPL", "AAPL", None, None)


def test_a_large_file_of_one_symbol(folder):
    n = 40_000
    columns = {name: np.ones(n) for name in (*PRICES, "volume")} | {"t": np.arange(n) * 60 + 1_700_000_000}
    table = folder.parquet(columns, row_group_size=15_000).read("minutes")
    assert table["symbol"].unique().to_pylist() == ["AAPL"]
    assert table["vwap"].null_count == n


# --- contradictions -------------------------------------------------------------------------------


@pytest.mark.parametrize("statistics", [True, False])
@pytest.mark.parametrize("kind", [pa.string(), pa.binary(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_a_symbol_that_contradicts_the_path(folder, statistics, kind):
    for found in (["MSFT"] * 3, ["AAPL", "MSFT", "AAPL"]):
        symbols = pa.array(found).cast(kind)
        line = folder.parquet(rows(symbol=symbols), write_statistics=statistics).refuse()
        assert line == "the path says symbol AAPL, its rows say MSFT; correct one of them"


def test_a_csv_symbol_that_contradicts_the_path(folder):
    line = folder.text(
        "symbol,open,high,low,close,volume,ts\nMSFT,1,1,1,1,1,2024-03-11\n", "symbol=A/a.csv"
    ).refuse()
    assert line == "the path says symbol A, its rows say MSFT; correct one of them"


@pytest.mark.parametrize("statistics", [True, False])
@pytest.mark.parametrize(
    ("interval", "kind", "message"),
    [
        (["1d", "1h", "1d"], "daily", "mixes intervals (1d, 1h); split it by interval"),
        (["1h"] * 3, "daily", "interval is 1h, and daily rows are 1D"),
        (["1d"] * 3, "minutes", "interval is 1d, and minutes rows are 1m"),
        (["1d", "1h", "2h"], "minutes", "interval is 1d, 1h, 2h"),
    ],
)
def test_another_interval(folder, interval, kind, message, statistics):
    if statistics and len(set(interval)) == 3:
        message = "interval is 1d, 2h"  # a footer names the ends only
    line = folder.parquet(rows(interval=interval), write_statistics=statistics).refuse(kind)
    assert message in line


@pytest.mark.parametrize("statistics", [True, False])
@pytest.mark.parametrize(
    ("interval", "kind"),
    [
        (["1d"] * 3, "daily"),
        (["1d", None, "day"], "daily"),
        (["1min"] * 3, "minutes"),
        (pa.nulls(3, pa.string()), "daily"),
        (pa.nulls(3), "daily"),
    ],
)
def test_the_right_interval(folder, interval, kind, statistics):
    folder.parquet(rows(interval=interval), write_statistics=statistics)
    assert folder.read(kind).to_pydict() == expected()


def test_an_interval_of_csv(folder):
    text = "t,o,h,l,c,v,interval\n2024-03-11,1,1,1,1,1,1d\n2024-03-12,1,1,1,1,1,1h\n"
    assert "mixes intervals" in folder.text(text, "symbol=A/a.csv").refuse()


# --- broken files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dropped", ["open", "volume", "timestamp"])
def test_a_missing_column_is_named_beside_what_there_is(folder, dropped):
    line = folder.parquet(rows(**{dropped: None})).refuse()
    assert line.startswith(f"no column for {'ts' if dropped == 'timestamp' else dropped} (")
    assert line.endswith(f"; the file has {', '.join(rows(**{dropped: None}))}")
    with pytest.raises(InputError, match="no column for"):
        folder.statistics()


def test_no_symbol_anywhere(folder):
    line = folder.parquet(rows(), "data.parquet").refuse()
    assert line.startswith(
        "no column for symbol (symbol or ticker or sym), nor is a folder symbol=X in its path;"
    )
    folder.path.joinpath("data.parquet").unlink()
    assert "no column for symbol" in folder.text("o,h,l,c,v,t\n1,1,1,1,1,2024-03-11\n").refuse()


def test_two_columns_of_one_name(folder):
    table = pa.table([*pa.table(rows()).columns, pa.array([1.0] * 3)], names=[*rows(), "close"])
    assert folder.parquet(table).refuse() == "2 columns are named close; keep one of them"


def corrupt(data):
    """A file that ends well and begins well, with nonsense for pages."""
    return data[:4] + b"\xff" * 200 + data[204:]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"PAR1",
        lambda data: b"not a Parquet file at all",
        lambda data: data[: len(data) // 2],
        lambda data: data[:-40] + b"\xff" * 32 + data[-8:],
        corrupt,
    ],
    ids=["empty", "short", "other", "cut", "footer", "pages"],
)
def test_a_corrupt_parquet_file(folder, damage):
    folder.parquet(rows())
    path = folder.path / "symbol=AAPL" / "data.parquet"
    path.write_bytes(damage(path.read_bytes()))
    line = folder.refuse()
    assert line.startswith("cannot be read as Parquet (")
    assert line.endswith("); replace it, or move it away")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n\n",
        b"t,o,h,l,c,v\n2024-03-11,1,1\n",
        b"t,o,h,l,c,v\n2024-03-11,1,1,1,1,\xff\xfe\n",
        b"\xff\xfet,o,h,l,c,v\n",
    ],
    ids=["empty", "no header", "ragged", "bytes", "utf-16"],
)
def test_a_corrupt_csv_file(folder, data):
    line = folder.text(data, "symbol=A/a.csv").refuse()
    assert line.startswith("cannot be read as CSV (")


def test_a_corrupt_gzip_file(folder):
    folder.text("o,h,l,c,v,t\n" + "1,1,1,1,1,2024-03-11\n" * 50, "symbol=A/a.csv.gz")
    path = folder.path / "symbol=A" / "a.csv.gz"
    data = path.read_bytes()
    for damaged in (b"not gzip", data[: len(data) // 2]):
        path.write_bytes(damaged)
        assert folder.refuse().startswith("cannot be read as CSV (")


def test_a_file_that_is_gone(folder):
    (file,) = list_raw(str(folder.parquet(rows()).path))
    Path(file.path).unlink()
    reader = RawReader(filesystem_for(str(folder.path))[0])
    with pytest.raises(InputError, match="the file is gone; run again"):
        reader.read(file)
    with pytest.raises(InputError, match="the file is gone; run again"):
        reader.statistics(file)


# --- CSV ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_dialects_of_csv(folder, delimiter, end, mark):
    lines = (
        ['"Date"', "Open", "High", "Low", " Close ", "Volume", "Adj Close", "Symbol"],
        [
            ["2024-03-08", "1", "2", "0.5", "1.5", "100", "", "AAPL"],
            ["2024-03-11", "2", "3", "1.5", "2.5", "200", "junk", '"AAPL"'],
            ["2024-03-12", "3", "4", "2.5", "3.5", "3e2", "1", "AAPL"],
        ],
    )
    text = mark + "".join(delimiter.join(line) + end for line in (lines[0], *lines[1]))
    table = folder.text(text).read()
    assert table.schema.equals(RAW)
    assert table.to_pydict() == expected()


def test_csv_times_with_and_without_zone(folder):
    text = (
        "symbol,timestamp,open,high,low,close,volume,trade_count,version\n"
        "NA,2024-03-11T09:30:00-04:00,1,1,1,1,1,5,1710163800000000001\n"
        "NULL,2024-03-11 13:30,1,1,1,1,1,5.5,\n"
        ",1710163800000,nan,1,N/A,1,1,,x\n"
        "TRUE,soon,,1,1,1,1,,\n"
    )
    table = folder.text(text).read()
    assert table["symbol"].to_pylist() == ["NA", "NULL", None, "TRUE"]
    moment = datetime(2024, 3, 11, 13, 30, tzinfo=UTC)
    assert table["ts"].to_pylist() == [moment, moment, moment, None]
    assert table["open"].to_pylist()[3] is None
    assert table["low"].to_pylist() == [1.0, 1.0, None, 1.0]
    assert table["trade_count"].to_pylist() == [5, None, None, None]
    assert table["version"].to_pylist() == [1710163800000000001, None, None, None]


def test_csv_without_rows(folder):
    table = folder.text("symbol,t,o,h,l,c,v\n").read()
    assert table.num_rows == 0
    assert table.schema.equals(RAW)


# --- statistics -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "times",
    [
        pa.array(TIMES, pa.timestamp("us", "UTC")),
        pa.array(TIMES, pa.timestamp("s")),
        pa.array(TIMES, pa.timestamp("ms")),
        pa.array(TIMES, pa.timestamp("ns")),
        pa.array([t.date() for t in TIMES]),
    ],
    ids=lambda array: str(array.type),
)
def test_statistics_come_from_the_footer(folder, times):
    folder.parquet(rows(symbol=["C", "A", None], timestamp=times), "a.parquet", row_group_size=2)
    assert folder.statistics() == FileStats(3, 2, "A", "C", MICROS[0], MICROS[2])


def test_statistics_that_a_footer_lacks(folder):
    folder.parquet(rows(symbol=["C", "A", "B"]), "a.parquet", write_statistics=False)
    assert folder.statistics() == FileStats(3, 1, None, None, None, None)
    folder.parquet(rows(symbol=["C", "A", "B"], timestamp=MICROS), "a.parquet")
    assert folder.statistics() == FileStats(3, 1, "A", "C", None, None)
    two = rows(symbol=["C"] * 3, timestamp=pa.array([None, *TIMES[1:]]), ts=pa.array([TIMES[0], None, None]))
    folder.parquet(two, "a.parquet")
    assert folder.statistics() == FileStats(3, 1, "C", "C", None, None)


def test_footers_are_in_the_order_of_the_files(folder):
    for i, name in enumerate("ABC"):
        folder.parquet(pa.table(rows()).slice(0, i), f"symbol={name}/data.parquet")
    folder.text("symbol,t,o,h,l,c,v\n", "z.csv")
    files = list_raw(str(folder.path))
    footers = RawReader(filesystem_for(str(folder.path))[0]).footers(files)
    found = [(footer.rows, footer.symbol_min) if footer else None for footer in footers]
    assert found == [(0, "A"), (1, "B"), (2, "C"), None]


# --- S3 -------------------------------------------------------------------------------------------


def test_s3(s3, folder):
    folder.parquet(rows()).parquet(rows(symbol=["A", "B", "C"]), "year=2024/data.parquet")
    folder.text("symbol,date,open,high,low,close,volume\nX,2024-03-11,1,1,1,1,1\n", "x.csv.gz")
    local = list_raw(str(folder.path))
    for file in local:
        s3.put("raw" + file.path.removeprefix(str(folder.path)), Path(file.path).read_bytes())
    s3.put("bad/symbol=A/data.parquet", b"nonsense")
    files = list_raw(s3.uri("raw"), s3.aws)
    reader, here = RawReader(filesystem_for(s3.uri(), s3.aws)[0]), RawReader(filesystem_for("/")[0])
    assert [reader.read(f) for f in files] == [here.read(f) for f in local]
    assert reader.footers(files) == here.footers(local)
    # A large object is not fetched whole.
    large = [file._replace(size=1 << 40) for file in files]
    assert [reader.read(f) for f in large] == [here.read(f) for f in local]
    (bad,) = list_raw(s3.uri("bad"), s3.aws)
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        reader.read(bad)
    s3.client.delete_object(Bucket=s3.bucket, Key="bad/symbol=A/data.parquet")
    with pytest.raises(InputError, match="the file is gone"):
        reader.read(bad)
    nowhere = replace(s3.aws, endpoint_url="http://127.0.0.1:9")
    with pytest.raises(InputError, match="endpoint cannot be reached"):
        RawReader(filesystem_for(s3.uri(), nowhere)[0]).read(files[0])


# --- anything -------------------------------------------------------------------------------------

values = st.none() | st.floats() | st.integers(-(2**40), 2**40).map(float)
days = st.none() | st.integers(-300_000_000_000_000, 3_000_000_000_000_000)


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.none() | st.sampled_from(["A", "BRK.B", ""]), days, values, values), max_size=20),
    st.integers(1, 7),
    st.booleans(),
)
def test_whatever_a_file_holds_comes_back(tmp_path_factory, content, row_group_size, dictionary):
    symbols, times, opens, volumes = (
        (list(column) for column in zip(*content, strict=True)) if content else ([],) * 4
    )
    table = pa.table(
        {
            "symbol": pa.array(symbols, pa.string()),
            "timestamp": pa.array(times, pa.int64()).cast(pa.timestamp("us")),
            **{name: pa.array(opens, pa.float64()) for name in PRICES},
            "volume": pa.array(volumes, pa.float64()),
        }
    )
    folder = Folder(tmp_path_factory.mktemp("any"))
    folder.parquet(table, "a.parquet", row_group_size=row_group_size, use_dictionary=dictionary)
    result = folder.read()
    assert result["symbol"].to_pylist() == symbols
    assert result["ts"].cast(pa.int64()).to_pylist() == times
    for name, column in (("open", opens), ("volume", volumes)):
        assert result[name].combine_chunks().equals(pa.array(column, pa.float64())) or np.array_equal(
            np.array(column, float), result[name].to_numpy(), equal_nan=True
        )
    present = [s for s in symbols if s is not None]
    found = folder.statistics()
    assert found.rows == len(content)
    if present:
        assert (found.symbol_min, found.symbol_max) == (min(present), max(present))
    if times and None not in times:
        assert (found.ts_min, found.ts_max) == (min(times), max(times))
