import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fibflow.io.datafiles import ROW_GROUP_ROWS, DataFileWriter, TableSpec, footer_stats
from fibflow.io.storage import LakeError, Storage
from fibflow.tests.io.lakes import SPEC, TIMESTAMP, bars

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@pytest.fixture
def writer(tmp_path):
    return DataFileWriter(Storage(str(tmp_path)), SPEC)


def stats_of(file):
    return json.loads(file.stats)


def test_a_file_is_written_to_its_partition_and_described(writer, tmp_path):
    file = writer.write(bars(["A", "B"], range(3)), {"timeframe": "5d"}, "run1-0")
    assert file.path == "timeframe=5d/run1-0.parquet"
    assert file.size == (tmp_path / file.path).stat().st_size
    assert (file.rows, file.partition) == (6, {"timeframe": "5d"})
    assert stats_of(file) == {
        "numRecords": 6,
        "minValues": {"symbol": "A", "ts": "2024-01-01T00:00:00.000000Z", "complete": True},
        "maxValues": {"symbol": "B", "ts": "2024-01-03T00:00:00.000000Z", "complete": True},
        "nullCount": {"symbol": 0, "ts": 0, "complete": 0},
    }


def test_the_rows_come_back_as_they_were(writer, tmp_path):
    rows = bars(["A", "B"], range(3), close=0.1 + 0.2)
    file = writer.write(rows, {"timeframe": "5d"}, "a")
    assert pq.ParquetFile(tmp_path / file.path).read().cast(rows.schema).equals(rows)


def test_the_encodings_are_those_that_measured_best(writer, tmp_path):
    file = writer.write(bars([f"S{i:05}" for i in range(700)], range(100)), {"timeframe": "5d"}, "a")
    footer = pq.ParquetFile(tmp_path / file.path).metadata
    whole, rest = divmod(70_000, ROW_GROUP_ROWS)
    rows = [footer.row_group(i).num_rows for i in range(footer.num_row_groups)]
    assert rows == [ROW_GROUP_ROWS] * whole + [rest]
    group = footer.row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    assert {c.compression for c in columns.values()} == {"ZSTD"}
    assert "PLAIN" in columns["ts"].encodings
    assert columns["ts"].is_stats_set
    assert not columns["close"].is_stats_set
    assert "BYTE_STREAM_SPLIT" in columns["close"].encodings
    assert columns["symbol"].has_dictionary_page
    assert not columns["close"].has_dictionary_page


def test_dictionaries_are_stored_as_strings(writer, tmp_path):
    rows = bars(["A", "B"], range(3))
    # An unused entry of the dictionary is no value of the column.
    symbols = pa.DictionaryArray.from_arrays(pa.array([0, 0, 0, 1, 1, 1]), pa.array(["A", "B", "ZZZ"]))
    file = writer.write(rows.set_column(0, "symbol", symbols), {"timeframe": "5d"}, "a")
    assert pq.ParquetFile(tmp_path / file.path).read().cast(rows.schema).equals(rows)
    assert stats_of(file)["maxValues"]["symbol"] == "B"


def test_partition_columns_in_the_rows_are_not_stored(writer, tmp_path):
    rows = bars(["A"], range(2))
    given = rows.add_column(1, SPEC.schema.field("timeframe"), pa.array(["5d", "5d"]))
    file = writer.write(given, {"timeframe": "5d"}, "a")
    assert pq.ParquetFile(tmp_path / file.path).read().cast(rows.schema).equals(rows)


def test_a_record_batch_will_do(writer):
    assert writer.write(bars(["A"], range(2)).to_batches()[0], {"timeframe": "5d"}, "a").rows == 2


