"""The graph of a live job: alerts come on top of it, and leave the rest as it is."""

from __future__ import annotations

import bz2
from base64 import b64decode
from collections import Counter
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_runner_api_pb2

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


def graph(folder: Any, feed: str, redis: bool, alerts: str | None, url: str = "redis://nowhere") -> Any:
    """What the runner is given."""
    job = LiveJob(
        lanes=[Lane("ticks", 0, LaneState({}))],
        aws=AwsConfig(region="us-east-1"),
        feed=feed,
        spec=BarSpec(parse_timeframes("1m,1d"), load_calendar()),
        policy=StreamPolicy(buckets=4),
        lake=Lake(str(folder), new_id=str),
        job=StreamJob("live", 1, "run"),
        store=LiveStore(url) if redis else None,
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
        "ChangesWake",
        "FactsWake",
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


@pytest.mark.parametrize("feed", [decoded.TRADES, decoded.MINUTES])
@pytest.mark.parametrize("redis", [True, False])
@pytest.mark.parametrize("alerts", [ALERTS, None])
def test_a_savepoint_holds_for_the_job_submitted_again(tmp_path, feed, redis, alerts):
    """The runner names a stage by its input: of two with one input, either may get the other's state."""
    inputs = Counter(
        step.inputs[main]
        for step in graph(tmp_path, feed, redis, alerts).transforms.values()
        for main in heads(step)
    )
    assert len(inputs) > 3
    assert [name for name, stages in inputs.items() if stages > 1] == []


def heads(step: Any) -> list[str]:
    """The main input of a step that begins a stage: one with state, timers, or a source that is split."""
    if step.spec.urn != "beam:transform:pardo:v1":
        return []
    told = beam_runner_api_pb2.ParDoPayload.FromString(step.spec.payload)
    begins = told.state_specs or told.timer_family_specs or told.restriction_coder_id
    return [name for name in step.inputs if name not in told.side_inputs] if begins else []


def sources(made: Any) -> list[str]:
    """Steps that begin with nothing, by the ids that the runner sorts them by."""
    urn = "beam:transform:impulse:v1"
    return sorted(name for name, step in made.transforms.items() if step.spec.urn == urn)


def test_no_password_of_redis_is_in_the_graph(tmp_path):
    made = graph(tmp_path, decoded.TRADES, True, ALERTS, "rediss://:hush@nowhere")
    urn = "beam:transform:pardo:v1"
    payloads = [each.spec.payload for each in made.transforms.values() if each.spec.urn == urn]
    functions = [beam_runner_api_pb2.ParDoPayload.FromString(payload).do_fn.payload for payload in payloads]
    told = [bz2.decompress(b64decode(function)) for function in functions]
    assert sum(b"rediss://nowhere" in each for each in told) > 3
    assert not any(b"hush" in each for each in told)
    assert b"hush" not in made.SerializeToString()


def test_no_password_is_needed_to_print_a_job(tmp_path):
    lane = Lane("ticks", 0, LaneState({}))
    spec = BarSpec(parse_timeframes("1m"), load_calendar())
    job = LiveJob([lane], AwsConfig(region="us-east-1"), decoded.TRADES, spec, StreamPolicy(), alerts=ALERTS)
    assert ALERTS not in repr(job)
