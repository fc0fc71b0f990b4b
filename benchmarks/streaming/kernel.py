"""What a tick costs in one process, step by step: the live pipeline's own functions, without Beam.

Says what the time of a stage goes into that the cluster's totals cannot tell apart, de-duplication among
them: it is part of the kernel, and no option leaves it out.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from fibflow.benchmarks.streaming.cluster import ALL_TIMEFRAMES, BUCKETS
from fibflow.io import lastprices, tables
from fibflow.io.kinesis import decoded
from fibflow.io.lake import Lake
from fibflow.io.liverecords import group_bars, pack_bars
from fibflow.io.streamfiles import write_rows
from fibflow.io.ticks import DecodeTicks, archive
from fibflow.pipelines import tape
from fibflow.transforms import livefeeds
from fibflow.transforms.bars import BarSpec
from fibflow.transforms.buckets import buckets_of
from fibflow.transforms.calendar import TradingCalendar
from fibflow.transforms.coders import ArrowTableCoder
from fibflow.transforms.conditions import Rule, trade_input
from fibflow.transforms.livebars import LiveBars, Output, Plan, StreamPolicy
from fibflow.transforms.livebucket import Memo
from fibflow.transforms.livecells import MINUTES, SEEN
from fibflow.transforms.livedofn import split_ticks
from fibflow.transforms.partials import as_arrow
from fibflow.transforms.schemas import RECORDS, TIMESTAMP
from fibflow.transforms.ticks import aggregate_ticks
from fibflow.transforms.timeframe import INTRADAY, Timeframe

PER_RECORD = 500
#: About what one poll of a lane takes.
PER_POLL = 64_000
_GROUPS = 16
_OUT_OF_ORDER_US = 5_000_000

STEPS = {
    "parse": "parse JSON to columns",
    "input": "conditions and sizes",
    "split": "split by bucket",
    "shuffle": "Arrow to bytes and back, once",
    "minute": "kernel, one-minute bars only",
    "kernel": "kernel, all timeframes",
    "duplicates": "of which de-duplication",
    "closing": "of which closing of windows",
    "open": "open bars let out, once a poll",
    "archive": "raw ticks as a table",
    "parquet": "raw ticks to Parquet",
    "prices": "last price of each symbol",
    "pack": "bars as bytes for Redis",
}


@dataclass
class Profile:
    """What ticks cost.

    Attributes:
        ticks: measured.
        symbols: of the tape.
        seconds: by step of ``STEPS``; ``duplicates`` and ``closing`` are within ``kernel``.
    """

    ticks: int
    symbols: int
    seconds: dict[str, float] = field(default_factory=dict)

    def plain(self) -> dict[str, object]:
        """Return it as plain values."""
        return asdict(self)


class DictCells:
    """Cells in memory."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}
        self._bags: dict[str, list[bytes]] = {name: [] for name in (*MINUTES, *SEEN)}

    def read(self, name: str) -> bytes | None:
        return self._values.get(name)

    def write(self, name: str, value: bytes) -> None:
        self._values[name] = value

    def parts(self, name: str) -> list[bytes]:
        return list(self._bags[name])

    def append(self, name: str, part: bytes) -> None:
        self._bags[name].append(part)

    def clear(self, name: str) -> None:
        if name in self._bags:
            self._bags[name] = []
        self._values.pop(name, None)


class Kernel:
    """All buckets of a job, driven by the newest time of the ticks as a source's watermark would."""

    def __init__(self, spec: BarSpec) -> None:
        self._plan = Plan(spec, StreamPolicy(buckets=BUCKETS))
        self._cells: dict[int, DictCells] = {}
        self._memos: dict[int, Memo] = {}
        self._timers: dict[int, int] = {}

    def add(self, bucket: int, rows: pa.Table) -> Output:
        """Take a bucket's rows."""
        return self._after(bucket, self._live(bucket).add(rows))

    def advance(self, watermark: int) -> Iterator[Output]:
        """Fire what is due."""
        for bucket in list(self._timers):
            while (due := self._timers.get(bucket, watermark + 1)) <= watermark:
                del self._timers[bucket]
                yield self._after(bucket, self._live(bucket).advance(due))

    def let_out(self, bucket: int) -> list[pa.Table]:
        """Return the open bars that changed since the last time."""
        told = [self._live(bucket).let_out("", of_days) for of_days in self._plan.kinds]
        return [each[1] for each in told if each is not None]

    def _live(self, bucket: int) -> LiveBars:
        cells = self._cells.setdefault(bucket, DictCells())
        return LiveBars(self._plan, cells, self._memos.setdefault(bucket, Memo()))

    def _after(self, bucket: int, output: Output) -> Output:
        if output.timer is not None:
            self._timers[bucket] = output.timer
        return output


