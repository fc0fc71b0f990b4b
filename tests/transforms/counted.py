"""What a step counts by Beam's metrics, without a runner."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from apache_beam.metrics.execution import MetricsContainer
from apache_beam.runners.worker import statesampler


@contextmanager
def counting() -> Iterator[Callable[[], dict[str, int]]]:
    """Yield what gives the counters and gauges of all that is called within, by name."""
    container = MetricsContainer("step")
    sampler = statesampler.for_test()

    def counted() -> dict[str, int]:
        found = container.get_cumulative()
        gauges = {key.metric.name: gauge.value for key, gauge in found.gauges.items()}
        return gauges | {key.metric.name: count for key, count in found.counters.items()}

    with sampler.scoped_state("step", "process", metrics_container=container):
        yield counted
    statesampler.set_current_tracker(None)
