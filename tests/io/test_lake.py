import json
import os
import pickle
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from threading import Barrier

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from hypothesis import given
from hypothesis import strategies as st

from fibflow.io.datafiles import TableSpec
from fibflow.io.failpoints import VARIABLE
from fibflow.io.lake import (
    ConflictError,
    Lake,
    LakeError,
    PropertyMismatch,
    RebaseNeeded,
    Scope,
    TableMissing,
)
from fibflow.tests.io.lakes import EVERYTHING, SPEC, bars, commit_one, keys, write

ANCHOR = {"fibflow.anchor": "exchange"}


@pytest.fixture(params=["folder", "s3"])
def lake(request, tmp_path):
    """A lake in a folder whose name needs quoting, and one in a bucket."""
    if request.param == "folder":
        return Lake(str(tmp_path / "my lake"))
    s3 = request.getfixturevalue("s3")
    return Lake(s3.uri("my lake"), s3.aws)


@pytest.fixture
def table(tmp_path):
    return Lake(str(tmp_path / "lake")).table(SPEC)


def make(table, symbols=("A", "B"), days=range(3), **options):
    """The first commit: a file a symbol, named like it."""
    files = [write(table, symbol, bars([symbol], days)) for symbol in symbols]
    version = table.commit(
        files, base_version=-1, scope=EVERYTHING, run="first", properties=ANCHOR, **options
    )
    return version, files


# --- one writer -----------------------------------------------------------------------------------


def test_a_table_is_there_from_its_first_commit_on(lake):
    table = lake.table(SPEC)
    assert (table.exists, table.version, table.properties, table.app_version("daily")) == (
        False,
        -1,
        {},
        None,
    )
    with pytest.raises(TableMissing, match=r"no table silver\.bars at"):
        table.snapshot()
    file = write(table, "a", bars(["A"], range(3)))
    assert not table.exists
    assert (
        table.commit([file], base_version=-1, scope=EVERYTHING, run="r1", properties=ANCHOR, app={"daily": 7})
        == 0
    )
    assert (table.exists, table.version, table.properties, table.app_version("daily")) == (True, 0, ANCHOR, 7)
    assert keys(table.snapshot().read()[0]) == [("A", "5d", 0), ("A", "5d", 1), ("A", "5d", 2)]


def test_files_come_and_go_in_one_version(lake):
    table = lake.table(SPEC)
    make(table)
    base = table.snapshot()
    new = write(table, "b2", bars(["B"], range(4), close=2.0))
    version = table.commit(
        [new], base.select("B"), base_version=0, scope=Scope(("B",)), run="r2", app={"daily": 8}
    )
    assert version == 1
    assert table.snapshot().read(["close"], symbols="B")[0].column("close").to_pylist() == [2.0] * 4
    assert table.snapshot().read(["close"], symbols="A")[0].num_rows == 3
    assert table.app_version("daily") == 8
    assert table.app_version("other") is None
    assert table.properties == ANCHOR
    # Versions stay.
    assert keys(table.snapshot(0).read()[0]) == keys(base.read()[0])
    with pytest.raises(LakeError, match=r"cannot open silver\.bars at version 7"):
        table.snapshot(7)


def test_deltalake_itself_reads_what_was_committed(table):
    make(table, ["A"])
    odd = table.writer().write(bars(["X"], [0]), {"timeframe": "a/b c%"}, "odd")
    table.commit([odd], base_version=0, scope=EVERYTHING, run="r2", metadata={"note": [1]})
    found = DeltaTable(table.storage.uri)
    assert sorted(Path(uri).name for uri in found.file_uris()) == ["A.parquet", "odd.parquet"]
    assert all(Path(uri).is_file() for uri in found.file_uris())
    assert found.metadata().name == "silver.bars"
    assert found.metadata().configuration == ANCHOR
    assert found.metadata().partition_columns == ["timeframe"]
    assert found.protocol().min_writer_version == 2
    latest = table.history()[0]
    assert (latest["version"], latest["operation"], latest["fibflow.run"]) == (1, "WRITE", "r2")
    assert latest["fibflow.note"] == [1]
    assert Scope.from_json(latest["fibflow.scope"]) == EVERYTHING
    assert keys(table.snapshot().read(where={"timeframe": "a/b c%"})[0]) == [("X", "a/b c%", 0)]


