"""What real processes tell of their faults fires the alarms that are for them, and nothing did before."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from fastapi.testclient import TestClient

from fibflow.io.ingest.feed import Feed
from fibflow.io.ingest.receiver import ReceiveOptions
from fibflow.io.ingest.sender import SendOptions
from fibflow.io.ingest.service import Ingest, Settings, Unsent
from fibflow.io.kinesis.errors import Backoff, kinesis_client
from fibflow.io.notify.outbox import Outbox
from fibflow.io.notify.status import Status
from fibflow.pipelines import exporter
from fibflow.runners.services.process import free_ports
from fibflow.serving import metrics
from fibflow.serving.app import create_app
from fibflow.serving.settings import Settings as ServerSettings
from fibflow.tests.deploy.watching import firing, in_turn, samples
from fibflow.tests.io.ingest.feedserver import FeedServer
from fibflow.tests.io.ingest.test_service import wait_until
from fibflow.tests.io.kinesis.server import config_of
from fibflow.tests.io.livestores import serving
from fibflow.tests.serving.conftest import small_lake

KEY = "secret-key"
#: What else there is while a part is looked at: the session, and those that alarms would miss.
AROUND = {
    'fibflow_session_open{exchange="XNYS"}': 1.0,
    'fibflow_session_seconds{exchange="XNYS"}': 600.0,
    'fibflow_stream_up{job="live"}': 1.0,
    "fibflow_ingest_feed_up": 1.0,
    "fibflow_notify_postgresql_up": 1.0,
    "fibflow_requests_in_flight": 1.0,
}
WEDNESDAY = datetime(2024, 3, 13, 15, tzinfo=UTC).timestamp()
SATURDAY = datetime(2024, 3, 16, 15, tzinfo=UTC).timestamp()


@pytest.fixture(autouse=True)
def _nobody_else():
    """The server's metrics are the process's: others' tests have left theirs."""
    for each in (metrics.STORE_UP, metrics.REQUESTS, metrics.LAKE_AGE):
        each.clear()


@pytest.fixture
def judge(tmp_path):
    """Holds the rules against a quarter of an hour of one look and three of another."""

    def hold(before, after, expected, around=AROUND):
        given = in_turn({**around, **before}, {**around, **after}, 15, 45)
        code, said = firing(tmp_path, given, {"14m": [], "59m": expected})
        assert code == 0, said

    return hold


def test_redis_stopped_under_a_server(judge, tmp_path):
    lake = small_lake(tmp_path / "lake")
    with serving(tmp_path) as server:
        settings = ServerSettings(lake.uri, open_access=True, threads=2, log_requests=False, redis=server.url)
        with TestClient(create_app(settings)) as client:
            before = samples(client.get("/metrics").text)
            assert before['fibflow_store_up{store="redis"}'] == 1
            server.kill()

            def after():
                return samples(client.get("/metrics").text)

            wait_until(lambda: after()['fibflow_store_up{store="redis"}'] == 0, "it is seen")
            judge(before, after(), ["FibflowRedisDown"])
            server.start()


def test_stores_that_a_server_cannot_reach(judge, tmp_path):
    lake = small_lake(tmp_path / "lake")
    settings = ServerSettings(lake.uri, open_access=True, threads=2, log_requests=False)
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    port = free_ports(["nobody"])["nobody"]
    with TestClient(create_app(settings)) as client:
        assert client.get("/v1/bars?symbols=AAPL&timeframe=1d").status_code == 200
        before = samples(client.get("/metrics").text)
    broken = replace(
        settings,
        lake=str(nothing),
        redis=f"redis://127.0.0.1:{port}/0",
        postgres=f"postgresql://ada@127.0.0.1:{port}/x",
    )
    with TestClient(create_app(broken)) as client:
        for _ in range(5):
            assert client.get("/v1/open-bars?symbols=AAPL").status_code == 503
        after = samples(client.get("/metrics").text)
    # A counter that comes is one that was 0.
    before |= {name: 0.0 for name in after if name not in before and 'status="503"' in name}
    stores = ["FibflowLakeUnreadable", "FibflowPostgresDown", "FibflowRedisDown"]
    judge(before, after, [*stores, "FibflowServingErrors"])


