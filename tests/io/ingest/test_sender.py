"""From the spool to the stream: in order, whatever the stream says, and holes before what came after."""

from __future__ import annotations

import errno
import json
import random
import threading
from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fibflow.io.ingest import holes
from fibflow.io.ingest.entries import Entry, Kind, frames_entry
from fibflow.io.ingest.holes import Filler, Hole
from fibflow.io.ingest.messages import frame_of
from fibflow.io.ingest.sender import GaveUp, Sender, SendOptions
from fibflow.io.ingest.spool import Spool
from fibflow.io.ingest.status import Status
from fibflow.io.kinesis.errors import Backoff
from fibflow.io.kinesis.producer import PutOptions, PutTicks
from fibflow.io.kinesis.records import user_records
from fibflow.io.vendor.errors import NoAccess
from fibflow.tests.io.ingest.test_holes import HOLE, NOON, FakeVendor
from fibflow.tests.io.kinesis.fake import FakeClock, FakeKinesis


class Rig:
    """A sender on a clock of its own, of a spool and a stream in memory."""

    def __init__(self, folder, shards=2, vendor=None, within=60.0, quotas=False):
        self.clock = FakeClock()
        self.kinesis = FakeKinesis(self.clock, shards, quotas=quotas)
        self.spool = Spool(folder, 1 << 30)
        self.status = Status(self.clock)
        self.said: list[str] = []
        self.give_up_at = float("inf")
        self.filler = None
        if vendor is not None:
            self.filler = Filler(vendor, folder, ["AM"], ["A", "B"], 2, self._over, 900.0, self.clock)
        producer = PutTicks(
            self.kinesis,
            "ticks",
            self.clock,
            self.wait,
            random.Random(1).random,
            PutOptions(aggregate=True, patience=1.0, backoff=Backoff(0.25, 2.0)),
        )
        self.sender = Sender(
            self.spool,
            producer,
            self.filler,
            self.status,
            self.said.append,
            self.wait,
            self.clock,
            lambda: round(self.clock() * 1e6),
            SendOptions(fill_within=within),
        )

    def wait(self, seconds):
        self.clock.sleep(seconds + 0.001)
        if self.clock.now > self.give_up_at:
            raise GaveUp

    def _over(self, seconds):
        return self.clock.now > self.give_up_at

    def frames(self, *rows, event=0):
        self.spool.append(frames_entry([frame_of(list(rows))], event, 0))

    def beat(self, time):
        self.spool.append(Entry(Kind.BEAT, b"", 0, time, 0))

    def drain(self):
        self.sender.drain.set()
        self.sender.run()

    def close(self):
        if self.filler is not None:
            self.filler.close()
        self.spool.close()

    def lines(self):
        """What the stream holds, by shard."""
        found: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        for shard in self.kinesis.shards.values():
            for record in shard.records:
                for _, payload in user_records(record.key, record.data):
                    found[shard.id] += [json.loads(line) for line in payload.split(b"\n")]
        return found

    def by_symbol(self):
        found: defaultdict[str, list[int]] = defaultdict(list)
        for rows in self.lines().values():
            for row in rows:
                found[row.get("sym")].append(row.get("q", row.get("s")))
        return found


@pytest.fixture
def rig_of(tmp_path):
    made: list[Rig] = []

    def make(**options):
        made.append(Rig(tmp_path / str(len(made)), **options))
        return made[-1]

    yield make
    for rig in made:
        rig.close()


def trade(symbol, number):
    return {"ev": "T", "sym": symbol, "p": 1.5, "q": number}


@settings(max_examples=40, deadline=None)
@given(
    batches=st.lists(st.integers(1, 30), max_size=6),
    faults=st.lists(st.sampled_from([None, "throttled", "broken", "timeout", "lost", "denied"]), max_size=30),
)
def test_everything_reaches_the_stream_in_the_order_of_each_symbol(tmp_path_factory, batches, faults):
    rig = Rig(tmp_path_factory.mktemp("sender"))
    pending = list(faults)
    rig.kinesis.fault = lambda _: pending.pop() if pending else None
    expected = defaultdict(list)
    number = 0
    for count in batches:
        rows = []
        for _ in range(count):
            number += 1
            rows.append(trade(f"S{number * 7 % 5}", number))
            expected[rows[-1]["sym"]].append(number)
        rig.frames(*rows, event=number)
        rig.beat(number * 1000)
    rig.drain()
    found = rig.by_symbol()
    found.pop(None, None)
    assert {name: list(dict.fromkeys(numbers)) for name, numbers in found.items()} == expected
    assert rig.status.counts.sent >= number
    assert rig.spool.waiting == 0
    assert rig.status.kinesis_down_since is None
    rig.close()


