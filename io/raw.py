"""Raw Parquet and CSV files in whatever dialect they come, as rows of one canonical schema, ``RAW``."""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from fibflow.io.aws import explain_s3_error
from fibflow.io.convert import Column, constant, from_unit, is_text, to_double, to_int, to_symbol, to_utc_us
from fibflow.io.dialect import (
    OPTIONAL,
    Kind,
    Layout,
    check_complete,
    check_interval,
    check_symbol,
    compact,
    fill_times,
    lay_out,
    text_of,
    texts_of,
)
from fibflow.io.files import InputError, RawFile
from fibflow.io.rawcsv import read_csv
from fibflow.transforms.schemas import RAW

# An object of up to this many bytes is fetched in one request; of a larger one only the columns' ranges.
_WHOLE_OBJECT = 16 << 20


class FileStats(NamedTuple):
    """What a Parquet footer says of a file; a bound that it does not give is None.

    Attributes:
        rows: Rows.
        row_groups: Row groups.
        symbol_min: Least symbol.
        symbol_max: Greatest symbol.
        ts_min: Earliest time, microseconds since 1970, UTC.
        ts_max: Latest time.
    """

    rows: int
    row_groups: int
    symbol_min: str | None
    symbol_max: str | None
    ts_min: int | None
    ts_max: int | None


