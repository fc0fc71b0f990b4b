"""One profile a runner: the Beam options that make a pipeline run on it.

Pure: a profile reads neither the environment nor the clock, and starts nothing.
"""

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


_PROFILES: dict[str, tuple[str, ...]] = {
    # Not Beam's DirectRunner: since 2.70 it tries Prism first, which is a binary that it downloads.
    # In memory: FnApiRunner's modes with several workers share buffers between bundles without a lock.
    "direct": ("--runner=FnApiRunner", "--direct_running_mode=in_memory", "--direct_num_workers=1"),
}

KNOWN_RUNNERS: tuple[str, ...] = tuple(_PROFILES)
"""The names that `profile` takes."""


def profile(name: str) -> RunnerProfile:
    """Return the profile of one runner.

    Args:
        name: One of `KNOWN_RUNNERS`.

    Returns:
        The runner's name and its Beam options.

    Raises:
        ValueError: The name is unknown.
    """
    if name not in _PROFILES:
        raise ValueError(f"unknown runner {name!r}: choose one of {', '.join(KNOWN_RUNNERS)}")
    return RunnerProfile(name=name, options=_PROFILES[name])
