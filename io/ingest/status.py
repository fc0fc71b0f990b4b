"""What an ingest does and how it is: counted by its threads, told as health, metrics and a line a minute."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

#: Part of the spool's limit from which on it is said that the limit comes near.
NEAR = 0.5
#: Seconds that something may wait before it is said.
_BEHIND_S = 10.0
#: Seconds without a connection after which the feed is down, not merely cut.
_DOWN_AFTER = 60.0
_MB = 1e6

OK, DEGRADED, DOWN, STOPPING = "ok", "degraded", "down", "stopping"


class Health(NamedTuple):
    """How it is: ``ok``, ``degraded``, ``down`` (it takes nothing from the feed) or ``stopping``, and why."""

    status: str
    reasons: list[str]


@dataclass
class Counts:
    """What was done since the beginning. Each is written by one thread."""

    frames: int = 0
    received: int = 0
    received_bytes: int = 0
    taken: int = 0
    sent: int = 0
    records: int = 0
    throttled: int = 0
    put_failures: int = 0
    heartbeats: int = 0
    cuts: int = 0
    connections: int = 0
    holes: int = 0
    holes_unfilled: int = 0
    filled: int = 0
    dropped_status: int = 0
    dropped_too_large: int = 0
    spool_torn_bytes: int = 0
    spool_skipped_bytes: int = 0


_HELP = {
    "frames": "Frames of data that came and are in the spool.",
    "received": "Messages that came and are in the spool, by their marks.",
    "received_bytes": "Bytes of data that came.",
    "taken": "Messages handed to the producer, those that fill holes too.",
    "sent": "Messages that Kinesis took.",
    "records": "Records that Kinesis took.",
    "throttled": "Records and calls that a quota of Kinesis refused.",
    "put_failures": "Records and calls that failed for another reason.",
    "heartbeats": "Heartbeats sent, one a shard.",
    "cuts": "Connections to the vendor that broke.",
    "connections": "Connections to the vendor that were made.",
    "holes": "Stretches of the feed that did not come.",
    "holes_unfilled": "Of these, not filled or not for all symbols.",
    "filled": "Messages that filled holes.",
    "dropped_status": "Messages about the connection, which do not travel.",
    "dropped_too_large": "Messages larger than a record may be, left out.",
    "spool_torn_bytes": "Bytes of a write that never ended, cut off the spool at the start.",
    "spool_skipped_bytes": "Bytes of the spool that could not be read, passed over.",
}


@dataclass
class Status:
    """The state that health and metrics are told of.

    Attributes:
        clock: seconds that only grow.
        counts: what was done.
        feed_down_since: since when there is no connection; None while there is one.
        feed_why: why.
        kinesis_down_since, kinesis_why: likewise of Kinesis.
        disk_why: why nothing can be written; empty where it can.
        paused: nothing is read from the feed.
        waiting, limit: bytes of the spool.
        behind: seconds that what is being sent has waited.
        open_holes: that are being filled.
        event, beat: the feed's time, and the last heartbeat's, UTC microseconds.
        stopping: it is to end.
    """

    clock: Callable[[], float]
    counts: Counts = field(default_factory=Counts)
    feed_down_since: float | None = None
    feed_why: str = "not connected yet"
    kinesis_down_since: float | None = None
    kinesis_why: str = ""
    disk_why: str = ""
    paused: bool = False
    waiting: int = 0
    limit: int = 1
    behind: float = 0.0
    open_holes: int = 0
    event: int = 0
    beat: int = 0
    stopping: bool = False

    def __post_init__(self) -> None:
        self.feed_down_since = self.clock()

    def feed_up(self) -> None:
        """The feed is connected and subscribed."""
        self.feed_down_since, self.feed_why = None, ""
        self.counts.connections += 1

    def feed_lost(self, why: str) -> None:
        """The feed is not."""
        if self.feed_down_since is None:
            self.feed_down_since = self.clock()
        self.feed_why = why

    def kinesis_up(self) -> bool:
        """Kinesis takes records; returns whether it did not before."""
        was_down = self.kinesis_down_since is not None
        self.kinesis_down_since, self.kinesis_why = None, ""
        return was_down

    def kinesis_lost(self, why: str) -> bool:
        """Kinesis does not; returns whether it did before."""
        self.kinesis_why = why
        if self.kinesis_down_since is not None:
            return False
        self.kinesis_down_since = self.clock()
        return True

    def health(self) -> Health:
        """Return how it is."""
        now = self.clock()
        down: list[str] = []
        poor: list[str] = []
        if (since := self.feed_down_since) is not None:
            gone = now - since
            (down if gone >= _DOWN_AFTER else poor).append(f"feed: {self.feed_why} ({gone:.0f} s)")
        if self.disk_why:
            down.append(f"spool: nothing can be written: {self.disk_why}")
        elif self.paused:
            down.append("spool: it is full, and nothing is read from the feed")
        elif self.waiting >= NEAR * self.limit:
            poor.append(f"spool: {self.waiting / self.limit:.0%} of its limit of {self.limit / _MB:,.0f} MB")
        if (since := self.kinesis_down_since) is not None:
            poor.append(f"kinesis: {self.kinesis_why} ({now - since:.0f} s)")
        elif self.behind >= _BEHIND_S:
            poor.append(f"sending: the oldest has waited for {self.behind:.0f} s")
        if self.open_holes:
            poor.append(f"holes: {self.open_holes} being filled")
        if self.stopping:
            return Health(STOPPING, [*down, *poor])
        return Health(DOWN if down else DEGRADED if poor else OK, [*down, *poor])

    def document(self) -> dict[str, Any]:
        """Return what ``/healthz`` tells."""
        health = self.health()
        return {
            "status": health.status,
            "reasons": health.reasons,
            "spool_bytes": self.waiting,
            "spool_limit_bytes": self.limit,
            "behind_seconds": round(self.behind, 3),
            "feed_time": _iso(self.event),
            "heartbeat": _iso(self.beat),
        }

    def metrics(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        registry = CollectorRegistry()
        registry.register(_Collector(self))
        return generate_latest(registry)


class _Collector:
    def __init__(self, status: Status) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics as they are now."""
        status = self._status
        for item in fields(Counts):
            value = getattr(status.counts, item.name)
            yield CounterMetricFamily(f"fibflow_ingest_{item.name}", _HELP[item.name], value=value)
        for name, what, number in (
            ("feed_up", "Whether the vendor is connected.", float(status.feed_down_since is None)),
            ("kinesis_up", "Whether Kinesis takes records.", float(status.kinesis_down_since is None)),
            (
                "paused",
                "Whether nothing is read from the feed.",
                float(status.paused or bool(status.disk_why)),
            ),
            ("spool_bytes", "Bytes that wait in the spool.", status.waiting),
            ("spool_limit_bytes", "Bytes that may wait.", status.limit),
            ("behind_seconds", "How long what is being sent has waited.", status.behind),
            ("open_holes", "Holes that are being filled.", status.open_holes),
            ("feed_time_seconds", "The feed's own time, since 1970.", status.event / 1e6),
            ("heartbeat_time_seconds", "The last heartbeat's time, since 1970.", status.beat / 1e6),
        ):
            yield GaugeMetricFamily(f"fibflow_ingest_{name}", what, value=number)


