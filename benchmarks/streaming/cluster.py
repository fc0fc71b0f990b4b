"""The cluster that the benchmark runs on, and its jobs: submitted, watched until they are quiet, ended."""

from __future__ import annotations

import json
import random
import re
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen

import apache_beam as beam
import pyarrow as pa
import redis

from fibflow.benchmarks.streaming import fibonacci
from fibflow.benchmarks.streaming.cpu import CpuSampler
from fibflow.benchmarks.streaming.meters import Meter, Notes, read_notes
from fibflow.io import tables
from fibflow.io.aws import AwsConfig
from fibflow.io.flinkrest import FlinkError, FlinkRest, flink_name
from fibflow.io.historystart import history_start
from fibflow.io.kinesis import decoded
from fibflow.io.kinesis.address import KinesisAddress
from fibflow.io.kinesis.errors import kinesis_client
from fibflow.io.kinesis.shards import plan
from fibflow.io.kinesis.source import SourceOptions
from fibflow.io.lake import Lake
from fibflow.io.livestore import LiveStore
from fibflow.io.streamtables import StreamJob
from fibflow.pipelines import livegraph
from fibflow.pipelines.cli import new_run_id
from fibflow.pipelines.livegraph import LiveJob
from fibflow.pipelines.options import checked_options
from fibflow.runners.profiles import Streaming, profile
from fibflow.runners.services.process import http_json
from fibflow.runners.services.stack import Stack
from fibflow.transforms import aggregate
from fibflow.transforms.bars import BarSpec
from fibflow.transforms.calendar import TradingCalendar
from fibflow.transforms.livebars import StreamPolicy
from fibflow.transforms.timeframe import INTRADAY, IntradayAnchor, Timeframe

ALL_TIMEFRAMES = (*INTRADAY, Timeframe(1, 0))
#: Emulators give more than the service's 2 MB a second and shard; the benchmark is not of quotas.
RATE = 50_000_000.0
BUCKETS = 16
PARSED, BARS, OPENED, LATE, LETTERS, UNREADABLE = "parsed", "bars", "open", "late", "letters", "unreadable"
_STARTS_WITHIN_S = 180.0
_ENDS_WITHIN_S = 60.0
_POLL_S = 0.25


#: The source notes it for each shard of each poll; a distribution's text says how many it has seen.
_POLLS = "kinesis_millis_behind_latest"
_COUNT = re.compile(r"count=(\d+)")


class BenchmarkError(Exception):
    """A job failed or stood still; the message is one line."""


@dataclass(frozen=True)
class Shape:
    """Which part of the live graph a job has, and how it runs.

    Attributes:
        stream: what it reads.
        calendar: of its bars.
        timeframes: empty to read and parse only.
        lake, store: whether it writes these.
        parallelism: subtasks a step; the source's lanes as well.
        poll_s: from one read of a shard to the next.
        lags: note how late ticks leave the parser.
        history: daily rows, for timeframes of several sessions.
    """

    stream: str
    calendar: TradingCalendar
    timeframes: Sequence[Timeframe] = ALL_TIMEFRAMES
    lake: bool = True
    store: bool = True
    parallelism: int = 2
    poll_s: float = 0.25
    lags: bool = False
    history: pa.Table | None = None


