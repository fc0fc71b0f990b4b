"""``make bench``: fibflow, DuckDB, Polars and the floor on the same history, in turns, as whole processes.

    python -m benchmarks.run    # three rounds of four columns, the checks, docs/benchmarks.md
    python -m benchmarks.run --scale 0.02 --rounds 1 --only by_year/rows --contestants duckdb polars

Every file lies below one folder, ``.cache/bench`` by default; a full-size run needs about 6 GB there.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from fibflow.benchmarks import incremental, report
from fibflow.benchmarks.report import CONTESTANTS, Measurement, Results

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "benchmarks" / "contestants"
LAYOUTS, ANCHORS = ("by_symbol", "by_year"), ("exchange", "rows", "listing")
COLUMNS = ("by_symbol/exchange", "by_symbol/rows", "by_year/exchange", "by_year/rows")
ALL_COLUMNS = tuple(f"{layout}/{anchor}" for layout in LAYOUTS for anchor in ANCHORS)
CHECKED_FULL = ("by_symbol/exchange", "by_year/rows")
TIMEFRAMES = "3d,5d,8d,13d,21d,34d"
DISK_GB = 6


class BenchmarkError(Exception):
    """A process failed; the message is one line."""


def history_of(data: Path, scale: float) -> Path:
    """The folder of the history at ``scale``, made when it is not there."""
    folder = data / f"scale-{scale:g}"
    _call("-m", "benchmarks.history", str(folder), "--scale", str(scale))
    newest = json.loads((folder / "history.json").read_text())["last"]
    _call("-m", "benchmarks.windows", str(folder / "windows.parquet"), "--newest", newest)
    return folder


def prepared_bars(folder: Path, anchor: str, threads: int) -> Path:
    """The folder of the floor's output of ``anchor``, made from DuckDB's bars when it is not there."""
    prepared = folder / "prepared" / anchor
    marker, made_of = prepared / "history.json", (folder / "history.json").read_text()
    if not marker.exists() or marker.read_text() != made_of:
        scratch = folder / "prepared" / "bars"
        _call(*command("duckdb", folder, f"by_year/{anchor}", scratch, threads))
        _call(*command("floor", folder, f"by_year/{anchor}", scratch, threads), "--prepare", str(scratch))
        shutil.rmtree(scratch)
        marker.write_text(made_of)
    return prepared


def command(contestant: str, folder: Path, column: str, out: Path, threads: int) -> list[str]:
    """What follows ``python`` to run one contestant."""
    layout, anchor = column.split("/")
    if contestant == "fibflow":
        options = {
            "--input": folder / layout,
            "--price-basis": "raw",
            "--lake": out,
            "--anchor": anchor,
            "--timeframes": TIMEFRAMES,
            "--runner": "direct",
        }
        return ["-m", "pipelines.batch", *(str(part) for option in options.items() for part in option)]
    script = SCRIPTS / ("floor.py" if contestant == "floor" else f"{contestant}_bars.py")
    arguments = [str(script), str(folder / layout), anchor, str(out), "--threads", str(threads)]
    if contestant == "floor":
        return [*arguments, "--prepared", str(folder / "prepared" / anchor)]
    return [*arguments, "--windows", str(folder / "windows.parquet")]


def _call(*arguments: str, accept: Sequence[int] = (0,)) -> str:
    """Run Python outside the measurement; its standard output."""
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode not in accept:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise BenchmarkError(f"{' '.join(arguments[:2])} failed: {last}")
    return done.stdout


def measure(arguments: Sequence[str], log: Path) -> tuple[float, float, int]:
    """Run Python once: seconds, CPU seconds, and the peak resident bytes of its largest process.

    The kernel counts what this process holds at the fork into the child's peak, so this module imports
    nothing large.
    """
    with log.open("w") as sink:
        began = time.perf_counter()
        process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stdout=sink, stderr=sink)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        last = (log.read_text().strip().splitlines() or ["no message"])[-1]
        raise BenchmarkError(f"{' '.join(arguments[:2])} left with {process.returncode}: {last}")
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def warm(folder: Path) -> None:
    """Bring the files below ``folder`` into the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.read_bytes()


