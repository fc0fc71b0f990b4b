"""Reading: no record lost, none twice, in order, within the quotas, whatever fails."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fibflow.io.kinesis.errors import Backoff, KinesisError
from fibflow.io.kinesis.positions import LaneState, Position
from fibflow.io.kinesis.reader import LaneReader, Limits
from fibflow.io.kinesis.records import aggregate
from fibflow.tests.io.kinesis.begin import FAULTS, begin
from fibflow.tests.io.kinesis.fake import BEGIN, FakeClock, FakeKinesis, number_of, sequence_of
from fibflow.transforms.schemas import RECORDS

LIMITS = Limits()


def reader_of(kinesis, limits=LIMITS, seed=1, executor=None, client=None):
    clock = kinesis.clock
    return LaneReader(
        client or kinesis, "ticks", limits, clock, clock.sleep, random.Random(seed).random, executor
    )


class Consumer:
    """A lane with a state that is saved now and then; a crash brings back the state that was saved last."""

    def __init__(self, kinesis, state, limits=LIMITS):
        self.kinesis, self.state, self.limits = kinesis, state, limits
        self.rows: list[tuple[str, str, int, bytes]] = []
        self.reader = reader_of(kinesis, limits)
        self.throttled = 0
        self.save()

    def save(self):
        self.saved = LaneState.decode(self.state.encode()), len(self.rows)

    def crash(self, keep_reader):
        self.state, count = self.saved
        del self.rows[count:]
        if not keep_reader:
            self.kinesis.clock.sleep(1.0)  # a new process comes up; the old one's calls still count
            self.reader = reader_of(self.kinesis, self.limits)

    def poll(self):
        found = self.reader.poll(self.state.shards)
        self.throttled += found.throttled
        for block in found.blocks:
            table = block.records
            assert table.schema.equals(RECORDS)
            columns = (table[name].to_pylist() for name in ("shard", "sequence", "sub", "data"))
            self.rows += zip(*columns, strict=True)
        self.state = self.state.advanced((block.step for block in found.blocks), {})
        return found

    def drain(self, polls=2000):
        """Poll until each shard is read to its end; answers must keep coming."""
        quiet: set[str] = set()
        for _ in range(polls):
            found = self.poll()
            for block in found.blocks:
                (quiet.add if block.step.quiet is not None else quiet.discard)(block.step.shard)
            if quiet >= set(self.state.shards):
                return
            self.kinesis.clock.sleep(max(0.0, found.due - self.kinesis.clock()))
        raise AssertionError("not read to the end")


def check(kinesis, consumers, expected):
    """Each record came once; in order within a shard; a parent before its children, within a lane."""
    found = [(shard, number) for consumer in consumers for shard, number, _, _ in consumer.rows]
    assert sorted(found) == sorted(expected)
    for consumer in consumers:
        places: dict[str, list[int]] = {}
        numbers: dict[str, list[int]] = {}
        for place, (shard, number, _, data) in enumerate(consumer.rows):
            places.setdefault(shard, []).append(place)
            numbers.setdefault(shard, []).append(number_of(number))
            assert data == expected[shard, number]
        assert all(each == sorted(each) for each in numbers.values())
        for shard, own in places.items():
            parent = kinesis.shards[shard].parent
            if parent in places:
                assert places[parent][-1] < own[0]
    assert kinesis.broken == []


ACTIONS = st.one_of(
    st.tuples(st.just("put"), st.integers(1, 30), st.integers(1, 400_000)),
    st.tuples(st.just("split"), st.integers(0, 7)),
    st.tuples(st.just("merge"), st.integers(0, 7), st.booleans()),
    st.tuples(st.just("poll"), st.integers(0, 2)),
    st.tuples(st.just("save"), st.integers(0, 2)),
    st.tuples(st.just("crash"), st.integers(0, 2), st.booleans()),
    st.tuples(st.just("wait"), st.sampled_from([0.0, 0.05, 0.2, 1.0, 30.0, 400.0])),
)


@settings(max_examples=100, deadline=None)
@given(
    actions=st.lists(ACTIONS, max_size=40),
    shards=st.integers(1, 4),
    lanes=st.integers(1, 3),
    faults=st.lists(st.sampled_from((None, *FAULTS)), max_size=60),
    size=st.sampled_from([1, 100_000, 8_000_000]),
)
def test_every_record_is_read_once_whatever_happens(actions, shards, lanes, faults, size):
    clock = FakeClock()
    pending = list(faults)
    kinesis = FakeKinesis(clock, shards)
    consumers = [Consumer(kinesis, state, Limits(size=size)) for state in begin(kinesis, lanes)]
    kinesis.fault = lambda operation: pending.pop() if pending else None
    count = 0
    for name, *arguments in actions:
        if name == "put":
            for _ in range(arguments[0]):
                count += 1
                kinesis.put(f"key{count % 17}", b"x" * arguments[1] + str(count).encode())
        elif name == "split":
            spans = kinesis.open
            kinesis.split(spans[arguments[0] % len(spans)])
        elif name == "merge" and len(kinesis.open) > 1:
            place = arguments[0] % (len(kinesis.open) - 1)
            pair = kinesis.open[place : place + 2]
            kinesis.merge(*(pair if arguments[1] else pair[::-1]))
        elif name == "poll":
            consumers[arguments[0] % lanes].poll()
        elif name == "save":
            consumers[arguments[0] % lanes].save()
        elif name == "crash":
            consumers[arguments[0] % lanes].crash(arguments[1])
        elif name == "wait":
            clock.sleep(arguments[0])
    for consumer in consumers:
        consumer.drain()
    check(kinesis, consumers, kinesis.all())


def test_without_faults_nothing_is_throttled_and_the_rate_is_reached():
    clock = FakeClock()
    kinesis = FakeKinesis(clock, 1)
    for n in range(400):
        kinesis.put(f"k{n}", b"x" * 100_000)
    (state,) = begin(kinesis)
    consumer = Consumer(kinesis, state)
    consumer.drain()
    assert len(consumer.rows) == 400
    assert consumer.throttled == 0
    # 40 MB at 2 MB a second; the first calls do not know yet how large records are.
    assert 20 <= clock.now - BEGIN < 23


def test_answers_are_no_larger_than_needed():
    kinesis = FakeKinesis(FakeClock(), 1)
    for n in range(500):
        kinesis.put(f"k{n}", b"x" * 50_000)
    (state,) = begin(kinesis)
    consumer = Consumer(kinesis, state)
    sizes = []
    while len(consumer.rows) < 500:
        found = consumer.poll()
        sizes += [block.size for block in found.blocks if block.size]
        kinesis.clock.sleep(max(0.0, found.due - kinesis.clock()))
    assert max(sizes[1:]) <= 1_000_000


def test_a_poll_stops_within_an_answer_and_the_position_with_it():
    kinesis = FakeKinesis(FakeClock(), 1)
    for n in range(10):
        kinesis.put(f"k{n}", b"%d" % n * 100)
    (state,) = begin(kinesis)
    consumer = Consumer(kinesis, state, Limits(size=300))
    consumer.poll()
    assert len(consumer.rows) == 3
    assert consumer.state.shards["shardId-000000000000"].sequence == sequence_of(3)
    reads = kinesis.calls["get_records"]
    consumer.poll()
    assert len(consumer.rows) == 6
    assert kinesis.calls["get_records"] == reads
    consumer.crash(keep_reader=True)
    consumer.drain()
    check(kinesis, [consumer], kinesis.all())


def test_the_end_of_a_shard_that_was_lost_is_read_again():
    kinesis = FakeKinesis(FakeClock(), 1)
    (state,) = begin(kinesis)
    kinesis.split(kinesis.open[0])
    kinesis.put("a", b"1")
    consumer = Consumer(kinesis, state)
    consumer.poll()
    assert len(consumer.state.shards) == 2
    consumer.crash(keep_reader=True)
    consumer.drain()
    check(kinesis, [consumer], kinesis.all())


def test_children_that_are_not_listed_yet_are_waited_for():
    kinesis = FakeKinesis(FakeClock(), 2)
    kinesis.lag = 3.0
    first, second = begin(kinesis, 2)
    kinesis.merge(*kinesis.open)
    kinesis.split(kinesis.open[0])
    for n in range(9):
        kinesis.put(f"k{n}", b"1")
    consumers = [Consumer(kinesis, first), Consumer(kinesis, second)]
    consumers[0].poll()
    assert list(consumers[0].state.shards) == ["shardId-000000000000"]
    for consumer in consumers:
        consumer.drain()
    check(kinesis, consumers, kinesis.all())


def test_user_records_of_an_aggregate_are_rows():
    kinesis = FakeKinesis(FakeClock(), 1)
    kinesis.put("a", aggregate([("b001", b"one"), ("b002", b"two")]))
    kinesis.put("b", b"three")
    (state,) = begin(kinesis)
    table = reader_of(kinesis).poll(state.shards).blocks[0].records
    assert table.select(["sequence", "sub", "key", "data"]).to_pylist() == [
        {"sequence": sequence_of(1), "sub": 0, "key": "b001", "data": b"one"},
        {"sequence": sequence_of(1), "sub": 1, "key": "b002", "data": b"two"},
        {"sequence": sequence_of(2), "sub": 0, "key": "b", "data": b"three"},
    ]
    assert table["arrived"].cast(pa.int64()).to_pylist() == [int(BEGIN) * 1_000_000] * 3


def test_an_iterator_that_expired_is_replaced_at_the_position():
    kinesis = FakeKinesis(FakeClock(), 1)
    kinesis.put("a", b"1")
    (state,) = begin(kinesis)
    consumer = Consumer(kinesis, state)
    consumer.drain()
    kinesis.clock.sleep(301)
    kinesis.put("a", b"2")
    consumer.drain()
    check(kinesis, [consumer], kinesis.all())
    assert kinesis.calls["get_shard_iterator"] == 2


def test_latest_loses_nothing_between_launch_and_first_answer():
    kinesis = FakeKinesis(FakeClock(), 2)
    kinesis.put("a", b"old")
    kinesis.clock.sleep(10)
    states = begin(kinesis, 2, "LATEST")
    kinesis.clock.sleep(5)
    for n in range(4):
        kinesis.put(f"k{n}", b"new")
    kinesis.split(kinesis.open[0])
    kinesis.put("a", b"new")
    consumers = [Consumer(kinesis, state) for state in states]
    for consumer in consumers:
        consumer.drain()
    assert sorted(row[3] for consumer in consumers for row in consumer.rows) == [b"new"] * 5


def test_children_of_a_shard_without_news_begin_at_the_time_asked_for():
    kinesis = FakeKinesis(FakeClock(), 1)
    kinesis.put("a", b"old")
    kinesis.split(kinesis.open[0])
    kinesis.put("a", b"old too")
    kinesis.clock.sleep(10)
    (state,) = begin(kinesis, 1, int(kinesis.clock() * 1e6))
    kinesis.put("a", b"new")
    consumer = Consumer(kinesis, state)
    consumer.drain()
    assert [row[3] for row in consumer.rows] == [b"new"]


def test_a_lane_whose_shard_was_merged_into_anothers_is_done():
    kinesis = FakeKinesis(FakeClock(), 2)
    first, second = begin(kinesis, 2)
    kinesis.merge(*kinesis.open)
    kinesis.put("a", b"1")
    one, two = Consumer(kinesis, first), Consumer(kinesis, second)
    one.drain()
    two.drain()
    assert two.state.shards == {}
    assert len(one.rows) == 1
    assert two.poll().blocks == []


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda k: setattr(k, "deleted", True), "there is no such stream"),
        (lambda k: setattr(k, "fault", lambda operation: "denied"), "kinesis:GetRecords"),
        (lambda k: k.clock.sleep(200_000), "the shard is gone"),
    ],
)
def test_what_cannot_be_mended_is_one_clear_line(spoil, message):
    kinesis = FakeKinesis(FakeClock(), 1)
    (state,) = begin(kinesis)
    kinesis.split(kinesis.open[0])
    spoil(kinesis)
    with pytest.raises(KinesisError, match=message) as caught:
        reader_of(kinesis).poll(state.shards)
    assert "\n" not in str(caught.value)


def test_failures_back_off_and_the_other_shards_go_on():
    clock = FakeClock()
    kinesis = FakeKinesis(clock, 2)
    bad = kinesis.open[0].id
    calls: list[float] = []

    class Client:
        def __getattr__(self, name):
            return getattr(kinesis, name)

        def get_records(self, **arguments):
            if arguments["ShardIterator"].startswith(bad):
                calls.append(clock())
                raise TimeoutError
            return kinesis.get_records(**arguments)

    (state,) = begin(kinesis)
    reader = reader_of(kinesis, Limits(backoff=Backoff(1.0, 8.0)), client=Client())
    for n in range(300):
        kinesis.put(f"k{n}", b"x")
        found = reader.poll(state.shards)
        state = state.advanced((block.step for block in found.blocks), {})
        clock.sleep(max(0.0, found.due - clock()))
    assert state.shards[bad] == Position()
    other = kinesis.open[1]
    assert state.shards[other.id].sequence == sequence_of(other.records[-1].number)
    gaps = [after - before for before, after in pairwise(calls)]
    assert min(gaps) >= 0.25
    assert max(gaps) <= 8.3
    assert len(calls) < 40


def test_threads_read_the_same():
    """On a real pool: which call ends first is left to chance, what is read is not."""
    clock = FakeClock()
    kinesis = FakeKinesis(clock, 4, quotas=False)
    for n in range(500):
        kinesis.put(f"k{n}", b"x" * 1000)
    (state,) = begin(kinesis)
    consumer = Consumer(kinesis, state, Limits(size=20_000))
    with ThreadPoolExecutor(4) as pool:
        consumer.reader = reader_of(kinesis, Limits(size=20_000), executor=pool)
        for _ in range(10_000):
            consumer.poll()
            clock.sleep(0.05)
            if len(consumer.rows) == 500:
                break
    check(kinesis, [consumer], kinesis.all())
