"""Fibonacci bars by Polars.

The shape that was fastest of those tried: symbol and session become one integer key while the files are
scanned, the corrections are anti-joined on it, and the rows are brought into order of (symbol, session): one
file a symbol is in order already, so the corrections are merged in; one file a year is sorted. Bars are
grouped by one 32-bit integer in the streaming engine, which was faster than its path for sorted keys, and
sunk to one file a timeframe; symbol names and the windows' instants are looked up by position for the bars,
not for the rows.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

LENGTHS = (3, 5, 8, 13, 21, 34)
# lcm(3, 5, 8, 13, 21, 34): added to a session's index it keeps every window and makes the index positive.
SHIFT = 185_640
EPOCH = 719_163  # date(1970, 1, 1).toordinal()
VALUES = ("open", "high", "low", "close", "volume")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Fibonacci bars by Polars.")
    parser.add_argument("layout", type=Path)
    parser.add_argument("anchor", choices=("exchange", "rows", "listing"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--windows", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    os.environ["POLARS_MAX_THREADS"] = str(args.threads)  # read once, at the import
    import polars as pl

    shutil.rmtree(args.out, ignore_errors=True)
    args.out.mkdir(parents=True)
    calendar = pl.read_parquet(args.windows)
    first_day = calendar["session"][0]
    days = pl.select(session=pl.date_range(first_day, calendar["session"][-1]))
    place = days.join(calendar.with_row_index("at"), on="session", how="left", maintain_order="left")["at"]
    first_index = calendar["index"][0] + SHIFT

    main_rows = pl.scan_parquet(args.layout / "*" / "data.parquet", hive_partitioning=False)
    corrections = pl.scan_parquet(args.layout / "corrections.parquet")
    symbols = pl.concat([main_rows.select("symbol"), corrections.select("symbol")]).unique()
    tickers = symbols.collect(engine="streaming")["symbol"].sort()
    names = pl.Enum(tickers)
    tickers = tickers.cast(names)

    def keyed(rows: pl.LazyFrame) -> pl.LazyFrame:
        symbol = pl.col("symbol").cast(names).to_physical().cast(pl.Int64)
        day = pl.col("timestamp").dt.epoch("d") - first_day.toordinal() + EPOCH
        return rows.select((symbol * 262_144 + pl.lit(place).gather(day)).alias("k"), *VALUES)

    fixes = keyed(corrections).sort("k").collect()
    kept = keyed(main_rows).join(fixes.lazy(), on="k", how="anti", maintain_order="left")
    if args.layout.name == "by_symbol":
        rows = kept.merge_sorted(fixes.lazy(), key="k").collect(engine="streaming")
    else:
        rows = pl.concat([kept.collect(engine="streaming"), fixes], rechunk=False).sort("k")
    symbol, at = (pl.col("k") // 262_144).cast(pl.Int32), (pl.col("k") % 262_144).cast(pl.Int32)
    rows = rows.lazy().select(symbol.alias("s"), at.alias("at"), *VALUES).collect()
    if args.anchor == "rows":
        position = pl.int_range(pl.len(), dtype=pl.Int32)
        rows = rows.with_columns(position.alias("p")).with_columns(pl.col("p") - pl.col("p").min().over("s"))
    elif args.anchor == "listing":
        listed = rows.group_by("s").agg(pl.col("at").min()).sort("s")["at"]
        rows = rows.with_columns(p=pl.col("at") - pl.col("at").min().over("s"))
    else:
        rows = rows.with_columns(p=pl.col("at") + first_index)

    aggregates = [
        pl.col("open").first(),
        pl.col("high").max(),
        pl.col("low").min(),
        pl.col("close").last(),
        pl.col("volume").sum().cast(pl.Float64),
        pl.len().cast(pl.Int32).alias("sessions"),
    ]
    if args.anchor == "rows":
        aggregates += [pl.col("at").first().alias("first"), pl.col("at").last().alias("last")]

    def take(column: str, at: pl.Expr) -> pl.Expr:
        return pl.lit(calendar[column]).gather(at)

    for n in LENGTHS:
        window = pl.col("g") % 65_536
        if args.anchor == "exchange":
            # Any session of the window knows it; the first may lie before the calendar.
            inside = pl.max_horizontal(window * n - first_index, 0)
            start, end, complete = (
                take(f"start{n}", inside),
                take(f"end{n}", inside),
                take(f"complete{n}", inside),
            )
        elif args.anchor == "rows":
            start, end = take("start", pl.col("first")), take("end", pl.col("last"))
            complete = pl.col("sessions") == n
        else:
            first = pl.lit(listed).gather(pl.col("g") // 65_536) + window * n
            start, end, complete = (
                take("start", first),
                take("end", first + n - 1),
                take("ended", first + n - 1),
            )
        bars = rows.lazy().group_by((pl.col("s") * 65_536 + pl.col("p") // n).alias("g")).agg(*aggregates)
        bars.select(
            pl.lit(tickers).gather(pl.col("g") // 65_536).alias("symbol"),
            start.alias("ts"),
            end.alias("end"),
            *VALUES,
            pl.lit(None, pl.Float64).alias("vwap"),
            pl.lit(None, pl.Int64).alias("trade_count"),
            "sessions",
            complete.alias("complete"),
            complete.alias("final"),
            pl.lit(0, pl.Int32).alias("revision"),
        ).sink_parquet(
            args.out / f"{n}d" / "data.parquet",
            compression="zstd",
            compression_level=1,
            mkdir=True,
            engine="streaming",
        )


if __name__ == "__main__":
    main()
