"""Alerts on bars on runners: streams, batches, timers, and the bars of ``AggregateBars`` itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing import test_stream
from apache_beam.testing.util import assert_that
from apache_beam.utils.timestamp import Timestamp

from fibflow.tests.transforms.alerts.bar_oracle import (
    Oracle,
    bars_table,
    change,
    changes_table,
    facts_table,
)
from fibflow.tests.transforms.alerts.test_barexamples import CLOSE, OPEN, SPAN, daily, five, on, split
from fibflow.tests.transforms.alerts.test_barkernel import NAMES, XNYS, told
from fibflow.tests.transforms.streams import MINUTE, stream_table, trade
from fibflow.tests.transforms.tables import days
from fibflow.transforms import coders
from fibflow.transforms.aggregate import BARS, AggregateBars
from fibflow.transforms.alerts.bardofn import EvaluateBarAlerts
from fibflow.transforms.alerts.schema import EVENTS
from fibflow.transforms.bars import BarSpec
from fibflow.transforms.livebars import StreamPolicy
from fibflow.transforms.timeframe import parse_timeframes

FRAMES = parse_timeframes(NAMES)
AT = 1_720_000_000


def at() -> float:
    return float(AT)


def transform(**options: Any) -> EvaluateBarAlerts:
    return EvaluateBarAlerts(XNYS, FRAMES, buckets=3, clock=at, **options)


@dataclass(frozen=True)
class FileLake:
    """Gives bars of symbols, from the ``fails``-th time on; notes each time in a file."""

    path: Path
    rows: tuple[Any, ...]
    fails: int = 0

    def __call__(self, symbols: Any, timeframe: str, end: int, count: int) -> pa.Table | None:
        with self.path.open("a") as file:
            file.write(f"{timeframe} {count}\n")
        if len(self.path.read_text().splitlines()) <= self.fails:
            return None
        own = [row for row in self.rows if row["timeframe"] == timeframe and row["symbol"] in symbols]
        return bars_table(own)


def rows_of(tables: list[pa.Table]) -> list[dict]:
    assert all(table.schema.equals(EVENTS) and len(table) for table in tables)
    return [row for table in tables for row in table.to_pylist()]


def fires(*ids: str) -> Any:
    return lambda tables: _check(tables, ids)


def _check(tables: list[pa.Table], ids: tuple[str, ...]) -> None:
    assert sorted(row["id"] for row in rows_of(tables)) == sorted(ids)


def source(p: Any, name: str, events: list[Any]) -> Any:
    """A stream of tables, each with an instant, and of the instants that time has reached."""
    stream = test_stream.TestStream(coder=coders.ArrowTableCoder())
    for event in events:
        if isinstance(event, int):
            stream = stream.advance_watermark_to(Timestamp(micros=event))
        else:
            stream = stream.add_elements([event])
    return p | name >> stream.advance_watermark_to_infinity().with_output_types(pa.Table)


def test_a_stream_of_changes_facts_and_bars():
    """One stream, told apart afterwards, so that the runner keeps its order."""
    condition = on(CLOSE, "above", {"field": "close", "back": 1}, "1d")
    changes = [change(1, condition, basis=days("2024-07-01")[0]), change(2, condition, "B")]
    facts = [split("2024-07-02", 0.25)]
    tables = [
        [daily("2024-07-01", 400.0)],
        [daily("2024-07-02", 101.0), {**daily("2024-07-02"), "symbol": "B"}],
    ]
    oracle = Oracle(XNYS)
    oracle.take_changes(changes)
    oracle.take_facts(facts)
    expected = [event for rows in tables for event in oracle.take_bars(rows)]
    assert len(expected) == 1
    everything = [changes_table(changes), facts_table(facts), *map(bars_table, tables)]
    with beam.Pipeline(runner=BundleBasedDirectRunner()) as p:
        mixed = source(p, "All", everything)
        kinds = [
            mixed | f"Only{kind!r}" >> beam.Filter(_is_of, kind).with_output_types(pa.Table)
            for kind in (None, b"bar_changes", b"facts")
        ]
        fired = tuple(kinds) | transform()
        assert_that(fired, lambda found: _equal(found, expected))


def _is_of(table: pa.Table, kind: bytes | None) -> bool:
    return (table.schema.metadata or {}).get(b"fibflow.alerts") == kind


def _equal(tables: list[pa.Table], expected: list[dict]) -> None:
    assert told(rows_of(tables)) == told(expected)


def test_bars_as_the_stream_makes_them():
    """Trades of five minutes, then of the next five: the bar closes when time has reached its end."""
    ticks = [
        [trade("A", OPEN + n * MINUTE, n + 1, price, 10.0)]
        for n, price in enumerate([10.0, 10.5, 10.2, 10.1, 10.4, 10.3, 10.6, 10.2, 10.9, 10.8])
    ]
    condition = on(CLOSE, "above", {"field": "high", "back": 1})
    spec = BarSpec(parse_timeframes("5m,15m"), XNYS)
    with beam.Pipeline(runner=BundleBasedDirectRunner()) as p:
        rows = source(
            p,
            "Ticks",
            [part for n, row in enumerate(ticks) for part in (stream_table(row), OPEN + n * MINUTE)],
        )
        made = rows | AggregateBars(spec, stream=StreamPolicy(buckets=3))
        create = beam.Create([changes_table([change(1, condition)])], reshuffle=False)
        changes = p | "Changes" >> create.with_output_types(pa.Table)
        alerts = EvaluateBarAlerts(XNYS, spec.timeframes, 3)
        fired = (made[BARS], changes) | alerts
        assert_that(fired, fires(f"1-1-0-{OPEN + SPAN}"))


@pytest.mark.parametrize("runner", [FnApiRunner, BundleBasedDirectRunner])
def test_bars_before_the_stream_are_asked_for_again(tmp_path, runner):
    """A runner whose input has ended fires timers at once: the lake is asked once more, and not for ever."""
    lake = FileLake(tmp_path / "asked", (daily("2024-06-27", 10.0, "2d", "2024-06-28"),))
    condition = on(CLOSE, "above", {"field": "high", "timeframe": "2d"})
    tables = [changes_table([change(1, condition)]), bars_table([five(0, 11.0)]), bars_table([five(1, 9.0)])]
    with beam.Pipeline(runner=runner()) as p:
        given = p | beam.Create(tables, reshuffle=False).with_output_types(pa.Table)
        fired = (given,) | transform(reader=lake)
        assert_that(fired, fires(f"1-1-0-{OPEN}"))
    assert lake.path.read_text().splitlines() == ["5m 7", "2d 24", "5m 6", "2d 23"]


@pytest.mark.parametrize(("settle_s", "times"), [(0.0, 8), (60.0, 4)], ids=["due", "not due yet"])
def test_a_lake_that_does_not_answer_is_asked_when_the_time_has_come(tmp_path, settle_s, times):
    lake = FileLake(tmp_path / "asked", (), fails=6)
    condition = on(CLOSE, "above", {"field": "high", "timeframe": "2d"})
    tables = [changes_table([change(1, condition)]), bars_table([five(0, 11.0)])]
    with beam.Pipeline(runner=FnApiRunner()) as p:
        given = p | beam.Create(tables, reshuffle=False).with_output_types(pa.Table)
        assert_that((given,) | transform(reader=lake, settle_s=settle_s), fires())
    assert len(lake.path.read_text().splitlines()) == times
