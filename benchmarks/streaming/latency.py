"""Live: a feed in real time, and how long its trades take to be seen in Redis."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import redis

from fibflow.benchmarks.streaming import fibonacci, visible
from fibflow.benchmarks.streaming.cluster import (
    ALL_TIMEFRAMES,
    BARS,
    PARSED,
    BenchCluster,
    BenchmarkError,
    Running,
    Shape,
)
from fibflow.benchmarks.streaming.meters import read_lags, read_notes
from fibflow.benchmarks.streaming.pacer import name_of
from fibflow.io import livefollow
from fibflow.io.liverecords import frame_of
from fibflow.pipelines.replay import make_ready
from fibflow.transforms.calendar import load_calendar
from fibflow.transforms.timeframe import FIBONACCI, INTRADAY

ROOT = Path(__file__).resolve().parents[2]
#: Trades come at any hour here.
CALENDAR = "24/7"
STREAM = "live"
_AFTER_S = 3.0
_PROBE = frame_of(INTRADAY[0])


@dataclass(frozen=True)
class Latency:
    """One run; latencies are in seconds, by percentile.

    Attributes:
        rate, seconds, symbols, ticks: of the feed, its warm-up left out.
        prices, bars: from the put of each trade until a reader saw it.
        put: what the put itself took.
        parsed: from the put until the trade left the parser.
        prices_stored, bars_stored: from the put until they were in Redis, by the time of its entry.
        behind: how late the feed was at most, seconds.
        checkpoints: their durations, milliseconds.
        state: bytes of the last checkpoint.
        cpu: CPU seconds of each server in the measured time.
        load: the machine's load average over a minute, before it.
    """

    rate: float
    seconds: float
    symbols: int
    ticks: int
    prices: dict[str, float]
    bars: dict[str, float]
    put: dict[str, float]
    parsed: dict[str, float]
    prices_stored: dict[str, float]
    bars_stored: dict[str, float]
    behind: float
    checkpoints: list[int] = field(default_factory=list)
    state: int = 0
    cpu: dict[str, float] = field(default_factory=dict)
    load: float = 0.0

    def plain(self) -> dict[str, object]:
        """Return it as plain values."""
        return asdict(self)


@dataclass
class Seen:
    """What a reader of ``push`` saw, in order: when, Redis's time of the entry, and names with values."""

    prices: list[tuple[float, float, Any, Any]] = field(default_factory=list)
    bars: list[tuple[float, float, Any, Any, Any]] = field(default_factory=list)

    def take(self, entry: bytes, fields: dict[bytes, bytes], now: float) -> None:
        """Keep what an entry tells of last prices and one-minute bars."""
        kind = fields[b"k"].decode()
        if kind not in (livefollow.PRICES, livefollow.OPEN, livefollow.CLOSED):
            return  # the store's first entry
        stored = int(entry.split(b"-")[0]) / 1000
        packed = livefollow.packed_of(kind, fields)
        if kind == livefollow.PRICES:
            self.prices.append((now, stored, packed.names, packed.rows["ts"]))
            return
        bars = packed.take(packed.rows["frame"] == _PROBE)
        counts = bars.rows["trade_count"].copy()
        self.bars.append((now, stored, bars.names, bars.rows["ts"].copy(), counts))


def run(
    cluster: BenchCluster,
    rate: float,
    seconds: float,
    warm_s: float,
    symbols: int,
    shards: int,
    with_history: bool = False,
) -> Latency:
    """Run the whole graph on a feed in real time and measure.

    Args:
        cluster: where.
        rate: trades a second.
        seconds: measured.
        warm_s: before, not measured.
        symbols, shards: of the feed.
        with_history: with Fibonacci timeframes too.

    Raises:
        BenchmarkError: the job or the feed failed, or trades were not seen.
    """
    load = os.getloadavg()[0]
    make_ready(cluster.client, STREAM, shards, time.monotonic, time.sleep)
    calendar = load_calendar(CALENDAR, time.gmtime().tm_year + 2)
    shape = Shape(STREAM, calendar, parallelism=shards, lags=True)
    if with_history:
        today = int(np.searchsorted(calendar.day_starts, time.time() * 1e6, side="right")) - 1
        names = [name_of(number) for number in range(symbols)]
        rows = fibonacci.history_of(symbols, calendar, today, names)
        shape = replace(shape, timeframes=(*ALL_TIMEFRAMES, *FIBONACCI), history=rows)
    sent_path = cluster.folder / "sent.arrow"
    with cluster.sampler() as sampler:
        job = cluster.submit(shape, "live")
        try:
            with _feed(cluster, rate, seconds + warm_s, symbols, sent_path) as feed:
                seen = follow(job, cluster.environment["REDIS_URL"], feed)
            if feed.returncode:
                raise BenchmarkError(f"the feed left with {feed.returncode}")
            sent = pa.ipc.open_file(pa.memory_map(str(sent_path))).read_all()
            kept = job.rest.checkpoints(job.id)
            lags = read_lags(job.folder / "notes", PARSED)
            closed = read_notes(job.folder / "notes", BARS).total
        finally:
            cluster.end(job)
            cluster.client.delete_stream(StreamName=STREAM)
    if seconds > 120 and not closed:
        raise BenchmarkError("no window closed")
    return evaluate(sent, seen, lags, rate, seconds, warm_s, symbols, kept, sampler, load)