@dataclass
class Running:
    """A job that runs.

    Attributes:
        id: Flink's.
        folder: of its files: meters' notes, lake, checkpoints.
        store: its live store, None without.
        rest: Flink.
    """

    id: str
    folder: Path
    store: LiveStore | None
    rest: FlinkRest
    submitted: float = field(default_factory=time.time)

    def notes(self, place: str) -> Notes:
        """Return what was noted at a place."""
        return read_notes(self.folder / "notes", place)

    def check(self) -> None:
        """Raise a BenchmarkError where the job does not run, or was started again."""
        state = self.rest.job(self.id, running=False).state
        restarts = self.rest.restarts(self.id)
        if state != "RUNNING" or restarts:
            why = self.rest.failure(self.id) or "Flink says no cause"
            raise BenchmarkError(f"the job is {state} after {restarts} restarts: {why}")

    def until(self, ready: Callable[[], bool], within_s: float, what: str) -> None:
        """Wait until something holds.

        Raises:
            BenchmarkError: the job failed, or it takes too long.
        """
        began = checked = time.monotonic()
        while not ready():
            now = time.monotonic()
            if now - checked > 5:
                self.check()
                checked = now
            if now - began > within_s:
                raise BenchmarkError(f"{what} is not so after {within_s:.0f} s")
            time.sleep(_POLL_S)

    @property
    def lake(self) -> Lake:
        """Its lake."""
        return Lake(str(self.folder / "lake"))

    def ask(self, path: str) -> Any:
        """Return what Flink tells of the job; its numbers of Beam's metrics are some seconds old.

        Raises:
            BenchmarkError: it does not answer.
        """
        told = http_json(self.rest.address.removeprefix("http://"), f"/jobs/{self.id}{path}")
        if told is None:
            raise BenchmarkError(f"Flink does not answer to {path}")
        return told

    def busy(self) -> dict[str, float]:
        """Return for how many seconds the threads of each step's subtasks were at work since the start."""
        found: dict[str, float] = {}
        for vertex in self.ask("")["vertices"]:
            told = self.ask(f"/vertices/{vertex['id']}")["subtasks"]
            times = [float(each["metrics"]["accumulated-busy-time"]) for each in told]
            name = _step_of(vertex["name"])
            found[name] = found.get(name, 0.0) + sum(time for time in times if time == time) / 1000
        return found

    def state_by_step(self) -> dict[str, int]:
        """Return the bytes of each step's state in the newest checkpoint; steps without any are left out."""
        newest = self.rest.checkpoints(self.id)[0].id
        tasks = self.ask(f"/checkpoints/details/{newest}")["tasks"]
        names = {vertex["id"]: _step_of(vertex["name"]) for vertex in self.ask("")["vertices"]}
        return {names[task]: told["state_size"] for task, told in tasks.items() if told["state_size"]}

    def content(self) -> int:
        """Take a savepoint in Flink's own format and return its bytes: state without RocksDB's leftovers.

        Raises:
            BenchmarkError: it failed.
        """
        folder = self.folder / "savepoint"
        body = {"target-directory": folder.as_uri(), "cancel-job": False, "formatType": "CANONICAL"}
        request = Request(
            f"http://{self.rest.address.removeprefix('http://')}/jobs/{self.id}/savepoints",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urlopen(request, timeout=_ENDS_WITHIN_S) as response:
            trigger = json.load(response)["request-id"]
        told: dict[str, Any] = {}

        def done() -> bool:
            told.update(self.ask(f"/savepoints/{trigger}"))
            return told["status"]["id"] == "COMPLETED"

        self.until(done, _STARTS_WITHIN_S, "the savepoint")
        if "location" not in (told.get("operation") or {}):
            raise BenchmarkError(f"the savepoint failed: {str(told.get('operation'))[:200]}")
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        shutil.rmtree(folder)
        return size

    def polls(self) -> int:
        """Return how often the shard that was read least was read with an answer."""
        counts: list[int] = []
        for vertex in self.ask("")["vertices"]:
            names = [each["id"] for each in self.ask(f"/vertices/{vertex['id']}/metrics")]
            wanted = [name for name in names if name.endswith(_POLLS)]
            for name in wanted:
                told = self.ask(f"/vertices/{vertex['id']}/metrics?get={quote(name)}")
                counts += [int(each[1]) for each in _COUNT.finditer(str(told))]
        return min(counts, default=0)


class BenchCluster:
    """Flink, Redis and the emulator of Kinesis on this machine; all of them end with the block.

    Args:
        folder: for everything; what is in it goes at the end, logs apart.
        task_managers, slots: how many, and slots of each.
        workers: Python processes of each task manager.
        checkpoint_ms: from one checkpoint to the next.
    """

    def __init__(
        self,
        folder: Path,
        *,
        task_managers: int = 1,
        slots: int = 2,
        workers: int = 1,
        checkpoint_ms: int = 5000,
    ) -> None:
        self.folder = folder
        self.workers = workers
        self.checkpoint_ms = checkpoint_ms
        self.stack = Stack(
            ("redis", "moto", "flink", "beam"),
            folder=folder / "stack",
            task_managers=task_managers,
            slots=slots,
        )

    def __enter__(self) -> BenchCluster:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.stack.__enter__()
        self.environment = self.stack.env
        self.aws = AwsConfig.resolve(self.environment)
        self.client = kinesis_client(self.aws)
        self.rest = FlinkRest(self.environment["FLINK_REST_URL"])
        # 20,000 symbols with all their bars are more than the local stack's default.
        client: Any = redis.Redis.from_url(self.environment["REDIS_URL"])
        client.config_set("maxmemory", "6gb")
        client.close()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stack.__exit__(kind, error, trace)
        shutil.rmtree(self.folder / "jobs", ignore_errors=True)

    def fresh_kinesis(self) -> None:
        """Start the emulator anew: with what earlier streams left in it, it takes several times as long."""
        self.stack.restart("moto")

    def sampler(self) -> CpuSampler:
        """Return a sampler of the CPU time of all servers, not started yet."""
        pids = {state.name: state.pid for state in self.stack.states() if state.pid is not None}
        return CpuSampler(pids)

    def submit(self, shape: Shape, name: str) -> Running:
        """Submit a job and wait until it runs.

        Raises:
            BenchmarkError: it fails, or does not run in time.
        """
        run = new_run_id()
        folder = self.folder / "jobs" / name
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "notes").mkdir(parents=True)
        store = LiveStore(self.environment["REDIS_URL"], prefix=run, buckets=BUCKETS) if shape.store else None
        options = [*self._options(shape.parallelism, folder), f"--job_name={flink_name(name, run)}"]
        pipeline = beam.Pipeline(options=checked_options(options, []))
        add(pipeline, self._job(shape, name, run, folder, store), shape, folder / "notes")
        pipeline.run()
        began = time.monotonic()
        while time.monotonic() - began < _STARTS_WITHIN_S:
            for job in self.rest.jobs():
                if job.name == flink_name(name, run) and job.is_over:
                    raise BenchmarkError(f"job {name} is {job.state}: {self.rest.failure(job.id)}")
                if job.name == flink_name(name, run) and job.state == "RUNNING":
                    return Running(job.id, folder, store, self.rest)
            time.sleep(_POLL_S)
        raise BenchmarkError(f"job {name} does not run after {_STARTS_WITHIN_S:.0f} s")

    def end(self, job: Running) -> None:
        """End a job, and remove what it wrote."""
        with suppress(FlinkError):
            self.rest.cancel(job.id)
            self.rest.ended(job.id, clock=time.monotonic, sleep=time.sleep, deadline=_ENDS_WITHIN_S)
        if job.store is not None:
            job.store.close()
        client: Any = redis.Redis.from_url(self.environment["REDIS_URL"])
        client.flushall()
        client.close()
        shutil.rmtree(job.folder, ignore_errors=True)

    def _options(self, parallelism: int, folder: Path) -> tuple[str, ...]:
        streaming = Streaming((folder / "checkpoints").as_uri(), checkpoint_ms=self.checkpoint_ms)
        return (
            *profile(
                "flink",
                job_endpoint=self.environment["BEAM_JOB_ENDPOINT"],
                worker_pool=self.environment["BEAM_WORKER_POOL"],
                parallelism=parallelism,
                streaming=streaming,
            ).options,
            f"--sdk_worker_parallelism={self.workers}",
        )

    def _job(self, shape: Shape, name: str, run: str, folder: Path, store: LiveStore | None) -> LiveJob:
        address = KinesisAddress(shape.stream, lanes=shape.parallelism, poll=shape.poll_s, rate=RATE)
        lanes = plan(self.client, address, int(time.time() * 1e6), time.sleep, random.Random(0).random)
        anchor = IntradayAnchor.MIDNIGHT
        shared = {tables.CALENDAR: shape.calendar.name, tables.PRICE_BASIS: "raw"}
        lake, start = Lake(str(folder / "lake")), None
        if shape.history is not None:
            fibonacci.land(lake, shape.history, shape.calendar)
            long = [timeframe for timeframe in shape.timeframes if timeframe.sessions > 1]
            start = history_start(lake, long, shape.calendar, "raw")
        return LiveJob(
            lanes=lanes,
            aws=self.aws,
            feed=decoded.TRADES,
            spec=BarSpec(tuple(shape.timeframes) or ALL_TIMEFRAMES, shape.calendar, intraday_anchor=anchor),
            policy=StreamPolicy(buckets=BUCKETS),
            source=SourceOptions.of(address),
            lake=lake if shape.lake else None,
            history=start,
            job=StreamJob(name, 1, run),
            store=store,
            properties={
                tables.TICKS.name: shared,
                tables.LATE.name: shared,
                tables.LIVE.name: {**shared, tables.INTRADAY_ANCHOR: anchor.value},
            },
        )


