"""The whole job on real daily history, in one folder, then live: ``make demo``.

The package ``bokeh-sampledata`` holds daily prices of AAPL, IBM and MSFT from March 2000, of GOOG and FB from
their first day, to March 2013. They are landed, made into bars, printed and drawn. No server, no account.

Where Java 17 is, the last session then goes through a live job: ``pipelines.livedemo``.

    python -m pipelines.demo
    python -m pipelines.demo --lake some-folder
    python -m pipelines.demo --batch-only
"""

from __future__ import annotations

import csv
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fibflow.pipelines import cli

SYMBOLS = ("AAPL", "FB", "GOOG", "IBM", "MSFT")
#: Prices and volumes are those of the day. AAPL halves with its splits on 2000-06-21 and 2005-02-28, MSFT on
#: 2003-02-18; and AAPL's volume of 2000-09-29, 132,529,300, is the one that was reported that evening.
PRICE_BASIS = "raw"
SHOWN = "AAPL"

_COLUMNS = ("date", "open", "high", "low", "close", "volume")
_MARKER = ".made-by-fibflow-demo"


def parser() -> cli.Parser:
    """Return the parser of the command line."""
    made = cli.Parser(
        prog="pipelines.demo", description="Run the whole job on real daily history, then live."
    )
    made.add_argument(
        "--lake", type=Path, default=Path("demo-lake"), metavar="FOLDER", help="default: demo-lake"
    )
    made.add_argument("--batch-only", action="store_true", help="leave the live part out")
    return made


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Raises:
        UsageError: the folder is there and the demo did not make it, or bokeh-sampledata is missing.
        InputError, LakeError: the job failed.
    """
    args = parser().parse_args(argv)
    folder: Path = args.lake
    stocks = _stocks()
    fresh_folder(folder)
    history = folder / "history"
    rows = write_history(stocks, history)
    print(f"Real daily history of {', '.join(SYMBOLS)}: {rows:,} rows in {history}\n", flush=True)

    # Beam takes a second to import: not before the command line is known to be right.
    from fibflow.pipelines import batch, inspect, livedemo, load

    lake, picture = str(folder), str(folder / f"{SHOWN}-5d.png")
    look = ["--lake", lake]
    steps = (
        (load.run, ["--input", str(history), "--lake", lake, "--price-basis", PRICE_BASIS]),
        (batch.run, ["--lake", lake, "--timeframes", "fibonacci"]),
        (inspect.run, [*look, "dead-letters"]),
        (inspect.run, [*look, "bars", SHOWN, "--timeframe", "5d", "--last", "8"]),
        (inspect.run, [*look, "chart", SHOWN, "--timeframe", "5d", "--output", picture]),
        *([] if args.batch_only else [(livedemo.run, look)]),
    )
    for step, arguments in steps:
        code = step(arguments)
        if code:
            return code
        print(flush=True)
    print(_next(folder))
    return cli.OK


def _stocks() -> Mapping[str, Mapping[str, Sequence[Any]]]:
    """The history by symbol, as columns."""
    try:
        from bokeh_sampledata import stocks
    except ImportError:
        raise cli.UsageError(
            "the package bokeh-sampledata is missing: make setup installs it, and so does the extra demo"
        ) from None
    return {symbol: getattr(stocks, symbol) for symbol in SYMBOLS}


def fresh_folder(folder: Path) -> None:
    """Make an empty folder; one that an earlier demo made is removed first.

    Raises:
        UsageError: there is something that the demo did not make.
    """
    if folder.is_symlink() or (folder.exists() and not (folder / _MARKER).is_file()):
        if folder.is_symlink() or not folder.is_dir() or any(folder.iterdir()):
            raise cli.UsageError(f"{folder} was not made by the demo and stays as it is: name another --lake")
    elif folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MARKER).touch()


def write_history(stocks: Mapping[str, Mapping[str, Sequence[Any]]], folder: Path) -> int:
    """Write the history as raw files, ``symbol=AAPL/data.csv``, and return the number of rows.

    The column of adjusted closes is left out: it belongs to another price basis than the other prices.
    """
    total = 0
    for symbol, columns in stocks.items():
        path = folder / f"symbol={symbol}" / "data.csv"
        path.parent.mkdir(parents=True)
        rows = list(zip(*(columns[name] for name in _COLUMNS), strict=True))
        with path.open("w", newline="") as sink:
            writer = csv.writer(sink, lineterminator="\n")
            writer.writerow(_COLUMNS)
            writer.writerows(rows)
        total += len(rows)
    return total


def _next(folder: Path) -> str:
    look = f"python -m pipelines.inspect --lake {folder}"
    return f"""Next, with the environment's python (.venv/bin/python):
  {look} bars MSFT --timeframe 34d
  {look} chart GOOG --timeframe 8d --output {folder}/GOOG-8d.html
  {look} tables
  python -m pipelines.batch --lake {folder} --timeframes fibonacci     # nothing is new: it says so
  python -m pipelines.batch --lake {folder} --timeframes 2d,10d        # other windows of the same history
What a bar is: docs/data-model.md. Your own data: README.md."""


if __name__ == "__main__":
    cli.run_main(run, sys.argv[1:])
