"""What a notifier does and how it is: told as health, as metrics, and as a line a minute."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import prometheus_client
from prometheus_client import CollectorRegistry, Gauge, Histogram

from fibflow.io.ingest.status import DEGRADED, OK, STOPPING

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1_800, 7_200, 28_800, 86_400)


class Status:
    """The state that health and metrics are told of. Written by the notifier's thread alone.

    Args:
        clock: seconds that only grow.

    Attributes:
        totals: what was done since the beginning: ``delivered``, ``failed`` tries, ``dead``, ``disabled``.
        waiting, oldest_s: what the outbox holds, and the age of the oldest of it, when it was last asked.
        stopping: it is to end.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.totals: Counter[str] = Counter()
        self.waiting, self.oldest_s = 0, 0.0
        self.stopping = False
        self._away_since: float | None = None
        self._away_why = ""
        self._registry = made = CollectorRegistry()
        self._counted = {
            name: prometheus_client.Counter(f"fibflow_notify_{name}", what, ["kind"], registry=made)
            for name, what in (
                ("delivered", "Deliveries that were taken."),
                ("failed", "Tries that failed."),
                ("dead", "Deliveries that were given up."),
            )
        }
        self._disabled = prometheus_client.Counter(
            "fibflow_notify_disabled", "Destinations that were disabled.", registry=made
        )
        self._latency = Histogram(
            "fibflow_notify_latency_seconds",
            "From the writing of an event until it was delivered.",
            ["kind"],
            buckets=_SECONDS,
            registry=made,
        )
        gauges = (
            ("waiting", "Deliveries that wait in the outbox."),
            ("oldest_waiting_seconds", "Seconds since the oldest of these was written."),
            ("in_flight", "Deliveries that are being tried."),
            ("resting_destinations", "Destinations that fail, and are left alone for now."),
            ("postgresql_up", "Whether PostgreSQL answers."),
        )
        self._gauges = {name: Gauge(f"fibflow_notify_{name}", what, registry=made) for name, what in gauges}
        self._gauges["postgresql_up"].set(1)

    def delivered(self, kind: str, seconds: float) -> None:
        """A delivery was taken, so long after its event was written."""
        self.totals["delivered"] += 1
        self._counted["delivered"].labels(kind).inc()
        self._latency.labels(kind).observe(seconds)

    def failed(self, kind: str) -> None:
        """A try failed."""
        self.totals["failed"] += 1
        self._counted["failed"].labels(kind).inc()

    def dead(self, kind: str, count: int = 1) -> None:
        """Deliveries were given up."""
        self.totals["dead"] += count
        self._counted["dead"].labels(kind).inc(count)

    def disabled(self, count: int) -> None:
        """Destinations were disabled."""
        self.totals["disabled"] += count
        self._disabled.inc(count)

    def under_way(self, in_flight: int, resting: int) -> None:
        """So many deliveries are being tried, and so many destinations left alone."""
        self._gauges["in_flight"].set(in_flight)
        self._gauges["resting_destinations"].set(resting)

    def outbox(self, waiting: int, oldest_s: float) -> None:
        """So much waits in the outbox."""
        self.waiting, self.oldest_s = waiting, oldest_s
        self._gauges["waiting"].set(waiting)
        self._gauges["oldest_waiting_seconds"].set(oldest_s)

    def postgresql_lost(self, why: str) -> bool:
        """PostgreSQL does not answer; returns whether it did before."""
        self._away_why = why
        if self._away_since is not None:
            return False
        self._away_since = self._clock()
        self._gauges["postgresql_up"].set(0)
        return True

    def postgresql_up(self) -> bool:
        """It answers; returns whether it did not before."""
        was_away = self._away_since is not None
        self._away_since, self._away_why = None, ""
        self._gauges["postgresql_up"].set(1)
        return was_away

    def document(self) -> dict[str, Any]:
        """Return what ``/healthz`` tells."""
        reasons = []
        if (since := self._away_since) is not None:
            reasons.append(f"postgresql: {self._away_why} ({self._clock() - since:.0f} s)")
        return {
            "status": STOPPING if self.stopping else DEGRADED if reasons else OK,
            "reasons": reasons,
            "waiting": self.waiting,
            "oldest_waiting_seconds": round(self.oldest_s, 3),
            "delivered": self.totals["delivered"],
            "dead": self.totals["dead"],
        }

    def metrics(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return prometheus_client.generate_latest(self._registry)

    def line(self, before: Counter[str]) -> str:
        """Return the line of what was done since ``before``, a copy of ``totals``."""
        parts = [
            f"{self.totals[name] - before[name]:,} {words}"
            for name, words in (
                ("delivered", "delivered"),
                ("failed", "tries failed"),
                ("dead", "given up"),
                ("disabled", "destinations disabled"),
            )
            if name == "delivered" or self.totals[name] > before[name]
        ]
        return ", ".join([*parts, f"{self.waiting:,} waiting, the oldest for {self.oldest_s:.0f} s"])
