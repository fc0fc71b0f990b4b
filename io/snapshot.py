"""One version of a lake table: its files, those that a question needs, and their rows."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fibflow.io.datafiles import DataFile, TableSpec
from fibflow.io.rowfilter import Filter, Instant, Where, plain_array
from fibflow.io.storage import LakeError, Storage

if TYPE_CHECKING:
    from deltalake import DeltaTable

_S3_THREADS = 16
_LOCAL_THREADS = 2
_FEW_ROWS = 200_000


@dataclass(frozen=True)
class ReadStats:
    """What a read took: files opened, bytes of their footers and of the column chunks decoded."""

    files: int = 0
    bytes: int = 0

    def __add__(self, other: ReadStats) -> ReadStats:
        return ReadStats(self.files + other.files, self.bytes + other.bytes)


class Snapshot:
    """The files of one version. It can be pickled to workers.

    ``files`` has a row a file: ``path``, ``size_bytes``, ``modification_time``, ``num_records``, and, for
    the columns that have them, ``partition.<column>``, ``min.<column>``, ``max.<column>``,
    ``null_count.<column>``.
    """

    def __init__(
        self, storage: Storage, spec: TableSpec, version: int, properties: Mapping[str, str], files: pa.Table
    ) -> None:
        self.storage = storage
        self.spec = spec
        self.version = version
        self.properties = dict(properties)
        self.files = files

    @classmethod
    def of(cls, table: DeltaTable, storage: Storage, spec: TableSpec) -> Snapshot:
        """The snapshot of an open table."""
        # Not pa.table(): for a foreign object it imports pandas first, which takes a second.
        actions = table.get_add_actions(flatten=True)
        files = pa.RecordBatchReader.from_stream(actions).read_all().combine_chunks()
        configuration = table.metadata().configuration
        own = {key: value for key, value in configuration.items() if key.startswith("fibflow.")}
        return cls(storage, spec, table.version(), own, files)

    @classmethod
    def empty(cls, storage: Storage, spec: TableSpec) -> Snapshot:
        """What a table that is not there yet holds: no files, version -1."""
        integers = ("size_bytes", "modification_time", "num_records")
        fields: list[Any] = [("path", pa.string()), *((name, pa.int64()) for name in integers)]
        schema = pa.schema(fields)
        return cls(storage, spec, -1, {}, _no_rows(schema))

    def __len__(self) -> int:
        return self.files.num_rows

    @property
    def rows(self) -> int:
        """Rows of all files."""
        return int(pc.sum(self.files.column("num_records")).as_py() or 0)

    @property
    def bytes(self) -> int:
        """Bytes of all files."""
        return int(pc.sum(self.files.column("size_bytes")).as_py() or 0)

    @property
    def newest(self) -> int:
        """When the youngest file came, milliseconds since 1970; 0 where there is none.

        Exact as an order: a later version's files are younger.
        """
        return int(pc.max(self.files.column("modification_time")).as_py() or 0)

    @cached_property
    def timeframes(self) -> frozenset[str]:
        """The timeframes of a table of bars."""
        if not len(self):
            return frozenset()
        return frozenset(str(name) for name in self.files.column("partition.timeframe").unique().to_pylist())

    @cached_property
    def unquoted_paths(self) -> list[str]:
        """The files, relative to the table, in the order of ``files``."""
        return [unquote(str(path)) for path in self.files.column("path").to_pylist()]

    @cached_property
    def paths(self) -> frozenset[str]:
        """The files, relative to the table."""
        return frozenset(self.unquoted_paths)

    def select(
        self,
        symbols: str | Collection[str] | None = None,
        ts_from: Instant | None = None,
        ts_to: Instant | None = None,
        where: Where | None = None,
    ) -> list[DataFile]:
        """The files that may hold such rows, by partition and statistics, in order of path.

        Args:
            symbols: one symbol or several.
            ts_from: the earliest of the table's time column; an integer is in its unit.
            ts_to: up to this, without it.
            where: a column's name to the value, or the values, that it may have: ``{"timeframe": "5d",
                "complete": False}``. A column without statistics skips no file.
        """
        return self.located(Filter.of(self.spec, symbols, ts_from, ts_to, where))

    def located(self, condition: Filter) -> list[DataFile]:
        """The files that may hold such rows, in order of path."""
        return self._described(self._candidates(condition))

    def may_hold(self, symbol: str, timeframe: str) -> bool:
        """Whether a table of bars may have some of a symbol and timeframe."""
        return bool(self.located(Filter.of(self.spec, symbol, where={"timeframe": timeframe})))

    def _candidates(self, condition: Filter) -> Any:
        stored = condition.without(self.spec.partition_by)
        keep = stored.may_hold(self._bounds("min."), self._bounds("max."), len(self))
        for name in self.spec.partition_by:
            if name in condition.values and len(self):
                column = self.files.column(f"partition.{name}").combine_chunks()
                keep = pc.and_(keep, pc.is_in(column, value_set=condition.values[name]))
        return keep

    def _bounds(self, prefix: str) -> dict[str, Any]:
        return {
            name.removeprefix(prefix): self.files.column(name).combine_chunks()
            for name in self.files.column_names
            if name.startswith(prefix)
        }

    def _described(self, mask: Any) -> list[DataFile]:
        if not len(self):
            return []
        columns = [f"partition.{name}" for name in self.spec.partition_by]
        chosen = self.files.select(
            ["path", "size_bytes", "num_records", "modification_time", *columns]
        ).filter(mask)
        found = [
            DataFile(
                unquote(row["path"]),
                row["size_bytes"],
                row["num_records"] or 0,
                {name: row[f"partition.{name}"] for name in self.spec.partition_by},
                modified=row["modification_time"],
            )
            for row in chosen.to_pylist()
        ]
        return sorted(found, key=lambda file: file.path)

    def read(
        self,
        columns: Sequence[str] | None = None,
        symbols: str | Collection[str] | None = None,
        ts_from: Instant | None = None,
        ts_to: Instant | None = None,
        where: Where | None = None,
        dictionary: Collection[str] = (),
    ) -> tuple[pa.Table, ReadStats]:
        """The rows that hold, exactly, with what reading them took.

        ``columns`` are the spec's, in the order asked for (all by default); arguments as for ``select``.
        Rows come file by file in order of path, each in its file's order. Columns named in ``dictionary``
        stay dictionaries. Raises ValueError for unknown columns, LakeError for a file that cannot be read.
        """
        condition = Filter.of(self.spec, symbols, ts_from, ts_to, where)
        parts, stats = self.parts(self.located(condition), columns, condition, dictionary)
        return joined(parts), stats

    def parts(
        self,
        files: Sequence[DataFile],
        columns: Sequence[str] | None,
        condition: Filter,
        dictionary: Collection[str] = (),
        most: int | None = None,
        first: bool = False,
    ) -> tuple[list[pa.Table], ReadStats]:
        """The rows of each of some of the files, as ``read_parts`` has them.

        Of one symbol ``most`` are enough, those at the end of a file's, or at its beginning (``first``); all
        may come.
        """
        return read_parts(self.storage, self.spec, files, columns, condition, dictionary)

    def stamped(
        self, files: Sequence[DataFile], columns: Sequence[str] | None, condition: Filter
    ) -> tuple[pa.Table, pa.Array]:
        """The rows of some of the files, and when each one's file came (milliseconds since 1970)."""
        parts, _ = self.parts(files, columns, condition)
        counts = [part.num_rows for part in parts]
        stamps = np.repeat(np.array([file.modified for file in files] or [0], np.int64), counts)
        return pa.concat_tables(parts), plain_array(stamps.tolist(), pa.int64())

    def tail(
        self,
        n: int,
        symbol: str,
        columns: Sequence[str] | None = None,
        where: Where | None = None,
        ts_from: Instant | None = None,
        ts_to: Instant | None = None,
        first: bool = False,
    ) -> tuple[pa.Table, ReadStats]:
        """The last ``n`` rows of one symbol by time, or the ``first``, oldest first.

        Files are read from that end on, as few as need be. Other arguments are those of ``select``.
        """
        time = self.spec.time_column
        if time is None:
            raise ValueError(f"{self.spec.name} has no time column")
        condition = Filter.of(self.spec, symbol, ts_from, ts_to, where)
        wanted = list(columns) if columns is not None else self.spec.schema.names
        needed = wanted if time in wanted else [*wanted, time]
        found = _no_rows(_fields(self.spec, needed, ()))
        stats = ReadStats()
        for file, bound in self.by_time(condition, first):
            if n <= 0 or (found.num_rows >= n and _is_beyond(found.column(time), bound, first)):
                break
            parts, cost = self.parts([file], needed, condition, (), n, first)
            stats += cost
            merged = pa.concat_tables([found, *parts])
            order = pc.sort_indices(merged, [(time, "ascending")])
            found = merged.take(order[:n] if first else order[max(0, merged.num_rows - n) :])
        return found.select(wanted), stats

    def by_time(self, condition: Filter, first: bool = False) -> list[tuple[DataFile, float]]:
        """The files that may hold such rows, with the latest time that each may hold, the latest first.

        With ``first``: with the earliest time, the earliest first. A time is in the column's unit. A file
        without bounds may hold anything: it comes first.
        """
        mask = self._candidates(condition)
        paths = [unquote(str(p)) for p in self.files.column("path").filter(mask).to_pylist()]
        known = self._bounds("min." if first else "max.").get(str(self.spec.time_column))
        unknown = -math.inf if first else math.inf
        bounds = [unknown] * len(paths) if known is None else _integers(known.filter(mask), unknown)
        of_path = dict(zip(paths, bounds, strict=True))
        found = [(file, of_path[file.path]) for file in self._described(mask)]
        return sorted(found, key=lambda pair: pair[1], reverse=not first)


