"""Pipelines on an embedded Flink: bounded ones, and sources that poll for ever."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import apache_beam as beam
import grpc  # type: ignore[import-untyped]  # ships no types
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_job_api_pb2, beam_job_api_pb2_grpc
from apache_beam.runners.portability.portable_runner import JobServiceHandle
from apache_beam.runners.runner import PipelineState
from apache_beam.testing.util import assert_that, equal_to

from fibflow.io.flinkrest import FlinkRest
from fibflow.runners import jobserver
from fibflow.runners.profiles import Streaming, profile
from fibflow.tests.runners.polling import SEEN, Poll, Tell

# Flink hangs up on the workers of a job that is cancelled or fails: their threads end with an error.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception in thread (run_worker|read_):pytest.PytestUnhandledThreadExceptionWarning"
)

#: Seconds that a job may take to start, on a machine that has much else to do.
PATIENCE = 180.0
RESUMES = 200


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[jobserver.JobServer]:
    # All checkpoints are kept: the test looks at them when the job has ended.
    with jobserver.start(
        logs=tmp_path_factory.mktemp("jobserver"), settings={"state.checkpoints.num-retained": 1000}
    ) as started:
        yield started
    assert not Path(f"/proc/{started.pid}").exists()
    assert [path.name for path in started.log.parent.iterdir()] == ["jobserver.log"]


@dataclass(frozen=True)
class Live:
    """A live job; ``place`` is the folder of its checkpoints."""

    server: jobserver.JobServer
    place: Path

    @property
    def options(self) -> PipelineOptions:
        streaming = Streaming(
            self.place.as_uri(), checkpoint_ms=200, bundle_ms=10, state_backend="filesystem", retries=0
        )
        return PipelineOptions(
            list(profile("flink-local", job_endpoint=self.server.endpoint, streaming=streaming).options)
        )

    def cancel(self) -> None:
        """Cancel the job that runs. Beam's own ``cancel`` only stops watching it."""
        told = self.server.log.read_text()
        flink = FlinkRest(re.findall(r"Rest endpoint listening at (\S+:\d+)", told)[-1])
        [job] = [job for job in flink.jobs() if not job.is_over]
        flink.cancel(job.id)

    def sizes(self) -> list[int]:
        """The bytes of each completed checkpoint, in order."""
        folders = [path.parent for path in self.place.glob("*/chk-*/_metadata")]
        folders.sort(key=lambda folder: int(folder.name.removeprefix("chk-")))
        return [sum(file.stat().st_size for file in folder.iterdir()) for folder in folders]


@pytest.fixture
def live(server, tmp_path) -> Live:
    return Live(server, tmp_path)


def with_process(element: tuple[int, int]) -> tuple[int, int, int]:
    return *element, os.getpid()


def test_a_bounded_pipeline_runs_in_this_process(server):
    options = PipelineOptions(list(profile("flink-local", job_endpoint=server.endpoint).options))
    with beam.Pipeline(options=options) as pipeline:
        numbers = pipeline | beam.Create([(x % 3, x) for x in range(100)])
        sums = numbers | beam.CombinePerKey(sum) | beam.Map(with_process)
        assert_that(sums, equal_to([(x, sum(range(x, 100, 3)), os.getpid()) for x in range(3)]))


def test_each_option_of_a_live_job_arrives_under_a_name_that_the_runner_knows(server):
    """Beam's Python passes over a name that neither it nor the runner knows."""
    streaming = Streaming("file:///c", savepoint="file:///s", retries=3)
    given = profile(
        "flink", job_endpoint=server.endpoint, worker_pool="pool:1", parallelism=2, streaming=streaming
    )
    with grpc.insecure_channel(server.endpoint) as channel:
        service = beam_job_api_pb2_grpc.JobServiceStub(channel)
        told = service.DescribePipelineOptions(beam_job_api_pb2.DescribePipelineOptionsRequest())
        known = {option.name: option for option in told.options}
        options = PipelineOptions(list(given.options))
        arrived = JobServiceHandle(service, options).get_pipeline_options()
    for option in streaming.options:
        name, _, value = option.removeprefix("--").partition("=")
        assert name in known
        # A flag turns round what the runner has by default.
        assert arrived[f"beam:option:{name}:v1"] == (value or known[name].default_value != "true")
        assert value or known[name].default_value in ("true", "false", "")
    assert arrived["beam:option:parallelism:v1"] == "2"
    assert arrived["beam:option:operator_chaining:v1"] is False


def test_a_source_that_polls_makes_no_checkpoint_larger(live):
    pipeline, name = beam.Pipeline(options=live.options), str(live.place)
    _ = pipeline | beam.Create(["lane"], reshuffle=False) | beam.ParDo(Poll(1)) | beam.ParDo(Tell(name))
    job = pipeline.run()
    try:
        seen = [SEEN[name].get(timeout=PATIENCE) for _ in range(RESUMES)]
    finally:
        live.cancel()
        with pytest.raises(RuntimeError, match="Job was cancelled"):
            job.wait_until_finish()
    assert seen == [(("lane", position), position * 1000) for position in range(RESUMES)]
    sizes = live.sizes()
    assert len(sizes) > 5
    # Each resume would add two kilobytes.
    assert max(sizes) < min(sizes[2:]) + 1000


def test_two_equal_elements_that_poll_fail_the_job(live):
    pipeline = beam.Pipeline(options=live.options)
    _ = pipeline | beam.Create(["lane", "lane"], reshuffle=False) | beam.ParDo(Poll(1_000_000))
    job = pipeline.run()
    with pytest.raises(RuntimeError, match="a second residual of one element of a splittable DoFn"):
        job.wait_until_finish()
    assert job.state == PipelineState.FAILED
