"""``ReadFromKinesis``: restrictions, watermarks, and a pipeline on a stream of the emulator."""

from __future__ import annotations

import itertools
import json
import random
import time
from types import SimpleNamespace
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pvalue import TaggedOutput
from apache_beam.runners.sdf_utils import (
    RestrictionTrackerView,
    ThreadsafeRestrictionTracker,
    ThreadsafeWatermarkEstimator,
)
from apache_beam.testing.util import assert_that
from apache_beam.utils.timestamp import MIN_TIMESTAMP, Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from fibflow.io.aws import AwsConfig
from fibflow.io.kinesis.address import KinesisAddress
from fibflow.io.kinesis.decoded import DEAD_LETTERS, SECONDS, TAGS, TRADES, Decoded
from fibflow.io.kinesis.errors import KinesisError, kinesis_client
from fibflow.io.kinesis.positions import Lane, LaneState, Position
from fibflow.io.kinesis.producer import PutOptions, PutTicks
from fibflow.io.kinesis.reader import LaneReader, Limits
from fibflow.io.kinesis.shards import list_shards, plan
from fibflow.io.kinesis.source import (
    ENDED,
    LaneCoder,
    LaneRestrictions,
    LaneStateCoder,
    LaneTracker,
    LaneWatermarks,
    ReadFromKinesis,
    ReadLane,
    SourceOptions,
)
from fibflow.io.watermark import SteppedWatermark
from fibflow.runners.profiles import profile
from fibflow.tests.io.kinesis.begin import FAULTS, begin
from fibflow.tests.io.kinesis.fake import FakeClock, FakeKinesis
from fibflow.tests.transforms.counted import counting

SECOND = 1_000_000


def decode(block: pa.Table) -> Decoded:
    """Reads payloads of ``{"t": seconds}``, a line each: odd ones are trades, even ones heartbeats."""
    trades, refused = [], []
    newest: dict[str, int] = {}
    for row in block.to_pylist():
        for line in row["data"].split(b"\n"):
            try:
                moment = json.loads(line)["t"] * SECOND
            except ValueError:
                refused.append({"reason": "json", "payload": line})
                continue
            newest[row["shard"]] = max(moment, newest.get(row["shard"], moment))
            if moment % (2 * SECOND):
                trades.append({"sequence": row["sequence"], "shard": row["shard"], "t": moment})
    outputs = {TRADES: trades, DEAD_LETTERS: refused}
    return Decoded({tag: pa.Table.from_pylist(rows) for tag, rows in outputs.items() if rows}, newest)


def message(seconds: int) -> bytes:
    return b'{"t":%d}' % seconds


# The restriction and the watermark -------------------------------------------------------------------------


A = LaneState({"a": Position()})
B = LaneState({"a": Position("1")})


def test_the_rest_is_deferred_once_and_nothing_else_is_split():
    tracker = LaneTracker(A)
    assert tracker.try_split(0.5) is None
    assert tracker.try_claim(B)
    assert tracker.current_restriction() == B
    with pytest.raises(ValueError, match="1 shards of the lane are neither read nor deferred"):
        tracker.check_done()
    assert tracker.try_split(0) == (LaneState({}), B)
    assert tracker.check_done()
    assert not tracker.try_claim(B)
    assert tracker.try_split(0) is None
    assert not tracker.is_bounded()


def test_a_lane_that_is_done_has_nothing_to_defer():
    tracker = LaneTracker(LaneState({}))
    assert tracker.try_split(0) is None
    assert tracker.check_done()


def test_the_backlog_is_the_size():
    provider: Any = LaneRestrictions()
    state = LaneState({"a": Position("1", behind=500), "b": Position("1", behind=20)})
    assert provider.restriction_size(None, state) == 522
    assert provider.create_tracker(state).current_progress().remaining_work == 520
    assert provider.truncate(None, state) is None


def test_coders_keep_states_and_lanes():
    lane = Lane("ticks", 3, B)
    assert LaneCoder().decode(LaneCoder().encode(lane)) == lane
    assert beam.coders.registry.get_coder(type(lane)) == LaneCoder()
    assert LaneStateCoder().decode(LaneStateCoder().encode(B)) == B
    assert LaneRestrictions().restriction_coder().is_deterministic()


def test_a_watermark_goes_on_from_its_state_and_never_back():
    provider: Any = LaneWatermarks()
    watermark = provider.create_watermark_estimator(provider.initial_estimator_state(None, A))
    assert watermark.current_watermark() == MIN_TIMESTAMP
    watermark.advance(None)
    assert watermark.current_watermark() == MIN_TIMESTAMP
    watermark.advance(5 * SECOND)
    watermark.advance(4 * SECOND)
    watermark.observe_timestamp(Timestamp(9))
    coder = provider.estimator_state_coder()
    state = coder.decode(coder.encode(watermark.get_estimator_state()))
    assert provider.create_watermark_estimator(state).current_watermark() == Timestamp(5)
    least = coder.decode(coder.encode(provider.initial_estimator_state(None, A)))
    assert provider.create_watermark_estimator(least).current_watermark() == MIN_TIMESTAMP


