"""One new session on the full lake, and point reads of it: the second half of ``make bench``.

    python -m benchmarks.incremental .cache/bench/scale-1

Loads the history, makes all bars, then three times lands one session more for each symbol and runs batch.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from fibflow.benchmarks.pagecache import drop, files_below, resident

ROOT = Path(__file__).resolve().parents[1]
TIMEFRAMES = ("3d", "5d", "8d", "13d", "21d", "34d")
MOST_SECONDS, MOST_SHARE, MOST_MILLISECONDS = 5.0, 0.05, 30.0
SESSIONS = 3


@dataclass
class Step:
    """One whole process: seconds, bytes of the lake that it read, and the peak of its resident set."""

    name: str
    seconds: float
    read: int
    peak: int


@dataclass
class Findings:
    """What was measured."""

    lake_bytes: int = 0
    steps: list[Step] = field(default_factory=list)
    reads: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    load: str = ""


def run(name: str, lake: Path, module: str, *arguments: str) -> Step:
    """Run a module once, with the lake out of the page cache; afterwards what is there was read.

    Raises:
        RuntimeError: it failed.
    """
    before = files_below(lake)
    drop(before)
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{name} left with {process.returncode}: {output.strip().splitlines()[-2:]}")
    return Step(name, seconds, resident(before), usage.ru_maxrss * 1024)


_LAST_SESSION_MOVED = """
import sys
import duckdb
source, target, days = sys.argv[1:]
duckdb.sql("set enable_progress_bar = false")
duckdb.sql(f'''
    copy (
        select symbol, last(open order by timestamp) as open, last(high order by timestamp) as high,
            last(low order by timestamp) as low, last(close order by timestamp) as close,
            1000::bigint as volume, timestamptz '2025-10-06 00:00:00+00' + interval ({days}) day as timestamp,
            '1d' as interval
        from read_parquet('{source}/by_symbol/*/data.parquet', hive_partitioning = false)
        group by symbol
    ) to '{target}' (format parquet)
''')
"""


def write_session(history: Path, target: Path, number: int) -> None:
    """Write one session after the history's last, a row for each symbol: its last prices again."""
    target.parent.mkdir(parents=True, exist_ok=True)
    arguments = [sys.executable, "-c", _LAST_SESSION_MOVED, str(history), str(target), str(number)]
    subprocess.run(arguments, check=True, cwd=ROOT)


def measure(history: Path) -> Findings:
    """Make the lake of ``history`` below it and measure; the lake is removed at the end."""
    lake, extra = history / "lake", history / "sessions"
    for folder in (lake, extra):
        shutil.rmtree(folder, ignore_errors=True)
    found = Findings(load=" ".join(f"{value:.2f}" for value in os.getloadavg()))
    load = ("--lake", str(lake), "--price-basis", "raw")
    batch = ("--lake", str(lake), "--timeframes", "fibonacci")

    def step(name: str, module: str, *arguments: str) -> None:
        found.steps.append(run(name, lake, f"pipelines.{module}", *arguments))

    step("load of the whole history", "load", "--input", str(history / "by_year"), *load)
    step("batch of the whole history", "batch", *batch)
    found.lake_bytes = sum(path.stat().st_size for path in lake.rglob("*.parquet"))
    extra.mkdir()
    for number in range(SESSIONS):
        write_session(history, extra / f"date=2025-10-{6 + number:02d}.parquet", number)
        step(f"load of session {number + 1}", "load", "--input", str(extra), *load)
        step(f"batch of session {number + 1}", "batch", *batch)
    for timeframe in TIMEFRAMES:
        made = subprocess.run(
            [sys.executable, "-m", "benchmarks.point_reads", str(lake), timeframe, "7"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        )
        found.reads[timeframe] = json.loads(made.stdout)
    for folder in (lake, extra):
        shutil.rmtree(folder)
    return found


SESSION_HEAD = """## One session more

A lake of {size:,.0f} MB (bronze and bars). Then one file with a session of every symbol, three times:
`pipelines.load`, `pipelines.batch`, whole processes. Bytes read are the lake's pages that were in the page
cache afterwards, with none before. Aimed at: load and batch together at most {seconds:g} s and {share:.0%} of
the lake. Load average before: {load}.

| step | seconds | read MB | of the lake | peak GB |
|---|---|---|---|---|
"""

READS_HEAD = """
## Point reads

The last 500 bars of ten symbols, each with the lake dropped from the page cache and the table opened anew,
imports not counted. Aimed at: at most {milliseconds:g} ms and a handful of files.

| timeframe | ms, median (least - most) | files opened, most |
|---|---|---|
"""


def section(found: Findings) -> str:
    """Return the findings as sections of the page."""
    size = found.lake_bytes
    text = SESSION_HEAD.format(size=size / 1e6, seconds=MOST_SECONDS, share=MOST_SHARE, load=found.load)
    for step in found.steps:
        share = f"{step.read / size:.1%}" if "session" in step.name else ""
        read, peak = f"{step.read / 1e6:,.1f}", f"{step.peak / 1e9:.2f}"
        text += f"| {step.name} | {step.seconds:.1f} | {read} | {share} | {peak} |\n"
    text += READS_HEAD.format(milliseconds=MOST_MILLISECONDS)
    for timeframe, reads in found.reads.items():
        ms, files = reads["milliseconds"], max(reads["files"])
        text += f"| {timeframe} | {median(ms):.1f} ({min(ms):.1f} - {max(ms):.1f}) | {files:.0f} |\n"
    return text


if __name__ == "__main__":
    print(section(measure(Path(sys.argv[1]).resolve())))
