"""Flink's REST API as far as the exporter reads it, in this process, with the names that a real one gives."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from fibflow.runners.services.process import HOST

JOB, SOURCE, BARS, SINK = "a" * 32, "5" * 32, "b" * 32, "c" * 32
STARTED_S = 1_709_560_000
T0_S = 1_709_562_600


@dataclass
class FakeFlink:
    """What it knows of one job; ``metrics`` are by vertex and full id, as ``0.Operator.fibflow_late``."""

    state: str = "RUNNING"
    name: str = "fibflow-live-0123456789abcdef"
    status: dict[str, str] = field(default_factory=lambda: dict.fromkeys((SOURCE, BARS, SINK), "RUNNING"))
    metrics: dict[str, dict[str, str]] = field(default_factory=dict)
    restarts: str = "0"
    checkpoints: dict[str, Any] = field(default_factory=lambda: {"counts": {"failed": 0}, "latest": {}})
    asked: list[str] = field(default_factory=list)
    #: Cleared, it answers nobody.
    answers: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.answers.set()

    def answer(self, path: str, get: str | None) -> Any:
        """Return a document; None for 404."""
        job: dict[str, Any] = {"jid": JOB, "name": self.name, "state": self.state}
        job |= {"start-time": STARTED_S * 1000, "last-modification": STARTED_S * 1000}
        vertices = [{"id": each, "name": "Bars", "status": status} for each, status in self.status.items()]
        known = {
            "/jobs/overview": {"jobs": [job]},
            f"/jobs/{JOB}": {"vertices": vertices},
            f"/jobs/{JOB}/checkpoints": self.checkpoints,
            f"/jobs/{JOB}/metrics": [{"id": "numRestarts", "value": self.restarts}],
        }
        if path in known:
            return known[path]
        begin, end = f"/jobs/{JOB}/vertices/", "/metrics"
        if not (path.startswith(begin) and path.endswith(end)):
            return None
        held = self.metrics.get(path.removeprefix(begin).removesuffix(end), {})
        if get is None:
            return [{"id": name} for name in held]
        return [{"id": name, "value": held[name]} for name in get.split(",") if name in held]


class _Handler(BaseHTTPRequestHandler):
    server: Any

    def do_GET(self) -> None:
        """Answer, or wait until somebody lets it."""
        flink: FakeFlink = self.server.flink
        flink.answers.wait()
        flink.asked.append(self.path)
        url = urlsplit(self.path)
        get = parse_qs(url.query).get("get", [None])[0]
        # As Flink's server does.
        long = len(self.requestline) > 4096
        told = None if long else flink.answer(url.path, get)
        body = json.dumps({"errors": ["no such place"]} if told is None else told).encode()
        self.send_response(404 if told is None else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""


@contextmanager
def serving(flink: FakeFlink) -> Iterator[str]:
    """Serve it, and yield its address."""
    server: Any = ThreadingHTTPServer((HOST, 0), _Handler)
    server.daemon_threads, server.block_on_close, server.flink = True, False, flink
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"{HOST}:{server.server_port}"
    finally:
        flink.answers.set()
        server.shutdown()
        server.server_close()
        thread.join()


def distribution(total: int, count: int) -> str:
    """Return how Flink writes one of Beam's."""
    return f"DistributionResult{{sum={total}, count={count}, min=0, max={total}}}"


def busy() -> FakeFlink:
    """Return a job of two subtasks each that has met everything there is a metric of."""
    read, make, write = "_3_Kinesis_", "_2_Bars_", "CommitFiles"
    return FakeFlink(
        restarts="2",
        metrics={
            SOURCE: {
                "0.currentInputWatermark": "9223372036854775807",
                f"0.{read}.kinesis_messages_trades": "700",
                f"1.{read}.kinesis_messages_trades": "300",
                f"1.{read}.kinesis_messages_seconds": "40",
                f"0.{read}.kinesis_messages_dead_letters": "4",
                f"0.{read}.kinesis_rejected_unreadable": "3",
                f"0.{read}.kinesis_rejected_null_price": "1",
                f"0.{read}.kinesis_throttled": "5",
                f"0.{read}.kinesis_millis_behind_latest": distribution(9, 3),
                f"0.{read}.kinesis_millis_behind_latest_shardId-000000000000": "2500",
                f"1.{read}.kinesis_millis_behind_latest_shardId-000000000001": "0",
                f"1.{read}.kinesis_millis_behind_latest_shardId-000000000002": "-1",
            },
            BARS: {
                "0.currentInputWatermark": str(T0_S * 1000 - 9_000),
                "1.currentInputWatermark": str(T0_S * 1000 - 12_500),
                f"0.{make}.fibflow_ticks_in": "600",
                f"1.{make}.fibflow_ticks_in": "400",
                f"0.{make}.fibflow_late": "6",
                f"1.{make}.fibflow_late": "1",
                f"0.{make}.fibflow_dead_letters": "20",
                f"0.{make}.fibflow_rejected_duplicate": "18",
                f"0.{make}.fibflow_rejected_not_a_session": "2",
                f"0.{make}.fibflow_bars_out": "110",
                f"0.{make}.fibflow_bars_out_1m": "60",
                f"1.{make}.fibflow_bars_out_1m": "40",
                f"1.{make}.fibflow_bars_out_34d": "10",
                f"1.{make}.fibflow_bars_revised_1m": "8",
            },
            SINK: {
                "0.currentInputWatermark": "-9223372036854775808",
                f"0.{write}.lake_commit_ms_silver_live": distribution(1250, 5),
                f"1.{write}.lake_commit_ms_bronze_ticks": distribution(800, 2),
                f"0.{write}.lake_commits_silver_live": "5",
            },
        },
        checkpoints={
            "counts": {"failed": 1, "completed": 9},
            "latest": {
                "completed": {
                    "state_size": 123_456,
                    "end_to_end_duration": 1_500,
                    "trigger_timestamp": (T0_S - 20) * 1000,
                }
            },
        },
    )
