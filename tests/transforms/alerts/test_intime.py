"""The transforms on runners: prices, and bars, that come before the alerts are evaluated all the same."""

from __future__ import annotations

from functools import partial

import apache_beam as beam
import pyarrow as pa
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing import test_stream
from apache_beam.testing.util import assert_that

from fibflow.tests.transforms.alerts.bar_oracle import bars_table, changes_table, facts_table
from fibflow.tests.transforms.alerts.bar_oracle import change as bar_change
from fibflow.tests.transforms.alerts.tables import change, price, table
from fibflow.tests.transforms.alerts.test_barexamples import CLOSE, daily, on, split
from fibflow.transforms import coders
from fibflow.transforms.alerts.barintime import EvaluateBarsInTime
from fibflow.transforms.alerts.hold import with_through
from fibflow.transforms.alerts.intime import EvaluateInTime
from fibflow.transforms.alerts.schema import ALWAYS, FACTS, Operator
from fibflow.transforms.calendar import load_calendar
from fibflow.transforms.timeframe import parse_timeframes

XNYS = load_calendar()
#: 10:00 in New York on 2 January 2024.
T0 = 1_704_207_600_000_000


def test_events_do_not_depend_on_what_comes_first():
    prices = [[price(T0 + at, 10.0 + at, symbol=symbol) for at in range(3)] for symbol in ("A", "B", "C")]
    alerts = [change(1, Operator.CROSSES_UP, 11.5), change(2, Operator.ABOVE, 11.0, symbol="C")]

    def check(found: list[pa.Table]) -> None:
        assert sorted(name for each in found for name in map(str, each["id"].to_pylist())) == [
            "1-1-0",
            "2-1-0",
        ]

    with beam.Pipeline(runner=FnApiRunner()) as pipeline:

        def made(name: str, *tables: pa.Table) -> beam.PCollection:
            return pipeline | name >> beam.Create(list(tables), reshuffle=False).with_output_types(pa.Table)

        inputs = (
            made("Prices", *map(table, prices)),
            made("Changes", table(alerts[:1]), with_through(table(alerts[1:]), T0)),
            made("Facts", with_through(FACTS.empty_table(), ALWAYS)),
        )
        assert_that(inputs | EvaluateInTime(XNYS, buckets=2), check)


def test_bars_are_judged_by_alerts_that_come_behind_them():
    """A stream: each bar comes before the change that it waits for; and splits count."""
    condition = on(CLOSE, "above", {"field": "close", "back": 1}, "1d")
    changes = changes_table([bar_change(1, condition, basis=0), bar_change(2, condition, "B")])
    # In the shares of the day after, the close before is 100.
    bars = [daily("2024-07-01", 400.0), daily("2024-07-02", 101.0), {**daily("2024-07-02"), "symbol": "B"}]
    last = max(bar["end"] for bar in bars)
    tables = [*(bars_table([row]) for row in bars), with_through(changes, last)]
    tables.append(with_through(facts_table([split("2024-07-02", 0.25)]), ALWAYS))
    for given in (tables, tables[:-1]):
        fired = ["1-1-0-" + str(bars[1]["ts"])] if given is tables else []
        with beam.Pipeline(runner=BundleBasedDirectRunner()) as pipeline:
            stream = test_stream.TestStream(coder=coders.ArrowTableCoder())
            for each in given:
                stream = stream.add_elements([each])
            mixed = pipeline | stream.advance_watermark_to_infinity().with_output_types(pa.Table)
            kinds = [
                mixed | f"Only{kind!r}" >> beam.Filter(_is_of, kind).with_output_types(pa.Table)
                for kind in (None, b"bar_changes", b"facts")
            ]
            judged = tuple(kinds) | EvaluateBarsInTime(XNYS, parse_timeframes("1d"), 2, clock=later)
            assert_that(judged, partial(_fired, fired))


def later() -> float:
    return 1_720_000_000.0


def _is_of(table: pa.Table, kind: bytes | None) -> bool:
    return (table.schema.metadata or {}).get(b"fibflow.alerts") == kind


def _fired(expected: list[str], found: list[pa.Table]) -> None:
    assert [name for each in found for name in map(str, each["id"].to_pylist())] == expected
