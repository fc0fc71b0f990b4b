"""Rows wait, become files of the right partitions, and nothing is lost on the way."""

from __future__ import annotations

import itertools
from collections import Counter
from types import SimpleNamespace
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from fibflow.io import tables
from fibflow.io.datafiles import DataFile
from fibflow.io.lake import Lake, LakeError, Scope
from fibflow.io.live import LiveReader, TickReader
from fibflow.io.snapshot import read_files
from fibflow.io.streamcommit import WAKE, CommitFiles
from fibflow.io.streamfiles import (
    FileLimits,
    WriteFiles,
    decode_rows,
    encode_rows,
    last_revisions,
    row_schema,
    together,
    write_rows,
)
from fibflow.io.streamtables import STREAM_TABLES, decode_file
from fibflow.tests.io.streams import JOB, XNYS, Cell, Timer, Value, bars, live, messages, minute, rows_of
from fibflow.transforms.partials import as_arrow

TICKS, LIVE, LATE, DEAD = (spec.name for spec in STREAM_TABLES)


def numbered():
    """Ids that count, as hexadecimal digits."""
    numbers = itertools.count()
    return lambda: f"{next(numbers):032x}"


@pytest.fixture
def lake(tmp_path):
    return Lake(str(tmp_path), new_id=numbered())


def written(lake, spec, rows, name="n"):
    table = lake.table(spec)
    files = list(write_rows(table.writer(), rows, XNYS, name))
    return files, [read_files(table.storage, spec, [file])[0] for file in files]


def encoded(rows):
    """The strings as dictionaries, as the stream's parser has them."""
    for at, field in enumerate(rows.schema):
        if pa.types.is_string(field.type):
            column = rows.column(at).dictionary_encode()
            rows = rows.set_column(at, field.with_type(column.type), column)
    return rows


# --- one file --------------------------------------------------------------------------------------


@pytest.mark.parametrize("given_as", [encoded, lambda rows: rows])
def test_ticks_go_to_their_days_in_the_order_in_which_they_came(lake, given_as):
    hours = [2, 5, 3, 12, 13, 1]
    rows = messages(tables.TICKS, [hour * 3_600 for hour in hours])
    files, parts = written(lake, tables.TICKS, given_as(rows))
    # It began at 10:30 on the exchange's clock: thirteen hours on is 23:30, fourteen the next day.
    assert [file.path for file in files] == ["period=2024-03-11/n.parquet"]
    assert parts[0].drop_columns(["period"]).equals(rows)
    rows = messages(tables.TICKS, [hour * 3_600 for hour in [*hours, 14, 0, 15]])
    files, parts = written(lake, tables.TICKS, given_as(rows), "m")
    assert [file.partition["period"] for file in files] == ["2024-03-11", "2024-03-12"]
    assert parts[0]["seq"].to_pylist() == [hour * 3_600 for hour in [*hours, 0]]
    assert parts[1]["seq"].to_pylist() == [14 * 3_600, 15 * 3_600]


def test_point_reads_find_fresh_ticks_by_their_time(lake):
    table = lake.table(tables.TICKS)
    for number in range(3):
        rows = messages(tables.TICKS, range(number * 60, number * 60 + 60))
        files = list(write_rows(table.writer(), rows, XNYS, f"f{number}"))
        table.commit(files, base_version=table.version, scope=Scope(), run="r")
    found = table.snapshot().select("A", minute(1), minute(2))
    assert [file.path for file in found] == ["period=2024-03-11/f1.parquet"]


def test_late_messages_are_sorted_and_lie_by_month(lake):
    rows = messages(tables.LATE, [50 * 86_400, 5, 3, 4])
    files, parts = written(lake, tables.LATE, encoded(rows))
    assert [file.partition["period"] for file in files] == ["2024-03", "2024-04"]
    assert parts[0]["seq"].to_pylist() == [3, 4, 5]
    assert parts[1]["seq"].to_pylist() == [50 * 86_400]


def test_bars_go_to_the_partitions_that_batch_gives_them(lake):
    five = live([("B", 5, 0, False, 1.0), ("A", 0, 0, False, 1.0), ("A", 40_000, 0, False, 1.0)])
    hours = live([("A", 0, 0, False, 1.0)], "1h")
    files, parts = written(lake, tables.LIVE, encoded(pa.concat_tables([five, hours])))
    assert [dict(file.partition) for file in files] == [
        {"timeframe": "5m", "period": "2024-03"},
        {"timeframe": "5m", "period": "2024-04"},
        {"timeframe": "1h", "period": "2024"},
    ]
    assert parts[0]["symbol"].to_pylist() == ["A", "B"]
    assert len({file.path for file in files}) == 3


