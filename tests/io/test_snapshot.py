import pickle
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fibflow.io import datafiles
from fibflow.io.datafiles import TableSpec
from fibflow.io.lake import Lake, LakeError
from fibflow.io.rowfilter import Filter, mask_array, plain_array
from fibflow.io.snapshot import ReadStats, Snapshot, read_files
from fibflow.io.storage import Storage
from fibflow.tests.io.lakes import EVERYTHING, SPEC, TIMESTAMP, bars, day, keys, write


def committed(lake, files, spec=SPEC):
    """A snapshot of the files ``{name: (rows, timeframe)}``."""
    table = lake.table(spec)
    made = [write(table, name, rows, timeframe) for name, (rows, timeframe) in files.items()]
    table.commit(made, base_version=-1, scope=EVERYTHING, run="first")
    return table.snapshot()


@pytest.fixture
def lake(tmp_path):
    return Lake(str(tmp_path))


@pytest.fixture
def snapshot(lake):
    return committed(
        lake,
        {
            "ab-old": (bars(["A", "B"], range(10)), "5d"),
            "ab-new": (bars(["A", "B"], range(10, 12), complete=False), "5d"),
            "cd": (bars(["C", "D"], range(12)), "5d"),
            "ab-8d": (bars(["A", "B"], range(12)), "8d"),
        },
    )


def names(files):
    return [Path(file.path).stem for file in files]


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({}, ["ab-new", "ab-old", "cd", "ab-8d"]),
        ({"symbols": "A"}, ["ab-new", "ab-old", "ab-8d"]),
        ({"symbols": ["B", "C"]}, ["ab-new", "ab-old", "cd", "ab-8d"]),
        ({"symbols": ["AA", "X"]}, ["ab-new", "ab-old", "ab-8d"]),
        ({"symbols": ["BB", "X"]}, []),
        ({"symbols": []}, []),
        ({"ts_from": day(10)}, ["ab-new", "cd", "ab-8d"]),
        ({"ts_to": day(10)}, ["ab-old", "cd", "ab-8d"]),
        ({"ts_from": day(9), "ts_to": day(10)}, ["ab-old", "cd", "ab-8d"]),
        ({"ts_from": date(2024, 1, 13)}, []),
        ({"where": {"timeframe": "8d"}}, ["ab-8d"]),
        ({"where": {"timeframe": ["8d", "13d"]}}, ["ab-8d"]),
        ({"where": {"complete": False}}, ["ab-new"]),
        ({"where": {"complete": [True, False]}}, ["ab-new", "ab-old", "cd", "ab-8d"]),
        ({"symbols": "C", "where": {"complete": False}}, []),
        ({"where": {"close": 77.0}}, ["ab-new", "ab-old", "cd", "ab-8d"]),
    ],
)
def test_files_are_skipped_by_partition_and_bounds(snapshot, conditions, expected):
    assert names(snapshot.select(**conditions)) == expected


def test_a_selected_file_is_fit_to_be_removed(snapshot):
    (file,) = snapshot.select(where={"timeframe": "8d"})
    on_disk = Path(snapshot.storage.path(file.path))
    assert (file.size, file.rows, file.partition) == (on_disk.stat().st_size, 24, {"timeframe": "8d"})
    assert file.modified > 0


def test_counts(snapshot):
    assert (len(snapshot), snapshot.rows, snapshot.version) == (4, 72, 0)
    assert snapshot.bytes == sum(file.size for file in snapshot.select())
    assert {Path(path).stem for path in snapshot.paths} == {"ab-old", "ab-new", "cd", "ab-8d"}


def test_rows_are_filtered_exactly(snapshot):
    rows, stats = snapshot.read(symbols="B", ts_from=day(9), ts_to=day(11), where={"timeframe": "5d"})
    assert keys(rows) == [("B", "5d", 9), ("B", "5d", 10)]
    assert rows.schema == SPEC.schema
    assert stats.files == 2
    assert 0 < stats.bytes < sum(file.size for file in snapshot.select("B", where={"timeframe": "5d"}))


def test_columns_come_in_the_order_asked_for(snapshot):
    rows, _ = snapshot.read(["close", "timeframe"], symbols="C")
    assert rows.column_names == ["close", "timeframe"]
    assert rows.num_rows == 12
    assert snapshot.read(["timeframe"], where={"timeframe": "8d"})[0].to_pydict() == {
        "timeframe": ["8d"] * 24
    }
    assert snapshot.read(["timeframe"], symbols="D")[0].num_rows == 12