@pytest.mark.parametrize(
    ("value", "folder"),
    [
        ("5d", "5d"),
        ("a/b", "a%2Fb"),
        ("x=y", "x%3Dy"),
        ("10%", "10%25"),
        ("ü b", "%C3%BC b"),
        (None, "__HIVE_DEFAULT_PARTITION__"),
    ],
)
def test_partition_folders_are_escaped(writer, tmp_path, value, folder):
    file = writer.write(bars(["A"], [0]), {"timeframe": value}, "a")
    assert file.path == f"timeframe={folder}/a.parquet"
    assert (tmp_path / file.path).exists()


def test_a_table_without_partitions_lies_flat(tmp_path):
    spec = TableSpec("flat", pa.schema([pa.field("n", pa.int64())]), stats=("n",))
    file = DataFileWriter(Storage(str(tmp_path)), spec).write(pa.table({"n": [3, 1, None]}), {}, "a")
    assert file.path == "a.parquet"
    assert stats_of(file)["minValues"] == {"n": 1}
    assert stats_of(file)["nullCount"] == {"n": 1}


@pytest.mark.parametrize(
    ("rows", "partition", "message"),
    [
        (bars(["A"], []), {"timeframe": "5d"}, "without rows"),
        (bars(["A"], [0]).drop_columns(["close"]), {"timeframe": "5d"}, "stores symbol string"),
        (
            bars(["A"], [0]).cast(
                pa.schema([f if f.name != "close" else f.with_type(pa.float32()) for f in SPEC.file_schema])
            ),
            {"timeframe": "5d"},
            "close float",
        ),
        (bars(["A"], [0]), {}, "partitioned by"),
        (bars(["A"], [0]), {"timeframe": "5d", "period": "all"}, "partitioned by"),
    ],
)
def test_rows_that_are_not_the_tables_are_refused(writer, rows, partition, message):
    with pytest.raises(ValueError, match=message):
        writer.write(rows, partition, "a")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TableSpec("t", SPEC.schema, ("nope",)), "no column 'nope'"),
        (lambda: TableSpec("t", SPEC.schema, ("ts",)), "not a string"),
        (lambda: TableSpec("t", SPEC.schema, stats=("nope",)), "no column 'nope'"),
    ],
)
def test_a_spec_that_contradicts_itself_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_time_column_is_ts_or_session_or_the_one_named():
    session = pa.schema([pa.field("session", pa.date32())])
    assert SPEC.time_column == "ts"
    assert TableSpec("t", session).time_column == "session"
    assert TableSpec("t", pa.schema([pa.field("n", pa.int64())])).time_column is None
    assert TableSpec("t", pa.schema([pa.field("at", TIMESTAMP)]), time="at").time_column == "at"


def test_bounds_that_are_long_or_unknown_are_left_out(tmp_path):
    spec = TableSpec("t", pa.schema([pa.field("long", pa.string()), pa.field("void", pa.string())]))
    rows = pa.table({"long": ["x" * 65, "a"], "void": pa.nulls(2, pa.string())})
    stats = stats_of(DataFileWriter(Storage(str(tmp_path)), spec).write(rows, {}, "a"))
    assert stats == {"numRecords": 2, "minValues": {}, "maxValues": {}, "nullCount": {"long": 0, "void": 2}}


