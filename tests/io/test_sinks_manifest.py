"""Bars and refused rows to data files, and the manifest that tells of them."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fibflow.io import tables
from fibflow.io.datafiles import DataFile, DataFileWriter
from fibflow.io.manifest import PROGRESS, Manifest, Newest, Tally, Wrote
from fibflow.io.sinks import (
    OPEN_BARS,
    WriteBars,
    WriteDeadLetters,
    WriteManifest,
    content_name,
    mark_progress,
    sort_bars,
    write_bars,
)
from fibflow.io.snapshot import read_files
from fibflow.io.storage import LakeError, Storage
from fibflow.tests.io.barlakes import XNYS, daily_rows, minute_rows
from fibflow.transforms.bars import BarSpec, daily_bars, minute_bars
from fibflow.transforms.schemas import BARS, DEAD_LETTERS
from fibflow.transforms.timeframe import parse_timeframes

A = daily_rows({"A": ("2023-12-20", "2024-01-24")})
B = daily_rows({"BRK/B": ("2024-01-02", "2024-01-24")})
ROWS = pa.concat_tables([A, B])


def made(names="5d", rows=ROWS, as_of=None):
    kernel = daily_bars if "session" in rows.column_names else minute_bars
    return list(kernel(rows, BarSpec(parse_timeframes(names), XNYS, as_of)))


@pytest.fixture
def storage(tmp_path):
    return Storage(str(tmp_path))


@pytest.fixture
def writer(storage):
    return DataFileWriter(storage, tables.BARS)


# Bars ------------------------------------------------------------------------------------------------------


def test_bars_of_days_are_one_file(writer, storage):
    (bars,) = made()
    (file,) = write_bars(writer, bars, XNYS, "run", "x-")
    assert file.path == "timeframe=5d/period=all/run-x-A.parquet"
    assert file.rows == len(bars)
    found, _ = read_files(storage, tables.BARS, [file], BARS.names)
    assert found.equals(bars.cast(BARS))


def test_names_hold_the_first_symbol(writer):
    (bars,) = made(rows=B)
    (file,) = write_bars(writer, bars, XNYS, "run")
    assert file.path == "timeframe=5d/period=all/run-BRK%2FB.parquet"


@pytest.mark.parametrize(
    ("name", "periods"),
    [
        ("5m", ["2023-12", "2024-01", "2024-03"]),
        ("15m", ["2023-Q4", "2024-Q1"]),
        ("1h", ["2023", "2024"]),
    ],
)
def test_intraday_bars_are_a_file_a_period(name, periods, writer, storage):
    rows = minute_rows("A", ["2023-12-29T14:30", "2024-01-02T14:30", "2024-03-28T14:30"], 30)
    (bars,) = made(name, rows)
    files = list(write_bars(writer, bars, XNYS, "run"))
    assert [file.partition["period"] for file in files] == periods
    assert sum(file.rows for file in files) == len(bars)
    assert pa.concat_tables([read_files(storage, tables.BARS, [f], BARS.names)[0] for f in files]).equals(
        bars.cast(BARS)
    )


def test_months_of_one_longer_period_are_files_of_their_own(writer):
    """Units of minutes are months: January's and March's bars of an hour go to one partition."""
    paths = set()
    for start in ("2024-01-02T14:30", "2024-03-28T14:30"):
        (bars,) = made("1h", minute_rows("A", [start], 30))
        (file,) = write_bars(writer, bars, XNYS, "run")
        assert re.fullmatch(r"timeframe=1h/period=2024/run-A-2024-0[13]-\d\dT1\d00\.parquet", file.path)
        paths.add(file.path)
    assert len(paths) == 2


def emitted(function, elements):
    """What a DoFn of one bundle emits."""
    function.start_bundle()
    found = [item for element in elements for item in function.process(element)]
    return found + [value.value for value in function.finish_bundle()]


def test_ended_and_open_bars_go_to_their_own_places(tmp_path):
    ended, still_open = Storage(str(tmp_path / "table")), Storage(str(tmp_path / "staged"))
    elements = [*made("3d,34d", A), *made("3d,34d", B)]
    found = emitted(WriteBars(ended, still_open, XNYS, "run"), elements)
    assert [(item.table, item.file.path) for item in found] == [
        ("silver.bars", "timeframe=3d/period=all/run-A.parquet"),
        ("silver.bars", "timeframe=34d/period=all/run-A.parquet"),
        ("silver.bars", "timeframe=3d/period=all/run-BRK%2FB.parquet"),
        ("silver.bars", "timeframe=34d/period=all/run-BRK%2FB.parquet"),
        (OPEN_BARS, "timeframe=3d/period=all/run-open-A.parquet"),
        (OPEN_BARS, "timeframe=34d/period=all/run-open-A.parquet"),
    ]
    wanted = pa.concat_tables([bars.cast(BARS) for bars in elements])
    for name, storage, complete in (("silver.bars", ended, True), (OPEN_BARS, still_open, False)):
        files = [item.file for item in found if item.table == name]
        rows, _ = read_files(storage, tables.BARS, files, BARS.names)
        order: Any = [(column, "ascending") for column in ("timeframe", "symbol", "ts")]
        mask = pa.array(np.array(wanted["complete"].to_pylist()) == complete)
        assert rows.sort_by(order).equals(wanted.filter(mask).sort_by(order))


def test_a_bundle_without_open_bars_writes_no_file_of_them(tmp_path):
    (bars,) = made("3d", as_of=int(XNYS.day_ends[-1]))
    function = WriteBars(Storage(str(tmp_path / "table")), Storage(str(tmp_path / "staged")), XNYS, "run")
    assert [item.table for item in emitted(function, [bars])] == ["silver.bars"]
    assert not (tmp_path / "staged").exists()


@given(order=st.randoms(use_true_random=False).map(lambda r: r.sample(range(30), 30)))
def test_sort_bars(order):
    (bars,) = made("1d", ROWS.slice(0, 30))
    halves = [bars.take(order[:11]), bars.take(order[11:])]
    # Each chunk has a dictionary of its own.
    mixed = pa.concat_tables([half.cast(BARS).cast(bars.schema) for half in halves])
    assert (
        sort_bars(mixed)
        .cast(BARS)
        .equals(bars.cast(BARS).sort_by([("symbol", "ascending"), ("ts", "ascending")]))
    )
    chunk: Any = sort_bars(mixed)["symbol"].chunk(0)
    assert chunk.dictionary.to_pylist() == sorted(
        {"A", "BRK/B"} & set(bars["symbol"].cast(pa.string()).to_pylist())
    )


# Refused rows ----------------------------------------------------------------------------------------------


def refused(reasons, value=1.0):
    columns = {"reason": reasons, "origin": ["a.csv"] * len(reasons), "open": [value] * len(reasons)}
    arrays = [pa.array(columns.get(f.name, [None] * len(reasons)), f.type) for f in DEAD_LETTERS]
    return pa.table(arrays, schema=DEAD_LETTERS)


def test_refused_rows_are_counted_and_written_once_a_bundle(storage):
    elements = [refused(["null_time", "duplicate", "null_time"]), refused(["duplicate"], 2.0)]
    found = emitted(WriteDeadLetters(storage), elements)
    tallies: Counter[str] = Counter()
    for item in found:
        if isinstance(item, Tally):
            tallies[item.name] += item.number
    assert tallies == {"rejected.null_time": 2, "rejected.duplicate": 2}
    (wrote,) = [item for item in found if isinstance(item, Wrote)]
    rows, _ = read_files(storage.child("dead_letters"), tables.DEAD_LETTERS, [wrote.file])
    assert rows.equals(pa.concat_tables(elements))
    assert emitted(WriteDeadLetters(storage), []) == []


def test_many_refused_rows_are_written_before_the_bundle_ends(storage, monkeypatch):
    monkeypatch.setattr("fibflow.io.sinks._MOST_BUFFERED", 3)
    elements = [refused(["duplicate"] * 2, float(number)) for number in range(5)]
    found = [item for item in emitted(WriteDeadLetters(storage), elements) if isinstance(item, Wrote)]
    assert [item.file.rows for item in found] == [4, 4, 2]
    assert len({item.file.path for item in found}) == 3


def test_the_same_refused_rows_have_the_same_name():
    rows = refused(["duplicate", "null_time"])
    run = rows.schema.get_field_index("run")
    named = rows.set_column(run, DEAD_LETTERS.field("run"), pa.array(["x", "x"]))
    assert (
        content_name(rows)
        == content_name(named)
        == content_name(pa.concat_tables([rows.slice(0, 1), rows.slice(1)]))
    )
    assert content_name(rows) != content_name(refused(["null_time", "duplicate"]))
    assert content_name(rows) != content_name(rows.slice(0, 1))


# The manifest ----------------------------------------------------------------------------------------------

FILES = st.builds(
    DataFile,
    path=st.sampled_from(["a.parquet", "p=1/b c.parquet", "p=1/é.parquet"]),
    size=st.integers(0, 2**40),
    rows=st.integers(0, 2**40),
    partition=st.dictionaries(st.sampled_from(["timeframe", "period"]), st.sampled_from(["5d", "all", None])),
    stats=st.sampled_from(["", '{"numRecords":1}']),
)
TOLD = st.one_of(
    st.builds(Wrote, st.sampled_from(["silver.bars", "open"]), FILES),
    st.builds(Tally, st.sampled_from(["rows_read", "rejected.duplicate"]), st.integers(0, 2**40)),
    st.builds(Newest, st.integers(-30_000, 30_000)),
)


@given(told=st.lists(TOLD))
def test_a_manifest_holds_what_was_told(told):
    made = Manifest.of(told)
    files = [(item.table, item.file.path) for item in told if isinstance(item, Wrote)]
    assert {(name, file.path) for name, found in made.files.items() for file in found} == set(files)
    assert all([f.path for f in found] == sorted({f.path for f in found}) for found in made.files.values())
    days = [item.day for item in told if isinstance(item, Newest)]
    assert made.newest == max(days, default=None)
    tallies = [item for item in told if isinstance(item, Tally)]
    assert made.tallies.total() == sum(item.number for item in tallies)
    assert made.of_table("another") == []


@given(told=st.lists(TOLD))
def test_a_manifest_is_read_as_it_was_written(told, tmp_path_factory):
    staging = Storage(str(tmp_path_factory.mktemp("staging")))
    Manifest.of(told).write(staging)
    assert Manifest.read(staging) == Manifest.of(told)


def test_a_retried_bundle_writes_the_manifest_over_the_first(storage):
    WriteManifest(storage).process((None, [Tally("rows_read", 3)]))
    WriteManifest(storage).process((None, [Tally("rows_read", 4), Newest(5)]))
    assert Manifest.read(storage) == Manifest({}, Counter(rows_read=4), 5)


def test_a_pipeline_that_did_not_end_leaves_no_manifest(storage):
    with pytest.raises(LakeError, match=r"the pipeline left no manifest at .*: it did not end; run again"):
        Manifest.read(storage)


def test_marks_of_progress_are_counted_once_a_unit(storage):
    for unit in ("gather-all-0", "gather-2024-01-0", "gather-2024-01-0", "a/b"):
        mark_progress(storage, unit)
    assert len(storage.names(PROGRESS)) == 3