def test_a_column_that_no_file_holds_the_value_of_gives_no_rows(snapshot):
    rows, stats = snapshot.read(where={"close": 77.0})
    assert (rows.num_rows, rows.schema, stats.files) == (0, SPEC.schema, 4)
    rows, stats = snapshot.read(symbols="X")
    assert (rows.num_rows, rows.schema, stats) == (0, SPEC.schema, ReadStats())


def test_dictionaries_on_demand(snapshot):
    rows, _ = snapshot.read(["symbol", "timeframe"], symbols=["A", "C"], dictionary=("symbol", "timeframe"))
    assert pa.types.is_dictionary(rows.schema.field("symbol").type)
    assert pa.types.is_dictionary(rows.schema.field("timeframe").type)
    assert sorted(set(rows.column("symbol").to_pylist())) == ["A", "C"]
    plain, _ = snapshot.read(["symbol", "timeframe"], symbols=["A", "C"])
    assert plain.schema.types == [pa.string(), pa.string()]
    assert plain.to_pylist() == rows.to_pylist()


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"where": {"nope": 1}}, "no column 'nope'"),
        ({"columns": ["nope"]}, "no column 'nope'"),
        ({"ts_from": datetime(2024, 1, 1)}, "has no time zone"),  # noqa: DTZ001 - that is what is refused
    ],
)
def test_conditions_that_make_no_sense_are_refused(snapshot, conditions, message):
    with pytest.raises(ValueError, match=message):
        snapshot.read(**conditions)


def test_a_table_read_by_date(lake):
    fields: list[Any] = [("symbol", pa.string()), ("session", pa.date32())]
    spec = TableSpec("bronze.daily", pa.schema(fields), key=("symbol", "session"))
    table = lake.table(spec)
    rows = pa.table([["A"] * 5, [date(2024, 1, d) for d in range(1, 6)]], schema=spec.schema)
    table.commit([table.writer().write(rows, {}, "a")], base_version=-1, scope=EVERYTHING, run="r")
    snapshot = table.snapshot()
    found = snapshot.read(ts_from=date(2024, 1, 2), ts_to=date(2024, 1, 4))[0]
    assert found.column("session").to_pylist() == [date(2024, 1, 2), date(2024, 1, 3)]
    assert snapshot.tail(1, "A")[0].column("session").to_pylist() == [date(2024, 1, 5)]
    with pytest.raises(ValueError, match="by date, not by instant"):
        snapshot.read(ts_from=day(1))


def test_a_table_without_time_cannot_be_asked_by_time(lake):
    spec = TableSpec("t", pa.schema([pa.field("n", pa.int64())]))
    snapshot = Snapshot.empty(lake.table(spec).storage, spec)
    for ask in (lambda: snapshot.select(ts_from=1), lambda: snapshot.tail(1, "A")):
        with pytest.raises(ValueError, match="no time column"):
            ask()


def test_a_table_that_is_not_there_can_stand_as_empty(lake):
    snapshot = Snapshot.empty(lake.table(SPEC).storage, SPEC)
    assert (len(snapshot), snapshot.rows, snapshot.bytes, snapshot.version) == (0, 0, 0, -1)
    assert snapshot.select("A", day(0), where={"timeframe": "5d", "complete": False}) == []
    assert snapshot.read(["close"])[0].schema == pa.schema([SPEC.schema.field("close")])
    assert snapshot.tail(3, "A")[0].num_rows == 0


def test_null_partitions_match_no_value(lake):
    snapshot = committed(lake, {"none": (bars(["A"], [0]), None), "some": (bars(["A"], [1]), "5d")})
    assert keys(snapshot.read(where={"timeframe": "5d"})[0]) == [("A", "5d", 1)]
    assert sorted(snapshot.read()[0].column("timeframe").to_pylist(), key=str) == ["5d", None]


