"""Parquet data files of a lake table: immutable, written by workers, invisible until a commit names them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import cached_property
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fibflow.io.storage import LakeError, Storage

#: What is decoded at least for a few rows. Smaller groups make larger files; larger ones, slower point reads.
ROW_GROUP_ROWS = 16_384
NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"

# A longer bound saves no reading and swells the log; leaving it out is always safe.
_LONGEST_BOUND = 64


@dataclass(frozen=True)
class TableSpec:
    """What a table is, apart from its place.

    ``schema`` holds every column, partitions included (those are strings and are not stored in the files).
    ``key`` is unique over the table; files are sorted by ``sort_by``. ``stats`` names the columns whose
    bounds go into the log: by default all strings, times, dates and booleans. ``time`` is the column that
    time ranges refer to: by default ``ts``, else ``session``. ``apart`` is a boolean column: files in which
    it holds for every row are not merged with others. ``group_rows`` is how many rows a row group has at
    most: by default ``ROW_GROUP_ROWS``. Strings are stored as words of a dictionary, but not with
    ``plain_strings``: texts of which hardly one comes twice.
    """

    name: str
    schema: pa.Schema
    partition_by: tuple[str, ...] = ()
    sort_by: tuple[str, ...] = ()
    key: tuple[str, ...] = ()
    stats: tuple[str, ...] | None = None
    time: str | None = None
    apart: str | None = None
    group_rows: int | None = None
    plain_strings: bool = False

    def __post_init__(self) -> None:
        for column in (*self.partition_by, *self.sort_by, *self.key, *(self.stats or ())):
            if column not in self.schema.names:
                raise ValueError(f"{self.name} has no column {column!r}")
        for column in self.partition_by:
            if not pa.types.is_string(self.schema.field(column).type):
                raise ValueError(f"{self.name}: the partition column {column!r} is not a string")

    @cached_property
    def file_schema(self) -> pa.Schema:
        """The columns that are stored in the files."""
        return pa.schema([f for f in self.schema if f.name not in self.partition_by])

    @cached_property
    def stats_columns(self) -> frozenset[str]:
        """The columns whose bounds go into the log."""
        if self.stats is not None:
            return frozenset(self.stats) - set(self.partition_by)
        return frozenset(f.name for f in self.file_schema if _has_cheap_bounds(f.type))

    @cached_property
    def time_column(self) -> str | None:
        """The column that time ranges refer to."""
        if self.time is not None:
            return self.time
        return next((name for name in ("ts", "session") if name in self.schema.names), None)

    @cached_property
    def write_options(self) -> dict[str, Any]:
        """Options of ``pyarrow.parquet``: measured fastest at a good size for bars."""
        strings = [f.name for f in self.file_schema if pa.types.is_string(f.type)]
        encodings = {f.name: e for f in self.file_schema if (e := _encoding(f.type)) is not None}
        return {
            "compression": "zstd",
            "compression_level": 1,
            "use_dictionary": (strings or False) if not self.plain_strings else False,
            "column_encoding": encodings or None,
            # Nobody asks for the bounds of a price, and finding them takes time.
            "write_statistics": sorted(self.stats_columns) or False,
            "write_batch_size": 16_384,
            "store_schema": False,
        }


def _has_cheap_bounds(kind: pa.DataType) -> bool:
    t = pa.types
    return t.is_string(kind) or t.is_timestamp(kind) or t.is_date(kind) or t.is_boolean(kind)


def _encoding(kind: pa.DataType) -> str | None:
    # Times and counts repeat from symbol to symbol: plain ones take the compressor less time than deltas do.
    return "BYTE_STREAM_SPLIT" if pa.types.is_float32(kind) or pa.types.is_float64(kind) else None


@dataclass(frozen=True)
class DataFile:
    """One data file: ``path`` is relative to the table, ``stats`` Delta's statistics as JSON.

    ``modified`` is milliseconds since 1970 for a file that a commit holds, 0 before.
    """

    path: str
    size: int
    rows: int
    partition: Mapping[str, str | None] = field(default_factory=dict)
    stats: str = ""
    modified: int = 0

    def to_add_action(self, modified: int, data_change: bool = True) -> dict[str, Any]:
        """The ``add`` entry of Delta's log; ``modified`` (milliseconds) is for a file that has none."""
        return {
            "path": quote(self.path, safe="/="),
            "partitionValues": dict(self.partition),
            "size": self.size,
            "modificationTime": self.modified or modified,
            "dataChange": data_change,
            "stats": self.stats or json.dumps({"numRecords": self.rows}),
        }

    def to_remove_action(self, deleted: int, data_change: bool = True) -> dict[str, Any]:
        """The ``remove`` entry of Delta's log; ``deleted`` is milliseconds since 1970."""
        return {
            "path": quote(self.path, safe="/="),
            "deletionTimestamp": deleted,
            "dataChange": data_change,
            "extendedFileMetadata": True,
            "partitionValues": dict(self.partition),
            "size": self.size,
        }


