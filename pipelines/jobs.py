"""Live jobs on a Flink cluster: ``python -m pipelines.jobs``.

    python -m pipelines.jobs list --flink-master localhost:8081
    python -m pipelines.jobs checkpoints live --flink-master localhost:8081
    python -m pipelines.jobs stop live --flink-master localhost:8081 --lake lake
    python -m pipelines.jobs resume live --lake lake
    python -m pipelines.jobs resume live --lake lake --latest --parallelism 4

``stop`` takes a savepoint, from which ``resume`` goes on; after a crash, ``resume --latest`` goes on from the
newest checkpoint that was kept. The job is submitted with the command line that it was started with, which
pipelines.stream keeps in the lake; options after ``resume`` replace those of that line. A state that the job
would not read as it was written is refused.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from fibflow.io import savepoints, submissions
from fibflow.io.aws import AwsConfig
from fibflow.io.flinkrest import Checkpoint, Clock, FlinkError, FlinkRest, Job, Sleep
from fibflow.io.storage import Storage
from fibflow.io.submissions import Submission
from fibflow.pipelines import cli
from fibflow.pipelines.show import console, grid

#: Submits a job by its command line, and returns the exit code.
Submit = Callable[[Sequence[str]], int]

_MASTER = "FLINK_REST_URL"
_LEFT = ("id", "job", "state", "kind", "path")


def parser() -> cli.Parser:
    """Return the parser of the command line; what it does not know is for ``resume``."""
    made = cli.Parser(
        prog="pipelines.jobs",
        description="List, stop and resume live jobs on a Flink cluster.",
        allow_abbrev=False,
    )
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    listing = _command(commands, "list", "jobs that run")
    listing.add_argument("--all", action="store_true", help="those that ended too")
    found = _command(commands, "checkpoints", "checkpoints and savepoints of a job", job=True)
    _add_lake(found, "whose folder of checkpoints is looked into, too")
    stop = _command(commands, "stop", "end a job with a savepoint, from which it can go on", job=True)
    _add_lake(stop, "in which resume finds the savepoint")
    stop.add_argument("--savepoints", metavar="URI", help="where to (default: as the cluster is set up)")
    stop.add_argument(
        "--drain", action="store_true", help="close every window first: for a job that will not go on"
    )
    cancel = _command(commands, "cancel", "end a job as it is", job=True)
    for ending in (stop, cancel):
        ending.add_argument(
            "--deadline", type=_seconds, default=300.0, metavar="S", help="to wait (default: %(default)g)"
        )
    resume = _command(commands, "resume", "submit a job anew, with its state", job=True)
    _add_lake(resume, "that the job writes", required=True)
    start = resume.add_mutually_exclusive_group()
    start.add_argument(
        "--savepoint", metavar="URI", help="what to go on from (default: what stop left behind)"
    )
    start.add_argument("--latest", action="store_true", help="the newest checkpoint or savepoint there is")
    return made


def _command(commands: argparse._SubParsersAction, name: str, what: str, job: bool = False) -> cli.Parser:
    made: cli.Parser = commands.add_parser(
        name, help=what, description=f"{name}: {what}.", allow_abbrev=False
    )
    if job:
        made.add_argument("job", metavar="JOB", help="its name, or Flink's id of it")
    made.add_argument("--flink-master", metavar="HOST:PORT", help=f"of the REST API (default: ${_MASTER})")
    return made


def _add_lake(made: cli.Parser, what: str, required: bool = False) -> None:
    made.add_argument("--lake", metavar="URI", required=required, help=f"the lake {what}")
    aws = made.add_argument_group("AWS (default: the environment, as for every AWS tool)")
    aws.add_argument("--region", help="region of the buckets")
    aws.add_argument("--endpoint-url", metavar="URL", help="another S3 service than Amazon's")
    aws.add_argument("--profile", help="a profile of the AWS configuration files")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return seconds


def run(
    argv: Sequence[str] | None = None,
    submit: Submit | None = None,
    clock: Clock = time.monotonic,
    sleep: Sleep = time.sleep,
) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: its arguments.
        submit: submits a job; None for ``pipelines.stream``.
        clock: seconds, for deadlines.
        sleep: waits.

    Raises:
        UsageError: the request cannot be met.
        FlinkError: Flink cannot do it.
        LakeError, AwsError: the lake or a savepoint cannot be read.
    """
    args, more = parser().parse_known_args(argv)
    if more and args.command != "resume":
        raise cli.UsageError(f"unknown option {more[0]} (see --help)")
    if args.command == "resume":
        return _resume(args, more, submit or _stream)
    rest = FlinkRest(_master(args.flink_master))
    if args.command == "list":
        _list(rest, args.all)
    elif args.command == "checkpoints":
        _checkpoints(rest, args)
    elif args.command == "stop":
        _stop(rest, args, clock, sleep)
    else:
        job = rest.job(args.job)
        rest.cancel(job.id)
        state = rest.ended(job.id, clock=clock, sleep=sleep, deadline=args.deadline)
        print(f"{job.called} ({job.id}) is {state}")
    return cli.OK


def _master(given: str | None) -> str:
    master = given or os.environ.get(_MASTER)
    if not master:
        raise cli.UsageError(f"name the Flink cluster with --flink-master host:8081, or in {_MASTER}")
    return master


