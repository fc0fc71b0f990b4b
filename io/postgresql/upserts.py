"""Bulk upserts: rows go by ``COPY`` into a staging table, and from it only what is new or differs further.

- One key counts once: of several rows of one key in one call the last one does.
- **The last to know wins.** Each row carries since when its values are known (``known``). Values known before
  never take the place of later ones, whoever commits first; of those known at the same time the later commit
  wins.
- Locks are taken in the order of the key, the same for all, so writers at once wait for each other and end.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from fibflow.io.postgresql.binary import Stream, slices
from fibflow.io.postgresql.session import Connection, PostgresError

# The stubs know too few types of columns.
pc: Any = pyarrow.compute

_STAGING = "fibflow_staging"
_WORK_MEM = "64MB"
_KINDS: dict[pa.DataType, str] = {
    pa.string(): "text",
    pa.float64(): "double precision",
    pa.int64(): "bigint",
    pa.int32(): "integer",
    pa.bool_(): "boolean",
    pa.date32(): "date",
    pa.timestamp("us", tz="UTC"): "timestamptz",
}
_PLACE = "place"
_READ_BYTES = 1 << 20
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class BadRows(PostgresError):
    """Rows that no table can take: a part of the key is missing."""


@dataclass(frozen=True)
class Upserted:
    """What an upsert did to rows by key.

    Attributes:
        new: added.
        changed: they differed, and took the stored ones' places.
        unchanged: as they were stored.
        outdated: they differ, and what is stored was known later: left as it is.
        gone: removed, as the call named all rows and not these.
    """

    new: int = 0
    changed: int = 0
    unchanged: int = 0
    outdated: int = 0
    gone: int = 0

    def __add__(self, other: Upserted) -> Upserted:
        return Upserted(
            self.new + other.new,
            self.changed + other.changed,
            self.unchanged + other.unchanged,
            self.outdated + other.outdated,
            self.gone + other.gone,
        )


@dataclass(frozen=True)
class Target:
    """A table of upserts. It has the columns ``known`` and ``revision`` too.

    Attributes:
        name: the table's.
        key: the columns of the primary key that rows bring.
        schema: of rows, the key first.
        fixed: columns of the primary key that have one value in a call.
        time: the column of the key by which a hypertable is cut.
        aside: columns whose change alone is none.
    """

    name: str
    key: tuple[str, ...]
    schema: pa.Schema
    fixed: tuple[str, ...] = ()
    time: str | None = None
    aside: tuple[str, ...] = ()


def upsert(
    connection: Connection,
    target: Target,
    rows: pa.Table,
    known: datetime,
    fixed: Mapping[str, str] | None = None,
    *,
    whole: bool = False,
) -> Upserted:
    """Bring a table up to date within the connection's transaction.

    Args:
        connection: of psycopg2; not committed.
        target: the table.
        rows: the key and some more columns of ``target.schema``. A column that is not there is null in a new
            row, and stays in others.
        known: since when the values are known.
        fixed: a value for each column of ``target.fixed``.
        whole: ``rows`` are all there are: others, unless known later, are removed.

    Raises:
        BadRows: a part of a key is missing.
        psycopg2.Error: PostgreSQL refuses.
    """
    if known.tzinfo is None:
        raise ValueError("known has no zone")
    rows = ordered(rows.select([name for name in target.schema.names if name in rows.column_names]), target)
    values = {"known": known, **(fixed or {})}
    with connection.cursor() as cursor:
        work = _Work(cursor, target, rows, values)
        gone = work.remove_others() if whole else 0
        found = work.write() if len(rows) else Upserted()
        cursor.execute(f"DROP TABLE {work.staged}")
    return found + Upserted(gone=gone)


def ordered(rows: pa.Table, target: Target) -> pa.Table:
    """Return rows sorted by key with the last one of each key, in the types of ``target.schema``.

    Raises:
        BadRows: a part of a key is missing.
    """
    rows = rows.cast(pa.schema([target.schema.field(name) for name in rows.column_names]))
    if not len(rows):
        return rows
    keys = [_ranks(rows[name], target.name, name) for name in target.key]
    if not _ascends(keys):
        # The last key sorts first; equal ones stay in their order.
        order = np.lexsort(keys[::-1])
        last = np.append(_differs([key[order] for key in keys]), True)
        rows = rows.take(pa.array(order[last]))
    return rows


def _ranks(column: Any, table: str, name: str) -> npt.NDArray[np.int64]:
    """Return numbers that sort as a column's values do; texts by their bytes."""
    missing = column.is_null()
    if pa.types.is_string(column.type):
        missing = pc.or_(missing, pc.fill_null(pc.equal(column, ""), True)) if name == "symbol" else missing
    if pc.any(missing).as_py():
        row = int(np.flatnonzero(np.asarray(missing))[0]) + 1
        raise BadRows(f"row {row} of those for {table} has no {name}: leave it out or correct it")
    if pa.types.is_string(column.type):
        words = column.combine_chunks().dictionary_encode()
        if isinstance(words, pa.ChunkedArray):
            words = words.unify_dictionaries().combine_chunks()
        places = pc.rank(words.dictionary, sort_keys="ascending", tiebreaker="dense")
        return places.take(words.indices).cast(pa.int64()).to_numpy()
    plain = column.cast(pa.int32()) if pa.types.is_date32(column.type) else column
    return plain.cast(pa.int64()).to_numpy()


