"""The real pipelines on what the stack made; each service's role allows what it called, and no more."""

from __future__ import annotations

import ast
import itertools
import random
import time
from dataclasses import replace
from datetime import date, timedelta

import pytest
from fastapi.testclient import TestClient

from fibflow.io import tables
from fibflow.io.alerts.claims import End
from fibflow.io.dynamodb import PriceTable, TickTable
from fibflow.io.kinesis.errors import kinesis_client
from fibflow.io.kinesis.reader import LaneReader, Limits
from fibflow.io.kinesis.shards import kept_us
from fibflow.io.lake import Lake
from fibflow.io.notify.sns import Topics
from fibflow.io.storage import Storage
from fibflow.io.vendor.files import NO_TRADE, RawFolder
from fibflow.pipelines import batch, daily, exporter, load, news, replay, stream
from fibflow.serving.__main__ import settings_of
from fibflow.serving.app import create_app
from fibflow.tests.deploy.aws import stacks
from fibflow.tests.deploy.aws.journal import Call, Grant, grants_of, recording
from fibflow.tests.deploy.aws.services import KEY, NOW, Installed, Line, vendors, without
from fibflow.tests.io.ingest.feedserver import FeedServer
from fibflow.tests.io.ingest.test_service import lines_of, trades, wait_until
from fibflow.tests.io.livestores import price, prices
from fibflow.tests.io.notify.sending import EVENT
from fibflow.tests.io.streams import started
from fibflow.tests.pipelines.raws import FAST, parquet_bytes, rows_of, table_of

SERVICES = ("daily", "exporter", "ingest", "news", "notify", "serving", "stream")
#: What a role allows that no program of ours calls itself, and who does.
EXCEPTIONS = {
    ("stream", "s3:GetObject", "checkpoints"): "Flink's own file system, when a job goes on",
    ("stream", "s3:PutObject", "checkpoints"): "Flink's own file system",
    ("stream", "s3:DeleteObject", "checkpoints"): "Flink drops checkpoints that are superseded",
    ("stream", "s3:AbortMultipartUpload", "checkpoints"): "Flink's uploads that failed",
    ("stream", "s3:GetObject", "savepoints"): "Flink's own file system, when a job goes on",
    ("stream", "s3:PutObject", "savepoints"): "Flink's own file system",
    ("stream", "s3:DeleteObject", "savepoints"): "Flink drops a savepoint that failed",
    ("stream", "s3:AbortMultipartUpload", "savepoints"): "Flink's uploads that failed",
}
DAYS = [date(2024, 1, 2) + timedelta(n) for n in range(40)]
DAYS = [day for day in DAYS if day.weekday() < 5 and day not in (date(2024, 1, 15),)]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    with recording(tmp_path_factory.mktemp("aws")) as recorded, vendors() as vendor:
        outputs = stacks.deploy(recorded.aws, Size="team", HistoryFrom="2024-02-20", Subscribe="T.*")
        yield Installed(recorded, outputs, vendor)


@pytest.fixture(scope="module")
def evening(installed) -> Lake:
    """The lake in the stack's bucket: imported history, the daily run of the task definition, a bad one."""
    data = installed.data
    bucket, lake = data["Lake"], data["LakeUri"]
    body = parquet_bytes(table_of(rows_of("OLD", DAYS), with_symbol=False))
    installed.recorded.aws.boto3_client("s3").put_object(
        Bucket=bucket, Key="import/symbol=OLD/data.parquet", Body=body
    )
    with installed.acting("operator"):
        load.run(["--input", f"s3://{bucket}/import", "--lake", lake, "--price-basis", "raw", *FAST])
        batch.run(["--lake", lake, "--timeframes", "3d,5d", *FAST])
    # PostgreSQL is no call of AWS.
    command = without(installed.arguments("daily"), "--postgres")
    command += ["--vendor-url", installed.vendor.url, "--rate", "5000", *FAST]
    with installed.acting("daily", MASSIVE_API_KEY=KEY):
        assert daily.run(command, now=lambda: NOW) == 0
    with installed.acting("daily", MASSIVE_API_KEY="another"), pytest.raises(daily.DailyError):
        daily.run([*command, "--skip", "load,batch,reconcile,maintain"], now=lambda: NOW)
    # Once in some months the notes of when nothing traded are gathered.
    raw = RawFolder(Storage(data["RawUri"], installed.aws("daily")), map(str, itertools.count()).__next__)
    for _ in range(65):
        raw.add_no_trade(NO_TRADE.empty_table())
    raw.no_trade()
    return Lake(lake, installed.aws("operator"))


@pytest.fixture(scope="module")
def ticks(installed, tmp_path_factory) -> int:
    """How many trades came into the stack's stream, by replay and by ingest."""
    data, folder = installed.data, tmp_path_factory.mktemp("ingest")
    with installed.acting("operator"):
        target = ("--to", f"kinesis://{data['Stream']}")
        what = ("--synthetic", "5", "--sessions", "2024-03-11", "--trades", "50", "--feed", "trades")
        assert replay.run([*what, *target]) == 0
    client = kinesis_client(installed.aws("operator"))

    def found() -> int:
        return sum(line["ev"] == "T" for line in lines_of(client, data["Stream"]))

    replayed = found()
    assert replayed > 100
    with FeedServer(KEY) as server:
        command = ["fibflow.pipelines.ingest", *without(installed.arguments("ingest"), "--spool", "--listen")]
        command += [
            "--feed-url",
            server.url,
            "--spool",
            str(folder / "spool"),
            "--listen",
            "none",
            "--no-fill",
        ]
        line = Line(command, installed.recorded.env("ingest") | {"MASSIVE_API_KEY": KEY})
        server.wait_for(1)
        server.send(trades(0, 200))
        wait_until(lambda: found() == replayed + 200, lambda: line.said)
        assert line.end() == 0
    return replayed + 200


