"""The drills: each on a job of its own, while ticks are played, with the commands that the page names."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from fibflow.benchmarks.drills import trees
from fibflow.benchmarks.drills.databases import Database
from fibflow.benchmarks.drills.notes import Notes
from fibflow.benchmarks.drills.trees import COUNTER, KEEPS_STATE, NEW_FORMAT, RENAMES, Release
from fibflow.benchmarks.faults.commits import longest_pause
from fibflow.benchmarks.faults.report import counts
from fibflow.benchmarks.faults.rig import TIMEFRAMES, FaultRun, Rig, compare, differing, wait_until
from fibflow.benchmarks.faults.run import play
from fibflow.benchmarks.faults.scenarios import Scenario
from fibflow.io import submissions, tables
from fibflow.io.storage import Storage
from fibflow.runners.services.process import http_json
from fibflow.runners.services.stack import Stack

_PATH = "PYTHONPATH"
_NEW = "live2"
#: A state that was made with another lateness means something else.
_LATENESS = "30"
#: What a restore sets back: what the stream writes.
_SET_BACK = (tables.TICKS, tables.LIVE, tables.LATE, tables.DEAD_LETTERS)
#: What is lost before it.
_LOST = (tables.TICKS, tables.LIVE, tables.LATE)


def through(rig: Rig, notes: Notes, act: Callable[[FaultRun], None], goes_back: bool) -> None:
    """Play the tape with something done in its middle, and hold the lake against batch over its archive."""
    scenario = Scenario(notes.name, notes.name, act, "", goes_back=goes_back)
    with rig.run(notes.name) as run:
        run.start()
        watcher = run.watched()
        with watcher:
            play(run, scenario, watcher)
        found = compare(run)
    truth = run.market.tape.truth
    notes.bars, notes.wrong = found.bars, found.missing + found.surplus + found.different
    notes.problems += counts(found, truth.readable, truth.broken) + run.problems + watcher.problems(goes_back)
    notes.facts.append(
        f"{found.ticks:,} messages of {truth.readable:,} that could be read are in `bronze.ticks`"
    )


@contextmanager
def releases(rig: Rig, *made: Release) -> Iterator[Mapping[str, Path]]:
    """Make releases, and return their folders by version; at the end the workers are this release's again."""
    folder = rig.folder / "releases"
    try:
        yield {each.version: trees.copy(each, folder / each.version) for each in made}
    finally:
        os.environ.pop(_PATH, None)
        rig.stack.restart("worker-pool")


def turn_to(run: FaultRun, folder: Path) -> None:
    """Have workers and commands be those of another release."""
    os.environ[_PATH] = run.env[_PATH] = str(folder)
    run.stack.restart("worker-pool")


# --- upgrade --------------------------------------------------------------------------------------------


def upgrade(rig: Rig, notes: Notes) -> None:
    """Stop a job with a savepoint, and let code that keeps the state go on from it."""

    def act(run: FaultRun) -> None:
        since = time.time()
        with notes.step("`pipelines.jobs stop`: the savepoint is taken, the job ends"):
            run.stop()
        with notes.step("the worker pool is started with the new code"):
            turn_to(run, made[KEEPS_STATE.version])
        with notes.step("`pipelines.jobs resume`, until the job runs"):
            run.resume()
        run.recovered(since)
        notes.took(
            "**downtime**: from `stop` until the lake shows ticks that came after it", run.recoveries[-1]
        )
        notes.took("the longest time between two commits of ticks", longest_pause(run.reader, since - 10))
        wait_until(lambda: _counted(run) > 0, "Flink shows the counter that the new code has")

    with releases(rig, KEEPS_STATE) as made:
        through(rig, notes, act, goes_back=False)
    notes.facts.append(f"Flink shows `{COUNTER}`, which only the new code counts")


def _counted(run: FaultRun) -> int:
    """How many metrics of the job there are that only the new code has."""
    master, job = run.stack.address("job-manager"), run.job
    told = http_json(master, f"/jobs/{job}") or {"vertices": []}
    found = 0
    for vertex in told["vertices"]:
        names = http_json(master, f"/jobs/{job}/vertices/{quote(vertex['id'])}/metrics")
        found += sum(str(each["id"]).endswith(COUNTER) for each in names or ())
    return found


# --- a change that breaks the state ---------------------------------------------------------------------


