"""The stack that is broken, the job on it, its feed, and when the lake shows new rows again."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
import redis
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

from fibflow.benchmarks.faults.commits import GIVEN_UP_S, shown
from fibflow.benchmarks.faults.feed import Feed
from fibflow.benchmarks.faults.proxy import Proxy
from fibflow.benchmarks.faults.watcher import Watcher
from fibflow.io import failpoints, tables
from fibflow.io.aws import AwsConfig
from fibflow.io.datafiles import TableSpec
from fibflow.io.lake import Lake
from fibflow.io.storage import Storage
from fibflow.runners.services.process import http_json
from fibflow.runners.services.stack import Stack
from fibflow.tests.io.kinesis.server import serving
from fibflow.tests.pipelines.live import (
    BUCKETS,
    LATENESS_US,
    TIMEFRAMES,
    LiveRun,
    Market,
    Segment,
    compare,
    differing,
    readable,
    wait_until,
)
from fibflow.transforms.timeframe import MINUTE_US

__all__ = ["TIMEFRAMES", "FaultRun", "Rig", "compare", "differing", "wait_until"]

SERVERS = ("redis", "moto", "flink", "beam")
#: Half of Maundy Thursday in Stockholm, then the first session after the clocks went forward.
SESSIONS, CALENDAR = ("2024-03-28", "2024-04-02"), "XSTO"
SYMBOLS, SEED = 60, 11
BUCKET = "faults"
_POLL_S = 0.01


def market(symbols: int = SYMBOLS) -> Market:
    """Return the market of all rows of the matrix."""
    return Market.of("trades", SESSIONS, symbols, CALENDAR, seed=SEED)


class FaultRun(LiveRun):
    """One job that something happens to.

    Attributes:
        rig: what it runs on.
        uri, aws: of its lake, as readers reach it.
        options: of ``pipelines.stream``.
        proxy: what the job reaches a service through, None for directly.
        recoveries: how long after the end of each fault the lake showed new rows of new ticks, seconds.
        problems: what a scenario itself found wrong.
    """

    def __init__(
        self, rig: Rig, name: str, kinesis: str, options: Sequence[str] = (), s3: str | None = None
    ) -> None:
        env = {} if s3 is None else {"AWS_ENDPOINT_URL_S3": s3}
        super().__init__(rig.stack, rig.folder / name, rig.market, f"ticks-{name}", "trades", env, kinesis)
        self.rig = rig
        self.aws = None if s3 is None else rig.s3
        self.uri = str(self.lake) if s3 is None else f"s3://{BUCKET}/{name}"
        self.options = options
        self.proxy: Proxy | None = None
        self.recoveries: list[float] = []
        self.problems: list[str] = []
        # Data files never change, and the waits read all of a table again and again.
        self._files: dict[str, pa.Table] = {}
        self._kept: tuple[tuple[int, ...], pa.Table] | None = None
        self._batch: tuple[tuple[int, ...], tuple[pa.Table, pa.Table]] | None = None

    @property
    def reader(self) -> Lake:
        """The lake as readers reach it."""
        return Lake(self.uri, self.aws)

    @property
    def job(self) -> str:
        """Flink's id of the job."""
        return self.rest.job("live").id

    def start(self) -> None:
        """Land history, and make the stream and the job on it."""
        self.folder.mkdir()
        self.land(self.market.history)
        self.create_stream()
        self.submit(*self.options)

    def command(self, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command line of ours, on the lake wherever it is."""
        return super().command(module, *(self.uri if each == str(self.lake) else each for each in arguments))

    def watched(self) -> Watcher:
        """Return the readers that look on."""
        names = [timeframe.name for timeframe in TIMEFRAMES]
        redis_url, master = self.stack.env["REDIS_URL"], self.stack.address("job-manager")
        return Watcher(self.reader, redis_url, master, BUCKETS, self.market.tape.symbols, names)

    def slowly(self, segment: Segment) -> Feed:
        """Return what plays a part while something breaks."""
        self.played += readable(segment.messages)
        return Feed(self.client, self.stream, segment)

    def catch_up(self, segment: Segment) -> None:
        """Wait until the job has followed to a part's end, so that late messages find it there."""
        assert segment.clock is not None
        self.wait_for_clock(segment.clock - LATENESS_US - MINUTE_US)

    def play_on(self, segment: Segment) -> None:
        """Play a part and do not wait for the job."""
        self.play(Segment(segment.of, segment.messages, None))

    def refused_by_batch(self) -> int:
        """Return how many rows of ``dead_letters`` are not the stream's."""
        return self.rows(tables.DEAD_LETTERS.name) - len(self.refused())

    def table(self, name: str) -> pa.Table | None:
        """Return a table of the lake; each of its files is read once."""
        options = None if self.aws is None else self.aws.delta_storage_options()
        try:
            files = DeltaTable(f"{self.uri}/{name}", storage_options=options).file_uris()
        except TableNotFoundError:
            return None
        for file in files:
            if file not in self._files:
                self._files[file] = self._file(file, tables.TABLES[name].schema)
        empty = tables.TABLES[name].schema.empty_table()
        return pa.concat_tables([empty, *(self._files[file] for file in files)])

    def _file(self, uri: str, schema: pa.Schema) -> pa.Table:
        """Read a data file with the values of its partition: not by the reader that is under test."""
        storage = Storage(uri, self.aws)
        rows = pq.read_table(storage.base, filesystem=storage.filesystem, partitioning=None)
        for name, _, value in (part.partition("=") for part in uri.split("/")[:-1] if "=" in part):
            rows = rows.append_column(name, pa.array([unquote(value)] * len(rows), pa.string()))
        return rows.select(schema.names).cast(schema)

    def kept(self) -> pa.Table:
        """Return what is archived and not late; made anew only where one of the tables has changed."""
        now = self._versions(tables.TICKS, tables.LATE)
        if self._kept is None or self._kept[0] != now:
            self._kept = now, super().kept()
        return self._kept[1]

    def batch(self) -> tuple[pa.Table, pa.Table]:
        """Return what batch makes of it, likewise."""
        now = self._versions(tables.TICKS, tables.LATE, tables.DAILY)
        if self._batch is None or self._batch[0] != now:
            self._batch = now, super().batch()
        return self._batch[1]

    def _versions(self, *specs: TableSpec) -> tuple[int, ...]:
        return tuple(self.reader.table(spec).version for spec in specs)

    # The job's commands -----------------------------------------------------------------------------------

    def jobs(self, command: str, *arguments: str, refused: bool = False) -> str:
        """Run a command of ``pipelines.jobs`` and return what it prints; again while it is ``refused``."""
        line = (command, "live", "--lake", self.uri, *arguments)
        done: list[subprocess.CompletedProcess[str]] = []

        def succeeds() -> bool:
            done.append(self.command("pipelines.jobs", *line))
            return done[-1].returncode == 0 or not refused

        wait_until(succeeds, f"jobs {command} is carried out")
        assert done[-1].returncode == 0, done[-1].stderr.strip()
        return done[-1].stdout.strip()

    def stop(self) -> str:
        """Stop the job with a savepoint and return its URI; waits until the job can be stopped."""
        master = ("--flink-master", self.stack.address("job-manager"))
        return self.jobs("stop", *master, refused=True).splitlines()[-1]

    def resume(self, *arguments: str) -> None:
        """Submit the job again from what it left."""
        self.jobs("resume", *arguments)

    # What the lake shows ----------------------------------------------------------------------------------

    def recovered(self, since: float) -> None:
        """Wait until the lake shows new rows of ticks that came after an instant; note how long it took."""
        self.recoveries.append(shown(self.reader, since) - since)

    def started_again(self, since: float) -> None:
        """As ``recovered``, of a job that Flink has to start again for it."""
        self.recovered(since)
        told = http_json(self.stack.address("job-manager"), f"/jobs/{self.job}") or {"timestamps": {}}
        if told["timestamps"].get("RESTARTING", 0) < since * 1000:
            self.problems.append("Flink did not start the job again: nothing was broken")

    def follows(self) -> None:
        """Wait until the lake shows what is played now."""
        shown(self.reader, time.time())

    def die_at(self, failpoint: str) -> float:
        """Have a worker die at a failpoint, and return when it did, seconds since 1970."""
        self.rig.failpoint.write_text(failpoint)
        began = time.monotonic()
        while self.rig.failpoint.exists():
            assert time.monotonic() - began < GIVEN_UP_S, f"no worker came to the failpoint {failpoint}"
            time.sleep(_POLL_S)
        return time.time()

    def uncommitted(self, name: str) -> set[str]:
        """Return the data files of a table in a folder that no commit ever named."""
        table, root = self.reader.table(tables.TABLES[name]), Path(self.uri) / name
        named = {file.path for entry in table.log.backwards(table.version) for file in entry.files("add")}
        there = {str(path.relative_to(root)) for path in root.glob("[!_]*/**/*.parquet")}
        return there - named


class Rig:
    """The servers of the matrix. Rows share them; one that breaks them for good has them made anew.

    Args:
        folder: of all files; what an earlier run left there goes.
        symbols: of the market.
    """

    def __init__(self, folder: Path, symbols: int = SYMBOLS) -> None:
        self.folder = folder
        self.market = market(symbols)
        self.failpoint = folder / "failpoint"
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        # Workers have the environment of their pool, and that has ours.
        os.environ[failpoints.FILE_VARIABLE] = str(self.failpoint)
        self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()
        os.environ.pop(failpoints.FILE_VARIABLE)

    def _open(self) -> None:
        with ExitStack() as opened:
            self.kinesis = opened.enter_context(serving("--quota", "reads"))
            self.stack = opened.enter_context(Stack(SERVERS, folder=self.folder / "stack", slots=2))
            self._opened = opened.pop_all()
        self.s3 = AwsConfig.resolve(self.stack.env)
        self.s3.boto3_client("s3").create_bucket(Bucket=BUCKET)

    def anew(self) -> None:
        """Start all servers again: a row failed, and what it left is not known."""
        self._opened.close()
        self._open()

    @contextmanager
    def run(
        self, name: str, options: Sequence[str] = (), s3: bool = False, proxied: str = ""
    ) -> Iterator[FaultRun]:
        """Give the run of a row; end its job at the end, and empty what rows share.

        Args:
            name: of the row.
            options: of ``pipelines.stream``.
            s3: the lake is in a bucket.
            proxied: ``kinesis`` or ``s3``: what the job reaches through a proxy.
        """
        self.failpoint.unlink(missing_ok=True)
        services = {"kinesis": self.kinesis, "s3": str(self.s3.endpoint_url)}
        with ExitStack() as opened:
            proxy = None
            if proxied:
                proxy = opened.enter_context(Proxy(services[proxied]))
                services[proxied] = proxy.url
            run = FaultRun(self, name, services["kinesis"], options, services["s3"] if s3 else None)
            run.proxy = proxy
            yield run
            # After a row that failed everything is started anew.
            run.cancel()
            self.empty_redis()

    def empty_redis(self) -> None:
        """Forget the live store."""
        client: Any = redis.Redis.from_url(self.stack.env["REDIS_URL"])
        client.flushall()
        client.close()
