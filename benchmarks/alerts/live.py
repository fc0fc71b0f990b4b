"""Live: a feed in real time, and how long it takes from a trade's put until the outbox has what it fires."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from fibflow.benchmarks.alerts import market
from fibflow.benchmarks.alerts.cluster import AlertCluster
from fibflow.benchmarks.streaming import visible
from fibflow.benchmarks.streaming.cluster import BenchmarkError, Shape
from fibflow.benchmarks.streaming.pacer import name_of
from fibflow.io.alerts.outbox import CHANNEL
from fibflow.io.postgresql.session import connect
from fibflow.pipelines.replay import make_ready
from fibflow.transforms.calendar import load_calendar

ROOT = Path(__file__).resolve().parents[2]
CALENDAR, STREAM = "24/7", "alerts"
_AFTER_S = 5.0
_NEW = "SELECT position, (extract(epoch FROM ts) * 1000000)::bigint FROM alert_events WHERE position > %s"


@dataclass(frozen=True)
class Latency:
    """One run; seconds by percentile.

    Attributes:
        alerts, symbols, rate, seconds: of the run, its warm-up left out.
        fired: events in the measured time.
        outbox: from the put of the trade that fired until a reader of the outbox saw the event.
        behind: how late the feed was at most.
        loaded_s: how long the job took to load the alerts, its start included.
        state: bytes of the last checkpoint.
        checkpoints: their durations, milliseconds.
        cpu: CPU seconds of each server in the measured time.
        load: the machine's load average over a minute, before.
    """

    alerts: int
    symbols: int
    rate: float
    seconds: float
    fired: int
    outbox: dict[str, float]
    behind: float
    loaded_s: float
    state: int = 0
    checkpoints: list[int] = field(default_factory=list)
    cpu: dict[str, float] = field(default_factory=dict)
    load: float = 0.0

    def plain(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


class Reader:
    """Reads the outbox as servers do: told of new events, it fetches them. A thread of its own."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._read)
        #: When each event was seen, seconds since 1970, and its trade's time.
        self.seen: list[tuple[float, float]] = []

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _read(self) -> None:
        with closing(connect(self._url)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(f"LISTEN {CHANNEL}")
                cursor.execute("SELECT coalesce(max(position), 0) FROM alert_events")
                last = cursor.fetchone()[0]
                while not self._stopping.is_set():
                    if not select.select([connection], [], [], 0.2)[0]:
                        continue
                    connection.poll()
                    connection.notifies.clear()
                    cursor.execute(_NEW, (last,))
                    rows = cursor.fetchall()
                    now = time.time()
                    self.seen += [(now, ts / 1e6) for _, ts in rows]
                    last = max([last, *(position for position, _ in rows)])


@contextmanager
def _feed(cluster: AlertCluster, rate: float, seconds: float, symbols: int) -> Iterator[Any]:
    reach = cluster.environment
    options = {
        "--stream": STREAM,
        "--endpoint-url": reach["AWS_ENDPOINT_URL"],
        "--region": reach["AWS_REGION"],
        "--symbols": symbols,
        "--rate": rate,
        "--seconds": seconds,
        "--sent": cluster.folder / "sent.arrow",
    }
    words = [str(word) for pair in options.items() for word in pair]
    command = [sys.executable, "-P", "-m", "fibflow.benchmarks.alerts.market", *words]
    with subprocess.Popen(command, cwd=ROOT) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def run(
    cluster: AlertCluster, alerts: int, symbols: int, rate: float, seconds: float, warm_s: float, shards: int
) -> Latency:
    """Run the whole graph with alerts on a feed in real time, and measure.

    Raises:
        BenchmarkError: the job or the feed failed, or nothing fired.
    """
    load = os.getloadavg()[0]
    cluster.fresh_kinesis()
    make_ready(cluster.client, STREAM, shards, time.monotonic, time.sleep)
    names = [name_of(number) for number in range(symbols)]
    since = int(time.time() * 1e6)
    market.fill(cluster.url, market.alerts_of(names, market.base_prices(symbols), alerts, since))
    cluster.alerts = alerts
    calendar = load_calendar(CALENDAR, time.gmtime().tm_year + 2)
    job = cluster.submit(Shape(STREAM, calendar, parallelism=shards), "alerts")
    try:
        with cluster.sampler() as sampler, Reader(cluster.url) as reader:
            began = time.time()
            with _feed(cluster, rate, warm_s + seconds, symbols) as feed:
                while feed.poll() is None or time.time() - _last(reader, began) < _AFTER_S:
                    job.check()
                    time.sleep(1.0)
            if feed.returncode:
                raise BenchmarkError(f"the feed left with {feed.returncode}")
        sent = _sent(cluster.folder / "sent.arrow")
        kept = job.rest.checkpoints(job.id)
    finally:
        cluster.end(job)
        cluster.client.delete_stream(StreamName=STREAM)
        cluster.alerts = 0
    begin, end = sent[0] + warm_s, sent[-1]
    seen = np.array(reader.seen).reshape(-1, 2)
    own = seen[(seen[:, 1] >= begin) & (seen[:, 1] <= end)]
    if not len(own):
        raise BenchmarkError("nothing fired")
    due = sent[0] + np.arange(len(sent)) / rate
    measured = [each for each in reversed(kept) if begin <= each.triggered / 1000 <= end]
    return Latency(
        alerts,
        symbols,
        rate,
        seconds,
        len(own),
        visible.percentiles(own[:, 0] - own[:, 1]),
        float((sent - due)[sent >= begin].max()),
        cluster.loaded_s,
        measured[-1].size if measured else 0,
        [each.took for each in measured],
        sampler.between(begin, float(end)),
        load,
    )


def _last(reader: Reader, began: float) -> float:
    return reader.seen[-1][0] if reader.seen else began


def _sent(path: Path) -> Any:
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()["ts"].to_numpy() / 1e6
