"""Where a hole begins: after the newest message, or the last sign of life where none was to be expected."""

from __future__ import annotations

import random

import pytest

from fibflow.io.ingest.entries import Entry, Kind, frames_entry
from fibflow.io.ingest.feed import Feed
from fibflow.io.ingest.receiver import ReceiveOptions, Receiver
from fibflow.io.ingest.spool import Spool
from fibflow.io.ingest.status import Status

NOON = 1_710_158_400_000_000
SECOND = 1_000_000


@pytest.mark.parametrize(
    ("quiet", "open_until", "begins_at"),
    [
        # Seconds of: the last sign of life, the session's end, and the hole's begin, all after the message.
        (10, -3_600, 0),
        (75, -3_600, 0),
        (76, -3_600, 76),
        (76, 3_600, 0),
        (119, 3_600, 0),
        (7_200, 14_400, 0),
        # It ended in the stall, or so long ago that the stall would have been seen.
        (110, 100, 0),
        (7_200, 100, 7_200),
        # More than a day: nobody would fill it.
        (90_000, 100_000, 90_000),
    ],
)
def test_where_a_hole_begins(tmp_path, quiet, open_until, begins_at):
    spool = Spool(tmp_path, 1 << 30)
    spool.append(frames_entry([b"[]"], NOON, NOON))
    spool.append(Entry(Kind.BEAT, b"", 0, NOON + quiet * SECOND, NOON))
    spool.close()
    spool = Spool(tmp_path, 1 << 30)
    receiver = Receiver(
        Feed("ws://h/stocks", "key", ["AM.*"]),
        spool,
        Status(lambda: 0.0),
        print,
        lambda: 0.0,
        lambda: NOON,
        random.Random(1).random,
        lambda time: time < NOON + open_until * SECOND,
        ReceiveOptions(),
    )
    assert receiver._missed_from == NOON + begins_at * SECOND
    spool.close()
