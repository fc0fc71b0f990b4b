"""Small raw files in the layouts that exist, the lake that they were landed in, and what it has to hold."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fibflow.io import tables
from fibflow.io.aws import AwsConfig
from fibflow.io.datafiles import TableSpec
from fibflow.io.lake import Lake, LakeTable
from fibflow.pipelines import load

#: Sessions of XNYS around a turn of the year.
DAYS = [date(2023, 12, d) for d in (27, 28, 29)] + [date(2024, 1, d) for d in (2, 3, 4, 5, 8, 9, 10, 11, 12)]
#: In one process and one thread: no server to start.
FAST = ("--workers", "1")


class Row(NamedTuple):
    """A row of which all values follow from one."""

    symbol: str
    day: date
    value: float

    @property
    def key(self) -> tuple[str, date]:
        return self.symbol, self.day


def rows_of(symbol: str, days: Iterable[date], value: float = 10.0) -> list[Row]:
    return [Row(symbol, day, value + number) for number, day in enumerate(days)]


def table_of(rows: Iterable[Row], with_symbol: bool = True, **more: Any) -> pa.Table:
    """Columns as the predecessor writes them; ``more`` overrides or adds some, None drops one."""
    listed = list(rows)
    values = np.array([row.value for row in listed], np.float64)
    stamps = [datetime(row.day.year, row.day.month, row.day.day, tzinfo=UTC) for row in listed]
    columns: dict[str, Any] = {
        "symbol": [row.symbol for row in listed] if with_symbol else None,
        "open": values,
        "high": values + 1,
        "low": values - 1,
        "close": values + 0.5,
        "volume": (values * 100).astype(np.int64),
        "timestamp": pa.array(stamps, pa.timestamp("us", "UTC")),
        "interval": ["1d"] * len(listed),
    }
    return pa.table({name: column for name, column in (columns | more).items() if column is not None})


@dataclass
class Raw:
    """A folder of raw files, each written at a time of its own."""

    base: Path
    clock: int = 1_700_000_000

    def put(self, name: str, rows: Iterable[Row] | pa.Table, at: int | None = None) -> Path:
        """Write a file; in a folder ``symbol=X`` it holds no symbols. ``at``: seconds since 1970."""
        target = self.base / name
        target.parent.mkdir(parents=True, exist_ok=True)
        table = rows if isinstance(rows, pa.Table) else table_of(rows, "symbol=" not in name)
        pq.write_table(table, target)
        return self.stamp(target, at)

    def text(self, name: str, text: str, at: int | None = None) -> Path:
        target = self.base / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        return self.stamp(target, at)

    def stamp(self, target: Path, at: int | None = None) -> Path:
        self.clock += 10
        seconds = self.clock if at is None else at
        os.utime(target, (seconds, seconds))
        return target

    def __str__(self) -> str:
        return str(self.base)


@dataclass
class Bronze:
    """A lake, seen by what loads leave in it."""

    uri: str
    aws: AwsConfig | None = None
    spec: TableSpec = field(default=tables.DAILY)

    def load(self, source: object, *options: str) -> int:
        return load.run(["--input", str(source), "--lake", self.uri, *FAST, *options])

    def first(self, source: object, *options: str) -> int:
        return self.load(source, "--price-basis", "raw", *options)

    def table(self, spec: TableSpec | None = None) -> LakeTable:
        return Lake(self.uri, self.aws).table(spec or self.spec)

    def rows(self, spec: TableSpec | None = None) -> list[dict[str, Any]]:
        table = self.table(spec)
        return table.snapshot().read()[0].to_pylist() if table.exists else []

    def values(self) -> dict[tuple[str, date], float]:
        """The value that each stored row was made from; its columns agree."""
        found = {}
        for row in self.rows():
            value = row["open"]
            assert (row["high"], row["low"], row["close"]) == (value + 1, value - 1, value + 0.5)
            assert row["volume"] == int(value * 100)
            assert row["period"] == str(row["session"].year)
            found[row["symbol"], row["session"]] = value
        assert len(found) == len(self.rows())
        return found

    def landed(self) -> dict[tuple[str, date], int]:
        return {(row["symbol"], row["session"]): row["landed"] for row in self.rows()}

    def dead(self) -> list[tuple[str, str, str | None, float | None]]:
        """(reason, name of the file, symbol, value) of each refused row."""
        found = self.rows(tables.DEAD_LETTERS)
        return sorted((r["reason"], r["origin"].rpartition("/")[2], r["symbol"], r["open"]) for r in found)

    def versions(self) -> dict[str, int]:
        return {name: self.table(spec).version for name, spec in tables.TABLES.items()}

    def paths(self) -> frozenset[str]:
        return self.table().snapshot().paths


def expected(files: Mapping[str, tuple[int, Iterable[Row]]]) -> dict[tuple[str, date], float]:
    """What files (name: modification time, rows) come to, row by row, as docs/data-model.md says."""
    winners: dict[tuple[str, date], tuple[tuple[bool, int, str], float]] = {}
    for name, (modified, rows) in files.items():
        rank = (name.rpartition("/")[2].startswith("date="), modified, name)
        for row in rows:
            if row.key not in winners or winners[row.key][0] <= rank:
                winners[row.key] = (rank, row.value)
    return {key: value for key, (_, value) in winners.items()}


def parquet_bytes(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()
