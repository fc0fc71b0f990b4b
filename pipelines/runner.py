"""Where a bounded pipeline runs: the options of a command line, and the job server that it needs."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from fibflow.pipelines.cli import UsageError
from fibflow.runners import jobserver
from fibflow.runners.profiles import IN_THIS_PROCESS, KNOWN_RUNNERS, profile
from fibflow.runners.services.job_server import JobServer
from fibflow.runners.services.process import Leash, Process, ServiceError, free_ports

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

KNOWN_ERRORS = (jobserver.JobServerError, ServiceError)
"""What a job server that does not start raises: one line that says what to do."""

_STOPS_WITHIN_S = 20.0


def add_runner_arguments(
    parser: argparse.ArgumentParser, runners: Sequence[str] = KNOWN_RUNNERS, default: str = "direct"
) -> Any:
    """Add the options that `Place.of` reads, and return their group."""
    run = parser.add_argument_group("where it runs (docs/runners.md)")
    run.add_argument("--runner", choices=runners, default=default, help="where to run (default: %(default)s)")
    run.add_argument("--flink-master", metavar="HOST:PORT", help="flink: REST address of the cluster")
    run.add_argument(
        "--worker-pool", metavar="HOST:PORT", help="flink: Python workers, as task managers see them"
    )
    run.add_argument(
        "--job-endpoint", metavar="HOST:PORT", help="flink, flink-local: a job server that runs already"
    )
    return run


@dataclass(frozen=True)
class Place:
    """Where a bounded pipeline runs.

    Attributes:
        runner: one of ``KNOWN_RUNNERS``.
        flink_master: ``host:port`` of the cluster's REST interface; ``flink`` only.
        worker_pool: ``host:port`` of the Python workers as a task manager sees it; ``flink`` only.
        job_endpoint: ``host:port`` of a job server; None to run one for the time of the job.
    """

    runner: str = "direct"
    flink_master: str | None = None
    worker_pool: str | None = None
    job_endpoint: str | None = None

    @classmethod
    def of(cls, args: argparse.Namespace) -> Place:
        """Return the place that a command line names.

        Raises:
            UsageError: an option is missing, or means nothing to the runner.
        """
        made = cls(args.runner, args.flink_master, args.worker_pool, args.job_endpoint)
        given = {
            "--flink-master": made.flink_master,
            "--worker-pool": made.worker_pool,
            "--job-endpoint": made.job_endpoint,
        }
        takes = {"direct": (), "flink-local": ("--job-endpoint",)}.get(made.runner, tuple(given))
        for option, value in given.items():
            if value is not None and option not in takes:
                raise UsageError(f"runner {made.runner} takes no {option}")
        if made.runner == "flink" and made.worker_pool is None:
            raise UsageError("runner flink needs --worker-pool host:port (`make up` starts a local cluster)")
        if made.runner == "flink" and (made.flink_master is None) == (made.job_endpoint is None):
            raise UsageError("runner flink needs --flink-master host:port, or --job-endpoint host:port")
        return made

    @property
    def local(self) -> bool:
        """Whether workers are threads of this process, and see this machine's folders."""
        return self.runner in IN_THIS_PROCESS


class Runner:
    """Gives the options of pipelines, and keeps a job server where the place needs one.

    It starts at the first pipeline: a run with nothing to do does not wait for it. It stops at the end of the
    ``with`` block.

    Args:
        place: where to run.
        flags: options of Beam.

    Raises:
        UsageError: Beam does not know a flag.
    """

    def __init__(self, place: Place, flags: Sequence[str]) -> None:
        from fibflow.pipelines.options import checked_options

        checked_options((), flags)
        self.place = place
        self._flags = tuple(flags)
        self._open = ExitStack()
        self._endpoint: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def options(self) -> PipelineOptions:
        """Return Beam's options of a pipeline; starts the job server where there is none yet.

        Raises:
            JobServerError, ServiceError: it cannot be built, or does not start.
        """
        from fibflow.pipelines.options import checked_options

        place = self.place
        if place.runner != "direct" and self._endpoint is None:
            self._endpoint = place.job_endpoint or self._open.enter_context(job_server(place.flink_master))
        chosen = profile(place.runner, job_endpoint=self._endpoint, worker_pool=place.worker_pool)
        return checked_options(chosen.options, self._flags)


@contextmanager
def job_server(flink_master: str | None) -> Iterator[str]:
    """Yield the endpoint of a job server; without a cluster, of one with a Flink of its own."""
    with tempfile.TemporaryDirectory(prefix="fibflow-flink-") as name:
        folder = Path(name)
        if flink_master is None:
            with jobserver.start(logs=folder) as embedded:
                yield embedded.endpoint
            return
        leash = Leash()
        server = JobServer(folder, free_ports(["job-server"])["job-server"], flink_master)
        process = Process(server.name, folder, leash)
        try:
            server.prepare()
            process.start(server.command(1), server.environment())
            process.wait_until(lambda: server.answers(1), server.start_seconds)
            yield server.address
        finally:
            process.stop(_STOPS_WITHIN_S)
            leash.close()