def evaluate(
    sent: pa.Table,
    seen: Seen,
    lags: Any,
    rate: float,
    seconds: float,
    warm_s: float,
    symbols: int,
    kept: list[Any],
    sampler: Any,
    load: float,
) -> Latency:
    """Return the latencies of what was sent and seen; see ``run`` for the arguments."""
    ts, symbol, put = (sent[name].to_numpy() for name in ("ts", "symbol", "put"))
    symbol = symbol.astype(np.int64)
    begin = ts[0] + int(warm_s * 1e6)
    own = ts >= begin
    at, stored, *prices = _flat(seen.prices, symbols)
    visible_at = visible.prices_visible(ts, symbol, at, *prices)
    price_stored = visible.prices_visible(ts, symbol, stored, *prices)
    at, stored, bar_symbol, minute = _flat([each[:4] for each in seen.bars], symbols)
    counts = np.concatenate([np.zeros(0, np.int64), *(count for *_, count in seen.bars)])
    in_bar = visible.bars_visible(ts, symbol, at, bar_symbol, minute, counts)
    bar_stored = visible.bars_visible(ts, symbol, stored, bar_symbol, minute, counts)
    if missing := int(np.isnan(visible_at[own]).sum() + np.isnan(in_bar[own]).sum()):
        raise BenchmarkError(f"{missing:,} trades were never seen in Redis")
    sent_at = ts / 1e6
    due = sent_at[0] + np.arange(len(ts)) / rate
    measured = [each for each in reversed(kept) if begin / 1e6 <= each.triggered / 1000 <= sent_at[-1]]
    return Latency(
        rate,
        seconds,
        symbols,
        int(own.sum()),
        visible.percentiles((visible_at - sent_at)[own]),
        visible.percentiles((in_bar - sent_at)[own]),
        visible.percentiles((put - sent_at)[own]),
        visible.percentiles(lags[lags[:, 0] >= begin / 1e6, 1]),
        visible.percentiles((price_stored - sent_at)[own]),
        visible.percentiles((bar_stored - sent_at)[own]),
        float((sent_at - due)[own].max()),
        [each.took for each in measured],
        measured[-1].size if measured else 0,
        sampler.between(begin / 1e6, float(sent_at[-1])),
        load,
    )


def _flat(parts: list[tuple[float, float, Any, Any]], symbols: int) -> tuple[Any, Any, Any, Any]:
    """Return (seen at, stored at, symbol's number, value) of each row of what was seen."""
    numbers = pa.array([name_of(number) for number in range(symbols)])
    at = np.concatenate([np.zeros(0), *(np.full(len(names), now) for now, _, names, _ in parts)])
    stored = np.concatenate([np.zeros(0), *(np.full(len(names), when) for _, when, names, _ in parts)])
    names = pa.chunked_array([names for _, _, names, _ in parts], pa.string())
    places: Any = pc.index_in(names, numbers)
    found = places.combine_chunks().to_numpy(zero_copy_only=False).astype(np.int64)
    values = np.concatenate([np.zeros(0, np.int64), *(values for *_, values in parts)])
    return at, stored, found, values


@contextmanager
def _feed(
    cluster: BenchCluster, rate: float, seconds: float, symbols: int, sent: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run the feed's process for the time of the block."""
    sent.unlink(missing_ok=True)
    reach = cluster.environment
    options = {
        "--stream": STREAM,
        "--endpoint-url": reach["AWS_ENDPOINT_URL"],
        "--region": reach["AWS_REGION"],
        "--symbols": symbols,
        "--rate": rate,
        "--seconds": seconds,
        "--sent": sent,
    }
    words = [str(word) for pair in options.items() for word in pair]
    command = [sys.executable, "-P", "-m", "fibflow.benchmarks.streaming.pacer", *words]
    with subprocess.Popen(command, cwd=ROOT) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def follow(job: Running, url: str, feed: subprocess.Popen[bytes]) -> Seen:
    """Read ``push`` until the feed has ended and nothing new has come for some seconds."""
    assert job.store is not None
    client: Any = redis.Redis.from_url(url)
    key, last, seen = job.store.key("push"), "0-0", Seen()
    news = time.monotonic()
    checked = news
    while feed.poll() is None or time.monotonic() - news < _AFTER_S:
        found = client.xread({key: last}, 200, 100)
        now = time.time()
        for entry, fields in found[0][1] if found else []:
            last, news = entry, time.monotonic()
            seen.take(entry, fields, now)
        if time.monotonic() - checked > 5:
            job.check()
            checked = time.monotonic()
    client.close()
    return seen
