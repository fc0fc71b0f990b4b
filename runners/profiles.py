"""One profile a runner: the Beam options that make a pipeline run on it.

Pure: a profile reads neither the environment nor the clock, and starts nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class RunnerProfile:
    """Where a pipeline runs.

    Attributes:
        name: What ``--runner`` calls it.
        options: Beam's own options, for ``PipelineOptions``. A user's go behind them: the last one wins.
    """

    name: str
    options: tuple[str, ...]


def _direct(workers: int | None) -> tuple[str, ...]:
    # Not Beam's DirectRunner: since 2.70 it tries Prism first, which is a binary that it downloads.
    if workers is None or workers == 1:
        return ("--runner=FnApiRunner", "--direct_running_mode=in_memory", "--direct_num_workers=1")
    return (
        "--runner=FnApiRunner",
        "--direct_running_mode=multi_threading",
        f"--direct_num_workers={workers}",
    )


_PROFILES: dict[str, Callable[[int | None], tuple[str, ...]]] = {"direct": _direct}

KNOWN_RUNNERS: tuple[str, ...] = tuple(_PROFILES)
"""The names that `profile` takes."""


def profile(name: str, *, workers: int | None = None) -> RunnerProfile:
    """Return the profile of one runner.

    Args:
        name: One of `KNOWN_RUNNERS`.
        workers: How many workers run bundles at a time; None takes the runner's default (``direct``: 1).

    Returns:
        The runner's name and its Beam options.

    Raises:
        ValueError: The name is unknown, or `workers` is below 1.
    """
    if name not in _PROFILES:
        raise ValueError(f"unknown runner {name!r}: choose one of {', '.join(KNOWN_RUNNERS)}")
    if workers is not None and workers < 1:
        raise ValueError(f"workers is {workers}: give 1 or more")
    return RunnerProfile(name=name, options=_PROFILES[name](workers))