def run_column(results: Results, column: str, folder: Path, contestants: Sequence[str], rounds: int) -> None:
    """All rounds of one column; the contestants take turns, and another one starts each round."""
    out = folder / "out"
    warm(folder / column.split("/")[0])
    if "floor" in contestants:
        warm(prepared_bars(folder, column.split("/")[1], results.threads))
    for round_ in range(rounds):
        results.loads.append((column, round_ + 1, os.getloadavg()))
        start = round_ % len(contestants)
        for contestant in (*contestants[start:], *contestants[:start]):
            shutil.rmtree(out, ignore_errors=True)
            os.sync()
            wall, cpu, peak = measure(
                command(contestant, folder, column, out, results.threads), folder / f"{contestant}.log"
            )
            bars = out / "silver.bars" if contestant == "fibflow" else out
            files = sum(1 for _ in bars.rglob("*.parquet"))
            results.measurements.append(Measurement(column, contestant, round_ + 1, wall, cpu, peak, files))
            print(
                f"{column} round {round_ + 1} {contestant:8} "
                f"{wall:6.1f} s {cpu:6.1f} CPU s {peak / 1e9:5.2f} GB",
                flush=True,
            )
    shutil.rmtree(out, ignore_errors=True)


def check(results: Results, column: str, folder: Path, scale: float) -> None:
    """Run fibflow once more and compare its lake with the independent query."""
    layout, anchor = column.split("/")
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    measure(command("fibflow", folder, column, out, results.threads), folder / "fibflow.log")
    windows = str(folder / "windows.parquet")
    found = json.loads(
        _call(
            "-m",
            "benchmarks.verify",
            str(folder / layout),
            anchor,
            str(out),
            "--windows",
            windows,
            "--json",
            accept=(0, 1),
        )
    )
    bars = sum(comparison["expected"] for comparison in found)
    differing = sum(comparison["missing"] + comparison["unexpected"] for comparison in found)
    results.checks.append({"column": column, "scale": f"{scale:g}", "bars": bars, "differing": differing})
    print(f"{column} at scale {scale:g}: {bars:,} bars, {differing:,} differing rows", flush=True)
    shutil.rmtree(out, ignore_errors=True)


def check_all(results: Results, data: Path, scale: float) -> None:
    """Two combinations at the run's scale, the other four at a tenth of it."""
    for column in ALL_COLUMNS:
        own = scale if column in CHECKED_FULL else scale / 10
        check(results, column, history_of(data, own), own)


def enough_disk(data: Path, scale: float) -> bool:
    """Whether the run fits; prints a line when it does not."""
    data.mkdir(parents=True, exist_ok=True)
    free, needed = shutil.disk_usage(data).free / 1e9, DISK_GB * min(scale, 1.0)
    if free < needed:
        print(
            f"benchmarks: {free:.1f} GB free in {data}, {needed:.1f} GB needed: make room, or choose --data",
            file=sys.stderr,
        )
    return free >= needed


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks.run", description="Compare fibflow with DuckDB and Polars."
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=ROOT / ".cache" / "bench",
        help="folder of all files (default %(default)s)",
    )
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full size (default 1)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="of the contestants (default 2)")
    parser.add_argument(
        "--only", nargs="+", choices=ALL_COLUMNS, default=COLUMNS, metavar="COLUMN", help="as by_year/rows"
    )
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=CONTESTANTS)
    parser.add_argument(
        "--verify", choices=("yes", "no", "only"), default="yes", help="compare the bars after the rounds"
    )
    parser.add_argument(
        "--incremental", action="store_true", help="also one session more on the full lake, and point reads"
    )
    parser.add_argument(
        "--report", type=Path, help="page to write (default docs/benchmarks.md, for a whole run only)"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: 0 when everything ran and no bar differs."""
    args = parse(argv)
    args.data = args.data.resolve()
    if not enough_disk(args.data, args.scale):
        return 1
    try:
        folder = history_of(args.data, args.scale)
        results = Results(json.loads((folder / "history.json").read_text()), args.threads)
        if args.verify != "only":
            for column in args.only:
                run_column(results, column, folder, tuple(args.contestants), args.rounds)
        if args.verify != "no" and "fibflow" in args.contestants:
            check_all(results, args.data, args.scale)
        more = [incremental.section(incremental.measure(folder))] if args.incremental else []
    except (BenchmarkError, RuntimeError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    (folder / "results.json").write_text(json.dumps(asdict(results), indent=1))
    whole = args.scale == 1 and set(args.only) == set(COLUMNS) and set(args.contestants) == set(CONTESTANTS)
    target = args.report or (ROOT / "docs" / "benchmarks.md" if whole and args.verify != "only" else None)
    if target:
        target.write_text(report.page(results, more))
    print(report.table(results), report.verdicts(results), *more, sep="\n\n")
    return 0 if all(check["differing"] == 0 for check in results.checks) else 1


if __name__ == "__main__":
    sys.exit(main())
