"""``make faults``: break a live job in every way that is known, and see what is left.

    python -m benchmarks.faults.run                        # the matrix, then docs/reliability.md
    python -m benchmarks.faults.run --only redis rewind    # some rows; the page stays as it is

Starts a stack of its own below one folder, ``.cache/faults`` by default, and stops it at the end. What a row
that failed left stays there, with the logs of the servers. Exit code 1: a row failed.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fibflow.benchmarks.faults import report
from fibflow.benchmarks.faults.report import Row
from fibflow.benchmarks.faults.rig import SYMBOLS, FaultRun, Rig, compare
from fibflow.benchmarks.faults.scenarios import MATRIX, Scenario
from fibflow.benchmarks.faults.watcher import Watcher

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reliability.md"
#: The last entries of `push` come within moments; closed bars of an emptied store within seconds.
_AGREE_WITHIN_S = 60.0
_MOST_TEXT = 300


def play(run: FaultRun, scenario: Scenario, watcher: Watcher) -> None:
    """Play the tape with the fault in its middle, to the end of the last window."""
    begun, late_to_it, then, *rest = run.market.segments()
    run.play(begun)
    run.play(late_to_it)
    with run.slowly(then) as feed:
        run.follows()
        scenario.act(run)
        if not feed.runs:
            run.problems.append("all ticks were played before the job was back")
        feed.finish()
    run.catch_up(then)
    for segment in rest:
        run.play_on(segment)
    run.wait_for_end()
    if scenario.check is not None:
        scenario.check(run)
    run.problems += watcher.agree(_AGREE_WITHIN_S)


def perform(rig: Rig, scenario: Scenario) -> Row:
    """Run a row and say what came of it, whatever that is."""
    run: FaultRun | None = None
    watcher: Watcher | None = None
    verdict: dict[str, int] = {}
    broke = []
    try:
        with rig.run(scenario.name, scenario.options, scenario.s3, scenario.proxied) as run:
            run.start()
            watcher = run.watched()
            with watcher:
                play(run, scenario, watcher)
            found = compare(run)
        truth = run.market.tape.truth
        verdict = {name: getattr(found, name) for name in report.FIELDS}
        broke += report.counts(found, truth.readable, truth.broken)
    except Exception as error:  # a row that breaks is a row that failed; the others go on
        traceback.print_exc()
        lines = str(error).strip().splitlines() or [type(error).__name__]
        broke.append(lines[0].replace(str(rig.folder), "DATA")[:_MOST_TEXT])
    if run is not None:
        broke += run.problems
    if watcher is not None:
        broke += watcher.problems(scenario.goes_back)
    return Row(scenario.name, tuple(run.recoveries) if run else (), verdict, tuple(broke))


def matrix(scenarios: Sequence[Scenario], folder: Path, symbols: int) -> Iterator[Row]:
    """Run rows, one after another on one stack, and yield what came of each."""
    with Rig(folder, symbols) as rig:
        for scenario in scenarios:
            began = time.monotonic()
            print(f"{scenario.title} ...", flush=True)
            row = perform(rig, scenario)
            told = f"{'passed' if row.passed else 'FAILED'} in {time.monotonic() - began:.0f} s"
            print(f"  {told}, new rows after", *(f"{each:.1f} s" for each in row.recoveries), flush=True)
            print(*(f"  {line}\n" for line in row.why()), sep="", end="", flush=True)
            if row.passed:
                shutil.rmtree(folder / scenario.name)
            else:
                logs = rig.stack.folder / "logs"
                shutil.copytree(logs, folder / scenario.name / "logs", dirs_exist_ok=True)
                rig.anew()
            yield row


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder; end where another run does."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(f"faults: another run has {folder}: wait for it, or name another with --data")
        yield


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.faults.run", description="Break a live job.")
    names = [scenario.name for scenario in MATRIX]
    parser.add_argument(
        "--only", nargs="+", choices=names, metavar="NAME", help=f"some of {', '.join(names)}"
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=ROOT / ".cache" / "faults",
        help="folder of all files, emptied first (default %(default)s)",
    )
    parser.add_argument("--symbols", type=int, default=SYMBOLS, help="of the market (default %(default)s)")
    parser.add_argument(
        "--report", type=Path, help="page to write (default docs/reliability.md, for the whole matrix only)"
    )
    parser.add_argument("--date", help="of the run, to be named on the page")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: 0 when every row passed."""
    args = parse(argv)
    scenarios = [each for each in MATRIX if args.only is None or each.name in args.only]
    load = os.getloadavg()[0]
    folder = args.data.resolve()
    with alone(folder):
        rows = list(matrix(scenarios, folder, args.symbols))
    target = args.report or (PAGE if args.only is None and args.symbols == SYMBOLS else None)
    if target:
        target.write_text(report.page(rows, MATRIX, args.symbols, args.date, load))
    print("\n" + report.table(rows, MATRIX))
    return 0 if all(row.passed for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
