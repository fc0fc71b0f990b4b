"""``python -m pipelines.exporter``: every metric there is, told by a process that asks when it is asked."""

from __future__ import annotations

import contextlib
import io
import json
import re
import threading
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fibflow.io.dailyend import DailyEnd
from fibflow.io.exporter import metrics
from fibflow.io.exporter.metrics import SPECS, Kind
from fibflow.io.exporter.places import QUALITY
from fibflow.io.lake import Lake
from fibflow.io.storage import Storage
from fibflow.pipelines import cli, exporter
from fibflow.runners.services.process import HOST, free_ports
from fibflow.tests.io.exporter.fakeflink import FakeFlink, busy, serving
from fibflow.tests.io.exporter.told import Told, told
from fibflow.tests.io.streams import started

#: What PostgreSQL tells, see tests/io/postgresql.
OUTBOX = {metrics.OUTBOX_WAITING.name, metrics.OUTBOX_OVERDUE.name}
ENVIRONMENT = ("FIBFLOW_LAKE", "FIBFLOW_SOURCE", "FLINK_REST_URL", "DATABASE_URL")


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def lake(tmp_path: Path) -> str:
    """A lake with a table of the stream, and what runs left."""
    made = Lake(str(tmp_path / "lake"))
    started(made)
    storage = Storage(made.uri)
    DailyEnd(datetime(2024, 3, 15, 23, tzinfo=UTC), 0).write(storage)
    report = {"made_at": "2024-03-15T22:30:00Z", "gaps": {"1m": 4}, "quiet_symbols": [], "differences": 0}
    storage.write(QUALITY, json.dumps(report).encode())
    return made.uri


def once(*argv: str) -> tuple[Told, str]:
    """What it prints with ``--once``, and says."""
    out, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
        assert exporter.run([*argv, "--once"]) == cli.OK
    return told(out.getvalue().encode()), said.getvalue()


class Said(io.StringIO):
    """What is said, and the address in it."""

    def __init__(self) -> None:
        super().__init__()
        self.listens = threading.Event()

    def write(self, text: str) -> int:
        written = super().write(text)
        if "/healthz" in text:
            self.listens.set()
        return written

    def address(self) -> str:
        assert self.listens.wait(60), self.getvalue()
        found = re.search(r"http://\S+", self.getvalue())
        assert found
        return found[0]


@contextlib.contextmanager
def running(*argv: str) -> Iterator[str]:
    """Run it, and yield its address."""
    said, stop = Said(), threading.Event()
    thread = threading.Thread(target=exporter.run, args=([*argv, "--port", "0"], stop))
    with contextlib.redirect_stderr(said):
        thread.start()
        try:
            yield said.address()
        finally:
            stop.set()
            thread.join()


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return bytes(answer.read())


def test_each_metric_is_told_and_no_other(lake: str, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    s3.aws.boto3_client("kinesis").create_stream(StreamName=f"of-{s3.bucket}", ShardCount=2)
    with serving(busy()) as flink:
        found, said = once(
            "--lake", lake, "--source", f"kinesis://of-{s3.bucket}?lanes=2", "--flink-master", flink
        )
    assert said == ""
    assert set(found["fibflow_exporter_up"].items()) == {
        ((source,), 1.0) for source in ("calendar", "flink", "kinesis", "lake", "reports")
    }
    summaries = {spec.name for spec in SPECS if spec.kind is Kind.SUMMARY}
    plain = {spec.name for spec in SPECS} - summaries - OUTBOX
    assert set(found) == plain | {f"{name}_{part}" for name in summaries for part in ("sum", "count")}


def test_what_is_not_named_is_not_asked() -> None:
    found, _ = once()
    assert found["fibflow_exporter_up"] == {("calendar",): 1.0}
    assert set(found) == {
        "fibflow_exporter_up",
        "fibflow_exporter_seconds",
        "fibflow_session_open",
        "fibflow_session_seconds",
    }


def test_a_flink_that_hangs_and_a_lake_that_is_none_leave_the_rest(lake: str, tmp_path: Path) -> None:
    flink = busy()
    flink.answers.clear()
    report = tmp_path / "lake" / QUALITY
    report.write_text("{")
    with serving(flink) as address:
        found, said = once("--lake", lake, "--flink-master", address, "--timeout", "0.5")
    up = {"calendar": 1.0, "flink": 0.0, "lake": 1.0, "reports": 0.0}
    assert found["fibflow_exporter_up"] == {(name,): value for name, value in up.items()}
    assert ("silver.live",) in found["fibflow_lake_age_seconds"]
    assert not [name for name in found if name.startswith(("fibflow_stream", "fibflow_quality"))]
    assert "flink does not answer: no answer within 0.5 s\n" in said
    assert "reports does not answer: _quality/latest.json of the lake cannot be read" in said


def test_a_server_answers_prometheus_and_whoever_asks_how_it_is() -> None:
    with serving(FakeFlink(state="FAILED")) as flink, running("--flink-master", flink) as url:
        assert told(get(f"{url}/metrics"))["fibflow_stream_up"] == {("live",): 0.0}
        assert json.loads(get(f"{url}/healthz")) == {"status": "ok", "away": {}}


def test_names_come_from_the_environment(lake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(busy()) as flink:
        monkeypatch.setenv("FIBFLOW_LAKE", lake)
        monkeypatch.setenv("FLINK_REST_URL", f"http://{flink}")
        found, _ = once()
        assert {source for (source,) in found["fibflow_exporter_up"]} == {
            "calendar",
            "flink",
            "lake",
            "reports",
        }
        found, _ = once("--flink-master", "", "--lake", "")
        assert found["fibflow_exporter_up"] == {("calendar",): 1.0}


def test_a_secret_is_not_said(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_ports(["nobody"])["nobody"]
    found, said = once("--postgres", f"postgresql://u:hush-hush@{HOST}:{port}/fibflow")
    assert found["fibflow_exporter_up"]["postgres",] == 0.0
    assert "postgres does not answer: " in said
    assert "hush" not in said


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["--timeout", "0"], "--timeout is 0: give seconds above 0, up to 600"),
        (["--port", "70000"], "--port is 70000: give one from 0 to 65535"),
        (["--source", "ticks"], "--source: 'ticks' is no stream"),
        (["--flink-master", "http://"], "--flink-master: 'http://' is no address"),
        (["--lake", "gs://bucket"], "--lake: "),
    ],
)
def test_what_cannot_be_is_refused(argv: list[str], why: str) -> None:
    with pytest.raises(cli.UsageError) as refused:
        exporter.run([*argv, "--once"])
    assert why in str(refused.value)


def test_a_port_that_is_taken_is_said_so() -> None:
    with serving(FakeFlink()) as taken, pytest.raises(cli.UsageError, match=r"^--port: .* cannot be had"):
        exporter.run(["--port", taken.rpartition(":")[2]])
