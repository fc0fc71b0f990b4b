"""The stream's part: writes last prices, open days and closed minutes of all symbols into the live store.

    python -m benchmarks.serving.writer --redis URL --catalogue FILE --seed 1                  # what is there
    python -m benchmarks.serving.writer --redis URL --catalogue FILE --seed 1 --minutes 20 --written FILE

Minutes are written one after another at an interval, all symbols at once, as ``io/livesinks`` writes them.
When each bar was written is read from Redis at the end: its entry's own time.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fibflow.benchmarks.serving import market
from fibflow.io import livefollow
from fibflow.io.liveredis import LiveStoreError
from fibflow.io.livestore import LiveStore
from fibflow.transforms.buckets import bucket_of
from fibflow.transforms.openbars import Flush
from fibflow.transforms.partials import as_arrow

_FIELDS: list[Any] = [
    pa.field("symbol", pa.int32()),
    pa.field("minute", pa.int32()),
    pa.field("stored_ms", pa.int64()),
    pa.field("began", pa.float64()),
]
#: When a bar was written: its symbol's number, its minute's, UTC milliseconds of Redis's own, and UTC seconds
#: of the call that wrote it.
WRITTEN = pa.schema(_FIELDS)


def names_of(catalogue: Path) -> list[str]:
    """Return the symbols of a catalogue, sorted."""
    symbols: list[Any] = pq.read_table(catalogue, columns=["symbol"])["symbol"].to_pylist()
    return sorted(set(symbols))


def write_there(store: LiveStore, names: Sequence[str], seed: int, now_us: int) -> None:
    """Write a last price and the open day of each symbol."""
    store.write_prices(market.price_table(names, seed))
    days = market.day_table(names, seed)
    buckets = np.array([bucket_of(name, store.buckets) for name in names])
    for bucket in np.unique(buckets).tolist():
        own = days.take(as_arrow(np.flatnonzero(buckets == bucket)))
        store.write_open([Flush(bucket, now_us, True, True, own)])


def write_minutes(
    store: LiveStore,
    names: Sequence[str],
    seed: int,
    minutes: int,
    every_s: float,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> list[tuple[float, float]]:
    """Write minutes at an interval; return when each call began and how long it took, seconds.

    Args:
        store: where.
        names: the symbols.
        seed: of the values.
        minutes: how many.
        every_s: from one to the next.
        clock: seconds since 1970.
        sleep: waits.
    """
    tables = [market.minute_table(names, seed, minute) for minute in range(minutes)]
    took, first = [], clock()
    for minute, table in enumerate(tables):
        wait = first + minute * every_s - clock()
        if wait > 0:
            sleep(wait)
        began = clock()
        store.write_closed(table, round(began * 1e6))
        took.append((began, clock() - began))
    return took


def written_since(
    store: LiveStore, here: livefollow.Position, names: Sequence[str], calls: Sequence[tuple[float, float]]
) -> pa.Table:
    """Return when each bar was written that came after a position, of ``WRITTEN``, by symbol and minute."""
    known, parts = pa.array(names, pa.string()), []
    while updates := livefollow.read(store, here, block_ms=1):
        for update in updates:
            if update.kind == livefollow.RESET:
                raise LiveStoreError("the live store no longer has all that was written: write less")
            if update.kind == livefollow.CLOSED:
                parts.append(_rows(update, known, calls))
        here = updates[-1].position
    return pa.concat_tables([WRITTEN.empty_table(), *parts]).sort_by(
        [("symbol", "ascending"), ("minute", "ascending")]
    )


def _rows(update: livefollow.Update, known: pa.Array, calls: Sequence[tuple[float, float]]) -> pa.Table:
    bars = update.table
    symbol: Any = pc.index_in(bars["symbol"], value_set=known)
    ts = bars["ts"].combine_chunks().view(pa.int64()).to_numpy()
    minute = ((ts - market.OPEN_US) // market.MINUTE_US).astype(np.int32)
    stored = int(update.position.id.split("-")[0])
    began = np.array([began for began, _ in calls])[minute]
    return pa.table([symbol.cast(pa.int32()), minute, np.full(len(bars), stored), began], schema=WRITTEN)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: write."""
    parser = argparse.ArgumentParser(prog="benchmarks.serving.writer", description="Writes the live store.")
    parser.add_argument("--redis", required=True, help="URL of the live store")
    parser.add_argument("--catalogue", type=Path, required=True, help="whose symbols")
    parser.add_argument("--seed", type=int, required=True, help="of the values")
    parser.add_argument(
        "--minutes", type=int, default=0, help="how many; 0: last prices and open days instead"
    )
    parser.add_argument("--every-s", type=float, default=3.0, help="from one to the next")
    parser.add_argument("--written", type=Path, help="the file for when each bar was written")
    args = parser.parse_args(argv)
    names = names_of(args.catalogue)
    try:
        with LiveStore(args.redis) as store:
            if not args.minutes:
                write_there(store, names, args.seed, round(time.time() * 1e6))
                print(json.dumps({"symbols": len(names)}))
                return 0
            here = livefollow.position(store)
            calls = write_minutes(store, names, args.seed, args.minutes, args.every_s, time.time, time.sleep)
            written = written_since(store, here, names, calls)
    except LiveStoreError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    part = args.written.with_suffix(".part")
    pq.write_table(written, part)
    part.rename(args.written)
    print(json.dumps({"bars": len(written), "seconds": [seconds for _, seconds in calls]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