def _is_beyond(times: Any, bound: float, first: bool) -> bool:
    """Whether a file with no time before (``first``), or none after, a bound has none of the rows wanted."""
    return _integers(times[-1:])[0] < bound if first else _integers(times[:1])[0] > bound


def joined(parts: Sequence[pa.Table]) -> pa.Table:
    """The rows of parts as one table."""
    return pa.concat_tables([part for part in parts if part.num_rows] or [parts[0]])


def _integers(times: Any, unknown: float = 0) -> list[float]:
    # As integers, because a zone's name makes as_py() load the zone.
    numbers = times.cast(pa.int32() if pa.types.is_date32(times.type) else pa.int64()).to_pylist()
    return [unknown if number is None else number for number in numbers]


def read_files(
    storage: Storage,
    spec: TableSpec,
    files: Iterable[DataFile],
    columns: Sequence[str] | None = None,
    condition: Filter | None = None,
    dictionary: Collection[str] = (),
) -> tuple[pa.Table, ReadStats]:
    """The rows of some data files, partition columns added: what a worker does with its share of ``select``.

    ``condition`` is tested on stored columns; those on partitions ``select`` has settled.
    """
    parts, stats = read_parts(storage, spec, files, columns, condition, dictionary)
    return joined(parts), stats


def read_parts(
    storage: Storage,
    spec: TableSpec,
    files: Iterable[DataFile],
    columns: Sequence[str] | None = None,
    condition: Filter | None = None,
    dictionary: Collection[str] = (),
) -> tuple[list[pa.Table], ReadStats]:
    """The rows of each of some data files, as ``read_files`` has them; an empty table where there is none."""
    wanted = list(columns) if columns is not None else spec.schema.names
    if unknown := [name for name in wanted if name not in spec.schema.names]:
        raise ValueError(f"{spec.name} has no column {unknown[0]!r}")
    condition = condition or Filter({})
    work = list(files)
    threads = min(len(work), _S3_THREADS if storage.is_s3 else _LOCAL_THREADS)

    def one(file: DataFile) -> tuple[pa.Table, ReadStats]:
        return _read_file(storage, spec, file, wanted, condition, dictionary, threads <= 1)

    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            parts = list(pool.map(one, work))
    else:
        parts = [one(file) for file in work]
    found = [part for part, _ in parts] or [_no_rows(_fields(spec, wanted, dictionary))]
    return found, sum((cost for _, cost in parts), ReadStats())


