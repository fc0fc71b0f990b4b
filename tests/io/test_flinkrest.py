import contextlib
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from fibflow.io import flinkrest, savepoints
from fibflow.io.flinkrest import FlinkError, FlinkRest
from fibflow.tests.io import flinkcluster

REAL = {"clock": time.monotonic, "sleep": time.sleep}
NOBODY = "0" * 32


@pytest.fixture(scope="module")
def cluster():
    with flinkcluster.cluster() as found:
        yield found


@pytest.fixture(scope="module")
def job(cluster):
    return cluster.submit("fibflow-rest-0123456789abcdef")


@pytest.fixture
def rest(cluster):
    return cluster.rest


def test_the_cluster_says_what_it_is(rest):
    told = rest.overview()
    assert told["flink-version"].startswith("1.19.")
    assert told["taskmanagers"] == 1


def test_a_job_by_its_id_and_its_names(job, rest):
    assert (job.called, job.state, job.is_over) == ("rest", "RUNNING", False)
    assert 0 < job.started <= job.changed
    for name in (job.id, "fibflow-rest-0123456789abcdef", "rest"):
        assert rest.job(name).id == job.id
    assert job.id in [each.id for each in rest.jobs()]
    assert flinkcluster.until(lambda: [rest.restarts(job.id)] != [None], "no number of restarts")
    assert rest.restarts(job.id) == 0
    assert rest.failure(job.id) is None


def test_checkpoints_are_where_it_says(cluster, job, rest):
    known = rest.checkpoints(job.id)
    assert [each.id for each in known] == sorted((each.id for each in known), reverse=True)
    # The list may be older than the next checkpoint, which had its newest deleted.
    newest, *_ = flinkcluster.until(
        lambda: [each for each in rest.checkpoints(job.id) if each.path], "no checkpoint listed that is there"
    )
    assert newest.path == f"{cluster.checkpoints}/{job.id}/chk-{newest.id}"
    assert newest.size > 0
    assert newest.triggered > job.started
    assert newest.took >= 0
    assert not newest.is_savepoint


def test_a_job_that_nobody_knows(job, rest):
    with pytest.raises(FlinkError, match=r"knows no job nobody: it runs .*rest"):
        rest.job("nobody")
    for ask in (rest.checkpoints, rest.cancel, rest.failure, lambda job: rest.stop(job, **REAL)):
        with pytest.raises(FlinkError, match=f"it runs no job {NOBODY} \\(any more\\): list says which"):
            ask(NOBODY)
    assert rest.restarts(NOBODY) is None
    with pytest.raises(FlinkError, match=r'Cannot resolve path parameter \(jobid\) from value "zz"'):
        rest.checkpoints("zz")


@pytest.mark.parametrize(
    ("folder", "why"),
    [
        ("file:///proc/nowhere", "Failed to create savepoint directory at file:/proc/nowhere"),
        ("gopher://a/b", "Could not find a file system implementation for scheme 'gopher'"),
    ],
)
def test_a_savepoint_that_fails_leaves_the_job(job, rest, folder, why):
    with pytest.raises(FlinkError, match=f"the savepoint of job {job.id} failed, and the job goes on: {why}"):
        rest.stop(job.id, folder, **REAL)
    assert rest.job(job.id).state == "RUNNING"


def test_a_job_goes_on_from_the_savepoint_that_stop_left(cluster, rest, tmp_path):
    first = cluster.submit("stopped")
    path = rest.stop(first.id, tmp_path.as_uri(), **REAL)
    assert path.startswith(tmp_path.as_uri() + "/savepoint-")
    assert savepoints.check(path).uri == path
    assert rest.job("stopped", running=False).state == "FINISHED"
    # Flink answers such questions from what it knew up to three seconds ago.
    listed = flinkcluster.until(
        lambda: [each.path for each in rest.checkpoints(first.id) if each.is_savepoint], "no savepoint listed"
    )
    assert listed == [path]
    with pytest.raises(FlinkError, match="job stopped does not run, it is FINISHED"):
        rest.job("stopped")

    second = cluster.submit("stopped", path)
    # Numbers go on from the savepoint's: its state is this job's.
    assert rest.checkpoints(second.id)[-1].id > max(each.id for each in rest.checkpoints(first.id))
    assert rest.job("stopped").id == second.id

    rest.cancel(second.id)
    assert rest.ended(second.id, **REAL) == "CANCELED"
    # Of a job that was stopped Flink deletes the checkpoints, of one that was cancelled it keeps them.
    kept = savepoints.retained(cluster.checkpoints, [first.id, second.id, NOBODY])
    assert {each.job for each in kept} == {second.id}
    assert [savepoints.check(each.uri) for each in kept] == kept
    assert [each.written for each in kept] == sorted((each.written for each in kept), reverse=True)
    assert flinkcluster.until(lambda: rest.checkpoints(second.id)[0].path == kept[0].uri, "not the newest")


def test_why_a_job_failed(cluster, rest):
    known = {job.id for job in rest.jobs()}
    with contextlib.suppress(RuntimeError):  # what Beam makes of it
        cluster.submit("failed", "file:///nowhere/at-all")
    [failed] = [job for job in rest.jobs() if job.id not in known]
    assert failed.state == "FAILED"
    assert rest.failure(failed.id) == (
        "Cannot find checkpoint or savepoint file/directory 'file:///nowhere/at-all' on file system 'file'."
    )


# --- what no real cluster does on demand


