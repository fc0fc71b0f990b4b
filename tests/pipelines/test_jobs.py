"""The command line against a real Flink cluster, with jobs of Beam."""

import contextlib
import io
import os
import subprocess
import sys
from typing import Any

import pytest

from fibflow.io import submissions
from fibflow.io.flinkrest import FlinkError
from fibflow.io.savepoints import SavepointError
from fibflow.io.storage import Storage
from fibflow.pipelines import cli, jobs
from fibflow.tests.io import flinkcluster
from fibflow.tests.pipelines.live import wait_until

NAME = "fibflow-live-0123456789abcdef"


@pytest.fixture(scope="module")
def cluster():
    with flinkcluster.cluster() as found:
        yield found


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    return Storage(str(tmp_path_factory.mktemp("lake")))


class Ran:
    """What a command line said, and left with."""

    def __init__(self, *argv, submit=None):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                self.code = jobs.run(argv, submit)
            except FlinkError as error:
                # As the command line says it.
                self.code, _ = cli.FAILED, err.write(f"jobs: {error}\n")
        self.out, self.err = out.getvalue(), err.getvalue()

    @property
    def rows(self):
        lines = [line.split("│") for line in self.out.splitlines() if line.startswith("│")]
        return [[cell.strip() for cell in line[1:-1]] for line in lines]


def kept_savepoint(lake):
    found = submissions.read(lake, "live")
    assert found is not None
    return found.savepoint


class Stream:
    """Stands where pipelines.stream is: submits a job of the same name, and keeps how."""

    def __init__(self, cluster, lake):
        self.cluster, self.lake = cluster, lake
        self.lines: list[list[str]] = []
        self.job: Any = None

    def __call__(self, argv):
        self.lines.append(list(argv))
        savepoint = argv[argv.index("--savepoint") + 1] if "--savepoint" in argv else None
        self.job = self.cluster.submit(NAME, savepoint)
        submissions.submitted(self.lake, "live", argv, self.cluster.checkpoints, self.job.id, 1)
        return 0

    def restored(self):
        """Where the job's state came from, by Flink's word."""
        told = self.cluster.rest._ask("GET", f"/jobs/{self.job.id}/checkpoints")["latest"]["restored"]
        return told["external_path"].replace("file:/", "file:///")


