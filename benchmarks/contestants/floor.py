"""The floor: read the input's columns and write bars that were made before, with no work between.

``--prepare BARS`` turns a contestant's bars into the prepared ones: Arrow IPC files, 24 symbol ranges a
timeframe, sorted by (symbol, ts). The timed run maps those into memory and writes them with fibflow's
encodings.
"""

from __future__ import annotations

import argparse
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

LENGTHS = (3, 5, 8, 13, 21, 34)
COLUMNS = ["open", "high", "low", "close", "volume", "timestamp"]
FILES = 24
INTEGERS = ("ts", "end", "trade_count", "sessions", "revision")
DOUBLES = ("open", "high", "low", "close", "volume", "vwap")
ENCODINGS = dict.fromkeys(INTEGERS, "DELTA_BINARY_PACKED") | dict.fromkeys(DOUBLES, "BYTE_STREAM_SPLIT")


def prepare(bars: Path, prepared: Path) -> None:
    """Write ``prepared/<n>d/<range>.arrow`` from ``bars/<n>d/*.parquet``."""
    shutil.rmtree(prepared, ignore_errors=True)
    for n in LENGTHS:
        table = pq.read_table(bars / f"{n}d", partitioning=None)
        table = table.sort_by([("symbol", "ascending"), ("ts", "ascending")]).combine_chunks()
        symbols = table["symbol"].combine_chunks().cast(pa.string())
        names, first = pc.unique(symbols), 0
        (prepared / f"{n}d").mkdir(parents=True)
        for part in range(FILES):
            # The first row whose symbol lies past this range of names.
            past = -(-len(names) * (part + 1) // FILES)
            last = len(table) if past == len(names) else pc.index(symbols, names[past]).as_py()
            rows = table.slice(first, last - first)
            rows = rows.set_column(0, "symbol", symbols.slice(first, last - first).dictionary_encode())
            with pa.ipc.new_file(str(prepared / f"{n}d" / f"{part:02d}.arrow"), rows.schema) as sink:
                sink.write_table(rows)
            first = last


def read(columns: list[str], path: Path) -> int:
    """Decode one input file, and let it go."""
    dictionary = ["symbol"] if "symbol" in columns else None
    file = pq.ParquetFile(pa.BufferReader(path.read_bytes()), read_dictionary=dictionary)
    return file.read(columns, use_threads=False).num_rows


def write(prepared: Path, out: Path, part: Path) -> None:
    """Encode one prepared file."""
    target = (out / part.relative_to(prepared)).with_suffix(".parquet")
    with pa.memory_map(str(part)) as source:
        table = pa.ipc.open_file(source).read_all()
        pq.write_table(
            table,
            target,
            row_group_size=65_536,
            compression="zstd",
            compression_level=1,
            use_dictionary=["symbol"],  # type: ignore[arg-type]
            column_encoding=ENCODINGS,
            store_schema=False,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Read the input, write the output, nothing between.")
    parser.add_argument("layout", type=Path)
    parser.add_argument("anchor", choices=("exchange", "rows", "listing"), help="only names what is written")
    parser.add_argument("out", type=Path)
    parser.add_argument("--prepared", type=Path, required=True, help="folder of the prepared bars")
    parser.add_argument(
        "--prepare", type=Path, metavar="BARS", help="make the prepared bars from these, and stop"
    )
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    if args.prepare:
        prepare(args.prepare, args.prepared)
        return
    columns = COLUMNS if args.layout.name == "by_symbol" else [*COLUMNS, "symbol"]
    shutil.rmtree(args.out, ignore_errors=True)
    for n in LENGTHS:
        (args.out / f"{n}d").mkdir(parents=True)
    with ThreadPoolExecutor(args.threads) as pool:
        list(pool.map(partial(read, columns), args.layout.rglob("*.parquet")))
        list(pool.map(partial(write, args.prepared, args.out), sorted(args.prepared.rglob("*.arrow"))))


if __name__ == "__main__":
    main()