class RawReader:
    """Reads raw files of one filesystem. Safe to use from several threads.

    Args:
        filesystem: Where the files are: what ``filesystem_for`` returns.
    """

    def __init__(self, filesystem: pafs.FileSystem) -> None:
        self._filesystem = filesystem
        self._local = isinstance(filesystem, pafs.LocalFileSystem)
        # Thousands of files share a schema: the last one's layout is kept.
        self._last: tuple[pa.Schema, Layout] | None = None

    def read(
        self,
        file: RawFile,
        kind: Kind = "daily",
        columns: Sequence[str] | None = None,
        row_groups: Sequence[int] | None = None,
    ) -> pa.Table:
        """Read a file's rows, in their order in the file, unvalidated.

        What cannot be read as a time or a number is null, and so are the optional columns that a file lacks.
        Columns are chunked as the file is (dictionaries unified).

        Args:
            file: The file.
            kind: What a column ``interval`` must agree with.
            columns: Names of ``RAW``; all by default.
            row_groups: Row groups of a Parquet file; all by default.

        Returns:
            A table with the schema ``RAW``, or those columns of it.

        Raises:
            InputError: The file is corrupt or gone, lacks a column or has one of a type that cannot be read;
                its symbol contradicts its path; or its interval is another one.
        """
        schema = RAW if columns is None else _part_of_raw(tuple(columns))
        rows, found = self._found(file, kind, schema.names, row_groups)
        arrays = [_canonical(file, field, found.get(field.name), rows) for field in schema]
        return pa.Table.from_arrays(arrays, schema=schema)

    def read_many(
        self, files: Sequence[RawFile], kind: Kind, columns: Sequence[str]
    ) -> tuple[pa.Table, list[int]]:
        """Read files one after another, as ``read`` does, but convert what they have in common at once.

        For thousands of small files that is much of the work. Optional columns that no file has are left out.

        Returns:
            The rows, and how many each file has.

        Raises:
            InputError: As ``read``.
        """
        schema = _part_of_raw(tuple(columns))
        parts = [self._found(file, kind, schema.names, None) for file in files]
        lengths = [rows for rows, _ in parts]
        found: dict[str, Any] = {}
        for field in schema:
            name = field.name
            kinds = {part[name].type if name in part else None for _, part in parts}
            if name == "symbol" and all(file.symbol is not None for file in files):
                found[name] = _symbols(files, lengths)
            elif kinds == {None} and name in OPTIONAL:
                continue
            elif len(kinds) == 1 and _alike(name, *kinds):
                chunks = [chunk for _, part in parts for chunk in _chunks(part[name])]
                found[name] = _CONVERT[name](pa.chunked_array(chunks))
            else:
                each = (
                    _canonical(file, field, part.get(name), rows)
                    for file, (rows, part) in zip(files, parts, strict=True)
                )
                found[name] = pa.chunked_array(
                    [chunk for column in each for chunk in _chunks(column)], field.type
                )
        return pa.table(found, schema=pa.schema([schema.field(name) for name in found])), lengths

    def _found(
        self, file: RawFile, kind: Kind, wanted: Sequence[str], row_groups: Sequence[int] | None
    ) -> tuple[int, dict[str, Column]]:
        """Return a file's number of rows and its columns as it has them, by canonical name."""
        with self._source(file) as source:
            if file.is_parquet:
                return self._read_parquet(file, source, kind, wanted, row_groups)
            return read_csv(file, source, kind, wanted)

    def statistics(self, file: RawFile) -> FileStats | None:
        """Return what the footer says of a Parquet file, None for CSV.

        Raises:
            InputError: The file is corrupt or gone, or lacks a column.
        """
        if not file.is_parquet:
            return None
        with self._source(file, whole=False) as source:
            metadata = pq.read_metadata(source)
            layout = self._layout(metadata.schema.to_arrow_schema(), file, metadata, tuple(RAW.names))
        low, high = file.symbol, file.symbol
        if file.symbol is None and (found := _bounds(metadata, layout.leaves.get(layout.sources["symbol"]))):
            low, high = min(found), max(found)
        first, last = _time_bounds(metadata, layout)
        return FileStats(metadata.num_rows, metadata.num_row_groups, low, high, first, last)

    def footers(self, files: Iterable[RawFile], threads: int = 2) -> list[FileStats | None]:
        """Return ``statistics`` of each file, in order. On S3 more threads than cores pay.

        Raises:
            InputError: As ``statistics``, of the first file that cannot be read.
        """
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(self.statistics, files))

    @contextmanager
    def _source(self, file: RawFile, whole: bool = True) -> Iterator[Any]:
        """Open a file; what goes wrong before the ``with`` ends becomes an ``InputError``."""
        try:
            if not file.is_parquet:
                # By its name, ``.gz`` is decompressed.
                with self._filesystem.open_input_stream(file.path) as stream:
                    yield stream
                return
            with self._filesystem.open_input_file(file.path) as source:
                if self._local or not whole or file.size > _WHOLE_OBJECT:
                    yield source
                else:
                    yield pa.BufferReader(source.read_buffer())
        except InputError:
            raise
        except FileNotFoundError as error:
            raise InputError(f"{file.path}: the file is gone; run again") from error
        except PermissionError as error:
            raise InputError(f"{file.path}: no permission to read it") from error
        except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
            if "AWS Error" in str(error):
                raise InputError(explain_s3_error(error, f"s3://{file.path}")) from error
            form = "Parquet" if file.is_parquet else "CSV"
            line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"{file.path}: cannot be read as {form} ({line}); replace it, or move it away"
            ) from error

    def _read_parquet(
        self, file: RawFile, source: Any, kind: Kind, wanted: Sequence[str], row_groups: Sequence[int] | None
    ) -> tuple[int, dict[str, Column]]:
        """Return the number of rows and the columns as the file has them, by canonical name."""
        options: dict[str, Any] = {"pre_buffer": not self._local, "coerce_int96_timestamp_unit": "us"}
        parquet = pq.ParquetFile(source, **options)
        metadata, schema = parquet.metadata, parquet.schema_arrow
        layout = self._layout(schema, file, metadata, wanted)
        names = {name: layout.sources[name] for name in wanted if name in layout.sources}
        symbol, checks = layout.sources.get("symbol"), {}
        if file.symbol is not None and symbol is not None:
            names.pop("symbol", None)
            if (found := _bounds(metadata, layout.leaves.get(symbol))) is None:
                checks["symbol"] = symbol
            else:
                check_symbol(file, found)
        if layout.interval is not None:
            if (found := _bounds(metadata, layout.leaves.get(layout.interval))) is None:
                checks["interval"] = layout.interval
            else:
                check_interval(file, kind, found)
        if "symbol" in names and is_text(schema.field(names["symbol"]).type):
            parquet = pq.ParquetFile(source, metadata=metadata, read_dictionary=[names["symbol"]], **options)

        def read(columns: list[str]) -> pa.Table:
            if row_groups is None:
                return parquet.read(columns, use_threads=False)
            return parquet.read_row_groups(list(row_groups), columns, use_threads=False)

        table = read([*names.values(), *checks.values()])
        if "symbol" in checks:
            check_symbol(file, texts_of(table.column(checks["symbol"])))
        if "interval" in checks:
            check_interval(file, kind, texts_of(table.column(checks["interval"])))
        of_file = dict(zip(table.column_names, table.columns, strict=True))
        columns = {name: compact(of_file[source]) for name, source in names.items()}
        for spare in layout.spare_times if "ts" in names else ():
            if not columns["ts"].null_count:
                break
            columns["ts"] = fill_times(columns["ts"], read([spare]).column(spare))
        return table.num_rows, columns

    def _layout(
        self, schema: pa.Schema, file: RawFile, metadata: pq.FileMetaData, wanted: Sequence[str]
    ) -> Layout:
        last = self._last
        if last is None or not last[0].equals(schema):
            leaves = {metadata.schema.column(i).path: i for i in range(metadata.num_columns)}
            last = self._last = schema, lay_out(schema.names, file, leaves)
        check_complete(last[1], schema.names, file, wanted)
        return last[1]


