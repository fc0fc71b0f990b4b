import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fibflow.io import maintenance
from fibflow.io.datafiles import TableSpec
from fibflow.io.lake import Lake, RebaseNeeded, Scope, TableMissing
from fibflow.io.maintenance import compact, vacuum
from fibflow.tests.io.lakes import EVERYTHING, SPEC, bars, day, keys, write

NOW = datetime.now(UTC)
LATER = NOW + timedelta(days=40)


@pytest.fixture(params=["folder", "s3"])
def table(request, tmp_path):
    if request.param == "folder":
        return Lake(str(tmp_path)).table(SPEC)
    s3 = request.getfixturevalue("s3")
    return Lake(s3.uri("lake"), s3.aws).table(SPEC)


@pytest.fixture
def local(tmp_path):
    return Lake(str(tmp_path)).table(SPEC)


def add(table, name, rows, timeframe="5d", scope=EVERYTHING):
    return table.commit(
        [write(table, name, rows, timeframe)], base_version=table.version, scope=scope, run=name
    )


def files_of(table):
    return {Path(path).name for path in table.snapshot().paths}


# --- compaction --------------------------------------------------------------------------------------


def test_small_files_of_a_partition_become_one(table):
    add(table, "a", bars(["A", "C"], range(3)))
    add(table, "b", bars(["B", "D"], range(3)))
    add(table, "c", bars(["A"], range(3, 5)))
    add(table, "other", bars(["A"], range(3)), "8d")
    before = keys(table.snapshot().read()[0])
    planned = compact(table, 1_000, "run1", dry_run=True)
    assert (planned.partitions, planned.files_before, planned.files_after, planned.rows) == (1, 3, 1, 14)
    assert (planned.version, table.version) == (None, 3)
    done = compact(table, 1_000, "run1")
    assert done == type(done)(1, 3, 1, 14, planned.bytes_before, 4)
    snapshot = table.snapshot()
    assert keys(snapshot.read()[0]) == before
    (merged,) = snapshot.select(where={"timeframe": "5d"})
    rows = snapshot.read(where={"timeframe": "5d"})[0]
    assert rows.equals(rows.sort_by([("symbol", "ascending"), ("ts", "ascending")]))
    assert (merged.rows, merged.partition) == (14, {"timeframe": "5d"})
    # No row changed: whoever follows the versions sees nothing.
    assert table.changes(3) == ([], [])
    assert table.history(1)[0]["operation"] == "OPTIMIZE"
    again = compact(table, 1_000, "run2")
    assert (again.files_before, again.files_after, again.version, table.version) == (0, 0, None, 4)


def test_files_are_cut_between_symbols(local):
    for symbol in "ABCDEFGH":
        add(local, symbol, bars([symbol], range(30)))
    done = compact(local, 70, "run")
    assert (done.files_before, done.files_after) == (8, 3)
    bounds = local.snapshot().files.select(["min.symbol", "max.symbol"]).to_pylist()
    edges = sorted((row["min.symbol"], row["max.symbol"]) for row in bounds)
    assert all(a[1] < b[0] for a, b in pairwise(edges))
    assert local.snapshot().rows == 240


def test_one_symbol_is_cut_by_rows(local):
    for number in range(4):
        add(local, f"f{number}", bars(["A"], range(number * 30, number * 30 + 30)))
    compact(local, 64, "run")
    assert sorted(f.rows for f in local.snapshot().select()) == [60, 60]


def test_files_of_open_bars_stay_apart(tmp_path):
    table = Lake(str(tmp_path)).table(replace(SPEC, apart="complete"))
    for name, rows in (("a", [0]), ("b", [1]), ("c", [2]), ("d", [3])):
        add(table, name, bars(["A"], rows, complete=name in "ab"))
    report = compact(table, 1000, "run")
    assert (report.files_before, report.files_after) == (4, 2)
    snapshot = table.snapshot()
    assert len(snapshot.select(where={"complete": False})) == 1
    ended, _ = snapshot.read(["ts"], where={"complete": True})
    assert set(ended["ts"].to_pylist()) == {day(0), day(1)}


def test_large_files_are_left(local):
    add(local, "large", bars(["A"], range(60)))
    add(local, "small", bars(["B"], range(3)))
    assert compact(local, 100, "run").files_before == 0
    add(local, "small2", bars(["C"], range(3)))
    assert compact(local, 100, "run").files_before == 2
    assert "large.parquet" in files_of(local)


