"""The rows of the matrix: what is done to a live job while ticks are played, and how it is put right.

A scenario breaks something, does what an operator would do, and notes when the lake shows new rows again. It
is called while ticks are played and the lake shows them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fibflow.benchmarks.faults import upkeep
from fibflow.benchmarks.faults.proxy import Mode
from fibflow.benchmarks.faults.rig import FaultRun, wait_until
from fibflow.io import tables

#: How long a service is away.
AWAY_S = 20.0
_ATTEMPTS = 5


@dataclass(frozen=True)
class Scenario:
    """A row.

    Attributes:
        name: for ``--only``.
        title: what the table calls it.
        act: breaks something and waits until the job has recovered.
        happens: what the job does.
        operator: what a person does.
        goes_back: whether the job goes on from an older state than it had.
        options: of ``pipelines.stream``.
        s3: the lake is in a bucket.
        proxied: ``kinesis`` or ``s3``: what the job reaches through a proxy.
        check: looks at the end for what the row alone has.
    """

    name: str
    title: str
    act: Callable[[FaultRun], None]
    happens: str
    operator: str = "Nothing."
    goes_back: bool = True
    options: tuple[str, ...] = ()
    s3: bool = False
    proxied: str = ""
    check: Callable[[FaultRun], None] | None = None


def _kill(server: str) -> Callable[[FaultRun], None]:
    """Kill a server without which the job cannot go on, and start it again, as whatever runs it would."""

    def act(run: FaultRun) -> None:
        since = time.time()
        run.stack.kill9(server)
        run.stack.start(server)
        run.started_again(since)

    return act


def _kill_job_server(run: FaultRun) -> None:
    since = time.time()
    run.stack.kill9("job-server")
    run.recovered(since)
    run.stack.start("job-server")


def _kill_job_manager(run: FaultRun) -> None:
    since = time.time()
    run.stack.kill9("job-manager")
    run.stack.start("job-manager")
    run.jobs("resume", "--latest")
    run.recovered(since)


def _empty_redis(run: FaultRun) -> None:
    run.stack.kill9("redis")
    run.stack.start("redis")
    run.recovered(time.time())


def _die_at(failpoint: str) -> Callable[[FaultRun], None]:
    """Kill the process that writes ``silver.live`` at a failpoint."""

    def act(run: FaultRun) -> None:
        run.started_again(run.die_at(f"{failpoint}/{tables.LIVE.name}"))

    return act


def _die_after_checkpoint(run: FaultRun) -> None:
    """Kill it when a checkpoint holds files that no commit has named yet, before the commit that would.

    The state that the job goes back to then knows files that the log does not.
    """
    name = tables.LIVE.name
    orphans: set[str] = set()
    for _ in range(_ATTEMPTS):
        held = _held(run, name, orphans)
        since = run.die_at(f"before-commit/{name}")
        held &= run.uncommitted(name)
        run.started_again(since)
        orphans = run.uncommitted(name)
        if held:
            run.problems += [f"{each} was in a checkpoint and never committed" for each in held & orphans]
            return
    raise AssertionError("a commit always came before the failpoint was set")


def _held(run: FaultRun, name: str, orphans: set[str]) -> set[str]:
    """Wait until files of a table are in the newest checkpoint that no commit has named; return them."""
    held: set[str] = set()

    def found() -> bool:
        newest = max((each.triggered for each in run.rest.checkpoints(run.job)), default=0)
        files = {file: Path(run.uri) / name / file for file in run.uncommitted(name) - orphans}
        held.update(file for file, path in files.items() if path.stat().st_mtime * 1000 < newest)
        return bool(held)

    wait_until(found, "a checkpoint holds files that no commit names")
    return held


def _away(run: FaultRun, mode: Mode) -> None:
    assert run.proxy is not None
    run.proxy.set(mode)
    time.sleep(AWAY_S)
    run.proxy.set(Mode.PASSES)
    run.recovered(time.time())


def _kinesis_gone(run: FaultRun) -> None:
    _away(run, Mode.GONE)


def _s3_refuses(run: FaultRun) -> None:
    _away(run, Mode.REFUSED)
    assert run.proxy is not None
    if not run.proxy.answered:
        run.problems.append("no request was answered with 503")


def _reshard(run: FaultRun) -> None:
    for change in (run.split_shard, run.merge_shards):
        change()
        run.recovered(time.time())


def _stop_and_resume(run: FaultRun) -> None:
    run.stop()
    _resume(run)


def _rescale(run: FaultRun) -> None:
    for parallelism in ("2", "1"):
        run.stop()
        _resume(run, "--parallelism", parallelism)


def _rewind(run: FaultRun) -> None:
    older = run.stop()
    _resume(run)
    run.follows()
    run.stop()
    # As docs/live-store.md has it: closed bars of the history that is left would stay there.
    run.rig.empty_redis()
    _resume(run, "--savepoint", older)


def _resume(run: FaultRun, *arguments: str) -> None:
    since = time.time()
    run.jobs("resume", *arguments)
    run.recovered(since)


MATRIX = (
    Scenario(
        "task-manager",
        "SIGKILL of the task manager",
        _kill("task-manager"),
        "Flink starts the job again from its last checkpoint as soon as there are slots; the first commit "
        "takes out what the lost history had made visible since.",
        "Start the task manager again, or have whatever runs it do so.",
    ),
    Scenario(
        "worker-pool",
        "SIGKILL of Beam's worker pool",
        _kill("worker-pool"),
        "The Python workers die with their pool, and bundles fail. As above, once there is a pool.",
        "Start the pool again at its address.",
    ),
    Scenario(
        "job-server",
        "SIGKILL of Beam's job server",
        _kill_job_server,
        "The job does not notice: the server only takes submissions.",
        "Start it again before the next submission, or leave `--job-endpoint` out.",
        goes_back=False,
    ),
    Scenario(
        "job-manager",
        "SIGKILL of the job manager, `resume --latest`",
        _kill_job_manager,
        "The task managers end the job's tasks when they have not heard of it for `heartbeat.timeout`, 12 s "
        "here, and give its slots away after `taskmanager.slot.timeout`, 5 s. Till then a new job waits. "
        "Without high availability a new job manager knows no jobs.",
        "Start it again, then `python -m pipelines.jobs resume live --lake LAKE --latest`.",
    ),
    Scenario(
        "redis",
        "Redis killed, and back empty",
        _empty_redis,
        "Writers wait up to 30 s. Open bars come again within 5 s, closed bars from the lake, by the job.",
        "Nothing while it comes back in time. Where it stays away the job starts again and again: bring "
        "Redis back.",
        goes_back=False,
    ),
    Scenario(
        "after-files",
        "writer killed after the data files",
        _die_at("after-files"),
        "The files are orphans: the restored job writes their rows anew, under other names.",
        "Nothing. `vacuum` takes the orphans.",
    ),
    Scenario(
        "before-commit",
        "writer killed before the commit",
        _die_at("before-commit"),
        "Nothing of the commit is visible; the restored state commits the files that it knows.",
    ),
    Scenario(
        "after-commit",
        "writer killed after the commit",
        _die_at("after-commit"),
        "The table is ahead of the restored state: the next commit takes out the files that it does not "
        "know.",
    ),
    Scenario(
        "after-checkpoint",
        "writer killed after the checkpoint, before the commit that follows",
        _die_after_checkpoint,
        "Files that the checkpoint holds are committed after the restore, as they are.",
        options=("--commit-every", "4", "--checkpoint-every", "1"),
    ),
    Scenario(
        "kinesis",
        f"Kinesis gone for {AWAY_S:.0f} s",
        _kinesis_gone,
        "Lanes ask again with growing pauses, up to 8 s; time stands still, and no window closes.",
        proxied="kinesis",
        goes_back=False,
    ),
    Scenario(
        "s3",
        f"S3 answers 503 for {AWAY_S:.0f} s",
        _s3_refuses,
        "Clients ask again; where they give up the job goes back to its last checkpoint, and tries again.",
        s3=True,
        proxied="s3",
    ),
    Scenario(
        "reshard",
        "a shard split, two merged",
        _reshard,
        "The lanes that read the parents go on with the children.",
        goes_back=False,
    ),
    Scenario(
        "savepoint",
        "stopped with a savepoint, resumed",
        _stop_and_resume,
        "The job goes on where it stopped.",
        "`pipelines.jobs stop`, then `pipelines.jobs resume`.",
        goes_back=False,
    ),
    Scenario(
        "rescale",
        "parallelism 1 to 2 to 1 by savepoints",
        _rescale,
        "Lanes and buckets are dealt out anew.",
        "`pipelines.jobs stop`, then `pipelines.jobs resume live --lake LAKE --parallelism N`.",
        options=("--parallelism", "1"),
        goes_back=False,
    ),
    Scenario(
        "rewind",
        "rewound to an older savepoint",
        _rewind,
        "The lake goes back with the job: commits after the savepoint are taken out. `bronze.ticks` keeps "
        "all messages.",
        "`pipelines.jobs stop`, empty the live store's prefix, then `resume --savepoint URI`.",
    ),
    Scenario(
        "upkeep",
        "stream, batch and compaction at once on S3",
        upkeep.batch_and_compact,
        "They touch different tables or append: each retries what another came first with.",
        s3=True,
        goes_back=False,
    ),
)