def test_heartbeats_come_behind_what_was_received_before_them(rig_of):
    rig = rig_of()
    rig.frames(*(trade(f"S{n}", n) for n in range(20)))
    rig.beat(5_000)
    rig.frames(*(trade(f"S{n}", n + 20) for n in range(20)))
    rig.beat(6_000)
    rig.drain()
    for rows in rig.lines().values():
        beats = [place for place, row in enumerate(rows) if row["ev"] == "HB"]
        assert [rows[place]["t"] for place in beats] == [5, 6]
        assert all(row["q"] < 20 for row in rows[: beats[0]])
        assert all(row["q"] >= 20 for row in rows[beats[0] + 1 : beats[1]])
    assert rig.status.beat == 6_000


def test_a_stream_that_is_gone_holds_time_and_messages_until_it_is_back(rig_of):
    rig = rig_of()
    back = rig.clock.now + 60
    rig.kinesis.fault = lambda _: "broken" if rig.clock.now < back else None
    rig.frames(trade("A", 1))
    rig.beat(5_000)
    states = []
    rig.sender._say = lambda line: states.append((line, rig.status.health(), rig.status.beat))
    rig.drain()
    (gone, poor, beat), (again, _, _) = states
    assert "what comes is spooled to" in gone
    assert "\n" not in gone
    assert poor.status == "degraded"
    assert beat == 0
    assert "Kinesis takes records again" in again
    assert rig.by_symbol()["A"] == [1]
    assert rig.status.beat == 5_000


def test_one_that_is_told_to_end_leaves_the_rest_in_the_spool(rig_of):
    rig = rig_of()
    rig.frames(trade("A", 1))
    rig.kinesis.fault = lambda _: "denied"
    rig.give_up_at = rig.clock.now + 30
    with pytest.raises(GaveUp):
        rig.drain()
    assert rig.spool.waiting > 0
    assert rig.status.health().reasons[-1].startswith("kinesis: kinesis://ticks: access is denied")


def test_what_is_not_the_streams_is_left_out_and_counted(rig_of):
    rig = rig_of()
    rig.frames(
        {"ev": "status", "status": "success", "message": "m"}, trade("A", 1), trade("B", "x" * (1 << 20))
    )
    rig.frames({"ev": "status", "status": "success", "message": "m"})
    rig.drain()
    counts = rig.status.counts
    assert (counts.dropped_status, counts.dropped_too_large, counts.taken) == (2, 1, 1)
    assert any("larger than a record" in line for line in rig.said)
    assert rig.spool.waiting == 0


def minute(number):
    return (NOON + number * 60_000_000) // 1000


def hole(rig):
    rig.spool.append(Entry(Kind.HOLE, HOLE.to_bytes()))


def test_a_hole_is_filled_before_what_came_after_it(rig_of):
    rig = rig_of(vendor=FakeVendor(), shards=1)
    rig.frames({"ev": "AM", "sym": "A", "s": minute(-1)})
    hole(rig)
    rig.frames({"ev": "AM", "sym": "A", "s": minute(2)}, {"ev": "AM", "sym": "B", "s": minute(2)})
    rig.beat(NOON)
    run_until_empty(rig)
    (rows,) = rig.lines().values()
    assert sorted((row["sym"], row["s"]) for row in rows[:7]) == [
        ("A", minute(-1)),
        *(("A", minute(number)) for number in (-1, 0, 1)),
        *(("B", minute(number)) for number in (-1, 0, 1)),
    ]
    assert [row["s"] for row in rows if row.get("sym") == "A"] == [minute(n) for n in (-1, -1, 0, 1, 2)]
    assert rows[-1]["ev"] == "HB"
    assert rig.filler.open == 0
    assert rig.filler.left_open() == []
    assert (rig.status.counts.holes, rig.status.counts.holes_unfilled, rig.status.counts.filled) == (1, 0, 6)
    assert any("is filled: 6 messages of 2 symbols" in line for line in rig.said)


def run_until_empty(rig):
    """Run as while it is not to end, until everything was sent and all holes are closed."""
    wait = rig.sender._wait

    def check(seconds):
        if rig.spool.waiting == 0 and not rig.filler.open:
            rig.sender.drain.set()
        wait(seconds)

    rig.sender._wait = check
    rig.sender.run()


class SlowVendor(FakeVendor):
    """Answers about B when it is told to."""

    def __init__(self):
        super().__init__()
        self.go = threading.Event()

    def minutes(self, symbol, start_us, end_us):
        if symbol == "B":
            assert self.go.wait(20)
        return super().minutes(symbol, start_us, end_us)


def test_what_takes_too_long_comes_late_and_nothing_waits_for_it(rig_of):
    vendor = SlowVendor()
    rig = rig_of(vendor=vendor, shards=1, within=0.0)
    hole(rig)
    rig.frames({"ev": "AM", "sym": "A", "s": minute(2)})
    sent = rig.sender._flush

    def flush():
        sent()
        if rig.status.counts.taken:
            vendor.go.set()  # what came after is in the stream

    rig.sender._flush = flush
    run_until_empty(rig)
    assert rig.by_symbol()["B"] == [minute(n) for n in (-1, 0, 1)]
    assert any("symbols are not there after 0 s: the feed goes on" in line for line in rig.said)
    assert rig.filler.left_open() == []