def test_files_without_statistics_are_read(lake):
    table = lake.table(SPEC)
    made = write(table, "a", bars(["A"], range(3)))
    bare = type(made)(made.path, made.size, made.rows, made.partition)
    table.commit(
        [bare, write(table, "b", bars(["A"], range(3, 5)))], base_version=-1, scope=EVERYTHING, run="r"
    )
    snapshot = table.snapshot()
    assert names(snapshot.select("Z")) == ["a"]
    assert snapshot.read(symbols="A", ts_from=day(2))[0].num_rows == 3
    assert keys(snapshot.tail(1, "A")[0]) == [("A", "5d", 4)]


def test_only_row_groups_that_may_match_are_read(lake):
    symbols = [f"S{i:03}" for i in range(400)]
    snapshot = committed(lake, {"big": (bars(symbols, range(500)), "1d")})
    rows, stats = snapshot.read(symbols="S399")
    assert rows.num_rows == 500
    # One row group of four, and the footer.
    assert stats.bytes < snapshot.bytes / 2
    assert snapshot.read(symbols=["S000", "S399"], ts_from=day(499))[0].num_rows == 2
    whole, all_bytes = snapshot.read()
    assert whole.num_rows == 200_000
    assert abs(all_bytes.bytes - snapshot.bytes) < 1_000


def test_a_symbol_between_two_row_groups_has_no_rows(lake, monkeypatch):
    monkeypatch.setattr(datafiles, "ROW_GROUP_ROWS", 3)
    snapshot = committed(lake, {"two": (bars(["A", "C"], range(3)), "1d")})
    assert len(snapshot.select("B")) == 1
    rows, stats = snapshot.read(symbols="B")
    assert (rows.num_rows, stats.files, rows.schema.names) == (0, 1, snapshot.spec.schema.names)
    assert snapshot.tail(2, "B", ["close"])[0].column_names == ["close"]


def test_a_file_that_is_damaged_or_gone_is_one_line(snapshot):
    files = {Path(f.path).stem: Path(snapshot.storage.path(f.path)) for f in snapshot.select()}
    files["cd"].write_bytes(b"PAR1 not really")
    files["ab-8d"].unlink()
    for symbol in ("C", "A"):
        with pytest.raises(LakeError, match=r"^cannot read .*parquet of silver\.bars at .*[^\n]$"):
            snapshot.read(symbols=symbol)


# --- the last rows of a symbol -----------------------------------------------------------------------


def test_the_last_rows_come_from_the_newest_files(snapshot):
    rows, stats = snapshot.tail(2, "B", where={"timeframe": "5d"})
    assert keys(rows) == [("B", "5d", 10), ("B", "5d", 11)]
    assert stats.files == 1
    rows, stats = snapshot.tail(3, "B", where={"timeframe": "5d"})
    assert (keys(rows)[0], stats.files) == (("B", "5d", 9), 2)
    assert snapshot.tail(100, "B", where={"timeframe": "5d"})[0].num_rows == 12
    assert snapshot.tail(0, "B")[0].num_rows == 0


def test_the_last_rows_with_some_columns_only(snapshot):
    rows, _ = snapshot.tail(2, "A", ["close", "complete"], where={"timeframe": "5d"})
    assert rows.to_pydict() == {"close": [1.0, 1.0], "complete": [False, False]}


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("ABC"), st.integers(0, 30)), min_size=1, max_size=40, unique=True),
    st.integers(1, 4),
    st.integers(1, 12),
    st.randoms(use_true_random=False),
)
def test_the_last_rows_of_files_that_overlap(tmp_path_factory, cells, pieces, n, random):
    lake = Lake(str(tmp_path_factory.mktemp("lake")))
    parts = [sorted(cell for cell in cells if (ord(cell[0]) + cell[1]) % pieces == p) for p in range(pieces)]
    random.shuffle(parts)
    rows = {
        f"f{i}": pa.concat_tables([bars(s, [d]) for s, d in part]) for i, part in enumerate(parts) if part
    }
    snapshot = committed(lake, {name: (table, "5d") for name, table in rows.items()})
    expected = sorted(d for s, d in cells if s == "A")[-n:]
    assert [d for _, _, d in keys(snapshot.tail(n, "A")[0])] == expected
    assert [d for _, _, d in keys(snapshot.read(symbols=["A", "Z"])[0])][-n:] == expected