def _read_file(
    storage: Storage,
    spec: TableSpec,
    file: DataFile,
    wanted: Sequence[str],
    condition: Filter,
    dictionary: Collection[str],
    alone: bool,
) -> tuple[pa.Table, ReadStats]:
    condition = condition.without(spec.partition_by)
    tested = condition.columns
    stored = [n for n in dict.fromkeys([*tested, *wanted]) if n not in spec.partition_by]
    strings = [n for n in stored if pa.types.is_string(spec.schema.field(n).type)]
    try:
        with storage.filesystem.open_input_file(storage.path(file.path)) as source:
            # Conditions on strings are tested on the few values of their dictionary.
            encoded = [n for n in strings if n in dictionary or n in condition.values]
            parquet = pq.ParquetFile(source, read_dictionary=encoded, pre_buffer=storage.is_s3)
            groups, read = _row_groups(parquet.metadata, condition, stored)
            if not groups:
                return _no_rows(_fields(spec, wanted, dictionary)), ReadStats(1, read)
            count = sum(parquet.metadata.row_group(i).num_rows for i in groups)
            threaded = alone and count > _FEW_ROWS
            rows = parquet.read_row_groups(groups, columns=tested or stored, use_threads=threaded)
            if tested:
                mask = condition.mask(rows)
                rows = rows.filter(mask)
                rest = [n for n in stored if n not in tested]
                if rows.num_rows and rest:
                    others = parquet.read_row_groups(groups, columns=rest, use_threads=threaded).filter(mask)
                    rows = pa.Table.from_arrays([*rows.columns, *others.columns], names=[*tested, *rest])
    except (OSError, pa.ArrowInvalid) as error:
        raise LakeError(storage.explain(f"read {file.path} of {spec.name} at", error)) from error
    schema = _fields(spec, wanted, dictionary)
    if not rows.num_rows:
        return _no_rows(schema), ReadStats(1, read)
    arrays = []
    for name, kind in zip(wanted, schema.types, strict=True):
        if name in spec.partition_by:
            value = plain_array([file.partition[name]], pa.string())
            column = pa.chunked_array([pa.repeat(value[0], rows.num_rows)])
        else:
            column = rows.column(name)
        if pa.types.is_dictionary(kind):
            arrays.append(column if pa.types.is_dictionary(column.type) else column.dictionary_encode())
        else:
            arrays.append(column.cast(kind))
    return pa.Table.from_arrays(arrays, schema=schema), ReadStats(1, read)


