"""A small table, its rows, and a process that commits to it, for the tests of the lake."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from fibflow.io.datafiles import DataFile, TableSpec
from fibflow.io.lake import ConflictError, Lake, LakeTable, RebaseNeeded, Scope

TIMESTAMP = pa.timestamp("us", tz="UTC")
FIELDS: list[Any] = [
    ("symbol", pa.string()),
    ("timeframe", pa.string()),
    ("ts", TIMESTAMP),
    ("close", pa.float64()),
    ("complete", pa.bool_()),
    ("revision", pa.int32()),
]
SPEC = TableSpec(
    "silver.bars",
    pa.schema(FIELDS),
    partition_by=("timeframe",),
    sort_by=("symbol", "ts"),
    key=("symbol", "timeframe", "ts"),
)
START = datetime(2024, 1, 1, tzinfo=UTC)
EVERYTHING = Scope()


def day(number: int) -> datetime:
    return START + timedelta(days=number)


def bars(symbols: Iterable[str], days: Iterable[int], close: float = 1.0, complete: bool = True) -> pa.Table:
    """One row a symbol and day, sorted."""
    keys = [(symbol, day(number)) for symbol in symbols for number in days]
    rows = len(keys)
    return pa.table(
        [
            pa.array([symbol for symbol, _ in keys]),
            pa.array([ts for _, ts in keys], TIMESTAMP),
            pa.array([close] * rows),
            pa.array([complete] * rows),
            pa.array([0] * rows, pa.int32()),
        ],
        schema=SPEC.file_schema,
    )


def write(table: LakeTable, name: str, rows: pa.Table, timeframe: str = "5d") -> DataFile:
    return table.writer().write(rows, {"timeframe": timeframe}, name)


def keys(rows: pa.Table) -> list[tuple[str, str, int]]:
    """(symbol, timeframe, number of the day) of each row, sorted."""
    found = zip(*(rows.column(name).to_pylist() for name in ("symbol", "timeframe", "ts")), strict=True)
    return sorted((symbol, timeframe, (ts - START).days) for symbol, timeframe, ts in found)


def commit_one(table: LakeTable, run: str, symbol: str, base_version: int) -> str:
    """Commits one file of one symbol, and says how that went."""
    file = write(table, run, bars([symbol], [0]))
    try:
        version = table.commit(
            [file],
            base_version=base_version,
            scope=Scope(symbols=(symbol,)),
            run=run,
            properties={"fibflow.a": "1"},
        )
    except ConflictError:
        return "conflict"
    except RebaseNeeded:
        return "rebase"
    return f"version {version}"


def main(uri: str, run: str, *symbols: str) -> None:
    """Waits for a line on standard input, commits a file for each symbol, and says how each went."""
    table = Lake(uri).table(SPEC)
    print("ready", flush=True)  # noqa: T201 - what the test waits for
    sys.stdin.readline()
    for number, symbol in enumerate(symbols):
        print(commit_one(table, f"{run}-{number}", symbol, table.version), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