def test_a_point_read_needs_no_pandas(snapshot):
    # It takes many times longer to import than the read takes.
    code = (
        "import sys; from fibflow.io.lake import Lake; from fibflow.tests.io.lakes import SPEC, day;"
        f"s = Lake({str(Path(snapshot.storage.uri).parent)!r}).table(SPEC).snapshot();"
        "assert s.tail(2, 'A', where={'timeframe': '5d'})[0].num_rows == 2;"
        "assert s.read(symbols=['A', 'B'], ts_from=day(3), where={'complete': True})[0].num_rows == 32;"
        "assert 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- workers and S3 ----------------------------------------------------------------------------------


def test_a_worker_reads_its_share(snapshot):
    copy = pickle.loads(pickle.dumps(snapshot))  # noqa: S301 - our own bytes
    share = copy.select("A")[:2]
    rows, stats = read_files(copy.storage, copy.spec, share, ["symbol", "ts"])
    assert (rows.num_rows, stats.files) == (24, 2)
    condition = Filter.of(SPEC, "A", ts_from=day(10))
    assert read_files(copy.storage, copy.spec, share, ["ts"], condition)[0].num_rows == 2


def test_a_point_read_on_s3(s3):
    lake = Lake(s3.uri("lake"), s3.aws)
    snapshot = committed(lake, {"a": (bars(["A"], range(9)), "5d"), "b": (bars(["B"], range(9)), "5d")})
    assert snapshot.tail(2, "B")[1].files == 1
    assert keys(snapshot.read(ts_from=day(8))[0]) == [("A", "5d", 8), ("B", "5d", 8)]
    s3.client.delete_object(Bucket=s3.bucket, Key=f"lake/silver.bars/{snapshot.select('A')[0].path}")
    with pytest.raises(LakeError, match="cannot read timeframe=5d/a"):
        snapshot.read()


# --- arrays without pandas ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.string(), ["", "ü", "abc", None]),
        (pa.bool_(), [True, False, None, True, True, False, True, True, False]),
        (pa.int32(), [-1, 2**31 - 1, None]),
        (pa.uint64(), [0, 2**64 - 1]),
        (pa.float64(), [0.1, None, float("inf")]),
        (pa.float32(), [0.5]),
        (pa.date32(), [date(1969, 12, 31), date(2024, 2, 29), None]),
        (TIMESTAMP, [datetime(1960, 1, 1, 0, 0, 0, 7, tzinfo=UTC), None]),
        (pa.timestamp("us"), [datetime(2024, 1, 1)]),  # noqa: DTZ001 - the type has no zone
        (pa.timestamp("ms"), [datetime(2024, 1, 1)]),  # noqa: DTZ001 - the type has no zone
        (pa.string(), []),
    ],
)
def test_arrays_from_buffers_are_those_of_pyarrow(kind, values):
    array = plain_array(values, kind)
    array.validate(full=True)
    assert array.equals(pa.array(values, kind))


def test_times_may_be_integers_of_the_column():
    us = int(timedelta(days=3) / timedelta(microseconds=1))
    assert plain_array([us], TIMESTAMP)[0].as_py() == datetime(1970, 1, 4, tzinfo=UTC)


def test_masks_from_numpy():
    bits = np.arange(20) % 3 == 0
    assert mask_array(bits).to_pylist() == bits.tolist()


def test_values_may_be_an_arrow_column():
    condition = Filter.of(SPEC, where={"symbol": pa.chunked_array([["B"], ["A", "B"]])})
    assert condition.values["symbol"].to_pylist() == ["A", "B"]
    assert condition.columns == ["symbol"]


def test_storage_paths(tmp_path):
    storage = Storage(str(tmp_path)).child("t")
    assert storage.path("") == storage.base == f"{tmp_path}/t"
    assert storage.names("") == []
    assert storage.read("x") is None
    assert storage.put_if_absent("x/y", b"1", "a")
    assert not storage.put_if_absent("x/y", b"2", "b")
    assert storage.read("x/y") == b"1"
    assert storage.names("x") == ["y"]
    assert storage.names("x/y") == []
    storage.write("x/z/new", b"3")
    storage.write("x/z/new", b"4")
    assert storage.read("x/z/new") == b"4"
    with pytest.raises(LakeError, match="cannot read x of"):
        storage.read("x")
    (tmp_path / "file").write_text("")
    with pytest.raises(LakeError, match="cannot commit to"):
        Storage(str(tmp_path / "file")).put_if_absent("x/y", b"1", "a")