class Answers(BaseHTTPRequestHandler):
    """Answers requests with (status, body) in turn, the last one again and again."""

    server: Any

    def answer(self):
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        self.server.asked.append((self.command, self.path, body))
        answers = self.server.answers
        status, text = answers.pop(0) if len(answers) > 1 else answers[0]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text if isinstance(text, bytes) else json.dumps(text).encode())

    do_GET = do_POST = do_PATCH = answer

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    made: Any = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    made.asked = []
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def answering(server, *answers):
    server.answers = list(answers)
    return FlinkRest(f"http://127.0.0.1:{server.server_port}/")


class Time:
    def __init__(self):
        self.now = 0.0

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


UNDER_WAY = (200, {"status": {"id": "IN_PROGRESS"}, "operation": None})
DONE = (200, {"status": {"id": "COMPLETED"}, "operation": {"location": "file:/a/savepoint-1"}})


def test_a_savepoint_is_waited_for(server):
    rest = answering(
        server,
        (202, {"request-id": "t"}),
        *[UNDER_WAY] * 5,
        DONE,
        (200, {"state": "RUNNING"}),
        (200, {"state": "FINISHED"}),
    )
    time = Time()
    assert (
        rest.stop("j", "s3://b/x", clock=time.clock, sleep=time.sleep, drain=True) == "file:///a/savepoint-1"
    )
    assert time.now == 3.0
    body = {"targetDirectory": "s3://b/x", "drain": True, "formatType": "CANONICAL"}
    assert server.asked[0] == ("POST", "/jobs/j/stop", body)
    assert server.asked[1][:2] == ("GET", "/jobs/j/savepoints/t")


def test_a_savepoint_that_takes_too_long(server):
    rest = answering(server, (202, {"request-id": "t"}), UNDER_WAY)
    time = Time()
    with pytest.raises(FlinkError, match="of job j is not there after 20 s: give it a longer --deadline"):
        rest.stop("j", clock=time.clock, sleep=time.sleep, deadline=20)
    assert 20 <= time.now <= 21


def test_an_end_that_takes_too_long(server):
    time = Time()
    with pytest.raises(FlinkError, match="job j is CANCELLING after 60 s"):
        answering(server, (200, {"state": "CANCELLING"})).ended("j", clock=time.clock, sleep=time.sleep)


def told_job(number, name, state):
    return {
        "jid": f"{number:032x}",
        "name": name,
        "state": state,
        "start-time": number,
        "last-modification": 9,
    }


def test_one_of_several_jobs_of_a_name(server):
    jobs = [
        (1, "a", "FAILED"),
        (2, "b", "RUNNING"),
        (3, "a", "FINISHED"),
        (4, "b", "RESTARTING"),
        (5, "c", "RUNNING"),
    ]
    rest = answering(server, (200, {"jobs": [told_job(*job) for job in jobs]}))
    with pytest.raises(FlinkError, match=f"2 jobs called b run: name one by its id, {4:032x} or {2:032x}"):
        rest.job("b")
    assert rest.job(f"{2:032x}").name == "b"
    assert rest.job("a", running=False).state == "FINISHED"
    with pytest.raises(FlinkError, match="knows no job d: it runs b, c"):
        rest.job("d", running=False)
    with pytest.raises(FlinkError, match="knows no job d: it runs none"):
        answering(server, (200, {"jobs": []})).job("d")


@pytest.mark.parametrize(
    ("status", "body", "line"),
    [
        (200, b"<html>hello</html>", "answers, but is no Flink job manager: check --flink-master"),
        (200, {"hello": 1}, "answers, but is no Flink job manager: check --flink-master"),
        (404, b"<html>", "HTTP status 404"),
        (
            500,
            {"errors": ["Internal server error.", "<Exception on server side:\na.b.C: too bad\n\tat x"]},
            "too bad",
        ),
        (503, {"errors": ["Service temporarily unavailable"]}, "Service temporarily unavailable"),
        (
            500,
            {"errors": ["a.B: x\nCaused by: c.D: Unable to get it, the JobManager is initializing."]},
            "not all of its tasks run yet: wait until they do, and try again",
        ),
    ],
)
def test_answers_that_are_none(server, status, body, line):
    with pytest.raises(FlinkError, match=line) as told:
        answering(server, (status, body)).jobs()
    assert "\n" not in str(told.value)


def test_nobody_answers():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
        with pytest.raises(
            FlinkError, match=f"Flink at {address} cannot be reached .*: check --flink-master"
        ):
            FlinkRest(address).overview()


def test_somebody_never_answers():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(FlinkError, match=r"cannot be reached \(timed out\)"):
            FlinkRest(address, timeout=0.2).overview()


@pytest.mark.parametrize("address", ["", "host:port", "ftp://host", "http://"])
def test_what_is_no_address(address):
    with pytest.raises(FlinkError, match="is no address of a Flink job manager: write it as host:8081"):
        FlinkRest(address)


@pytest.mark.parametrize(
    ("path", "uri"),
    [
        ("file:/a/b", "file:///a/b"),
        ("file:///a/b", "file:///a/b"),
        ("s3://a/b", "s3://a/b"),
        ("<checkpoint-not-externally-addressable>", None),
        ("", None),
        (None, None),
    ],
)
def test_paths_as_flink_says_them(path, uri):
    assert flinkrest.uri_of(path) == uri


def test_names_are_ours_or_not():
    named = flinkrest.flink_name("a-b", "0123456789abcdef")
    assert flinkrest.Job("i", named, "RUNNING", 0, 0).called == "a-b"
    assert flinkrest.Job("i", "fibflow-x", "RUNNING", 0, 0).called == "fibflow-x"
