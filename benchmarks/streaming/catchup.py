"""Catching up: a job reads all that waits in a stream as fast as it can, with a growing part of the graph."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from fibflow.benchmarks.streaming import fibonacci
from fibflow.benchmarks.streaming.cluster import (
    ALL_TIMEFRAMES,
    BARS,
    LATE,
    LETTERS,
    OPENED,
    PARSED,
    UNREADABLE,
    BenchCluster,
    BenchmarkError,
    Running,
    Shape,
)
from fibflow.benchmarks.streaming.meters import middle_rate, rate
from fibflow.benchmarks.streaming.tapes import Stream
from fibflow.io import livefollow, tables
from fibflow.pipelines import tape
from fibflow.transforms.calendar import TradingCalendar
from fibflow.transforms.timeframe import FIBONACCI, INTRADAY, Timeframe

#: What is set to come by itself does within this, seconds: open bars a quarter of a second after others,
#: watermarks every fifth.
QUIET_S = 0.5
_MOST_S = 900.0


@dataclass(frozen=True)
class Lake:
    """What a job's lake held, and when.

    Attributes:
        part: of the ticks that were in data files when the rest of the job had come to its end.
        after_s: from then until the commit after which all were visible, waiting for files included.
        commits: of ``bronze.ticks``.
        bars: rows of ``silver.live``.
        bytes: of all data files of ``bronze.ticks``.
    """

    part: float
    after_s: float
    commits: int
    bars: int
    bytes: int


@dataclass(frozen=True)
class CatchUp:
    """One run.

    Attributes:
        name: of the stage.
        symbols, ticks, parallelism: what it was made of.
        rate: ticks a second, from the first table behind the parser to the last thing done for the last tick.
        middle: ticks a second behind the parser, without the first and the last tenth.
        seconds: from the first table to the end.
        cpu: CPU seconds of each server in that time.
        rows: of what came out, by place.
        workers: ticks that each Python process parsed.
        checkpoints: durations, milliseconds.
        busy: seconds that the threads of each of Flink's steps were at work, waiting for Python included.
        state: bytes of the largest checkpoint.
        lake: None without.
        load: the machine's load average over a minute, before it.
    """

    name: str
    symbols: int
    ticks: int
    parallelism: int
    rate: float
    middle: float
    seconds: float
    cpu: dict[str, float] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    workers: list[int] = field(default_factory=list)
    checkpoints: list[int] = field(default_factory=list)
    busy: dict[str, float] = field(default_factory=dict)
    state: int = 0
    lake: Lake | None = None
    load: float = 0.0

    def plain(self) -> dict[str, object]:
        """Return it as plain values."""
        return asdict(self)


def run(
    cluster: BenchCluster,
    name: str,
    shape: Shape,
    stream: Stream,
    saved: tape.SavedTape,
    bars: int,
    end_at: int,
) -> CatchUp:
    """Fill a stream with a tape, and run a job until all has been worked on. The stream goes at the end.

    Args:
        cluster: where.
        name: of the stage.
        shape: of the job.
        stream: that it reads; new.
        saved: the tape.
        bars: how many final bars it makes.
        end_at: the time that closes every window, UTC microseconds.

    Raises:
        BenchmarkError: the job failed, stood still, or lost or refused ticks.
    """
    ticks = stream.fill(saved)
    load = os.getloadavg()[0]
    with cluster.sampler() as sampler:
        job = cluster.submit(shape, name)
        try:
            job.until(lambda: at_rest(job, ticks), _MOST_S, f"the end of {ticks:,} ticks")
            parsed, end = job.notes(PARSED), last_work(job)
            kept, busy = job.rest.checkpoints(job.id), job.busy()
            rows = {place: job.notes(place).total for place in (BARS, OPENED)}
            if shape.lake:
                job.until(lambda: _all_in_lake(job, ticks), _MOST_S, "the lake holding all ticks")
            lake = lake_of(job, ticks, end) if shape.lake else None
            stream.heartbeat(end_at)
            job.until(lambda: final_bars(job) >= bars, _MOST_S, f"the making of {bars:,} final bars")
            made = final_bars(job)
            refused = {place: job.notes(place).total for place in (LATE, LETTERS, UNREADABLE)}
        finally:
            cluster.end(job)
            stream.delete()
    if made != bars or any(refused.values()):
        raise BenchmarkError(f"{name}: {made:,} of {bars:,} final bars, ticks refused: {refused}")
    begin = float(parsed.at[0])
    in_time = [each for each in kept if each.triggered / 1000 <= end]
    return CatchUp(
        name,
        saved.truth.symbols,
        parsed.total,
        shape.parallelism,
        rate(parsed, end),
        middle_rate(parsed),
        end - begin,
        sampler.between(begin, end),
        rows,
        sorted(parsed.by_process().values(), reverse=True),
        [each.took for each in reversed(in_time)],
        busy,
        max((each.size for each in in_time), default=0),
        lake,
        load,
    )


def last_work(job: Running) -> float:
    """Return when a job did something last: a table behind the parser or the bars, a write to Redis."""
    last = max(job.notes(place).last for place in (PARSED, BARS, OPENED))
    return last if job.store is None else max(last, last_write(job))


def at_rest(job: Running, ticks: int) -> bool:
    """Return whether a job has parsed all ticks, and nothing is on its way any more.

    A checkpoint's barriers come behind all that was sent before them: where one was completed that began
    after the last thing was done, there is nothing left.

    Raises:
        BenchmarkError: there are more ticks than there can be.
    """
    parsed = job.notes(PARSED).total
    if parsed > ticks:
        raise BenchmarkError(f"{parsed:,} ticks were parsed, {ticks:,} are there")
    if parsed < ticks:
        return False
    last = last_work(job) + QUIET_S
    return any(each.triggered / 1000 > last for each in job.rest.checkpoints(job.id))


def final_bars(job: Running) -> int:
    """Return how many final bars a job has made."""
    return int(job.notes(BARS).final.sum())


def last_write(job: Running) -> float:
    """Return when Redis took the last write of a job, by Redis's clock; 0 before the first."""
    assert job.store is not None
    millis = livefollow.position(job.store).id.split("-")[0]
    return int(millis) / 1000


