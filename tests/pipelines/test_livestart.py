"""Where a live job begins: the start of its address, and whether its stream holds what it needs."""

from __future__ import annotations

import json
import random
from datetime import date

import pytest

from fibflow.io.history import HistoryStart
from fibflow.io.kinesis.address import LATEST, SESSION, TRIM_HORIZON, KinesisAddress
from fibflow.io.kinesis.peek import earliest
from fibflow.io.kinesis.positions import Lane
from fibflow.io.ticks import DecodeTicks
from fibflow.pipelines.cli import UsageError
from fibflow.pipelines.livestart import check_begins, check_kept, first_session, resolve
from fibflow.tests.io.kinesis.begin import begin
from fibflow.tests.io.kinesis.fake import FakeClock, FakeKinesis
from fibflow.tests.transforms.tables import calendar, days, ny

XNYS = calendar("XNYS")
NOON, NIGHT, SATURDAY = ny("2024-04-30T12:00"), ny("2024-04-30T00:00"), ny("2024-04-27T12:00")


@pytest.mark.parametrize(
    ("now", "start"),
    [
        (NOON, ny("2024-04-30")),
        (NIGHT, ny("2024-04-30")),
        (ny("2024-05-01") - 1, ny("2024-04-30")),
        (SATURDAY, LATEST),
    ],
)
def test_session_means_the_beginning_of_the_day_that_runs(now, start):
    address = KinesisAddress.parse("kinesis://ticks?start=SESSION&lanes=2")
    assert resolve(address, XNYS, now) == KinesisAddress("ticks", start, 2)


def test_other_starts_stay():
    for start in ("TRIM_HORIZON", "LATEST", "2024-04-30T12:00:00Z"):
        address = KinesisAddress.parse(f"kinesis://ticks?start={start}")
        assert resolve(address, XNYS, NOON) is address


@pytest.mark.parametrize(
    ("start", "asked", "now", "first"),
    [
        (TRIM_HORIZON, None, NOON, None),
        (NOON, None, NOON, None),
        (TRIM_HORIZON, date(2024, 4, 29), NOON, "2024-04-29"),
        (LATEST, date(2024, 4, 29), NOON, "2024-04-29"),
        (SESSION, None, NOON, "2024-04-30"),
        (SESSION, None, SATURDAY, "2024-04-29"),
        (LATEST, None, SATURDAY, "2024-04-29"),
        (LATEST, None, NIGHT, "2024-04-30"),
    ],
)
def test_the_first_session_of_ticks(start, asked, now, first):
    wanted = None if first is None else days(first)[0]
    assert first_session(start, asked, XNYS, now) == wanted


def test_latest_in_mid_session_is_refused():
    with pytest.raises(UsageError, match=r"in the middle of session 2024-04-30.*say start=SESSION"):
        first_session(LATEST, None, XNYS, NOON)


def test_a_stream_that_begins_within_the_session_is_refused():
    start = HistoryStart(0, 0, days("2024-04-29")[0])
    opens = ny("2024-04-30T09:30")
    for found in (None, ny("2024-04-29T15:00"), opens, opens + 60_000_000):
        check_begins(start, XNYS, found)
    with pytest.raises(
        UsageError,
        match=r"begins at 2024-04-30T13:31:01 UTC, after the open of session 2024-04-30, and history ends "
        r"with 2024-04-29: land 2024-04-30 with",
    ):
        check_begins(start, XNYS, opens + 61_000_000)


HOUR = 60 * 60_000_000
FRIDAY_NIGHT, MONDAY = ny("2024-04-26T20:00"), ny("2024-04-29T08:00")


@pytest.mark.parametrize(
    ("written", "now", "keeps"),
    [
        (NOON, NOON + 23 * HOUR, 24),
        # Over a weekend, and over a night: nothing was traded.
        (FRIDAY_NIGHT, MONDAY, 24),
        (FRIDAY_NIGHT, ny("2024-04-30T09:30"), 24),
        (ny("2024-04-29T16:00"), ny("2024-04-30T09:30"), 1),
        (NOON, NOON + 160 * HOUR, 168),
    ],
)
def test_a_savepoint_after_which_the_stream_holds_all(written, now, keeps):
    check_kept(written, keeps * HOUR, XNYS, now)


@pytest.mark.parametrize(
    ("written", "now", "days"),
    [
        (FRIDAY_NIGHT, ny("2024-04-30T10:00"), "2024-04-29 to 2024-04-29"),
        (FRIDAY_NIGHT, ny("2024-05-03T10:00"), "2024-04-29 to 2024-05-02"),
        (NOON, NOON + 25 * HOUR, "2024-04-30 to 2024-04-30"),
    ],
)
def test_a_savepoint_after_which_messages_are_gone_is_refused(written, now, days):
    with pytest.raises(UsageError, match=f"those of {days} are gone. Land these days with pipelines.load"):
        check_kept(written, 24 * HOUR, XNYS, now)


def test_the_earliest_event_of_a_stream():
    kinesis = FakeKinesis(FakeClock(), 2)
    (state,) = begin(kinesis)
    lanes = [Lane("ticks", 0, state)]

    def found() -> int | None:
        return earliest(
            kinesis, lanes, DecodeTicks(), kinesis.clock, kinesis.clock.sleep, random.Random(1).random
        )

    assert found() is None
    low, high = (shard.first for shard in kinesis.open)
    second = int(kinesis.clock())
    trade = {"ev": "T", "sym": "A", "i": "1", "x": 4, "p": 10.0, "s": 5, "t": second * 1000, "q": 1, "z": 3}
    kinesis.put("a", json.dumps(trade).encode(), low)
    beat = {"ev": "HB", "t": (second - 5) * 1000}
    kinesis.put("b", json.dumps(beat).encode(), high)
    faults = ["throttled", "broken", "expired"]
    kinesis.fault = lambda operation: faults.pop() if faults else None
    assert found() == (second - 5) * 1_000_000
