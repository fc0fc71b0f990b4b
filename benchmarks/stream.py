"""``make bench-stream``: how fast the live pipeline catches up, how soon it shows a trade, how it grows.

    python -m benchmarks.stream                       # everything, then docs/benchmarks-stream.md
    python -m benchmarks.stream --quick               # small and short: does it run?
    python -m benchmarks.stream --only latency        # one part; results of the others are kept
    python -m benchmarks.stream --only read redis     # stages of catching up

Starts a Flink cluster, Redis and an emulator of Kinesis of its own, and stops them at the end. Files lie
below one folder, ``.cache/bench/stream`` by default; a run at full size needs about 8 GB there.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fibflow.benchmarks.streaming import catchup, flatness, kernel, latency, report
from fibflow.benchmarks.streaming.cluster import BenchCluster, BenchmarkError
from fibflow.benchmarks.streaming.report import PARTS, STAGES, WITH, WITHOUT
from fibflow.benchmarks.streaming.tapes import SESSIONS, Stream, end_of, saved_tape
from fibflow.io.flinkrest import FlinkError
from fibflow.io.kinesis.errors import KinesisError
from fibflow.io.liveredis import LiveStoreError
from fibflow.pipelines import tape
from fibflow.pipelines.tape import TapeError
from fibflow.runners.jobserver import JobServerError
from fibflow.runners.services.process import ServiceError
from fibflow.transforms.calendar import TradingCalendar, load_calendar
from fibflow.transforms.livebars import StreamPolicy

ROOT = Path(__file__).resolve().parents[1]
CALENDAR, THROUGH_YEAR = "XNYS", 2028
KNOWN = (
    BenchmarkError,
    FlinkError,
    KinesisError,
    LiveStoreError,
    TapeError,
    JobServerError,
    ServiceError,
)


@dataclass(frozen=True)
class Sizes:
    """How large everything is.

    Attributes:
        symbols, ticks, minutes: of the tape of catching up; 0 minutes: a whole session.
        grown: other numbers of symbols.
        session_ticks: of a tape over a whole session: one in growth, and each of the checkpoints'.
        session_minutes: cuts those to their first minutes; 0: they are whole.
        sessions: of the checkpoints.
        rate, live_s, warm_s: of the feed.
        polls: without data.
        checkpoint_s: from one checkpoint to the next.
        profiled: ticks of the profile.
    """

    symbols: int = 5_350
    ticks: int = 4_000_000
    minutes: int = 20
    grown: tuple[int, ...] = (500, 20_000)
    session_ticks: int = 1_000_000
    session_minutes: int = 0
    sessions: int = 3
    rate: float = 20_000.0
    live_s: float = 60.0
    warm_s: float = 20.0
    polls: int = 1_000
    checkpoint_s: float = 5.0
    profiled: int = 1_000_000


QUICK = Sizes(
    symbols=500,
    ticks=100_000,
    minutes=2,
    grown=(),
    session_ticks=20_000,
    session_minutes=3,
    sessions=2,
    rate=2_000.0,
    live_s=8.0,
    warm_s=4.0,
    polls=20,
    checkpoint_s=1.0,
    profiled=50_000,
)


class Bench:
    """One run of the benchmark: its tapes, its cluster, and what it found."""

    def __init__(self, args: argparse.Namespace, sizes: Sizes, calendar: TradingCalendar) -> None:
        self.args, self.sizes, self.calendar = args, sizes, calendar
        self.kept = args.data / ("quick.json" if args.quick else "results.json")
        self.results: dict[str, Any] = {"parts": {}}
        self.found: dict[str, Any] = {}
        self.end = end_of(SESSIONS[0], calendar, StreamPolicy().lateness_us)
        if self.kept.exists():
            self.results = json.loads(self.kept.read_text())
        layout = (
            f"task managers: {args.task_managers}, slots of each: {args.slots}, "
            f"Python workers of each: {args.workers}"
        )
        self.about = {
            "shards": args.shards,
            "minutes": sizes.minutes,
            "checkpoint_s": sizes.checkpoint_s,
            "cores": os.cpu_count(),
            "layout": layout,
        }

    def keep(self, part: str, runs: list[dict[str, Any]], lasting: bool = True, **more: Any) -> None:
        """Keep what a part has found so far, in the file too where it is ``lasting``; take note of when."""
        at = datetime.now(UTC).isoformat(timespec="seconds")
        self.found[part] = {"at": at, "about": self.about, "runs": runs, **more}
        if lasting:
            self.results["parts"][part] = self.found[part]
            self.kept.write_text(json.dumps(self.results, indent=1))

    def tape_of(
        self, symbols: int, ticks: int, session: str = SESSIONS[0], minutes: int = 0
    ) -> tape.SavedTape:
        """Return a tape, made where it is not there."""
        return saved_tape(self.args.data, self.calendar, symbols, ticks, session, minutes)

    def expected(self, saved: tape.SavedTape, symbols: int, ticks: int, minutes: int) -> dict[str, int]:
        """Return how many bars a tape makes by timeframe."""
        path = self.args.data / f"bars-{symbols}-{ticks}-{minutes}m.json"
        return kernel.expected_bars(path, saved, self.calendar)

    @property
    def whole(self) -> list[dict[str, Any]]:
        """The runs of the whole graph among the stages of this run."""
        return [each for each in self.found.get("stages", {"runs": []})["runs"] if each["name"] == "redis"]

    def stages(self, cluster: BenchCluster, names: Sequence[str]) -> None:
        """Catch up with a growing part of the graph."""
        sizes = self.sizes
        saved = self.tape_of(sizes.symbols, sizes.ticks, minutes=sizes.minutes)
        expected = self.expected(saved, sizes.symbols, sizes.ticks, sizes.minutes)
        if not self.args.quick:
            # The first job on a cluster meets a cold JVM, whatever it does.
            self.catch_up(cluster, "redis", saved, expected)
        runs = []
        for number in range(self.args.rounds):
            order = names if number % 2 == 0 else names[::-1]
            for name in order:
                runs.append(self.catch_up(cluster, name, saved, expected))
        runs.sort(key=lambda run: list(STAGES).index(run["name"]))
        # Ratios are of one run: some stages alone do not take the place of all.
        self.keep("stages", runs, lasting=set(names) == set(STAGES))

    def growth(self, cluster: BenchCluster) -> None:
        """Catch up with the whole graph, with one thing changed at a time."""
        sizes = self.sizes
        own = f"{sizes.symbols:,} symbols"
        busy = sizes.ticks, sizes.minutes
        plans = [
            (f"{own}, parallelism 2", sizes.symbols, *busy, 2),
            (f"{own}, parallelism 1", sizes.symbols, *busy, 1),
            *((f"{symbols:,} symbols, parallelism 2", symbols, *busy, 2) for symbols in sizes.grown),
        ]
        if not sizes.session_minutes:
            words = f"{own}, {sizes.session_ticks:,} trades over a whole session"
            plans.append((words, sizes.symbols, sizes.session_ticks, 0, 2))
        runs: list[dict[str, Any]] = []
        for words, symbols, ticks, minutes, parallelism in plans:
            saved = self.tape_of(symbols, ticks, minutes=minutes)
            expected = self.expected(saved, symbols, ticks, minutes)
            # The whole graph of the stages is the first row where they have just been run.
            known = [] if runs else [each for each in self.whole if each["parallelism"] == parallelism]
            run = known[-1] if known else self.catch_up(cluster, "redis", saved, expected, parallelism)
            runs.append({**run, "name": words})
            self.keep("growth", runs)

    def fibonacci(self, cluster: BenchCluster) -> None:
        """Run the whole graph without Fibonacci timeframes and with them, catching up and live, in turns."""
        sizes = self.sizes
        saved = self.tape_of(sizes.symbols, sizes.ticks, minutes=sizes.minutes)
        expected = self.expected(saved, sizes.symbols, sizes.ticks, sizes.minutes)
        runs, lives = [], []
        if not self.args.quick:
            # As in the stages: the first job meets a cold JVM.
            self.catch_up(cluster, "redis", saved, expected)
        for number in range(self.args.rounds):
            for with_it in (False, True) if number % 2 == 0 else (True, False):
                name = WITH if with_it else WITHOUT
                run = self.catch_up(cluster, "redis", saved, expected, with_history=with_it)
                runs.append({**run, "name": name})
                live = latency.run(
                    cluster, sizes.rate, sizes.live_s, sizes.warm_s, sizes.symbols, self.args.shards, with_it
                )
                print(f"latency, {name}: last price {live.prices}, bars {live.bars}", flush=True)
                lives.append({**live.plain(), "name": name})
        runs.sort(key=lambda run: (WITHOUT, WITH).index(run["name"]))
        self.keep("fibonacci", runs, lives=lives)

    def catch_up(
        self,
        cluster: BenchCluster,
        stage: str,
        saved: tape.SavedTape,
        expected: dict[str, int],
        parallelism: int | None = None,
        with_history: bool = False,
    ) -> dict[str, Any]:
        """Run a stage once, and say what came of it."""
        shape = catchup.shape_of(stage, "ticks", self.calendar, parallelism or self.args.parallelism)
        bars = kernel.bars_of(expected, tuple(shape.timeframes))
        if with_history:
            shape, more = catchup.with_fibonacci(shape, saved, SESSIONS[0])
            bars += more
        cluster.fresh_kinesis()
        stream = Stream(cluster.client, shape.stream, self.args.shards)
        found = catchup.run(cluster, stage, shape, stream, saved, bars, self.end)
        print(
            f"{stage:8} {found.ticks:,} ticks of {found.symbols:,} symbols, parallelism {found.parallelism}: "
            f"{found.rate:,.0f} a second in {found.seconds:.1f} s",
            flush=True,
        )
        return found.plain()

    def latency(self, cluster: BenchCluster) -> None:
        """Run on a feed in real time."""
        sizes = self.sizes
        found = latency.run(cluster, sizes.rate, sizes.live_s, sizes.warm_s, sizes.symbols, self.args.shards)
        print(f"latency: last price {found.prices}, bars {found.bars}", flush=True)
        self.keep("latency", [found.plain()], warm_s=sizes.warm_s)

    def checkpoints(self, cluster: BenchCluster) -> None:
        """Note the sizes of checkpoints."""
        sizes = self.sizes
        dates = SESSIONS[: sizes.sessions]
        size = sizes.symbols, sizes.session_ticks
        tapes = [(date, self.tape_of(*size, date, sizes.session_minutes)) for date in dates]
        found = flatness.run(cluster, tapes, self.calendar, sizes.symbols, sizes.polls, self.args.shards)
        print(f"checkpoints: {found.polls:,} polls without data, {found.idle} bytes", flush=True)
        for each in found.sessions:
            print(f"checkpoints: {each.date} half {each.half}, whole {each.whole}", flush=True)
        self.keep("checkpoints", [found.plain()])

    def profile(self) -> None:
        """Run the steps in this process."""
        sizes = self.sizes
        saved = self.tape_of(sizes.symbols, sizes.ticks, minutes=sizes.minutes)
        found = kernel.profile(saved, self.calendar, sizes.profiled)
        self.keep("profile", [found.plain()])


def run(args: argparse.Namespace) -> Bench:
    """Run the parts that are asked for."""
    sizes = QUICK if args.quick else Sizes()
    changed = {
        name: value
        for name in ("symbols", "ticks", "minutes", "polls", "rate", "live_s")
        if (value := getattr(args, name)) is not None
    }
    sizes = Sizes(**{**vars(sizes), **changed})
    bench = Bench(args, sizes, load_calendar(CALENDAR, THROUGH_YEAR))
    parts = [part for part in PARTS if part in args.only] if args.only else list(PARTS)
    names = [stage for stage in STAGES if not args.only or stage in args.only or "stages" in args.only]
    if names and "stages" not in parts:
        parts.insert(0, "stages")
    if "profile" in parts:
        bench.profile()
    if set(parts) - {"profile"}:
        with BenchCluster(
            args.data / "run",
            task_managers=args.task_managers,
            slots=args.slots,
            workers=args.workers,
            checkpoint_ms=round(sizes.checkpoint_s * 1000),
        ) as cluster:
            if "stages" in parts:
                bench.stages(cluster, names)
            if "growth" in parts:
                bench.growth(cluster)
            if "latency" in parts:
                bench.latency(cluster)
            if "fibonacci" in parts:
                bench.fibonacci(cluster)
            if "checkpoints" in parts:
                bench.checkpoints(cluster)
    return bench


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.stream", description="Measure the live pipeline.")
    parser.add_argument(
        "--data",
        type=Path,
        default=ROOT / ".cache" / "bench" / "stream",
        help="folder of all files (default %(default)s)",
    )
    parser.add_argument("--quick", action="store_true", help="small and short: does everything run?")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=(*PARTS, *STAGES),
        default=(),
        metavar="PART",
        help=f"some of {', '.join(PARTS)}, or stages: {', '.join(STAGES)}",
    )
    parser.add_argument("--rounds", type=int, default=1, help="of the stages, and of fibonacci (default 1)")
    parser.add_argument("--symbols", type=int, help="of the tapes (default 5,350)")
    parser.add_argument("--ticks", type=int, help="that wait in the stream (default 4,000,000)")
    parser.add_argument(
        "--minutes", type=int, help="in which the ticks are, from the open on; 0: the session (default 20)"
    )
    parser.add_argument("--rate", type=float, help="ticks a second, live (default 20,000)")
    parser.add_argument("--live-s", type=float, help="seconds, live (default 60)")
    parser.add_argument("--polls", type=int, help="without data (default 1,000)")
    parser.add_argument("--parallelism", type=int, default=2)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--task-managers", type=int, default=1)
    parser.add_argument("--slots", type=int, default=2, help="of each task manager")
    parser.add_argument("--workers", type=int, default=1, help="Python processes of each task manager")
    parser.add_argument(
        "--report", type=Path, help="page to write (default docs/benchmarks-stream.md, for a whole run only)"
    )
    parser.add_argument("--date", help="of the runs, to be named on the page")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: 0 when everything ran, and nothing was lost."""
    args = parse(argv)
    args.data = args.data.resolve()
    args.data.mkdir(parents=True, exist_ok=True)
    # Beam's own parser warns of each option that is the Flink runner's.
    logging.getLogger().setLevel(logging.ERROR)
    try:
        bench = run(args)
    except KNOWN as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    whole = not args.quick and set(bench.results["parts"]) == set(PARTS)
    target = args.report or (ROOT / "docs" / "benchmarks-stream.md" if whole else None)
    if target:
        target.write_text(report.page(bench.results, args.date))
    print("\n\n".join(report.sections({"parts": bench.found})))
    return 0


if __name__ == "__main__":
    sys.exit(main())