def _differs(keys: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.bool_]:
    """Return where a row's key is not that of the next row, shape (rows - 1,)."""
    found = np.zeros(len(keys[0]) - 1, np.bool_)
    for key in keys:
        found |= key[1:] != key[:-1]
    return found


def _ascends(keys: Sequence[npt.NDArray[np.int64]]) -> bool:
    """Return whether each row's key is above the one before."""
    above = np.zeros(len(keys[0]) - 1, np.bool_)
    equal = ~above
    for key in keys:
        above |= equal & (key[1:] > key[:-1])
        equal &= key[1:] == key[:-1]
    return bool(above.all())


_numbers = itertools.count()


class _Work:
    """One call: rows, staged, and what is asked of the table."""

    def __init__(self, cursor: Any, target: Target, rows: pa.Table, values: dict[str, Any]) -> None:
        self._cursor = cursor
        self._target = target
        self._columns = rows.column_names
        self._count = len(rows)
        self._values = {**values, **_bounds(target, rows)}
        self.staged = self._stage(rows)

    def _stage(self, rows: pa.Table) -> str:
        """Copy rows into a table of this transaction's own, each with its place, and return its name."""
        name = f"{_STAGING}_{next(_numbers)}"
        columns = ", ".join(f'"{field.name}" {_KINDS[field.type]}' for field in rows.schema)
        self._cursor.execute(f"SET LOCAL work_mem = '{_WORK_MEM}'")
        self._cursor.execute(f"CREATE TEMPORARY TABLE {name} ({_PLACE} integer, {columns}) ON COMMIT DROP")
        placed = rows.add_column(0, _PLACE, pa.array(np.arange(len(rows), dtype=np.int32)))
        stream = Stream(slices(placed))
        self._cursor.copy_expert(f"COPY {name} FROM STDIN (FORMAT binary)", stream, _READ_BYTES)
        return name

    def write(self) -> Upserted:
        """Take over what is new or differs."""
        if self._ask(f"SELECT EXISTS (SELECT FROM {self._target.name} AS stored {self._where()})")[0]:
            self._cursor.execute(f"ANALYZE {self.staged}")
            differing, new, changed = self._ask(self._merge())
        else:
            # Nothing to compare with. A temporary table is read in the order in which it was written.
            (differing, new, changed) = self._ask(self._insert(self.staged))
            differing = self._count
        outdated = 0
        if new + changed < differing:
            # Known later, or written by another meanwhile.
            staged = f"FROM {self.staged} AS staged JOIN {self._target.name} AS stored"
            outdated = self._ask(
                f"SELECT count(*) {staged} ON {self._match()} WHERE {self._differ('staged.')}"
            )[0]
        return Upserted(new, changed, self._count - new - changed - outdated, outdated)

    def remove_others(self) -> int:
        """Remove what is not staged, and not known later, and return how many rows that were."""
        where = [f'stored."{name}" = %({name})s' for name in self._target.fixed]
        where.append("stored.known <= %(known)s")
        where.append(f"NOT EXISTS (SELECT FROM {self.staged} AS staged WHERE {self._keys()})")
        self._cursor.execute(
            f"DELETE FROM {self._target.name} AS stored WHERE {' AND '.join(where)}", self._values
        )
        return int(self._cursor.rowcount)

    def _ask(self, statement: str) -> tuple:
        self._cursor.execute(statement, self._values)
        row: tuple = self._cursor.fetchone()
        return row

    def _merge(self) -> str:
        """Return the statement that counts the rows that differ, and takes them over unless known before."""
        return f"""
            WITH differing AS MATERIALIZED (
                SELECT staged.*, stored.known AS held FROM {self.staged} AS staged
                LEFT JOIN {self._target.name} AS stored ON {self._match()}
                WHERE stored.known IS NULL OR {self._differ("staged.")}
            ), {self._insert(f"differing WHERE held IS NULL OR held <= %(known)s ORDER BY {_PLACE}", True)}
        """

    def _insert(self, source: str, within: bool = False) -> str:
        """Return the statement that takes rows over, and counts those that differ, are new, and changed."""
        target = self._target
        given = _list(self._columns)
        names = _list([*self._columns, *target.fixed, "known"])
        fixed = "".join(f"%({name})s, " for name in target.fixed)
        put = ", ".join(
            f'"{name}" = excluded."{name}"' for name in (*self._columns, "known") if name not in target.key
        )
        count = "(SELECT count(*) FROM differing)" if within else "NULL"
        return f"""{"" if within else "WITH "} written AS (
                INSERT INTO {target.name} AS stored ({names})
                SELECT {given}, {fixed} %(known)s FROM {source}
                ON CONFLICT ({_list([*target.key, *target.fixed])})
                DO UPDATE SET {put}, revision = stored.revision + 1
                WHERE stored.known <= excluded.known AND {self._differ("excluded.")}
                RETURNING revision
            )
            SELECT {count}, count(*) FILTER (WHERE revision = 0), count(*) FILTER (WHERE revision > 0)
            FROM written
        """

    def _keys(self) -> str:
        return " AND ".join(f'stored."{name}" = staged."{name}"' for name in self._target.key)

    def _match(self) -> str:
        """Return the condition that joins what is stored to what is staged."""
        return f"{self._keys()} {self._where().replace('WHERE', 'AND')}"

    def _where(self) -> str:
        """Return the clause for the part of the table in which all staged rows lie."""
        parts = [f'stored."{name}" = %({name})s' for name in self._target.fixed]
        if self._target.time is not None:
            parts.append(f'stored."{self._target.time}" BETWEEN %(first)s AND %(last)s')
        return f"WHERE {' AND '.join(parts)}" if parts else ""

    def _differ(self, other: str) -> str:
        names = [name for name in self._columns if name not in (*self._target.key, *self._target.aside)]
        if not names:
            return "false"
        return f"({_list(names, 'stored.')}) IS DISTINCT FROM ({_list(names, other)})"


def _bounds(target: Target, rows: pa.Table) -> dict[str, datetime]:
    """Return the first and the last time of rows: a hypertable need not look elsewhere."""
    if target.time is None or not len(rows):
        return {}
    ends = pc.min_max(rows[target.time].cast(pa.int64())).as_py()
    return {
        name: _EPOCH + timedelta(microseconds=ends[end]) for name, end in (("first", "min"), ("last", "max"))
    }


def _list(names: Sequence[str], prefix: str = "") -> str:
    return ", ".join(f'{prefix}"{name}"' for name in names)
