"""``EvaluateAlerts`` on runners."""

from __future__ import annotations

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing import test_stream
from apache_beam.testing.util import assert_that, equal_to

from fibflow.tests.transforms.alerts.tables import change, price, split, table
from fibflow.tests.transforms.alerts.worlds import Maker
from fibflow.tests.transforms.tables import calendar, days, ny
from fibflow.transforms import coders
from fibflow.transforms.alerts.dofn import EvaluateAlerts
from fibflow.transforms.alerts.schema import EVENTS, Frequency, Operator
from fibflow.transforms.timeframe import IntradayAnchor

XNYS = calendar("XNYS")
OPEN = ny("2024-07-02T10:00")
NAMES = ("A", "B", "C", "D")
EACH = Frequency.EVERY_TIME


def ids(tables: beam.PCollection) -> beam.PCollection:
    return tables | beam.FlatMap(lambda found: found["id"].to_pylist())


def test_a_stream_of_prices_and_changes():
    """The runner is named: of Beam's own only this one has TestStream together with state."""
    changes = [change(n, Operator.ABOVE, 500, symbol=name, frequency=EACH) for n, name in enumerate(NAMES)]
    stream = (
        test_stream.TestStream(coder=coders.ArrowTableCoder())
        .add_elements([table(changes)])
        .add_elements([table([price(OPEN, 600, symbol=name) for name in NAMES])])
        .add_elements([table([change(0, Operator.ENDED, 1, version=2, since=OPEN)])])
        .add_elements([table([price(OPEN + 1, 400, symbol=name) for name in NAMES])])
        .add_elements([table([price(OPEN + 2, 600, symbol=name) for name in NAMES])])
        .advance_watermark_to_infinity()
    )
    told = [f"{n}-1-0" for n in range(4)] + [f"{n}-1-{OPEN + 1}.0" for n in (1, 2, 3)]
    with beam.Pipeline(runner=BundleBasedDirectRunner()) as p:
        rows = p | stream.with_output_types(pa.Table)
        # The kinds come in one stream, so that their order is known.
        events = (rows,) | EvaluateAlerts(XNYS, IntradayAnchor.OPEN, buckets=3)
        assert_that(ids(events), equal_to(told))


def test_three_inputs_on_the_portable_runner():
    """Of inputs of their own no order is known; here every order gives the same."""
    changes = [change(n, Operator.ABOVE, 500, symbol=name, basis=0) for n, name in enumerate(NAMES)]
    facts = [split(days("2024-07-01")[0], 0.5, name) for name in NAMES]
    prices = [price(OPEN, 600, symbol=name) for name in NAMES]
    with beam.Pipeline(runner=FnApiRunner()) as p:
        inputs = tuple(
            p | f"Input{n}" >> beam.Create([table(rows)], reshuffle=False).with_output_types(pa.Table)
            for n, rows in enumerate((prices, changes, facts))
        )
        events = inputs | EvaluateAlerts(XNYS, buckets=3)

        def few(found: list[str]) -> None:
            assert set(found) <= {f"{n}-1-0" for n in range(4)}

        assert_that(ids(events), few)
    counted = {metric.key.metric.name: metric.committed for metric in p.result.metrics().query()["counters"]}
    assert (counted["alert_prices_in"], counted["alert_changes_in"], counted["alert_facts_in"]) == (4, 4, 4)


def test_a_worker_keeps_buckets_from_bundle_to_bundle():
    world = Maker(7, 20, 100).make()
    elements = [table(rows) for rows in world.tables()]

    def all_are_events(tables: list[pa.Table]) -> None:
        assert tables
        assert all(found.schema.equals(EVENTS) for found in tables)

    with beam.Pipeline(runner=FnApiRunner()) as p:
        rows = p | beam.Create(elements, reshuffle=False).with_output_types(pa.Table)
        assert_that((rows,) | EvaluateAlerts(XNYS, buckets=2), all_are_events)


def test_no_buckets_are_refused():
    with pytest.raises(ValueError, match="0 buckets"):
        EvaluateAlerts(XNYS, buckets=0)
