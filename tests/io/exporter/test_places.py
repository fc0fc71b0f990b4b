"""The lake, reports in it, a stream's shards and the outbox, on real stores."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from fibflow.io import tables
from fibflow.io.dailyend import DailyEnd
from fibflow.io.exporter import metrics, places
from fibflow.io.exporter.metrics import Sample
from fibflow.io.kinesis.errors import KinesisError
from fibflow.io.lake import Lake
from fibflow.io.storage import LakeError, Storage
from fibflow.tests.io.streams import started

MADE = datetime(2024, 3, 15, 22, 30, tzinfo=UTC)


def values(samples) -> dict[str, float]:
    return {" ".join((each.of.name, *each.labels)): each.value for each in samples}


def test_the_age_of_each_table_that_there_is(anywhere: Lake):
    source = places.Tables(anywhere)
    assert list(source.look()) == []
    run = started(anywhere)
    (first,) = source.look()
    newest = anywhere.table(tables.LIVE).snapshot().newest
    assert first == Sample(metrics.LAKE_AGE, newest / 1000, (tables.LIVE.name,))
    run.write(3)
    run.commit()
    (second,) = source.look()
    # What serving tells by the same name.
    assert second.value == anywhere.table(tables.LIVE).snapshot().newest / 1000 > first.value


def test_what_runs_left_in_the_lake(anywhere: Lake):
    storage, source = Storage(anywhere.uri, anywhere.aws), places.Reports(anywhere)
    assert list(source.look()) == []
    DailyEnd(MADE, 3).write(storage)
    report = {"made_at": "2024-03-15T22:30:00Z", "gaps": {"1m": 4, "1d": 0}, "quiet_symbols": ["A", "B"]}
    storage.write(places.QUALITY, json.dumps(report | {"differences": 1, "more": {}}).encode())
    assert values(source.look()) == {
        "fibflow_daily_last_success_timestamp_seconds": MADE.timestamp(),
        "fibflow_daily_differences": 3,
        "fibflow_quality_timestamp_seconds": MADE.timestamp(),
        "fibflow_quality_quiet_symbols": 2,
        "fibflow_quality_gaps 1m": 4,
        "fibflow_quality_gaps 1d": 0,
    }
    DailyEnd(MADE).write(storage)
    assert "fibflow_daily_differences" not in values(source.look())


@pytest.mark.parametrize("report", [b"{", b"[]", b'{"made_at": "soon"}', b'{"made_at": "2024-03-15"}'])
def test_a_report_that_cannot_be_read_is_said_so(report):
    with pytest.raises(LakeError, match=r"_quality/latest.json of the lake cannot be read: run pipelines"):
        places.quality(report)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"succeeded": 5, "differences": null}'])
def test_an_end_of_the_daily_run_that_says_nothing_is_none(tmp_path, content):
    storage = Storage(str(tmp_path))
    storage.write("_daily/ended.json", content)
    assert DailyEnd.read(storage) == DailyEnd()


def test_shards_that_take_records(s3):
    client = s3.aws.boto3_client("kinesis")
    client.create_stream(StreamName="exported", ShardCount=2)
    source = places.Shards("exported", lambda: s3.aws)
    assert values(source.look()) == {"fibflow_kinesis_open_shards": 2}
    shard = client.list_shards(StreamName="exported")["Shards"][0]
    client.split_shard(StreamName="exported", ShardToSplit=shard["ShardId"], NewStartingHashKey="99")
    assert values(source.look()) == {"fibflow_kinesis_open_shards": 3}
    with pytest.raises(KinesisError, match="nowhere"):
        list(places.Shards("nowhere", lambda: s3.aws).look())