def test_another_writer_may_append_with_deltalake(table):
    make(table, ["A"])
    rows = bars(["Z"], [0])
    given = rows.add_column(1, "timeframe", [pa.array(["5d"])])
    from deltalake import write_deltalake

    write_deltalake(table.storage.uri, given, mode="append")
    assert [k[0] for k in keys(table.snapshot().read(symbols="Z")[0])] == ["Z"]
    # It stated no scope: it may have written anything.
    with pytest.raises(ConflictError, match="version 1, run unknown, everything"):
        table.commit([write(table, "b", bars(["B"], [0]))], base_version=0, scope=Scope(("B",)), run="r2")


def test_a_checkpoint_is_made_now_and_then(table):
    make(table, ["A"])
    for number in range(10):
        table.commit(
            [write(table, f"n{number}", bars([f"N{number}"], [0]))],
            base_version=number,
            scope=EVERYTHING,
            run=f"r{number}",
            app={"daily": number},
        )
    assert (Path(table.storage.uri) / "_delta_log" / f"{10:020d}.checkpoint.parquet").exists()
    for old in range(10):
        (Path(table.storage.uri) / "_delta_log" / f"{old:020d}.json").unlink()
    assert table.snapshot().rows == 13
    assert (table.properties, table.app_version("daily"), table.version) == (ANCHOR, 9, 10)
    assert table.snapshot().select(where={"complete": False}) == []
    with pytest.raises(LakeError, match="no longer has the log of version 3: run again"):
        commit_at(table, 2)
    with pytest.raises(LakeError, match="no longer has the log of version 3: do a full run"):
        table.changes(2)


def commit_at(table, base_version):
    file = write(table, f"late{base_version}", bars(["L"], [0]))
    return table.commit([file], base_version=base_version, scope=EVERYTHING, run="late")


def test_a_file_cannot_be_committed_twice(table):
    _, files = make(table)
    with pytest.raises(LakeError, match="already holds timeframe=5d/A"):
        table.commit(files, base_version=0, scope=EVERYTHING, run="again")
    with pytest.raises(ValueError, match="added twice"):
        table.commit([files[0], files[0]], base_version=0, scope=EVERYTHING, run="again")
    with pytest.raises(ValueError, match="added and removed"):
        table.commit([files[0]], [files[0]], base_version=0, scope=EVERYTHING, run="again")
    assert table.version == 0


def test_a_lake_and_its_tables_go_to_workers(table, tmp_path):
    make(table)
    lake = pickle.loads(pickle.dumps(Lake(str(tmp_path / "lake"))))  # noqa: S301 - our own bytes
    snapshot = pickle.loads(pickle.dumps(lake.table(SPEC).snapshot()))  # noqa: S301 - our own bytes
    assert snapshot.read()[0].num_rows == 6


def test_relative_and_file_addresses_are_the_same_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(Lake("lake").table(SPEC))
    assert Lake(f"file://{tmp_path}/lake").table(SPEC).snapshot().rows == 6


# --- what is refused ------------------------------------------------------------------------------


def test_another_kind_of_address_is_refused():
    with pytest.raises(LakeError, match="no folder and no s3:// address"):
        Lake("gs://bucket/lake").table(SPEC)


def test_a_path_that_deltalake_would_misread_is_refused(tmp_path):
    with pytest.raises(LakeError, match="cannot hold the character %"):
        Lake(str(tmp_path / "100%")).table(SPEC)


