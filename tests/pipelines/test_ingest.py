"""The command line of the live feed, as a process: what it refuses, how it ends, and what a kill costs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pytest

from fibflow.benchmarks.faults.proxy import Mode, Proxy
from fibflow.io.kinesis.errors import KinesisError, kinesis_client
from fibflow.io.vendor.errors import WrongKey
from fibflow.pipelines import cli, ingest
from fibflow.tests.io.ingest.feedserver import FeedServer
from fibflow.tests.io.ingest.test_service import KEY, NOON_MS, lines_of, trades, wait_until
from fibflow.tests.io.kinesis.server import config_of, serving
from fibflow.tests.vendors import standin

MINUTE_US = 60_000_000


@pytest.fixture(scope="module")
def kinesis_url():
    with serving() as url:
        yield url


@pytest.fixture
def stream(kinesis_url, request):
    """A stream of two shards, and a client of it."""
    name = "".join(mark if mark.isalnum() else "-" for mark in request.node.name)[:100]
    client = kinesis_client(config_of(kinesis_url))
    client.create_stream(StreamName=name, ShardCount=2)
    return client, name


class Process:
    """An ingest in a process of its own."""

    def __init__(self, process, log):
        self.process, self._log = process, log
        self.port = 0

    @property
    def said(self):
        return self._log.read_text()

    def told(self):
        """What ``/healthz`` tells, and the counters of ``/metrics``."""
        if not self.port:
            wait_until(lambda: "has /healthz" in self.said or self.process.poll() is not None, "it listens")
            self.port = int(self.said.split(" has /healthz")[0].rpartition(":")[2])
        url = f"http://127.0.0.1:{self.port}"
        try:
            with urllib.request.urlopen(f"{url}/healthz", timeout=10) as answer:
                health = json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                health = json.loads(error.read())
        with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return health, {name.removeprefix("fibflow_ingest_"): float(value) for name, value in values.items()}

    def counted(self, name):
        return self.told()[1][f"{name}_total"]

    def end(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        return self.process.wait(30)


@pytest.fixture
def started(tmp_path, kinesis_url):
    """Starts processes, and ends them."""
    running: list[Process] = []

    def start(url, stream, *arguments, key=KEY, kinesis=kinesis_url):
        log = tmp_path / f"log{len(running)}"
        aws = config_of(kinesis)
        env = os.environ | {
            "MASSIVE_API_KEY": key,
            "AWS_ENDPOINT_URL": kinesis,
            "AWS_REGION": aws.region,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }
        command = [sys.executable, "-P", "-m", "fibflow.pipelines.ingest", "--to", f"kinesis://{stream}"]
        command += ["--feed-url", url, "--spool", str(tmp_path / "spool"), "--listen", "127.0.0.1:0"]
        with log.open("w") as file:
            process = subprocess.Popen([*command, *arguments], env=env, stdout=file, stderr=subprocess.STDOUT)
        running.append(Process(process, log))
        return running[-1]

    yield start
    for each in running:
        if each.process.poll() is None:
            each.process.kill()
            each.process.wait()


def numbers_of(stream):
    client, name = stream
    return Counter(line["q"] for line in lines_of(client, name) if line["ev"] == "T")


def test_what_lies_in_the_spool_outlives_a_kill_and_sigterm_drains(started, stream, kinesis_url):
    with FeedServer(KEY) as server, Proxy(kinesis_url) as proxy:
        first = started(server.url, stream[1], "--subscribe", "T.*", "--no-fill", kinesis=proxy.url)
        server.wait_for(1)
        server.send(trades(0, 500))
        wait_until(lambda: first.counted("sent") == 500, "the first are sent")
        proxy.set(Mode.GONE)
        server.send(*(trades(500 + 100 * n, 100, NOON_MS + n) for n in range(20)))
        wait_until(lambda: first.counted("received") == 2_500, "all are received")
        assert first.end(signal.SIGKILL) == -signal.SIGKILL
        assert set(numbers_of(stream)) == set(range(500))
        proxy.set(Mode.PASSES)

        again = started(server.url, stream[1], "--subscribe", "T.*", "--no-fill", kinesis=proxy.url)
        server.wait_for(2)
        server.send(trades(2_500, 100, NOON_MS + 30_000))
        wait_until(
            lambda: again.told()[0]["spool_bytes"] == 0 and again.counted("sent") >= 2_100, "all are sent"
        )
        server.send(trades(2_600, 100, NOON_MS + 31_000))
        wait_until(lambda: again.counted("received") == 200, "the last are received")
        assert again.end() == cli.OK
    found = numbers_of(stream)
    assert set(found) == set(range(2_700))
    # What was under way when Kinesis went or the process was killed may be there twice.
    assert max(found.values()) <= 2
    assert "MB wait in the spool" in again.said
    assert KEY not in first.said + again.said


def test_a_kill_and_a_cut_in_the_middle_of_the_feed_lose_no_minute(started, stream):
    with standin(symbols=20, minutes=1, key=KEY) as vendor:
        arguments = (
            "--subscribe",
            "AM.*",
            "--vendor-url",
            vendor.url,
            "--rate",
            "2000",
            "--heartbeat",
            "0.1",
        )
        # As fast as it is read, but not faster than this; and where nobody reads it waits.
        vendor.feed_fault("slow", at=0, length=1 << 30, rate=2_000)
        vendor.feed_fault("cut", at=1_500, length=400)
        vendor.play()
        first = started(f"ws://{vendor.feed}/stocks", stream[1], *arguments)
        wait_until(lambda: "is filled: " in first.said, "the hole of the cut is filled")
        first.end(signal.SIGKILL)
        again = started(f"ws://{vendor.feed}/stocks", stream[1], *arguments)
        wait_until(lambda: vendor.played["state"] == "played", "it is played to its end")
        # Its own hole; and that of the cut again, where the kill came before the mark of its being sent.
        wait_until(
            lambda: again.told()[1]["open_holes"] == 0 and again.counted("holes") in (1, 2),
            lambda: again.said,
        )
        expected = vendor.minutes().select(["symbol", "ts"])
        assert again.end() == cli.OK
    found = {(line["sym"], line["s"]) for line in lines_of(*stream) if line["ev"] == "AM"}
    times = expected["ts"].cast(pa.int64()).to_numpy().tolist()
    assert found == {
        (name, time // 1000) for name, time in zip(expected["symbol"].to_pylist(), times, strict=True)
    }
    values: dict[tuple[str, int], set[Any]] = {}
    for line in lines_of(*stream):
        if line["ev"] == "AM":
            values.setdefault((line["sym"], line["s"]), set()).add(
                (line["o"], line["h"], line["l"], line["c"], line["v"])
            )
    # What came twice, by the feed and by REST, is the same.
    assert max(map(len, values.values())) == 1


def test_a_refused_key_is_one_line_without_it(started, stream):
    with FeedServer(KEY) as server:
        process = started(server.url, stream[1], "--no-fill", key="not-the-key")
        assert process.process.wait(30) == cli.FAILED
    assert "refuses the key" in process.said.splitlines()[-1]
    assert "not-the-key" not in process.said
    assert "Traceback" not in process.said


@contextmanager
def environment(monkeypatch, **variables):
    for name in ("MASSIVE_API_KEY", "POLYGON_API_KEY", "FIBFLOW_FEED_URL", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    yield


def refused(monkeypatch, *arguments, **variables):
    with environment(monkeypatch, **variables):
        ingest.run(["--to", "kinesis://ticks", *arguments])


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--subscribe", "Q.*"], "'Q.*' is none of what the stream reads"),
        (["--subscribe", "AM"], "'AM' is none of what the stream reads"),
        (["--subscribe", " , "], "--subscribe is empty"),
        (["--spool-limit", "1"], "--spool-limit is 1: give 68 MB or more"),
        (["--heartbeat", "0"], "--heartbeat is 0"),
        (["--listen", "9190"], "--listen is 9190: write HOST:PORT"),
        (["--listen", "host:99999"], "--listen is host:99999: write HOST:PORT"),
        (["--feed-url", "http://host"], "has to read wss://host/stocks"),
        (["--vendor-url", "host"], "the vendor's address"),
        (["--rate", "0"], "--rate is 0"),
        (["--to", "kinesis://ticks?start=LATEST"], "the options after '[?]' are for who reads"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_begins(monkeypatch, arguments, line):
    with pytest.raises(cli.UsageError, match=line.replace("*", r"\*").replace(".", r"\.")):
        refused(monkeypatch, *arguments, MASSIVE_API_KEY=KEY)


def test_without_a_key_a_stream_or_a_calendar_it_says_so(monkeypatch, kinesis_url):
    with pytest.raises(WrongKey, match="there is no key of the vendor"):
        refused(monkeypatch)
    with pytest.raises(KinesisError, match="is no stream"):
        refused(monkeypatch, "--to", "s3://ticks", MASSIVE_API_KEY=KEY)
    aws = {"AWS_ENDPOINT_URL": kinesis_url, "AWS_REGION": "us-east-1"}
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "MASSIVE_API_KEY": KEY}
    with pytest.raises(KinesisError, match="there is no such stream"):
        refused(monkeypatch, "--to", "kinesis://none", **aws, **keys)


def test_a_stream_is_made_where_that_is_asked_for(monkeypatch, kinesis_url, tmp_path):
    aws = {"AWS_ENDPOINT_URL": kinesis_url, "AWS_REGION": "us-east-1"}
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "MASSIVE_API_KEY": KEY}
    for name, value in {**aws, **keys}.items():
        monkeypatch.setenv(name, value)
    asked = ["--to", "kinesis://made", "--create-stream", "3", "--spool", str(tmp_path), "--no-fill"]
    client = kinesis_client(config_of(kinesis_url))
    for _ in range(2):
        ingest.ingest_of(ingest.parser().parse_args([*asked, "--listen", "none"]))
        told = client.describe_stream_summary(StreamName="made")["StreamDescriptionSummary"]
        assert told["OpenShardCount"] == 3


def test_a_stream_that_is_away_at_the_start_is_no_reason_not_to_receive(started, stream, kinesis_url):
    with FeedServer(KEY) as server, Proxy(kinesis_url) as proxy:
        proxy.set(Mode.GONE)
        process = started(server.url, stream[1], "--subscribe", "T.*", "--no-fill", kinesis=proxy.url)
        server.wait_for(1)
        server.send(trades(0, 10))
        wait_until(lambda: process.counted("received") == 10, "they are received")
        proxy.set(Mode.PASSES)
        wait_until(lambda: process.counted("sent") == 10, "they are sent")
        assert process.end() == cli.OK
    assert numbers_of(stream) == Counter(range(10))


def test_topics_that_another_one_holds_are_left_out():
    assert ingest.topics_of("AM.A, T.A,AM.*,T.B") == ["T.A", "AM.*", "T.B"]


def test_sessions_are_the_regular_hours():
    in_session = ingest.sessions_of("XNYS")
    monday = 1_710_163_800_000_000  # 2024-03-11, 09:30 in New York
    assert [in_session(monday + minutes * MINUTE_US) for minutes in (-1, 0, 389, 390)] == [
        False,
        True,
        True,
        False,
    ]
    assert not in_session(monday - 86_400_000_000)


def test_the_port_is_taken(monkeypatch, stream, kinesis_url, tmp_path):
    with FeedServer(KEY) as server:
        keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "MASSIVE_API_KEY": KEY}
        arguments = ["--feed-url", server.url, "--spool", str(tmp_path / "spool"), "--no-fill"]
        arguments += [
            "--to",
            f"kinesis://{stream[1]}",
            "--listen",
            f"127.0.0.1:{server.port}",
            "--silence",
            "0",
        ]
        with pytest.raises(cli.UsageError, match="cannot be had: Address already in use"):
            refused(monkeypatch, *arguments, AWS_ENDPOINT_URL=kinesis_url, AWS_REGION="us-east-1", **keys)
