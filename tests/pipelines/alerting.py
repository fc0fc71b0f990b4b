"""Alerts of a replayed session for the acceptance: who asks for them, who is told, and what is due."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import psycopg2
import pyarrow as pa

from fibflow.io.alerts import feed
from fibflow.io.alerts.model import Alert
from fibflow.io.alerts.source import FactFeed
from fibflow.io.alerts.store import AlertStore
from fibflow.io.aws import AwsConfig
from fibflow.io.kinesis.decoded import DEAD_LETTERS
from fibflow.io.kinesis.records import to_table, user_records
from fibflow.io.lake import Lake
from fibflow.io.ticks import DecodeTicks
from fibflow.tests.io.postgresql.databases import select
from fibflow.tests.pipelines.live import ROOT, LiveRun, wait_until
from fibflow.tests.transforms.alerts.oracle import Oracle
from fibflow.transforms.alerts import paths
from fibflow.transforms.alerts.definition import Definition
from fibflow.transforms.alerts.schema import Operator
from fibflow.transforms.buckets import bucket_of

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
OWNER = "desk"
#: A deadline that only a broken run reaches, on a busy machine too.
WITHIN_S = 600.0
_DIRECTED = ("above", "below", "crosses_up", "crosses_down", "crosses")
_PERCENT = ("percent_up", "percent_down", "percent")


def instant(micros: int) -> datetime:
    return EPOCH + timedelta(microseconds=micros)


def definition(day: dict, destinations: tuple[int, ...], numbers: random.Random, opens: int) -> Definition:
    """An alert on one symbol of which a day is known, that has a fair chance to fire."""
    options: dict[str, Any] = {
        "hours": numbers.choice(("regular", "extended")),
        "frequency": numbers.choice(("once", "once", "bar", "daily", "every_time")),
        "cooldown_s": numbers.choice((0, 0, 60, 900)),
        "destinations": destinations,
    }
    if options["frequency"] == "bar":
        options["timeframe"] = numbers.choice(("5m", "30m", "1h"))
    if options["frequency"] == "every_time":
        options["rearm"] = numbers.choice((0.0, 0.0005 * day["close"]))
    if numbers.random() < 0.1:
        options["expires"] = instant(opens) + timedelta(minutes=numbers.randrange(60, 360))
    if numbers.random() < 0.25:
        options["reference"] = numbers.choice(("previous_close", "creation_price"))
        if options["reference"] == "creation_price":
            options["reference_price"] = day["open"]
        return Definition(day["symbol"], numbers.choice(_PERCENT), numbers.uniform(0.1, 4.0), **options)
    level = numbers.uniform(day["low"], day["high"])
    return Definition(day["symbol"], numbers.choice(_DIRECTED), round(level, 2), **options)


@dataclass
class Desk:
    """Whoever asks for alerts in a replayed session: all that was asked for, and in which order."""

    url: str
    buckets: int
    changes: list[dict] = field(default_factory=list)
    destinations: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        # What is asked for is in force from the session on that it is asked for in.
        self.store = AlertStore(self.url, clock=lambda: EPOCH)
        self._revision = 0
        self._canaries = 0
        names = (f"CANARY{number}" for number in range(10_000))
        of_bucket: dict[int, str] = {}
        for name in names:
            of_bucket.setdefault(bucket_of(name, self.buckets), name)
            if len(of_bucket) == self.buckets:
                break
        self.canaries = sorted(of_bucket.values())

    def send_to(self, address: str, topic: str, now: datetime) -> None:
        """Make the destinations."""
        targets = (("webhook", f"{address}/hook"), ("sns", topic))
        self.destinations = tuple(
            self.store.add_destination(
                OWNER, kind, target, now, secret="hush" if kind == "webhook" else None
            ).id
            for kind, target in targets
        )

    def chosen(self, numbers: random.Random) -> tuple[int, ...]:
        """Where an alert's events go: often nowhere."""
        # The emulator takes seconds for what SNS takes at once.
        parts = zip(self.destinations, (0.25, 0.02), strict=True)
        return tuple(each for each, part in parts if numbers.random() < part)

    def note(self) -> None:
        """Keep what was asked for, before anything of it can have fired."""
        with closing(psycopg2.connect(self.url)) as connection:
            rows, _, self._revision, _ = feed.read_changes(connection, self._revision, top=0)
        self.changes += rows.to_pylist()

    def active(self) -> list[Alert]:
        """Alerts that may still fire, canaries apart."""
        found: list[Alert] = []
        while page := self.store.find(OWNER, state="active", after=found[-1].id if found else 0, limit=1000):
            found += page
        return [alert for alert in found if not alert.definition.symbol.startswith("CANARY")]

    def reaches(self, run: LiveRun, at: int) -> None:
        """Wait until the job has all changes up to now, in every bucket, at an instant of the session.

        An alert that nothing can miss is asked for in each bucket, behind them, and prices for it are put.
        """
        now = instant(at - 10_000_000)
        wanted = [Definition(name, "above", 0.5, hours="extended") for name in self.canaries]
        made = self.store.create(OWNER, wanted, now)
        self.note()
        ids = [alert.id for alert in made]

        def have_fired() -> bool:
            self._canaries += 1
            for name in self.canaries:
                trade = {"ev": "T", "sym": name, "x": 4, "i": str(self._canaries), "z": 1, "p": 1.0, "s": 100}
                trade |= {"t": at // 1000 + self._canaries, "q": self._canaries}
                run.client.put_record(
                    StreamName=run.stream, Data=json.dumps(trade).encode(), PartitionKey=name
                )
            run.played += len(self.canaries)
            return self.store_fired(ids) == len(ids)

        wait_until(have_fired, "the changes are in force", WITHIN_S)

    def store_fired(self, ids: list[int]) -> int:
        asked = "SELECT count(DISTINCT alert) FROM alert_events WHERE alert = ANY (%s)"
        return int(select(self.url, asked, ids)[0][0])

    def due(self, run: LiveRun) -> dict[str, tuple[int, int]]:
        """What is to be in the outbox, by brute force over what was archived: the price of each event.

        All of the stream is archived before. A message whose answer was lost is there twice, so that those
        that were played are archived before all are.
        """
        there = messages_in(run)
        wait_until(lambda: run.archived() >= there, f"{there} messages of the stream are archived", WITHIN_S)
        oracle = Oracle(run.market.calendar, from_open=False)
        facts = FactFeed(Lake(str(run.lake)))
        for table in facts.look(facts.start).tables:
            for row in table.to_pylist():
                oracle.take(row)
        for row in self.changes:
            oracle.take(row)
        prices = paths.of_trades(in_order(run.feed_rows(in_order(run.once()))), run.market.calendar)
        for row in prices.to_pylist():
            oracle.take(row)
        found = {event["id"]: _price(event["symbol"], event["ts"], event["seq"]) for event in oracle.events}
        assert len(found) == len(oracle.events)
        return found

    def outbox(self) -> dict[str, tuple[int, int]]:
        """What is in the outbox: the price of each event."""
        asked = "SELECT id, symbol, (extract(epoch FROM ts) * 1000000)::bigint, seq FROM alert_events"
        return {name: _price(*told) for name, *told in select(self.url, asked)}

    def destined(self) -> dict[int, set[str]]:
        """By destination, the events that are to reach it."""
        to: dict[tuple[int, int], tuple[int, ...]] = {}
        for alert, version, given in select(
            self.url,
            "SELECT id, version, destinations FROM alerts UNION ALL "
            "SELECT id, version, destinations FROM alert_changes",
        ):
            to[alert, version] = tuple(given)
        found: dict[int, set[str]] = {}
        for name, alert, version in select(self.url, "SELECT id, alert, version FROM alert_events"):
            for destination in to[alert, version]:
                found.setdefault(destination, set()).add(name)
        return found

    def undelivered(self) -> int:
        asked = "SELECT count(*) FROM alert_deliveries WHERE state <> 'delivered'"
        return int(select(self.url, asked)[0][0])

    def operators(self) -> Counter[str]:
        """Events by the operator that fired them."""
        return Counter(
            dict(select(self.url, "SELECT operator, count(*) FROM alert_events GROUP BY operator"))
        )

    def ended(self) -> int:
        return sum(row["operator"] == Operator.ENDED for row in self.changes)


def _price(symbol: str, ts: int, seq: int) -> tuple[int, int]:
    """The price of an event; of a canary any will do: its first ones may come before the change is known."""
    return (0, 0) if symbol.startswith("CANARY") else (ts, seq)


def messages_in(run: LiveRun) -> int:
    """How many messages lie in the stream that can be read."""
    found, decode = 0, DecodeTicks()
    for shard in run.client.list_shards(StreamName=run.stream)["Shards"]:
        of_shard = {"StreamName": run.stream, "ShardId": shard["ShardId"]}
        iterator = run.client.get_shard_iterator(**of_shard, ShardIteratorType="TRIM_HORIZON")[
            "ShardIterator"
        ]
        while read := (answer := run.client.get_records(ShardIterator=iterator))["Records"]:
            iterator = answer["NextShardIterator"]
            users = [user_records(record["PartitionKey"], record["Data"]) for record in read]
            outputs = decode(to_table(shard["ShardId"], read, users)).outputs
            found += sum(len(rows) for tag, rows in outputs.items() if tag != DEAD_LETTERS)
    return found


def in_order(rows: pa.Table) -> pa.Table:
    """Messages as they lie in their shards."""
    keys = zip(*(rows[name].to_pylist() for name in ("shard", "sequence", "sub", "place")), strict=True)
    placed = sorted(enumerate(keys), key=lambda each: (each[1][0], int(each[1][1]), *each[1][2:]))
    return rows.take(pa.array([place for place, _ in placed], pa.int64()))


class Receiver:
    """A webhook that takes everything; some calls fail before."""

    def __init__(self, fail_every: int) -> None:
        self.bodies: dict[str, list[tuple[str, bytes]]] = {}
        self._lock, self._calls, self._fail_every = threading.Lock(), 0, fail_every

    def answer(self, path: str, name: str, body: bytes) -> int:
        with self._lock:
            self._calls += 1
            if self._calls % self._fail_every == 0:
                return 503
            self.bodies.setdefault(path, []).append((name, body))
        return 200

    def received(self, path: str) -> Counter[str]:
        """How often each event came; what came more than once was the same."""
        known: dict[str, bytes] = {}
        for name, body in self.bodies.get(path, []):
            assert known.setdefault(name, body) == body
            assert json.loads(body)["id"] == name
        return Counter(name for name, _ in self.bodies.get(path, []))


@contextmanager
def receiving(fail_every: int = 97) -> Iterator[tuple[str, Receiver]]:
    """A server of webhooks, and its address."""
    found = Receiver(fail_every)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(found.answer(self.path, self.headers["Fibflow-Event-Id"], body))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """Pass it over: a notifier that is killed leaves its calls in the middle."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Topic:
    """A topic of SNS, and a queue that takes all that it gets."""

    def __init__(self, env: dict[str, str], name: str) -> None:
        aws = AwsConfig.resolve(env)
        sns, self._sqs = aws.boto3_client("sns"), aws.boto3_client("sqs")
        self.arn = sns.create_topic(Name=name)["TopicArn"]
        self._queue = self._sqs.create_queue(QueueName=name)["QueueUrl"]
        asked = self._sqs.get_queue_attributes(QueueUrl=self._queue, AttributeNames=["QueueArn"])
        sns.subscribe(TopicArn=self.arn, Protocol="sqs", Endpoint=asked["Attributes"]["QueueArn"])

    def received(self) -> Counter[str]:
        """How often each event came; what came more than once was the same."""
        known: dict[str, str] = {}
        found: Counter[str] = Counter()
        while messages := self._sqs.receive_message(
            QueueUrl=self._queue, MaxNumberOfMessages=10, VisibilityTimeout=600
        ).get("Messages"):
            for message in messages:
                body = json.loads(message["Body"])["Message"]
                name = json.loads(body)["id"]
                assert known.setdefault(name, body) == body
                found[name] += 1
        return found


@contextmanager
def notifying(env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A notifier; what of it still runs is ended as an operator would."""
    line = [sys.executable, "-P", "-m", "fibflow.pipelines.notify", "--allow-http-loopback", "--lease", "15"]
    with subprocess.Popen(line, cwd=ROOT, env={**os.environ, **env}, stdout=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(60)