def test_a_bucket_that_is_not_there_is_one_line(s3):
    table = Lake("s3://no-such-bucket-here/lake", s3.aws).table(SPEC)
    with pytest.raises(LakeError, match="there is no such bucket") as caught:
        _ = table.exists
    assert "\n" not in str(caught.value)


def test_other_columns_are_refused(table):
    make(table)
    for schema, partitions in (
        (SPEC.schema.remove(3), ("timeframe",)),
        (SPEC.schema.set(3, pa.field("close", pa.float32())), ("timeframe",)),
        (SPEC.schema, ()),
    ):
        other = TableSpec("silver.bars", schema, partitions)
        with pytest.raises(LakeError, match="other columns or partitions than this release writes"):
            Lake(str(Path(table.storage.uri).parent)).table(other).snapshot()


def test_a_table_of_a_newer_protocol_is_left_alone(table):
    make(table)
    log = Path(table.storage.uri) / "_delta_log"
    (log / f"{1:020d}.json").write_text(
        json.dumps({"protocol": {"minReaderVersion": 1, "minWriterVersion": 4}})
    )
    with pytest.raises(ConflictError, match="version 1"):
        commit_at(table, 0)
    with pytest.raises(LakeError, match="Delta's writer version 4; Fibflow writes 2"):
        commit_at(table, 1)


def test_a_base_that_is_gone_is_refused(table):
    with pytest.raises(LakeError, match="has no version 3 any more"):
        commit_at(table, 3)


# --- properties -----------------------------------------------------------------------------------


def test_properties_are_checked_at_the_open(table):
    make(table)
    table.check(ANCHOR)
    table.check({"fibflow.not_there": "anything"})
    with pytest.raises(PropertyMismatch) as caught:
        table.check({"fibflow.anchor": "listing"})
    assert str(caught.value) == (
        "silver.bars was made with anchor=exchange; this run asks for anchor=listing: "
        "use another lake, or --full-refresh to write the table anew"
    )


def test_properties_change_with_the_files_of_the_same_version(lake):
    table = lake.table(SPEC)
    make(table)
    base = table.snapshot()
    table.commit(
        [write(table, "c", bars(["C"], [0]))],
        base.select(),
        base_version=0,
        scope=EVERYTHING,
        run="r2",
        properties={"fibflow.anchor": "listing", "fibflow.calendar.2024": "ab"},
    )
    assert table.properties == {"fibflow.anchor": "listing", "fibflow.calendar.2024": "ab"}
    assert table.snapshot(0).properties == ANCHOR
    assert table.snapshot().properties == table.properties
    assert keys(table.snapshot().read()[0]) == [("C", "5d", 0)]
    # The same again is no change of metadata, and others stay.
    table.commit(base_version=1, scope=EVERYTHING, run="r3", properties={"fibflow.anchor": "listing"})
    assert table.log.read(2).of("metaData") == []
    table.commit(base_version=2, scope=EVERYTHING, run="r4", properties={"fibflow.x": "y"})
    assert set(table.properties) == {"fibflow.anchor", "fibflow.calendar.2024", "fibflow.x"}


def test_properties_of_others_stay_and_are_not_ours(table):
    make(table)
    table.open().alter.set_table_properties({"delta.logRetentionDuration": "interval 60 days"})
    assert table.properties == ANCHOR
    table.commit(base_version=0, scope=EVERYTHING, run="r2", properties={"fibflow.x": "y"})
    assert table.open().metadata().configuration["delta.logRetentionDuration"] == "interval 60 days"
    with pytest.raises(ValueError, match="does not start with 'fibflow"):
        table.commit(base_version=1, scope=EVERYTHING, run="r3", properties={"anchor": "x"})


