"""Reference data in the lake: symbols, splits and the like, read whole and brought up to date row by row.

The tables hold what is known now; ``referencechanges`` keeps beside them what was known before.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fibflow.io.datafiles import DataFile, TableSpec
from fibflow.io.lake import Lake, LakeTable, RebaseNeeded, Scope
from fibflow.io.snapshot import Snapshot, read_files
from fibflow.io.storage import LakeError
from fibflow.io.tables import DIVIDENDS, RENAMES, SPLITS, SYMBOLS

__all__ = [
    "DIVIDENDS",
    "RENAMES",
    "SPLITS",
    "SYMBOLS",
    "UPDATED",
    "Upserted",
    "key_texts",
    "read_reference",
    "same_rows",
    "same_values",
    "upsert",
]

_ATTEMPTS = 20
#: So many files are merged into one with the next change.
_MOST_FILES = 8
#: When a row was changed last; of no account where rows are compared.
UPDATED = "updated"

Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Upserted:
    """What an upsert did to rows by key, and the table's version after it."""

    new: int
    changed: int
    unchanged: int
    version: int
    gone: int = 0


def read_reference(
    lake: Lake, spec: TableSpec, symbols: str | Collection[str] | None = None
) -> tuple[pa.Table, int]:
    """Return a table's rows sorted by its key, and its version; no rows and -1 where there is no table."""
    table = lake.table(spec)
    if not table.exists:
        return spec.schema.empty_table(), -1
    snapshot = table.snapshot()
    rows, _ = snapshot.read(None, symbols)
    return _sorted(rows, spec), snapshot.version


def upsert(
    table: LakeTable, rows: pa.Table, run: str, whole: Callable[[pa.Table], Bool] | None = None
) -> Upserted:
    """Bring a table up to date: rows of new keys are added, those that differ take the stored ones' places.

    Rows that are as they are stored are left alone (``updated`` does not count), and so is every key that
    ``rows`` does not name, but for ``whole``. A second call does nothing.

    Args:
        table: of reference data; the first call makes it.
        rows: the key and some other columns of the spec, each key once. A column that is not there keeps its
            stored values.
        run: the run's id.
        whole: says which stored rows ``rows`` would name if they still held; of them, those that it does not
            name are removed.

    Raises:
        LakeError: the table cannot be written.
    """
    spec = table.spec
    for attempt in range(_ATTEMPTS):
        snapshot = table.snapshot() if table.exists else Snapshot.empty(table.storage, spec)
        files = snapshot.select()
        parts = [read_files(table.storage, spec, [file])[0] for file in files]
        held = pa.concat_tables([*parts, spec.schema.empty_table()]).combine_chunks()
        at: Any = pc.index_in(key_texts(rows, spec), value_set=key_texts(held, spec))
        before = held.take(at)
        full = _completed(rows, before, table)
        known = np.asarray(at.is_valid())
        differs = ~(known & same_rows(full, before, (UPDATED,)))
        found = np.asarray(at.fill_null(0))
        gone = np.zeros(len(held), np.bool_)
        if whole is not None and len(held):
            gone |= whole(held)
            gone[found[known]] = False
        done = Upserted(
            int((~known).sum()),
            int((known & differs).sum()),
            int((~differs).sum()),
            snapshot.version,
            int(gone.sum()),
        )
        if not (differs.any() or gone.any()):
            return done
        replaced = gone.copy()
        replaced[found[known & differs]] = True
        kept, removed = _taken(files, parts, replaced)
        merged = _sorted(pa.concat_tables([full.filter(pa.array(differs)), *kept]), spec)
        added = [table.writer().write(merged, {}, f"{run}-{attempt}")] if len(merged) else []
        try:
            version = table.commit(
                added,
                removed,
                base_version=snapshot.version,
                scope=Scope(),
                run=run,
                operation="MERGE",
                exact=True,
            )
        except RebaseNeeded:
            continue
        return replace(done, version=version)
    raise LakeError(f"{spec.name} is written to too often to commit: run again")


def _taken(
    files: list[DataFile], parts: list[pa.Table], replaced: Bool
) -> tuple[list[pa.Table], list[DataFile]]:
    """Return the rows that stay of files that are written anew, and these files."""
    kept, removed, offset = [], [], 0
    every = len(files) >= _MOST_FILES
    for file, rows in zip(files, parts, strict=True):
        mask = replaced[offset : offset + len(rows)]
        offset += len(rows)
        if every or mask.any():
            kept.append(rows.filter(pa.array(~mask)))
            removed.append(file)
    return kept, removed


def _completed(rows: pa.Table, before: pa.Table, table: LakeTable) -> pa.Table:
    """Return rows with all columns: those that they lack as stored before."""
    schema = table.spec.schema
    columns = {
        field.name: (rows if field.name in rows.column_names else before)[field.name].cast(field.type)
        for field in schema
    }
    if "active" in columns:
        columns["active"] = pc.coalesce(columns["active"], columns["delisted"].is_null())
    if UPDATED in columns:
        now: Any = pa.scalar(int(table.clock().timestamp() * 1_000_000)).cast(schema.field(UPDATED).type)
        given = columns[UPDATED] if UPDATED in rows.column_names else pa.nulls(len(rows), now.type)
        columns[UPDATED] = pc.coalesce(given, now)
    return pa.table(columns, schema=schema)


def same_rows(a: pa.Table, b: pa.Table, but: Collection[str] = ()) -> Bool:
    """Return which rows of two tables of one shape are equal, some columns aside."""
    same = np.ones(len(a), np.bool_)
    for name in a.column_names:
        if name not in but:
            same &= same_values(a[name], b[name])
    return same


def same_values(a: Any, b: Any) -> Bool:
    """Return where two columns hold the same; null is the same as null."""
    sides: list[Any] = [
        column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column for column in (a, b)
    ]
    x, y = sides
    both_null = pc.and_(x.is_null(), y.is_null())
    return np.asarray(pc.or_(pc.equal(x, y).fill_null(False), both_null))


def key_texts(rows: pa.Table, spec: TableSpec) -> pa.Array:
    """Return one text a row that names its key."""
    columns: list[Any] = []
    for name in spec.key:
        column = rows[name].combine_chunks()
        if pa.types.is_date32(column.type):
            column = column.cast(pa.int32())
        columns.append(column.cast(pa.string()))
    joined: Any = columns[0] if len(columns) == 1 else pc.binary_join_element_wise(*columns, "\x1f")
    return joined


def _sorted(rows: pa.Table, spec: TableSpec) -> pa.Table:
    return rows.sort_by([(name, "ascending") for name in spec.sort_by])
