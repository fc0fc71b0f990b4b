"""The history of reference data: the table ``reference.changes``, appended to from the other tables' logs.

What a commit changed is read from the files that it removed and added, and a transaction of the history says
which commit of each table it has: so it holds each change once, and what a run that died between the two
commits left out is written by the next one.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute

from fibflow.io.datafiles import TableSpec
from fibflow.io.deltalog import RUN, Entry
from fibflow.io.lake import Lake, LakeTable, RebaseNeeded, Scope
from fibflow.io.reference import UPDATED, key_texts, same_rows, same_values
from fibflow.io.snapshot import read_files
from fibflow.io.storage import LakeError
from fibflow.io.tables import REFERENCE_CHANGES as CHANGES

# The stubs know too few types of columns.
pc: Any = pyarrow.compute

__all__ = ["CHANGED", "CHANGES", "GONE", "NEW", "UNKNOWN", "difference", "read_changes", "record"]

NEW, CHANGED, GONE, UNKNOWN = "new", "changed", "gone", "unknown"
_ATTEMPTS = 20
_TEXT = pa.string()


def record(lake: Lake, spec: TableSpec, run: str) -> pa.Table:
    """Append what commits changed in a table since the last call, and return it.

    Args:
        lake: of both tables.
        spec: of the table that is followed; with ``symbol`` first in its key.
        run: the run's id; it names the file, the rows tell the run whose commit it was.

    Returns:
        A table of ``schemas.REFERENCE_CHANGES``, sorted by key within each commit; no rows where there is
        nothing new.

    Raises:
        LakeError: the lake cannot be read or written.
    """
    table, history = lake.table(spec), lake.table(CHANGES)
    app = f"changes/{spec.name}"
    for attempt in range(_ATTEMPTS):
        head, base = table.version, history.version
        told = history.open(base).transaction_version(app) if base >= 0 else None
        first = -1 if told is None else told
        parts = [_changes(table, version) for version in range(first + 1, head + 1)]
        rows = pa.concat_tables([CHANGES.schema.empty_table(), *parts]).combine_chunks()
        if not len(rows):
            return rows
        ordered = rows.sort_by([(name, "ascending") for name in CHANGES.sort_by])
        added = history.writer().write(ordered, {}, f"{run}-{spec.name}-{head}-{attempt}")
        try:
            history.commit(
                [added], base_version=base, scope=Scope(symbols=()), run=run, app={app: head}, exact=True
            )
        except RebaseNeeded:
            continue
        return rows
    raise LakeError(f"{CHANGES.name} is written to too often to commit: run again")


def read_changes(lake: Lake, symbols: str | None = None) -> pa.Table:
    """Return the history as it is, oldest first."""
    table = lake.table(CHANGES)
    if not table.exists:
        return CHANGES.schema.empty_table()
    rows, _ = table.snapshot().read(None, symbols)
    order = ("seen", "table", "version", "symbol", "key", "field")
    return rows.sort_by([(name, "ascending") for name in order])


def _changes(table: LakeTable, version: int) -> pa.Table:
    """Return what one commit changed; a row that says so where that can no longer be read."""
    entry = table.log.read(version)
    spec = table.spec
    if entry is None:
        return _filled(_unknown(), spec, version, table.clock(), "")
    try:
        before, after = (_rows(table, entry, kind) for kind in ("remove", "add"))
    except LakeError:
        # Upkeep deletes files that no version of the last weeks holds.
        changes = _unknown()
    else:
        changes = difference(before, after, spec)
    seen = datetime.fromtimestamp(entry.info.get("timestamp", 0) / 1000, UTC)
    return _filled(changes, spec, version, seen, str(entry.info.get(RUN, "")))


def _rows(table: LakeTable, entry: Entry, kind: str) -> pa.Table:
    spec = table.spec
    files = entry.files(kind, moved=False)
    parts = [read_files(table.storage, spec, [file])[0] for file in files]
    return pa.concat_tables([spec.schema.empty_table(), *parts]).combine_chunks()


def difference(before: pa.Table, after: pa.Table, spec: TableSpec) -> pa.Table:
    """Return how rows of a table differ from what they were, by key: its columns ``symbol`` to ``new``.

    Args:
        before: rows of the spec, each key once.
        after: likewise.
        spec: of the table.
    """
    old_keys, new_keys = key_texts(before, spec), key_texts(after, spec)
    at: Any = pc.index_in(new_keys, value_set=old_keys)
    came = after.filter(at.is_null())
    stayed, was = after.filter(at.is_valid()), before.take(at.drop_null())
    lost = before.filter(pc.invert(pc.is_in(old_keys, value_set=new_keys)))
    parts = [_part(came, spec, NEW, None)]
    # Most rows of a file that was written anew are as they were.
    moved = pa.array(~same_rows(stayed, was, (UPDATED,)))
    stayed, was = stayed.filter(moved), was.filter(moved)
    for name in (field.name for field in spec.schema if field.name not in (*spec.key, UPDATED)):
        differs = pa.array(~same_values(stayed[name], was[name]))
        old, new = (_texts(side[name].filter(differs)) for side in (was, stayed))
        parts.append(_part(stayed.filter(differs), spec, CHANGED, name, old, new))
        known = lost[name].is_valid()
        parts.append(_part(lost.filter(known), spec, GONE, name, _texts(lost[name].filter(known))))
    order = ("symbol", "key", "change", "field")
    return pa.concat_tables(parts).sort_by([(name, "ascending") for name in order])


def _part(
    rows: pa.Table, spec: TableSpec, change: str, field: str | None, old: Any = None, new: Any = None
) -> pa.Table:
    count = len(rows)
    rest = [_texts(rows[name]) for name in spec.key[1:]]
    nothing = pa.nulls(count, _TEXT)
    columns = {
        "symbol": rows["symbol"],
        "key": pc.utf8_trim_whitespace(pc.binary_join_element_wise(*rest, " ")) if rest else nothing,
        "change": pa.array([change] * count, _TEXT),
        "field": pa.array([field] * count, _TEXT),
        "old": nothing if old is None else old,
        "new": nothing if new is None else new,
    }
    return pa.table(columns)


def _texts(column: Any) -> Any:
    return column.cast(_TEXT)


def _unknown() -> pa.Table:
    columns: dict[str, Any] = dict.fromkeys(("symbol", "key", "field", "old", "new"), pa.nulls(1, _TEXT))
    return pa.table({**columns, "change": pa.array([UNKNOWN], _TEXT)})


def _filled(changes: pa.Table, spec: TableSpec, version: int, seen: datetime, run: str) -> pa.Table:
    """Return changes with the columns that are the same for all of one commit."""
    constants = {"table": spec.name, "seen": seen, "run": run, "version": version}
    columns = [
        pa.array([constants[field.name]] * len(changes), field.type)
        if field.name in constants
        else changes[field.name]
        for field in CHANGES.schema
    ]
    return pa.table(columns, schema=CHANGES.schema)