def test_the_life_of_a_job(cluster, lake):
    at = ["--flink-master", cluster.address]
    given = ["--lake", lake.uri]
    stream = Stream(cluster, lake)
    stream(["--source", "kinesis://x", *given, *at])
    first = stream.job

    # It runs: listed with what it keeps.
    flinkcluster.until(lambda: cluster.rest.restarts(first.id) == 0, "no number of restarts")
    [row] = Ran("list", *at).rows
    assert row[:3] == [first.id, "live", "RUNNING"]
    assert row[4] == "0"
    assert row[5].endswith("kB")
    assert row[6] > row[3]
    found = Ran("checkpoints", "live", *at)
    assert f"checkpoints of live ({first.id})" in found.out
    assert {row[1] for row in found.rows} == {"checkpoint"}
    assert all(f"{cluster.checkpoints}/{first.id}/chk-" in row[5] or row[5] == "gone" for row in found.rows)

    # While it runs it is not started again.
    refused = Ran("resume", "live", *given, "--latest", submit=stream)
    assert refused.code == cli.FAILED
    assert refused.err == f"jobs: job live runs ({first.id}, RUNNING): stop or cancel it first\n"

    # A savepoint that fails leaves it.
    failed = Ran("stop", "live", *at, *given, "--savepoints", "file:///proc/nowhere")
    assert failed.code == cli.FAILED
    assert failed.err.startswith(
        f"jobs: the savepoint of job {first.id} failed, and the job goes on: Failed to"
    )
    assert kept_savepoint(lake) is None

    # Stopped, it goes on from the savepoint, on the same command line.
    stopped = Ran("stop", "live", *at, *given)
    assert (stopped.code, stopped.err) == (cli.OK, "")
    path = stopped.out.strip()
    assert kept_savepoint(lake) == path
    assert Ran("list", *at).rows == []
    assert Ran("list", *at, "--all").rows[0][:3] == [first.id, "live", "FINISHED"]
    resumed = Ran("resume", "live", *given, "--parallelism", "4", submit=stream)
    assert resumed.code == cli.OK
    assert resumed.out.startswith(f"live goes on from {path}, written ")
    assert stream.lines[-1] == [
        *("--source", "kinesis://x", "--flink-master", cluster.address, "--lake", lake.uri),
        *("--parallelism", "4", "--savepoint", path),
    ]
    assert stream.restored() == path
    second = stream.job

    # Cancelled, it left no savepoint: the newest checkpoint is asked for.
    cancelled = Ran("cancel", "live", *at)
    assert cancelled.out == f"live ({second.id}) is CANCELED\n"
    again = Ran("stop", "live", *at)
    assert (again.code, again.err) == (cli.FAILED, "jobs: job live does not run, it is CANCELED\n")
    with pytest.raises(cli.UsageError, match=r"job live was not stopped with a savepoint since .* --latest"):
        jobs.run(["resume", "live", *given])
    with pytest.raises(SavepointError, match="there is no savepoint /nowhere"):
        jobs.run(["resume", "live", *given, "--savepoint", "/nowhere"])
    kept = Ran("checkpoints", "live", *at).rows
    newest = f"{cluster.checkpoints}/{second.id}/chk-{max(int(row[0]) for row in kept)}"
    assert Ran("resume", "live", *given, "--latest", submit=stream).code == cli.OK
    assert stream.restored() == newest
    assert stream.lines[-1].count("--savepoint") == stream.lines[-1].count("--lake") == 1
    assert stream.lines[-1][-2:] == ["--savepoint", newest]
    assert newest not in [row[5] for row in Ran("checkpoints", "live", *at).rows]
    assert newest in [row[5] for row in Ran("checkpoints", "live", *at, *given).rows]

    # One names a savepoint: an older one, as it stands.
    cluster.end(stream.job)
    assert Ran("resume", "live", *given, "--savepoint", path, submit=stream).code == cli.OK
    assert stream.restored() == path
    cluster.end(stream.job)


def test_a_job_that_failed_says_why(cluster):
    with contextlib.suppress(RuntimeError):  # what Beam makes of it
        cluster.submit("broken", "file:///nowhere/at-all")
    ended = ["broken", "FAILED"]
    listed: list[Ran] = []

    def is_listed() -> bool:
        listed.append(Ran("list", "--all", "--flink-master", cluster.address))
        return ended in [row[1:3] for row in listed[-1].rows]

    # Beam hears of the failure before Flink has put the job with those that ended.
    wait_until(is_listed, "Flink lists the job that failed")
    why = ") failed: Cannot find checkpoint or savepoint file/directory 'file:///nowhere/at-all'"
    assert why in listed[-1].out


def test_a_job_that_nobody_knows(cluster):
    for command in ("stop", "cancel", "checkpoints"):
        ran = Ran(command, "nobody", "--flink-master", cluster.address)
        assert ran.code == cli.FAILED
        assert ran.err == f"jobs: Flink at {cluster.address} knows no job nobody: it runs none\n"


def test_a_lake_that_does_not_know_the_job_is_told_before_it_stops(cluster, tmp_path):
    job = cluster.submit("other")
    with pytest.raises(cli.UsageError, match="knows no job other: name the lake that it writes, or none"):
        jobs.run(["stop", "other", "--flink-master", cluster.address, "--lake", str(tmp_path)])
    assert cluster.rest.job("other").id == job.id
    cluster.end(job)


