"""The live job on a session of the demo's lake: the second part of ``make demo``.

Starts the local stack in a temporary folder, plays the lake's last session into Kinesis, shows bars as they
come, compares them with batch, and stops everything. Needs Java 17; without it, it says so.

    python -m pipelines.livedemo --lake demo-lake
"""

from __future__ import annotations

import io
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console

from fibflow.io import tables
from fibflow.io.aws import AwsConfig
from fibflow.io.datafiles import TableSpec
from fibflow.io.flinkrest import FlinkError, FlinkRest
from fibflow.io.kinesis.errors import KinesisError, kinesis_client
from fibflow.io.kinesis.producer import PutOptions, PutTicks
from fibflow.io.lake import Lake
from fibflow.io.live import LiveReader
from fibflow.io.liveredis import LiveStoreError
from fibflow.io.livestore import LiveStore
from fibflow.pipelines import cli, runner, tape
from fibflow.pipelines.liveboard import Board, Parity, Show, Tally
from fibflow.pipelines.playback import LONGEST_SILENCE, KinesisSink, play
from fibflow.pipelines.replay import make_ready
from fibflow.runners import jobserver
from fibflow.runners.services.stack import Stack
from fibflow.transforms.calendar import TradingCalendar, load_calendar
from fibflow.transforms.timeframe import INTRADAY, MINUTE_US, Timeframe

# Each is one line that says what to do.
_KNOWN_ERRORS = (*runner.KNOWN_ERRORS, KinesisError, FlinkError, LiveStoreError)

SERVERS = ("redis", "moto", "flink", "beam")
STREAM, JOB = "demo", "demo"
BUCKETS = 8
TIMEFRAMES = (*INTRADAY, Timeframe(1, 0))
#: The timeframe that is compared with batch.
COMPARED = Timeframe.parse("5m")
#: Something of all that goes wrong with a feed.
DISORDER = tape.Disorder(
    shuffle=2.0, late=0.02, too_late=0.02, duplicates=0.01, broken=0.001, heartbeat=300.0
)

# A server that lives for a minute does better without the compiler for long runs: a third less work in all.
_QUICK_JAVA = "-XX:TieredStopAtLevel=1"
_TRADES = 2_000.0
_PLAYED_S = 20.0
#: The first minutes after the open get half of the time, so that bars of a minute are seen as they grow.
_SLOW_US = 20 * MINUTE_US
#: So much is played at once; the rest waits until the first workers of the job have come up.
_AHEAD_S = 0.5
_STARTS_WITHIN_S = 120.0
_COMMIT_S = 1.0
#: After the last message; what a loaded machine needs at most.
_ENDS_WITHIN_S = 120.0
_SETTLES_WITHIN_S = 30.0
_POLL_S = 1.0
_COLUMNS = ("symbol", "session", "open", "high", "low", "close", "volume")


