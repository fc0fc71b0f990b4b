"""One profile a runner: the Beam options that make a pipeline run on it.

Pure: a profile reads neither the environment nor the clock, and starts nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class RunnerProfile:
    """Where a pipeline runs.

    Attributes:
        name: What ``--runner`` calls it.
        options: Beam's own options, for ``PipelineOptions``. A user's go behind them: the last one wins.
    """

    name: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class Streaming:
    """What a live job asks of Flink beyond what a bounded one does.

    Attributes:
        checkpoints: The folder of its checkpoints, a URI that every task manager can write: ``s3://...``, or
            ``file:///...`` on one machine.
        checkpoint_ms: From one checkpoint to the next.
        bundle_ms: The longest that a bundle stays open. Each stage adds it to the latency.
        state_backend: ``rocksdb``, whose state may be larger than memory, or ``filesystem``: on the heap.
        max_parallelism: The number of key groups; what a job may be rescaled to. Fixed for a job's life.
        state_cache_mb: What a worker keeps of its state, so as not to ask Flink for each cell in each bundle.
        savepoint: The savepoint or retained checkpoint to start from; None for an empty state.
        retries: How often a failed job is started again; None for what the cluster says.
    """

    checkpoints: str
    checkpoint_ms: int = 10_000
    bundle_ms: int = 100
    state_backend: Literal["rocksdb", "filesystem"] = "rocksdb"
    max_parallelism: int = 128
    state_cache_mb: int = 128
    savepoint: str | None = None
    retries: int | None = None

    def __post_init__(self) -> None:
        if "://" not in self.checkpoints:
            raise ValueError(f"checkpoints {self.checkpoints!r} is no URI: write file:///... or s3://...")
        if self.checkpoint_ms < 1 or self.bundle_ms < 1:
            raise ValueError("the times between checkpoints and of a bundle are 1 ms or more")

    @property
    def options(self) -> tuple[str, ...]:
        """Beam's options, of which Python's parser knows some; the others are ``FlinkPipelineOptions``."""
        given = (
            "--streaming",
            # Without checkpoints the runner drains its sources: the watermark jumps to the end at once, and
            # no resume delay is kept.
            f"--checkpointing_interval={self.checkpoint_ms}",
            # Without it jobs stand still from a checkpoint on, now and then.
            "--finish_bundle_before_checkpointing",
            "--externalized_checkpoints_enabled",
            "--retain_externalized_checkpoints_on_cancellation",
            f"--max_bundle_time_mills={self.bundle_ms}",
            # Says no chaining: the flag turns round the runner's default. Flink names an operator by what it
            # is chained with, which only happens at parallelism 1: such a job could not be rescaled.
            "--operator_chaining",
            f"--max_parallelism={self.max_parallelism}",
            f"--state_backend={self.state_backend}",
            f"--state_backend_storage_path={self.checkpoints}",
            f"--max_cache_memory_usage_mb={self.state_cache_mb}",
        )
        savepoint = () if self.savepoint is None else (f"--savepoint_path={self.savepoint}",)
        retries = () if self.retries is None else (f"--number_of_execution_retries={self.retries}",)
        return (*given, *savepoint, *retries)


@dataclass(frozen=True)
class _Place:
    """The arguments of `profile` but the name."""

    job_endpoint: str | None
    worker_pool: str | None
    parallelism: int | None
    streaming: Streaming | None


def profile(
    name: str,
    *,
    job_endpoint: str | None = None,
    worker_pool: str | None = None,
    parallelism: int | None = None,
    streaming: Streaming | None = None,
) -> RunnerProfile:
    """Return the profile of one runner.

    Args:
        name: One of `KNOWN_RUNNERS`.
        job_endpoint: ``host:port`` of the Flink job server. ``flink-local``: one with an embedded Flink, in
            whose jobs this very process is the worker. ``flink``: one of a cluster.
        worker_pool: ``host:port`` of the Python workers as a task manager sees it; ``flink`` only.
        parallelism: How many subtasks a stage has, 1 or more; None for one on ``flink-local``, the cluster's
            default on ``flink``. No higher than the number of a source's lanes: an idle one holds the
            watermark.
        streaming: For a live job, on Flink only; None for a bounded one.

    Returns:
        The runner's name and its Beam options.

    Raises:
        ValueError: The name is unknown, or an argument is missing or means nothing to the runner.
    """
    if name not in _PROFILES:
        raise ValueError(f"unknown runner {name!r}: choose one of {', '.join(KNOWN_RUNNERS)}")
    if parallelism is not None and parallelism < 1:
        raise ValueError(f"parallelism is {parallelism}: give 1 or more")
    place = _Place(job_endpoint, worker_pool, parallelism, streaming)
    return RunnerProfile(name=name, options=_PROFILES[name](place))


def _direct(place: _Place) -> tuple[str, ...]:
    if place != _Place(None, None, None, None):
        raise ValueError(
            "runner direct takes no job endpoint, worker pool, parallelism or live job: choose flink"
        )
    # Not Beam's DirectRunner: since 2.70 it tries Prism first, which is a binary that it downloads.
    # In memory: FnApiRunner's modes with several workers share buffers between bundles without a lock.
    return ("--runner=FnApiRunner", "--direct_running_mode=in_memory", "--direct_num_workers=1")


def _flink_local(place: _Place) -> tuple[str, ...]:
    if place.worker_pool is not None:
        raise ValueError("runner flink-local takes no worker pool: this process is the worker")
    if place.streaming is not None and place.streaming.savepoint is not None:
        raise ValueError("the embedded Flink starts from no savepoint: choose flink")
    # Python workers are threads of one process here: more subtasks than one would wait for each other.
    return (*_on_flink(place), f"--parallelism={place.parallelism or 1}", "--environment_type=LOOPBACK")


def _flink(place: _Place) -> tuple[str, ...]:
    if place.worker_pool is None:
        raise ValueError("runner flink needs the address of its worker pool, host:port")
    parallelism = () if place.parallelism is None else (f"--parallelism={place.parallelism}",)
    workers = ("--environment_type=EXTERNAL", f"--environment_config={place.worker_pool}")
    return (*_on_flink(place), *parallelism, *workers)


def _on_flink(place: _Place) -> tuple[str, ...]:
    if place.job_endpoint is None:
        raise ValueError("a Flink runner needs the address of its job server, host:port")
    live = () if place.streaming is None else place.streaming.options
    # Not Beam's FlinkRunner: it would download a job server of its own.
    return ("--runner=PortableRunner", f"--job_endpoint={place.job_endpoint}", *live)


_PROFILES: dict[str, Callable[[_Place], tuple[str, ...]]] = {
    "direct": _direct,
    "flink-local": _flink_local,
    "flink": _flink,
}

KNOWN_RUNNERS: tuple[str, ...] = tuple(_PROFILES)
"""The names that `profile` takes."""

IN_THIS_PROCESS: frozenset[str] = frozenset({"direct", "flink-local"})
"""Those of them whose workers are threads of the process that runs the pipeline."""
