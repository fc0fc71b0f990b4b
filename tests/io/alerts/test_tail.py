"""What is tailed: where it goes on, what it waits for, and what it says when something is away."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to

from fibflow.io.alerts.tail import Look, Position, Tail
from fibflow.io.postgresql.session import PostgresError
from fibflow.tests.io.alerts.tails import Runner
from fibflow.transforms.alerts.schema import FACTS


def rows(count: int) -> pa.Table:
    return pa.Table.from_pylist([{"symbol": "A", "kind": 1, "day": 1, "value": 1.0}] * count, FACTS)


class Counting:
    """Tells of one row more at each look, up to a number; some looks fail."""

    def __init__(self, most: int, failing: Sequence[int] = (), gate: threading.Event | None = None) -> None:
        self.name, self.every_s = "numbers", 5.0
        self.start: Position = (0, 7)
        self.most, self.failing, self.gate, self.looks = most, list(failing), gate, 0

    def look(self, position: Position) -> Look:
        if self.gate is not None:
            assert self.gate.wait(60)
        self.looks += 1
        if self.looks in self.failing:
            raise PostgresError("PostgreSQL does not answer")
        at = min(position[0] + 1, self.most)
        return Look((at, 7), [rows(at)] if at > position[0] else [], at < self.most)


def test_a_tail_goes_on_where_it_was():
    runner = Runner(Counting(2))
    assert [len(found) for found in runner.look()] == [1]
    assert (runner.position, runner.delay_s) == ((1, 7), 0)
    # A worker that comes after a crash has the position only.
    other = Runner(Counting(2), runner.position)
    assert [len(found) for found in other.look()] == [2]
    assert (other.position, other.delay_s) == ((2, 7), 5)
    assert other.look() == []
    assert other.delay_s == 5


def test_a_bundle_does_not_wait_for_a_slow_answer():
    gate = threading.Event()
    runner = Runner(Counting(1, gate=gate), moment_s=0)
    for _ in range(3):
        assert runner.look() == []
        assert runner.delay_s == 1
    gate.set()
    found: list[pa.Table] = []
    while not found:
        found = runner.look()
    assert [len(table) for table in found] == [1]
    assert runner.feed.looks == 1


def test_what_is_away_is_asked_again_and_named_once(caplog):
    runner = Runner(Counting(1, failing=(1, 2)))
    assert [runner.look(), runner.look()] == [[], []]
    assert (runner.position, runner.delay_s) == ((0, 7), 5)
    assert [len(found) for found in runner.look()] == [1]
    said = [record.getMessage() for record in caplog.records]
    assert len([line for line in said if "PostgreSQL does not answer" in line]) == 1
    assert [line for line in said if "read again" in line] == ["alert numbers are read again"]


def test_an_answer_to_what_was_asked_before_a_crash_is_dropped():
    gate = threading.Event()
    runner = Runner(Counting(3, gate=gate), (1, 7), moment_s=0.0)
    assert runner.look() == []
    # The job goes back to an earlier checkpoint, in the same process.
    runner.state.write((0, 7))
    gate.set()
    found: list[pa.Table] = []
    while not found:
        found = runner.look()
    assert [len(table) for table in found] == [1]


def test_one_wakes_it_and_others_do_nothing():
    runner = Runner(Counting(3))
    assert len(runner.look()) == 1
    assert list(runner.fn.process(("a", b""), runner.state, runner.due_at, runner.due)) == []
    assert runner.position == (1, 7)


def test_a_runner_that_drains_ends_it():
    runner = Runner(Counting(1))
    runner.look()
    assert runner.due.at is not None
    runner.due.clear()
    # The clock has not come to where the timer was set.
    assert list(runner.fn.on_due(runner.state, runner.due_at, runner.due)) == []
    assert runner.due.at is None


def test_a_bug_is_not_taken_for_a_server_that_is_away():
    feed: Any = Counting(1)
    feed.look = lambda position: 1 / 0
    with pytest.raises(ZeroDivisionError):
        Runner(feed).look()


def test_the_transform_on_a_runner():
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        wakes = pipeline | beam.Create([("a", b""), ("a", b"")]).with_output_types(tuple[str, bytes])
        found = wakes | Tail(Counting(1))
        assert_that(found | beam.Map(len), equal_to([1]))
