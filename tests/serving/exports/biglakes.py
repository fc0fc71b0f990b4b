"""Made-up lakes of many bars, as batch would leave them, and a process that exports one."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from fibflow.io import tables
from fibflow.io.datafiles import DataFile
from fibflow.io.lake import Lake, Scope
from fibflow.serving.exports.export import Exporter
from fibflow.serving.exports.request import export_query
from fibflow.serving.history.bars import History
from fibflow.serving.reference import Reference
from fibflow.transforms.calendar import load_calendar
from fibflow.transforms.schemas import BARS

MINUTE_US = 60_000_000


def make(uri: str, symbols: int, bars: int, files: int = 4) -> Lake:
    """A lake of ``1m`` bars: so many a symbol, symbols spread over so many files."""
    lake = Lake(uri)
    table = lake.table(tables.BARS)
    rng = np.random.default_rng(1)
    added: list[DataFile] = []
    start = round(datetime(2024, 1, 2, 14, 30, tzinfo=UTC).timestamp()) * 1_000_000
    listed = np.array([f"S{at:05}" for at in range(symbols)])
    for number, names in enumerate(np.array_split(listed, min(files, symbols))):
        count = len(names) * bars
        ts = np.tile(start + np.arange(bars) * MINUTE_US, len(names))
        price = rng.uniform(10, 20, (4, count))
        values = {
            "symbol": pa.array(names.tolist()).take(pa.array(np.repeat(np.arange(len(names)), bars))),
            "ts": pa.array(ts).cast(BARS.field("ts").type),
            "end": pa.array(ts + MINUTE_US).cast(BARS.field("end").type),
            **dict(zip(("open", "high", "low", "close"), price, strict=True)),
            "volume": rng.integers(1, 10_000, count).astype(float),
            "vwap": price[0],
            "trade_count": rng.integers(1, 100, count),
            "sessions": pa.array(np.ones(count, np.int32)),
            "complete": pa.array(np.ones(count, np.bool_)),
            "final": pa.array(np.ones(count, np.bool_)),
            "revision": pa.array(np.zeros(count, np.int32)),
        }
        rows = pa.table({name: values[name] for name in tables.BARS.file_schema.names})
        added.append(table.writer().write(rows, {"timeframe": "1m", "period": "all"}, f"file{number}"))
    terms = {
        tables.CALENDAR: "XNYS",
        tables.PRICE_BASIS: "raw",
        f"{tables.COVERED}.1m": json.dumps([[None, 2**60]]),
    }
    table.commit(added, base_version=-1, scope=Scope(), run="made", properties=terms)
    return lake


def _resident() -> int:
    """Bytes of memory of this process."""
    with open("/proc/self/statm") as source:  # noqa: PTH123 - no file of ours
        return int(source.read().split()[1]) * 4096


async def _export(uri: str, form: str) -> tuple[int, int]:
    """Export all; returns the bytes that came, and by how many the memory grew at most."""
    lake = Lake(uri)
    reference = Reference(lake, 60)
    exporter = Exporter(History(lake, 60), reference, lambda: datetime(2024, 6, 1, tzinfo=UTC), 1)
    query = export_query({"timeframe": "1m", "format": form}, "S00000", load_calendar)

    async def run(asked) -> tuple[int, int]:
        size = most = 0
        export = await exporter.begin(asked, exporter.plan(asked))
        while (piece := await export.next()) is not None:
            size += len(piece)
            most = max(most, _resident())
        export.close()
        while exporter.slots.taken:
            await asyncio.sleep(0.001)
        return size, most

    # What is loaded once for all exports does not count.
    await run(query)
    before = _resident()
    size, most = await run(replace(query, bars=replace(query.bars, symbols=None)))
    exporter.close()
    return size, most - before


if __name__ == "__main__":
    print(*asyncio.run(_export(*sys.argv[1:])))  # noqa: T201 - what the test reads
