"""A live job on the real stack for tests: a tape into Kinesis, bars out, and batch over what was archived."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

from fibflow.io import ticks
from fibflow.io.aws import AwsConfig
from fibflow.io.flinkrest import FlinkRest
from fibflow.io.kinesis.errors import kinesis_client
from fibflow.io.kinesis.producer import PutOptions, PutTicks
from fibflow.io.lake import Lake
from fibflow.io.livestore import LiveStore
from fibflow.io.readbars import LakeReader
from fibflow.pipelines import playback, tape
from fibflow.runners.services.stack import Stack
from fibflow.transforms.bars import BarSpec, daily_bars
from fibflow.transforms.calendar import TradingCalendar, load_calendar
from fibflow.transforms.conditions import minute_input, trade_input
from fibflow.transforms.duplicates import resolve
from fibflow.transforms.schemas import BARS, DAILY_ROWS, DEAD_LETTERS, TIMESTAMP
from fibflow.transforms.ticks import aggregate_ticks
from fibflow.transforms.timeframe import FIBONACCI, INTRADAY, MINUTE_US, Timeframe

ROOT = Path(__file__).resolve().parents[2]
TIMEFRAMES = (*INTRADAY, Timeframe(1, 0), *FIBONACCI)
#: Sessions of official history: those of the longest window, and some more.
PAST = 40
SHARDS = 3
#: Everything that goes wrong at once, as parts of the messages.
DISORDER = tape.Disorder(
    shuffle=3.0, late=0.02, too_late=0.005, duplicates=0.01, resent=0.01, broken=0.001, heartbeat=60.0
)
BUCKETS = 8
LATENESS_US = 15 * MINUTE_US
DAY_US = 1440 * MINUTE_US
#: The market at its full size has 5,350: FIBFLOW_SYMBOLS=5350.
SYMBOLS = int(os.environ.get("FIBFLOW_SYMBOLS", "200"))
_WITHIN_S = max(240.0, SYMBOLS / 4)


@dataclass
class Market:
    """Some sessions of made-up symbols as a tape, and official history up to the first of them.

    ``official`` are the official days of the tape's sessions, landed later, and ``last`` is the position of
    the last of these.
    """

    calendar: TradingCalendar
    tape: tape.Tape
    history: pa.Table
    official: pa.Table
    last: int

    @classmethod
    def of(
        cls,
        feed: str,
        sessions: tuple[str, ...],
        symbols: int = 200,
        calendar: str = "XNYS",
        trades: float = 60.0,
        seed: int = 7,
    ) -> Market:
        exchange = load_calendar(calendar, 2027)
        days = np.array([np.datetime64(date.fromisoformat(day), "D") for day in sessions]).astype(np.int64)
        assert (exchange.positions(days) >= 0).all()
        first = int(exchange.positions(days[:1])[0])
        past = exchange.days[first - PAST : first].astype(np.int64)
        rows = tape.synthetic_daily(symbols, np.concatenate((past, days)), np.random.default_rng(seed))
        is_past = pc.less(rows["session"], pa.scalar(int(days[0]), pa.int32()).cast(pa.date32()))
        official = rows.filter(pc.invert(is_past))
        made = tape.make(
            official,
            exchange,
            feed=feed,
            trades=trades,
            disorder=DISORDER,
            seed=seed,
            final_heartbeat=True,
        )
        return cls(exchange, made, rows.filter(is_past), official, int(exchange.positions(days[-1:])[0]))

    def segments(self) -> list[Segment]:
        """Return the tape in parts, each with what comes late to it at the end of the next one's wait.

        Late rows need a job whose clock has passed them. So the messages that the tape delivers late are
        taken out of a part, which ends with a heartbeat; when the job has followed, they go out.
        """
        messages = self.tape.messages
        sent, ts = (messages[name].cast(pa.int64()).to_numpy() for name in ("sent", "ts"))
        case = np.array(messages["case"].cast(pa.string()).to_pylist())
        beats = np.flatnonzero(np.array(messages["kind"].cast(pa.string()).to_pylist()) == "HB")
        picked = beats[[len(beats) * part // 8 for part in (2, 4, 6)]]
        found, done = [], np.zeros(len(messages), np.bool_)
        for beat in picked.tolist():
            clock = int(ts[beat])
            part = ~done & (np.arange(len(messages)) <= beat)
            minute = ts - ts % MINUTE_US
            beyond = part & (case == "too_late") & (minute + 2 * MINUTE_US + LATENESS_US < clock)
            within = part & (case == "late") & (minute + 3 * MINUTE_US < clock)
            within &= minute + LATENESS_US > clock + MINUTE_US
            late = beyond | within
            found.append(Segment(self.tape, messages.filter(pa.array(part & ~late)), clock))
            found.append(Segment(self.tape, messages.filter(pa.array(late)), None))
            done |= part
        found.append(Segment(self.tape, messages.filter(pa.array(~done)), None))
        assert sum(len(part.messages) for part in found) == len(messages)
        assert (np.diff(sent) >= 0).all()
        return found


@dataclass
class Segment:
    """Some messages of a tape; ``clock`` is the heartbeat at its end that the job is waited for."""

    of: tape.Tape
    messages: pa.Table
    clock: int | None

    @property
    def truth(self) -> tape.Counts:
        return self.of.truth

    @property
    def sent(self) -> np.ndarray:
        return self.messages["sent"].cast(pa.int64()).to_numpy()

    def blocks(self, size: int = tape.BLOCK) -> Iterator[pa.Table]:
        for begin in range(0, len(self.messages), size):
            yield self.messages.slice(begin, size)


@dataclass
class LiveRun:
    """One job, its stream, and its lake.

    ``kinesis`` is the URL of a service other than the stack's emulator.
    """

    stack: Stack
    folder: Path
    market: Market
    stream: str
    feed: str
    env: dict[str, str] = field(default_factory=dict)
    kinesis: str | None = None

    def __post_init__(self) -> None:
        self.lake = self.folder / "lake"
        self.env = {**os.environ, **self.stack.env, **self.env}
        if self.kinesis is not None:
            self.env["AWS_ENDPOINT_URL"] = self.kinesis
            self.env["AWS_DEFAULT_REGION"] = "us-east-1"
            self.env["AWS_ACCESS_KEY_ID"] = self.env["AWS_SECRET_ACCESS_KEY"] = "test"
        self.rest = FlinkRest(self.stack.address("job-manager"))
        self.client = kinesis_client(AwsConfig.resolve(self.env))
        self.played = 0

    # The stream -------------------------------------------------------------------------------------------

    def create_stream(self) -> None:
        self.client.create_stream(StreamName=self.stream, ShardCount=SHARDS)
        wait_until(lambda: self._status() == "ACTIVE", "the stream is made")

    def _status(self) -> str:
        return str(
            self.client.describe_stream_summary(StreamName=self.stream)["StreamDescriptionSummary"][
                "StreamStatus"
            ]
        )

    def split_shard(self) -> None:
        """Split the first open shard in the middle."""
        shard = self._open_shards()[0]
        first, last = (int(shard["HashKeyRange"][end]) for end in ("StartingHashKey", "EndingHashKey"))
        self.client.split_shard(
            StreamName=self.stream,
            ShardToSplit=shard["ShardId"],
            NewStartingHashKey=str((first + last) // 2),
        )

    def merge_shards(self) -> None:
        """Merge the last two open shards."""
        low, high = self._open_shards()[-2:]
        self.client.merge_shards(
            StreamName=self.stream, ShardToMerge=low["ShardId"], AdjacentShardToMerge=high["ShardId"]
        )

    def _open_shards(self) -> list[dict[str, Any]]:
        """Return the shards that take records, in the order of their hash keys."""
        shards = self.client.list_shards(StreamName=self.stream)["Shards"]
        found = [shard for shard in shards if "EndingSequenceNumber" not in shard["SequenceNumberRange"]]
        return sorted(found, key=lambda shard: int(shard["HashKeyRange"]["StartingHashKey"]))

    def play(self, segment: Segment) -> None:
        """Put a part of the tape into the stream, and wait for the job where the part says so."""
        producer = PutTicks(
            self.client,
            self.stream,
            time.monotonic,
            time.sleep,
            random.Random(1).random,
            PutOptions(messages=50),
        )
        playback.play(segment, playback.KinesisSink(producer), time.monotonic, time.sleep)
        self.played += readable(segment.messages)
        if segment.clock is not None:
            self.wait_for_clock(segment.clock - LATENESS_US - MINUTE_US)

    def wait_for_clock(self, instant: int) -> None:
        """Wait until all minutes that end before an instant are final."""
        wait_until(lambda: self.archived() >= self.played, f"{self.played} messages are archived")
        minutes = BarSpec((Timeframe(0, 1),), self.market.calendar, as_of=instant + DAY_US)
        ended = f'epoch_us("end") < {instant}'
        query = f"select count(distinct (symbol, ts)) from live where final and timeframe = '1m' and {ended}"

        def followed() -> bool:
            live = self.table("silver.live")
            (made,), _ = aggregate_ticks(self.feed_rows(self.kept()), minutes)
            due = number(f"select count(*) from made where {ended}", made=made.cast(BARS))
            return live is not None and number(query, live=live) >= due > 0

        wait_until(followed, "the job follows")

    def once(self) -> pa.Table:
        """Return what is archived, each message once."""
        archive = self.table("bronze.ticks")
        assert archive is not None
        return sql(f"select distinct on ({IDENTITY}) * from archive", archive=archive).cast(archive.schema)

    def kept(self) -> pa.Table:
        """Return what is archived, each message once, without the late ones."""
        once, late = self.once(), self.table("late")
        if late is None:
            return once
        return sql(f"select * from once anti join late using ({IDENTITY})", once=once, late=late).cast(
            once.schema
        )

    def feed_rows(self, archive: pa.Table) -> pa.Table:
        """Return what the kernel takes of archived messages."""
        if self.feed == "trades":
            return trade_input(ticks.trades_of(archive))
        return minute_input(ticks.aggregates_of(archive, "AM"))

    def land(self, rows: pa.Table, name: str = "history") -> None:
        """Land daily rows as a user would; a later name is a later file, and its rows count."""
        raw = self.folder / name
        raw.mkdir()
        stamps = rows["session"].cast(pa.timestamp("us", tz="UTC"))
        columns = [rows[each] for each in ("symbol", "open", "high", "low", "close", "volume")]
        made = pa.table(
            [*columns, stamps], names=["symbol", "open", "high", "low", "close", "volume", "timestamp"]
        )
        pq.write_table(made, raw / f"{name}.parquet")
        done = self.command(
            "pipelines.load",
            *("--input", str(raw), "--lake", str(self.lake), "--calendar", self.market.calendar.name),
            *("--price-basis", "raw"),
        )
        assert done.returncode == 0, done.stderr

    def official(self) -> pa.Table:
        """What bronze.daily holds now."""
        daily = self.table("bronze.daily")
        assert daily is not None
        return daily.select(DAILY_ROWS.names).cast(DAILY_ROWS)

    # The job ----------------------------------------------------------------------------------------------

    def submit(self, *more: str) -> str:
        """Submit as a user would, and return Flink's id of the job."""
        done = self.command(
            "pipelines.stream",
            *("--source", f"kinesis://{self.stream}?start=TRIM_HORIZON&lanes=2&poll=0.2&rate=20000000"),
            *("--bars-from", self.feed, "--lake", str(self.lake), "--redis", self.stack.env["REDIS_URL"]),
            *("--calendar", self.market.calendar.name, "--buckets", str(BUCKETS), "--parallelism", "2"),
            *("--timeframes", ",".join(timeframe.name for timeframe in TIMEFRAMES)),
            *("--runner", "flink", "--flink-master", self.stack.address("job-manager")),
            *("--worker-pool", self.stack.address("worker-pool")),
            *("--job-endpoint", self.stack.address("job-server")),
            *("--checkpoints", (self.folder / "checkpoints").as_uri(), "--checkpoint-every", "2"),
            *("--commit-every", "1", "--detach", *more),
        )
        assert done.returncode == 0, done.stderr
        return self.rest.job("live").id

    def command(self, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command line of ours."""
        line = [sys.executable, "-P", "-m", f"fibflow.{module}", *arguments]
        return subprocess.run(line, cwd=ROOT, env=self.env, capture_output=True, text=True, timeout=_WITHIN_S)

    def cancel(self) -> None:
        for job in self.rest.jobs():
            if not job.is_over:
                self.rest.cancel(job.id)
                self.rest.ended(job.id, clock=time.monotonic, sleep=time.sleep)

    # What came of it --------------------------------------------------------------------------------------

    def table(self, name: str) -> pa.Table | None:
        try:
            return DeltaTable(str(self.lake / name)).to_pyarrow_table()
        except TableNotFoundError:
            return None

    def open_bars(self, timeframe: str) -> pa.Table:
        """What the live store holds of windows that have not ended."""
        with LiveStore(self.stack.env["REDIS_URL"], buckets=BUCKETS) as store:
            bars = store.open_bars()
        return bars.filter(pc.field("timeframe") == timeframe)

    def rows(self, name: str) -> int:
        found = self.table(name)
        return 0 if found is None else len(found)

    def wait_for_end(self) -> None:
        """Wait until every message is archived, every bar final, and every refused row in its table.

        The buckets' last rows come in commits of their own, and one of them says nothing of the others.
        """
        truth = self.market.tape.truth
        wait_until(lambda: self.archived() >= truth.readable, f"{truth.readable} messages are archived")

        def final() -> bool:
            live = self.table("silver.live")
            query = f"select count(distinct ({_KEY})) from live where final"
            bars, losers = self.batch()
            refused = truth.broken + len(losers)
            return (
                live is not None and number(query, live=live) >= len(bars) and len(self.refused()) >= refused
            )

        wait_until(final, "every bar is final, and every refused row there")

    def refused(self) -> pa.Table:
        """The stream's dead letters; a load has some of its own."""
        dead = self.table("dead_letters")
        if dead is None:
            return DEAD_LETTERS.empty_table()
        return dead.filter(pc.starts_with(dead["origin"], "kinesis:"))

    def batch(self) -> tuple[pa.Table, pa.Table]:
        """Return what batch makes of history and of what is archived and not late.

        Returns:
            Bars of windows that have ended, but for those that history ended; and rows that do not count.
        """
        calendar, before = self.market.calendar, pc.max(self.market.history["session"])
        spec = BarSpec(
            TIMEFRAMES, calendar, as_of=int(calendar.day_ends[self.market.last]), complete_only=True
        )
        through = before.cast(pa.int32()).as_py()
        made, losers = aggregate_ticks(self.feed_rows(self.kept()), spec, self.official(), through)
        begun = int(calendar.day_ends[int(calendar.positions(np.array([through]))[0])])
        bars = pa.concat_tables(made).cast(BARS)
        return bars.filter(pc.greater(bars["end"], pa.scalar(begun, pa.int64()).cast(TIMESTAMP))), losers

    def everything(self) -> pa.Table:
        """Return what batch makes of all of history and of the archive: bars of windows that have ended."""
        spec = BarSpec(
            TIMEFRAMES, self.market.calendar, as_of=int(self.market.calendar.day_ends[self.market.last])
        )
        short = replace(spec, timeframes=INTRADAY, complete_only=True)
        days = replace(spec, timeframes=(Timeframe(1, 0), *FIBONACCI), complete_only=True)
        ticks_, _ = aggregate_ticks(self.feed_rows(self.once()), short)
        rows, _ = resolve(self.official(), "session")
        return pa.concat_tables([*ticks_, *daily_bars(rows, days)]).cast(BARS)

    def seen(self) -> pa.Table:
        """Return what a reader of closed bars sees: bars of windows that have ended."""
        reader = LakeReader(Lake(str(self.lake)))
        parts = [reader.bars(None, timeframe.name, complete_only=True) for timeframe in TIMEFRAMES]
        return pa.concat_tables(parts)

    def archived(self) -> int:
        """Messages in bronze.ticks, each once."""
        archive = self.table("bronze.ticks")
        if archive is None:
            return 0
        return number(f"select count(*) from (select distinct {IDENTITY} from archive)", archive=archive)


def readable(messages: pa.Table) -> int:
    """Return how many messages of a tape can be read, heartbeats apart."""
    broken = [case.name.lower() for case in tape.BROKEN]
    good = "kind <> 'HB' and \"case\" not in (" + ", ".join(f"'{name}'" for name in broken) + ")"
    plain = messages.select(["kind", "case"]).cast(pa.schema([("kind", pa.string()), ("case", pa.string())]))
    return number(f"select count(*) from plain where {good}", plain=plain)


def wait_until(true: Callable[[], bool], what: str, within: float = _WITHIN_S) -> None:
    """Ask until it is so; fail after a deadline that only a broken run reaches."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < within, f"not within {within:.0f} s: {what}"
        time.sleep(0.5)


@dataclass(frozen=True)
class Verdict:
    """What a live run and batch over its archive have in common."""

    bars: int
    missing: int
    different: int
    surplus: int
    revised: int
    ticks: int
    late: int
    duplicates: int
    unreadable: int
    used: int
    long: dict[str, int]


IDENTITY = "shard, sequence, sub, place"
_KEY = "symbol, timeframe, ts"
_LONG = {timeframe.name for timeframe in FIBONACCI}
_COLUMNS = ", ".join(f'"{name}"' for name in BARS.names if name != "revision")


def sql(query: str, **tables: pa.Table) -> Any:
    """Return what a query over Arrow tables gives, as one."""
    with duckdb.connect() as connection:
        for name, table in tables.items():
            connection.register(name, table)
        return connection.sql(query).to_arrow_table()


def number(query: str, **tables: pa.Table) -> int:
    """Return the one number that a query over Arrow tables gives."""
    return int(sql(query, **tables).column(0)[0].as_py())


def differing(batch: pa.Table, latest: pa.Table) -> tuple[int, int, int]:
    """Return how many bars of batch are missing, how many there are besides, and how many differ."""
    both = {"batch": batch, "latest": latest}
    return (
        number(f"select count(*) from batch anti join latest using ({_KEY})", **both),
        number(f"select count(*) from latest anti join batch using ({_KEY})", **both),
        number(
            f"select count(*) from (select {_COLUMNS} from batch except select {_COLUMNS} from latest)",
            **both,
        ),
    )


def compare(run: LiveRun) -> Verdict:
    """Compare silver.live with batch over (bronze.ticks minus late), by SQL of its own."""
    late, live, once = run.table("late"), run.table("silver.live"), run.once()
    assert live is not None
    if late is None:
        late = once.slice(0, 0)
    assert number(f"select count(distinct ({IDENTITY})) from late", late=late) == len(late)
    batch, losers = run.batch()
    newest = f"select distinct on ({_KEY}) * from live order by revision desc, final desc"
    latest = sql(newest, live=live)
    differences = differing(batch, latest)
    dead = run.refused()
    kind = "T" if run.feed == "trades" else "AM"
    return Verdict(
        bars=len(batch),
        missing=differences[0],
        surplus=differences[1],
        different=differences[2],
        revised=number("select count(*) from latest where revision > 0", latest=latest),
        ticks=number(f"select count(*) from once where kind = '{kind}'", once=once),
        late=len(late),
        duplicates=number("select count(*) from dead where reason = 'duplicate'", dead=dead),
        unreadable=number("select count(*) from dead where reason <> 'duplicate'", dead=dead),
        used=len(run.feed_rows(run.kept())) - len(losers),
        long=Counter(name for name in latest["timeframe"].to_pylist() if name in _LONG),
    )
