"""``ReadFromKinesis``: a stream's records, decoded, with a watermark that follows their event time.

An element is a lane, and its restriction the positions of its shards. A restriction is never split, only
deferred: runners keep one remainder an element.

**Timestamps.** A table comes with the time of the watermark that follows it. So it is never late by Beam's
measure, and a processing-time timer downstream, which holds the watermark at its element's timestamp, holds
it no further back than the source does. The rows' own times are in their columns; which rows are late is for
``AggregateBars`` to say. Everything is in the global window, so the timestamps say nothing else.

**After a crash** a runner gives back the restriction and the watermark that belong together. The newest event
time of each shard is part of the restriction, hence the watermark goes on from where it was. What a DoFn
instance keeps besides, answers asked for ahead, belongs to a position, and is dropped with it.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam import coders as beam_coders
from apache_beam import pvalue
from apache_beam.io.iobase import RestrictionProgress, RestrictionTracker
from apache_beam.metrics import Metrics
from apache_beam.transforms.core import RestrictionProvider, WatermarkEstimatorProvider
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.shared import Shared
from apache_beam.utils.timestamp import MIN_TIMESTAMP, Duration

from fibflow.io.aws import AwsConfig
from fibflow.io.kinesis.address import KinesisAddress
from fibflow.io.kinesis.decoded import DEAD_LETTERS, TAGS, Decoded, Decoder
from fibflow.io.kinesis.errors import Clock, Sleep, kinesis_client
from fibflow.io.kinesis.positions import Lane, LaneState
from fibflow.io.kinesis.reader import LaneReader, Limits, Poll
from fibflow.io.watermark import SteppedWatermark
from fibflow.transforms.coders import tables_of
from fibflow.transforms.livecounts import REJECTED, by_word

_THREADS = 8
#: In the place of the milliseconds that a shard is behind, once it was closed and read to its end.
ENDED = -1


@dataclass(frozen=True)
class SourceOptions:
    """How a source reads and what it makes of time.

    Attributes:
        out_of_orderness: by how much a record may be older than one before it in its shard, microseconds. The
            watermark stays so far behind the newest event time of the shard that is furthest back.
        idle_after: for live streams only, microseconds: a shard that is read to its end is taken to have
            nothing older than this before the clock. None, the default, leaves time to records and
            heartbeats alone; a replay of old days needs that.
        stop_at_end: a shard is done where it ends for now.
        limits: how fast and how much to read.
    """

    out_of_orderness: int = 5_000_000
    idle_after: int | None = None
    stop_at_end: bool = False
    limits: Limits = field(default_factory=Limits)

    @classmethod
    def of(
        cls, address: KinesisAddress, out_of_orderness: int = 5_000_000, idle_after: int | None = None
    ) -> SourceOptions:
        """Return the options that an address has, with those of time."""
        limits = Limits(interval=address.poll, rate=address.rate)
        return cls(out_of_orderness, idle_after, address.stop_at_end, limits)


class LaneCoder(beam_coders.Coder):
    """Encodes a ``Lane``."""

    def encode(self, value: Lane) -> bytes:
        """Return its own encoding."""
        return value.encode()

    def decode(self, encoded: bytes) -> Lane:
        """Return the lane."""
        return Lane.decode(encoded)

    def is_deterministic(self) -> bool:
        """Return True: lanes are keys."""
        return True

    def to_type_hint(self) -> type:
        """Return the type that the coder is registered for."""
        return Lane


class LaneStateCoder(beam_coders.Coder):
    """Encodes a ``LaneState``."""

    def encode(self, value: LaneState) -> bytes:
        """Return its own encoding."""
        return value.encode()

    def decode(self, encoded: bytes) -> LaneState:
        """Return the state."""
        return LaneState.decode(encoded)

    def is_deterministic(self) -> bool:
        """Return True."""
        return True


beam_coders.registry.register_coder(Lane, LaneCoder)


class LaneTracker(RestrictionTracker):
    """Tracks what a lane has yet to read. A claim is the state after what is claimed."""

    def __init__(self, state: LaneState) -> None:
        self._state = state
        self._deferred = False

    def current_restriction(self) -> LaneState:
        """Return what is left."""
        return self._state

    def current_progress(self) -> RestrictionProgress:
        """Return the backlog; what is done does not count, for there is no end."""
        return RestrictionProgress(completed=1.0, remaining=float(self._state.behind))

    def check_done(self) -> bool:
        """Raise a ValueError where shards are left that nobody will read."""
        if self._state.shards:
            raise ValueError(f"{len(self._state.shards)} shards of the lane are neither read nor deferred")
        return True

    def try_split(self, fraction_of_remainder: float) -> tuple[LaneState, LaneState] | None:
        """Defer everything that was not claimed; refuse any other split, and a second one."""
        if fraction_of_remainder or self._deferred or not self._state.shards:
            return None
        self._deferred = True
        rest, self._state = self._state, LaneState({})
        return self._state, rest

    def try_claim(self, position: LaneState) -> bool:
        """Claim all up to ``position``; False where the rest was deferred meanwhile."""
        if self._deferred:
            return False
        self._state = position
        return True

    def is_bounded(self) -> bool:
        """Return False."""
        return False


class LaneRestrictions(RestrictionProvider):
    """Makes the restrictions of lanes."""

    def initial_restriction(self, element: Lane) -> LaneState:
        """Return where the lane starts."""
        return element.start

    def create_tracker(self, restriction: LaneState) -> LaneTracker:
        """Return a tracker."""
        return LaneTracker(restriction)

    def restriction_coder(self) -> LaneStateCoder:
        """Return a coder whose bytes later releases can read."""
        return LaneStateCoder()

    def restriction_size(self, element: Lane, restriction: LaneState) -> int:
        """Return the backlog: milliseconds behind the ends of its shards, for the service tells no bytes."""
        return restriction.behind + len(restriction.shards)

    def truncate(self, element: Lane, restriction: LaneState) -> None:
        """Return None: a job that drains stops reading."""


class LaneWatermarks(WatermarkEstimatorProvider):
    """Makes the watermarks of lanes."""

    def initial_estimator_state(self, element: Lane, restriction: LaneState) -> int:
        """Return the beginning of time."""
        return int(MIN_TIMESTAMP.micros)

    def create_watermark_estimator(self, estimator_state: int) -> SteppedWatermark:
        """Return one that goes on from its state."""
        return SteppedWatermark(estimator_state)

    def estimator_state_coder(self) -> beam_coders.Coder:
        """Return a coder of integers."""
        return beam_coders.VarIntCoder()


class _Readers:
    """The readers of a process, which outlive bundles: a lane may come to another instance of the DoFn."""

    def __init__(self, aws: AwsConfig) -> None:
        self.client = kinesis_client(aws)
        self.executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="kinesis")
        self._lock = threading.Lock()
        self._idle: dict[int, LaneReader] = {}

    def take(self, lane: int) -> LaneReader | None:
        """Return the lane's reader, for one caller at a time, if there is one."""
        with self._lock:
            return self._idle.pop(lane, None)

    def give_back(self, lane: int, reader: LaneReader) -> None:
        """Keep a reader for the lane's next bundle."""
        with self._lock:
            self._idle[lane] = reader