def test_dead_letters_lie_as_they_came(lake):
    rows = rows_of(DEAD, [3, 1, 2])
    files, parts = written(lake, tables.DEAD_LETTERS, encoded(rows))
    assert [file.path for file in files] == ["n.parquet"]
    assert parts[0].equals(rows)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("ABC"), st.integers(0, 3), st.integers(0, 3), st.booleans()),
        min_size=1,
        max_size=20,
    )
)
def test_of_one_bars_revisions_the_last_is_written(rows):
    given_rows = live([(*row, float(number)) for number, row in enumerate(rows)])
    found = last_revisions(encoded(given_rows)).select(["symbol", "ts", "revision", "final", "close"])
    wanted: dict[tuple[str, int], tuple[int, bool, int]] = {}
    for number, (symbol, at, revision, final) in enumerate(rows):
        key = symbol, at
        wanted[key] = max(wanted.get(key, (-1, False, 0)), (revision, final, number))
    expected = [(s, minute(at), r, f, float(n)) for (s, at), (r, f, n) in sorted(wanted.items())]
    assert [tuple(row.values()) for row in found.to_pylist()] == expected


# --- state -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", [LIVE, TICKS, LATE, DEAD])
def test_rows_come_back_from_the_state_as_they_went(table):
    rows = encoded(rows_of(table, range(10)))
    assert decode_rows(encode_rows(rows.slice(2, 5))).equals(rows.slice(2, 5))
    cell = encode_rows(rows)
    with pytest.raises(LakeError, match="has format 09, this release reads 01"):
        decode_rows(b"\x09" + cell[1:])


def test_parts_whose_strings_are_coded_differently_go_together():
    parts = [encoded(rows_of(TICKS, [1, 2])), rows_of(TICKS, [3])]
    found = together(parts, tables.TICKS)
    assert found.schema.equals(row_schema(tables.TICKS))
    assert found["seq"].to_pylist() == [1, 2, 3]
    coded = together([encoded(rows_of(TICKS, [number])) for number in range(5)], tables.TICKS)
    chunks: Any = coded["symbol"].chunks
    assert all(chunk.dictionary.equals(chunks[0].dictionary) for chunk in chunks)


class Key:
    """What a runner keeps of one key of ``WriteFiles``."""

    def __init__(self, lake, table, limits=None, now=1_000.0):
        self.table, self.now = table, now
        self.function = WriteFiles(lake, XNYS, {} if limits is None else {table: limits}, lambda: self.now)
        self.function.setup()
        self.storage = lake.table(tables.TABLES[table]).storage
        self.rows, self.waiting, self.age, self.end = Cell(), Value(), Timer(), Timer()

    def process(self, rows):
        element = (self.table, 0), rows
        return self.files(self.function.process(element, self.rows, self.waiting, self.age, self.end))

    def fire(self, name):
        made = getattr(self.function, name)((self.table, 0), self.rows, self.waiting, self.age)
        return self.files(item.value if name == "on_age" else item for item in made)

    def files(self, made):
        described = list(made)
        assert {table for table, _ in described} <= {self.table}
        return [decode_file(encoded_file) for _, encoded_file in described]

    def read(self, files):
        return read_files(self.storage, tables.TABLES[self.table], files)[0]


def test_rows_wait_until_they_are_old_enough(lake):
    key = Key(lake, TICKS, FileLimits(age=7.0))
    for first in range(0, 30, 10):
        assert key.process(encoded(rows_of(TICKS, range(first, first + 10)))) == []
        key.now += 1
    # The first row's age counts.
    assert key.age.at == 1_007.0
    assert key.end.at is not None
    (file,) = key.fire("on_age")
    assert key.read([file])["seq"].to_pylist() == list(range(30))
    assert key.rows.read() == []
    assert key.age.at is None
    assert key.fire("on_age") == []
    assert key.process(rows_of(TICKS, range(5))) == []
    assert key.age.at == 1_010.0


@pytest.mark.parametrize(
    "limits", [FileLimits(rows=25), FileLimits(bytes=3 * rows_of(TICKS, range(10)).nbytes)]
)
def test_many_rows_do_not_wait(lake, limits):
    key = Key(lake, TICKS, limits)
    files = [key.process(rows_of(TICKS, range(first, first + 10))) for first in range(0, 60, 10)]
    assert [len(made) for made in files] == [0, 0, 1, 0, 0, 1]
    assert [file.rows for made in files for file in made] == [30, 30]
    assert key.fire("on_end") == []