# The DoFn, run as a runner runs it, on the fake ------------------------------------------------------------


class Runner:
    """Runs ``ReadLane.process`` bundle by bundle, with what a runner keeps: restriction and watermark."""

    def __init__(self, kinesis, state, options=None):
        self.kinesis = kinesis
        self.lane = Lane("ticks", 0, state)
        self.options = options or SourceOptions()
        self.saved = (state.encode(), MIN_TIMESTAMP.micros)
        self.rows, self.watermarks, self.delays = [], [], []
        self.done = False
        self.new_worker()

    def new_worker(self):
        clock = self.kinesis.clock
        self.fn: Any = ReadLane(AwsConfig(), self._decode, self.options, clock, clock.sleep, 1)
        self.fn._random = random.Random(1)
        idle: dict[int, LaneReader] = {}
        self.fn._readers = SimpleNamespace(
            client=self.kinesis,
            executor=None,
            take=lambda lane: idle.pop(lane, None),
            give_back=idle.__setitem__,
        )

    def _decode(self, block):
        self.meanwhile()
        return decode(block)

    def bundle(self, fails=False, splits=False):
        """Run one; ``splits``: the runner takes the rest back while a poll is being decoded."""
        encoded, micros = self.saved
        tracker = ThreadsafeRestrictionTracker(LaneTracker(LaneState.decode(encoded)))
        watermark = ThreadsafeWatermarkEstimator(SteppedWatermark(micros))
        taken_back = []
        self.meanwhile = lambda: taken_back.append(tracker.try_split(0)) if splits else None
        made = list(self.fn.process(self.lane, RestrictionTrackerView(tracker), watermark))
        tracker.check_done()
        if fails and not taken_back:
            return
        for output in made:
            assert isinstance(output, TaggedOutput)
            assert micros <= output.value.timestamp.micros <= watermark.current_watermark().micros
            self.rows += [(output.tag, row) for row in output.value.value.to_pylist()]
        if taken_back:
            ((_, residual),) = taken_back
            assert made == []
            assert (residual.encode(), watermark.get_estimator_state()) == self.saved
            return
        deferred = tracker.deferred_status()
        self.watermarks.append(watermark.get_estimator_state())
        if deferred is None:
            self.done = True
        else:
            self.delays.append(deferred[1])
            self.saved = (deferred[0].encode(), watermark.get_estimator_state())

    def state(self):
        return LaneState.decode(self.saved[0])

    def trades(self):
        return sorted(row["t"] // SECOND for tag, row in self.rows if tag == TRADES)


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.integers(0, 50)),
            st.tuples(st.just("bundle"), st.booleans(), st.booleans()),
            st.just(("worker",)),
            st.tuples(st.just("wait"), st.sampled_from([0.1, 1.0, 400.0])),
            st.just(("split",)),
        ),
        max_size=40,
    ),
    faults=st.lists(st.sampled_from((None, *FAULTS)), max_size=30),
    size=st.sampled_from([1, 8_000_000]),
)
def test_bundles_that_fail_lose_nothing_and_the_watermark_only_grows(steps, faults, size):
    kinesis = FakeKinesis(FakeClock(), 2)
    (state,) = begin(kinesis)
    runner = Runner(kinesis, state, SourceOptions(out_of_orderness=0, limits=Limits(size=size)))
    pending = list(faults)
    kinesis.fault = lambda operation: pending.pop() if pending else None
    number = 0
    for name, *arguments in steps:
        if name == "put":
            for _ in range(arguments[0]):
                number += 1
                kinesis.put(f"k{number}", message(number))
        elif name == "bundle":
            runner.bundle(*arguments)
        elif name == "worker":
            kinesis.clock.sleep(1.0)
            runner.new_worker()
        elif name == "wait":
            kinesis.clock.sleep(arguments[0])
        else:
            kinesis.split(kinesis.open[0])
        seen = runner.state()
        least = [position.newest for position in seen.shards.values()]
        if runner.watermarks and None not in least:
            assert runner.watermarks[-1] <= min(least)
    runner.options = SourceOptions(out_of_orderness=0, stop_at_end=True, limits=Limits(size=size))
    runner.new_worker()
    kinesis.clock.sleep(1.0)
    for _ in range(500):
        runner.bundle()
        kinesis.clock.sleep(0.5)
        if runner.done:
            break
    assert runner.done
    assert runner.trades() == [n for n in range(1, number + 1) if n % 2]
    assert runner.watermarks == sorted(runner.watermarks)
    assert kinesis.broken == []