def test_the_newest_is_a_savepoint_where_that_is_newer(cluster, tmp_path):
    lake = Storage(str(tmp_path / "lake"))
    old, new = tmp_path / "kept" / ("a" * 32) / "chk-1", tmp_path / "savepoint-1"
    for number, folder in enumerate((old, new)):
        folder.mkdir(parents=True)
        (folder / "_metadata").touch()
        os.utime(folder / "_metadata", (number + 1, number + 1))
    argv = ["--flink-master", cluster.address, "--lake", "elsewhere", "--savepoint=/old", "--job", "x"]
    submissions.submitted(lake, "x", argv, (tmp_path / "kept").as_uri(), "a" * 32, 1)
    lines = []

    def submit(argv):
        lines.append(argv)
        return 7

    assert Ran("resume", "x", "--lake", lake.uri, "--latest", submit=submit).code == 7
    assert lines[-1] == [
        *("--job", "x", "--flink-master", cluster.address, "--lake", lake.uri, "--savepoint", old.as_uri())
    ]
    submissions.stopped(lake, "x", new.as_uri())
    Ran("resume", "x", "--lake", lake.uri, "--latest", submit=submit)
    assert lines[-1][-1] == new.as_uri()
    (new / "_metadata").unlink()
    Ran("resume", "x", "--lake", lake.uri, "--latest", submit=submit)
    assert lines[-1][-1] == old.as_uri()
    with pytest.raises(SavepointError, match="never completed"):
        jobs.run(["resume", "x", "--lake", lake.uri], submit)
    (old / "_metadata").unlink()
    ran = Ran("resume", "x", "--lake", lake.uri, "--latest", submit=submit)
    assert (ran.code, len(lines)) == (cli.FAILED, 3)
    left = f"job x left no checkpoint in {(tmp_path / 'kept').as_uri()}"
    assert ran.err == f"jobs: {left}: start it anew with pipelines.stream\n"


# --- without a cluster


def test_a_lake_without_the_job(lake, tmp_path):
    with pytest.raises(
        cli.UsageError, match=r"has no submission of a job x: pipelines\.stream keeps one when it"
    ):
        jobs.run(["resume", "x", "--lake", str(tmp_path)])
    submissions.submitted(Storage(str(tmp_path)), "live", [], "file:///c", "a", 1)
    with pytest.raises(cli.UsageError, match="has no submission of a job x: it has live"):
        jobs.run(["resume", "x", "--lake", str(tmp_path)])


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["list"], "name the Flink cluster with --flink-master host:8081, or in FLINK_REST_URL"),
        (["list", "--flink-master", "h", "--more"], "unknown option --more"),
    ],
)
def test_what_cannot_be_met(argv, line, monkeypatch):
    monkeypatch.delenv("FLINK_REST_URL", raising=False)
    with pytest.raises(cli.UsageError, match=line):
        jobs.run(argv)


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["begin"],
        ["stop"],
        ["resume", "x"],
        ["resume", "x", "--lake", "l", "--latest", "--savepoint", "s"],
    ],
)
def test_bad_usage_is_one_line(argv, capsys):
    with pytest.raises(SystemExit) as left:
        jobs.run(argv)
    assert left.value.code == cli.USAGE
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_cluster_may_be_in_the_environment(monkeypatch):
    monkeypatch.setenv("FLINK_REST_URL", "http://127.0.0.1:1")
    ran = Ran("list")
    assert ran.code == cli.FAILED
    assert ran.err.startswith("jobs: Flink at http://127.0.0.1:1 cannot be reached")


def test_as_a_command():
    command = [sys.executable, "-P", "-m", "fibflow.pipelines.jobs", "list", "--flink-master", "127.0.0.1:1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == cli.FAILED
    assert done.stderr.startswith("jobs: Flink at 127.0.0.1:1 cannot be reached")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (999, "999 B"), (54_302, "54.3 kB"), (2.5e6, "2.5 MB"), (7e12, "7,000.0 GB")],
)
def test_sizes(number, text):
    assert jobs._size(number) == text
