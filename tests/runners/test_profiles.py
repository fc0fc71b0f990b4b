import os
from dataclasses import replace
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to

from fibflow.runners.profiles import IN_THIS_PROCESS, KNOWN_RUNNERS, RunnerProfile, Streaming, profile

#: What each runner cannot do without.
NEEDS: dict[str, dict[str, Any]] = {
    "direct": {},
    "flink-local": {"job_endpoint": "localhost:8099"},
    "flink": {"job_endpoint": "localhost:8099", "worker_pool": "pool:50000"},
}
LIVE = Streaming("file:///checkpoints")


def with_process(x: int) -> tuple[int, int]:
    return x * x, os.getpid()


def test_direct_runs_in_memory_with_one_worker():
    options = PipelineOptions(list(profile("direct").options), strict=True)
    assert options.view_as(DirectOptions).direct_running_mode == "in_memory"
    assert options.view_as(DirectOptions).direct_num_workers == 1


def test_direct_runs_a_pipeline_in_this_process_and_never_on_prism():
    options = PipelineOptions(list(profile("direct").options))
    with beam.Pipeline(options=options) as p:
        assert type(p.runner) is FnApiRunner
        squares = p | beam.Create([1, 2, 3]) | beam.Reshuffle() | beam.Map(with_process)
        assert_that(squares, equal_to([(x * x, os.getpid()) for x in (1, 2, 3)]))


def test_users_options_behind_the_profiles_win():
    options = PipelineOptions([*profile("direct").options, "--direct_num_workers=3"])
    assert options.view_as(DirectOptions).direct_num_workers == 3


@pytest.mark.parametrize("name", KNOWN_RUNNERS)
def test_profile_is_a_value_under_its_name(name):
    one, other = (profile(name, **NEEDS[name]) for _ in range(2))
    assert one == other
    assert hash(one) == hash(other)
    assert isinstance(one, RunnerProfile)
    assert one.name == name


@pytest.mark.parametrize("name", ["nope", "", "Direct", "FnApiRunner"])
def test_unknown_runner_is_refused_with_the_known_ones(name):
    with pytest.raises(ValueError, match=r"^unknown runner .*: choose one of direct, flink-local, flink$"):
        profile(name)


def test_workers_of_local_runners_are_in_this_process():
    assert set(KNOWN_RUNNERS) - IN_THIS_PROCESS == {"flink"}


def test_flink_local_makes_this_process_the_worker_of_one_subtask():
    assert profile("flink-local", job_endpoint="localhost:1").options == (
        "--runner=PortableRunner",
        "--job_endpoint=localhost:1",
        "--parallelism=1",
        "--environment_type=LOOPBACK",
    )
    assert "--parallelism=3" in profile("flink-local", job_endpoint="localhost:1", parallelism=3).options


def test_flink_has_workers_of_a_pool_and_leaves_the_parallelism_to_the_cluster():
    assert profile("flink", **NEEDS["flink"]).options == (
        "--runner=PortableRunner",
        "--job_endpoint=localhost:8099",
        "--environment_type=EXTERNAL",
        "--environment_config=pool:50000",
    )
    assert "--parallelism=3" in profile("flink", **NEEDS["flink"], parallelism=3).options


@pytest.mark.parametrize("name", ["flink-local", "flink"])
def test_a_live_job_adds_its_options(name):
    bounded = profile(name, **NEEDS[name]).options
    live = profile(name, **NEEDS[name], streaming=LIVE).options
    assert set(bounded) < set(live)
    assert sorted(set(live) - set(bounded)) == sorted(LIVE.options)


def test_streaming_says_all_that_decides_whether_a_job_moves():
    assert set(LIVE.options) == {
        "--streaming",
        "--checkpointing_interval=10000",
        "--finish_bundle_before_checkpointing",
        "--externalized_checkpoints_enabled",
        "--retain_externalized_checkpoints_on_cancellation",
        "--max_bundle_time_mills=100",
        "--operator_chaining",
        "--max_parallelism=128",
        "--state_backend=rocksdb",
        "--state_backend_storage_path=file:///checkpoints",
        "--max_cache_memory_usage_mb=128",
    }


def test_streaming_starts_from_a_savepoint_and_restarts_where_it_is_told_to():
    more = replace(LIVE, savepoint="s3://bucket/savepoint-1", retries=0).options
    assert set(more) - set(LIVE.options) == {
        "--savepoint_path=s3://bucket/savepoint-1",
        "--number_of_execution_retries=0",
    }


@pytest.mark.parametrize(
    "given",
    [
        {"checkpoints": "/checkpoints"},
        {"checkpoints": "file:///checkpoints", "checkpoint_ms": 0},
        {"checkpoints": "file:///checkpoints", "bundle_ms": 0},
    ],
)
def test_streaming_refuses_what_flink_would_refuse_late(given):
    with pytest.raises(ValueError, match=r"file:///|1 ms or more"):
        Streaming(**given)


@pytest.mark.parametrize(
    ("name", "given", "why"),
    [
        ("direct", {"job_endpoint": "localhost:1"}, "runner direct takes no job endpoint"),
        ("direct", {"streaming": LIVE}, "runner direct takes no"),
        ("flink-local", {}, "needs the address of its job server"),
        ("flink-local", {**NEEDS["flink"]}, "runner flink-local takes no worker pool"),
        (
            "flink-local",
            {**NEEDS["flink-local"], "streaming": replace(LIVE, savepoint="file:///s")},
            "starts from no savepoint",
        ),
        ("flink", {"worker_pool": "pool:50000"}, "needs the address of its job server"),
        ("flink", {"job_endpoint": "localhost:1"}, "needs the address of its worker pool"),
        ("flink", {**NEEDS["flink"], "parallelism": 0}, "parallelism is 0"),
    ],
)
def test_arguments_that_are_missing_or_mean_nothing_are_refused(name, given, why):
    with pytest.raises(ValueError, match=why):
        profile(name, **given)