def _all_in_lake(job: Running, ticks: int) -> bool:
    table = job.lake.table(tables.TICKS)
    if not table.exists:
        return False
    held = table.snapshot().rows
    if held > ticks:
        raise BenchmarkError(f"the lake holds {held:,} ticks, {ticks:,} are there")
    return held == ticks


def lake_of(job: Running, ticks: int, end: float) -> Lake:
    """Return what is to be told of a job's lake.

    Args:
        job: which.
        ticks: that it has read.
        end: when the rest of the job was through, seconds since 1970.
    """
    folder = job.folder / "lake" / tables.TICKS.name
    commits = sorted((folder / "_delta_log").glob("*.json"))
    early = size = 0
    visible = 0.0
    for commit in commits:
        for line in commit.read_text().splitlines():
            if add := json.loads(line).get("add"):
                path = folder / add["path"].replace("%3D", "=")
                visible = max(visible, commit.stat().st_mtime)
                size += add["size"]
                if path.stat().st_mtime <= end:
                    early += json.loads(add["stats"])["numRecords"]
    bars = job.lake.table(tables.LIVE)
    return Lake(
        early / ticks, max(0.0, visible - end), len(commits), bars.snapshot().rows if bars.exists else 0, size
    )


#: Of stages that have not all.
TIMEFRAMES: dict[str, tuple[Timeframe, ...]] = {"read": (), "minute": INTRADAY[:1]}


def shape_of(stage: str, stream: str, calendar: TradingCalendar, parallelism: int = 2) -> Shape:
    """Return the shape of a stage's job."""
    return Shape(
        stream,
        calendar,
        TIMEFRAMES.get(stage, ALL_TIMEFRAMES),
        lake=stage in ("lake", "redis"),
        store=stage == "redis",
        parallelism=parallelism,
    )


def with_fibonacci(shape: Shape, saved: tape.SavedTape, session: str) -> tuple[Shape, int]:
    """Return the shape of the same job with Fibonacci timeframes, and how many more bars it makes.

    Args:
        shape: of a job with a lake.
        saved: the tape that it reads.
        session: of the tape, its date.
    """
    calendar = shape.calendar
    position = int(calendar.positions(np.array([session], "datetime64[D]").astype(np.int32))[0])
    rows = fibonacci.history_of(saved.truth.symbols, calendar, position)
    more = fibonacci.bars_ended(saved.truth.symbols, calendar, position)
    return replace(shape, timeframes=(*shape.timeframes, *FIBONACCI), history=rows), more