def test_the_watermark_waits_for_every_shard_and_stays_behind_by_the_out_of_orderness():
    kinesis = FakeKinesis(FakeClock(), 2)
    (state,) = begin(kinesis)
    runner = Runner(kinesis, state)
    low, high = (shard.first for shard in kinesis.open)
    kinesis.put("a", message(101), low)
    runner.bundle()
    assert runner.trades() == [101]
    assert runner.watermarks[-1] == MIN_TIMESTAMP.micros
    kinesis.put("a", message(90), high)
    kinesis.clock.sleep(1)
    runner.bundle()
    assert runner.watermarks[-1] == 85 * SECOND
    kinesis.put("a", message(200), high)
    kinesis.put("a", message(77), low)
    kinesis.clock.sleep(1)
    runner.bundle()
    assert runner.watermarks[-1] == 96 * SECOND
    kinesis.clock.sleep(3600)
    runner.bundle()
    assert runner.watermarks[-1] == 96 * SECOND


def test_time_moves_on_in_a_quiet_shard_only_where_asked():
    kinesis = FakeKinesis(FakeClock(1_000_000.0), 2)
    (state,) = begin(kinesis)
    runner = Runner(kinesis, state, SourceOptions(out_of_orderness=2 * SECOND, idle_after=10 * SECOND))
    kinesis.fault = lambda operation: "broken" if operation == "get_records" else None
    runner.bundle()
    assert runner.watermarks[-1] == MIN_TIMESTAMP.micros
    kinesis.fault = lambda operation: None
    kinesis.clock.sleep(5)
    runner.bundle()
    assert runner.watermarks[-1] == 999_993 * SECOND


def test_a_closed_lane_ends_and_dead_letters_come_out():
    kinesis = FakeKinesis(FakeClock(), 2)
    kinesis.put("a", b"broken", 0)
    kinesis.put("a", message(3), 0)
    first, second = begin(kinesis, 2)
    kinesis.merge(*kinesis.open[::-1])
    runner = Runner(kinesis, first)
    runner.bundle()
    assert runner.done
    assert [(tag, row.get("payload")) for tag, row in runner.rows] == [
        (TRADES, None),
        (DEAD_LETTERS, b"broken"),
    ]
    other = Runner(kinesis, second)
    other.bundle()
    assert list(other.state().shards) == ["shardId-000000000002"]


@pytest.mark.parametrize(("split", "behind"), [(False, 0), (True, ENDED)])
def test_what_was_read_is_counted_and_a_shard_that_ended_is_behind_nothing(split, behind):
    kinesis = FakeKinesis(FakeClock(), 1)
    kinesis.put("a", b"broken", 0)
    kinesis.put("a", message(3), 0)
    kinesis.put("a", message(5), 0)
    (state,) = begin(kinesis)
    if split:
        kinesis.split(kinesis.open[0])
    with counting() as counted:
        Runner(kinesis, state).bundle()
        found = counted()
    assert (found["messages.trades"], found["messages.dead_letters"], found["rejected.json"]) == (2, 1, 1)
    assert found["millis_behind_latest.shardId-000000000000"] == behind
    assert ENDED < 0


def test_the_next_bundle_is_due_when_a_shard_is():
    kinesis = FakeKinesis(FakeClock(), 1)
    (state,) = begin(kinesis)
    runner = Runner(kinesis, state)
    runner.bundle()
    assert 0.2 < runner.delays[-1].micros / 1e6 <= 0.25
    assert kinesis.clock.slept == 0


def test_an_error_of_the_stream_fails_the_bundle():
    kinesis = FakeKinesis(FakeClock(), 1)
    (state,) = begin(kinesis)
    kinesis.deleted = True
    with pytest.raises(KinesisError, match="no such stream"):
        Runner(kinesis, state).bundle()


# On the wire -----------------------------------------------------------------------------------------------

_names = itertools.count(1)


@pytest.fixture
def stream(s3_server):
    client = kinesis_client(s3_server)
    name = f"ticks-{next(_names)}"
    client.create_stream(StreamName=name, ShardCount=4)
    return SimpleNamespace(aws=s3_server, client=client, name=name)


