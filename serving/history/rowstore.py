"""Rows of data files, decoded once: those of one symbol are then read without those of its neighbours.

A row group holds thousands of rows of many symbols and can only be decoded as a whole, which takes longer
than all else that a request does. What was decoded is kept as records in a file without a name, which goes
with the process; the system's page cache holds what is used. Data files never change, so that nothing here
gets old.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from fibflow.io.datafiles import DataFile, TableSpec
from fibflow.io.storage import LakeError, Storage
from fibflow.serving.history.records import SYMBOL, Layout, array_of, joined, plain
from fibflow.serving.scratch import Scratch

Int64 = npt.NDArray[np.int64]

#: How many decoded row groups wait for the disk.
_WAITING = 4
#: How many data files, and how many bytes of where symbols lie in them, are remembered.
_FILES, _PLACES = 4_000, 64 << 20
_LOG = logging.getLogger("fibflow.serving")


class _Group:
    """A decoded row group: symbol k has rows ``starts[k]`` to ``starts[k + 1]``.

    Its rows are in memory until they are on the disk; None while only its symbols are known.
    """

    def __init__(self, rows: pa.Table | None, symbols: npt.NDArray[Any], starts: Int64) -> None:
        self.symbols = symbols
        self.starts = starts
        self.size = int(symbols.nbytes + starts.nbytes) + 200
        self._rows = rows
        self._place: tuple[Scratch, int] | None = None

    def knows(self, symbol: str) -> bool:
        """Whether a symbol's rows are here, or it has none."""
        return self._rows is not None or self._place is not None or not _has(self.symbols, symbol)

    @property
    def is_whole(self) -> bool:
        """Whether it has rows."""
        return self._rows is not None

    def write(self, layout: Layout, place: Callable[[int], tuple[Scratch, int]]) -> None:
        """Write the rows to where ``place`` says for so many bytes, and let go of them."""
        assert self._rows is not None
        content: Any = layout.records(self._rows).view(np.uint8)
        view = memoryview(content)
        disk, offset = place(len(view))
        disk.write(view, offset)
        self._place = disk, offset
        self._rows = None

    def records(self, layout: Layout, low: int, high: int) -> npt.NDArray[Any]:
        """Return rows by number, ``high`` not included."""
        rows = self._rows
        if rows is not None:
            return layout.records(rows.slice(low, high - low))
        assert self._place is not None
        disk, offset = self._place
        size = layout.dtype.itemsize
        return np.frombuffer(disk.read((high - low) * size, offset + low * size), layout.dtype)


#: Of a row group that was not looked at; None is one that cannot be kept.
_UNKNOWN: Any = object()


@dataclass
class _File:
    """A data file: its footer, the bounds of its row groups' symbols, and those that were decoded."""

    path: str
    footer: pq.FileMetaData
    bounds: list[tuple[str, str] | None]
    groups: dict[int, _Group | None] = field(default_factory=dict)
    size: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def knows(self, number: int, symbol: str) -> bool:
        """Whether a row group was decoded as far as a symbol needs it, or cannot be."""
        group = self.groups.get(number, _UNKNOWN)
        return group is None or (group is not _UNKNOWN and group.knows(symbol))


