"""Which symbols the files of a table hold, and from when to when. A file never changes: it is read once."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fibflow.io.lake import LakeTable, TableMissing
from fibflow.io.rowfilter import Where, plain_array
from fibflow.io.snapshot import Snapshot
from fibflow.io.storage import LakeError, Storage

_S3_THREADS, _LOCAL_THREADS = 16, 2

Codes = npt.NDArray[np.int32]


class Names:
    """Numbers for names, the same as long as the process lives."""

    def __init__(self) -> None:
        self.array: Any = plain_array([], pa.string())

    def codes(self, words: Any) -> Codes:
        """Return the numbers of distinct names, shape (n,); new ones get the next."""
        found: Any = pc.index_in(words, value_set=self.array)
        if found.null_count:
            self.array = pa.concat_arrays([self.array, words.filter(found.is_null())])
            found = pc.index_in(words, value_set=self.array)
        return np.asarray(found)


class TableSymbols:
    """The symbols of one table, as it was when last refreshed. For one thread at a time."""

    def __init__(self, table: LakeTable, names: Names) -> None:
        self.table = table
        self.snapshot: Snapshot | None = None
        self._names = names
        self._files: dict[str, Codes] = {}

    @property
    def version(self) -> int:
        """Of the table, -1 where there is none."""
        return -1 if self.snapshot is None else self.snapshot.version

    @property
    def properties(self) -> dict[str, str]:
        """Of the table; none where there is none."""
        return {} if self.snapshot is None else self.snapshot.properties

    def refresh(self) -> bool:
        """Read what came since the last time; returns whether anything did.

        Raises:
            LakeError: the table cannot be read. What was known stays.
        """
        head = self.table.version
        if head == self.version:
            return False
        try:
            snapshot = self.table.snapshot() if head >= 0 else None
        except TableMissing:
            snapshot = None
        if snapshot is None:
            self.snapshot, self._files = None, {}
            return True
        fresh = [path for path in snapshot.unquoted_paths if path not in self._files]
        found = dict(zip(fresh, _symbols_of(snapshot, fresh), strict=True))
        known = self._files
        self._files = {
            path: known[path] if path in known else self._names.codes(found[path])
            for path in snapshot.unquoted_paths
        }
        self.snapshot = snapshot
        return True

    def held(self) -> npt.NDArray[np.bool_]:
        """Return which of the names the table holds, shape (names,)."""
        mask = np.zeros(len(self._names.array), np.bool_)
        for codes in self._files.values():
            mask[codes] = True
        return mask


def _symbols_of(snapshot: Snapshot, paths: Sequence[str]) -> list[Any]:
    """Return the distinct symbols of each of some files."""
    bounds: list[Any] = [
        snapshot.files[name].to_pylist() if name in snapshot.files.column_names else [None] * len(snapshot)
        for name in ("min.symbol", "max.symbol")
    ]
    known = dict(zip(snapshot.unquoted_paths, zip(*bounds, strict=True), strict=True))
    alone = {path: low for path in paths if (low := known[path][0]) is not None and low == known[path][1]}
    rest = [path for path in paths if path not in alone]
    storage = snapshot.storage
    threads = min(len(rest), _S3_THREADS if storage.is_s3 else _LOCAL_THREADS)
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            read = list(pool.map(lambda path: _distinct(storage, snapshot.spec.name, path), rest))
    else:
        read = [_distinct(storage, snapshot.spec.name, path) for path in rest]
    found = dict(zip(rest, read, strict=True))
    return [found[path] if path in found else plain_array([alone[path]], pa.string()) for path in paths]


def _distinct(storage: Storage, table: str, path: str) -> Any:
    """Return the distinct symbols of a file: of each row group the dictionary alone."""
    try:
        with storage.filesystem.open_input_file(storage.path(path)) as source:
            parquet = pq.ParquetFile(source, read_dictionary=["symbol"], pre_buffer=storage.is_s3)
            words = []
            for group in range(parquet.num_row_groups):
                column: Any = parquet.read_row_group(group, ["symbol"], use_threads=False)["symbol"]
                words += [chunk.dictionary for chunk in column.chunks]
    except (OSError, pa.ArrowInvalid) as error:
        raise LakeError(storage.explain(f"read {path} of {table} at", error)) from error
    unique: Any = pa.chunked_array(words, pa.string()).unique()
    return unique.drop_null()


def span(snapshot: Snapshot, symbol: str, where: Where | None = None) -> tuple[int, int] | None:
    """Return the first and the last time of a symbol's rows, in the unit of the table's time column.

    Files are opened from both ends of time until none can change the answer.
    """
    time = str(snapshot.spec.time_column)
    ends = []
    for first in (True, False):
        rows, _ = snapshot.tail(1, symbol, [time], where, first=first)
        if not len(rows):
            return None
        column = rows[time]
        ends.append(
            int(column.cast(pa.int32() if pa.types.is_date32(column.type) else pa.int64())[0].as_py())
        )
    return ends[0], ends[1]


def holds(snapshot: Snapshot, symbol: str, where: Where) -> bool:
    """Return whether a table has a row of a symbol; files are opened from the newest on."""
    rows, _ = snapshot.tail(1, symbol, ["symbol"], where)
    return len(rows) > 0
