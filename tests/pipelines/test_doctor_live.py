"""``pipelines.doctor`` on all at once: Flink, Redis, PostgreSQL, a server, and a canary through them."""

from __future__ import annotations

import json
import random
import subprocess
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pyarrow as pa
import pytest

from fibflow.io import tables
from fibflow.io.aws import AwsConfig
from fibflow.io.checkup.site import CANARY
from fibflow.io.flinkrest import FlinkRest
from fibflow.io.kinesis.errors import kinesis_client
from fibflow.io.kinesis.producer import PutTicks
from fibflow.io.lake import Lake
from fibflow.io.livestore import LiveStore
from fibflow.io.postgresql import migrate
from fibflow.pipelines import batch
from fibflow.runners.services.stack import Stack
from fibflow.tests.io.flinkcluster import until
from fibflow.tests.pipelines.doctoring import NAMES, due, land, looked, now
from fibflow.tests.pipelines.lakes import XNYS, command
from fibflow.tests.pipelines.raws import FAST, Raw
from fibflow.tests.serving.servers import started

_STREAM, _BUCKETS = "ticks", 8
#: Of warnings these are the machine's, not the installation's.
_OF_THE_MACHINE = ("lake disk", "packages", "kinesis read")


@dataclass(frozen=True)
class Installation:
    """Everything that there is, and how to name it."""

    stack: Stack
    lake: str
    client: object
    put: PutTicks

    @property
    def argv(self) -> list[str]:
        return [
            *("--lake", self.lake, "--source", f"kinesis://{_STREAM}?lanes=1"),
            *("--redis", self.stack.env["REDIS_URL"], "--postgres", self.stack.env["DATABASE_URL"]),
            *("--flink-master", self.stack.address("job-manager")),
            *("--worker-pool", self.stack.address("worker-pool")),
        ]

    def rows(self, table: str) -> list[dict]:
        found = Lake(self.lake).table(tables.TABLES[table])
        return found.snapshot().read()[0].to_pylist() if found.exists else []

    def canaries(self, table: str) -> list[dict]:
        return [row for row in self.rows(table) if row["symbol"] == CANARY]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A live job of trades, with one trade and the heartbeats of now."""
    folder = tmp_path_factory.mktemp("installed")
    with (
        pytest.MonkeyPatch.context() as patch,
        Stack(["redis", "postgres", "moto", "flink", "beam"]) as stack,
    ):
        for name in NAMES:
            patch.delenv(name, raising=False)
        for name, value in stack.env.items():
            if name.startswith("AWS_"):
                patch.setenv(name, value)
        lake = str(folder / "lake")
        land(lake, Raw(folder / "raw"), due(now()))
        batch.run(["--lake", lake, *FAST])
        migrate.upgrade(stack.env["DATABASE_URL"])
        client = kinesis_client(AwsConfig.resolve({**stack.env}))
        client.create_stream(StreamName=_STREAM, ShardCount=1)
        client.get_waiter("stream_exists").wait(StreamName=_STREAM, WaiterConfig={"Delay": 1})
        put = PutTicks(client, _STREAM, time.monotonic, time.sleep, random.random)
        line = command(
            "stream",
            *("--source", f"kinesis://{_STREAM}?start=TRIM_HORIZON&poll=0.2", "--bars-from", "trades"),
            *("--lake", lake, "--redis", stack.env["REDIS_URL"], "--timeframes", "1m,1d"),
            *("--flink-master", stack.address("job-manager"), "--worker-pool", stack.address("worker-pool")),
            *(
                "--job-endpoint",
                stack.address("job-server"),
                "--parallelism",
                "1",
                "--buckets",
                str(_BUCKETS),
            ),
            *("--checkpoints", (folder / "kept").as_uri(), "--checkpoint-every", "1", "--commit-every", "1"),
            "--detach",
        )
        done = subprocess.run(line, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        made = Installation(stack, lake, client, put)
        rest = FlinkRest(stack.address("job-manager"))
        try:
            until(lambda: rest.checkpoints(rest.job("live").id), "no checkpoint")
            yield made
        finally:
            job = rest.job("live")
            rest.cancel(job.id)
            rest.ended(job.id, clock=time.monotonic, sleep=time.sleep)


def trade(installed: Installation, symbol: str, ms: int, seq: int) -> None:
    told = {"ev": "T", "sym": symbol, "i": str(seq), "x": 4, "p": 10.5, "s": 100, "z": 3, "t": ms, "q": seq}
    rows = {
        "symbol": [symbol],
        "message": [json.dumps(told)],
        "ts": pa.array([ms * 1000]).cast(pa.timestamp("us", "UTC")),
    }
    installed.put.put(pa.table(rows))
    installed.put.flush()


def test_a_canary_goes_through_everything_and_makes_no_bar(installed: Installation, tmp_path: Path) -> None:
    # A day that is played again: the canary must not move its clock to now.
    behind = int(XNYS.opens[XNYS.position_on_or_before((due(now())[-1] - date(1970, 1, 1)).days)]) // 1000
    trade(installed, "AAPL", behind, 1)
    log = tmp_path / "server.log"
    server = "--open", "--lake", installed.lake, "--redis", installed.stack.env["REDIS_URL"]
    with started(log, *server, "--buckets", str(_BUCKETS)) as serving:
        argv = *installed.argv, "--server", serving.url, "--canary"
        first = looked(*argv)
        again = looked(*argv)
    for found in (first, again):
        assert found.code == 0, found.text
        for check in ("canary: kinesis", "canary: redis", "canary: api", "flink", "flink job", "aws"):
            assert found[check][0] == "ok", found.text
        assert found.states(*_OF_THE_MACHINE, "live store") == {"ok"}, found.text
    until(lambda: len(installed.canaries("bronze.ticks")) == 2, "the canaries are archived")
    kept = installed.canaries("bronze.ticks")
    assert {row["kind"] for row in kept} == {"A"}
    # As late as the feed, to its second.
    assert {int(row["ts"].timestamp()) for row in kept} == {behind // 1000}
    with LiveStore(installed.stack.env["REDIS_URL"], buckets=_BUCKETS) as store:
        assert store.last_prices([CANARY])["source"].to_pylist() == ["second"]
        assert not len(store.open_bars([CANARY]))
    # What comes next of the feed is late for nothing: its minute ends as it would have.
    trade(installed, "AAPL", behind + 1, 2)
    trade(installed, "AAPL", behind + 3 * 60_000, 3)
    until(lambda: [row for row in installed.rows("silver.live") if row["timeframe"] == "1m"], "no minute")
    (bar,) = [row for row in installed.rows("silver.live") if row["timeframe"] == "1m" and not row["final"]]
    assert (bar["symbol"], bar["trade_count"]) == ("AAPL", 2)
    for table in ("silver.live", "late", "dead_letters"):
        assert installed.canaries(table) == []


def test_a_canary_that_does_not_come_out_fails(installed: Installation) -> None:
    trade(installed, "MSFT", round(now().timestamp() * 1000), 10)
    nowhere = "--source", f"kinesis://{_STREAM}", "--redis", installed.stack.env["REDIS_URL"]
    found = looked(*nowhere, "--prefix", "another", "--canary", "--timeout", "6")
    assert found.code == 1
    assert found["canary: kinesis"][0] == "ok"
    state, reason, advice = found["canary: redis"]
    assert state == "failed"
    assert "is not there after" in reason
    assert "pipelines.jobs list" in advice


def test_a_job_that_does_not_run_fails(installed: Installation) -> None:
    master = "--flink-master", installed.stack.address("job-manager")
    other = looked(*master, "--job", "other")
    assert other["flink"][0] == "ok"
    assert other["flink job"][0] == "failed"
    assert "it runs live" in other["flink job"][1]
    assert [each for each in looked(*master, "--job", "").found if each["check"] == "flink job"] == []
    later = looked(*master, now=lambda: time.time() + 700)
    assert later["flink job"][0] == "failed"
    assert "last checkpoint" in later["flink job"][1]