def decode_blocks(poll: Poll, decode: Decoder) -> Decoded:
    """Return what a decoder makes of all records of a poll at once."""
    tables = [block.records for block in poll.blocks if len(block.records)]
    if not tables:
        return Decoded({}, {})
    return decode(pa.concat_tables(tables).unify_dictionaries())


_RESTRICTION: Any = beam.DoFn.RestrictionParam(LaneRestrictions())
_WATERMARK: Any = beam.DoFn.WatermarkEstimatorParam(LaneWatermarks())


@beam.typehints.with_input_types(Lane)
class ReadLane(beam.DoFn):
    """Reads a lane, a poll at a time, and defers the rest until the next one is due."""

    def __init__(
        self,
        aws: AwsConfig,
        decode: Decoder,
        options: SourceOptions,
        clock: Clock,
        sleep: Sleep,
        seed: int | None,
    ) -> None:
        self._aws = aws
        self._decode = decode
        self._options = options
        self._clock = clock
        self._sleep = sleep
        self._seed = seed
        self._shared = Shared()

    def setup(self) -> None:
        """Share one client and the readers with the process's other instances."""
        self._readers = self._shared.acquire(lambda: _Readers(self._aws))
        self._random = random.Random(self._seed)

    @beam.DoFn.unbounded_per_element()
    def process(
        self,
        element: Lane,
        tracker: Any = _RESTRICTION,
        watermark: Any = _WATERMARK,
    ) -> Iterator[pvalue.TaggedOutput]:
        """Yield the tables of one poll by tag."""
        state: LaneState = tracker.current_restriction()
        reader = self._readers.take(element.number) or self._reader(element)
        poll = reader.poll(state.shards)
        decoded = decode_blocks(poll, self._decode)
        options = self._options
        state = state.advanced(
            (block.step for block in poll.blocks), decoded.newest, options.idle_after, options.stop_at_end
        )
        if tracker.try_claim(state):  # else the runner took the rest back, and reads all this again
            watermark.advance(state.watermark(options.out_of_orderness))
            self._readers.give_back(element.number, reader)
            _count(poll, decoded)
            at = watermark.current_watermark()
            for tag, table in decoded.outputs.items():
                yield pvalue.TaggedOutput(tag, TimestampedValue(table, at))
            if state.shards:
                delay = poll.due - self._clock()
                tracker.defer_remainder(Duration(micros=int(delay * 1e6)) if delay > 0 else None)

    def _reader(self, lane: Lane) -> LaneReader:
        return LaneReader(
            self._readers.client,
            lane.stream,
            self._options.limits,
            self._clock,
            self._sleep,
            self._random.random,
            self._readers.executor,
        )


