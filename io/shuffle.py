"""A shuffle of rows by symbol range, or by any group, that moves only references.

Rows are too many to pass through a runner's shuffle (twice the time and four times the memory). So
``scatter`` writes the rows of each range to one spill file of Arrow IPC streams and gives a small ``Slice`` a
range; the runner groups the slices; ``gather`` reads them back. Files that hold one range only are never
scattered: they are passed by reference as they are.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import fs as pafs

from fibflow.io.storage import Storage
from fibflow.transforms.partials import encode_symbols
from fibflow.transforms.schemas import SYMBOL


class Slice(NamedTuple):
    """The rows of one symbol range within a spill file: one IPC stream.

    Attributes:
        path: of the spill file, within the staging place.
        offset, length: bytes.
        rows: how many.
    """

    path: str
    offset: int
    length: int
    rows: int


def split_symbols(weights: Iterable[tuple[str, int]], target: int) -> list[str]:
    """Return the first symbol of each range after the first, so that a range weighs about ``target``.

    Args:
        weights: symbols with their rows, in any order; a symbol may occur more than once.
        target: rows a range.
    """
    total: dict[str, int] = {}
    for symbol, weight in weights:
        total[symbol] = total.get(symbol, 0) + weight
    bounds: list[str] = []
    filled = 0
    for symbol in sorted(total):
        if filled and filled + total[symbol] / 2 > target:
            bounds.append(symbol)
            filled = 0
        filled += total[symbol]
    return bounds


def range_of(symbol: str, bounds: Sequence[str]) -> int:
    """Return the number of the range that holds a symbol."""
    return bisect_right(bounds, symbol)


def scatter(rows: pa.Table, bounds: Sequence[str], staging: Storage, path: str) -> list[tuple[int, Slice]]:
    """Write rows to the spill file ``path`` by symbol range; return (range, slice) of each that has rows.

    The order of rows within a range is kept.
    """
    if not len(rows):
        return []
    rows = rows.combine_chunks()
    symbols, codes = encode_symbols(rows["symbol"])
    names = symbols.to_pylist()
    ranges = np.array([range_of(str(name), bounds) for name in names], np.uint16)
    return _spill(rows, symbols, codes, ranges[codes], staging, path)


def scatter_groups(
    rows: pa.Table, groups: npt.NDArray[np.integer[Any]], staging: Storage, path: str
) -> list[tuple[int, Slice]]:
    """Write rows to the spill file ``path`` by group; return (group, slice) of each that has rows.

    The order of rows within a group is kept.

    Args:
        rows: has a column ``symbol``.
        groups: the number of each row's group, 0 or more, shape (n,). Small integers sort faster.
        staging: the place of the spill file.
        path: unique to this call.
    """
    if not len(rows):
        return []
    rows = rows.combine_chunks()
    symbols, codes = encode_symbols(rows["symbol"])
    return _spill(rows, symbols, codes, groups, staging, path)


def _spill(
    rows: pa.Table,
    symbols: pa.StringArray,
    codes: npt.NDArray[np.int32],
    of_row: npt.NDArray[np.integer[Any]],
    staging: Storage,
    path: str,
) -> list[tuple[int, Slice]]:
    """Write one IPC stream a group, with the part of the dictionary ``symbols`` that its rows use."""
    if (of_row[1:] < of_row[:-1]).any():
        order = np.argsort(of_row, kind="stable")
        of_row, codes = of_row[order], codes[order]
        index: Any = pa.array(order)
        rows = rows.take(index)
    starts = np.concatenate((np.zeros(1, np.intp), np.flatnonzero(of_row[1:] != of_row[:-1]) + 1))
    bounds_of_rows = np.append(starts, len(of_row)).tolist()
    firsts = np.minimum.reduceat(codes, starts).tolist()
    lasts = (np.maximum.reduceat(codes, starts) + 1).tolist()
    slices: list[tuple[int, Slice]] = []
    at = rows.schema.get_field_index("symbol")
    field = rows.schema.field("symbol").with_type(SYMBOL)
    with _sink(staging, path) as sink:
        for number, start, stop, first, last in zip(
            of_row[starts].tolist(), bounds_of_rows[:-1], bounds_of_rows[1:], firsts, lasts, strict=True
        ):
            offset = sink.tell()
            own = pa.DictionaryArray.from_arrays(
                pa.array(codes[start:stop] - np.int32(first)), symbols.slice(first, last - first)
            )
            part = rows.slice(start, stop - start).set_column(at, field, own)
            with pa.ipc.new_stream(sink, part.schema) as writer:
                writer.write_table(part)
            slices.append((number, Slice(path, offset, sink.tell() - offset, stop - start)))
    return slices


def gather(slices: Iterable[Slice], staging: Storage) -> list[pa.Table]:
    """Read slices back, in order of path and offset; a local file is mapped, not copied."""
    tables = []
    local = isinstance(staging.filesystem, pafs.LocalFileSystem)
    for part in sorted(slices):
        path = staging.path(part.path)
        with pa.memory_map(path) if local else staging.filesystem.open_input_file(path) as source:
            source.seek(part.offset)
            buffer = source.read_buffer(part.length)
        tables.append(pa.ipc.open_stream(buffer).read_all())
    return tables


def _sink(staging: Storage, path: str) -> pa.NativeFile:
    full = staging.path(path)
    if not staging.is_s3:
        staging.filesystem.create_dir(full.rpartition("/")[0], recursive=True)
    return staging.filesystem.open_output_stream(full)
