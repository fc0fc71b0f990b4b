from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from operator import itemgetter
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from fibflow.io.liverecords import merge_bars
from fibflow.io.livestore import Flush
from fibflow.io.throttle import LatestEvery, still_open
from fibflow.tests.io.livestores import MINUTE, T0, bar, closed, rows, table

INTERVAL_S = 0.25
CHECK_S = 5.0


class Bag:
    """A bag of state, and as ``Value`` a cell of one value."""

    def __init__(self) -> None:
        self.held: list[Any] = []

    def add(self, value: Any) -> None:
        self.held.append(value)

    def clear(self) -> None:
        self.held.clear()

    def read(self) -> Any:
        return list(self.held)


class Value(Bag):
    def read(self) -> Any:
        return self.held[0] if self.held else None

    def write(self, value: Any) -> None:
        self.held = [value]


class Timer:
    """At most one instant, as a key's timer; None when it is not set."""

    def __init__(self) -> None:
        self.at: float | None = None

    def set(self, at: Timestamp) -> None:
        self.at = at.micros / 1e6

    def clear(self) -> None:
        self.at = None


class Marker:
    """A marker that the test changes."""

    def __init__(self) -> None:
        self.says = "one"
        self.is_open = False

    def open(self) -> None:
        self.is_open = True

    def current(self) -> str:
        assert self.is_open
        return self.says

    def close(self) -> None:
        self.is_open = False


class Bucket:
    """One bucket, its state and its timers, at a time that only goes on when told to."""

    def __init__(self, marker: Marker | None = None) -> None:
        self.now = 1_000.0
        self.marker = marker
        self.cells = {"pending": Bag(), "held": Value(), "clocks": Value()}
        self.timers = {name: Timer() for name in ("flush", "check", "end")}
        self.flushes: list[tuple[float, Flush]] = []
        self.start()

    def start(self) -> None:
        """A worker's own instance, as after a restore: state and timers stay."""
        self.fn = LatestEvery(INTERVAL_S, self.marker, CHECK_S, clock=lambda: self.now)
        self.fn.setup()

    def come(self, *bars: dict) -> list[Flush]:
        element = 7, table(*bars)
        return self._out(self.fn.process(element, **self.cells, **self.timers, window=GlobalWindow()))

    def wait(self, seconds: float) -> list[Flush]:
        """Let time pass, and timers fire in their order."""
        end, out = self.now + seconds, []
        while due := [timer for timer in ("flush", "check") if (self.timers[timer].at or end + 1) <= end]:
            name = min(due, key=lambda timer: self.timers[timer].at or 0)
            self.now = max(self.now, self.timers[name].at or 0)
            out += self.fire(name)
        self.now = end
        return out

    def fire(self, name: str) -> list[Flush]:
        self.timers[name].at = None
        given = {
            "flush": {},
            "check": {"check": self.timers["check"]},
            "end": {"flush": self.timers["flush"], "check": self.timers["check"]},
        }[name]
        return self._out(getattr(self.fn, f"on_{name}")(7, **self.cells, **given))

    def _out(self, made: Iterable[tuple]) -> list[Flush]:
        flushes = [Flush(*out) for out in made]
        self.flushes += [(self.now, flush) for flush in flushes]
        return flushes


def closes(flush: Flush) -> list[tuple]:
    return sorted(rows(flush.bars, "symbol", "timeframe", "close"))


def test_the_first_change_goes_out_at_once_and_the_next_ones_together():
    bucket = Bucket()
    (first,) = bucket.come(bar("A", close=1.0))
    assert (first.bucket, first.whole, closes(first)) == (7, True, [("A", "1m", 1.0)])
    assert bucket.come(bar("A", close=2.0), bar("B")) == []
    assert bucket.come(bar("A", close=3.0)) == []
    assert bucket.wait(INTERVAL_S - 0.001) == []
    (second,) = bucket.wait(0.001)
    assert (second.whole, closes(second)) == (False, [("A", "1m", 3.0), ("B", "1m", 1.0)])
    assert second.stamp == first.stamp + 250_000
    assert bucket.wait(100) == []
    assert [flush.whole for flush in bucket.come(bar("A", close=4.0))] == [False]