def _count(poll: Poll, decoded: Decoded) -> None:
    name = "kinesis"
    Metrics.counter(name, "records").inc(sum(block.taken for block in poll.blocks))
    Metrics.counter(name, "bytes").inc(sum(block.size for block in poll.blocks))
    Metrics.counter(name, "throttled").inc(poll.throttled)
    Metrics.counter(name, "failed").inc(poll.failed)
    for tag, table in decoded.outputs.items():
        Metrics.counter(name, f"messages.{tag}").inc(len(table))
        if tag == DEAD_LETTERS:
            for reason, count in by_word(table["reason"]).items():
                Metrics.counter(name, REJECTED + reason).inc(count)
    for block in poll.blocks:
        # What has ended is asked no more: its last answer must not stand for ever.
        behind = ENDED if block.step.ended else block.step.behind
        Metrics.gauge(name, f"millis_behind_latest.{block.step.shard}").set(behind)
        Metrics.distribution(name, "millis_behind_latest").update(block.step.behind)


@dataclass
class ReadFromKinesis(beam.PTransform):
    """Read a stream and decode it.

    Input: the pipeline's beginning. Output: by tag of ``decoded.TAGS``, unbounded PCollections of tables, in
    the global window.

    Attributes:
        lanes: as ``shards.deal`` dealt them; each is read by one worker at a time.
        aws: credentials, region and endpoint.
        decode: makes tables of records; pickled to workers.
        options: how to read.
        clock, sleep: of the workers; named functions, for they are pickled.
        seed: of the backing off; None for one of each worker's own.
    """

    lanes: Sequence[Lane]
    aws: AwsConfig
    decode: Decoder
    options: SourceOptions = field(default_factory=SourceOptions)
    clock: Clock = time.time
    sleep: Sleep = time.sleep
    seed: int | None = None

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, begin: pvalue.PBegin) -> pvalue.DoOutputsTuple:
        """Create the lanes, spread them over the workers, and read them."""
        read = ReadLane(self.aws, self.decode, self.options, self.clock, self.sleep, self.seed)
        made = (
            begin
            | "Lanes" >> beam.Create(list(self.lanes), reshuffle=False)
            | "Spread" >> beam.Reshuffle()
            | "Read" >> beam.ParDo(read).with_outputs(*TAGS)
        )
        for tag in TAGS:
            # Beam says so of a splittable DoFn's main output only, and takes the others' word from the lanes.
            made[tag].is_bounded = False
        return tables_of(made, *TAGS)
