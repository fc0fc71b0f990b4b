"""Time the last 500 bars of some symbols, cold: ``python -m benchmarks.point_reads LAKE TIMEFRAME SEED``.

Cold: the lake's files are dropped from the page cache, and each read opens the table anew. Imports are not
counted. Prints one JSON object: milliseconds and files opened of each read.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path

from fibflow.benchmarks.pagecache import drop, files_below
from fibflow.io import tables
from fibflow.io.bars import BarReader
from fibflow.io.lake import Lake

BARS = 500
READS = 10


def main() -> None:
    """Time the reads of one timeframe."""
    lake, timeframe, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
    table = Lake(lake).table(tables.BARS)
    rows, _ = table.snapshot().read(["symbol"], where={"timeframe": "34d"}, dictionary=["symbol"])
    symbols = sorted({str(symbol) for symbol in rows["symbol"].unique().to_pylist()})
    chosen = random.Random(seed).sample(symbols, min(READS, len(symbols)))
    milliseconds, files = [], []
    for symbol in chosen:
        drop(files_below(Path(lake)))
        began = time.perf_counter()
        found = BarReader(Lake(lake)).last(symbol, timeframe, BARS)
        milliseconds.append((time.perf_counter() - began) * 1000)
        _, cost = table.snapshot().tail(BARS, symbol, None, {"timeframe": timeframe})
        files.append(cost.files)
        assert found.num_rows
    print(json.dumps({"milliseconds": milliseconds, "files": files}))


if __name__ == "__main__":
    main()