def test_a_hole_that_was_open_when_the_process_ended_is_filled_by_the_next(rig_of, tmp_path):
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "holes.json").write_text(json.dumps([[HOLE.begin, HOLE.end]]))
    rig = rig_of(vendor=FakeVendor(), shards=1)
    hole(rig)  # it was not sent either
    run_until_empty(rig)
    assert rig.by_symbol()["A"] == [minute(n) for n in (-1, 0, 1)]
    assert rig.status.counts.holes == 1


def test_what_could_not_be_filled_is_told(rig_of):
    rig = rig_of(vendor=FakeVendor({"B": [NoAccess("the plan has none of B")]}), shards=1)
    hole(rig)
    run_until_empty(rig)
    assert rig.status.counts.holes_unfilled == 1
    assert rig.said[-1] == f"{HOLE} is filled for 1 symbols, not for B: the plan has none of B: " + (
        "pipelines.backfill can fetch its minutes later"
    )
    nobody = rig_of()
    nobody.spool.append(Entry(Kind.HOLE, Hole(NOON, NOON).to_bytes()))
    nobody.drain()
    assert "is not filled: nobody is asked" in nobody.said[0]


def test_a_disk_that_refuses_to_note_a_hole_leaves_it_in_the_spool(rig_of, monkeypatch):
    vendor = SlowVendor()
    rig = rig_of(vendor=vendor, shards=1, within=0.0)
    write = holes._write

    def refuse(path, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(holes, "_write", refuse)
    hole(rig)
    rig.frames({"ev": "AM", "sym": "A", "s": minute(2)})
    waiting = []

    def wait(seconds):
        rig.clock.sleep(seconds + 0.001)
        waiting.append(rig.spool.waiting)
        if len(waiting) == 3:
            monkeypatch.setattr(holes, "_write", write)
            vendor.go.set()
        if rig.spool.waiting == 0 and not rig.filler.open:
            rig.sender.drain.set()

    rig.sender._wait = wait
    rig.sender.run()
    assert all(waiting[:3])  # a process that is killed finds it there
    assert rig.by_symbol()["B"] == [minute(n) for n in (-1, 0, 1)]
    assert rig.filler.left_open() == []


def test_no_heartbeat_passes_a_hole_whose_filling_was_cut_short(rig_of):
    vendor = SlowVendor()
    rig = rig_of(vendor=vendor, shards=1)
    hole(rig)
    rig.frames({"ev": "AM", "sym": "A", "s": minute(2)})
    rig.beat(NOON + 300_000_000)
    rig.drain()
    (rows,) = rig.lines().values()
    assert minute(2) in [row.get("s") for row in rows]
    assert [row for row in rows if row["ev"] == "HB"] == []
    assert rig.status.beat == 0
    assert rig.spool.waiting == 0
    assert rig.filler.left_open() == [HOLE]
    vendor.go.set()


def test_the_time_that_kinesis_is_away_is_not_that_of_the_filling(rig_of):
    vendor = SlowVendor()
    rig = rig_of(vendor=vendor, shards=1, within=60.0)
    back = rig.clock.now + 100
    rig.kinesis.fault = lambda _: "broken" if rig.clock.now < back else None

    def say(line):
        rig.said.append(line)
        if "takes records again" in line:
            vendor.go.set()

    rig.sender._say = say
    hole(rig)
    rig.frames({"ev": "AM", "sym": "A", "s": minute(2)})
    run_until_empty(rig)
    assert rig.clock.now > back
    assert not any("the feed goes on" in line for line in rig.said)
    assert rig.by_symbol()["B"] == [minute(n) for n in (-1, 0, 1)]


@pytest.mark.parametrize("beats", [False, True])
def test_what_cannot_be_read_in_the_spool_is_a_hole_that_no_heartbeat_passes(rig_of, tmp_path, beats):
    folder = tmp_path / "0"
    spool = Spool(folder, 1 << 30)
    for number in range(5):
        frame = frame_of([{"ev": "AM", "sym": "A", "s": minute(number)}])
        spool.append(frames_entry([frame], (minute(number) + 60_000) * 1000, 0))
        if number == 3 and beats:
            spool.append(Entry(Kind.BEAT, b"", 0, NOON + 250_000_000, 0))
    spool.close()
    (file,) = folder.glob("*.spool")
    wrong = bytearray(file.read_bytes())
    for number in (2, 3):
        wrong[wrong.index(b"%d" % minute(number))] ^= 1
    file.write_bytes(wrong)
    rig = rig_of(vendor=FakeVendor(), shards=1)
    rig.beat(NOON + 320_000_000)
    run_until_empty(rig)
    (rows,) = rig.lines().values()
    starts = [row["s"] for row in rows if row.get("sym") == "A"]
    filled = range(1, 4) if beats else range(1, 5)
    assert starts == [minute(n) for n in (0, 1, *filled, 4)]
    assert rows[-1]["ev"] == "HB"
    assert rig.status.counts.holes == 1
