"""Time the bulk upsert beside plain COPY: ``python -m benchmarks.postgres``.

A million daily bars (1,000 symbols, 1,000 sessions) go into an empty ``raw_ohlcv``, with its key and indexes:
by plain COPY, in the same binary form; and by ``upsert_ohlcv``, which is then called again with the same
rows, and with one row in a hundred corrected. Each table is compared with what it has to hold.

    python -m benchmarks.postgres --rows 1000000 --repeats 3
    python -m benchmarks.postgres --postgres postgresql://me@host/scratch     # a database that may be emptied
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from fibflow.io.postgresql import migrate
from fibflow.io.postgresql.binary import Stream, slices
from fibflow.io.postgresql.ohlcv import OHLCV, upsert_ohlcv
from fibflow.io.postgresql.session import PostgresError, connect
from fibflow.io.postgresql.upserts import Upserted
from fibflow.pipelines import cli
from fibflow.runners.services.stack import Stack
from fibflow.transforms.calendar import load_calendar
from fibflow.transforms.schemas import TIMESTAMP

KNOWN, CORRECTED = datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 2, tzinfo=UTC)
SYMBOLS = 1000
COPY, FIRST, AGAIN, SOME = "plain COPY", "first upsert", "the same again", "one in 100 corrected"


def bars(rows: int, seed: int) -> pa.Table:
    """Return daily bars as a lake gives them: sorted by symbol, then session."""
    calendar, random = load_calendar(), np.random.default_rng(seed)
    sessions = -(-rows // SYMBOLS)
    names = np.repeat([f"S{number:04}" for number in range(SYMBOLS)], sessions)[:rows]
    closes = np.round(np.exp(random.normal(4, 1, rows)), 2) + 0.01
    columns: dict[str, Any] = {
        "symbol": names,
        "timestamp": pa.array(np.tile(calendar.day_starts[-sessions:], SYMBOLS)[:rows]).cast(TIMESTAMP),
        "open": closes,
        "high": closes * 1.01,
        "low": closes * 0.99,
        "close": closes,
        "volume": random.integers(1, 10**8, rows).astype(np.float64),
        "vwap": closes * 1.001,
        "trade_count": random.integers(1, 10**6, rows),
    }
    return pa.table(columns, schema=OHLCV)


def corrected(rows: pa.Table) -> pa.Table:
    """Return the rows with the close of each hundredth raised."""
    closes = rows["close"].to_numpy().copy()
    closes[::100] += 0.01
    return rows.set_column(rows.column_names.index("close"), "close", pa.array(closes))


def plain_copy(url: str, rows: pa.Table) -> None:
    """COPY rows into ``raw_ohlcv``."""
    whole = rows.append_column("interval", pa.array(["1d"] * len(rows)))
    columns = ", ".join(f'"{name}"' for name in whole.column_names)
    with closing(connect(url)) as connection, connection, connection.cursor() as cursor:
        stream = Stream(slices(whole))
        cursor.copy_expert(f"COPY raw_ohlcv ({columns}) FROM STDIN (FORMAT binary)", stream, 1 << 20)


def digest(url: str) -> tuple[int, str]:
    """Return the number of rows of ``raw_ohlcv`` and a hash of all values of the bars."""
    names = ", ".join(f'"{name}"' for name in (*OHLCV.names, "interval"))
    with closing(connect(url)) as connection, connection.cursor() as cursor:
        hashes = f"string_agg(md5(ROW({names})::text), '' ORDER BY symbol, timestamp)"
        cursor.execute(f"SELECT count(*), md5({hashes}) FROM raw_ohlcv")
        count, text = cursor.fetchone()
    return count, text


def empty(url: str) -> None:
    """Empty the table, and write what is left to write: no run pays for another's."""
    with closing(connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("TRUNCATE raw_ohlcv")
            cursor.execute("CHECKPOINT")


def measure(url: str, rows: pa.Table) -> dict[str, float]:
    """Return the seconds of one round. Raises SystemExit where a table does not hold what it has to."""
    seconds: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Upserted | None], expected: Upserted | None = None) -> None:
        began = time.perf_counter()
        done = work()
        seconds[name] = time.perf_counter() - began
        if done != expected:
            sys.exit(f"{name}: {done}, and it should be {expected}")

    count, changed = len(rows), -(-len(rows) // 100)
    empty(url)
    timed(COPY, lambda: plain_copy(url, rows))
    copied = digest(url)
    empty(url)
    timed(FIRST, lambda: upsert_ohlcv(url, rows, "1d", known=KNOWN), Upserted(new=count))
    first = digest(url)
    timed(AGAIN, lambda: upsert_ohlcv(url, rows, "1d", known=CORRECTED), Upserted(unchanged=count))
    again = digest(url)
    if not copied == first == again:
        sys.exit(f"the tables differ: {copied}, {first}, {again}")
    expected = Upserted(changed=changed, unchanged=count - changed)
    timed(SOME, lambda: upsert_ohlcv(url, corrected(rows), "1d", known=CORRECTED), expected)
    return seconds


def run(url: str, rows: int, repeats: int, seed: int) -> dict[str, Any]:
    """Return the medians of some rounds, in seconds, and how much longer than COPY each took."""
    migrate.upgrade(url)
    given = bars(rows, seed)
    rounds = [measure(url, given) for _ in range(repeats)]
    medians = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
    return {
        "rows": rows,
        "repeats": repeats,
        "seconds": {name: round(value, 2) for name, value in medians.items()},
        "times_copy": {name: round(value / medians[COPY], 2) for name, value in medians.items()},
        "rounds": rounds,
    }


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.postgres", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--postgres", metavar="URL", help="a database that may be emptied (default: one of its own)"
    )
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    try:
        if args.postgres:
            found = run(args.postgres, args.rows, args.repeats, args.seed)
        else:
            with tempfile.TemporaryDirectory() as folder, Stack(["postgres"], folder=Path(folder)) as stack:
                found = run(stack.env["DATABASE_URL"], args.rows, args.repeats, args.seed)
    except PostgresError as error:
        sys.exit(f"benchmarks.postgres: {error}")
    if args.json:
        print(json.dumps(found))
        return
    shown = [
        (name, f"{value:.2f} s, {found['times_copy'][name]:.2f} x COPY")
        for name, value in found["seconds"].items()
    ]
    cli.print_table(f"{args.rows:,} bars, median of {args.repeats}", shown)


if __name__ == "__main__":
    main()
