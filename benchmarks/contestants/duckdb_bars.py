"""Fibonacci bars by DuckDB.

The shape that was fastest of those tried: symbol and session become one 64-bit key while the files are read,
so that the corrections are anti-joined on one integer; the bars are grouped by another, of 32 bits; names and
the windows' instants are joined to the bars, not to the rows. One pass over the in-memory rows a timeframe,
one file a thread.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import duckdb

LENGTHS = (3, 5, 8, 13, 21, 34)
# lcm(3, 5, 8, 13, 21, 34): added to a session's index it keeps every window and makes the index positive.
SHIFT = 185_640

SETUP = """
SET threads = {threads};
SET preserve_insertion_order = false;
SET TimeZone = 'UTC';
CREATE TEMP TABLE w AS
    SELECT session - DATE '1970-01-01' AS day, "index" + {shift} AS i, * EXCLUDE (session, "index")
    FROM read_parquet('{windows}');
CREATE TEMP TABLE names AS
    SELECT symbol, (row_number() OVER (ORDER BY symbol) - 1)::BIGINT AS s
    FROM (SELECT DISTINCT symbol FROM read_parquet(['{main}', '{corrections}'], hive_partitioning = false));
CREATE MACRO keyed(path) AS TABLE
    SELECT s * 262144 + i AS k, open, high, low, close, volume
    FROM read_parquet(path, hive_partitioning = false) JOIN names USING (symbol)
        JOIN w ON epoch_us(timestamp) // 86400000000 = day;
CREATE TEMP TABLE fixes AS FROM keyed('{corrections}');
CREATE TEMP TABLE r AS
    SELECT (k >> 18)::INTEGER AS s, (k & 262143)::INTEGER AS i, open, high, low, close, volume
    FROM (FROM keyed('{main}') ANTI JOIN fixes USING (k) UNION ALL FROM fixes);
"""

ROW_NUMBERS = """
CREATE TEMP TABLE n AS
    SELECT *, (row_number() OVER (PARTITION BY s ORDER BY i) - 1)::INTEGER AS rn FROM r;
DROP TABLE r;
"""

LISTINGS = """
CREATE TEMP TABLE firsts AS SELECT s, min(i) AS f FROM r GROUP BY s;
CREATE TEMP TABLE n AS SELECT r.*, i - f AS rn FROM r JOIN firsts USING (s);
DROP TABLE r;
"""

BARS = """
SELECT (s << 16) | ({position} // {n}) AS g, arg_min(open, i) AS open, max(high) AS high, min(low) AS low,
    arg_max(close, i) AS close, sum(volume::DOUBLE) AS volume, count(*)::INTEGER AS sessions {more}
FROM {rows} GROUP BY g
"""

SELECT = """
SELECT symbol, {start} AS ts, {end} AS "end", open, high, low, close, volume, NULL::DOUBLE AS vwap,
    NULL::BIGINT AS trade_count, sessions, {complete} AS complete, {complete} AS final, 0::INTEGER AS revision
FROM ({bars}) JOIN names ON g >> 16 = names.s {windows}
"""


def query(anchor: str, n: int) -> str:
    """The bars of ``<n>d`` as one SELECT."""
    if anchor == "exchange":
        return SELECT.format(
            bars=BARS.format(position="i", n=n, rows="r", more=""),
            start="v.start",
            end='v."end"',
            complete="v.complete",
            windows=f"""JOIN (
                SELECT DISTINCT i // {n} AS v, start{n} AS start, end{n} AS "end", complete{n} AS complete
                FROM w
            ) v ON g & 65535 = v.v""",
        )
    if anchor == "rows":
        return SELECT.format(
            bars=BARS.format(position="rn", n=n, rows="n", more=", min(i) AS first, max(i) AS last"),
            start="a.start",
            end='z."end"',
            complete=f"(sessions = {n})",
            windows="JOIN w a ON first = a.i JOIN w z ON last = z.i",
        )
    return SELECT.format(
        bars=BARS.format(position="rn", n=n, rows="n", more=""),
        start="a.start",
        end='z."end"',
        complete="z.ended",
        windows=f"""JOIN firsts ON g >> 16 = firsts.s JOIN w a ON f + (g & 65535) * {n} = a.i
            JOIN w z ON f + (g & 65535) * {n} + {n - 1} = z.i""",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Fibonacci bars by DuckDB.")
    parser.add_argument("layout", type=Path)
    parser.add_argument("anchor", choices=("exchange", "rows", "listing"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--windows", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    shutil.rmtree(args.out, ignore_errors=True)
    args.out.mkdir(parents=True)
    connection = duckdb.connect()
    connection.execute(
        SETUP.format(
            threads=args.threads,
            shift=SHIFT,
            windows=args.windows,
            main=args.layout / "*" / "data.parquet",
            corrections=args.layout / "corrections.parquet",
        )
    )
    if args.anchor != "exchange":
        connection.execute(ROW_NUMBERS if args.anchor == "rows" else LISTINGS)
    for n in LENGTHS:
        connection.execute(
            f"COPY ({query(args.anchor, n)}) TO '{args.out / f'{n}d'}' "
            "(FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, PER_THREAD_OUTPUT true)"
        )


if __name__ == "__main__":
    main()