@functools.cache
def _part_of_raw(columns: tuple[str, ...]) -> pa.Schema:
    return pa.schema([field for field in RAW if field.name in columns])


def _bounds(metadata: Any, leaf: int | None) -> set[str] | None:
    """Return the least and greatest texts of a column's row groups, None where the footer lacks one."""
    if leaf is None:
        return None
    found: set[str] = set()
    for i in range(metadata.num_row_groups):
        statistics = metadata.row_group(i).column(leaf).statistics
        if statistics is None:
            return None
        if statistics.has_min_max:
            for value in (statistics.min, statistics.max):
                if not isinstance(value, str | bytes):
                    return None
                found.add(text_of(value))
        elif not statistics.has_null_count or statistics.num_values:
            return None
    return found


def _time_bounds(metadata: Any, layout: Layout) -> tuple[int | None, int | None]:
    """Return the first and last time in microseconds, (None, None) where the footer does not give them."""
    name = layout.sources["ts"]
    leaf = layout.leaves.get(name)
    if leaf is None or not metadata.num_rows:
        return None, None
    raw: list[int] = []
    for i in range(metadata.num_row_groups):
        statistics = metadata.row_group(i).column(leaf).statistics
        if statistics is None or not statistics.has_min_max:
            return None, None
        if statistics.physical_type not in ("INT32", "INT64"):
            return None, None
        if layout.spare_times and (statistics.null_count or not statistics.has_null_count):
            return None, None
        raw.extend((statistics.min_raw, statistics.max_raw))
    described = metadata.schema.column(leaf).logical_type.to_json().lower()
    values = np.array([min(raw), max(raw)], dtype=np.int64)
    for unit, spelling in (("ms", "milli"), ("us", "micro"), ("ns", "nano"), ("D", "date")):
        if spelling in described:
            first, last = from_unit(values, np.zeros(2, np.bool_), unit).cast(pa.int64()).to_pylist()
            return first, last
    # Epoch numbers take their unit from the whole column (see to_utc_us): the footer cannot tell it.
    return None, None


def _canonical(file: RawFile, field: pa.Field, column: Column | None, rows: int) -> Column:
    """Return a file's column in the type of ``RAW``.

    Raises:
        InputError: Its type cannot be read.
    """
    if field.name == "symbol" and file.symbol is not None:
        return _symbols([file], [rows])
    if column is None:
        return constant(None, field.type, rows)
    try:
        return _CONVERT[field.name](column)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError, TypeError) as error:
        raise InputError(
            f"{file.path}: the column for {field.name} has the type {column.type}, which cannot be "
            f"read; write it as {_EXPECTED.get(field.name, 'a number')}"
        ) from error


def _symbols(files: Sequence[RawFile], lengths: Sequence[int]) -> Any:
    """Return the symbols that files' folders name, a row each."""
    # Several files may be of one symbol: a dictionary holds each value once.
    places: dict[str | None, int] = {}
    of_file = [places.setdefault(file.symbol, len(places)) for file in files]
    names = pa.array([str(name) for name in places], pa.string())
    codes = np.repeat(np.array(of_file, np.int32), lengths)
    indices: Any = pa.array(codes)
    return pa.DictionaryArray.from_arrays(indices, names, safe=False)


def _alike(name: str, kind: pa.DataType | None) -> bool:
    """Return whether a type means the same in every file: text and epochs are judged file by file."""
    if kind is None:
        return False
    if name == "ts":
        return pa.types.is_timestamp(kind) or pa.types.is_date(kind)
    return name != "symbol" and (pa.types.is_floating(kind) or pa.types.is_integer(kind))


def _chunks(column: Any) -> list[pa.Array]:
    return column.chunks if isinstance(column, pa.ChunkedArray) else [column]


_CONVERT = {
    "symbol": to_symbol,
    "ts": to_utc_us,
    "trade_count": to_int,
    "version": to_int,
    **dict.fromkeys(("open", "high", "low", "close", "volume", "vwap"), to_double),
}
_EXPECTED = {"symbol": "text", "ts": "a timestamp, a date, an epoch number or ISO text"}
