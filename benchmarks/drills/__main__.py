"""``make drills``: upgrade, refusal and restore on the local stack, as ``docs/operations.md`` has them.

    python -m benchmarks.drills                    # all, then docs/drills.md
    python -m benchmarks.drills --only restore     # some; the page stays as it is

Starts a stack of its own below one folder, ``.cache/drills`` by default, and stops it at the end; logs stay
there. Exit code 1: a drill failed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from fibflow.benchmarks.drills import report
from fibflow.benchmarks.drills.drills import DRILLS
from fibflow.benchmarks.drills.notes import Notes
from fibflow.benchmarks.drills.trees import ROOT
from fibflow.benchmarks.faults.rig import Rig
from fibflow.benchmarks.faults.run import alone

PAGE = ROOT / "docs" / "drills.md"
SYMBOLS = 20
_MOST_TEXT = 300


def perform(rig: Rig, name: str) -> Notes:
    """Run a drill, and return what came of it, whatever that is."""
    notes = Notes(name)
    try:
        DRILLS[name](rig, notes)
    except Exception as error:  # a drill that breaks is one that failed; the others go on
        traceback.print_exc()
        lines = str(error).strip().splitlines() or [type(error).__name__]
        notes.problems.append(lines[0].replace(str(rig.folder), "DATA")[:_MOST_TEXT])
    return notes


def drills(names: Sequence[str], folder: Path, symbols: int) -> Iterator[Notes]:
    """Run drills one after another on one stack, and yield what came of each."""
    with Rig(folder, symbols) as rig:
        for name in names:
            began = time.monotonic()
            print(f"{name} ...", flush=True)
            notes = perform(rig, name)
            result = "passed" if notes.passed else "FAILED"
            print(f"  {result} in {time.monotonic() - began:.0f} s", flush=True)
            for what, took in notes.steps:
                print(f"  {took:6.1f} s  {what}", flush=True)
            print(*(f"  {line}\n" for line in (*notes.lines, *notes.problems)), sep="", end="", flush=True)
            if notes.passed:
                shutil.rmtree(folder / name)
            elif name != names[-1]:
                rig.anew()
            yield notes


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.drills", description="Upgrade, refuse, restore.")
    parser.add_argument(
        "--only", nargs="+", choices=list(DRILLS), metavar="NAME", help=f"some of {', '.join(DRILLS)}"
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=ROOT / ".cache" / "drills",
        help="folder of all files, emptied first (default %(default)s)",
    )
    parser.add_argument("--symbols", type=int, default=SYMBOLS, help="of the market (default %(default)s)")
    parser.add_argument("--report", type=Path, help="page to write (default docs/drills.md, for all only)")
    parser.add_argument("--date", help="of the run, to be named on the page")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: 0 when every drill passed."""
    args = parse(argv)
    names = [name for name in DRILLS if args.only is None or name in args.only]
    load, folder = os.getloadavg()[0], args.data.resolve()
    with alone(folder):
        found = list(drills(names, folder, args.symbols))
    target = args.report or (PAGE if args.only is None and args.symbols == SYMBOLS else None)
    if target:
        target.write_text(report.page(found, args.symbols, args.date, load))
    print("\n" + report.table(found))
    return 0 if all(each.passed for each in found) else 1


if __name__ == "__main__":
    sys.exit(main())