def parser() -> cli.Parser:
    """Return the parser of the command line."""
    made = cli.Parser(prog="pipelines.livedemo", description="Show live bars of a lake's last session.")
    made.add_argument(
        "--lake", required=True, metavar="FOLDER", help="a lake with bronze.daily, and no live bars yet"
    )
    made.add_argument(
        "--seconds", type=float, default=_PLAYED_S, metavar="S", help="for the session (default: 20)"
    )
    made.add_argument(
        "--trades", type=float, default=_TRADES, metavar="N", help="of a symbol, on average (default: 2000)"
    )
    return made


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Raises:
        UsageError: the lake has no days, or has live bars already.
        LakeError: the lake cannot be read.
    """
    args = parser().parse_args(argv)
    reason = left_out()
    if reason is not None:
        print(f"Live bars are left out: {reason}", flush=True)
        return cli.OK
    try:
        return show_live(Lake(args.lake), args.seconds, args.trades)
    except _KNOWN_ERRORS as error:
        print(f"livedemo: {' '.join(str(error).split())}", file=sys.stderr)
        return cli.FAILED


def show_live(lake: Lake, seconds: float, trades: float) -> int:
    """Play a lake's last session through a live job, show it, and return the exit code.

    Args:
        lake: in a folder; the job writes its tables there.
        seconds: for the session.
        trades: of a symbol, on average.

    Raises:
        UsageError: the lake has no days, or has live bars already.
        LakeError: the lake cannot be read.
        ServiceError, JobServerError, KinesisError, FlinkError, LiveStoreError: a server or the job failed.
    """
    if any(lake.table(spec).exists for spec in (tables.TICKS, tables.LIVE)):
        raise cli.UsageError(f"{lake.uri} has live bars already: name a lake that has none")
    rows, calendar = last_session(lake)
    made = tape.make(rows, calendar, trades=trades, disorder=DISORDER, seed=1)
    session = rows["session"][0].as_py()
    print(
        f"Live: the session of {session}, {made.truth.number():,} messages of {len(made.symbols)} symbols. "
        "Starting Redis, a Kinesis of our own, Flink and Beam's workers ...",
        flush=True,
    )
    began = time.monotonic()
    quick = {"JAVA_TOOL_OPTIONS": f"{os.environ.get('JAVA_TOOL_OPTIONS', '')} {_QUICK_JAVA}".strip()}
    with environment(quick), Stack(SERVERS, slots=1) as stack, environment(stack.env):
        print(f"Up after {time.monotonic() - began:.0f} s. Submitting the job ...", flush=True)
        parity = _Run(stack, lake, made, calendar).run(seconds)
    cli.print_table("live", Tally.read(lake).rows())
    print(parity.line())
    print(f"Everything is stopped, after {time.monotonic() - began:.0f} s.", flush=True)
    return cli.OK if parity.equal else cli.FAILED


def left_out() -> str | None:
    """Return why live bars cannot be shown here and what to do, one line; None where they can.

    Builds Beam's job server where it is not built yet, which takes a minute and downloads its parts.
    """
    try:
        jobserver.java()
        jobserver.build()
    except jobserver.JobServerError as error:
        return " ".join(str(error).split())
    return None


def last_session(lake: Lake) -> tuple[pa.Table, TradingCalendar]:
    """Return the days of the newest session of ``bronze.daily``, and their calendar.

    Raises:
        UsageError: there are none.
        LakeError: the table is not there.
    """
    table = lake.table(tables.DAILY)
    rows, _ = table.snapshot().read(_COLUMNS)
    if not len(rows):
        raise cli.UsageError(f"{lake.uri} has no days: pipelines.load lands some")
    newest = rows.filter(pc.equal(rows["session"], pc.max(rows["session"])))
    return newest, load_calendar(table.properties.get(tables.CALENDAR, "XNYS"))


def pace(sent: npt.NDArray[np.int64], opens: int, seconds: float) -> npt.NDArray[np.float64]:
    """Return when messages are due: the first minutes after the open take half of the time.

    Args:
        sent: as ``Messages.sent``, shape (n,).
        opens: when the session opens, UTC microseconds.
        seconds: for all messages.

    Returns:
        Seconds from the beginning, rising, shape (n,).
    """
    gaps = np.minimum(np.diff(sent, prepend=sent[:1]) / 1e6, LONGEST_SILENCE)
    slow = (sent >= opens) & (sent < opens + _SLOW_US)
    for part in (slow, ~slow):
        gaps[part] *= seconds / 2 / max(float(gaps[part].sum()), 1e-9)
    return np.cumsum(gaps)


class HeldClock:
    """A clock that stands still at ``at`` until something has begun.

    Args:
        clock: the real one, seconds.
        begun: asked as long as it has not.
        at: where it stands still, seconds from now.
        within: seconds of the real clock until it has to have begun.
    """

    def __init__(
        self, clock: Callable[[], float], begun: Callable[[], bool], at: float, within: float
    ) -> None:
        self._clock, self._begun, self._at, self._within = clock, begun, at, within
        self._first = clock()
        self._lost: float | None = None

    def __call__(self) -> float:
        """Return the seconds since it was made, without those in which it stood still.

        Raises:
            FlinkError: nothing has begun in time.
        """
        now = self._clock() - self._first
        if self._lost is not None:
            return now - self._lost
        if self._begun():
            self._lost = max(now - self._at, 0.0)
        elif now > self._within:
            raise FlinkError(f"the job has made no bar within {self._within:.0f} s: is the machine busy?")
        return min(now, self._at)


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables for the time of the block, and leave out what else is said of AWS."""
    before = dict(os.environ)
    for name in before:
        if name.startswith("AWS_"):
            del os.environ[name]
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def temporary_files(folder: Path) -> Iterator[None]:
    """Have temporary files made in a folder for the time of the block."""
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


