"""An ingest as a whole, between a vendor and a Kinesis of our own, and what goes wrong with them."""

from __future__ import annotations

import errno
import json
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

from fibflow.benchmarks.faults.proxy import Mode, Proxy
from fibflow.io.ingest import spool as spool_module
from fibflow.io.ingest.entries import Kind
from fibflow.io.ingest.feed import Feed, FeedRefused
from fibflow.io.ingest.receiver import ReceiveOptions
from fibflow.io.ingest.sender import SendOptions
from fibflow.io.ingest.service import Ingest, Settings, Unsent
from fibflow.io.ingest.spool import SpoolError
from fibflow.io.kinesis.errors import Backoff, kinesis_client
from fibflow.io.kinesis.records import user_records
from fibflow.tests.io.ingest.feedserver import FeedServer, status
from fibflow.tests.io.ingest.test_holes import FakeVendor
from fibflow.tests.io.kinesis.server import config_of

KEY = "secret-key"
WITHIN = 30.0
NOON_MS = 1_710_158_400_000
MINUTE_MS = 60_000


def wait_until(holds, what):
    until = time.monotonic() + WITHIN
    while not holds():
        assert time.monotonic() < until, what() if callable(what) else what
        time.sleep(0.01)


def lines_of(client, stream):
    """All messages of a stream, in the order of each shard."""
    found = []
    for shard in client.list_shards(StreamName=stream)["Shards"]:
        iterator = client.get_shard_iterator(
            StreamName=stream, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        while True:
            answer = client.get_records(ShardIterator=iterator, Limit=10_000)
            for record in answer["Records"]:
                for _, payload in user_records(record["PartitionKey"], record["Data"]):
                    found += [json.loads(line) for line in payload.split(b"\n")]
            if not answer["MillisBehindLatest"]:
                break
            iterator = answer["NextShardIterator"]
    return found


def trades(first, count, at=NOON_MS):
    return [
        {"ev": "T", "sym": f"S{number % 7}", "p": 1.5, "s": 1, "t": at, "q": number}
        for number in range(first, first + count)
    ]


class Running:
    """An ingest in a thread, what it says, and what came of it."""

    def __init__(self, ingest, client, stream):
        self.ingest, self.client, self.stream = ingest, client, stream
        self.said: list[str] = []
        self.error: Exception | None = None
        ingest._say = self.said.append
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        try:
            self.ingest.run()
        except Exception as error:
            self.error = error

    @property
    def counts(self):
        return self.ingest.status.counts

    @property
    def port(self):
        wait_until(lambda: self.said, "it listens")
        return int(self.said[0].split()[0].rpartition(":")[2])

    def heard(self, text):
        return any(text in line for line in self.said)

    def wait_for(self, text):
        wait_until(lambda: self.heard(text), lambda: f"{text}: {self.said}")

    def wait_sent(self, count):
        wait_until(lambda: self.counts.sent >= count, f"{count} messages are sent")

    def ended(self):
        self._thread.join(WITHIN)
        assert not self._thread.is_alive()

    def stop(self):
        self.ingest.stop()
        self.ended()

    def numbers(self):
        return Counter(line["q"] for line in lines_of(self.client, self.stream) if line["ev"] == "T")


@pytest.fixture
def server():
    with FeedServer(KEY) as running:
        yield running


@pytest.fixture
def running_of(server, kinesis_url, tmp_path, request):
    """Starts ingests, and ends them."""
    started = []
    stream = "".join(mark if mark.isalnum() else "-" for mark in request.node.name)[:100]
    direct = kinesis_client(config_of(kinesis_url))
    direct.create_stream(StreamName=stream, ShardCount=2)

    def make(
        url=kinesis_url,
        topics=("T.*",),
        vendor=None,
        limit=1 << 30,
        key=KEY,
        drain=20.0,
        receive=None,
        in_session=False,
        within=60.0,
    ):
        fast = {"backoff": Backoff(0.01, 0.1), "heartbeat": 0.05, "ping": 0.05}
        settings = Settings(
            spool=tmp_path / "spool",
            limit=limit,
            port=0,
            drain=drain,
            receive=ReceiveOptions(**(fast | (receive or {}))),
            send=SendOptions(linger=0.01, retry=0.05, fill_within=within),
        )
        ingest = Ingest(
            Feed(server.url, key, topics, timeout=5.0),
            kinesis_client(config_of(url)),
            stream,
            None if vendor is None else lambda wait: vendor,
            lambda _: in_session,
            settings,
            print,
        )
        running = Running(ingest, direct, stream)
        started.append(running)
        running._thread.start()
        return running

    yield make
    for running in started:
        running.stop()


def get(running, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{running.port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def health(running):
    code, text = get(running, "/healthz")
    return code, json.loads(text)


def test_messages_pass_through_as_they_came_with_heartbeats(running_of, server):
    running = running_of()
    server.wait_for(1)
    server.send(trades(0, 100), trades(100, 50, NOON_MS + 2_000))
    running.wait_sent(150)
    wait_until(lambda: running.ingest.status.beat >= (NOON_MS + 2_000) * 1000, "time has come so far")
    code, told = health(running)
    assert (code, told["status"], told["reasons"], told["spool_limit_bytes"]) == (200, "ok", [], 1 << 30)
    assert told["feed_time"] == "2024-03-11T12:00:02Z"
    code, text = get(running, "/metrics")
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert code == 200
    assert float(values["fibflow_ingest_received_total"]) == 150
    assert float(values["fibflow_ingest_sent_total"]) == 150
    assert float(values["fibflow_ingest_feed_up"]) == 1
    assert float(values["fibflow_ingest_feed_time_seconds"]) == (NOON_MS + 2_000) / 1000
    assert get(running, "/other")[0] == 404
    running.stop()
    assert running.error is None
    assert running.numbers() == Counter(range(150))
    lines = lines_of(running.client, running.stream)
    assert next(line for line in lines if line["ev"] == "T") in trades(0, 100)
    beats = [line["t"] for line in lines if line["ev"] == "HB"]
    assert max(beats) >= NOON_MS + 2_000
    assert running.said[-1].startswith("received 150 (")
    assert KEY not in "".join(running.said)


@pytest.mark.parametrize("code", [None, 1000, 1012])
def test_a_connection_that_breaks_is_made_anew_and_its_hole_filled(running_of, server, code):
    vendor = FakeVendor()
    running = running_of(topics=["AM.A", "AM.B"], vendor=vendor)

    def am(symbol, number):
        start = NOON_MS + number * MINUTE_MS
        return {"ev": "AM", "sym": symbol, "s": start, "e": start + MINUTE_MS, "c": 1.0}

    server.wait_for(1)
    server.send([am("A", 0), am("B", 0)])
    running.wait_sent(2)
    server.cut() if code is None else server.close(code)
    server.wait_for(2)
    server.send([am("A", 4), am("B", 4)])
    running.wait_for("is filled: 10 messages of 2 symbols")
    running.wait_sent(14)
    running.stop()
    assert server.subscribed == [["AM.A", "AM.B"]] * 2
    assert {asked[1:] for asked in vendor.asked} == {(NOON_MS * 1000, (NOON_MS + 5 * MINUTE_MS) * 1000)}
    for symbol in "AB":
        rows = [line["s"] for line in lines_of(running.client, running.stream) if line.get("sym") == symbol]
        starts = [NOON_MS + number * MINUTE_MS for number in range(5)]
        assert rows == [starts[0], *starts, starts[4]]
    assert (running.counts.cuts, running.counts.connections, running.counts.holes) == (1, 2, 1)


def test_time_stands_still_while_something_may_be_missing(running_of, server):
    running = running_of()
    server.wait_for(1)
    server.send(trades(0, 1))
    wait_until(lambda: running.ingest.status.beat > NOON_MS * 1000, "time goes on with signs of life")
    server.leave()
    running.wait_for("the feed is lost")
    wait_until(lambda: running.ingest.status.waiting == 0, "all is sent")
    beat = running.ingest.status.beat
    code, told = health(running)
    assert (code, told["status"]) == (200, "degraded")
    assert told["reasons"][0].startswith("feed: ")
    server.listen()
    server.wait_for(2)
    # Subscribed, and nothing has come yet: what was missed is not known to have ended.
    wait_until(lambda: health(running)[1]["status"] == "ok", "it is connected")
    received = running.ingest.status.beat
    server.send(trades(1, 1, NOON_MS + 60_000))
    running.wait_for("is not filled: nobody is asked")
    wait_until(lambda: running.ingest.status.beat >= (NOON_MS + 60_000) * 1000, "time goes on")
    assert beat == received


def test_a_vendor_that_gives_no_sign_of_life_or_no_data_is_left(running_of, server):
    running = running_of(receive={"silence": 1.0}, in_session=True)
    server.wait_for(1)
    server.send(trades(0, 1))
    server.wait_for(2)
    assert running.heard("the feed says nothing for")
    server.send(trades(1, 1, NOON_MS + 90_000))
    # It gave signs of life all the time, and they are not taken for data.
    running.wait_for("the hole from 2024-03-11T12:00:00Z to 2024-03-11T12:01:30Z")
    running.stop()
    count = len(server.subscribed)
    calm = running_of(receive={"silence": 0.2}, in_session=False)
    server.wait_for(count + 1)
    wait_until(lambda: calm.counts.connections, "connected")
    server.send(trades(2, 1, NOON_MS + 90_000))
    calm.wait_sent(1)
    assert not calm.heard("the feed says nothing")


def test_kinesis_gone_is_spooled_in_order_and_nothing_is_lost(running_of, server, kinesis_url):
    with Proxy(kinesis_url) as proxy:
        running = running_of(url=proxy.url)
        server.wait_for(1)
        server.send(trades(0, 100))
        running.wait_sent(100)
        for mode in (Mode.GONE, Mode.REFUSED):
            proxy.set(mode)
            first = running.counts.received
            for number in range(10):
                server.send(trades(first + number * 20, 20, NOON_MS + 1_000 * (first + number)))
            wait_until(lambda first=first: running.counts.received == first + 200, "they are received")
            wait_until(lambda: health(running)[1]["status"] == "degraded", "it is told")
            assert any(reason.startswith("kinesis: ") for reason in health(running)[1]["reasons"])
            assert running.ingest.status.waiting > 0
            # No heartbeat goes before the messages that it is later than.
            assert running.ingest.status.beat < 1_000 * (NOON_MS + 1_000 * first)
            proxy.set(Mode.PASSES)
            running.wait_sent(first + 200)
        wait_until(lambda: health(running)[1]["status"] == "ok", "all is well")
        running.stop()
    found = running.numbers()
    assert set(found) == set(range(500))
    # A call whose answer was lost is made again: those that it had are there twice.
    assert max(found.values()) <= 2
    by_symbol: dict[str, list[int]] = {}
    for line in lines_of(running.client, running.stream):
        if line["ev"] == "T":
            by_symbol.setdefault(line["sym"], []).append(line["q"])
    for numbers in by_symbol.values():
        assert list(dict.fromkeys(numbers)) == sorted(set(numbers))


def test_what_was_not_sent_in_time_waits_for_the_next_start(running_of, server, kinesis_url):
    with Proxy(kinesis_url) as proxy:
        proxy.set(Mode.GONE)
        running = running_of(url=proxy.url, drain=0.2)
        server.wait_for(1)
        server.send(trades(0, 100))
        wait_until(lambda: running.counts.received == 100, "they are received")
        running.stop()
    assert isinstance(running.error, Unsent)
    assert "the next start sends them" in str(running.error)
    again = running_of()
    again.wait_for("wait in the spool")
    again.wait_sent(100)
    again.stop()
    assert again.error is None
    assert set(again.numbers()) == set(range(100))


def test_a_full_spool_is_told_before_and_then_nothing_is_read(running_of, server, kinesis_url, monkeypatch):
    original = spool_module.Spool.__init__
    monkeypatch.setattr(
        spool_module.Spool,
        "__init__",
        lambda self, folder, limit: original(self, folder, limit, 20_000, 30_000),
    )
    with Proxy(kinesis_url) as proxy:
        proxy.set(Mode.GONE)
        running = running_of(url=proxy.url, limit=200_000)
        server.wait_for(1)
        sent = 0
        while not running.ingest.status.paused:
            server.send(trades(sent, 50))
            sent += 50
            if running.heard("% full"):
                code, told = health(running)
                if not running.ingest.status.paused:
                    assert (code, told["status"]) == (200, "degraded")
                    assert any("of its limit" in reason for reason in told["reasons"])
        at = next(n for n, line in enumerate(running.said) if "% full" in line)
        running.wait_for("is full: nothing is read from the feed")
        assert at < next(n for n, line in enumerate(running.said) if "is full: " in line)
        code, told = health(running)
        assert (code, told["status"]) == (503, "down")
        size = sum(path.stat().st_size for path in Path(running.ingest._settings.spool).glob("*.spool"))
        assert size < 200_000 + (1 << 20)
        proxy.set(Mode.PASSES)
        running.wait_for("there is room in the spool")
        running.wait_sent(sent)
        running.stop()
    assert set(running.numbers()) == set(range(sent))


def test_a_disk_that_refuses_stops_the_reading_and_loses_nothing(running_of, server, monkeypatch):
    append = spool_module.Spool.append
    full = threading.Event()

    def refuse(self, entry):
        if full.is_set():
            raise OSError(errno.ENOSPC, "No space left on device")
        append(self, entry)

    monkeypatch.setattr(spool_module.Spool, "append", refuse)
    running = running_of()
    server.wait_for(1)
    server.send(trades(0, 10))
    running.wait_sent(10)
    full.set()
    server.send(trades(10, 10))
    running.wait_for("cannot be written: No space left on device: nothing is read")
    server.send(trades(20, 10))
    assert health(running)[0] == 503
    full.clear()
    running.wait_sent(30)
    wait_until(lambda: health(running)[0] == 200, "it is well again")
    running.stop()
    assert running.numbers() == Counter(range(30))


def refusing(monkeypatch, *kinds):
    """Have the disk refuse the first entry of each of some kinds; return all that were taken."""
    append, left = spool_module.Spool.append, list(kinds)
    taken = []

    def refuse(self, entry):
        if entry.kind in left:
            left.remove(entry.kind)
            raise OSError(errno.ENOSPC, "No space left on device")
        append(self, entry)
        taken.append(entry)

    monkeypatch.setattr(spool_module.Spool, "append", refuse)
    return taken


def test_a_heartbeat_that_the_disk_refused_is_tried_again(running_of, server, monkeypatch):
    refusing(monkeypatch, Kind.BEAT)
    running = running_of()
    server.wait_for(1)
    server.send(trades(0, 10))
    running.wait_for("cannot be written: No space left on device")
    wait_until(lambda: running.ingest.status.beat > NOON_MS * 1000, "time goes on without data")
    assert health(running)[0] == 200
    running.stop()


def test_a_hole_that_the_disk_refused_lies_before_what_came_after_it(running_of, server, monkeypatch):
    taken = refusing(monkeypatch, Kind.HOLE)
    running = running_of()
    server.wait_for(1)
    server.send(trades(0, 10))
    running.wait_sent(10)
    server.cut()
    server.wait_for(2)
    server.send(trades(10, 10, NOON_MS + MINUTE_MS))
    running.wait_sent(20)
    server.send(trades(20, 10, NOON_MS + 2 * MINUTE_MS))
    running.wait_sent(30)
    running.stop()
    found = [(entry.kind, entry.event) for entry in taken if entry.kind is not Kind.BEAT]
    assert found == [
        (Kind.FRAMES, NOON_MS * 1000),
        (Kind.HOLE, 0),
        (Kind.FRAMES, (NOON_MS + MINUTE_MS) * 1000),
        (Kind.FRAMES, (NOON_MS + 2 * MINUTE_MS) * 1000),
    ]


def test_a_vendor_that_cannot_be_reached_is_a_line_and_is_tried_for_ever(running_of, server):
    server.leave()
    running = running_of()
    running.wait_for(f"{server.url} cannot be reached: ")
    assert "\n" not in running.said[-1]
    assert health(running)[1]["status"] == "degraded"
    server.listen()
    server.wait_for(1)
    server.send(trades(0, 1))
    running.wait_sent(1)
    assert sum("cannot be reached" in line for line in running.said) == 1


def test_a_refused_key_ends_it_with_a_line(running_of, server):
    running = running_of(key="wrong-key")
    running.ended()
    assert isinstance(running.error, FeedRefused)
    assert "wrong-key" not in str(running.error) + "".join(running.said)


def test_a_key_that_is_refused_later_is_tried_again_first(running_of, server):
    running = running_of()
    server.wait_for(1)
    server.send(trades(0, 10))
    running.wait_sent(10)
    server.key = "another"
    server.cut()
    running.ended()
    assert isinstance(running.error, FeedRefused)
    assert running.ingest.status.feed_why == str(running.error)
    assert running.numbers() == Counter(range(10))


def test_what_the_vendor_says_of_the_connection_is_told_and_does_not_travel(running_of, server):
    running = running_of()
    server.wait_for(1)
    server.send(status("slow_consumer", "you are too slow"), trades(0, 1))
    running.wait_for("the vendor says slow_consumer (you are too slow)")
    running.wait_sent(1)
    running.stop()
    assert {line["ev"] for line in lines_of(running.client, running.stream)} <= {"T", "HB"}


def test_data_that_comes_behind_a_status_in_one_frame_travels(running_of, server):
    running = running_of()
    server.wait_for(1)
    (said,) = json.loads(status("slow_consumer", "you are too slow"))
    server.send([said, *trades(0, 3)], [*trades(3, 1), said])
    running.wait_for("the vendor says slow_consumer (you are too slow)")
    running.wait_sent(4)
    running.stop()
    assert running.numbers() == Counter(range(4))
    assert {line["ev"] for line in lines_of(running.client, running.stream)} <= {"T", "HB"}


def test_a_feed_whose_time_goes_back_misses_nothing(running_of, server):
    running = running_of(vendor=FakeVendor(), topics=["T.A"])
    server.wait_for(1)
    server.send(trades(0, 1))
    running.wait_sent(1)
    server.cut()
    server.wait_for(2)
    server.send(trades(1, 1, NOON_MS - 3_600_000))
    running.wait_for("the feed's time went back")
    running.wait_sent(2)
    assert running.counts.holes == 0


def test_a_spool_that_cannot_be_read_is_a_line_of_its_own(running_of, server, monkeypatch):
    def refuse(self, most, timeout):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(spool_module.Spool, "take", refuse)
    running = running_of()
    running.ended()
    assert isinstance(running.error, SpoolError)
    assert str(running.error).startswith(f"the spool {running.ingest._settings.spool} cannot be used: Input/")