def test_a_big_element_passes_the_state_by_and_takes_along_what_waits(lake):
    key = Key(lake, LIVE, FileLimits(at_once=3))
    assert [file.rows for file in key.process(bars(range(3)))] == [3]
    assert key.age.at is None
    assert key.process(bars([3, 4])) == []
    assert key.rows.read()
    (file,) = key.process(bars([5, 6, 7]))
    # Else an older revision would come with a later commit.
    assert file.rows == 5
    assert key.rows.read() == []
    assert key.age.at is None


def test_a_drain_writes_what_waits(lake):
    key = Key(lake, LATE)
    assert key.process(rows_of(LATE, range(4))) == []
    (file,) = key.fire("on_end")
    assert file.rows == 4
    assert key.age.at is None
    assert key.fire("on_end") == []


def test_no_rows_are_nothing(lake):
    key = Key(lake, TICKS)
    assert key.process(rows_of(TICKS, range(3)).slice(0, 0)) == []
    assert key.age.at is None
    assert key.rows.read() == []


def test_what_is_written_again_after_a_restore_has_another_name(lake):
    key = Key(lake, TICKS)
    rows = rows_of(TICKS, range(3))
    key.process(rows)
    kept = SimpleNamespace(rows=list(key.rows.values), waiting=list(key.waiting.values))
    (first,) = key.fire("on_age")
    key.rows.values, key.waiting.values = kept.rows, kept.waiting
    (second,) = key.fire("on_age")
    assert first.path != second.path
    assert key.read([first]).equals(key.read([second]))


@settings(deadline=None)
@given(
    st.lists(st.one_of(st.integers(0, 40), st.sampled_from(["on_age", "restore", "checkpoint"])), max_size=15)
)
def test_each_row_is_in_one_file_of_a_surviving_history(tmp_path_factory, steps):
    lake = Lake(str(tmp_path_factory.mktemp("lake")))
    key = Key(lake, TICKS, FileLimits(rows=60, at_once=30))
    position, files = 0, list[DataFile]()
    kept: tuple[Any, ...] = (0, [], [], [])
    for step in steps:
        if isinstance(step, int):
            files += key.process(encoded(rows_of(TICKS, range(position, position + step)))) if step else []
            position += step
        elif step == "on_age":
            files += key.fire("on_age")
        elif step == "checkpoint":
            kept = position, list(key.rows.values), list(key.waiting.values), list(files)
        else:
            position, key.rows.values, key.waiting.values, files = kept[0], *map(list, kept[1:])
    files += key.fire("on_end")
    found: list[Any] = key.read(files)["seq"].to_pylist() if files else []
    assert Counter(found) == Counter(range(position))


# --- Beam ------------------------------------------------------------------------------------------


def test_a_pipeline_writes_all_tables_and_drains(tmp_path):
    lake = Lake(str(tmp_path / "of beam"))
    ticks, late = encoded(rows_of(TICKS, range(40))), encoded(rows_of(LATE, [3, 5]))
    elements = [((TICKS, number % 2), ticks.take(as_arrow(np.arange(number, 40, 4)))) for number in range(4)]
    elements += [((LIVE, 0), bars(range(6))), ((LATE, 0), late), ((DEAD, 0), rows_of(DEAD, [1, 2]))]
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        files = (
            pipeline
            | beam.Create(elements).with_output_types(tuple[tuple[str, int], pa.Table])
            | beam.ParDo(WriteFiles(lake, XNYS, {TICKS: FileLimits(rows=15)}))
        )
        wake = pipeline | "Wake" >> beam.Create(
            [(spec.name, WAKE) for spec in STREAM_TABLES]
        ).with_output_types(tuple[str, bytes])
        _ = (files, wake) | beam.Flatten() | beam.ParDo(CommitFiles(lake, JOB))
    reader = TickReader(lake)
    assert reader.ticks()["seq"].to_pylist() == sorted(range(40), key=lambda n: ("ABC"[n % 3], n))
    kept: Any = pa.concat_tables(list(reader.ticks_without_late()))
    assert sorted(kept["seq"].to_pylist()) == [n for n in range(40) if n not in (3, 5)]
    assert len(LiveReader(lake).bars(None, "5m")) == 6
    assert lake.table(tables.DEAD_LETTERS).snapshot().rows == 2
    counted = {m.key.metric.name: m.committed for m in pipeline.result.metrics().query()["counters"]}
    assert counted[f"rows_written.{TICKS}"] == counted[f"rows_committed.{TICKS}"] == 40
    assert counted[f"files_written.{TICKS}"] >= 2
