"""Submitting a live job to Flink, and waiting until it runs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fibflow.io import flinkrest, savepoints, statelayouts, submissions
from fibflow.io.aws import AwsConfig
from fibflow.io.storage import Storage
from fibflow.pipelines import cli, statelayout
from fibflow.pipelines.cli import UsageError
from fibflow.pipelines.livegraph import LiveJob, build
from fibflow.pipelines.options import checked_options
from fibflow.pipelines.runner import job_server
from fibflow.runners.profiles import Streaming, profile

_STARTS_WITHIN_S = 180.0
_POLL_S = 0.25


@dataclass(frozen=True)
class Place:
    """Where a live job runs.

    Attributes:
        runner: ``flink`` or ``flink-local``.
        flink_master: ``host:port`` of the cluster's REST interface; ``flink`` only.
        worker_pool: ``host:port`` of the Python workers; ``flink`` only.
        job_endpoint: ``host:port`` of a job server; None to run one for the submission.
        parallelism: subtasks a stage.
        checkpoints: the folder of checkpoints, a URI.
        checkpoint_ms: from one to the next.
        savepoint: what to start from; None for an empty state.
    """

    runner: str
    flink_master: str | None
    worker_pool: str | None
    job_endpoint: str | None
    parallelism: int
    checkpoints: str
    checkpoint_ms: int
    savepoint: str | None = None

    def check(self, aws: AwsConfig | None = None) -> savepoints.Kept | None:
        """Look whether the arguments belong together, and return the savepoint where one is named.

        Raises:
            UsageError: an argument is missing, or means nothing to the runner.
            LakeError: there is no such savepoint.
        """
        if self.runner == "flink":
            for option, value in (("--flink-master", self.flink_master), ("--worker-pool", self.worker_pool)):
                if value is None:
                    raise UsageError(
                        f"runner flink needs {option} host:port (`make up` starts a local cluster)"
                    )
        elif self.flink_master or self.worker_pool or self.savepoint:
            raise UsageError("runner flink-local takes no --flink-master, --worker-pool or --savepoint")
        return None if self.savepoint is None else savepoints.check(self.savepoint, aws)

    def reach(self) -> None:
        """Look whether the cluster answers.

        Raises:
            FlinkError: it does not.
        """
        if self.flink_master is not None:
            flinkrest.FlinkRest(self.flink_master).overview()

    def options(self, endpoint: str) -> tuple[str, ...]:
        """Return Beam's options for a job server at ``endpoint``."""
        streaming = Streaming(self.checkpoints, checkpoint_ms=self.checkpoint_ms, savepoint=self.savepoint)
        return profile(
            self.runner,
            job_endpoint=endpoint,
            worker_pool=self.worker_pool,
            parallelism=self.parallelism,
            streaming=streaming,
        ).options


def submit(job: LiveJob, place: Place, argv: Sequence[str], flags: Sequence[str], detach: bool) -> int:
    """Submit a job, say how it is called, and wait for its end unless ``detach``.

    Args:
        job: what to run.
        place: where.
        argv: the command line, kept in the lake so that ``pipelines.jobs resume`` can submit it again.
        flags: options of Beam.
        detach: leave when the job runs.

    Raises:
        UsageError: Beam does not know an option.
        FlinkError: the job failed before it ran.
        LayoutMismatch: its state would not be read as it was written.
    """
    import apache_beam as beam

    assert job.lake is not None
    assert job.job is not None
    name = flinkrest.flink_name(job.job.name, job.job.run)
    with contextlib.ExitStack() as opened:
        endpoint = place.job_endpoint or opened.enter_context(job_server(place.flink_master))
        options = checked_options([*place.options(endpoint), f"--job_name={name}"], flags)
        pipeline = beam.Pipeline(options=options)
        build(pipeline, job)
        storage = Storage(job.lake.uri, job.lake.aws)
        layout = statelayout.layout_of(pipeline, job)
        if place.savepoint is not None:
            statelayout.check(storage, job.job.name, place.savepoint, layout)
        result = pipeline.run()
        if place.flink_master is not None:
            found = _running(flinkrest.FlinkRest(place.flink_master), name, result)
            statelayouts.keep(storage, found, layout)
            now = int(time.time() * 1_000_000)
            submissions.submitted(storage, job.job.name, argv, place.checkpoints, found, now)
            print(f"job {job.job.name} runs as {found}: `python -m pipelines.jobs list` shows it", flush=True)
        if detach:
            return cli.OK
        try:
            state = result.wait_until_finish()
        except RuntimeError as error:
            raise flinkrest.FlinkError(f"job {job.job.name} failed: {_first_line(error)}") from error
    print(f"job {job.job.name}: {state}")
    return cli.OK


def _running(flink: flinkrest.FlinkRest, name: str, result: Any) -> str:
    """Wait until a submitted job runs and return Flink's id of it.

    Raises:
        FlinkError: it failed, or does not run in time.
    """
    began = time.monotonic()
    while time.monotonic() - began < _STARTS_WITHIN_S:
        for found in flink.jobs():
            if found.name == name and found.state == "RUNNING":
                return found.id
            if found.name == name and found.is_over:
                why = flink.failure(found.id) or "Flink says no cause"
                raise flinkrest.FlinkError(f"job {name} is {found.state}: {why}")
        if result.state in ("FAILED", "CANCELLED"):
            with contextlib.suppress(RuntimeError):
                result.wait_until_finish()
            raise flinkrest.FlinkError(f"Flink did not take job {name}: {result._last_error_message()}")
        time.sleep(_POLL_S)
    raise flinkrest.FlinkError(
        f"job {name} does not run after {_STARTS_WITHIN_S:.0f} s: has the cluster free slots (`jobs list`)?"
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
