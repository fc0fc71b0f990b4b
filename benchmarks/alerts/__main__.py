"""``make bench-alerts``: what alerts cost a live job, and how soon they fire.

    python -m benchmarks.alerts                  # everything, then docs/benchmarks-alerts.md
    python -m benchmarks.alerts --quick          # small and short: does it run?
    python -m benchmarks.alerts --only live      # one part; results of the others are kept

Parts: ``kernel``, on one core and without servers; ``live``, from a trade's put in Kinesis until what it
fires is in the outbox; ``cost``, the same catching-up with alerts and without, in turns. Starts a Flink
cluster, Redis, PostgreSQL and an emulator of Kinesis of its own, and stops them at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from fibflow.benchmarks.alerts import kernel, live, market, report
from fibflow.benchmarks.alerts.cluster import AlertCluster
from fibflow.benchmarks.streaming import catchup
from fibflow.benchmarks.streaming import kernel as bars
from fibflow.benchmarks.streaming.cluster import BenchmarkError
from fibflow.benchmarks.streaming.tapes import SESSIONS, Stream, end_of, saved_tape
from fibflow.io.flinkrest import FlinkError
from fibflow.io.kinesis.errors import KinesisError
from fibflow.io.liveredis import LiveStoreError
from fibflow.io.postgres import PostgresError
from fibflow.pipelines import tape
from fibflow.runners.jobserver import JobServerError
from fibflow.runners.services.process import ServiceError
from fibflow.transforms.calendar import load_calendar
from fibflow.transforms.livebars import StreamPolicy

ROOT = Path(__file__).resolve().parents[2]
CALENDAR, THROUGH_YEAR = "XNYS", 2028
KNOWN = (
    BenchmarkError,
    FlinkError,
    JobServerError,
    KinesisError,
    LiveStoreError,
    PostgresError,
    ServiceError,
)


@dataclass(frozen=True)
class Sizes:
    """How large everything is.

    Attributes:
        alerts, symbols: how many.
        rate, live_s, warm_s: trades a second of the feed; how long it is measured, and before.
        ticks, minutes: of catching up, and in how many minutes of the session they are.
        kernel_s: seconds of the market for the kernel.
    """

    alerts: int = 1_000_000
    symbols: int = 5_350
    rate: float = 20_000.0
    live_s: float = 60.0
    warm_s: float = 20.0
    ticks: int = 4_000_000
    minutes: int = 20
    kernel_s: int = 20


QUICK = Sizes(20_000, 2_000, 2_000.0, 8.0, 4.0, 100_000, 2, 2)


def measure_kernel(sizes: Sizes) -> list[str]:
    """Return what the kernel's benchmark says."""
    told = io.StringIO()
    words = {"--alerts": sizes.alerts, "--symbols": sizes.symbols, "--rate": int(sizes.rate)}
    with contextlib.redirect_stdout(told):
        kernel.main([str(word) for pair in (words | {"--seconds": sizes.kernel_s}).items() for word in pair])
    return [line for line in told.getvalue().splitlines() if line.strip()]