def add(pipeline: beam.Pipeline, job: LiveJob, shape: Shape, notes: Path) -> None:
    """Add the part of the live graph that a shape has, with meters behind the parser and the bars."""

    def meter(tables_: Any, place: str, lags: bool = False) -> None:
        # Named apart from the live job's steps.
        tables_ | f"Meter-{place}" >> beam.ParDo(Meter(str(notes), place, lags))

    if not shape.timeframes:
        ticks = livegraph.read(pipeline, job)
    else:
        ticks, made = livegraph.build(pipeline, job)
        places = {
            aggregate.BARS: BARS,
            aggregate.LATE: LATE,
            aggregate.DEAD_LETTERS: LETTERS,
        }
        for tag, place in places.items():
            meter(made[tag], place)
        meter(made[aggregate.OPEN] | "Opened" >> beam.Map(_bars_of).with_output_types(pa.Table), OPENED)
    meter(ticks[decoded.TRADES], PARSED, shape.lags)
    meter(ticks[decoded.DEAD_LETTERS], UNREADABLE)


def _bars_of(flush: tuple[int, int, bool, bool, pa.Table]) -> pa.Table:
    return flush[-1]


def _step_of(vertex: str) -> str:
    """Return what a step of Flink's is called here: the first steps of ours that are fused in it."""
    inside = re.sub(r"^\[\d+\]", "", vertex).strip("{}")
    names = [name.split("/")[0].strip("{} ") for name in re.split(r", ?", inside)]
    return " ".join(dict.fromkeys(name for name in names if name and not name.startswith("Meter")))[:40]
