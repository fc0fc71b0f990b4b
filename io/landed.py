"""What was landed in a bronze table since one of its versions."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from fibflow.io.lake import LakeTable
from fibflow.io.rowfilter import Filter, Instant
from fibflow.io.snapshot import ReadStats, read_files


def landed_rows(
    table: LakeTable, since: int, until: int, columns: Sequence[str], begin: Instant | None = None
) -> tuple[pa.Table, ReadStats] | None:
    """Return the rows that are new or changed after version ``since`` up to ``until``, and what reading took.

    None where only the whole table can tell: it was landed anew, or another tool wrote it.

    Args:
        table: the table.
        since: a version; what it holds is not new.
        until: a version.
        columns: of the rows; symbols are a dictionary.
        begin: only rows of this session, or instant, or later.

    Raises:
        LakeError: the log no longer holds those versions, or a file cannot be read.
    """
    landed: set[int] = set()
    for entry in table.history():
        version = entry["version"]
        if version <= since or version > until:
            continue
        if entry.get("fibflow.full"):
            return None
        numbers = entry.get("fibflow.landed")
        if numbers is None and entry.get("operation") not in ("OPTIMIZE",):
            return None
        landed.update(json.loads(numbers) if isinstance(numbers, str) else numbers or [])
    added, _ = table.changes(since, until)
    if not landed:
        added = []
    wanted = Filter.of(table.spec, None, begin)
    rows, cost = read_files(
        table.storage, table.spec, added, [*columns, "landed"], wanted, dictionary=["symbol"]
    )
    rows = rows.filter(pc.is_in(rows["landed"], value_set=pa.array(sorted(landed), pa.int32())))
    return rows.drop_columns(["landed"]), cost