def test_a_column_without_statistics_in_the_footer_is_left_out(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(bars(["A"], [0]), path, write_statistics=False)
    assert footer_stats(pq.read_metadata(path), ["symbol"])["nullCount"] == {}


@given(
    st.lists(
        st.tuples(
            st.text(max_size=8).filter(lambda s: "\x00" not in s) | st.none(),
            st.integers(-(10**15), 10**15).map(lambda us: EPOCH + timedelta(microseconds=us)) | st.none(),
            st.dates(date(1900, 1, 1), date(2200, 1, 1)) | st.none(),
            st.booleans() | st.none(),
        ),
        min_size=1,
        max_size=30,
    ),
    st.integers(1, 10),
)
def test_stats_are_the_bounds_of_the_values(tmp_path_factory, rows, group):
    fields: list[Any] = [("s", pa.string()), ("t", TIMESTAMP), ("d", pa.date32()), ("b", pa.bool_())]
    schema = pa.schema(fields)
    columns = list(zip(*rows, strict=True))
    table = pa.table([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)
    path = tmp_path_factory.mktemp("x") / "a.parquet"
    pq.write_table(table, path, row_group_size=group)
    stats = footer_stats(pq.read_metadata(path), schema.names)
    for name, values in zip(schema.names, columns, strict=True):
        held = [v for v in values if v is not None]
        assert stats["nullCount"][name] == len(values) - len(held)
        if held:
            low, high = stats["minValues"][name], stats["maxValues"][name]
            if name == "t":
                low, high = datetime.fromisoformat(low), datetime.fromisoformat(high)
            elif name == "d":
                low, high = date.fromisoformat(low), date.fromisoformat(high)
            assert (low, high) == (min(held), max(held))
        else:
            assert name not in stats["minValues"]


def test_threads_share_a_writer_and_processes_get_a_copy(writer, tmp_path):
    copy = pickle.loads(pickle.dumps(writer))  # noqa: S301 - our own bytes
    assert copy == writer
    rows = bars([f"S{i}" for i in range(50)], range(20))
    with ThreadPoolExecutor(4) as pool:
        files = list(pool.map(lambda i: copy.write(rows, {"timeframe": f"{i % 3}d"}, f"f{i}"), range(12)))
    assert {pq.read_metadata(tmp_path / f.path).num_rows for f in files} == {1000}
    assert pickle.loads(pickle.dumps(files)) == files  # noqa: S301 - our own bytes


def test_actions_hold_what_delta_wants(writer):
    file = writer.write(bars(["A"], [0]), {"timeframe": "a/b c"}, "x")
    add = file.to_add_action(1_700_000_000_000)
    assert add["path"] == "timeframe=a%252Fb%20c/x.parquet"
    assert add["partitionValues"] == {"timeframe": "a/b c"}
    assert (add["size"], add["modificationTime"], add["dataChange"]) == (file.size, 1_700_000_000_000, True)
    remove = file.to_remove_action(5, data_change=False)
    assert (remove["path"], remove["deletionTimestamp"], remove["dataChange"]) == (add["path"], 5, False)


def test_a_million_bars_take_little_room(writer):
    days = np.arange(1_000, dtype=np.int64) * int(timedelta(days=1).total_seconds() * 1e6)
    rows = pa.table(
        [
            pa.array(np.repeat([f"S{i:04}" for i in range(100)], 1_000)),
            pa.array(np.tile(days, 100)).cast(TIMESTAMP),
            pa.array(np.round(np.linspace(1, 100, 100_000), 2)),
            pa.array(np.ones(100_000, dtype=bool)),
            pa.array(np.zeros(100_000, dtype=np.int32)),
        ],
        schema=SPEC.file_schema,
    )
    assert writer.write(rows, {"timeframe": "1d"}, "a").size < 6 * 100_000


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LakeError, match="cannot write to"):
        DataFileWriter(Storage(str(tmp_path / "file")), SPEC).write(
            bars(["A"], [0]), {"timeframe": "5d"}, "a"
        )


def test_a_bucket_that_cannot_be_written_is_one_line(s3):
    with pytest.raises(LakeError, match="there is no such bucket"):
        DataFileWriter(Storage("s3://not-there-at-all/x", s3.aws), SPEC).write(
            bars(["A"], [0]), {"timeframe": "5d"}, "a"
        )


def test_files_on_s3(s3):
    storage = Storage(s3.uri("lake"), s3.aws)
    writer = DataFileWriter(storage, SPEC)
    file = writer.write(bars(["A"], range(3)), {"timeframe": "5d"}, "a")
    with storage.filesystem.open_input_file(storage.path(file.path)) as source:
        assert source.size() == file.size
        rows = bars(["A"], range(3))
        assert pq.read_table(source).cast(rows.schema).equals(rows)