def fill(stream, count=500, **options):
    producer = PutTicks(
        stream.client, stream.name, time.time, time.sleep, random.random, PutOptions(**options)
    )
    producer.put_rows((f"S{n % 60}", message(n), n * SECOND) for n in range(1, count + 1))
    producer.heartbeat((count + 2) // 2 * 2 * SECOND)
    return producer


def lanes_of(stream, count):
    address = KinesisAddress.parse(f"kinesis://{stream.name}?lanes={count}")
    return plan(stream.client, address, 0, time.sleep, random.random)


@pytest.mark.parametrize("options", [{}, {"codec": "gzip"}, {"codec": "zstd", "aggregate": True}])
def test_a_stream_is_read_to_its_end_by_a_pipeline(stream, options):
    assert fill(stream, messages=7, **options).counts.messages == 500
    stream.client.put_record(StreamName=stream.name, PartitionKey="x", Data=b"\x1f\x8b\x08 broken")
    lanes = lanes_of(stream, 3)
    assert [len(lane.start.shards) for lane in lanes] == [1, 2, 1]
    options = SourceOptions.of(KinesisAddress.parse(f"kinesis://{stream.name}?poll=0.2&stop=end"))
    source = ReadFromKinesis(lanes, stream.aws, decode, options)

    def has_all(tables):
        rows = [row for table in tables for row in table.to_pylist()]
        assert sorted(row["t"] for row in rows) == [n * SECOND for n in range(1, 501, 2)]

    def is_refused(tables):
        assert [row["payload"] for table in tables for row in table.to_pylist()] == [b"\x1f\x8b\x08 broken"]

    def is_empty(tables):
        assert list(tables) == []

    flags = profile("direct").options
    with beam.Pipeline(options=PipelineOptions([*flags])) as pipeline:
        made = pipeline | source
        assert not made[TRADES].is_bounded
        assert {made[tag].element_type for tag in TAGS} == {pa.Table}
        assert_that(made[TRADES], has_all, "trades")
        assert_that(made[DEAD_LETTERS], is_refused, "dead letters")
        assert_that(made[SECONDS], is_empty, "seconds")
    found = pipeline.result.metrics().query()
    counters = {each.key.metric.name: each.committed for each in found["counters"]}
    assert counters["messages.trades"] == 250
    assert counters["messages.dead_letters"] == 1
    assert counters["records"] > 4
    assert counters["bytes"] > 0
    gauges = {each.key.metric.name for each in found["gauges"]}
    assert gauges == {f"millis_behind_latest.shardId-{n:012d}" for n in range(4)}


def test_shards_are_split_and_merged_on_the_wire(stream):
    """The emulator lists children as the service does. It never ends a closed shard, and gives it new
    records on: whoever follows the roots reads everything once, there too."""
    fill(stream, 100)
    client, name = stream.client, stream.name
    client.split_shard(StreamName=name, ShardToSplit="shardId-000000000000", NewStartingHashKey=str(1 << 125))
    client.merge_shards(
        StreamName=name, ShardToMerge="shardId-000000000002", AdjacentShardToMerge="shardId-000000000003"
    )
    shards = list_shards(client, name, time.sleep, random.random)
    kin = {shard.id[-1]: (shard.parent[-1:], shard.adjacent[-1:], shard.is_open) for shard in shards}
    assert kin == {
        "0": ("", "", False),
        "1": ("", "", True),
        "2": ("", "", False),
        "3": ("", "", False),
        "4": ("0", "", True),
        "5": ("0", "", True),
        "6": ("2", "3", True),
    }
    (lane,) = lanes_of(stream, 1)
    reader = LaneReader(client, name, Limits(), time.time, time.sleep, random.random)
    state, times = lane.start, []
    while state.shards:
        found = reader.poll(state.shards)
        for block in found.blocks:
            decoded = decode(block.records)
            times += [row["t"] // SECOND for table in decoded.outputs.values() for row in table.to_pylist()]
        state = state.advanced((block.step for block in found.blocks), {}, stop_at_end=True)
    assert sorted(times) == list(range(1, 101, 2))


@pytest.mark.parametrize("failure", [500, TimeoutError("lost")])
def test_a_call_that_fails_on_the_wire_is_made_again_by_us_alone(stream, failure):
    fill(stream, 20)
    (lane,) = lanes_of(stream, 1)
    calls, failures = [], [failure] * 3

    def fail(request, **_):
        from botocore.awsrequest import AWSResponse

        calls.append(request.url)
        if not failures:
            return None
        if isinstance(failures[-1], Exception):
            raise failures.pop()
        raw = SimpleNamespace(stream=lambda: iter([b"{}"]))
        return AWSResponse(request.url, failures.pop(), {}, raw)

    stream.client.meta.events.register("before-send.kinesis.GetRecords", fail)
    reader = LaneReader(stream.client, stream.name, Limits(seconds=0), time.time, time.sleep, random.random)
    found = reader.poll(lane.start.shards)
    assert len(calls) == 4
    assert found.failed == 3
    assert len(found.blocks) == 1


def test_a_stream_that_is_not_there_is_said_so(s3_server):
    with pytest.raises(KinesisError, match="kinesis://nothing: there is no such stream"):
        list_shards(kinesis_client(s3_server), "nothing", time.sleep, random.random)