class RowStore:
    """Decoded rows of data files. Safe to use from several threads.

    Args:
        most_bytes: how much of the disk it may take; when that is full it begins anew.
        directory: where its file is; None for the system's place for temporary files.
    """

    def __init__(self, most_bytes: int = 6 << 30, directory: str | None = None) -> None:
        self._most = most_bytes
        self._directory = directory
        self._layouts: dict[str, Layout | None] = {}
        self._lock = threading.Lock()
        self._writer = ThreadPoolExecutor(1, "rows")
        self._waiting = threading.Semaphore(_WAITING)
        self._begin()

    def _begin(self) -> None:
        self._files: OrderedDict[str, _File] = OrderedDict()
        self._places = 0
        # The old file stays open for those who still read it.
        self._disk = Scratch(self._directory)
        self._end = 0

    def layout(self, spec: TableSpec) -> Layout | None:
        """Return how a table's rows are kept; None where they cannot be."""
        if spec.name not in self._layouts:
            self._layouts[spec.name] = Layout.of(spec)
        return self._layouts[spec.name]

    def rows(
        self,
        storage: Storage,
        spec: TableSpec,
        file: DataFile,
        symbols: Sequence[str],
        start: int | None,
        stop: int | None,
        most: int | None = None,
        first: bool = False,
    ) -> list[tuple[str, npt.NDArray[Any]]] | None:
        """Return the records of some symbols in a data file, by symbol and time; None where none are kept.

        Args:
            storage: of the table.
            spec: of the table.
            file: of the table.
            symbols: sorted.
            start: the least time, in its unit; None for any.
            stop: times are before.
            most: of each symbol only so many, at the end of a row group's or (``first``) at its beginning.
            first: see there.

        Raises:
            LakeError: the file cannot be read.
        """
        layout = self.layout(spec)
        if layout is None:
            return None
        known = self._file(storage, spec, file)
        found: list[tuple[str, npt.NDArray[Any]]] = []
        for symbol in symbols:
            parts = []
            for number, bounds in enumerate(known.bounds):
                if bounds is not None and not bounds[0] <= symbol <= bounds[1]:
                    continue
                group = self._group(storage, spec, file, known, number, layout, symbol)
                if group is None:
                    return None
                part = _records_of(group, layout, symbol, start, stop, most, first)
                if len(part):
                    parts.append(part)
            if parts:
                found.append((symbol, joined(parts)))
        return found

    def _file(self, storage: Storage, spec: TableSpec, file: DataFile) -> _File:
        path = storage.path(file.path)
        with self._lock:
            known = self._files.get(path)
            if known is not None:
                self._files.move_to_end(path)
                return known
        try:
            with storage.filesystem.open_input_file(path) as source:
                footer = pq.read_metadata(source)
        except (OSError, pa.ArrowInvalid) as error:
            raise LakeError(storage.explain(f"read {file.path} of {spec.name} at", error)) from error
        known = _File(path, footer, _bounds(footer))
        with self._lock:
            known = self._files.setdefault(path, known)
            while self._files and (len(self._files) > _FILES or self._places > _PLACES):
                _, gone = self._files.popitem(last=False)
                self._places -= gone.size
        return known

    def _group(
        self,
        storage: Storage,
        spec: TableSpec,
        file: DataFile,
        known: _File,
        number: int,
        layout: Layout,
        symbol: str,
    ) -> _Group | None:
        if not known.knows(number, symbol):
            with known.lock:
                if not known.knows(number, symbol):
                    group = self._decoded(storage, spec, file, known.footer, number, layout, symbol)
                    before = known.groups.get(number)
                    known.groups[number] = group
                    if group is not None:
                        self._keep(known, number, group, layout, before)
                    return group
        return known.groups.get(number)

    def has(self, storage: Storage, file: DataFile) -> bool:
        """Whether something of a file was decoded."""
        known = self._files.get(storage.path(file.path))
        return known is not None and bool(known.groups)

    def holds(self, storage: Storage, file: DataFile, symbol: str) -> bool:
        """Whether all of a symbol in a file was decoded: ``rows`` then reads no data file."""
        known = self._files.get(storage.path(file.path))
        return known is not None and all(
            known.knows(number, symbol)
            for number, bounds in enumerate(known.bounds)
            if bounds is None or bounds[0] <= symbol <= bounds[1]
        )

    def has_rows(self, storage: Storage, file: DataFile, symbol: str) -> bool:
        """Whether any of what was decoded of a file is of a symbol."""
        known = self._files.get(storage.path(file.path))
        return known is not None and any(
            group is not None and _has(group.symbols, symbol) for group in list(known.groups.values())
        )

    def _decoded(
        self,
        storage: Storage,
        spec: TableSpec,
        file: DataFile,
        footer: Any,
        number: int,
        layout: Layout,
        symbol: str,
    ) -> _Group | None:
        """Return a row group's symbols, and its rows where one is of ``symbol``; None: it cannot be kept."""
        # A bucket is asked once; of a disk nothing is read for nothing.
        columns = [SYMBOL, *layout.kinds]
        first, rest = (columns, []) if storage.is_s3 else (columns[:1], columns[1:])
        try:
            with storage.filesystem.open_input_file(storage.path(file.path)) as source:
                parquet = pq.ParquetFile(
                    source, metadata=footer, read_dictionary=[SYMBOL], pre_buffer=storage.is_s3
                )
                rows = parquet.read_row_group(number, columns=first, use_threads=True)
                found = _runs(rows[SYMBOL])
                if found is None:
                    return None
                names, starts = found
                if rest and not _has(names, symbol):
                    return _Group(None, names, starts)
                if rest:
                    rows = parquet.read_row_group(number, columns=rest, use_threads=True)
        except (OSError, pa.ArrowInvalid) as error:
            raise LakeError(storage.explain(f"read {file.path} of {spec.name} at", error)) from error
        rows = rows.select(columns[1:]).cast(pa.schema([spec.schema.field(name) for name in layout.kinds]))
        if rows[layout.time].null_count:
            return None
        times = array_of(plain(rows[layout.time].combine_chunks()))
        falls = times[1:] < times[:-1]
        falls[starts[1:-1] - 1] = False
        return None if falls.any() else _Group(rows, names, starts)

    def _keep(self, known: _File, number: int, group: _Group, layout: Layout, before: _Group | None) -> None:
        """Write a group, behind the answer where not too many wait already; ``before``: its symbols alone."""

        def write() -> None:
            try:
                group.write(layout, self._place)
            except OSError as error:
                # Without room on the disk each question decodes anew.
                _LOG.warning("rows are not kept: %s", error)
                known.groups.pop(number, None)
                self._count(known, -group.size)

        def write_later() -> None:
            try:
                write()
            finally:
                self._waiting.release()

        self._count(known, group.size - (0 if before is None else before.size))
        if not group.is_whole:
            return
        if self._waiting.acquire(blocking=False):
            self._writer.submit(write_later)
        else:
            write()

    def _count(self, known: _File, size: int) -> None:
        """Note that so many more bytes of a file are remembered, where it still is."""
        with self._lock:
            known.size += size
            if self._files.get(known.path) is known:
                self._places += size

    def _place(self, size: int) -> tuple[Scratch, int]:
        """Return where so many bytes can be written."""
        with self._lock:
            if self._end + size > self._most and self._end:
                self._begin()
            self._end += size
            return self._disk, self._end - size

    def settle(self) -> None:
        """Wait until all that was decoded is on the disk."""
        self._writer.submit(int).result()


