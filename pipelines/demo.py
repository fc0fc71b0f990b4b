"""The whole job on real daily history, in one folder, then live, then its page: ``make demo``.

The package ``bokeh-sampledata`` holds daily prices of AAPL, IBM and MSFT from March 2000, of GOOG and FB from
their first day, to March 2013. They are landed, made into bars, printed and drawn. No account.

Where Java 17 is, the last session then goes through a live job: ``pipelines.livedemo``. Its bars stay in the
lake. With ``--serve`` the lake is then served, with its page, until Ctrl-C.

    python -m pipelines.demo
    python -m pipelines.demo --lake some-folder
    python -m pipelines.demo --batch-only
    python -m pipelines.demo --serve
"""

from __future__ import annotations

import csv
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fibflow.pipelines import cli
from fibflow.runners.services.process import free_ports, is_taken

#: What was traded, under its name of 2013, and where.
NAMES = {
    "AAPL": ("Apple Inc.", "XNAS"),
    "FB": ("Facebook, Inc.", "XNAS"),
    "GOOG": ("Google Inc.", "XNAS"),
    "IBM": ("International Business Machines", "XNYS"),
    "MSFT": ("Microsoft Corporation", "XNAS"),
}
SYMBOLS = tuple(NAMES)
#: Two shares for one, each.
SPLITS = (("AAPL", "2000-06-21"), ("AAPL", "2005-02-28"), ("MSFT", "2003-02-18"))
#: Prices and volumes are those of the day: they halve and double with splits. AAPL's volume of 2000-09-29,
#: 132,529,300, is the one that was reported that evening.
PRICE_BASIS = "raw"
SHOWN = "AAPL"
#: Where the lake is served, if nobody listens there.
PORT = 8000

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
    made.add_argument(
        "--serve",
        action="store_true",
        help="end with the server on, until Ctrl-C; without a terminal only say how to start it",
    )
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
    names, splits = write_reference(folder)
    print(f"Real daily history of {', '.join(SYMBOLS)}: {rows:,} rows in {history}\n", flush=True)

    # Beam takes a second to import: not before the command line is known to be right.
    from fibflow.pipelines import batch, inspect, livedemo, load, reference

    lake, picture = str(folder), str(folder / f"{SHOWN}-5d.png")
    look = ["--lake", lake]
    steps = (
        (load.run, ["--input", str(history), "--lake", lake, "--price-basis", PRICE_BASIS]),
        (reference.run, [*look, "--symbols", str(names), "--splits", str(splits)]),
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
    return serve(folder) if args.serve else cli.OK


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


def write_reference(folder: Path) -> tuple[Path, Path]:
    """Write names and splits as files, and return their paths."""
    names, splits = folder / "symbols.csv", folder / "splits.csv"
    with names.open("w", newline="") as sink:
        writer = csv.writer(sink, lineterminator="\n")
        writer.writerow(("symbol", "name", "exchange", "currency"))
        writer.writerows((symbol, *told, "usd") for symbol, told in NAMES.items())
    with splits.open("w", newline="") as sink:
        writer = csv.writer(sink, lineterminator="\n")
        writer.writerow(("symbol", "execution_date", "split_from", "split_to"))
        writer.writerows((*split, 1, 2) for split in SPLITS)
    return names, splits


def serve(lake: Path) -> int:
    """Serve a lake and its page on this machine until Ctrl-C, and return the exit code.

    Without a terminal nobody could press it: then a line says how the server is started.
    """
    print(flush=True)
    if not sys.stdout.isatty():
        print(f"No terminal, so no server is left running. Start it with: make serve LAKE={lake}")
        return cli.OK
    port = free_ports(["server"])["server"] if is_taken(PORT) else PORT
    # The server says its address when it answers.
    print("Starting the server: open its address in a browser, Ctrl-C ends it.", flush=True)
    # A process of its own: pipelines do not import the server, and the server has no Beam.
    line = ["-P", "-m", "fibflow.serving", "--lake", str(lake), "--open", "--quiet", "--port", str(port)]
    # Ctrl-C goes to the server too, which ends what it is at and then itself.
    with subprocess.Popen([sys.executable, *line]) as server, _ignored(signal.SIGINT):
        code = server.wait()
    return cli.OK if code in (0, -signal.SIGINT, 128 + signal.SIGINT) else cli.FAILED


@contextmanager
def _ignored(number: signal.Signals) -> Iterator[None]:
    before = signal.signal(number, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(number, before)


def _next(folder: Path) -> str:
    look = f"python -m pipelines.inspect --lake {folder}"
    return f"""Next, with the environment's python (.venv/bin/python):
  {look} bars MSFT --timeframe 34d
  {look} chart GOOG --timeframe 8d --output {folder}/GOOG-8d.html
  {look} tables
  python -m pipelines.batch --lake {folder} --timeframes fibonacci     # nothing is new: it says so
  python -m pipelines.batch --lake {folder} --timeframes 2d,10d        # other windows of the same history
  make serve LAKE={folder}                                             # its page, and the API
What a bar is: docs/data-model.md. Your own data: README.md."""


if __name__ == "__main__":
    cli.run_main(run, sys.argv[1:])
