"""The graph of a live job: alerts come on top of it, and leave the rest as it is."""

from __future__ import annotations

from typing import Any

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from fibflow.io.aws import AwsConfig
from fibflow.io.kinesis import decoded
from fibflow.io.kinesis.positions import Lane, LaneState
from fibflow.io.lake import Lake
from fibflow.io.livestore import LiveStore
from fibflow.io.streamtables import StreamJob
from fibflow.pipelines.livegraph import LiveJob, build
from fibflow.transforms.bars import BarSpec
from fibflow.transforms.calendar import load_calendar
from fibflow.transforms.livebars import StreamPolicy
from fibflow.transforms.timeframe import parse_timeframes

ALERTS = "postgresql://nobody@nowhere/alerts"


def graph(folder: Any, feed: str, redis: bool, alerts: str | None) -> Any:
    """What the runner is given."""
    job = LiveJob(
        lanes=[Lane("ticks", 0, LaneState({}))],
        aws=AwsConfig(region="us-east-1"),
        feed=feed,
        spec=BarSpec(parse_timeframes("1m,1d"), load_calendar()),
        policy=StreamPolicy(buckets=4),
        lake=Lake(str(folder), new_id=str),
        job=StreamJob("live", 1, "run"),
        store=LiveStore("redis://nowhere") if redis else None,
        alerts=alerts,
    )
    pipeline = beam.Pipeline(options=PipelineOptions(["--streaming"]))
    build(pipeline, job)
    return pipeline.to_runner_api().components


@pytest.mark.parametrize("feed", [decoded.TRADES, decoded.MINUTES])
@pytest.mark.parametrize("redis", [True, False])
def test_a_savepoint_without_alerts_holds_for_a_job_with_them(tmp_path, feed, redis):
    """Flink finds an operator's state by the number of what goes into it, a source's by its place."""
    without, with_them = (graph(tmp_path, feed, redis, alerts) for alerts in (None, ALERTS))
    assert not [each for each in without.transforms.values() if "Alert" in each.unique_name]
    more = []
    for name, step in with_them.transforms.items():
        if not step.unique_name:
            continue
        if name in without.transforms:
            known = without.transforms[name]
            assert (known.unique_name, known.inputs, known.outputs) == (
                step.unique_name,
                step.inputs,
                step.outputs,
            )
        else:
            more.append(step.unique_name)
    assert set(without.pcollections) < set(with_them.pcollections)
    assert sources(without) == sources(with_them)
    tops = {name.split("/")[0] for name in more}
    prices = {"AlertTrades"} if feed == decoded.TRADES else {"AlertSeconds", "AlertMinutes"}
    both = {
        "AlertsBegin",
        "AlertsGoOn",
        "AlertsWake",
        "AlertChanges",
        "OfPrices",
        "OfBars",
        "AlertFacts",
        "Alerts",
        "BarAlerts",
        "Fired",
        "Outbox",
    }
    assert tops - {"Together"} == both | prices


def sources(made: Any) -> list[str]:
    """Steps that begin with nothing, by the ids that the runner sorts them by."""
    urn = "beam:transform:impulse:v1"
    return sorted(name for name, step in made.transforms.items() if step.spec.urn == urn)


def test_no_password_is_needed_to_print_a_job(tmp_path):
    lane = Lane("ticks", 0, LaneState({}))
    spec = BarSpec(parse_timeframes("1m"), load_calendar())
    job = LiveJob([lane], AwsConfig(region="us-east-1"), decoded.TRADES, spec, StreamPolicy(), alerts=ALERTS)
    assert ALERTS not in repr(job)