class _Run:
    """One live job on a stack, from its submission to its last bar."""

    def __init__(self, stack: Stack, lake: Lake, played: tape.Tape, calendar: TradingCalendar) -> None:
        self._stack, self._lake, self._tape, self._calendar = stack, lake, played, calendar
        self._flink = FlinkRest(stack.address("job-manager"))

    def run(self, seconds: float) -> Parity:
        """Play the tape in about so many seconds, show what comes of it, and compare."""
        client = kinesis_client(AwsConfig.resolve(self._stack.env))
        make_ready(client, STREAM, 1, time.monotonic, time.sleep)
        options = PutOptions(aggregate=True)
        sink = KinesisSink(
            PutTicks(client, STREAM, time.monotonic, time.sleep, random.Random(1).random, options)
        )
        names = [timeframe.name for timeframe in TIMEFRAMES]
        board = Board(self._tape.symbols, self._calendar)
        with LiveStore(self._stack.env["REDIS_URL"], buckets=BUCKETS) as store:
            show = Show(store, board, names, Console())
            self._submit(",".join(names))
            at = self._calendar.positions_at(np.array([self._tape.truth.first]))
            due = pace(self._tape.sent, int(self._calendar.opens[at][0]), seconds)
            clock = HeldClock(time.monotonic, lambda: not board.is_empty, _AHEAD_S, _STARTS_WITHIN_S)
            print(f"Replaying into Kinesis, the session in {seconds:.0f} s:", flush=True)
            with show.on():
                play(self._tape, sink, clock, show.wait, due, lambda done: show.draw_in_time())
                print("All is sent. Waiting until the last bar is final and in the lake ...", flush=True)
                parity = self._end(show)
                show.draw(at_once=True)
        return parity

    def _submit(self, timeframes: str) -> None:
        # Beam takes a second to import: only where there is a job for it.
        from fibflow.pipelines import stream

        basis = self._lake.table(tables.DAILY).properties.get(tables.PRICE_BASIS, tables.PRICE_BASES[0])
        env, stack = self._stack.env, self._stack
        line = [
            *("--source", f"kinesis://{STREAM}?start=TRIM_HORIZON&poll=0.2", "--bars-from", "trades"),
            *("--endpoint-url", env["AWS_ENDPOINT_URL"], "--region", env["AWS_REGION"]),
            *("--lake", self._lake.uri, "--redis", env["REDIS_URL"], "--job", JOB),
            *("--calendar", self._calendar.name, "--price-basis", basis, "--timeframes", timeframes),
            *("--buckets", str(BUCKETS), "--parallelism", "1", "--commit-every", str(_COMMIT_S)),
            *("--flink-master", stack.address("job-manager"), "--worker-pool", stack.address("worker-pool")),
            *("--job-endpoint", stack.address("job-server"), "--detach"),
            *("--checkpoints", (stack.folder / "checkpoints").as_uri()),
        ]
        # What it says of `pipelines.jobs` is of no use here, and Beam leaves temporary files behind.
        with redirect_stdout(io.StringIO()), temporary_files(stack.folder):
            stream.run(line)

    def _end(self, show: Show) -> Parity:
        """Wait until every message is in the lake and every bar final, and return how bars compare.

        Raises:
            FlinkError: it does not come to that.
        """
        until = time.monotonic() + _ENDS_WITHIN_S
        while not self._is_through():
            if time.monotonic() > until:
                raise FlinkError(self._why_not())
            show.wait(_POLL_S)
        # The late messages are a table of their own, which may be a commit behind.
        until = time.monotonic() + _SETTLES_WITHIN_S
        while not (parity := Parity.of(self._lake, COMPARED, self._calendar)).equal:
            if time.monotonic() > until:
                break
            show.wait(_POLL_S)
        return parity

    def _is_through(self) -> bool:
        truth = self._tape.truth
        refused = truth.broken + truth.number(None, tape.Case.DUPLICATE)
        if self._rows(tables.TICKS) < truth.readable or self._rows(tables.DEAD_LETTERS) < refused:
            return False
        if not self._rows(tables.LIVE):
            return False
        # Days become final last, and all timeframes of a symbol are committed in their order.
        days = LiveReader(self._lake).bars(None, "1d", columns=["final"])["final"].to_numpy()
        return len(days) == len(self._tape.symbols) and bool(np.all(days))

    def _rows(self, spec: TableSpec) -> int:
        table = self._lake.table(spec)
        return table.snapshot().rows if table.exists else 0

    def _why_not(self) -> str:
        told = f"the job has not come to its end within {_ENDS_WITHIN_S:.0f} s"
        for job in self._flink.jobs():
            why = self._flink.failure(job.id)
            return f"{told}, it is {job.state}: {why or 'the machine may be too slow, run again'}"
        return f"{told}: Flink knows of none"


if __name__ == "__main__":
    cli.run_main(run, sys.argv[1:])
