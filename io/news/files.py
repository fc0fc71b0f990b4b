"""Files of ``reference.news``: rows at places of one, with as little read as can be. A file never changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from fibflow.io.datafiles import DataFile
from fibflow.io.storage import LakeError, Storage
from fibflow.io.tables import NEWS

Int64 = npt.NDArray[np.int64]
T = TypeVar("T")
R = TypeVar("R")

_S3_THREADS, _LOCAL_THREADS = 16, 2
_WHERE = f"of {NEWS.name} at"


def rows_at(
    storage: Storage,
    file: DataFile,
    places: Int64,
    columns: Sequence[str] | None = None,
    footer: pq.FileMetaData | None = None,
) -> pa.Table:
    """Return the rows at some places of a file, in the order of the places.

    Args:
        storage: of the table.
        file: of the table.
        places: numbers of rows, from 0.
        columns: of ``NEWS``; by default all that are stored.
        footer: of the file, where it is known.

    Raises:
        LakeError: the file cannot be read.
    """
    wanted = list(columns) if columns is not None else NEWS.file_schema.names
    schema = pa.schema([NEWS.schema.field(name) for name in wanted])
    if not len(places):
        return schema.empty_table()
    try:
        with storage.filesystem.open_input_file(storage.path(file.path)) as source:
            parquet = pq.ParquetFile(source, metadata=footer, pre_buffer=storage.is_s3)
            ends = ends_of(parquet.metadata)
            groups = np.searchsorted(ends, places, side="right")
            needed, at = np.unique(groups, return_inverse=True)
            rows = parquet.read_row_groups(needed.tolist(), columns=wanted, use_threads=False)
    except (OSError, pa.ArrowInvalid) as error:
        raise LakeError(storage.explain(f"read {file.path} {_WHERE}", error)) from error
    begins = np.concatenate([[0], ends[:-1]])
    sizes = (ends - begins)[needed]
    shifts = np.cumsum(sizes) - sizes
    return rows.select(wanted).take(pa.array(shifts[at] + places - begins[groups])).cast(schema)


def whole(storage: Storage, file: DataFile, columns: Sequence[str]) -> tuple[pa.Table, pq.FileMetaData]:
    """Return some columns of all rows of a file, and its footer.

    Raises:
        LakeError: the file cannot be read.
    """
    try:
        with storage.filesystem.open_input_file(storage.path(file.path)) as source:
            parquet = pq.ParquetFile(source, pre_buffer=storage.is_s3)
            rows = parquet.read(columns=list(columns), use_threads=False).select(list(columns))
            return rows.cast(pa.schema([NEWS.schema.field(name) for name in columns])), parquet.metadata
    except (OSError, pa.ArrowInvalid) as error:
        raise LakeError(storage.explain(f"read {file.path} {_WHERE}", error)) from error


def ends_of(footer: pq.FileMetaData) -> Int64:
    """Return the number of the row behind each row group."""
    counts = [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
    return np.cumsum(np.array(counts, np.int64))


def of_each(
    storage: Storage, work: Iterable[T], call: Callable[[T], R], at_once: int = _LOCAL_THREADS
) -> list[R]:
    """Return what a call gives for each of some files, in order; in a bucket more at once than given."""
    items = list(work)
    threads = min(len(items), _S3_THREADS if storage.is_s3 else at_once)
    if threads < 2:
        return [call(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(call, items))


def digests(ids: Any) -> npt.NDArray[np.uint64]:
    """Return a number for each id, the same for the same ids, and hardly ever for others; shape (n,).

    It is made of an id's length, its first 16 bytes and its last 16.
    """
    array: Any = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    if not len(array):
        return np.zeros(0, np.uint64)
    _, offsets, data = array.buffers()
    edges = np.frombuffer(offsets, np.int32)[array.offset : array.offset + len(array) + 1].astype(np.int64)
    text = np.frombuffer(data, np.uint8)
    begins, stops = edges[:-1], edges[1:]
    found = (stops - begins).astype(np.uint64)
    for part in range(4):
        first = begins + 8 * part if part < 2 else stops - 8 * (4 - part)
        places = first[:, None] + np.arange(8)
        inside = (places >= begins[:, None]) & (places < stops[:, None])
        letters = np.where(inside, text[np.clip(places, 0, len(text) - 1)], 0).astype(np.uint8)
        # An odd factor keeps all bits; the shift brings the high ones down.
        found = (found ^ letters.view(np.uint64)[:, 0]) * np.uint64(0x9E3779B97F4A7C15)
        found ^= found >> np.uint64(29)
    return found
