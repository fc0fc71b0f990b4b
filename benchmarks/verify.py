"""Are the bars of a lake what an independent DuckDB query over the raw files says?

The query shares nothing with fibflow: duplicates, windows and folds are SQL, the calendar comes from
``benchmarks.windows``. Bars are compared as multisets, every column, both ways.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import unquote

import duckdb

from fibflow.benchmarks.windows import LENGTHS

ANCHORS = ("exchange", "rows", "listing")

# Of one (symbol, session), the row of the file modified last wins; then the greater path, then the later row.
ROWS = """
CREATE TEMP TABLE r AS
WITH dated AS (
    SELECT p.symbol, p.timestamp::DATE AS d, p.open, p.high, p.low, p.close, p.volume,
        f.modified, f.path, p.file_row_number AS place
    FROM read_parquet($paths, filename = true, file_row_number = true, hive_partitioning = false) p
        JOIN files f ON f.path = p.filename
)
SELECT dated.symbol, w."index" AS i, w.start, w."end",
    dated.open, dated.high, dated.low, dated.close, dated.volume
FROM dated JOIN w ON w.session = dated.d
QUALIFY row_number() OVER
    (PARTITION BY dated.symbol, dated.d ORDER BY modified DESC, path DESC, place DESC) = 1
"""

FOLD = """
    first(open ORDER BY i) AS open, max(high) AS high, min(low) AS low, last(close ORDER BY i) AS close,
    sum(volume)::DOUBLE AS volume, count(*) AS sessions
"""

BARS = {
    "exchange": """
        SELECT r.symbol, x.start{n} AS ts, x.end{n} AS "end", {fold}, x.complete{n} AS complete
        FROM r JOIN w x ON x."index" = r.i GROUP BY ALL
    """,
    "rows": """
        SELECT symbol, min(start) AS ts, max("end") AS "end", {fold}, count(*) = {n} AS complete
        FROM (SELECT *, row_number() OVER (PARTITION BY symbol ORDER BY i) - 1 AS place FROM r)
        GROUP BY symbol, place // {n}
    """,
    "listing": """
        SELECT b.* EXCLUDE (opening), a.start AS ts, z."end", z.ended AS complete
        FROM (
            SELECT symbol, listed + (i - listed) // {n} * {n} AS opening, {fold}
            FROM (SELECT *, min(i) OVER (PARTITION BY symbol) AS listed FROM r)
            GROUP BY symbol, opening
        ) b JOIN w a ON a."index" = opening JOIN w z ON z."index" = opening + {n} - 1
    """,
}

COLUMNS = """
    symbol::VARCHAR AS symbol, ts::TIMESTAMPTZ AS ts, "end"::TIMESTAMPTZ AS "end", open::DOUBLE AS open,
    high::DOUBLE AS high, low::DOUBLE AS low, close::DOUBLE AS close, volume::DOUBLE AS volume,
    vwap::DOUBLE AS vwap,
    trade_count::BIGINT AS trade_count, sessions::INTEGER AS sessions, complete::BOOLEAN AS complete,
    final::BOOLEAN AS final, revision::INTEGER AS revision
"""

EXPECTED = """
CREATE OR REPLACE TEMP TABLE expected AS
SELECT {columns} FROM (
    SELECT *, NULL AS vwap, NULL AS trade_count, complete AS final, 0 AS revision FROM ({bars})
)
"""


@dataclass(frozen=True)
class Comparison:
    """Bars of one timeframe; ``missing`` and ``unexpected`` count the rows of one side only: 0 when equal."""

    timeframe: str
    expected: int
    found: int
    missing: int
    unexpected: int

    @property
    def equal(self) -> bool:
        return self.missing == self.unexpected == 0


def bar_files(bars: Path) -> list[str]:
    """The Parquet files of a lake's ``silver.bars``, or of a folder of a contestant's bars."""
    table = bars / "silver.bars"
    if not table.exists():
        return sorted(str(path) for path in bars.rglob("*.parquet"))
    from deltalake import DeltaTable

    return [unquote(uri.removeprefix("file://")) for uri in DeltaTable(str(table)).file_uris()]


def of_timeframe(files: Sequence[str], n: int) -> list[str]:
    """Those of ``files`` that lie in the folder of ``<n>d``."""
    return [file for file in files if {f"timeframe={n}d", f"{n}d"} & set(Path(file).parts)]


def verify(
    layout: Path, anchor: str, windows: Path, bars: Path, lengths: Sequence[int] = LENGTHS, threads: int = 2
) -> list[Comparison]:
    """Compare the bars made with ``anchor`` from the raw ``layout``, timeframe by timeframe.

    Raises ValueError when the layout or a timeframe has no files.
    """
    paths = sorted(layout.rglob("*.parquet"))
    files = bar_files(bars)
    if not paths:
        raise ValueError(f"no Parquet file below {layout}")
    results = []
    with duckdb.connect() as connection, tempfile.TemporaryDirectory() as spill:
        connection.execute(f"SET threads = {threads}; SET TimeZone = 'UTC'; SET temp_directory = '{spill}'")
        connection.execute("SET preserve_insertion_order = false")
        connection.execute("CREATE TEMP TABLE w AS FROM read_parquet($path)", {"path": str(windows)})
        connection.execute(
            "CREATE TEMP TABLE files AS SELECT unnest($paths) AS path, unnest($modified) AS modified",
            {"paths": [str(path) for path in paths], "modified": [path.stat().st_mtime_ns for path in paths]},
        )
        connection.execute(ROWS, {"paths": [str(path) for path in paths]})
        for n in lengths:
            chosen = of_timeframe(files, n)
            if not chosen:
                raise ValueError(f"no bars of {n}d below {bars}")
            connection.execute(EXPECTED.format(columns=COLUMNS, bars=BARS[anchor].format(n=n, fold=FOLD)))
            connection.execute(
                f"CREATE OR REPLACE TEMP TABLE found AS SELECT {COLUMNS} "
                "FROM read_parquet($files, hive_partitioning = false)",
                {"files": chosen},
            )
            counts = connection.execute(
                """
                SELECT (SELECT count(*) FROM expected), (SELECT count(*) FROM found),
                    (SELECT count(*) FROM (FROM expected EXCEPT ALL FROM found)),
                    (SELECT count(*) FROM (FROM found EXCEPT ALL FROM expected))
                """
            ).fetchall()
            results.append(Comparison(f"{n}d", *counts[0]))
    return results


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: 0 when all timeframes are equal, 1 when one is not, 2 with nothing to compare."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.verify", description="Compare bars with a DuckDB query."
    )
    parser.add_argument("layout", type=Path, help="the raw folder that the bars were made from")
    parser.add_argument("anchor", choices=ANCHORS)
    parser.add_argument("bars", type=Path, help="a lake, or a folder of a contestant's bars")
    parser.add_argument("--windows", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print one JSON list")
    args = parser.parse_args(argv)
    try:
        results = verify(args.layout, args.anchor, args.windows, args.bars, threads=args.threads)
    except ValueError as error:
        print(f"verify: {error}", file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps([asdict(result) for result in results]))
    else:
        for result in results:
            verdict = (
                "equal" if result.equal else f"{result.missing:,} missing, {result.unexpected:,} unexpected"
            )
            print(
                f"{result.timeframe:>4} {result.expected:>12,} expected {result.found:>12,} found: {verdict}"
            )
    return 0 if all(result.equal for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