@dataclass(frozen=True)
class DataFileWriter:
    """Writes the data files of one table. Threads may share it, and it can be pickled to workers."""

    storage: Storage
    spec: TableSpec

    def write(
        self, table: pa.Table | pa.RecordBatch, partition: Mapping[str, str | None], file_name: str
    ) -> DataFile:
        """Writes ``<partition folders>/<file_name>.parquet`` and describes it.

        ``table`` holds the spec's columns in order, partition columns left out or not; strings may be
        dictionaries. ``file_name`` has to be unique for all time (hold the run's id): nothing checks it.
        Raises ValueError for other columns, no rows, or a partition that is not the spec's; LakeError where
        it cannot be written.
        """
        table = self._stored_columns(table)
        if set(partition) != set(self.spec.partition_by):
            raise ValueError(
                f"{self.spec.name} is partitioned by {list(self.spec.partition_by)}, not by {list(partition)}"
            )
        values = {name: partition[name] for name in self.spec.partition_by}
        directory = "/".join(f"{_escape(k)}={_escape(v)}" for k, v in values.items())
        path = f"{directory}/{file_name}.parquet" if directory else f"{file_name}.parquet"
        footers: list[pq.FileMetaData] = []
        filesystem = self.storage.filesystem
        try:
            if not self.storage.is_s3:
                filesystem.create_dir(self.storage.path(directory), recursive=True)
            with filesystem.open_output_stream(self.storage.path(path)) as sink:
                table = _without_needless_nulls(table)
                options = {**self.spec.write_options, "metadata_collector": footers}
                most = self.spec.group_rows or ROW_GROUP_ROWS
                with pq.ParquetWriter(sink, table.schema, **options) as writer:
                    for start in range(0, len(table), most):
                        writer.write_table(_own_words(table.slice(start, most)), most)
                size = sink.tell()
        except OSError as error:
            raise LakeError(self.storage.explain("write to", error)) from error
        stats = footer_stats(footers[0], self.spec.stats_columns)
        return DataFile(path, size, table.num_rows, values, json.dumps(stats, separators=(",", ":")))

    def _stored_columns(self, table: pa.Table | pa.RecordBatch) -> pa.Table:
        if isinstance(table, pa.RecordBatch):
            table = pa.Table.from_batches([table])
        if table.num_rows == 0:
            raise ValueError(f"{self.spec.name}: a data file without rows")
        wanted = self.spec.file_schema
        table = table.drop_columns([c for c in self.spec.partition_by if c in table.column_names])
        kinds: list[Any] = list(table.schema.types)
        plain = [kind.value_type if pa.types.is_dictionary(kind) else kind for kind in kinds]
        if table.column_names != wanted.names or plain != wanted.types:
            raise ValueError(
                f"{self.spec.name} stores {_describe(wanted)}; these rows have {_describe(table.schema)}"
            )
        return table


def _without_needless_nulls(table: pa.Table) -> pa.Table:
    """Say which columns hold no null: those are written without a level a value, in half the time."""
    filled = [
        field.with_nullable(column.null_count > 0)
        for field, column in zip(table.schema, table.columns, strict=True)
    ]
    return pa.Table.from_arrays(table.columns, schema=pa.schema(filled))


def _own_words(rows: pa.Table) -> pa.Table:
    """Let dictionaries hold what the rows use, where these are sorted: a row group holds all of its own's."""
    for index, column in enumerate(rows.columns):
        if not pa.types.is_dictionary(column.type):
            continue
        try:
            words: Any = column.unify_dictionaries().combine_chunks()
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            # Dictionaries that make none together are written as they are.
            continue
        words = words.chunk(0) if isinstance(words, pa.ChunkedArray) else words
        used: Any = pc.min_max(words.indices).as_py()
        if used["min"] is None:
            continue
        low, high = used["min"], used["max"]
        codes = pc.subtract(words.indices, pa.scalar(low, words.indices.type))
        own = pa.DictionaryArray.from_arrays(codes, words.dictionary.slice(low, high + 1 - low))
        rows = rows.set_column(index, rows.schema.field(index), own.cast(column.type))
    return rows


def _describe(schema: pa.Schema) -> str:
    return ", ".join(f"{f.name} {f.type}" for f in schema)


def _escape(value: str | None) -> str:
    return NULL_PARTITION if value is None else quote(value, safe=" !$&'()+,-.;@_~")


def footer_stats(footer: pq.FileMetaData, columns: Iterable[str]) -> dict[str, Any]:
    """Delta's statistics of one file, from the bounds that the Parquet writer has found anyway.

    A column whose bounds are not known for every row group is left out, so that no file is skipped wrongly.
    """
    groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
    wanted = set(columns)
    lows: dict[str, Any] = {}
    highs: dict[str, Any] = {}
    nulls: dict[str, int] = {}
    for index in range(footer.num_columns):
        name = footer.schema.column(index).path
        if name not in wanted:
            continue
        chunks = [group.column(index) for group in groups]
        stats: list[Any] = [chunk.statistics if chunk.is_stats_set else None for chunk in chunks]
        if any(s is None or not s.has_null_count for s in stats):
            continue
        nulls[name] = sum(s.null_count for s in stats)
        filled = [s for s, c in zip(stats, chunks, strict=True) if s.null_count < c.num_values]
        if filled and all(s.has_min_max for s in filled):
            low, high = min(s.min for s in filled), max(s.max for s in filled)
            if all(not isinstance(v, str) or len(v) <= _LONGEST_BOUND for v in (low, high)):
                lows[name], highs[name] = _to_json(low), _to_json(high)
    return {"numRecords": footer.num_rows, "minValues": lows, "maxValues": highs, "nullCount": nulls}


def _to_json(value: Any) -> Any:
    if isinstance(value, datetime):
        if value.tzinfo is None:
            return value.isoformat(timespec="microseconds")
        return value.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
    return value.isoformat() if isinstance(value, date) else value
