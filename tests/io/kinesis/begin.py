"""Where tests begin to read a fake stream, and what may befall them."""

from __future__ import annotations

from fibflow.io.kinesis.positions import LaneState
from fibflow.io.kinesis.shards import deal, list_shards_once, roots
from fibflow.tests.io.kinesis.fake import FakeKinesis

FAULTS = ("throttled", "kms", "broken", "timeout", "lost", "expired")


def begin(kinesis: FakeKinesis, lanes: int = 1, start: str | int = "TRIM_HORIZON") -> list[LaneState]:
    shards = list_shards_once(kinesis, "ticks")
    dealt = deal("ticks", shards, roots(shards, start, int(kinesis.clock() * 1e6)), lanes)
    return [lane.start for lane in dealt]