def _list(rest: FlinkRest, ended: bool) -> None:
    jobs = [job for job in rest.jobs() if ended or not job.is_over]
    rows = []
    for job in jobs:
        # Of a job that is being set up nothing can be asked yet.
        known = job.state != "INITIALIZING"
        restarts, kept = (rest.restarts(job.id), rest.checkpoints(job.id)) if known else (None, [])
        last = (_size(kept[0].size), _time(kept[0].triggered + kept[0].took)) if kept else ("", "")
        times = _time(job.started), "" if restarts is None else str(restarts)
        rows.append((job.id, job.called, job.state, *times, *last))
    names = ("id", "job", "state", "since", "restarts", "state size", "last checkpoint")
    console().print(grid(f"jobs at {rest.address}", names, rows, _LEFT))
    for job in jobs:
        if job.state in ("FAILED", "FAILING", "RESTARTING") and (why := rest.failure(job.id)):
            print(f"{job.called} ({job.id}) failed: {why}")


def _checkpoints(rest: FlinkRest, args: argparse.Namespace) -> None:
    job = rest.job(args.job, running=False)
    kept = rest.checkpoints(job.id)
    rows = [
        (
            str(each.id),
            "savepoint" if each.is_savepoint else "checkpoint",
            _time(each.triggered + each.took),
            f"{each.took:,} ms",
            _size(each.size),
            each.path or "gone",
        )
        for each in kept
    ]
    known = {each.path for each in kept}
    if args.lake:
        lake = _lake(args)
        submission = submissions.read(lake, job.called)
        if submission is not None:
            aws = cli.aws_of(args, submission.checkpoints)
            for found in savepoints.retained(submission.checkpoints, submission.jobs, aws):
                if found.uri not in known:
                    rows.append(("", "checkpoint", _time(found.written // 1000), "", "", found.uri))
    names = ("number", "kind", "completed", "took", "state size", "path")
    console().print(grid(f"checkpoints of {job.called} ({job.id})", names, rows, _LEFT))


def _stop(rest: FlinkRest, args: argparse.Namespace, clock: Clock, sleep: Sleep) -> None:
    job = rest.job(args.job)
    # What cannot be kept is found before the job ends.
    lake = _lake(args) if args.lake else None
    if lake is not None and submissions.read(lake, job.called) is None:
        raise cli.UsageError(f"{lake.uri} knows no job {job.called}: name the lake that it writes, or none")
    path = rest.stop(
        job.id, args.savepoints, clock=clock, sleep=sleep, deadline=args.deadline, drain=args.drain
    )
    print(path)
    if lake is not None:
        submissions.stopped(lake, job.called, path)


def _resume(args: argparse.Namespace, more: Sequence[str], submit: Submit) -> int:
    """Submit a job by the command line that is kept of it, from a savepoint or checkpoint."""
    lake = _lake(args)
    submission = submissions.read(lake, args.job)
    if submission is None:
        known = submissions.names(lake)
        has = f"it has {', '.join(known)}" if known else "pipelines.stream keeps one when it starts a job"
        raise cli.UsageError(f"{lake.uri} has no submission of a job {args.job}: {has}")
    replaced = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for option in ("--flink-master", "--savepoint", "--lake"):
        replaced.add_argument(option)
    kept, line = replaced.parse_known_args(list(submission.argv))
    master = _master(args.flink_master or kept.flink_master)
    rest = FlinkRest(master)
    jobs = rest.jobs()
    for job in jobs:
        if not job.is_over and (job.id in submission.jobs or job.called == args.job):
            raise FlinkError(f"job {args.job} runs ({job.id}, {job.state}): stop or cancel it first")
    aws = cli.aws_of(args, args.savepoint, submission.savepoint, submission.checkpoints)
    start = _start(args, submission, aws, rest, jobs)
    print(f"{args.job} goes on from {start.uri}, written {_time(start.written // 1000)}", flush=True)
    return submit([*line, "--flink-master", master, "--lake", args.lake, *more, "--savepoint", start.uri])


def _start(
    args: argparse.Namespace,
    submission: Submission,
    aws: AwsConfig | None,
    rest: FlinkRest,
    jobs: Sequence[Job],
) -> savepoints.Kept:
    """What the job goes on from."""
    if args.savepoint:
        return savepoints.check(args.savepoint, aws)
    if not args.latest:
        if submission.savepoint is None:
            raise cli.UsageError(
                f"job {args.job} was not stopped with a savepoint since it started: name one with "
                "--savepoint, or give --latest for the newest checkpoint"
            )
        return savepoints.check(submission.savepoint, aws)
    found = savepoints.retained(submission.checkpoints, submission.jobs, aws)
    told: list[Checkpoint] = []
    for job in jobs:
        if job.id in submission.jobs:
            told += rest.checkpoints(job.id)
    paths = {each.path for each in told if each.path} | {submission.savepoint} - {None}
    for path in sorted(str(path) for path in paths - {kept.uri for kept in found}):
        try:
            found.append(savepoints.check(path, aws))
        except savepoints.SavepointError:
            continue  # it was deleted since
    if not found:
        raise FlinkError(
            f"job {args.job} left no checkpoint in {submission.checkpoints}: start it anew with "
            "pipelines.stream"
        )
    return max(found, key=lambda kept: kept.written)


def _lake(args: argparse.Namespace) -> Storage:
    return Storage(args.lake, cli.aws_of(args, args.lake))


def _stream(argv: Sequence[str]) -> int:
    # Beam takes a second to import: only where a job is submitted.
    from fibflow.pipelines import stream

    try:
        return stream.run(argv)
    except stream.KNOWN_ERRORS as error:
        raise FlinkError(str(error)) from error


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _size(number: float) -> str:
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:,.0f} {unit}" if unit == "B" else f"{number:,.1f} {unit}"
        number /= 1000
    return f"{number:,.1f} GB"


if __name__ == "__main__":
    cli.run_main(run, sys.argv[1:], (FlinkError,))