def breaking(rig: Rig, notes: Notes) -> None:
    """Have changes refused that would read the state wrongly, then make the bars anew with one of them."""
    with releases(rig, RENAMES, NEW_FORMAT) as made, rig.run(notes.name) as run:
        run.start()
        # What readers see of windows that history ended.
        days = ",".join(timeframe.name for timeframe in TIMEFRAMES if not timeframe.is_intraday)
        _succeeds(run, "pipelines.batch", "--lake", run.uri, "--timeframes", days, "--workers", "1")
        begun, late_to_it, then, *rest = run.market.segments()
        run.play(begun)
        run.play(late_to_it)
        with run.slowly(then) as feed:
            run.follows()
            since = time.time()
            with notes.step("`pipelines.jobs stop`"):
                run.stop()
            for release in (RENAMES, NEW_FORMAT):
                run.env[_PATH] = str(made[release.version])
                with notes.step(f"`pipelines.jobs resume`, refused: {release.what}"):
                    _refused(run, notes, f"Fibflow {release.version}")
            run.env.pop(_PATH)
            with notes.step(f"`pipelines.jobs resume --lateness {_LATENESS}`, refused"):
                _refused(run, notes, f"--lateness {_LATENESS}", "--lateness", _LATENESS)
            with notes.step("the worker pool is started with the new code"):
                turn_to(run, made[NEW_FORMAT.version])
            anew = time.time()
            with notes.step(f"`pipelines.stream --job {_NEW} --replaces live`, until the job runs"):
                _replace(run)
            run.recovered(since)
            now = time.time()
            notes.took("from that command until the lake shows ticks that came after `stop`", now - anew)
            notes.took("**downtime**: from `stop` until then, refusals included", run.recoveries[-1])
            feed.finish()
        run.catch_up(then)
        for segment in rest:
            run.play_on(segment)
        run.wait_for_end()
        wait_until(lambda: _ended(run), "the new job has closed the last session")
        run.land(run.market.official, "evening")
        with notes.step("`pipelines.reconcile`: bars of everything in `bronze.ticks`"):
            _succeeds(run, "pipelines.reconcile", "--lake", run.uri, "--workers", "1")
        whole = run.everything()
        notes.bars, notes.wrong = len(whole), sum(differing(whole, run.seen()))
        truth = run.market.tape.truth
        if (archived := run.archived()) != truth.readable:
            notes.problems.append(f"{archived:,} messages in bronze.ticks, not {truth.readable:,}")
        notes.facts.append(
            f"{archived:,} messages of {truth.readable:,} that could be read are in `bronze.ticks`"
        )


def _refused(run: FaultRun, notes: Notes, what: str, *options: str) -> None:
    done = run.command("pipelines.jobs", "resume", "live", "--lake", run.uri, *options)
    lines = done.stderr.strip().splitlines()
    if done.returncode == 0 or not lines or "this state of job live was" not in lines[-1]:
        said = lines[-1] if lines else "nothing"
        notes.problems.append(
            f"{what} was not refused with its line: exit code {done.returncode}, {said[:200]}"
        )
    if any(not job.is_over for job in run.rest.jobs()):
        raise AssertionError(f"{what}: a job runs")
    notes.lines.append(lines[-1] if lines else "")


def _replace(run: FaultRun) -> None:
    """Submit a job without state in the place of the one that was stopped, by its command line."""
    kept = submissions.read(Storage(run.uri), "live")
    assert kept is not None
    _succeeds(run, "pipelines.stream", *kept.argv, "--job", _NEW, "--replaces", "live")


def _succeeds(run: FaultRun, module: str, *arguments: str) -> None:
    done = run.command(module, *arguments)
    assert done.returncode == 0, done.stderr.strip()


def _ended(run: FaultRun) -> bool:
    """Whether the days of the last session are final, of all symbols."""
    live = run.table(tables.LIVE.name)
    if live is None:
        return False
    ends = live["end"].cast(pa.int64()).to_numpy() == int(run.market.calendar.day_ends[run.market.last])
    found = live.filter(pa.array(ends)).filter((pc.field("timeframe") == "1d") & pc.field("final"))
    return len(pc.unique(found["symbol"])) >= len(run.market.tape.symbols)


# --- restore --------------------------------------------------------------------------------------------


def restore(rig: Rig, notes: Notes) -> None:
    """Lose tables of the lake and the database; bring them back, and the stream to a savepoint."""

    def act(run: FaultRun) -> None:
        database = Database(postgres.env["DATABASE_URL"])
        run.env["DATABASE_URL"] = database.url
        for arguments in (("upgrade",), ("export", "--lake", run.uri)):
            _succeeds(run, "pipelines.database", *arguments)
        dump = run.folder / "market.dump"
        # The backup.
        with notes.step("backup: `pipelines.jobs stop` for a savepoint, and the tables' versions"):
            savepoint = run.stop()
            versions = {spec: run.reader.table(spec).version for spec in _SET_BACK}
        with notes.step("backup: `pg_dump`"):
            database.dump(dump)
        content = database.content()
        run.resume()
        run.follows()
        run.follows()
        # What happens.
        run.cancel()
        for spec in _LOST:
            DeltaTable(f"{run.uri}/{spec.name}").delete()
        database.drop()
        assert not any(run.rows(spec.name) for spec in _LOST)
        # The restore.
        since = time.time()
        with notes.step("restore: `DeltaTable.restore` of the stream's tables"):
            for spec, version in versions.items():
                DeltaTable(f"{run.uri}/{spec.name}").restore(version)
        with notes.step("restore: `createdb`, `pg_restore`"):
            database.restore(dump)
        with notes.step(
            "restore: the live store is emptied, `pipelines.jobs resume --savepoint`, the job runs"
        ):
            run.rig.empty_redis()
            run.resume("--savepoint", savepoint)
        run.recovered(since)
        notes.took("**RTO**: from the first command until the lake shows new ticks", run.recoveries[-1])
        if database.content() != content:
            run.problems.append("PostgreSQL is not what was dumped")
        if behind := database.behind(run.reader):
            run.problems.append(f"PostgreSQL lacked {behind} official days of the lake")
        notes.facts.append("PostgreSQL is as it was dumped, and has the lake's official days")

    with Stack(["postgres"], folder=rig.folder / "postgres") as postgres:
        through(rig, notes, act, goes_back=True)


DRILLS: Mapping[str, Callable[[Rig, Notes], None]] = {
    "upgrade": upgrade,
    "breaking": breaking,
    "restore": restore,
}
