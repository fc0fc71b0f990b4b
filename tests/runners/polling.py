"""A source that polls: one element is read for ever, some at a time, with a pause between."""

from __future__ import annotations

import queue
from collections import defaultdict
from collections.abc import Iterator

import apache_beam as beam
from apache_beam.io.restriction_trackers import OffsetRange, OffsetRestrictionTracker
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from apache_beam.transforms.core import RestrictionProvider, WatermarkEstimatorProvider
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Duration, Timestamp

SEEN: defaultdict[str, queue.Queue] = defaultdict(queue.Queue)
"""What `Tell` was given, by name. Workers of flink-local are threads of this process: they share it."""

END = 1 << 40


class _Unsplit(OffsetRestrictionTracker):
    """Keeps what is left of a restriction, and never gives a part of it away."""

    def try_split(self, fraction_of_remainder):
        return super().try_split(fraction_of_remainder) if fraction_of_remainder == 0 else None


class Polls(RestrictionProvider, WatermarkEstimatorProvider):
    """Restrictions are positions; the watermark is what the DoFn says."""

    def initial_restriction(self, element):
        return OffsetRange(0, END)

    def create_tracker(self, restriction):
        return _Unsplit(restriction)

    def restriction_size(self, element, restriction):
        return 1

    def truncate(self, element, restriction):
        return None

    def initial_estimator_state(self, element, restriction):
        return None

    def create_watermark_estimator(self, state):
        return ManualWatermarkEstimator(state)


_POLLS = Polls()


class Poll(beam.DoFn):
    """Emits the next position, with itself in milliseconds as its event time, and defers what is left."""

    def __init__(self, pause_ms: int) -> None:
        self.pause_ms = pause_ms

    @beam.DoFn.unbounded_per_element()
    def process(
        self,
        element: str,
        tracker=beam.DoFn.RestrictionParam(_POLLS),  # noqa: B008 - how Beam is told
        estimator=beam.DoFn.WatermarkEstimatorParam(_POLLS),  # noqa: B008 - how Beam is told
    ) -> Iterator[TimestampedValue]:
        position = tracker.current_restriction().start
        if tracker.try_claim(position):
            time = Timestamp(micros=position * 1000)
            yield TimestampedValue((element, position), time)
            estimator.set_watermark(time)
            tracker.defer_remainder(Duration(micros=self.pause_ms * 1000))


class Tell(beam.DoFn):
    """Puts what it is given into `SEEN`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def process(self, element, time=beam.DoFn.TimestampParam):
        SEEN[self.name].put((element, time.micros))
