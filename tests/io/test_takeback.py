"""Going back: through compaction, expired logs and vacuum, and in any schedule of crashes and rewinds."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from deltalake import DeltaTable
from hypothesis import event, given, settings
from hypothesis import strategies as st

from fibflow.io import tables
from fibflow.io.lake import ConflictError, Lake, LakeError
from fibflow.io.maintenance import compact, vacuum
from fibflow.io.streamtables import STREAM_TABLES, check_start
from fibflow.tests.io.streams import JOB, Clock, Run, State, expire, log, read, restarted, started, stored

TICKS, LIVE, LATE, DEAD = (spec.name for spec in STREAM_TABLES)
NEVER_APART = timedelta(0)


@pytest.fixture
def lake(tmp_path):
    return Lake(str(tmp_path), clock=Clock())


# --- upkeep ----------------------------------------------------------------------------------------


def test_compaction_leaves_young_files_apart_and_says_how_far_it_went(lake):
    run = started(lake, commits=3)
    kept = run.state
    bound = lake.clock()
    for _ in range(2):
        run.write(2)
        run.commit()
    table = lake.table(tables.LIVE)
    done = compact(table, 1_000, "c", keep_apart=lake.clock() - bound + timedelta(seconds=1))
    assert (done.files_before, done.files_after) == (3, 1)
    info = table.log.read(done.version).info
    assert info["fibflow.compacted"] == {"live/silver.live": 3}
    again = restarted(run, kept)
    again.commit()
    assert stored(lake, LIVE) == sorted(kept.made)
    # A day is kept apart by default.
    assert compact(table, 1_000, "d").version is None


def test_a_savepoint_older_than_what_was_compacted_is_refused(lake):
    run = started(lake, commits=2)
    kept = run.state
    run.write(2)
    run.commit()
    compact(lake.table(tables.LIVE), 1_000, "c", keep_apart=NEVER_APART)
    before = stored(lake, LIVE)
    with pytest.raises(LakeError) as caught:
        restarted(run, kept).commit()
    assert str(caught.value).startswith(
        f"silver.live at {lake.uri}/silver.live was compacted through commit 3 of live/silver.live, and "
        "this savepoint knows its commits up to 2 only: start from a savepoint taken after 2024-03-11T14:3"
    )
    assert stored(lake, LIVE) == before
    run.write(1)
    run.commit()
    assert stored(lake, LIVE) == sorted(run.state.made)


def test_a_savepoint_older_than_what_was_compacted_is_refused_before_the_job_starts(lake):
    run = started(lake, commits=2)
    kept, written = run.state, micros(lake.clock())
    run.write(2)
    run.commit()
    later = replace(JOB, start=2, run="run2")
    check_start(lake, later, written)
    table = lake.table(tables.LIVE)
    compact(table, 1_000, "c", keep_apart=NEVER_APART)
    with pytest.raises(
        LakeError, match=r"compacted through commit 3 .*savepoint is older than commit 3: start"
    ):
        check_start(lake, later, written)
    check_start(lake, later, micros(lake.clock()))
    # The commit itself says no less.
    with pytest.raises(LakeError, match="compacted through commit 3"):
        restarted(run, kept).commit()


def micros(instant):
    return round(instant.timestamp() * 1_000_000)


def test_files_that_wait_in_the_state_may_have_been_compacted(lake):
    run = started(lake)
    run.write(2)
    kept = run.state
    run.commit()
    compact(lake.table(tables.LIVE), 1_000, "c", keep_apart=NEVER_APART)
    again = restarted(run, kept)
    again.write(1)
    again.commit()
    assert stored(lake, LIVE) == sorted(again.state.made)


@pytest.mark.parametrize("name", [TICKS, LIVE])
def test_a_table_that_was_set_back_gets_what_waited_in_the_state(lake, name):
    """As a restore does it: to the version of a savepoint, of which files had been committed since."""
    run = started(lake, name, commits=2)
    run.write(2)
    kept, version = run.state, lake.table(tables.TABLES[name]).version
    for _ in range(2):
        run.commit()
        run.write(1)
    at = str(Path(lake.uri) / name)
    DeltaTable(at).delete()
    DeltaTable(at).restore(version)
    again = restarted(run, kept)
    again.write(1)
    again.commit()
    assert stored(lake, name) == sorted(again.state.made)


def test_ticks_are_compacted_at_any_age(lake):
    run = started(lake, TICKS, commits=2)
    kept = run.state
    run.write(2)
    waiting = run.state
    run.commit()
    assert compact(lake.table(tables.TICKS), 1_000, "c").files_before == 3
    for state in (kept, waiting):
        again = restarted(run, state)
        again.write(2)
        again.commit()
    assert read(lake) == list(range(8))


def test_a_third_partys_compaction_is_told_by_its_version(lake):
    run = started(lake)
    kept = run.state
    run.write(2)
    run.commit()
    lake.table(tables.LIVE).open().optimize.compact()
    with pytest.raises(LakeError, match=r"was compacted of live.*newer than version 2"):
        restarted(run, kept).commit()


def test_a_state_older_than_the_log_is_refused(lake):
    run = started(lake, commits=2)
    kept = run.state
    for _ in range(10):
        run.write(1)
        run.commit()
    expire(lake, LIVE, *range(5))
    with pytest.raises(LakeError, match="no longer reaches back to commit 2"):
        restarted(run, kept).commit()
    # Who writes goes on.
    run.write(1)
    run.commit()
    assert stored(lake, LIVE) == sorted(run.state.made)


def test_a_branch_whose_files_the_log_forgot_is_refused(lake):
    run = started(lake, commits=1)
    older = run.state
    for _ in range(2):
        run.write(2)
        run.commit()
    savepoint = run.state
    again = restarted(run, older)
    for _ in range(9):
        again.write(1)
        again.commit()
    # The log reaches the savepoint's last commit, and not the one before, whose file is gone too.
    expire(lake, LIVE, 0, 1)
    with pytest.raises(LakeError, match="no longer reaches back to commit 3"):
        restarted(run, savepoint).commit()


def test_ticks_go_by_what_the_log_still_holds(lake):
    run = started(lake, TICKS, commits=2)
    run.write(2)
    kept = run.state
    for _ in range(10):
        run.commit()
        run.write(1)
    expire(lake, TICKS, *range(4))
    again = restarted(run, kept)
    again.write(9)
    again.commit()
    assert read(lake) == list(range(15))


def test_vacuum_expires_the_log_of_a_stream_after_its_retention(lake):
    run = started(lake, commits=22, rows=1)
    folder = Path(lake.table(tables.LIVE).storage.uri) / "_delta_log"
    for days, versions in ((9, range(13)), (3, range(13, 22))):
        old = (datetime.now(UTC) - timedelta(days=days)).timestamp()
        for version in versions:
            for path in folder.glob(f"{version:020d}.*"):
                os.utime(path, (old, old))
    vacuum(lake.table(tables.LIVE), datetime.now(UTC), dry_run=False)
    # What a checkpoint of that age stands for.
    assert sorted(int(path.stem) for path in folder.glob("*.json")) == list(range(10, 22))
    run.write(1)
    assert run.commit() == 22
    again = restarted(run, run.state)
    again.write(1)
    again.commit()
    assert stored(lake, LIVE) == sorted(again.state.made)


def test_files_that_vacuum_took_are_told_of(lake):
    run = started(lake)
    run.write(2)
    lost = run.state
    older = restarted(run, State(2, 1, made=lost.made[:2]))
    vacuum(lake.table(tables.LIVE), datetime.now(UTC) + timedelta(days=40), dry_run=False)
    with pytest.raises(LakeError, match=r"1 files of silver\.live that this savepoint waits to commit"):
        restarted(run, lost).commit()
    older.write(1)
    older.commit()
    assert stored(lake, LIVE) == sorted(older.state.made)


# --- any schedule ----------------------------------------------------------------------------------

WORK = st.tuples(st.just("work"), st.tuples(st.integers(0, 2), st.booleans(), st.booleans()))
STEPS = st.one_of(
    WORK,
    WORK,
    st.tuples(st.just("rewind"), st.integers(0, 5)),
    st.sampled_from([("crash", 0), ("zombie_commits", 0), ("compact", 0)]),
)


@dataclass
class World:
    """A job, its checkpoints, and a lake."""

    lake: Lake
    table: str
    tags: int = 1
    zombie: Run | None = None
    #: (when, state), oldest first.
    checkpoints: list[tuple[datetime, State]] = field(default_factory=list)
    landed: set[int] = field(default_factory=set)

    def __post_init__(self):
        self.origin = State()
        self.run = Run(self.lake, self.table, JOB, 1)

    def work(self, parts):
        count, commits, is_kept = parts
        if count:
            self.run.write(count)
        if commits:
            self.commit()
        if is_kept:
            self.checkpoints.append((self.lake.clock(), self.run.state))
            self.origin = self.run.state

    def commit(self, _=0):
        known = self.landed | {number for number, _ in self.run.state.made}
        try:
            version = self.run.commit()
        except ConflictError:
            # Another run got ahead before this one had committed; the runner starts it again.
            event("fenced")
            self.crash(0)
            return
        except LakeError as error:
            # It was started from a checkpoint older than what was merged.
            if "was compacted" not in str(error) or self.run.state.number >= self.compacted():
                raise
            event("compacted")
            self.rewind(len(self.checkpoints) - 1)
            return
        if version is not None:
            self.landed = known
            self.check()

    def check(self):
        if self.table == TICKS:
            assert read(self.lake) == sorted(self.landed)
        else:
            assert stored(self.lake, self.table) == sorted(self.run.state.made)

    def compacted(self):
        entries = log(self.lake, self.table)
        return max(entry.info.get("fibflow.compacted", {}).get(f"live/{self.table}", 0) for entry in entries)

    def crash(self, _):
        self.restart(self.origin, self.run.job)

    def rewind(self, which):
        if self.checkpoints:
            job = replace(JOB, start=self.run.job.start + 1, run=f"run{self.tags + 1}")
            self.origin = self.checkpoints[which % len(self.checkpoints)][1]
            self.restart(self.origin, job)

    def restart(self, state, job):
        self.zombie, self.tags = self.run, self.tags + 1
        self.run = Run(self.lake, self.table, job, self.tags, state)

    def zombie_commits(self, _):
        zombie, self.zombie = self.zombie, None
        if zombie is None:
            return
        zombie.write(1)
        try:
            zombie.commit()
        except LakeError:
            event("zombie stopped")
            return
        event("zombie landed")
        self.landed |= {number for number, _ in zombie.state.made}

    def compact(self, _):
        table = self.lake.table(tables.TABLES[self.table])
        if not self.checkpoints or not table.exists:
            return
        # The newest checkpoint can always be gone back to.
        newest = self.checkpoints[-1][0]
        compact(
            table, 1_000, self.lake.new_id(), keep_apart=self.lake.clock() + timedelta(seconds=1) - newest
        )
        if self.landed and self.table == TICKS:
            self.check()


@settings(max_examples=120, deadline=None)
@given(st.sampled_from([LIVE, TICKS]), st.lists(STEPS, min_size=6, max_size=18))
def test_any_schedule_leaves_the_rows_of_one_history(table, steps):
    with tempfile.TemporaryDirectory() as folder:
        world = World(Lake(folder, clock=Clock()), table)
        for name, value in steps:
            getattr(world, name)(value)
        world.run.write(1)
        for _ in range(3):
            world.commit()
