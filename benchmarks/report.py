"""The benchmark's results as text: a table for the terminal and the page ``docs/benchmarks.md``.

Standard library only: the process that measures must stay small (see ``run.measure``).
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from statistics import median

PACKAGES = ("apache-beam", "deltalake", "duckdb", "numpy", "polars", "pyarrow")
CONTESTANTS = ("fibflow", "duckdb", "polars", "floor")
RIVALS = ("duckdb", "polars")
MOST_OF_RIVAL, MOST_OF_FLOOR = 0.75, 1.15

HEAD = """# Benchmarks

Made by `make bench`; do not edit.

The job: {rows:,} daily rows of {symbols:,} symbols over the XNYS sessions from {first} to {last} become the
six Fibonacci timeframes 3d, 5d, 8d, 13d, 21d and 34d. {corrected:,} of the rows are there twice, the second
time in a file that was modified later and wins. The data is synthetic and seeded (`benchmarks/history.py`).

- **fibflow**: `python -m pipelines.batch` on the DirectRunner into a fresh lake: validation, dead letters and
  the commit included.
- **DuckDB**, **Polars**: one script each (`benchmarks/contestants/`), the best shape of those tried; the same
  columns, zstd level 1. They write as few files as is fastest for them ({few}); fibflow writes about 24 a
  timeframe. They do not validate, and are told which file wins.
- **floor**: decodes the input's columns and encodes bars that were made before, with fibflow's encodings,
  nothing between.

Whole processes, started one after another, {threads} threads each, input in the page cache. The contestants
take turns, and the order rotates by round. Seconds and CPU seconds (user and system) come from `wait4`; so
does the peak, which is that of the largest single process.
"""


@dataclass(frozen=True)
class Measurement:
    """One process: seconds, CPU seconds, and the largest resident set in bytes."""

    column: str
    contestant: str
    round: int
    wall: float
    cpu: float
    peak: int
    files: int


@dataclass
class Results:
    """All that a run of the benchmark found."""

    parameters: dict[str, object]
    threads: int
    measurements: list[Measurement] = field(default_factory=list)
    loads: list[tuple[str, int, tuple[float, float, float]]] = field(default_factory=list)
    checks: list[dict[str, object]] = field(default_factory=list)

    def columns(self) -> list[str]:
        """The measured columns, in the order of measuring."""
        return list(dict.fromkeys(m.column for m in self.measurements))

    def of(self, column: str, contestant: str) -> list[Measurement]:
        """The rounds of one cell."""
        return [m for m in self.measurements if m.column == column and m.contestant == contestant]


def machine() -> dict[str, str]:
    """Processor, cores, memory, kernel and the versions of what was compared."""
    cpu = memory = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.split(":", 1)[1].strip()
            break
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal"):
            memory = f"{int(line.split()[1]) / 2**20:.1f} GiB"
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    return {
        "processor": f"{cpu}, {os.cpu_count()} cores",
        "memory": memory,
        "system": f"{platform.system()} {platform.release()}",
        "versions": f"Python {platform.python_version()}, {versions}",
    }


def _spread(values: Sequence[float]) -> str:
    return f"{median(values):.1f} ({min(values):.1f} - {max(values):.1f})"


def ratios(results: Results, column: str, others: Sequence[str]) -> list[float]:
    """Fibflow's seconds over those of the faster of ``others``, by round; empty when either is missing."""
    ours = {m.round: m.wall for m in results.of(column, "fibflow")}
    theirs: dict[int, float] = {}
    for other in others:
        for m in results.of(column, other):
            theirs[m.round] = min(m.wall, theirs.get(m.round, m.wall))
    return [ours[round_] / theirs[round_] for round_ in sorted(ours.keys() & theirs.keys())]


def table(results: Results) -> str:
    """Median (least - most) of every cell as a Markdown table."""
    lines = [
        "| column | contestant | seconds | CPU seconds | peak, GB | files a timeframe |",
        "|---|---|---|---|---|---|",
    ]
    for column in results.columns():
        for contestant in CONTESTANTS:
            runs = results.of(column, contestant)
            if runs:
                wall, cpu = _spread([m.wall for m in runs]), _spread([m.cpu for m in runs])
                peak, files = median(m.peak for m in runs) / 1e9, max(m.files for m in runs) / 6
                lines.append(f"| {column} | {contestant} | {wall} | {cpu} | {peak:.2f} | {files:.0f} |")
    return "\n".join(lines)


def verdicts(results: Results) -> str:
    """The ratios that the project holds itself to, as a Markdown table; empty without fibflow's runs."""
    lines = [
        "| column | fibflow / faster of DuckDB and Polars | fibflow / floor | reached |",
        "|---|---|---|---|",
    ]
    for column in results.columns():
        rival, floor = ratios(results, column, RIVALS), ratios(results, column, ("floor",))
        if not rival and not floor:
            continue
        reached = (bool(rival) and median(rival) <= MOST_OF_RIVAL) or (
            bool(floor) and median(floor) <= MOST_OF_FLOOR
        )
        cells = [f"{median(r):.2f} ({min(r):.2f} - {max(r):.2f})" if r else "-" for r in (rival, floor)]
        lines.append(f"| {column} | {cells[0]} | {cells[1]} | {'yes' if reached else 'no'} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def page(results: Results, more: Sequence[str] = ()) -> str:
    """The page for ``docs/``; ``more`` are finished sections to put at the end."""
    parameters = results.parameters
    rows = int(str(parameters["rows"]))
    few = (
        "two from DuckDB, one from Polars"
        if results.threads == 2
        else "one a thread from DuckDB, one from Polars"
    )
    parts = [
        HEAD.format(**parameters, corrected=rows // 100, threads=results.threads, few=few),
        "## The machine\n\n" + "\n".join(f"- {name}: {value}" for name, value in machine().items()),
        "## Times\n\nMedian (least - most) of the rounds.\n\n" + table(results),
    ]
    if verdict := verdicts(results):
        parts.append(
            "## Ratios\n\nSeconds of one over seconds of the other in the same round: median (least - most). "
            f"Aimed at: at most {MOST_OF_RIVAL} of the faster of DuckDB and Polars, "
            f"or at most {MOST_OF_FLOOR} of the floor.\n\n" + verdict
        )
    loads = "\n".join(
        f"| {column} | {round_} | {one:.2f} {five:.2f} {fifteen:.2f} |"
        for column, round_, (one, five, fifteen) in results.loads
    )
    parts.append(
        "## Load\n\nLoad averages (1, 5, 15 minutes) before each round; earlier rounds are part of them.\n\n"
        "| column | round | load |\n|---|---|---|\n" + loads
    )
    if results.checks:
        lines = ["| column | scale | bars | differing rows |", "|---|---|---|---|"]
        for check in results.checks:
            lines.append(
                f"| {check['column']} | {check['scale']} | {check['bars']:,} | {check['differing']:,} |"
            )
        parts.append(
            "## Are they right\n\nFibflow's bars against an independent DuckDB query "
            "(`benchmarks/verify.py`): every column, as multisets, both ways.\n\n" + "\n".join(lines)
        )
    return "\n\n".join(part.rstrip() for part in (*parts, *more)) + "\n"
