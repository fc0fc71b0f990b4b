"""Putting ticks: every message, in order within a key, whatever the service refuses."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from itertools import groupby

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fibflow.io.kinesis.errors import Backoff, KinesisError
from fibflow.io.kinesis.producer import PutOptions, PutTicks
from fibflow.io.kinesis.records import user_records
from fibflow.tests.io.kinesis.fake import BEGIN, FakeClock, FakeKinesis
from fibflow.transforms.buckets import bucket_of
from fibflow.transforms.schemas import TIMESTAMP


def ticks(rows):
    symbols, messages, times = zip(*rows, strict=True)
    return pa.table(
        {"symbol": symbols, "message": pa.array(messages, pa.binary()), "ts": pa.array(times, TIMESTAMP)}
    )


def producer_of(kinesis, **options):
    clock = kinesis.clock
    return PutTicks(kinesis, "ticks", clock, clock.sleep, random.Random(1).random, PutOptions(**options))


def lines_of(kinesis):
    """The messages in the stream by their key, in the order of the records, and by shard."""
    found: dict[str, list[bytes]] = defaultdict(list)
    by_shard: dict[str, list[bytes]] = defaultdict(list)
    puts = [(record, shard.id) for shard in kinesis.shards.values() for record in shard.records]
    for record, shard in sorted(puts, key=lambda put: put[0].number):
        for key, data in user_records(record.key, record.data):
            found[key] += data.split(b"\n")
            by_shard[shard] += data.split(b"\n")
    return found, by_shard


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 200), max_size=8),
    faults=st.lists(st.sampled_from([None, "throttled", "broken", "timeout", "lost"]), max_size=50),
    messages=st.integers(1, 20),
    codec=st.sampled_from(["none", "zstd"]),
    aggregated=st.booleans(),
    shards=st.integers(1, 3),
)
def test_every_message_is_put_in_order(counts, faults, messages, codec, aggregated, shards):
    kinesis = FakeKinesis(FakeClock(), shards)
    pending = list(faults)
    kinesis.fault = lambda operation: pending.pop() if pending and operation != "list_shards" else None
    producer = producer_of(kinesis, messages=messages, codec=codec, aggregate=aggregated, queued=1000)
    expected = defaultdict(list)
    number = 0
    for count in counts:
        rows = []
        for _ in range(count):
            number += 1
            symbol = f"S{number * 7 % 23}"
            rows.append((symbol, b"%d" % number, number))
            expected[f"b{bucket_of(symbol):03d}"].append(b"%d" % number)
        producer.put(ticks(rows))
    producer.flush()
    found, _ = lines_of(kinesis)
    for key, lines in expected.items():
        # A record whose answer was lost may be there again, right behind itself.
        assert list(dict.fromkeys(found[key])) == lines
        assert "lost" in faults or found[key] == lines
    assert set(found) == set(expected)
    assert producer.counts.messages == number
    assert producer.newest == (number or None)


def test_only_what_was_refused_is_put_again():
    kinesis = FakeKinesis(FakeClock(), 1)
    refusals = ["throttled", None, "broken"]
    kinesis.fault = lambda operation: refusals.pop() if operation == "put_record" and refusals else None
    producer = producer_of(kinesis)
    producer.put(ticks([(f"S{n}", b"%d" % n, n) for n in range(5)]))
    producer.flush()
    found, _ = lines_of(kinesis)
    assert sorted(line for lines in found.values() for line in lines) == [b"%d" % n for n in range(5)]
    assert (producer.counts.records, producer.counts.throttled, producer.counts.failed) == (5, 1, 1)


def test_a_shard_takes_a_megabyte_a_second_and_the_producer_lives_with_it():
    clock = FakeClock()
    kinesis = FakeKinesis(clock, 2)
    producer = producer_of(kinesis, messages=1)
    producer.put(ticks([(f"S{n}", b"x" * 100_000, n) for n in range(200)]))
    producer.flush()
    found, _ = lines_of(kinesis)
    assert sum(map(len, found.values())) == 200
    assert producer.counts.throttled > 0
    assert 9 < clock.now - BEGIN < 60


def test_puts_keep_to_the_services_sizes():
    kinesis = FakeKinesis(FakeClock(), 1, quotas=False)
    producer = producer_of(kinesis, messages=1, queued=0)
    producer.put(ticks([(f"S{n}", b"x" * 900_000, n) for n in range(12)]))
    assert kinesis.calls["put_records"] >= 3
    rows = [(f"S{n}", b"%d" % n, n) for n in range(5000)]
    producer.put(ticks(rows))
    producer.flush()
    found, _ = lines_of(kinesis)
    assert sum(map(len, found.values())) == 5012


def test_rows_one_by_one():
    kinesis = FakeKinesis(FakeClock(), 1)
    producer = producer_of(kinesis)
    producer.put_rows(((f"S{n % 3}", b"%d" % n, n) for n in range(100)), size=7)
    producer.flush()
    found, _ = lines_of(kinesis)
    assert sum(map(len, found.values())) == 100
    assert producer.newest == 99
    producer.put(ticks([("A", b"1", 5)]).slice(1))
    assert producer.newest == 99


def test_heartbeats_come_behind_all_ticks_in_every_open_shard():
    kinesis = FakeKinesis(FakeClock(), 3)
    producer = producer_of(kinesis)
    producer.heartbeat()
    assert kinesis.all() == {}
    producer.put(ticks([(f"S{n}", b"%d" % n, 1_700_000_000_123_456 + n) for n in range(50)]))
    producer.heartbeat()
    _, by_shard = lines_of(kinesis)
    assert [json.loads(lines[-1]) for lines in by_shard.values()] == [
        {"ev": "HB", "t": 1_700_000_000_123}
    ] * 3
    assert sum(map(len, by_shard.values())) == 50 + 3
    producer.heartbeat(1_800_000_000_000_000)
    _, by_shard = lines_of(kinesis)
    assert {lines[-1] for lines in by_shard.values()} == {b'{"ev":"HB","t":1800000000000}'}
    assert producer.counts.heartbeats == 6


def test_heartbeats_find_new_shards():
    kinesis = FakeKinesis(FakeClock(), 1)
    producer = producer_of(kinesis)
    producer.heartbeat(1)
    kinesis.split(kinesis.open[0])
    producer.heartbeat(2_000)  # goes to one child, whose name is news
    producer.heartbeat(3_000)
    _, by_shard = lines_of(kinesis)
    assert [len(by_shard[shard.id]) for shard in kinesis.open] == [2, 1]
    kinesis.split(kinesis.open[0])
    kinesis.clock.sleep(61)
    producer.heartbeat(4_000)
    _, by_shard = lines_of(kinesis)
    assert all(json.loads(by_shard[shard.id][-1])["t"] == 4 for shard in kinesis.open)


def test_what_is_refused_for_long_is_an_error_and_is_kept():
    clock = FakeClock()
    kinesis = FakeKinesis(clock, 1, lambda operation: "throttled" if operation == "put_record" else None)
    producer = producer_of(kinesis, patience=30.0, backoff=Backoff(1.0, 4.0))
    producer.put(ticks([("A", b"1", 1)]))
    with pytest.raises(
        KinesisError,
        match=r"ProvisionedThroughputExceededException: Rate exceeded \(records are refused for 3",
    ):
        producer.flush()
    assert 30 < clock.now - BEGIN < 35
    kinesis.fault = lambda operation: None
    producer.flush()
    assert lines_of(kinesis)[0] == {"b139": [b"1"]}


def test_a_stream_that_may_not_be_written_is_an_error_at_once():
    kinesis = FakeKinesis(FakeClock(), 1, lambda operation: "denied")
    producer = producer_of(kinesis)
    producer.put(ticks([("A", b"1", 1)]))
    with pytest.raises(KinesisError, match=r"kinesis://ticks: access is denied: .*kinesis:PutRecords"):
        producer.flush()
    assert kinesis.calls == {"put_records": 1}


def test_keys_take_turns():
    """A key with many records does not keep the others waiting."""
    kinesis = FakeKinesis(FakeClock(), 1, quotas=False)
    producer = producer_of(kinesis, messages=1, queued=1 << 40)
    producer.put(ticks([("A", b"x" * 1_000_000, 1)] * 5 + [("B", b"x" * 1_000_000, 1)] * 5))
    producer.flush()
    order = [record.key for record in kinesis.open[0].records]
    assert max(len(list(run)) for _, run in groupby(order)) == 1