def test_a_change_after_the_interval_takes_along_what_waits():
    bucket = Bucket()
    bucket.come(bar("A"))
    bucket.come(bar("B"))
    bucket.now += 1
    (late,) = bucket.come(bar("C"))
    assert [row[0] for row in closes(late)] == ["B", "C"]
    assert bucket.fire("flush") == []


def test_what_ended_is_told_once_and_then_forgotten():
    bucket = Bucket()
    bucket.come(bar("A"), bar("B"))
    bucket.come(closed("A"))
    (told,) = bucket.wait(1)
    assert rows(told.bars, "symbol", "complete") == [("A", True)]
    bucket.start()
    (whole,) = bucket.come(bar("C"))
    assert (whole.whole, [row[0] for row in closes(whole)]) == (True, ["B", "C"])


def test_a_revision_of_an_older_bar_does_not_close_the_one_that_is_open():
    bucket = Bucket()
    bucket.come(bar("A", ts=T0 + MINUTE))
    bucket.come(closed("A", ts=T0, revision=1))
    bucket.wait(1)
    bucket.start()
    (whole,) = bucket.come(bar("B"))
    assert [row[0] for row in closes(whole)] == ["A", "B"]


def test_a_change_of_the_window_before_the_newest_leaves_both_open():
    bucket = Bucket()
    bucket.come(bar("A", ts=T0 + MINUTE))
    bucket.come(bar("A", ts=T0))
    (changed,) = bucket.wait(1)
    assert rows(changed.bars, "ts") == [(T0,)]
    bucket.start()
    (whole,) = bucket.come(bar("A", ts=T0, close=2.0))
    assert rows(whole.bars, "ts", "close") == [(T0, 2.0), (T0 + MINUTE, 1.0)]


def test_a_new_instance_sends_all_once():
    bucket = Bucket()
    bucket.come(bar("A"))
    bucket.come(bar("B"))
    bucket.start()
    (whole,) = bucket.wait(1)
    assert (whole.whole, [row[0] for row in closes(whole)]) == (True, ["A", "B"])
    assert [flush.whole for flush in bucket.come(bar("A"))] == [False]


def test_a_quiet_bucket_sends_all_when_the_marker_changes():
    marker = Marker()
    bucket = Bucket(marker)
    bucket.come(bar("A"))
    assert bucket.wait(3 * CHECK_S) == []
    marker.says = "two"
    (whole,) = bucket.wait(CHECK_S)
    assert (whole.whole, closes(whole)) == (True, [("A", "1m", 1.0)])
    assert bucket.wait(3 * CHECK_S) == []
    bucket.fn.teardown()
    assert not marker.is_open


def test_a_bucket_without_open_bars_says_so():
    marker = Marker()
    bucket = Bucket(marker)
    bucket.come(closed("A"))
    marker.says = "two"
    (whole,) = bucket.wait(CHECK_S)
    assert (whole.whole, whole.bars.num_rows) == (True, 0)


def test_the_end_of_the_input_lets_out_what_waits_and_forgets_all():
    bucket = Bucket(Marker())
    bucket.come(bar("A"))
    bucket.come(bar("A", close=2.0))
    assert bucket.timers["end"].at == GlobalWindow().max_timestamp().micros / 1e6
    (last,) = bucket.fire("end")
    assert closes(last) == [("A", "1m", 2.0)]
    assert all(not cell.held for cell in bucket.cells.values())
    assert bucket.timers["flush"].at is bucket.timers["check"].at is None
    # Timers that were on their way.
    assert bucket.fire("flush") == bucket.fire("check") == []


def test_a_runner_that_fires_checks_at_once_is_not_asked_for_more():
    bucket = Bucket(Marker())
    bucket.come(bar("A"))
    bucket.fire("check")
    assert bucket.timers["check"].at is None


@pytest.mark.parametrize("step", [-100.0, 100.0])
def test_a_clock_that_jumps_holds_nothing_back(step):
    bucket = Bucket()
    (first,) = bucket.come(bar("A"))
    bucket.now += step
    (second,) = bucket.come(bar("A", close=2.0))
    assert second.stamp > first.stamp