def _fields(spec: TableSpec, names: Sequence[str], dictionary: Collection[str]) -> pa.Schema:
    fields = [spec.schema.field(name) for name in names]
    kinds = [pa.dictionary(pa.int32(), f.type) if f.name in dictionary else f.type for f in fields]
    return pa.schema([f.with_type(kind) for f, kind in zip(fields, kinds, strict=True)])


def _no_rows(schema: pa.Schema) -> pa.Table:
    return pa.Table.from_batches([], schema)


def _row_groups(footer: pq.FileMetaData, condition: Filter, columns: Sequence[str]) -> tuple[list[int], int]:
    """The row groups that may hold the rows, and the bytes that they and the footer take."""
    position = {footer.schema.column(i).path: i for i in range(footer.num_columns)}
    groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
    chosen = list(range(len(groups)))
    if len(groups) > 1:
        lows: dict[str, pa.Array] = {}
        highs: dict[str, pa.Array] = {}
        for name in condition.columns:
            stats = [group.column(position[name]).statistics for group in groups]
            # The arrow type comes from the conditions: a footer's bounds are plain integers or bytes.
            kind = condition.values[name].type if name in condition.values else _time_type(condition)
            known = [s if s is not None and s.has_min_max else None for s in stats]
            lows[name] = plain_array([_raw(s.min_raw, kind) if s else None for s in known], kind)
            highs[name] = plain_array([_raw(s.max_raw, kind) if s else None for s in known], kind)
        may = condition.may_hold(lows, highs, len(groups)).to_pylist()
        chosen = [i for i in chosen if may[i]]
    chunks = sum(groups[i].column(position[name]).total_compressed_size for i in chosen for name in columns)
    return chosen, footer.serialized_size + 8 + chunks


def _raw(bound: Any, kind: pa.DataType) -> Any:
    return bound.decode() if pa.types.is_string(kind) else bound


def _time_type(condition: Filter) -> pa.DataType:
    bound = condition.start if condition.start is not None else condition.stop
    assert bound is not None
    return bound.type