def test_postgresql_gone_from_a_notifier(judge):
    port = free_ports(["postgres"])["postgres"]
    status, said = Status(), list[str]()
    before = samples(status.metrics().decode())
    outbox = Outbox(f"postgresql://ada@127.0.0.1:{port}/x", status, said.append)
    assert outbox.ask(lambda connection: connection) is None
    assert said
    judge(before, samples(status.metrics().decode()), ["FibflowPostgresDown"])


def test_a_vendor_that_hangs_up_and_a_kinesis_that_is_gone(judge, tmp_path):
    port = free_ports(["kinesis"])["kinesis"]
    with FeedServer(KEY) as vendor:
        ingest = Ingest(
            Feed(vendor.url, KEY, ("T.*",), timeout=5.0),
            kinesis_client(config_of(f"http://127.0.0.1:{port}")),
            "ticks",
            None,
            lambda _: True,
            Settings(
                tmp_path / "spool",
                1 << 24,
                drain=0.0,
                receive=ReceiveOptions(backoff=Backoff(0.01, 0.1), heartbeat=0.05, ping=0.05),
                send=SendOptions(linger=0.01, retry=0.05, fill_within=1.0),
            ),
            lambda line: None,
        )

        def work():
            with suppress(Unsent):
                ingest.run()

        thread = threading.Thread(target=work)
        thread.start()
        wait_until(lambda: ingest.status.feed_down_since is None, "it is connected")
        connected = samples(ingest.status.metrics().decode())
        assert connected["fibflow_ingest_feed_up"] == 1
        vendor.send([{"ev": "T", "sym": "A", "p": 1.5, "s": 1, "t": 1_710_158_400_000, "q": 1}])
        wait_until(lambda: ingest.status.kinesis_down_since is not None, "Kinesis is missed")
        unsent = samples(ingest.status.metrics().decode())
        vendor.leave()
        wait_until(lambda: ingest.status.feed_down_since is not None, "the vendor is missed")
        alone = samples(ingest.status.metrics().decode())
        ingest.stop()
        thread.join()
    up = {**connected, "fibflow_ingest_kinesis_up": 1.0}
    judge(up, unsent, ["FibflowIngestSpooling"])
    # Cuts are few: the hour that follows has no more of them.
    alone["fibflow_ingest_cuts_total"] = up["fibflow_ingest_cuts_total"]
    judge(up, alone, ["FibflowFeedDown", "FibflowIngestSpooling"])


@pytest.mark.parametrize(
    ("at", "expected"),
    [(WEDNESDAY, ["FibflowExporterBlind", "FibflowStreamDown"]), (SATURDAY, ["FibflowStreamNotReady"])],
)
def test_a_flink_that_is_gone_wakes_somebody_in_a_session_and_nobody_on_a_saturday(judge, at, expected):
    port = free_ports(["flink"])["flink"]
    args = exporter.parser().parse_args(["--flink-master", f"127.0.0.1:{port}"])
    told = samples(exporter.exporter_of(args, {}, lambda: at).metrics().decode())
    assert told['fibflow_exporter_up{source="flink"}'] == 0
    around = {name: value for name, value in AROUND.items() if "stream" not in name and "session" not in name}
    running = {'fibflow_exporter_up{source="flink"}': 1.0, 'fibflow_stream_up{job="live"}': 1.0}
    # Too early in the session to miss ticks.
    told = {**told, 'fibflow_session_seconds{exchange="XNYS"}': 600.0}
    judge({**told, **running}, told, expected, around)


def test_an_exporter_that_is_gone(judge):
    gone = {name: value for name, value in AROUND.items() if "session" not in name}
    judge(AROUND, {}, ["FibflowExporterDown"], gone)
