"""A backfill's folder, lake and vendor, seen by what runs leave in them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from fibflow.io import tables
from fibflow.io.aws import AwsConfig
from fibflow.io.lake import Lake
from fibflow.io.vendor import rest
from fibflow.io.vendor.files import SESSION_ROWS
from fibflow.pipelines import backfill, load
from fibflow.pipelines.backfill import BackfillReport, BackfillRequest
from fibflow.serving.standin.lakes import write_rows
from fibflow.tests.pipelines.raws import FAST
from fibflow.tests.vendors import Vendor

KEY = "a-key-that-nobody-shall-see"
#: The morning after the last session of ``test_backfill``'s stand-in, and a year later.
NOW, LATER = datetime(2024, 2, 15, 12, tzinfo=UTC), datetime(2025, 2, 15, 12, tzinfo=UTC)


@dataclass
class Job:
    base: str
    vendor: Vendor
    aws: AwsConfig | None = None

    @property
    def raw(self) -> str:
        return f"{self.base}/raw"

    @property
    def lake(self) -> Lake:
        return Lake(f"{self.base}/lake", self.aws)

    def client(self) -> rest.Vendor:
        """Asks the stand-in without waiting for anything."""
        return rest.Vendor(self.vendor.url, KEY, rate=1e6, sleep=lambda seconds: None, dice=random.Random(0))

    def fetch(
        self, first: date | None = None, now: datetime | Callable[[], datetime] = NOW, **more: Any
    ) -> BackfillReport:
        clock = now if callable(now) else lambda: now
        request = BackfillRequest(self.raw, first=first, now=clock, **more)
        return backfill.backfill(self.lake, self.client(), request)

    def land(self, part: str = "daily") -> None:
        options = ["--input", f"{self.raw}/{part}", "--lake", self.lake.uri, "--kind", part]
        assert load.run([*options, "--price-basis", "raw", *FAST]) == 0

    def bought(self, days: pa.Table) -> None:
        """Let the lake have rows that came from elsewhere."""
        write_rows(self.lake, tables.DAILY, days)

    def calls(self) -> dict[str, int]:
        """What was asked since the last time."""
        found = dict(self.vendor.names)
        self.vendor.forget()
        return found

    def rows(self, spec: Any = tables.DAILY) -> pa.Table:
        """What the lake holds, as the stand-in says what it has."""
        rows, _ = self.lake.table(spec).snapshot().read()
        dropped = ["source", "landed", "period"]
        return rows.drop_columns(dropped).sort_by([(name, "ascending") for name in spec.sort_by])

    def copied(self) -> pa.Table:
        """What the raw folder holds, as the load would take it: a session's file goes before a symbol's."""
        parts = []
        for path in sorted(Path(self.raw, "daily").rglob("*.parquet"), reverse=True):
            rows = pq.ParquetFile(path).read().rename_columns({"date": "session"})
            symbol = path.parent.name.partition("symbol=")[2]
            if symbol:
                rows = rows.append_column("symbol", pa.array([unquote(symbol)] * len(rows), pa.string()))
            # Ranges come first in this order, so that sessions replace their rows.
            parts.append(rows.select(SESSION_ROWS.names).cast(SESSION_ROWS))
        found = {(row["symbol"], row["session"]): row for part in parts for row in part.to_pylist()}
        return pa.Table.from_pylist([found[key] for key in sorted(found)], SESSION_ROWS)

    def mirrors(self, days: pa.Table | None = None) -> bool:
        """Whether the raw folder holds what the vendor has, to the bit."""
        days = self.vendor.days() if days is None else days
        return bool(self.copied().equals(days.cast(SESSION_ROWS)))

    def files(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.raw)): path.read_bytes()
            for path in Path(self.raw).rglob("*")
            if path.is_file()
        }
