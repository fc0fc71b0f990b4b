"""From shards to bars in one process: a quiet symbol, an empty shard, and a feed that is gone for a while.

The reader, the decoder, the watermark and the kernel are the live job's; Kinesis and the runner are not.
"""

from __future__ import annotations

import json
import random
from datetime import date
from typing import Any

from fibflow.io.kinesis.decoded import TRADES
from fibflow.io.kinesis.positions import LaneState
from fibflow.io.kinesis.reader import LaneReader, Limits
from fibflow.io.kinesis.source import decode_blocks
from fibflow.io.ticks import DecodeTicks
from fibflow.tests.io.kinesis.begin import begin
from fibflow.tests.io.kinesis.fake import FakeClock, FakeKinesis
from fibflow.tests.transforms.streams import MINUTE, Bucket, kept
from fibflow.tests.transforms.tables import calendar, days, ny, row, table
from fibflow.transforms.bars import BarSpec
from fibflow.transforms.conditions import trade_input
from fibflow.transforms.history import Note, with_note
from fibflow.transforms.livebars import Plan, StreamPolicy
from fibflow.transforms.schemas import DAILY_ROWS
from fibflow.transforms.timeframe import parse_timeframes

SECOND = 1_000_000
#: The last session of a window of three.
OPEN, CLOSE, MIDNIGHT = ny("2024-04-30T09:30"), ny("2024-04-30T16:00"), ny("2024-05-01")
PAST = [date(2024, 4, 26), date(2024, 4, 29)]
BEHIND = 5 * SECOND


class Feed:
    """Three shards, of which the third holds heartbeats only, and one bucket that reads all of them."""

    def __init__(self) -> None:
        self.kinesis = FakeKinesis(FakeClock(), 3)
        (self.state,) = begin(self.kinesis)
        self.shards = [shard.first for shard in self.kinesis.open]
        clock = self.kinesis.clock
        numbers = random.Random(1).random
        self.reader = LaneReader(self.kinesis, "ticks", Limits(), clock, clock.sleep, numbers)
        # The fake's clock stands at 2023, and these trades are of later days.
        self.decode = DecodeTicks(max_ahead_us=1 << 60)
        spec = BarSpec(parse_timeframes("1m,1d,3d"), calendar("XNYS"))
        self.bucket = Bucket(Plan(spec, StreamPolicy()))
        self.seq = 0
        (through,) = days("2024-04-29")
        rows = [row(symbol, day, 10.0) for symbol in ("A", "QUIET") for day in PAST]
        history = with_note(table(rows, DAILY_ROWS, rank=False), Note(1, through, through - 40))
        self.bucket.take_history(history)

    def put(self, shard: int, *messages: dict[str, Any]) -> None:
        self.kinesis.put("key", json.dumps(messages).encode(), self.shards[shard])

    def trade(self, symbol: str, ts: int, price: float) -> dict[str, Any]:
        self.seq += 1
        told = {"ev": "T", "sym": symbol, "i": str(self.seq), "x": 4, "p": price, "s": 100, "z": 3}
        return told | {"t": ts // 1000, "q": self.seq, "c": []}

    def beat(self, ts: int) -> None:
        """Say on each shard what time it is."""
        for shard in range(3):
            self.put(shard, {"ev": "HB", "t": ts // 1000})

    def read(self) -> None:
        """Read all there is, and let the watermark pass."""
        for _ in range(10):
            poll = self.reader.poll(self.state.shards)
            decoded = decode_blocks(poll, self.decode)
            self.state = self.state.advanced((block.step for block in poll.blocks), decoded.newest)
            assert isinstance(self.state, LaneState)
            if TRADES in decoded.outputs:
                self.bucket.add(trade_input(decoded.outputs[TRADES]))
            watermark = self.state.watermark(BEHIND)
            if watermark is not None:
                self.bucket.advance(watermark)
            self.kinesis.clock.sleep(1.0)

    def closed(self, timeframe: str) -> dict[tuple[str, int], dict]:
        best = kept(self.bucket.rows("bars"))
        return {(symbol, ts): bar for (symbol, frame, ts), bar in best.items() if frame == timeframe}


def test_no_bar_closes_early_or_late_for_an_outage_of_ten_minutes():
    feed = Feed()
    gone, back = CLOSE - 10 * MINUTE, CLOSE + 30 * SECOND
    feed.put(1, feed.trade("QUIET", OPEN + MINUTE, 20.0))
    for minute in range(CLOSE - 20 * MINUTE, gone, MINUTE):
        feed.put(0, feed.trade("A", minute, 11.0))
        feed.beat(minute + 59 * SECOND)
        feed.read()
    before = feed.closed("1m")
    assert max(bar["end"] for bar in before.values()) == gone - MINUTE
    # Nothing comes, heartbeats neither, while ten minutes and the session's close go by.
    for _ in range(20):
        feed.read()
    assert feed.closed("1m") == before
    # Then all of it comes at once, one shard after the other.
    missed = [feed.trade("A", minute, 12.0) for minute in range(gone, CLOSE, MINUTE)]
    feed.put(0, *missed)
    feed.read()
    assert feed.closed("1m") == before
    feed.beat(back)
    feed.read()
    after = feed.closed("1m")
    assert {ts for symbol, ts in after if symbol == "A"} == set(range(CLOSE - 20 * MINUTE, CLOSE, MINUTE))
    assert {bar["revision"] for bar in after.values()} == {0}
    assert feed.bucket.rows("late") == []
    # The session's day goes on to midnight: neither its bar nor that of three sessions has closed.
    assert feed.closed("1d") == feed.closed("3d") == {}
    feed.beat(MIDNIGHT + BEHIND - 1000)
    feed.read()
    assert feed.closed("1d") == feed.closed("3d") == {}
    feed.beat(MIDNIGHT + BEHIND)
    feed.read()
    shown = {
        (frame, symbol): (bar["open"], bar["close"], bar["volume"], bar["sessions"], bar["final"])
        for frame in ("1d", "3d")
        for (symbol, _), bar in feed.closed(frame).items()
    }
    assert shown == {
        ("1d", "A"): (11.0, 12.0, 2000.0, 1, False),
        ("1d", "QUIET"): (20.0, 20.0, 100.0, 1, False),
        ("3d", "A"): (10.0, 12.0, 2200.0, 3, False),
        ("3d", "QUIET"): (10.0, 20.0, 300.0, 3, False),
    }


def test_a_shard_that_says_nothing_holds_time():
    """Without heartbeats on the shard that has no symbols nobody can know that nothing is to come from it."""
    feed = Feed()
    feed.put(0, feed.trade("A", OPEN, 11.0))
    feed.put(1, feed.trade("QUIET", OPEN, 11.0))
    for shard in (0, 1):
        feed.put(shard, {"ev": "HB", "t": (OPEN + 10 * MINUTE) // 1000})
    feed.read()
    assert feed.closed("1m") == {}
    feed.put(2, {"ev": "HB", "t": (OPEN + 10 * MINUTE) // 1000})
    feed.read()
    assert {symbol for symbol, _ in feed.closed("1m")} == {"A", "QUIET"}
