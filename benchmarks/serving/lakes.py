"""The lake that is served, made once, and the catalogue of what right answers hold.

The lake is ``benchmarks.history`` through ``pipelines.load`` and ``pipelines.batch``: daily rows in bronze,
the six Fibonacci timeframes in silver. The catalogue is a query of DuckDB's over the lake's files that shares
nothing with the server.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from fibflow.benchmarks.history import Parameters
from fibflow.benchmarks.serving.errors import BenchmarkError

ROOT = Path(__file__).resolve().parents[2]
STORED = ("3d", "5d", "8d", "13d", "21d", "34d")
#: Not stored: the server makes them of daily rows.
DAILY = "1d"
#: How many bars a question for history asks for.
BARS = 500
FORMAT = 1  # raise when the same history would give another catalogue

_CATALOGUE = """
COPY (
    SELECT symbol, timeframe, count(*) AS rows, least(count(*), {bars}) AS last_rows,
        max(ts) AS last_ts, sum(close) AS total, sum(close) FILTER (place <= {bars}) AS last_total
    FROM (
        SELECT *, row_number() OVER (PARTITION BY timeframe, symbol ORDER BY ts DESC) AS place
        FROM (
            SELECT symbol, timeframe, epoch_ms(ts) AS ts, close
            FROM read_parquet({silver}, hive_partitioning = true)
            UNION ALL
            SELECT symbol, '{daily}', epoch_ms(session::TIMESTAMP), close
            FROM read_parquet({bronze}, hive_partitioning = false)
        )
    )
    GROUP BY symbol, timeframe ORDER BY timeframe, symbol
) TO '{target}' (FORMAT parquet)
"""


@dataclass(frozen=True)
class ServedLake:
    """A lake and its catalogue.

    Attributes:
        folder: of the lake.
        catalogue: a Parquet file, a row a (symbol, timeframe): ``rows`` in all and ``total``, the sum of
            their closes; ``last_rows`` and ``last_total`` of the last 500; ``last_ts``, UTC milliseconds, of
            the last bar, of ``1d`` the midnight of its date.
        rows: daily rows in the history.
        symbols: how many.
        bytes: of the lake's Parquet files.
    """

    folder: Path
    catalogue: Path
    rows: int
    symbols: int
    bytes: int


def lake_of(data: Path, scale: float, seed: int) -> ServedLake:
    """Return the lake at a scale of the full size, made where it is not there.

    Args:
        data: the folder of all files; the history in it is the one of ``make bench``.
        scale: 1 for 22.6 million daily rows of 5,350 symbols.
        seed: of the history.

    Raises:
        BenchmarkError: it cannot be made.
    """
    history = data / f"scale-{scale:g}"
    python("-m", "fibflow.benchmarks.history", str(history), "--scale", str(scale), "--seed", str(seed))
    parameters = Parameters.at_scale(scale, seed)
    folder = history / "serving"
    lake, catalogue, marker = folder / "lake", folder / "catalogue.parquet", folder / "made.json"
    made_of = json.dumps({"history": json.loads((history / "history.json").read_text()), "format": FORMAT})
    if not marker.exists() or marker.read_text() != made_of:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        at = ("--lake", str(lake))
        python(
            "-m", "fibflow.pipelines.load", "--input", str(history / "by_year"), "--price-basis", "raw", *at
        )
        python("-m", "fibflow.pipelines.batch", "--timeframes", "fibonacci", *at)
        write_catalogue(lake, catalogue)
        marker.write_text(made_of)
    size = sum(path.stat().st_size for path in lake.rglob("*.parquet"))
    return ServedLake(lake, catalogue, parameters.rows, parameters.symbols, size)


def write_catalogue(lake: Path, target: Path) -> None:
    """Write what right answers from a lake hold."""
    import duckdb

    with duckdb.connect() as connection:
        connection.execute("SET threads = 2; SET TimeZone = 'UTC'; SET preserve_insertion_order = false")
        connection.execute(f"SET temp_directory = '{target.parent / 'spill'}'")
        connection.execute(
            _CATALOGUE.format(
                bars=BARS,
                daily=DAILY,
                silver=_files(lake / "silver.bars"),
                bronze=_files(lake / "bronze.daily"),
                target=target,
            )
        )


def _files(table: Path) -> list[str]:
    """The files of a Delta table's newest version."""
    from deltalake import DeltaTable

    return [unquote(uri.removeprefix("file://")) for uri in DeltaTable(str(table)).file_uris()]


def python(*arguments: str) -> str:
    """Run Python from the root; its standard output.

    Raises:
        BenchmarkError: it failed.
    """
    done = subprocess.run([sys.executable, "-P", *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise BenchmarkError(f"{arguments[1]} failed: {last}")
    return done.stdout
