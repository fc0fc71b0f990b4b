import os

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to

from fibflow.runners.profiles import KNOWN_RUNNERS, RunnerProfile, profile


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


def test_profile_is_a_value():
    assert profile("direct") == profile("direct")
    assert profile("direct").name == "direct"
    assert isinstance(profile("direct"), RunnerProfile)
    assert hash(profile("direct")) == hash(profile("direct"))


@pytest.mark.parametrize("name", KNOWN_RUNNERS)
def test_every_known_runner_has_a_profile_under_its_name(name):
    assert profile(name).name == name


@pytest.mark.parametrize("name", ["nope", "", "Direct", "FnApiRunner"])
def test_unknown_runner_is_refused_with_the_known_ones(name):
    with pytest.raises(ValueError, match=r"^unknown runner .*: choose one of direct$"):
        profile(name)
