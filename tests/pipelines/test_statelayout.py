"""What a job's state looks like, off its graph; the release's own is pinned, so that none changes unseen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import apache_beam as beam
import pytest
from apache_beam import coders
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.userstate import BagStateSpec

from fibflow.io import statelayouts
from fibflow.io.aws import AwsConfig
from fibflow.io.history import HistoryStart
from fibflow.io.kinesis import decoded
from fibflow.io.kinesis.positions import Lane, LaneState
from fibflow.io.lake import Lake
from fibflow.io.livestore import LiveStore
from fibflow.io.statelayouts import LayoutMismatch
from fibflow.io.storage import Storage
from fibflow.io.streamtables import StreamJob
from fibflow.pipelines import statelayout
from fibflow.pipelines.livegraph import LiveJob, build
from fibflow.transforms import livecells, livestate
from fibflow.transforms.bars import BarSpec
from fibflow.transforms.calendar import load_calendar
from fibflow.transforms.livebars import StreamPolicy
from fibflow.transforms.livedofn import LiveBarsFn
from fibflow.transforms.timeframe import parse_timeframes

ID = "a" * 32
SAVEPOINT = "file:///s/savepoint-aaaaaa-0123456789ab"


def job_of(folder: Any, **changes: Any) -> LiveJob:
    job = LiveJob(
        lanes=[Lane("ticks", 0, LaneState({}))],
        aws=AwsConfig(region="us-east-1"),
        feed=decoded.TRADES,
        spec=BarSpec(parse_timeframes("1m,1d"), load_calendar()),
        policy=StreamPolicy(buckets=4),
        lake=Lake(str(folder), new_id=str),
        job=StreamJob("live", 1, "run"),
        store=LiveStore("redis://nowhere"),
    )
    return replace(job, **changes)


def layout(job: LiveJob) -> statelayouts.Layout:
    pipeline = beam.Pipeline(options=PipelineOptions(["--streaming"]))
    build(pipeline, job)
    return statelayout.layout_of(pipeline, job)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The layout of a job that has everything."""
    spec = BarSpec(parse_timeframes("1m,1d,3d"), load_calendar())
    job = job_of(
        tmp_path_factory.mktemp("lake"),
        spec=spec,
        history=HistoryStart(0, 0, 0),
        alerts="postgresql://nobody@nowhere/alerts",
    )
    return layout(job)


def test_the_state_of_this_release_is_pinned(whole):
    """Whoever changes bytes of state gives the format a new number, and says so in the change log."""
    found = {name.split("/")[0]: parts["format"] for name, parts in whole.steps.items() if "format" in parts}
    assert found == {
        "Alerts": "1-5b09879a914f",
        "BarAlerts": "1-c60ea72938b2",
        "Bars": "1-34dca4793b3e",
        "CommitFiles": "01",
        "Kinesis": "1",
        "Outbox": "6838ee1e2864",
        "WriteFiles": "01",
    }


def test_bytes_without_a_format_are_none_of_ours(whole):
    for name, parts in whole.steps.items():
        plain = [part for part, is_ in parts.items() if part.startswith("cell ") and "BytesCoder" in is_]
        assert not plain or "format" in parts, f"{name} keeps {plain}: give it a format in statelayout"


def test_what_a_layout_tells(whole):
    [bars] = [parts for name, parts in whole.steps.items() if name.startswith("Bars/")]
    assert {f"cell minutes_{slot}" for slot in range(livecells.SLOTS)} < bars.keys()
    assert bars["timer due"] == "event_time"
    assert whole.options == {
        "--bars-from": "trades",
        "--buckets": "4",
        "--calendar": "XNYS",
        "--intraday-anchor": "midnight",
        "--lateness": "15",
        "--timeframes": "1m,1d,3d",
    }


def test_one_that_was_kept_is_the_one_that_was_made(whole, tmp_path, capsys):
    lake = Storage(str(tmp_path))
    statelayouts.keep(lake, ID, whole)
    assert statelayouts.of_savepoint(lake, SAVEPOINT) == whole
    statelayout.check(lake, "live", SAVEPOINT, whole)
    assert capsys.readouterr().err == ""
    statelayout.check(lake, "live", "file:///s/elsewhere", whole)
    assert capsys.readouterr().err == (
        "stream: nothing is kept of what the state in file:///s/elsewhere looks like (an older release wrote "
        "it, or its folder was renamed): it is taken as it is\n"
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A lake with the layout of a job with a live store and no alerts."""
    lake = tmp_path_factory.mktemp("plain")
    statelayouts.keep(Storage(str(lake)), ID, layout(job_of(lake)))
    return lake


def test_alerts_may_come_to_a_state(plain):
    with_them = job_of(plain, alerts="postgresql://nobody@nowhere/alerts")
    statelayout.check(Storage(str(plain)), "live", SAVEPOINT, layout(with_them))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"policy": StreamPolicy(buckets=8)}, "was made with --buckets 4 \\(not 8\\): resume with"),
        ({"feed": decoded.MINUTES}, "was made with --bars-from trades"),
        ({"store": None}, "cannot be read by this one .*FillClosed.* is gone"),
    ],
)
def test_another_job_is_refused(plain, changes, line):
    with pytest.raises(LayoutMismatch, match=line):
        statelayout.check(Storage(str(plain)), "live", SAVEPOINT, layout(job_of(plain, **changes)))


def test_bytes_that_moved_are_refused_though_their_number_was_forgotten(plain, monkeypatch):
    more = replace(livestate.TRADES, empty=(*livestate.TRADES.empty, 0))
    monkeypatch.setattr(livestate, "TRADES", more)
    job = layout(job_of(plain))
    with pytest.raises(LayoutMismatch, match=r"step Bars/.*: format is 1-\w+, was 1-"):
        statelayout.check(Storage(str(plain)), "live", SAVEPOINT, job)


def test_a_cell_by_another_name_is_refused(plain, monkeypatch):
    renamed = BagStateSpec("held", coders.BytesCoder())
    monkeypatch.setattr(LiveBarsFn._DAYS, "state_spec", renamed)
    job = layout(job_of(plain))
    with pytest.raises(LayoutMismatch, match=r"step Bars/.*: cell days is gone\): resume with the code"):
        statelayout.check(Storage(str(plain)), "live", SAVEPOINT, job)