class Stopwatch:
    """Adds up the time of steps."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(STEPS, 0.0)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - began

    @contextmanager
    def within(self, name: str, module: Any, *functions: str) -> Iterator[None]:
        """Time functions of a module that are called by others, for the time of the block."""
        kept = {function: getattr(module, function) for function in functions}

        def timed(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any) -> Any:
                with self.step(name):
                    return function(*arguments)

            return call

        for function, original in kept.items():
            setattr(module, function, timed(original))
        try:
            yield
        finally:
            for function, original in kept.items():
                setattr(module, function, original)


def polls_of(saved: tape.Messages, most: int) -> Iterator[pa.Table]:
    """Yield the trades of a tape as blocks of records, as a lane gets them; ``most`` trades in all."""
    left, number = most, 0
    for block in saved.blocks(PER_POLL):
        lines: list[Any] = block["message"].drop_null().to_pylist()[:left]
        left -= len(lines)
        data = [b"\n".join(lines[at : at + PER_RECORD]) for at in range(0, len(lines), PER_RECORD)]
        if data:
            n = len(data)
            columns: list[Any] = [
                pa.array(["shardId-000000000000"] * n).dictionary_encode(),
                pa.array([str(10**55 + number + each) for each in range(n)]),
                pa.array(np.zeros(n, np.int32)),
                pa.array(np.full(n, saved.truth.last)).view(TIMESTAMP),
                pa.nulls(n, pa.string()),
                pa.array(data, pa.binary()),
            ]
            number += n
            yield pa.table(columns, schema=RECORDS)


def profile(saved: tape.SavedTape, calendar: TradingCalendar, most: int) -> Profile:
    """Run the steps over the first trades of a tape, poll by poll, and return what each took."""
    watch = Stopwatch()
    every = Kernel(BarSpec(ALL_TIMEFRAMES, calendar))
    minute = Kernel(BarSpec(INTRADAY[:1], calendar))
    decode, coder = DecodeTicks(), ArrowTableCoder()
    ticks = 0
    with tempfile.TemporaryDirectory(prefix="fibflow-bench-") as folder:
        lake = Lake(folder)
        writer = lake.table(tables.TICKS).writer()
        for records in polls_of(saved, most):
            with watch.step("parse"):
                trades = decode(records).outputs[decoded.TRADES]
            ticks += len(trades)
            with watch.step("input"):
                rows = trade_input(trades)
            with watch.step("split"):
                parts = list(split_ticks(rows, BUCKETS))
            with watch.step("shuffle"):
                parts = [(bucket, coder.decode(coder.encode(part))) for bucket, part in parts]
            watermark = int(rows["ts"].combine_chunks().view(pa.int64()).to_numpy().max()) - _OUT_OF_ORDER_US
            with watch.step("minute"):
                for bucket, part in parts:
                    minute.add(bucket, part)
                for _ in minute.advance(watermark):
                    pass
            with (
                watch.step("kernel"),
                watch.within("duplicates", livefeeds, "_seen_before", "encode_keys", "repeats"),
            ):
                made = [every.add(bucket, part) for bucket, part in parts]
                with watch.step("closing"):
                    made += every.advance(watermark)
            with watch.step("open"):
                opened = [bars for bucket, _ in parts for bars in every.let_out(bucket)]
            with watch.step("archive"):
                raw = archive({decoded.TRADES: trades})
            with watch.step("parquet"):
                list(write_rows(writer, raw, calendar, lake.new_id()))
            with watch.step("prices"):
                lastprices.of_trades(rows, int(Rule.OPEN_CLOSE))
            with watch.step("pack"):
                for bars in opened:
                    group_bars(bars, 0).parts()
                for output in made:
                    if output.bars is not None:
                        pack_bars(output.bars, 0).parts()
    return Profile(ticks, saved.truth.symbols, watch.seconds)


def expected_bars(path: Path, saved: tape.SavedTape, calendar: TradingCalendar) -> dict[str, int]:
    """Return how many bars of each timeframe a tape makes, by bounded input's kernel; kept in ``path``."""
    if path.exists():
        return json.loads(path.read_text())
    decode = DecodeTicks()
    every = polls_of(saved, saved.truth.number())
    polls = [trade_input(decode(records).outputs[decoded.TRADES]) for records in every]
    rows = pa.concat_tables(polls).unify_dictionaries()
    group = buckets_of(rows["symbol"], _GROUPS)
    spec = BarSpec(ALL_TIMEFRAMES, calendar, as_of=int(calendar.day_ends[-1]))
    found = {timeframe.name: 0 for timeframe in ALL_TIMEFRAMES}
    for number in range(_GROUPS):
        bars, _ = aggregate_ticks(rows.filter(as_arrow(group == number)), spec)
        for made in bars:
            found[str(made["timeframe"][0])] += len(made)
    path.write_text(json.dumps(found))
    return found


def bars_of(expected: dict[str, int], timeframes: Iterator[Timeframe] | tuple[Timeframe, ...]) -> int:
    """Return how many bars there are of some timeframes."""
    return sum(expected[timeframe.name] for timeframe in timeframes)
