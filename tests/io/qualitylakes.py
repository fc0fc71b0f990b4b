"""Lakes of a few symbols, committed table by table, for tests of the quality report."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import pyarrow as pa

from fibflow.io import tables
from fibflow.io.datafiles import TableSpec
from fibflow.io.lake import Lake, Scope
from fibflow.tests.transforms.quality.worlds import MINUTE, day_rows, span_until
from fibflow.transforms.quality.span import Span

SYMBOLS = ("A", "B", "C")
#: Five sessions around New Year, and those before: two years of days, three months of minutes.
SPAN = span_until("2025-01-03", window=5, before=20)
PROPERTIES = {tables.CALENDAR: "XNYS", tables.PRICE_BASIS: "raw"}


def put(lake: Lake, spec: TableSpec, rows: pa.Table, name: str, **partition: str) -> list[str]:
    """Commit rows as files, one a period where the table has periods; return the files."""
    table = lake.table(spec)
    parts = [(partition, rows)]
    if spec.partition_by == ("period",):
        time = "session" if "session" in rows.column_names else "ts"
        days = np.asarray(rows[time].cast(pa.timestamp("us")).cast(pa.int64())) // 86_400_000_000
        period = tables.DAILY_PERIOD if time == "session" else tables.MINUTES_PERIOD
        names = period.names(days)
        parts = [
            ({"period": str(found)}, rows.filter(mask if mask is None else pa.array(mask)))
            for found, mask in tables.split_by(names)
            if mask is not None
        ] or [({"period": str(names[0])}, rows)]
    files = [
        table.writer().write(conformed(part, spec), keys, f"{name}-{number}")
        for number, (keys, part) in enumerate(parts)
    ]
    table.commit(
        files, base_version=table.version, scope=Scope(), run=name, properties=PROPERTIES, operation="WRITE"
    )
    return [file.path for file in files]


def conformed(rows: pa.Table, spec: TableSpec) -> pa.Table:
    """Rows with all stored columns of a table, in its order."""
    columns = {
        field.name: rows[field.name].cast(field.type)
        if field.name in rows.column_names
        else pa.nulls(len(rows), field.type)
        for field in spec.file_schema
    }
    made = pa.table(columns, schema=spec.file_schema)
    return made.sort_by([(key, "ascending") for key in spec.sort_by]) if spec.sort_by else made


def cells(span: Span = SPAN) -> set[tuple[str, int]]:
    return {(symbol, place) for symbol in SYMBOLS for place in range(len(span))}


def put_days(lake: Lake, holes: Collection[tuple[str, int]] = (), **prices: float) -> list[str]:
    return put(lake, tables.DAILY, day_rows(SPAN, cells() - set(holes), prices), "days")


def every_minute(symbol: str, places: range) -> set[tuple[str, int, int]]:
    return {(symbol, place, m) for place in places for m in range(int(SPAN.minutes[place]))}


def bars(rows: pa.Table, timeframe: str) -> pa.Table:
    """Rows of minutes as bars that have ended."""
    n = len(rows)
    more: dict[str, Any] = {
        "timeframe": pa.array([timeframe] * n),
        "end": pa.array(np.asarray(rows["ts"].cast(pa.int64())) + MINUTE).cast(pa.timestamp("us", "UTC")),
        "complete": pa.array([True] * n),
        "final": pa.array([True] * n),
        "revision": pa.array(np.zeros(n, np.int32)),
    }
    for name, column in more.items():
        rows = rows.append_column(name, column)
    return rows
