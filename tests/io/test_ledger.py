from __future__ import annotations

import numpy as np
import pytest

from fibflow.io import ledger as ledger_module
from fibflow.io import tables
from fibflow.io.files import RawFile, precedence_key
from fibflow.io.lake import Lake, Scope
from fibflow.io.ledger import UNKNOWN, KnownFiles, changes_of, entries_of, read_ledger, record, source_of
from fibflow.io.storage import LakeError, Storage
from fibflow.transforms.schemas import LEDGER

NAME = "bronze.daily"


def raw(path, size=1, modified=1):
    return RawFile(path, size, modified, None, path.rpartition("/")[2].startswith("date="))


@pytest.fixture
def ledger(tmp_path):
    return Lake(str(tmp_path / "lake")).table(tables.LEDGER)


def paths(entries):
    return sorted(entries["path"].to_pylist())


def test_ids_are_positive_and_the_same_for_ever():
    assert source_of("/history/symbol=AAPL/data.parquet") == 2115355202404088844
    assert all(0 <= source_of(str(number)) < 2**63 for number in range(1000))


def test_there_is_no_entry_without_a_ledger(ledger):
    assert read_ledger(ledger, NAME).equals(LEDGER.empty_table())


def test_entries_are_kept_by_table_and_the_newer_one_of_a_file_stays(ledger):
    record(ledger, entries_of([raw("a"), raw("b")], [10, 20], NAME, 1), "run1")
    record(ledger, entries_of([raw("a")], [5], "bronze.minutes", 1), "run2")
    record(ledger, entries_of([raw("b", size=2), raw("c")], [21, None], NAME, 2), "run3")
    found = {
        row["path"]: (row["size"], row["rows"], row["landed"])
        for row in read_ledger(ledger, NAME).to_pylist()
    }
    assert found == {"a": (1, 10, 1), "b": (2, 21, 2), "c": (1, None, 2)}
    assert paths(read_ledger(ledger, "bronze.minutes")) == ["a"]
    assert ledger.snapshot().rows == 4


def test_a_full_refresh_replaces_the_entries_of_its_table_only(ledger):
    record(ledger, entries_of([raw("a"), raw("b")], [1, 1], NAME, 1), "run1")
    record(ledger, entries_of([raw("a")], [1], "bronze.minutes", 1), "run2")
    record(ledger, entries_of([raw("b")], [1], NAME, 2), "run3", replace=NAME)
    assert paths(read_ledger(ledger, NAME)) == ["b"]
    assert paths(read_ledger(ledger, "bronze.minutes")) == ["a"]


def test_small_files_are_merged(ledger):
    for number in range(20):
        record(ledger, entries_of([raw(f"{number:02d}")], [1], NAME, number), f"run{number}")
        assert len(ledger.snapshot()) <= ledger_module.MOST_SMALL_FILES
    assert paths(read_ledger(ledger, NAME)) == [f"{number:02d}" for number in range(20)]


def test_of_entries_that_two_loads_wrote_the_newest_counts(ledger):
    first, second = (entries_of([raw("a", size=size)], [1], NAME, size) for size in (1, 2))
    record(ledger, first, "run1")
    base = ledger.version
    file = ledger.writer().write(second, {}, "aside")
    ledger.commit([file], base_version=base, scope=Scope(symbols=()), run="run2")
    assert read_ledger(ledger, NAME)["size"].to_pylist() == [2]


def test_changes_are_told_by_size_and_modification_time():
    entries = entries_of([raw(name) for name in "abcd"], [1, 1, 1, None], NAME, 1)
    files = [raw("a"), raw("b", size=2), raw("c", modified=2), raw("d"), raw("e")]
    found = changes_of(files, entries)
    assert [
        [file.path for file in part] for part in (found.new, found.changed, found.partly, found.unchanged)
    ] == [
        ["e"],
        ["b", "c"],
        ["d"],
        ["a"],
    ]
    assert [file.path for file in found.to_land] == ["e", "b", "c", "d"]


def test_known_files_rank_by_precedence(tmp_path):
    known = KnownFiles(Storage(str(tmp_path)))
    mine = sorted(
        [raw("x/z", modified=9), raw("date=1", modified=1), raw("x/a", modified=3)], key=precedence_key
    )
    others = [raw("date=0", modified=1), raw("x/b", modified=3), raw("x/z", modified=2), raw("m", modified=5)]
    known.stage(mine, entries_of(others, [1] * 4, NAME, 1), [mine[1]])
    ordered = ["x/a", "x/b", "m", "x/z", "date=0", "date=1"]
    assert known.paths(np.arange(6)) == ordered
    assert known.ranks.tolist() == [0, 3, 5]
    assert [ordered[rank] for rank in known.ranks] == [file.path for file in mine]
    assert known.changed.tolist() == [False, False, False, True, False, False]
    sources = np.array([source_of(path) for path in ("m", "nobody", "x/z")])
    assert known.rank_of(sources).tolist() == [2, UNKNOWN, 3]
    assert known.paths(known.rank_of(sources)) == ["m", "", "x/z"]


def test_known_files_need_their_staging_place(tmp_path):
    with pytest.raises(LakeError, match="the same staging place"):
        KnownFiles(Storage(str(tmp_path))).paths(np.zeros(1, np.int32))
