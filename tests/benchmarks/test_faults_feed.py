"""The feed while something breaks: it lasts until it is told to finish, and gives every message once."""

from __future__ import annotations

import random
import time

import pytest

from fibflow.benchmarks.faults.feed import Feed
from fibflow.benchmarks.faults.rig import market
from fibflow.io.kinesis.errors import KinesisError
from fibflow.io.kinesis.producer import PutOptions, PutTicks
from fibflow.pipelines.playback import KinesisSink, play
from fibflow.tests.io.kinesis.fake import FakeKinesis, WallClock


def lines_of(kinesis: FakeKinesis) -> list[bytes]:
    """All messages in a stream, sorted."""
    records = [record.data for shard in kinesis.shards.values() for record in shard.records]
    return sorted(line for data in records for line in data.split(b"\n"))


def stream() -> FakeKinesis:
    return FakeKinesis(WallClock(), 2, quotas=False)


def test_what_is_told_to_finish_has_played_everything_once():
    tape, slowly, at_once = market(3).tape, stream(), stream()
    with Feed(slowly, "ticks", tape) as feed:
        assert feed.runs
        feed.finish()
        assert not feed.runs
    producer = PutTicks(at_once, "ticks", time.monotonic, time.sleep, random.Random(1).random, PutOptions())
    play(tape, KinesisSink(producer), time.monotonic, time.sleep)
    assert lines_of(slowly) == lines_of(at_once)
    assert len(lines_of(slowly)) > len(tape.trades)


def test_one_that_is_hurried_before_it_begins_ends_too():
    kinesis = stream()
    feed = Feed(kinesis, "ticks", market(3).tape)
    feed._hurried.set()
    with feed:
        feed.finish()
    assert lines_of(kinesis)


def test_a_stream_that_is_not_there_is_told_at_the_end():
    kinesis = stream()
    kinesis.fault = lambda operation: "denied"
    with (
        Feed(kinesis, "ticks", market(3).tape) as feed,
        pytest.raises(KinesisError, match="access is denied"),
    ):
        feed.finish()


def test_a_run_that_fails_ends_its_feed():
    kinesis = stream()
    with pytest.raises(AssertionError), Feed(kinesis, "ticks", market(3).tape) as feed:
        raise AssertionError("the job is gone")
    assert not feed.runs
