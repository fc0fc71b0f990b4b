"""The table ``dead_letters``: what a pipeline refused, committed once."""

from __future__ import annotations

import pyarrow as pa

from fibflow.io import sinks, tables
from fibflow.io.lake import Lake, Scope
from fibflow.io.manifest import Manifest
from fibflow.io.snapshot import read_files
from fibflow.io.storage import Storage
from fibflow.pipelines.facts import snapshot_of

_ORDER = ("symbol", "ts", "reason", "origin", "open", "high", "low", "close", "volume")


def commit_dead_letters(lake: Lake, manifest: Manifest, staging: Storage, run: str) -> None:
    """Commit the rows that a pipeline refused; a run that is made again adds none."""
    files = manifest.of_table(tables.DEAD_LETTERS.name)
    if not files:
        return
    table = lake.table(tables.DEAD_LETTERS)
    rows, _ = read_files(staging.child(tables.DEAD_LETTERS.name), tables.DEAD_LETTERS, files)
    rows = rows.sort_by([(name, "ascending") for name in _ORDER])
    name = sinks.content_name(rows)
    snapshot = snapshot_of(table)
    if any(path.startswith(name) for path in snapshot.paths):
        return
    at = rows.schema.get_field_index("run")
    rows = rows.set_column(at, rows.schema.field(at), pa.repeat(pa.scalar(run), len(rows)))
    file = table.writer().write(rows, {}, f"{name}-{run}")
    table.commit([file], base_version=snapshot.version, scope=Scope(symbols=()), run=run)
