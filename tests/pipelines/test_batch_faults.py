"""Runs that are killed, and runs at once: what they leave, and how the next one goes on."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fibflow.io import maintenance, tables
from fibflow.io.failpoints import VARIABLE
from fibflow.io.lake import Scope
from fibflow.pipelines import job, publish
from fibflow.pipelines.graph import run_bars
from fibflow.tests.pipelines.lakes import (
    NEXT,
    ROWS,
    Silver,
    World,
    command,
    daily_bars,
    files_in,
)
from fibflow.tests.pipelines.raws import FAST, Bronze, Raw, rows_of

NAMES = "3d,34d"
ASKED = ("--timeframes", NAMES)
#: At how many random moments a run is killed.
KILLS = int(os.environ.get("FIBFLOW_KILLS", "6"))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return World.make(tmp_path_factory.mktemp("base"), *ASKED)


@pytest.fixture
def world(base, tmp_path):
    return base.copy(tmp_path)


# Kills -----------------------------------------------------------------------------------------------------


class Killable:
    """A lake whose next run has something to do, and what it holds before and after that run."""

    def __init__(self, world):
        new = [*rows_of("A", NEXT[:3], 70.0), *rows_of("B", NEXT[:2], 270.0)]
        old = [row for row in ROWS if row.symbol == "A"]
        corrected = [*old[:20], old[20]._replace(value=66.0), *old[21:]]
        world.put_all("days", new)
        world.put(corrected)
        world.land()
        self.world = world
        self.before = daily_bars(ROWS, NAMES)
        self.after = daily_bars([*corrected, *ROWS[len(old) :], *new], NAMES)

    def start(self, folder, lake, *options, **env):
        """Begin a run in a process of its own, whose temporary files are in ``folder``."""
        folder.mkdir()
        return subprocess.Popen(
            command("batch", "--lake", lake.uri, *FAST, *ASKED, *options),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"TMPDIR": str(folder)} | env,
        )

    def check(self, lake):
        """What a killed run left is one of the two; the next run completes it; orphans go."""
        found = lake.content()
        assert found in (self.before, self.after)
        lake.batch(*ASKED)
        assert lake.content() == self.after
        assert not [name for name in files_in(lake.uri) if "lock" in name]
        later = datetime.now(UTC) + timedelta(days=1)
        maintenance.vacuum(lake.table, later, retention_hours=0, dry_run=False)
        on_disk = {name for name in files_in(lake.table.storage.base) if name.endswith(".parquet")}
        assert {name for name in on_disk if "_delta_log" not in name} == lake.table.snapshot().paths
        assert lake.content() == self.after
        return found == self.after


@pytest.fixture(scope="module")
def killable(base, tmp_path_factory):
    return Killable(base.copy(tmp_path_factory.mktemp("killable")))


@pytest.mark.parametrize(
    ("failpoint", "landed"), [("after-files", False), ("before-commit", False), ("after-commit", True)]
)
def test_a_run_that_is_killed_at_a_named_point(failpoint, landed, killable, tmp_path):
    lake = killable.world.lake.copy(tmp_path / "lake")
    process = killable.start(tmp_path / "temporary", lake, **{VARIABLE: failpoint})
    assert process.wait() == -signal.SIGKILL
    assert killable.check(lake) == landed


def test_a_first_run_that_is_killed_leaves_no_table(killable, tmp_path):
    lake = killable.world.lake.copy(tmp_path / "lake")
    shutil.rmtree(lake.table.storage.base)
    process = killable.start(tmp_path / "temporary", lake, **{VARIABLE: "after-files"})
    assert process.wait() == -signal.SIGKILL
    assert not lake.table.exists
    assert list(Path(lake.table.storage.base).rglob("*.parquet"))
    lake.batch(*ASKED)
    assert lake.content() == killable.after
    assert lake.version == 0


def test_a_raw_run_that_is_killed_refuses_the_same_rows_once(base, tmp_path):
    raw = Raw(tmp_path / "raw")
    raw.put("symbol=A/data.parquet", [row._replace(value=-1.0) for row in ROWS[:3]] + ROWS[3:60])
    lake = Silver(str(tmp_path / "lake"))
    options = ("--input", str(raw), "--price-basis", "raw", *ASKED)
    # The first commit is that of the refused rows.
    for number, failpoint in enumerate(("before-commit", "after-commit", "before-commit")):
        (tmp_path / str(number)).mkdir()
        process = subprocess.run(
            command("batch", "--lake", lake.uri, *FAST, *options),
            capture_output=True,
            check=False,
            env=os.environ | {"TMPDIR": str(tmp_path / str(number)), VARIABLE: failpoint},
        )
        assert process.returncode == -signal.SIGKILL
        assert not lake.table.exists
    lake.batch(*options)
    assert len(Bronze(lake.uri).dead()) == 3


def files_under(*folders):
    return sum(len(names) for folder in folders for _, _, names in os.walk(folder))


def test_runs_that_are_killed_at_random_moments(killable, tmp_path):
    """A moment is when the run has made its n-th file, wherever."""
    numbers = random.Random(20)
    landed = []
    for number in range(KILLS):
        lake = killable.world.lake.copy(tmp_path / f"lake-{number}")
        temporary = tmp_path / f"temporary-{number}"
        held = files_under(lake.uri)
        # A run makes so many files, of which some are temporary.
        options, most = (["--full-refresh"], 9) if number % 3 == 2 else ([], 16)
        process = killable.start(temporary, lake, *options)
        moment = numbers.randrange(1, most + 1)
        while process.poll() is None and files_under(temporary, lake.uri) < held + moment:
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.001)
        process.kill()
        process.wait()
        landed.append(killable.check(lake))
    assert len(landed) == KILLS


# At once ---------------------------------------------------------------------------------------------------


def meanwhile(monkeypatch, other, moment="files"):
    """Let another run land when the first one has begun, or when it has made its files."""
    waiting = [other]

    def now(name):
        if name == "after-files" and waiting:
            waiting.pop()()

    def begin(*arguments):
        if waiting:
            waiting.pop()()
        return run_bars(*arguments)

    if moment == "files":
        monkeypatch.setattr(publish, "hit", now)
    else:
        monkeypatch.setattr(job, "run_bars", begin)


MOMENTS = pytest.mark.parametrize("moment", ["begun", "files"])


@MOMENTS
@pytest.mark.parametrize("first", [True, False], ids=["first runs", "later runs"])
def test_runs_of_other_symbols_both_land(first, moment, killable, tmp_path, monkeypatch):
    lake = killable.world.lake.copy(tmp_path / "lake")
    if first:
        shutil.rmtree(lake.table.storage.base)
    meanwhile(monkeypatch, lambda: lake.batch(*ASKED, "--symbols", "B,Z"), moment)
    lake.batch(*ASKED, "--symbols", "A")
    assert lake.content() == killable.after
    assert not [name for name in files_in(lake.uri) if "lock" in name]


def test_runs_of_other_timeframes_both_land(killable, tmp_path, monkeypatch):
    lake = killable.world.lake.copy(tmp_path / "lake")
    meanwhile(monkeypatch, lambda: lake.batch("--timeframes", "34d"))
    lake.batch("--timeframes", "3d")
    assert lake.content() == killable.after


@pytest.mark.parametrize(
    ("first", "moment", "options"),
    [
        (True, "begun", ()),
        (True, "files", ("--symbols", "A,B")),
        (False, "begun", ("--full-refresh",)),
        (False, "begun", ("--symbols", "A,B")),
        (False, "files", ()),
    ],
    ids=str,
)
def test_of_runs_of_the_same_symbols_one_lands(moment, first, options, killable, tmp_path, monkeypatch):
    lake = killable.world.lake.copy(tmp_path / "lake")
    if first:
        shutil.rmtree(lake.table.storage.base)
    versions = []

    def other():
        lake.batch(*ASKED)
        versions.append(lake.version)

    meanwhile(monkeypatch, other, moment)
    failed = lake.fail(*ASKED, *options)
    assert failed.code == 1
    (line,) = failed.lines
    assert "another run wrote silver.bars at the same time" in line
    assert "run again" in line
    assert [lake.version] == versions
    assert lake.content() == killable.after
    lake.batch(*ASKED, *options)
    assert lake.content() == killable.after


@MOMENTS
def test_a_run_that_began_with_older_data_does_not_land_over_newer(moment, killable, tmp_path, monkeypatch):
    lake = killable.world.lake.copy(tmp_path / "lake")
    newer = rows_of("B", NEXT[2:4], 400.0)

    def other():
        files = Raw(tmp_path / "more", killable.world.raw.clock)
        files.put("more.parquet", newer)
        Bronze(lake.uri).load(files)
        lake.batch(*ASKED)

    meanwhile(monkeypatch, other, moment)
    assert lake.fail(*ASKED).code == 1
    held = lake.bars()
    lake.batch(*ASKED)
    assert lake.bars() == held


def test_compaction_meanwhile_is_no_conflict(killable, tmp_path, monkeypatch):
    lake = killable.world.lake.copy(tmp_path / "lake")
    lake.batch(*ASKED)
    version = lake.version

    def other():
        maintenance.compact(lake.table, target_rows=10_000, run="compaction")
        assert lake.version == version + 1

    more = Raw(tmp_path / "more", killable.world.raw.clock)
    old = [row for row in ROWS if row.symbol == "Z"]
    more.put("symbol=Z/more.parquet", [old[3]._replace(value=4000.0)])
    Bronze(lake.uri).load(more)
    meanwhile(monkeypatch, other)
    lake.batch(*ASKED)
    changed = {key for key, bar in lake.content().items() if killable.after[key] != bar}
    assert {key[:2] for key in changed} == {("Z", "3d"), ("Z", "34d")}
    assert len(changed) == 2


def test_two_processes_at_once(killable, tmp_path):
    lake = killable.world.lake.copy(tmp_path / "lake")
    processes = [
        killable.start(tmp_path / f"temporary-{symbols}", lake, "--symbols", symbols)
        for symbols in ("A", "B,Z")
    ]
    assert [process.wait() for process in processes] == [0, 0]
    assert lake.content() == killable.after
    assert not [name for name in files_in(lake.uri) if "lock" in name]
    assert not [name for name in files_in(lake.uri) if name.endswith(".tmp")]


def test_another_runs_properties_are_refused_too(killable, tmp_path, monkeypatch):
    """A table that another run made meanwhile, with another anchor, is no table for these bars."""
    lake = killable.world.lake.copy(tmp_path / "lake")
    shutil.rmtree(lake.table.storage.base)
    meanwhile(monkeypatch, lambda: lake.batch("--timeframes", "5d", "--anchor", "rows"))
    failed = lake.fail(*ASKED)
    assert (failed.code, len(failed.lines)) == (1, 1)
    assert "anchor=rows; this run asks for anchor=exchange" in failed.lines[0]
    assert {key[1] for key in lake.bars()} == {"5d"}


def test_a_commit_of_another_kind_is_no_conflict(killable, tmp_path, monkeypatch):
    lake = killable.world.lake.copy(tmp_path / "lake")

    def other():
        nothing = Scope(symbols=())
        lake.table.commit(
            base_version=lake.version, scope=nothing, run="note", properties={"fibflow.note": "x"}
        )

    meanwhile(monkeypatch, other)
    lake.batch(*ASKED)
    assert lake.content() == killable.after
    assert lake.table.properties["fibflow.note"] == "x"
    assert lake.table.properties[tables.ANCHOR] == "exchange"
