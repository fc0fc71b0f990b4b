"""Commits that follow the state: whatever crashes, a table holds the rows of one history of the job."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from fibflow.io import tables
from fibflow.io.failpoints import VARIABLE
from fibflow.io.lake import ConflictError, Lake, LakeError, PropertyMismatch, Scope
from fibflow.io.streamcommit import WAKE, CommitFiles, StreamCommit
from fibflow.io.streamtables import (
    STREAM,
    STREAM_TABLES,
    StreamJob,
    check_start,
    content_of,
    decode_file,
    encode_file,
    next_start,
    writing_job,
)
from fibflow.tests.io.streams import (
    JOB,
    Cell,
    Clock,
    Run,
    State,
    Timer,
    Value,
    log,
    read,
    restarted,
    rows_of,
    started,
    stored,
    write,
)

TICKS, LIVE, LATE, DEAD = (spec.name for spec in STREAM_TABLES)


@pytest.fixture
def lake(tmp_path):
    return Lake(str(tmp_path), clock=Clock())


# --- one run ---------------------------------------------------------------------------------------


def test_files_become_visible_and_commits_are_counted(anywhere):
    run = Run(anywhere, LIVE, JOB, tag=1)
    assert run.commit() is None
    for count in (3, 2):
        run.write(count)
    assert not anywhere.table(tables.LIVE).exists
    assert run.commit() == 0
    run.write(1)
    assert run.commit() == 1
    assert run.commit() is None
    assert run.state.number == 2
    assert stored(anywhere, LIVE) == [(number, 1) for number in range(6)]
    table = anywhere.table(tables.LIVE)
    assert table.app_version("live/silver.live") == 2
    last = table.history(1)[0]
    assert (last["fibflow.run"], last["fibflow.job"]) == ("run1", "live")
    assert last["fibflow.newest"] == "2024-03-11T14:55:00.000000Z"
    assert writing_job(anywhere) == JOB
    assert next_start(anywhere) == 2


def test_the_table_says_what_it_is_and_is_asked(lake):
    basis = {tables.PRICE_BASIS: "raw"}
    files = write(lake, LIVE, rows_of(LIVE, [1]), "a")
    StreamCommit(lake, LIVE, JOB, basis).commit(0, files)
    properties = lake.table(tables.LIVE).properties
    assert properties == {STREAM: JOB.to_property(), **basis}
    configuration = lake.table(tables.LIVE).open().metadata().configuration
    assert configuration["delta.logRetentionDuration"] == "interval 7 days"
    other = StreamCommit(lake, LIVE, JOB, {tables.PRICE_BASIS: "split-adjusted"})
    with pytest.raises(PropertyMismatch, match="price_basis=raw"):
        other.commit(1, [])
    # One that it does not have yet is added; retention that a person has set stays.
    lake.table(tables.LIVE).open().alter.set_table_properties(
        {"delta.logRetentionDuration": "interval 60 days"}
    )
    StreamCommit(lake, LIVE, JOB, {**basis, tables.CALENDAR: "XNYS"}).commit(1, [])
    configuration = lake.table(tables.LIVE).open().metadata().configuration
    assert configuration[tables.CALENDAR] == "XNYS"
    assert configuration["delta.logRetentionDuration"] == "interval 60 days"


# --- restores --------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", [LIVE, LATE, DEAD])
def test_commits_that_the_state_does_not_know_are_taken_back(anywhere, table):
    run = started(anywhere, table, commits=2)
    run.write(1)
    kept = run.state
    for _ in range(2):
        run.write(2)
        run.commit()
    again = restarted(run, kept)
    again.write(4)
    again.commit()
    assert stored(anywhere, table) == sorted(again.state.made)
    assert again.state.number == 5
    entry = log(anywhere, table)[-1]
    # What waited in the restored state stays where it is: it was committed by a run that was lost.
    assert len(entry.of("remove")) == 2
    waited = {file.path for file in kept.pending}
    assert waited.isdisjoint(file.path for file in (*entry.files("add"), *entry.files("remove")))
    again.write(1)
    again.commit()
    assert stored(anywhere, table) == sorted(again.state.made)


def test_the_take_back_does_not_wait_for_new_files(lake):
    run = started(lake)
    kept = run.state
    run.write(3)
    run.commit()
    again = restarted(run, kept)
    assert again.commit() == 2
    assert stored(lake, LIVE) == sorted(kept.made)
    assert again.state.number == 3
    assert again.commit() is None


def test_a_restore_that_changes_nothing_still_shows_in_the_log(lake):
    """Else an older run that still writes would not see that it is not alone."""
    run = started(lake)
    run.write(2)
    kept = run.state
    run.commit()
    again = restarted(run, kept)
    assert again.commit() == 2
    assert log(lake)[-1].of("add") == []
    run.write(1)
    with pytest.raises(ConflictError, match="another run of live has written silver"):
        run.commit()
    assert stored(lake, LIVE) == sorted(again.state.made)


def test_a_rewind_to_a_branch_that_was_left_brings_its_files_back(lake):
    run = started(lake, commits=1)
    older = run.state
    run.write(2)
    run.commit()
    savepoint = run.state
    run.write(2)
    run.commit()
    again = restarted(run, older)
    again.write(5)
    again.commit()
    third = restarted(run, savepoint, tag=3)
    third.write(1)
    third.commit()
    assert stored(lake, LIVE) == sorted(third.state.made)
    # In the order of the commits that first brought them.
    stamps = {file.path: file.modified for file in lake.table(tables.LIVE).snapshot().select()}
    names = sorted(stamps, key=lambda path: stamps[path])
    assert [Path(name).name.split("-")[:2] for name in names] == [["1", "0"], ["1", "2"], ["3", "4"]]
    statistics = lake.table(tables.LIVE).snapshot().files["min.symbol"].null_count
    assert statistics == 0


def test_ticks_are_never_taken_back_and_read_once(anywhere):
    run = started(anywhere, TICKS, commits=2)
    run.write(3)
    kept = run.state
    run.write(3)
    run.commit()
    again = restarted(run, kept)
    again.write(2)
    again.commit()
    raw = [number for number, _ in stored(anywhere, TICKS)]
    assert raw == [0, 1, 2, 3, 4, 5, 6, 7, 7, 8, 8, 9]
    assert read(anywhere) == list(range(10))
    # Without files that wait nothing is looked for, and the run still says that it is there.
    third = restarted(run, State(4, 2), tag=3)
    assert third.commit() == 4
    assert third.state.number == 5


def test_files_of_others_are_not_taken_back(lake):
    run = started(lake, DEAD)
    kept = run.state
    run.write(1)
    run.commit()
    table = lake.table(tables.DEAD_LETTERS)
    (file,) = write(lake, DEAD, rows_of(DEAD, [100], tag=9), "batch")
    table.commit([file], base_version=table.version, scope=Scope(symbols=()), run="batch")
    again = restarted(run, kept)
    again.commit()
    assert stored(lake, DEAD) == [*sorted(kept.made), (100, 9)]


def test_rows_that_were_deleted_meanwhile_do_not_come_back(lake):
    run = started(lake)
    kept = run.state
    run.write(2)
    run.commit()
    table = lake.table(tables.LIVE)
    table.commit([], table.snapshot().select(), base_version=1, scope=Scope(), run="retention")
    again = restarted(run, kept)
    again.commit()
    assert stored(lake, LIVE) == []


def test_appends_do_not_conflict_with_those_of_batch(lake):
    table = lake.table(tables.DEAD_LETTERS)
    run = started(lake, DEAD)
    base = table.version
    run.write(1)
    run.commit()
    (file,) = write(lake, DEAD, rows_of(DEAD, [100]), "batch")
    assert table.commit([file], base_version=base, scope=Scope(symbols=()), run="batch") == 2


# --- kills -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("hits", [1, 2])
@pytest.mark.parametrize(("failpoint", "there"), [("before-commit", False), ("after-commit", True)])
def test_a_killed_commit_landed_whole_or_not_at_all(anywhere, request, failpoint, there, hits):
    env = request.getfixturevalue("s3").env if anywhere.table(tables.LIVE).storage.is_s3 else {}
    process = subprocess.run(
        [sys.executable, "-m", "fibflow.tests.io.streams", anywhere.uri, LIVE, "3", "2"],
        env={**os.environ, **env, VARIABLE: f"{failpoint}:{hits}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == -signal.SIGKILL
    assert process.stdout.split() == ["0"][: hits - 1]
    landed = hits - 1 + there
    assert anywhere.table(tables.LIVE).version == landed - 1
    # No checkpoint was made: it starts anew, and so does the source.
    again = Run(anywhere, LIVE, JOB, tag=2)
    again.write(7)
    again.commit()
    assert stored(anywhere, LIVE) == sorted(again.state.made)
    assert again.state.number == landed + 1


# --- who writes ------------------------------------------------------------------------------------


def test_a_run_that_was_replaced_has_to_stop(lake):
    run = started(lake)
    kept = run.state
    run.write(1)
    again = restarted(run, kept)
    again.write(2)
    again.commit()
    with pytest.raises(ConflictError, match=r"\(commit 2 after 1\): this one must stop"):
        run.commit()
    assert stored(lake, LIVE) == sorted(again.state.made)


def test_a_later_start_of_the_job_fences_the_earlier_one_at_once(lake):
    run = started(lake)
    later = replace(JOB, start=2, run="run2")
    again = restarted(run, run.state, job=later)
    # Nothing waits and nothing is ahead: the commit only says who writes.
    assert again.commit() == 1
    for attempt in (run, restarted(run, run.state, tag=3)):
        attempt.write(1)
        with pytest.raises(ConflictError, match=r"a later start of the job live \(run run2\): this one must"):
            attempt.commit()
    twin = restarted(run, run.state, job=replace(later, run="twin"))
    with pytest.raises(ConflictError, match="a later start of the job live"):
        twin.commit()
    with pytest.raises(ConflictError, match="a later start"):
        check_start(lake, JOB, written=0)


def test_another_job_is_refused_until_it_is_told_to_replace_the_first(lake):
    run = started(lake)
    other = StreamJob("other", 2, "run2")
    attempt = Run(lake, LIVE, other, tag=2)
    attempt.write(1)
    with pytest.raises(ConflictError) as caught:
        attempt.commit()
    assert str(caught.value) == (
        f"silver.live at {lake.uri}/silver.live is written by the job live (run run1): "
        "stop it and let other replace it, or use another lake"
    )
    with pytest.raises(ConflictError, match="written by the job live"):
        check_start(lake, other, written=None)
    heir = replace(other, replaces="live", start=next_start(lake))
    check_start(lake, heir, written=None)
    again = Run(lake, LIVE, heir, tag=2)
    again.write(1)
    assert again.commit() == 1
    # What the first job wrote stays.
    assert stored(lake, LIVE) == [(0, 1), (0, 2), (1, 1)]
    run.write(1)
    with pytest.raises(ConflictError, match="written by the job other"):
        run.commit()


def test_a_start_without_a_state_does_not_take_back_what_earlier_starts_wrote(lake):
    run = started(lake)
    later = replace(JOB, start=2, run="run2")
    fresh = Run(lake, LIVE, later, 2, State(began=2))
    with pytest.raises(LakeError, match="holds 1 commits of live, and this start has no state that knows"):
        fresh.commit()
    with pytest.raises(LakeError, match="has no state that knows"):
        check_start(lake, later, written=None)
    check_start(lake, later, written=0)
    assert stored(lake, LIVE) == sorted(run.state.made)
    # A savepoint from before the first commit is a state, and so is a crash before the first checkpoint.
    for began, job in ((1, later), (2, later)):
        again = Run(lake, LIVE, job, 2, State(began=began))
        again.commit()
        assert stored(lake, LIVE) == []


def test_a_state_of_another_lake_is_refused(lake):
    run = started(lake)
    with pytest.raises(LakeError, match="has commits of live up to 1, this savepoint knows 7"):
        restarted(run, replace(run.state, number=7)).commit()
    with pytest.raises(LakeError, match="has commits of live up to 0, this savepoint knows 7"):
        Run(lake, LATE, JOB, 2, State(number=7)).commit()
    assert next_start(Lake(lake.uri + "/elsewhere")) == 1


def test_numbers_that_the_table_never_gave_are_refused(lake):
    run = started(lake)
    table = lake.table(tables.LIVE)
    table.commit(
        base_version=0, scope=Scope(), run="x", app={"live/silver.live": 5}, properties={}, exact=True
    )
    with pytest.raises(LakeError, match="never had commit 3 of live/silver"):
        restarted(run, replace(run.state, number=3)).commit()


# --- Beam ------------------------------------------------------------------------------------------


class Key:
    """What a runner keeps of one key of ``CommitFiles``."""

    def __init__(self, function, table, now):
        self.function, self.table, self.now = function, table, now
        self.files, self.count, self.due, self.end = Cell(), Value(), Timer(), Timer()
        function.setup()

    def process(self, descriptor, stamp=0):
        self.function.process((self.table, descriptor), self.files, self.count, self.due, self.end, stamp)

    def fire(self):
        """The timer fires when it is due."""
        self.now[0], self.due.at = self.due.at, None
        return list(self.function.on_due(self.table, self.files, self.count, self.due))


def key_of(lake, table=LIVE, now=None, job=JOB, **options):
    now = [1_000.0] if now is None else now
    return Key(CommitFiles(lake, job, clock=lambda: now[0], **options), table, now)


def described(lake, numbers, name):
    (file,) = write(lake, LIVE, rows_of(LIVE, numbers, 1), name)
    return encode_file(file)


def test_the_timer_is_set_once_and_again_each_time_that_it_fires(lake):
    key = key_of(lake, every=4.0)
    for number in range(3):
        key.process(described(lake, [number], f"f{number}"))
        key.now[0] += 1
    assert key.due.at == 1_004.0
    assert key.end.at > 1e12
    assert key.fire() == [(LIVE, 0)]
    assert key.files.read() == []
    assert key.due.at == 1_008.0
    # Nothing waits: it only stays awake.
    assert key.fire() == []
    assert key.due.at == 1_012.0
    assert stored(lake, LIVE) == [(0, 1), (1, 1), (2, 1)]


def test_a_restored_key_goes_back_without_a_new_file(lake):
    key = key_of(lake)
    key.process(described(lake, [0], "a"))
    key.fire()
    cells, due = (list(key.files.values), list(key.count.values)), key.due.at
    key.process(described(lake, [1], "b"))
    key.fire()
    again = key_of(lake)
    (again.files.values, again.count.values), again.due.at = cells, due
    assert again.fire() == [(LIVE, 2)]
    assert stored(lake, LIVE) == [(0, 1)]


def test_a_table_can_be_woken_before_its_first_file(lake):
    key = key_of(lake)
    key.process(WAKE)
    assert key.fire() == []
    assert not lake.table(tables.LIVE).exists
    assert key.due.at is not None


def test_a_fresh_start_is_known_by_its_cell(lake):
    key = key_of(lake)
    key.process(described(lake, [0], "a"))
    key.fire()
    later = key_of(lake, job=replace(JOB, start=2, run="run2"))
    later.process(WAKE)
    with pytest.raises(LakeError, match="has no state that knows"):
        later.fire()


def test_a_timer_that_fires_before_its_time_is_the_end_of_the_input(lake):
    key = key_of(lake)
    key.process(described(lake, [0], "a"))
    assert list(key.function.on_due(LIVE, key.files, key.count, key.due)) == [(LIVE, 0)]
    key.due.at = None
    # A runner may fire the timer of a cleared key once more.
    assert list(key.function.on_due(LIVE, key.files, key.count, key.due)) == []
    assert key.due.at is None


def test_a_drain_commits_what_waits_and_stops_the_timer(lake):
    key = key_of(lake)
    key.process(described(lake, [0], "a"))
    assert list(key.function.on_end(LIVE, key.files, key.count, key.due)) == [(LIVE, 0)]
    assert key.due.at is None
    # What a drain wrote before this step's own comes with the last timestamp.
    other = key_of(lake)
    other.process(described(lake, [1], "b"), stamp=key.end.at)
    assert other.due.at is None


def test_state_of_another_format_is_one_line(lake):
    file = write(lake, LIVE, rows_of(LIVE, [1]), "a")[0]
    assert decode_file(encode_file(file)) == file
    for cell in (b"", b"\x02x"):
        with pytest.raises(LakeError, match="start the savepoint with the release that made it"):
            content_of(cell)


def test_a_pipeline_commits_its_files(lake, tmp_path):
    lake = Lake(str(tmp_path / "of beam"))
    files = [(LIVE, described(lake, [number], f"f{number}")) for number in range(4)]
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        _ = (
            pipeline
            | beam.Create([*files, (LIVE, WAKE), (LATE, WAKE)]).with_output_types(tuple[str, bytes])
            | beam.ParDo(CommitFiles(lake, JOB, {LIVE: {tables.PRICE_BASIS: "raw"}}))
        )
    assert stored(lake, LIVE) == [(number, 1) for number in range(4)]
    assert lake.table(tables.LIVE).properties[tables.PRICE_BASIS] == "raw"
    assert not lake.table(tables.LATE).exists
    result = pipeline.result.metrics().query()
    counted = {metric.key.metric.name: metric.committed for metric in result["counters"]}
    assert counted[f"rows_committed.{LIVE}"] == 4
    assert counted[f"files_committed.{LIVE}"] == 4
    assert counted[f"commits.{LIVE}"] >= 1