def test_the_state_stays_as_large_as_what_is_open():
    bucket = Bucket()
    for minute in range(20):
        bucket.come(closed("A", ts=T0 + (minute - 1) * MINUTE), bar("A", ts=T0 + minute * MINUTE))
        bucket.wait(1)
    (held,) = bucket.cells["held"].held
    assert rows(held, "ts", "complete") == [(T0 + 18 * MINUTE, True), (T0 + 19 * MINUTE, False)]
    assert not bucket.cells["pending"].held


def test_an_open_bar_that_comes_after_its_end_is_not_let_out():
    bucket = Bucket()
    bucket.come(closed("A"))
    bucket.come(bar("A"))
    assert bucket.wait(1) == []
    assert bucket.come(bar("A")) == []
    (flush,) = bucket.come(bar("A", ts=T0 + MINUTE))
    assert rows(flush.bars, "ts") == [(T0 + MINUTE,)]


STEPS = st.lists(
    st.one_of(
        st.lists(
            st.builds(
                bar,
                st.sampled_from("AB"),
                ts=st.integers(0, 2),
                close=st.integers(1, 99).map(float),
                complete=st.booleans(),
            ),
            min_size=1,
            max_size=3,
        ),
        st.sampled_from([0.01, 0.1, 0.3, 6.0]),
        st.sampled_from(["restore", "emptied"]),
    ),
    max_size=25,
)


@settings(deadline=None, max_examples=200)
@given(STEPS)
def test_what_is_let_out_leaves_the_open_bars_and_not_too_often(steps):
    marker = Marker()
    bucket = Bucket(marker)
    came: list[pa.Table] = []
    for step in steps:
        if isinstance(step, list):
            came.append(table(*step))
            bucket.come(*step)
        elif isinstance(step, float):
            bucket.wait(step)
        elif step == "restore":
            bucket.start()
        else:
            marker.says += "+"
    bucket.wait(CHECK_S + INTERVAL_S)
    assert store_of(bucket.flushes) == sorted(rows(still_open(merge_bars(table(), came)[0])))
    partial = [(at, flush) for at, flush in bucket.flushes if not flush.whole]
    for (before, _), (after, _) in pairwise(partial):
        assert after - before >= INTERVAL_S - 1e-5
    stamps = [flush.stamp for _, flush in bucket.flushes]
    assert stamps == sorted(set(stamps))


def store_of(flushes: list[tuple[float, Flush]]) -> list[tuple]:
    """What the flushes leave in a store."""
    held: dict = {}
    for _, flush in flushes:
        if flush.whole:
            held = {}
        for row, is_complete in zip(rows(flush.bars), flush.bars["complete"].to_pylist(), strict=True):
            if is_complete:
                held = {key: kept for key, kept in held.items() if key[:2] != row[:2] or key[2] > row[2]}
            else:
                held[row[:3]] = row
    return sorted(held.values())


class Same:
    """A marker that never changes."""

    def open(self) -> None:
        pass

    def current(self) -> str:
        return "same"

    def close(self) -> None:
        pass


def test_in_a_pipeline_nothing_is_lost_at_the_end():
    elements = [
        (number % 3, table(bar(f"S{number % 3}", close=float(number)), bar("X", close=float(number))))
        for number in range(30)
    ]
    elements.append((0, table(closed("X"))))

    def check(flushes: list[tuple]) -> None:
        in_order = [Flush(*flush) for flush in sorted(flushes, key=itemgetter(1))]
        left = {
            (key, row[0], row[7])
            for key in range(3)
            for row in store_of([(0.0, flush) for flush in in_order if flush.bucket == key])
        }
        assert left == {(0, "S0", 27.0), (1, "S1", 28.0), (1, "X", 28.0), (2, "S2", 29.0), (2, "X", 29.0)}

    with beam.Pipeline(FnApiRunner(), options=PipelineOptions([])) as pipeline:
        flushes = (
            pipeline
            | beam.Create(elements, reshuffle=False).with_output_types(tuple[int, pa.Table])
            | beam.ParDo(LatestEvery(INTERVAL_S, Same()))
        )
        assert_that(flushes, check)
