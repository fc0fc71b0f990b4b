"""The sessions and their `<N>d` windows as a small table, straight from ``exchange_calendars``.

The contestants and the check take their calendar from here and not from ``fibflow.transforms``, so that an
error there is not repeated. One row a session, from the calendar's first to past the last window that the
data can touch:

    session    date
    index      int32, 0 = first session on or after 2000-01-03
    start, end timestamp[us, UTC], midnight in New York of the session's date and of the next day
    ended      bool, end is not after the as-of time (the end of the newest session in the data)
    start<N>, end<N>, complete<N>
               the window of anchor `exchange`: sessions with the same floor(index / N)
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from fibflow.benchmarks.history import exchange_sessions

LENGTHS = (3, 5, 8, 13, 21, 34)
ZONE = "America/New_York"
FIRST = "1900-01-01"
ORIGIN = "2000-01-03"
MARGIN_DAYS = 120


def _midnights(dates: pd.DatetimeIndex) -> np.ndarray:
    """Midnight in New York of each date as datetime64[us], UTC."""
    return dates.tz_localize(ZONE).tz_convert("UTC").tz_localize(None).values.astype("datetime64[us]")


def windows(newest: date, lengths: Sequence[int] = LENGTHS) -> pa.Table:
    """The table for data whose newest session is ``newest``."""
    stop = (newest + timedelta(days=MARGIN_DAYS)).isoformat()
    sessions = pd.DatetimeIndex(exchange_sessions(FIRST, stop))
    index = np.arange(len(sessions)) - sessions.searchsorted(pd.Timestamp(ORIGIN))
    start, end = _midnights(sessions), _midnights(sessions + pd.Timedelta(days=1))
    as_of = _midnights(pd.DatetimeIndex([newest + timedelta(days=1)]))[0]

    def stamps(values: np.ndarray) -> pa.Array:
        return pa.array(values, pa.timestamp("us")).cast(pa.timestamp("us", "UTC"))

    columns: dict[str, pa.Array | np.ndarray] = {
        "session": pa.array(sessions.values.astype("datetime64[D]")),
        "index": index.astype(np.int32),
        "start": stamps(start),
        "end": stamps(end),
        "ended": end <= as_of,
    }
    for length in lengths:
        window = index // length
        first = np.searchsorted(window, window, side="left")
        last = np.searchsorted(window, window, side="right") - 1
        columns[f"start{length}"] = stamps(start[first])
        columns[f"end{length}"] = stamps(end[last])
        columns[f"complete{length}"] = end[last] <= as_of
    # The last window of each length may be cut by the table's end; those sessions lie far behind the data.
    return pa.table(columns).slice(0, len(sessions) - max(lengths))


def write(path: Path, newest: date) -> None:
    """Write the table as Parquet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(windows(newest), path)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: write the table."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.windows", description="Write the table of sessions and windows."
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--newest", type=date.fromisoformat, default=date(2025, 10, 3))
    args = parser.parse_args(argv)
    write(args.out, args.newest)
    return 0


if __name__ == "__main__":
    sys.exit(main())