def test_of_one_key_the_row_of_the_latest_commit_stays(tmp_path):
    now = [NOW]
    table = Lake(str(tmp_path), clock=lambda: now[0]).table(SPEC)
    for name, close in (("z", 1.0), ("y", 2.0), ("x", 3.0)):
        add(table, name, bars(["A"], range(3), close=close))
        now[0] += timedelta(seconds=1)
    done = compact(table, 100, "run")
    assert done.rows == 9
    assert table.snapshot().read()[0].column("close").to_pylist() == [3.0] * 3
    # The merged rows are as old as they were: what was committed after them still counts as later.
    (merged,) = table.snapshot().select()
    assert merged.modified == int((NOW + timedelta(seconds=2)).timestamp() * 1000)


def test_a_table_without_key_and_order_keeps_every_row(tmp_path):
    spec = TableSpec("dead_letters", pa.schema([pa.field("reason", pa.string())]))
    table = Lake(str(tmp_path)).table(spec)
    for number in range(3):
        file = table.writer().write(pa.table({"reason": ["x", None]}), {}, f"f{number}")
        table.commit([file], base_version=table.version, scope=EVERYTHING, run="r")
    compact(table, 100, "run")
    assert table.snapshot().read()[0].column("reason").to_pylist() == ["x", None] * 3


def test_a_run_that_replaces_files_meanwhile_wins(local, monkeypatch):
    add(local, "a", bars(["A"], range(3)))
    add(local, "b", bars(["B"], range(3)))
    commit = local.commit
    disturbed: list[bool] = []

    def slow(*args, **options):
        if not disturbed:
            disturbed.append(True)
            new = write(local, "a2", bars(["A"], range(5)))
            commit([new], local.snapshot().select("A"), base_version=1, scope=Scope(("A",)), run="other")
        return commit(*args, **options)

    monkeypatch.setattr(local, "commit", slow)
    done = compact(local, 100, "run")
    assert (done.rows, done.version) == (8, 3)
    assert keys(local.snapshot().read()[0]) == [("A", "5d", d) for d in range(5)] + [
        ("B", "5d", d) for d in range(3)
    ]


def test_a_run_that_only_adds_meanwhile_disturbs_nothing(local, monkeypatch):
    add(local, "a", bars(["A"], range(3)))
    add(local, "b", bars(["B"], range(3)))
    commit = local.commit

    def slow(*args, **options):
        commit([write(local, "c", bars(["C"], [0]))], base_version=1, scope=EVERYTHING, run="other")
        return commit(*args, **options)

    monkeypatch.setattr(local, "commit", slow)
    assert compact(local, 100, "run").version == 3
    assert local.snapshot().rows == 7


def test_a_compaction_gives_up_when_it_is_disturbed_each_time(local, monkeypatch):
    add(local, "a", bars(["A"], range(3)))
    add(local, "b", bars(["B"], range(3)))

    def refuse(*args, **options):
        raise RebaseNeeded("gone: run again")

    monkeypatch.setattr(local, "commit", refuse)
    with pytest.raises(RebaseNeeded):
        compact(local, 100, "run")


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from("ABC"), st.integers(0, 6)), min_size=1, max_size=8, unique=True),
        min_size=1,
        max_size=5,
    ),
    st.integers(2, 20),
)
def test_compaction_keeps_the_latest_row_of_each_key(tmp_path_factory, commits, target):
    now = [NOW]
    table = Lake(str(tmp_path_factory.mktemp("lake")), clock=lambda: now[0]).table(SPEC)
    expected: dict[tuple[str, int], float] = {}
    for number, cells in enumerate(commits):
        rows = pa.concat_tables([bars([s], [d], close=float(number)) for s, d in sorted(cells)])
        add(table, f"f{number}", rows)
        now[0] += timedelta(seconds=1)
        expected |= dict.fromkeys(cells, float(number))
    compact(table, 1_000, "all")
    compact(table, target, "more")
    rows = table.snapshot().read()[0]
    if len(commits) > 1:
        found = dict(zip([(s, d) for s, _, d in keys(rows)], [0.0] * rows.num_rows, strict=True))
        assert len(found) == rows.num_rows
        got = rows.sort_by([("symbol", "ascending"), ("ts", "ascending")]).column("close").to_pylist()
        assert got == [close for _, close in sorted(expected.items())]


# --- vacuum ------------------------------------------------------------------------------------------