@pytest.fixture(scope="module")
def streamed(installed, ticks, evening) -> int:
    """How many records the stream's own code read; it wrote prices, and rows of the lake."""
    data, aws = installed.data, installed.aws("stream")
    lake = f"{data['LakeUri']}/streamed"
    source = f"kinesis://{data['Stream']}?start=TRIM_HORIZON&lanes=2"
    command = ["--source", source, "--bars-from", "trades", "--lake", lake, "--timeframes", "1m"]
    command += ["--dynamodb", data["PriceTable"], "--dynamodb-ticks", data["TickTable"]]
    with installed.acting("stream"):
        job = stream.live_job(stream.parser().parse_args(command), written=None)
    client = kinesis_client(aws)
    assert kept_us(client, data["Stream"]) == 86_400_000_000
    read = 0
    for lane in job.lanes:
        reader = LaneReader(client, lane.stream, Limits(), time.time, time.sleep, random.Random(1).random)
        read += sum(len(block.records) for block in reader.poll(lane.start.shards).blocks)
    written = prices(price("OLD", 12.5), price("NEW", 3.25))
    PriceTable(data["PriceTable"], aws).write(written)
    TickTable(data["TickTable"], aws).write(written)
    started(Lake(lake, aws), commits=2)
    return read


@pytest.fixture(scope="module")
def told(installed, evening):
    """What the server answers."""
    argv = without(installed.arguments("serving"), "--workers", "--host")
    env = installed.recorded.env("serving")
    with installed.acting("serving"):
        settings = settings_of([*argv, "--open", "--redis", "", "--postgres", ""], env)
    app = create_app(replace(settings, threads=2, hosts=(), log_requests=False), lambda: NOW)
    with TestClient(app) as client:
        yield client


@pytest.fixture(scope="module")
def calls(installed, evening, streamed, told) -> set[Call]:
    """All calls of AWS that were made."""
    assert told.get("/v1/bars", params={"symbols": "OLD", "timeframe": "3d"}).status_code == 200
    assert told.get("/v1/prices", params={"symbols": "OLD"}).status_code == 200
    outcomes = Topics(lambda: installed.aws("notify")).publish(installed.data["Alerts"], [EVENT])
    assert [each.end for each in outcomes] == [End.DELIVERED]
    command = without(installed.arguments("news"), "--every")
    with installed.acting("news", MASSIVE_API_KEY=KEY):
        for _ in range(2):  # the second drops the first one's lease
            assert news.run([*command, "--vendor-url", installed.vendor.url], now=lambda: NOW) == 0
    command = ["--once", "--lake", installed.data["LakeUri"]]
    command += ["--source", f"kinesis://{installed.data['Stream']}"]
    with installed.acting("exporter"):
        assert exporter.run(command) == 0
    return installed.recorded.calls()


@pytest.fixture(scope="module")
def grants(installed) -> dict[str, list[Grant]]:
    """What each service's role allows, as it was deployed."""
    iam = installed.recorded.aws.boto3_client("iam")
    found = {}
    for name in SERVICES:
        if name == "stream":
            arn = installed.outputs["roles"]["StreamPolicy"]
            told = iam.get_policy_version(PolicyArn=arn, VersionId="v1")["PolicyVersion"]["Document"]
        else:
            told = iam.get_role_policy(RoleName=f"fibflow-{name}", PolicyName=name)["PolicyDocument"]
        # The emulator keeps a role's policy as Python's text of it.
        found[name] = grants_of(ast.literal_eval(told) if isinstance(told, str) else told)
    return found


def test_the_daily_run_fills_the_bucket_and_the_server_answers_from_it(installed, evening, told):
    days = evening.table(tables.DAILY).snapshot().read()[0]
    assert len(set(days["symbol"].to_pylist())) >= 4
    answer = told.get("/v1/bars", params={"symbols": "OLD", "timeframe": "3d", "limit": "3"}).json()
    assert len(answer["bars"]) == 3
    name = next(name for name in days["symbol"].to_pylist() if name != "OLD")
    assert told.get("/v1/bars", params={"symbols": name, "timeframe": "5d"}).json()["bars"]


def test_replay_and_ingest_fill_the_stream_and_the_streams_code_reads_all(installed, ticks, streamed):
    assert streamed
    assert ticks > 300


def test_live_prices_come_from_the_stacks_table(installed, streamed, told):
    found = told.get("/v1/prices/OLD").json()
    assert "12.5" in str(found)


@pytest.mark.parametrize("name", SERVICES)
def test_a_role_allows_each_call_that_its_service_made(calls, grants, name):
    made = [call for call in calls if call.who == name]
    assert made
    refused = [call for call in made if not any(grant.covers(call) for grant in grants[name])]
    assert not refused


@pytest.mark.parametrize("name", SERVICES)
def test_a_role_allows_nothing_that_its_service_did_not_call(calls, grants, name):
    made = [call for call in calls if call.who == name]
    unused = []
    for grant in grants[name]:
        (resource,) = grant.resources
        part = resource.rpartition("/")[0].rpartition("/")[2]
        if (name, grant.action, part) in EXCEPTIONS:
            continue
        if not any(grant.covers(call) for call in made):
            unused.append(grant)
    assert not unused
