"""From nothing to years of history, killed on the way: ``python -m benchmarks.backfill``.

The vendor's stand-in runs in a process of its own and fails a part of all calls: too many calls, errors, cut
connections, answers that are no JSON. The backfill is killed (SIGKILL) at random times and started again. At
the end the lake has to hold what the stand-in has, to the bit, and the calls may be at most 1.1 times the
sessions: one call each is the least there can be. A last run, with nothing to do, may make none.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from fibflow.io import tables
from fibflow.io.lake import Lake
from fibflow.pipelines import cli
from fibflow.serving.standin.handle import Vendor, started
from fibflow.serving.standin.make import Wanted
from fibflow.transforms.calendar import load_calendar

KEY = "benchmark-key"
FAULTS = "429:0.015:seconds=1,500:0.015,cut:0.01,nonsense:0.01"
MOST = 1.1


def main() -> None:
    """Run it and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--symbols", type=int, default=500)
    parser.add_argument("--first", type=date.fromisoformat, default=date(2024, 1, 2))
    parser.add_argument("--last", type=date.fromisoformat, default=date(2025, 12, 31))
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--faults", default=FAULTS)
    parser.add_argument("--rate", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fibflow-backfill-"))
    wanted = Wanted(
        symbols=args.symbols,
        first=args.first,
        last=args.last,
        minutes=0,
        seed=args.seed,
        faults=args.faults,
        key=KEY,
    )
    try:
        with started(wanted) as vendor:
            good = measure(args, vendor, folder)
    finally:
        shutil.rmtree(folder)
    sys.exit(0 if good else 1)


def measure(args: argparse.Namespace, vendor: Vendor, folder: Path) -> bool:
    """Fetch, kill, fetch; print the table and return whether all held."""
    least = sessions_between(args.first, args.last)
    dice = random.Random(args.seed)
    began = time.monotonic()
    # Anywhere: while sessions come, and, for the last part of the range, while they land.
    marks = sorted(dice.uniform(0.02, 1.05) * least for _ in range(args.kills))
    killed = [kill_at(args, vendor, folder, mark) for mark in marks]
    if (code := start(args, vendor, folder).wait()) != 0:
        raise SystemExit(f"the last run failed with {code}")
    seconds = time.monotonic() - began
    calls, answers = vendor.names.total(), vendor.answers
    same = mirrors(vendor, folder)
    vendor.forget()
    start(args, vendor, folder).wait()
    after = vendor.names.total()
    secrets = [path for path in folder.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    rows = [
        ("symbols", f"{args.symbols:,}"),
        ("sessions: the least calls", f"{least:,}"),
        ("rows", f"{vendor.days().num_rows:,}"),
        ("killed with so many sessions there", ", ".join(map(str, killed))),
        ("calls", f"{calls:,}"),
        ("of the least", f"{calls / least:.3f}"),
        *((f"  answered {kind}", f"{count:,}") for kind, count in sorted(answers.items())),
        ("seconds, all runs", f"{seconds:.0f}"),
        ("the lake has what the vendor has", "yes" if same else "NO"),
        ("calls of a run with nothing to do", f"{after:,}"),
        ("files that hold the key", f"{len(secrets):,}"),
    ]
    cli.print_table("backfill, killed", rows)
    return same and calls <= MOST * least and after == 0 and not secrets


def sessions_between(first: date, last: date) -> int:
    """Return how many sessions there are."""
    days = load_calendar().days.astype("datetime64[D]")
    return int(((days >= np.datetime64(first)) & (days <= np.datetime64(last))).sum())


def start(args: argparse.Namespace, vendor: Vendor, folder: Path) -> subprocess.Popen[bytes]:
    """Start a backfill as a user would."""
    options = ["--lake", str(folder / "lake"), "--raw", str(folder / "raw"), "--vendor-url", vendor.url]
    options += ["--from", str(args.first), "--to", str(args.last), "--rate", str(args.rate)]
    with (folder / "output.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "fibflow.pipelines.backfill", *options],
            stdout=log,
            stderr=log,
            env={**os.environ, "MASSIVE_API_KEY": KEY},
        )


def kill_at(args: argparse.Namespace, vendor: Vendor, folder: Path, mark: float) -> int:
    """Start a backfill, kill it once so many sessions are there, and return how many were."""
    process = start(args, vendor, folder)
    while fetched(folder) < mark and process.poll() is None:
        time.sleep(0.01)
        if fetched(folder) >= sessions_between(args.first, args.last):
            # It lands: somewhere within the seconds that this takes.
            time.sleep(random.Random(mark).uniform(0.0, 3.0))
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    return fetched(folder)


def fetched(folder: Path) -> int:
    """Return how many sessions are there."""
    place = folder / "raw" / "daily"
    return sum(name.startswith("date=") for name in os.listdir(place)) if place.is_dir() else 0  # noqa: PTH208


def mirrors(vendor: Vendor, folder: Path) -> bool:
    """Whether the lake holds what the vendor has."""
    rows, _ = Lake(str(folder / "lake")).table(tables.DAILY).snapshot().read()
    days = vendor.days()
    order: Any = [(name, "ascending") for name in tables.DAILY.sort_by]
    return bool(
        rows.select(days.column_names).sort_by(order).equals(days.cast(rows.select(days.column_names).schema))
    )


if __name__ == "__main__":
    main()