def test_two_runs_that_set_one_property_differently_conflict(table):
    make(table)
    for symbol, value in (("A", "1"), ("B", "1")):
        table.commit(base_version=0, scope=Scope((symbol,)), run=symbol, properties={"fibflow.hash": value})
    with pytest.raises(ConflictError, match=r"set fibflow\.hash of silver\.bars to 1"):
        table.commit(base_version=0, scope=Scope(("C",)), run="C", properties={"fibflow.hash": "2"})
    # It was there at the base: this run means to change it.
    assert table.commit(base_version=1, scope=Scope(("C",)), run="C", properties={"fibflow.hash": "2"}) == 3


# --- two writers ----------------------------------------------------------------------------------


def test_disjoint_runs_both_land(lake):
    table = lake.table(SPEC)
    make(table)
    base = table.snapshot()
    for symbol in ("A", "B"):
        file = write(table, f"{symbol}2", bars([symbol], range(5)))
        table.commit([file], base.select(symbol), base_version=0, scope=Scope((symbol,)), run=symbol)
    assert table.version == 2
    assert table.snapshot().rows == 10


def test_a_run_on_the_same_rows_loses_with_one_line(lake):
    table = lake.table(SPEC)
    make(table)
    table.commit(
        [write(table, "a2", bars(["A"], [9]))], base_version=0, scope=Scope(("A", "B"), ("5d",)), run="one"
    )
    with pytest.raises(ConflictError) as caught:
        table.commit([write(table, "a3", bars(["A"], [9]))], base_version=0, scope=Scope(("A",)), run="two")
    assert str(caught.value) == (
        "another run wrote silver.bars at the same time (version 1, run one, 5d of A B): "
        "nothing was written; run again"
    )
    assert table.version == 1


def test_a_disjoint_run_whose_files_are_gone_has_to_merge_again(table):
    shared = write(table, "shared", bars(["A", "B"], range(3)))
    table.commit([shared], base_version=-1, scope=EVERYTHING, run="first")
    one = write(table, "one", bars(["A", "B"], range(3), close=2.0))
    table.commit([one], [shared], base_version=0, scope=Scope(("A",)), run="one")
    two = write(table, "two", bars(["A", "B"], range(3), close=3.0))
    with pytest.raises(RebaseNeeded, match="1 of the files to replace are gone"):
        table.commit([two], [shared], base_version=0, scope=Scope(("B",)), run="two")
    assert table.commit([two], [one], base_version=1, scope=Scope(("B",)), run="two") == 2


def test_compaction_does_not_conflict_with_a_run_whose_files_it_left(table):
    _, (a, b) = make(table)
    merged = write(table, "merged", bars(["A"], range(3)))
    table.commit([merged], [a], base_version=0, scope=Scope(symbols=()), run="c", data_change=False)
    assert (
        table.commit(
            [write(table, "b2", bars(["B"], [7]))], [b], base_version=0, scope=Scope(("B",)), run="r"
        )
        == 2
    )
    with pytest.raises(RebaseNeeded):
        table.commit(
            [write(table, "a2", bars(["A"], [7]))], [a], base_version=0, scope=Scope(("A",)), run="s"
        )


def test_an_application_transaction_never_goes_back(table):
    make(table)
    table.commit(base_version=0, scope=Scope(("A",)), run="one", app={"daily": 9})
    with pytest.raises(RebaseNeeded, match="has daily at 9"):
        table.commit(base_version=0, scope=Scope(("B",)), run="two", app={"daily": 8})
    assert table.commit(base_version=0, scope=Scope(("B",)), run="two", app={"daily": 9}) == 2


def test_of_two_first_runs_both_land_or_one_says_why(lake):
    table = lake.table(SPEC)
    make(table, ["A"])
    other = write(table, "b", bars(["B"], [0]))
    with pytest.raises(ConflictError, match="run first"):
        table.commit([other], base_version=-1, scope=Scope(("B",)), run="b", properties=ANCHOR)
    disjoint = Lake(lake.uri + "/2", lake.aws).table(SPEC)
    assert commit_one(disjoint, "a", "A", -1) == "version 0"
    assert commit_one(disjoint, "b", "B", -1) == "version 1"
    with pytest.raises(PropertyMismatch, match=r"made with a=1; this run asks for a=2"):
        disjoint.commit(base_version=-1, scope=Scope(("C",)), run="c", properties={"fibflow.a": "2"})


