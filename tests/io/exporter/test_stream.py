"""The live job's metrics out of Flink's answers."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from fibflow.io.exporter.collector import Exporter, Source
from fibflow.io.exporter.flinknumbers import FlinkNumbers, Reading, instant_of
from fibflow.io.exporter.metrics import families
from fibflow.io.exporter.stream import Stream, samples_of
from fibflow.io.flinkrest import FlinkError
from fibflow.runners.services.process import HOST, free_ports
from fibflow.tests.io.exporter.fakeflink import BARS, SOURCE, STARTED_S, T0_S, FakeFlink, busy, serving
from fibflow.tests.io.exporter.told import Told, told


def scraped(flink: FakeFlink, job: str = "live") -> Told:
    with serving(flink) as address:
        source = Source("flink", Stream(FlinkNumbers(address), job).look)
        return told(Exporter([source], 60.0, lambda: T0_S, lambda: 0.0, lambda line: None).metrics())


def test_counters_are_added_up_over_subtasks_and_told_by_kind_and_reason():
    found = scraped(busy())
    assert found["fibflow_stream_up"] == {("live",): 1.0}
    assert found["fibflow_stream_restarts_total"] == {("live",): 2.0}
    assert found["fibflow_stream_ticks_total"] == {("trades",): 1000.0, ("seconds",): 40.0}
    refused = {("unreadable",): 3.0, ("null_price",): 1.0, ("not_a_session",): 2.0}
    assert found["fibflow_stream_rejected_total"] == refused
    assert found["fibflow_stream_duplicates_total"] == {(): 18.0}
    assert found["fibflow_stream_late_total"] == {(): 7.0}
    assert found["fibflow_stream_bars_total"] == {("1m",): 100.0, ("34d",): 10.0}
    assert found["fibflow_stream_bars_revised_total"] == {("1m",): 8.0}
    assert found["fibflow_kinesis_throttled_total"] == {(): 5.0}


def test_a_shard_that_ended_has_no_lag():
    lag = scraped(busy())["fibflow_kinesis_lag_seconds"]
    assert lag == {("shardId-000000000000",): 2.5, ("shardId-000000000001",): 0.0}


def test_the_watermark_is_that_of_where_bars_are_made():
    assert scraped(busy())["fibflow_stream_watermark_lag_seconds"] == {("live",): 12.5}
    flink = busy()
    flink.metrics[BARS]["1.currentInputWatermark"] = "-9223372036854775808"
    # A shard told no time: as long as the job is old.
    assert scraped(flink)["fibflow_stream_watermark_lag_seconds"] == {("live",): T0_S - STARTED_S}


def test_commits_and_checkpoints():
    found = scraped(busy())
    assert found["fibflow_stream_commit_seconds_sum"] == {("silver.live",): 1.25, ("bronze.ticks",): 0.8}
    assert found["fibflow_stream_commit_seconds_count"] == {("silver.live",): 5.0, ("bronze.ticks",): 2.0}
    assert found["fibflow_stream_checkpoint_bytes"] == {(): 123_456.0}
    assert found["fibflow_stream_checkpoint_seconds"] == {(): 1.5}
    assert found["fibflow_stream_checkpoint_age_seconds"] == {(): 18.5}
    assert found["fibflow_stream_checkpoints_failed_total"] == {(): 1.0}


def test_before_the_first_checkpoint_its_age_is_the_jobs():
    found = scraped(FakeFlink())
    assert found["fibflow_stream_checkpoint_age_seconds"] == {(): T0_S - STARTED_S}
    assert "fibflow_stream_checkpoint_bytes" not in found


@pytest.mark.parametrize("state", ["RESTARTING", "FAILED", "CANCELED"])
def test_a_job_that_does_not_run_is_down_and_has_no_numbers(state):
    flink = busy()
    flink.state = state
    found = scraped(flink)
    assert found["fibflow_stream_up"] == {("live",): 0.0}
    assert found["fibflow_exporter_up"] == {("flink",): 1.0}
    assert not [name for name in found if name.startswith(("fibflow_kinesis", "fibflow_stream_t"))]
    assert scraped(busy(), "another")["fibflow_stream_up"] == {("another",): 0.0}


def test_while_tasks_start_no_sum_is_told():
    """After a restore they begin at 0 one after another: a part of them would look like a fall."""
    flink = busy()
    flink.status[SOURCE] = "INITIALIZING"
    found = scraped(flink)
    assert found["fibflow_stream_up"] == {("live",): 1.0}
    assert "fibflow_stream_ticks_total" not in found
    assert found["fibflow_stream_checkpoint_bytes"] == {(): 123_456.0}


def test_a_counter_is_never_told_as_less_than_nothing():
    given = [("fibflow_late", "-5"), ("fibflow_late", "3"), ("kinesis_throttled", "nothing")]
    readings = [Reading(place, name, value) for place, (name, value) in enumerate(given)]
    registry = CollectorRegistry()

    class Collector:
        def collect(self):
            return families(samples_of(readings), T0_S)

    registry.register(Collector())
    assert told(generate_latest(registry)) == {"fibflow_stream_late_total": {(): 3.0}}


def test_requests_are_no_longer_than_flink_takes():
    flink = busy()
    begin = "0._a_very_long_name_of_steps_that_are_fused_into_one_operator_.kinesis_rejected_reason"
    flink.metrics[SOURCE] |= {f"{begin}{number}": "1" for number in range(200)}
    assert len(scraped(flink)["fibflow_stream_rejected_total"]) == 203
    assert max(map(len, flink.asked)) < 4000


def test_a_flink_that_is_not_there_says_so():
    port = free_ports(["nobody"])["nobody"]
    with pytest.raises(FlinkError, match="cannot be reached"):
        list(Stream(FlinkNumbers(f"{HOST}:{port}"), "live").look())


@pytest.mark.parametrize("text", [str(2**63 - 1), str(-(2**63)), "9223372036854775", "", "NaN"])
def test_no_time_is_no_instant(text):
    assert instant_of(text) is None
    assert instant_of("1709562600500") == T0_S + 0.5
