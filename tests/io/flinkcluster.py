"""A real Flink cluster with Beam's job server, and jobs on it that read for ever."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from fibflow.io.flinkrest import Checkpoint, FlinkError, FlinkRest, Job
from fibflow.runners.profiles import Streaming, profile
from fibflow.runners.services.stack import Stack
from fibflow.tests.runners.polling import Poll

_PATIENCE = 120.0


def until(found: Callable[[], Any], what: str) -> Any:
    """Ask until the answer is not empty: for what another process does in its own time."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        try:
            if answer := found():
                return answer
        except FlinkError:
            pass  # a job that is being set up
        time.sleep(0.2)
    raise AssertionError(f"{what} within {_PATIENCE:g} s")


@dataclass(frozen=True)
class Cluster:
    """A cluster while its stack is up."""

    stack: Stack

    @property
    def address(self) -> str:
        return self.stack.address("job-manager")

    @property
    def rest(self) -> FlinkRest:
        return FlinkRest(self.address)

    @property
    def checkpoints(self) -> str:
        return (self.stack.folder / "kept").as_uri()

    def submit(self, name: str, savepoint: str | None = None) -> Job:
        """Start a job, and return it when it has completed a checkpoint of its own, or has ended."""
        known = {job.id for job in self.rest.jobs()}
        options = profile(
            "flink",
            job_endpoint=self.stack.address("job-server"),
            worker_pool=self.stack.address("worker-pool"),
            parallelism=1,
            streaming=Streaming(self.checkpoints, checkpoint_ms=500, savepoint=savepoint, retries=0),
        ).options
        pipeline = beam.Pipeline(options=PipelineOptions([*options, f"--job_name={name}"]))
        _ = pipeline | beam.Create([name]) | beam.ParDo(Poll(100))
        pipeline.run()
        [job] = until(lambda: [job for job in self.rest.jobs() if job.id not in known], f"no job {name}")
        until(
            lambda: self.rest.job(job.id, running=False).is_over or self.kept(job), f"no checkpoint of {name}"
        )
        return self.rest.job(job.id, running=False)

    def kept(self, job: Job) -> list[Checkpoint]:
        return [each for each in self.rest.checkpoints(job.id) if not each.is_savepoint]

    def end(self, job: Job) -> None:
        """Cancel a job where it runs, and wait for its end."""
        if any(each.id == job.id and not each.is_over for each in self.rest.jobs()):
            self.rest.cancel(job.id)
        self.rest.ended(job.id, clock=time.monotonic, sleep=time.sleep)


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Start a cluster, and stop it at the end."""
    with Stack(["flink", "beam"]) as stack:
        yield Cluster(stack)