def minute_line(before: Counts, now: Counts, seconds: float, status: Status, memory: int) -> str:
    """Return the line of what was done in the last minute.

    Args:
        before: what was done up to its beginning.
        now: up to its end.
        seconds: how long it was.
        status: how it is now.
        memory: bytes that the process holds.
    """
    received, sent = now.received - before.received, now.sent - before.sent
    parts = [
        f"received {received:,} ({received / max(seconds, 1e-9):,.0f}/s)",
        f"sent {sent:,} in {now.records - before.records:,} records",
        f"spool {status.waiting / _MB:,.1f} MB",
        f"behind {status.behind:.1f} s",
    ]
    for name, words in (
        ("cuts", "cuts"),
        ("holes", "holes"),
        ("filled", "filled"),
        ("throttled", "throttled"),
        ("put_failures", "put again"),
        ("holes_unfilled", "holes not filled"),
        ("dropped_too_large", "too large"),
    ):
        if number := getattr(now, name) - getattr(before, name):
            parts.append(f"{number:,} {words}")
    health = status.health()
    parts += [f"memory {memory / _MB:,.0f} MB", f"heartbeat {_iso(status.beat) or 'none'}", health.status]
    return ", ".join(parts) + (f": {'; '.join(health.reasons)}" if health.reasons else "")


def _iso(micros: int) -> str | None:
    if not micros:
        return None
    return datetime.fromtimestamp(micros // 1_000_000, UTC).isoformat().replace("+00:00", "Z")