def _runs(column: Any) -> tuple[npt.NDArray[Any], Int64] | None:
    """Return the symbols of sorted rows and where the rows of each begin, the end last; None where not so."""
    symbols: Any = column.combine_chunks()
    symbols = symbols.chunk(0) if isinstance(symbols, pa.ChunkedArray) else symbols
    if not len(symbols) or symbols.null_count:
        return None
    codes = array_of(symbols.indices)
    starts = np.flatnonzero(np.append(True, codes[1:] != codes[:-1]))
    texts = symbols.dictionary.take(pa.array(codes[starts])).to_pylist()
    names = np.array([str(name).encode() for name in texts])
    if len(names) > 1 and not (names[:-1] < names[1:]).all():
        return None
    return names, np.append(starts, len(codes)).astype(np.int64)


def _has(names: npt.NDArray[Any], symbol: str) -> bool:
    name = symbol.encode()
    at = int(np.searchsorted(names, name))
    return at < len(names) and bool(names[at] == name)


def _bounds(footer: pq.FileMetaData) -> list[tuple[str, str] | None]:
    """The least and the greatest symbol of each row group; None where they are not known."""
    place = next(i for i in range(footer.num_columns) if footer.schema.column(i).path == SYMBOL)
    found: list[tuple[str, str] | None] = []
    for number in range(footer.num_row_groups):
        stats: Any = footer.row_group(number).column(place).statistics
        known = stats is not None and stats.has_min_max
        found.append((str(stats.min), str(stats.max)) if known else None)
    return found


def _records_of(
    group: _Group,
    layout: Layout,
    symbol: str,
    start: int | None,
    stop: int | None,
    most: int | None,
    first: bool,
) -> npt.NDArray[Any]:
    if not _has(group.symbols, symbol):
        return np.zeros(0, layout.dtype)
    at = int(np.searchsorted(group.symbols, symbol.encode()))
    low, high = int(group.starts[at]), int(group.starts[at + 1])
    if most is not None and start is None and stop is None:
        low, high = (low, min(high, low + most)) if first else (max(low, high - most), high)
    found = group.records(layout, low, high)
    if start is not None or stop is not None:
        times = found[layout.time]
        begin = 0 if start is None else int(np.searchsorted(times, start))
        end = len(found) if stop is None else int(np.searchsorted(times, stop))
        found = found[begin:end]
    if most is None:
        return found
    return found[:most] if first else found[max(0, len(found) - most) :]