def test_threads_commit_at_once(lake):
    runs = 6
    barrier = Barrier(runs)

    def one(number):
        table = lake.table(SPEC)
        barrier.wait()
        return commit_one(table, f"run{number}", f"S{number}", -1)

    with ThreadPoolExecutor(runs) as pool:
        outcomes = list(pool.map(one, range(runs)))
    assert sorted(outcomes) == [f"version {n}" for n in range(runs)]
    assert keys(lake.table(SPEC).snapshot().read()[0]) == [(f"S{n}", "5d", 0) for n in range(runs)]


def test_of_threads_that_write_the_same_rows_one_lands(lake):
    barrier = Barrier(4)

    def one(number):
        table = lake.table(SPEC)
        barrier.wait()
        return commit_one(table, f"run{number}", "A", -1)

    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(one, range(4)))
    assert sorted(outcomes) == ["conflict"] * 3 + ["version 0"]
    assert keys(lake.table(SPEC).snapshot().read()[0]) == [("A", "5d", 0)]


def start(lake, run, *symbols, env=None):
    return subprocess.Popen(
        [sys.executable, "-m", "fibflow.tests.io.lakes", lake.uri, run, *symbols],
        env={**os.environ, **(env or {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_processes_commit_at_once(tmp_path):
    lake = Lake(str(tmp_path / "lake"))
    per_run = 8
    processes = [start(lake, f"run{p}", *(f"S{p}-{i}" for i in range(per_run)), "SHARED") for p in range(3)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate()[0].split("\n")[:-1] for process in processes]
    landed = sorted(int(line.split()[1]) for lines in said for line in lines if line.startswith("version"))
    assert landed == list(range(len(landed)))
    assert all("conflict" not in lines[:-1] and "rebase" not in lines for lines in said)
    table = lake.table(SPEC)
    assert len(landed) == table.version + 1 == table.snapshot().rows


def test_a_commit_whose_answer_was_lost_is_found_again(table, monkeypatch):
    make(table)
    put = table.log.put

    def lossy(version, actions, token):
        put(version, actions, token)
        return False

    monkeypatch.setattr(table.log, "put", lossy)
    assert commit_at(table, 0) == 1
    assert table.version == 1


# --- kills ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("failpoint", "there"), [("before-commit", False), ("after-commit", True)])
@pytest.mark.parametrize("first", [True, False])
def test_a_killed_run_landed_whole_or_not_at_all(lake, request, failpoint, there, first):
    table = lake.table(SPEC)
    if not first:
        make(table)
    before = keys(table.snapshot().read()[0]) if not first else []
    env = request.getfixturevalue("s3").env if table.storage.is_s3 else {}
    process = start(lake, "killed", "K", env={**env, VARIABLE: failpoint})
    process.communicate("go\n")
    assert process.returncode == -signal.SIGKILL
    assert table.exists == (there or not first)
    after = keys(table.snapshot().read()[0]) if table.exists else []
    assert after == before + ([("K", "5d", 0)] if there else [])
    # The next run completes it, under the same name of file or another.
    outcome = commit_one(table, "killed-0" if not there else "next", "L", table.version)
    assert outcome.startswith("version")


def test_a_failpoint_can_wait_for_its_nth_hit(tmp_path):
    lake = Lake(str(tmp_path))
    process = start(lake, "killed", "A", "B", "C", env={VARIABLE: "before-commit:3"})
    said = process.communicate("go\n")[0].splitlines()
    assert said == ["ready", "version 0", "version 1"]
    assert process.returncode == -signal.SIGKILL


def test_what_a_kill_while_committing_leaves_is_not_read(table):
    make(table)
    log = Path(table.storage.uri) / "_delta_log"
    (log / f".{1:020d}.json.0123.tmp").write_text('{"add":{"pa')
    assert (table.version, table.snapshot().rows) == (0, 6)
    assert commit_at(table, 0) == 1


# --- versions -------------------------------------------------------------------------------------


def test_as_of_an_instant(tmp_path):
    now = [datetime(2024, 1, 1, tzinfo=UTC)]
    table = Lake(str(tmp_path), clock=lambda: now[0]).table(SPEC)
    make(table)
    for days in (1, 2):
        now[0] += timedelta(days=1)
        table.commit(
            [write(table, f"d{days}", bars([f"D{days}"], [0]))],
            base_version=days - 1,
            scope=EVERYTHING,
            run="r",
        )
    first = datetime(2024, 1, 1, tzinfo=UTC)
    assert table.snapshot(first).version == 0
    assert table.snapshot(first + timedelta(hours=25)).version == 1
    assert table.snapshot(first + timedelta(days=400)).version == 2
    with pytest.raises(LakeError, match="no version as old as 2023"):
        table.snapshot(datetime(2023, 1, 1, tzinfo=UTC))


def test_changes_between_versions(table):
    _, (a, b) = make(table)
    c, d, m, n = (write(table, name, bars([name.upper()], [0])) for name in "cdmn")
    table.commit([c], [a], base_version=0, scope=EVERYTHING, run="1")
    table.commit([d], [c], base_version=1, scope=EVERYTHING, run="2")
    table.commit([m], [b, d], base_version=2, scope=EVERYTHING, run="3", data_change=False)
    table.commit([n], [m], base_version=3, scope=EVERYTHING, run="4")

    def paths(*span):
        return tuple(
            [f.path.removeprefix("timeframe=5d/")[0] for f in files] for files in table.changes(*span)
        )

    assert paths(-1, 0) == (["A", "B"], [])
    assert paths(0, 1) == (["c"], ["A"])
    assert paths(0, 2) == (["d"], ["A"])
    assert paths(2, 3) == ([], [])
    assert paths(1) == (["d", "n"], ["c", "m"])
    assert paths(4) == ([], [])
    added, removed = table.changes(3)
    assert (added[0].rows, removed[0].rows, added[0].partition) == (1, 0, {"timeframe": "5d"})


# --- scopes ---------------------------------------------------------------------------------------

names = st.none() | st.lists(st.sampled_from("ABC"), max_size=3, unique=True).map(tuple)
dates = st.none() | st.integers(1, 6).map(lambda d: date(2024, 1, d))
scopes = st.builds(Scope, names, names, dates, dates)


def cells(scope):
    """Every (symbol, timeframe, day) that a scope covers, in a world where D is a name that no list has."""
    return {
        (s, t, d)
        for s in (scope.symbols if scope.symbols is not None else "ABCD")
        for t in (scope.timeframes if scope.timeframes is not None else "ABCD")
        for d in range(8)
        if (scope.start is None or d >= scope.start.day) and (scope.end is None or d <= scope.end.day)
    }


@given(scopes, scopes)
def test_scopes_that_share_a_cell_intersect(one, other):
    if cells(one) & cells(other):
        assert one.intersects(other)
    if not one.intersects(other):
        assert not cells(one) & cells(other)
    assert one.intersects(other) == other.intersects(one)
    assert Scope.from_json(one.to_json()).intersects(other) == one.intersects(other)


@pytest.mark.parametrize(
    ("scope", "text"),
    [
        (Scope(), "everything"),
        (Scope(("A", "B")), "A B"),
        (Scope(tuple("ABCDE"), ("5d", "3d")), "3d 5d of A B C and 2 more"),
        (Scope(None, ("5d",), date(2024, 1, 1)), "5d of 2024-01-01.."),
    ],
)
def test_scopes_in_words(scope, text):
    assert scope.describe() == text
