"""What Prometheus is told. With several workers prometheus-client adds them up, by files in one folder.

``PROMETHEUS_MULTIPROC_DIR`` must be set before this is imported: the server does it where it starts workers.
"""

from __future__ import annotations

import os
from pathlib import Path

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

CONTENT_TYPE = CONTENT_TYPE_LATEST
_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

REQUESTS = Counter(
    "fibflow_requests", "Requests answered, by route template and status.", ["method", "route", "status"]
)
SECONDS = Histogram(
    "fibflow_request_seconds", "From a request's head to the end of its answer.", ["route"], buckets=_SECONDS
)
IN_FLIGHT = Gauge("fibflow_requests_in_flight", "Requests being answered.", multiprocess_mode="livesum")
BYTES = Counter("fibflow_response_bytes", "Bytes of bodies sent, as they go over the wire.", ["route"])
WEBSOCKETS = Gauge("fibflow_websocket_clients", "WebSockets that are open.", multiprocess_mode="livesum")
CACHE = Counter("fibflow_cache", "Look-ups in a cache of the server.", ["cache", "result"])
STORE_UP = Gauge(
    "fibflow_store_up",
    "Whether a store answered when it was asked last.",
    ["store"],
    multiprocess_mode="livemostrecent",
)
LAKE_VERSION = Gauge(
    "fibflow_lake_version", "Version of a table that was read last.", ["table"], multiprocess_mode="livemax"
)
LAKE_AGE = Gauge(
    "fibflow_lake_age_seconds",
    "Since the newest commit of a table.",
    ["table"],
    multiprocess_mode="livemostrecent",
)


def exposition() -> bytes:
    """Return all metrics, of all workers, in Prometheus' text format."""
    folder = os.environ.get(_FOLDER)
    if not folder:
        return generate_latest(REGISTRY)
    _bury(Path(folder))
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=folder)
    return generate_latest(registry)


def _bury(folder: Path) -> None:
    """Forget the gauges of workers that died."""
    for pid in {int(path.stem.rpartition("_")[2]) for path in folder.glob("gauge_live*_*.db")}:
        if not Path(f"/proc/{pid}").exists() and Path("/proc").exists():
            mark_process_dead(pid, path=str(folder))
