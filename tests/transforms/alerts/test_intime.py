"""The transform on a runner: prices that come before the alerts are evaluated all the same."""

from __future__ import annotations

import apache_beam as beam
import pyarrow as pa
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that

from fibflow.tests.transforms.alerts.tables import change, price, table
from fibflow.transforms.alerts.hold import with_through
from fibflow.transforms.alerts.intime import EvaluateInTime
from fibflow.transforms.alerts.schema import ALWAYS, FACTS, Operator
from fibflow.transforms.calendar import load_calendar

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