def measure_cost(cluster: AlertCluster, sizes: Sizes, data: Path, rounds: int) -> list[dict[str, Any]]:
    """Catch up with the same ticks with alerts and without, in turns."""
    calendar = load_calendar(CALENDAR, THROUGH_YEAR)
    saved = saved_tape(data, calendar, sizes.symbols, sizes.ticks, SESSIONS[0], sizes.minutes)
    path = data / f"bars-{sizes.symbols}-{sizes.ticks}-{sizes.minutes}m.json"
    expected = bars.expected_bars(path, saved, calendar)
    day = np.array([SESSIONS[0]], "datetime64[D]").astype(np.int32)
    # As ``saved_tape`` makes them.
    days = tape.synthetic_daily(sizes.symbols, day, np.random.default_rng([7, 5]))
    since = int(calendar.day_starts[calendar.positions(day)][0])
    names, prices = [str(name) for name in days["symbol"].to_pylist()], days["open"].to_numpy()
    market.fill(cluster.url, market.alerts_of(names, prices, sizes.alerts, since))
    end = end_of(SESSIONS[0], calendar, StreamPolicy().lateness_us)
    runs = []
    orders = [(True,)] + [(False, True) if number % 2 == 0 else (True, False) for number in range(rounds)]
    for number, order in enumerate(orders):
        for with_alerts in order:
            shape = catchup.shape_of("redis", "ticks", calendar)
            cluster.fresh_kinesis()
            cluster.alerts = sizes.alerts if with_alerts else 0
            stream = Stream(cluster.client, shape.stream, 2)
            found = catchup.run(
                cluster, "redis", shape, stream, saved, bars.bars_of(expected, tuple(shape.timeframes)), end
            )
            name = "with alerts" if with_alerts else "without"
            print(f"cost: {name} {found.rate:,.0f} ticks a second", flush=True)
            # The first job on a cluster meets a cold JVM.
            if number:
                runs.append({**found.plain(), "name": name, "loaded_s": cluster.loaded_s})
    cluster.alerts = 0
    return runs


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Run the parts that are asked for; return all results that are kept."""
    given = {name: value for name in vars(Sizes()) if (value := getattr(args, name, None)) is not None}
    sizes = Sizes(**{**vars(QUICK if args.quick else Sizes()), **given})
    kept = args.data / ("alerts-quick.json" if args.quick else "alerts.json")
    results: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}

    def keep(part: str, value: Any) -> None:
        at = datetime.now(UTC).isoformat(timespec="seconds")
        results[part] = {"at": at, "sizes": vars(sizes), "found": value}
        kept.write_text(json.dumps(results, indent=1))

    parts = args.only or ("kernel", "live", "cost")
    if "kernel" in parts:
        keep("kernel", measure_kernel(sizes))
    if {"live", "cost"} & set(parts):
        with AlertCluster(args.data / "run", checkpoint_ms=args.checkpoint_ms) as cluster:
            if "live" in parts:
                size = sizes.alerts, sizes.symbols, sizes.rate, sizes.live_s, sizes.warm_s
                found = live.run(cluster, *size, shards=2)
                print(f"live: {found.outbox}", flush=True)
                keep("live", found.plain())
            if "cost" in parts:
                keep("cost", measure_cost(cluster, sizes, args.data, args.rounds))
    return results


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.alerts", description="Measure alerts in a live job.")
    parser.add_argument("--data", type=Path, default=ROOT / ".cache" / "bench" / "alerts", help="%(default)s")
    parser.add_argument("--quick", action="store_true", help="small and short: does everything run?")
    parser.add_argument("--only", nargs="+", choices=("kernel", "live", "cost"), default=())
    parser.add_argument("--rounds", type=int, default=2, help="of the cost (default 2)")
    parser.add_argument("--alerts", type=int)
    parser.add_argument("--symbols", type=int)
    parser.add_argument("--rate", type=float, help="trades a second")
    parser.add_argument("--live-s", type=float)
    parser.add_argument("--warm-s", type=float)
    parser.add_argument("--ticks", type=int)
    parser.add_argument("--minutes", type=int)
    parser.add_argument("--checkpoint-ms", type=int, default=5000)
    parser.add_argument("--date", help="of the runs, to be named on the page")
    parser.add_argument("--report", type=Path, help="page to write (default docs/benchmarks-alerts.md)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: 0 when everything ran."""
    args = parse(argv)
    args.data = args.data.resolve()
    args.data.mkdir(parents=True, exist_ok=True)
    # Beam's own parser warns of each option that is the Flink runner's.
    logging.getLogger().setLevel(logging.ERROR)
    try:
        results = run(args)
    except KNOWN as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    whole = not args.quick and len(results) == 3
    target = args.report or (ROOT / "docs" / "benchmarks-alerts.md" if whole else None)
    if target:
        target.write_text(report.page(results, args.date))
    print("\n\n".join(report.sections(results)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