def test_orphans_and_replaced_files_go_when_they_are_old(table):
    add(table, "a", bars(["A"], range(3)))
    add(table, "b", bars(["B"], range(3)))
    write(table, "orphan", bars(["X"], [0]))
    table.commit(
        [write(table, "a2", bars(["A"], range(4)))],
        table.snapshot().select("A"),
        base_version=1,
        scope=EVERYTHING,
        run="r",
    )
    before = keys(table.snapshot().read()[0])
    assert vacuum(table, NOW).paths == ()
    planned = vacuum(table, LATER)
    assert planned.paths == ("timeframe=5d/a.parquet", "timeframe=5d/orphan.parquet")
    assert planned.dry_run
    assert planned.bytes > 0
    assert table.snapshot(1).read()[0].num_rows == 6
    done = vacuum(table, LATER, dry_run=False)
    assert (done.paths, done.bytes, done.dry_run) == (planned.paths, planned.bytes, False)
    assert keys(table.snapshot().read()[0]) == before
    assert vacuum(table, LATER).paths == ()


def test_versions_inside_the_retention_stay_whole(tmp_path):
    now = [NOW - timedelta(days=20)]
    table = Lake(str(tmp_path), clock=lambda: now[0]).table(SPEC)
    add(table, "a", bars(["A"], range(3)))
    for days, name in ((10, "b"), (20, "c")):
        now[0] = NOW - timedelta(days=20) + timedelta(days=days)
        old = table.snapshot().select()
        table.commit(
            [write(table, name, bars(["A"], range(4)))],
            old,
            base_version=table.version,
            scope=EVERYTHING,
            run=name,
        )
    for path in tmp_path.rglob("*.parquet"):
        os.utime(path, (0, 0))
    # Removed 10 and 0 days ago.
    assert vacuum(table, NOW, retention_hours=24 * 15).paths == ()
    assert vacuum(table, NOW, retention_hours=24 * 5).paths == ("timeframe=5d/a.parquet",)
    assert vacuum(table, NOW + timedelta(hours=1), retention_hours=0).paths == (
        "timeframe=5d/a.parquet",
        "timeframe=5d/b.parquet",
    )


def test_what_a_run_in_progress_has_written_stays(local):
    add(local, "a", bars(["A"], range(3)))
    file = write(local, "soon", bars(["B"], [0]))
    assert vacuum(local, datetime.now(UTC), dry_run=False).paths == ()
    local.commit([file], base_version=0, scope=EVERYTHING, run="r")
    assert local.snapshot().rows == 4


def test_staged_commits_of_killed_runs_go_too_and_nothing_else(local):
    add(local, "a", bars(["A"], range(3)))
    root = Path(local.storage.uri)
    staged = root / "_delta_log" / ".00000000000000000001.json.0123.tmp"
    for other in (staged, root / "README.md", root / "_hidden" / "x.parquet", root / ".x" / "y.parquet"):
        other.parent.mkdir(exist_ok=True)
        other.write_text("x")
    assert vacuum(local, LATER, dry_run=False).paths == (f"_delta_log/{staged.name}",)
    assert not staged.exists()
    assert (root / "README.md").exists()
    assert local.snapshot().rows == 3


def test_partitions_with_odd_names_are_kept(local):
    add(local, "a", bars(["A"], range(3)), "a/b c%")
    assert vacuum(local, LATER, dry_run=False).paths == ()
    assert local.snapshot().read()[0].num_rows == 3


def test_a_vacuum_goes_by_the_checkpoint_where_the_log_has_expired(local):
    for number in range(12):
        old = local.snapshot().select() if number else []
        local.commit(
            [write(local, f"f{number}", bars(["A"], [number]))],
            old,
            base_version=number - 1,
            scope=EVERYTHING,
            run="r",
        )
    for number in range(10):
        (Path(local.storage.uri) / "_delta_log" / f"{number:020d}.json").unlink()
    done = vacuum(local, LATER, retention_hours=0, dry_run=False)
    assert len(done.paths) == 11
    assert files_of(local) == {"f11.parquet"}
    assert local.snapshot().read()[0].num_rows == 1


def test_bad_calls_are_refused(local):
    with pytest.raises(TableMissing):
        vacuum(local, NOW)
    with pytest.raises(TableMissing):
        compact(local, 100, "r")
    add(local, "a", bars(["A"], [0]))
    with pytest.raises(ValueError, match="retention of -1"):
        vacuum(local, NOW, retention_hours=-1)
    assert maintenance.RETENTION_HOURS == 720
