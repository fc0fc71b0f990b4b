"""A snapshot whose point reads come from a row store."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fibflow.io.datafiles import DataFile
from fibflow.io.rowfilter import Filter, Instant, Where
from fibflow.io.snapshot import ReadStats, Snapshot
from fibflow.serving.history.records import SYMBOL, SymbolRows, joined
from fibflow.serving.history.rowstore import RowStore
from fibflow.transforms.partials import as_arrow

#: A question of more symbols reads whole row groups.
_FEW = 4
_LOCAL_THREADS, _S3_THREADS = 2, 16


@dataclass(frozen=True)
class _Files:
    """The files of one partition of a table, as lists: rows of ``Snapshot.files``, and their bounds."""

    rows: list[int]
    lows: list[str | None]
    highs: list[str | None]
    begins: list[int | None]
    ends: list[int | None]


class KeptSnapshot(Snapshot):
    """A snapshot whose point reads come from a row store."""

    def __init__(self, snapshot: Snapshot, store: RowStore) -> None:
        super().__init__(
            snapshot.storage, snapshot.spec, snapshot.version, snapshot.properties, snapshot.files
        )
        self._store = store
        self._layout = store.layout(snapshot.spec)
        self._partitions = self._listed()
        self._described_files: dict[int, DataFile] = {}
        self._found: dict[tuple[str | None, str], list[tuple[int, int | None, int | None]]] = {}

    def _listed(self) -> dict[str | None, _Files]:
        if not len(self) or self._layout is None or "min.symbol" not in self.files.column_names:
            return {}
        names = self.files.column_names

        def values(name: str) -> list[Any]:
            if name not in names:
                return [None] * len(self)
            column: Any = self.files.column(name)
            if not pa.types.is_string(column.type) and not pa.types.is_large_string(column.type):
                column = column.cast(pa.int32() if pa.types.is_date32(column.type) else pa.int64())
            return list(column.to_pylist())

        time = self.spec.time_column
        columns = [values(n) for n in ("min.symbol", "max.symbol", f"min.{time}", f"max.{time}")]
        parted = "timeframe" in self.spec.partition_by
        of = values("partition.timeframe") if parted else [None] * len(self)
        found: dict[str | None, _Files] = {}
        for row, (name, *bounds) in enumerate(zip(of, *columns, strict=True)):
            files = found.setdefault(name, _Files([], [], [], [], []))
            files.rows.append(row)
            lists: tuple[list[Any], ...] = (files.lows, files.highs, files.begins, files.ends)
            for listed, bound in zip(lists, bounds, strict=True):
                listed.append(bound)
        return found

    def _point(self, condition: Filter) -> tuple[str | None, list[str]] | None:
        """The timeframe and the symbols of a question that the store answers; None for any other."""
        symbols: Any = condition.values.get(SYMBOL)
        if self._layout is None or not self._partitions or symbols is None or len(symbols) > _FEW:
            return None
        timeframe = None
        if "timeframe" in self.spec.partition_by:
            asked: Any = condition.values.get("timeframe")
            if asked is None or len(asked) != 1:
                return None
            timeframe = asked[0].as_py()
        return timeframe, symbols.to_pylist()

    def _candidates_of(self, timeframe: str | None, symbol: str) -> list[tuple[int, int | None, int | None]]:
        """The files that may hold a symbol, with the bounds of their times."""
        key = timeframe, symbol
        found = self._found.get(key)
        if found is None:
            files = self._partitions.get(timeframe)
            found = (
                []
                if files is None
                else [
                    (row, begin, end)
                    for row, low, high, begin, end in zip(
                        files.rows, files.lows, files.highs, files.begins, files.ends, strict=True
                    )
                    if (low is None or low <= symbol) and (high is None or symbol <= high)
                ]
            )
            self._found[key] = found
        return found

    def _file_at(self, row: int) -> DataFile:
        found = self._described_files.get(row)
        if found is None:
            mask = np.zeros(len(self), np.bool_)
            mask[row] = True
            (found,) = self._described(as_arrow(mask))
            self._described_files[row] = found
        return found

    def _within(self, condition: Filter, point: tuple[str | None, list[str]]) -> dict[int, tuple[Any, Any]]:
        timeframe, symbols = point
        start, stop = _bound(condition.start), _bound(condition.stop)
        return {
            row: (begin, end)
            for symbol in symbols
            for row, begin, end in self._candidates_of(timeframe, symbol)
            if (start is None or end is None or end >= start)
            and (stop is None or begin is None or begin < stop)
        }

    def located(self, condition: Filter) -> list[DataFile]:
        """The files that may hold such rows, in order of path."""
        point = self._point(condition)
        if point is None:
            return super().located(condition)
        return sorted(map(self._file_at, self._within(condition, point)), key=lambda file: file.path)

    def by_time(self, condition: Filter, first: bool = False) -> list[tuple[DataFile, float]]:
        """The files that may hold such rows by the latest time that each may hold; see ``Snapshot``."""
        point = self._point(condition)
        if point is None:
            return super().by_time(condition, first)
        unknown = float("-inf") if first else float("inf")
        found = []
        for row, bounds in self._within(condition, point).items():
            bound = bounds[0] if first else bounds[1]
            found.append((self._file_at(row), unknown if bound is None else bound))
        return sorted(found, key=lambda pair: pair[1], reverse=not first)

    def parts(
        self,
        files: Sequence[DataFile],
        columns: Sequence[str] | None,
        condition: Filter,
        dictionary: Collection[str] = (),
        most: int | None = None,
        first: bool = False,
    ) -> tuple[list[pa.Table], ReadStats]:
        """The rows of each of some files; of few symbols from the store."""
        symbols: Any = condition.values.get(SYMBOL)
        if self._layout is None or symbols is None or len(symbols) > _FEW or dictionary or not files:
            return super().parts(files, columns, condition, dictionary)
        wanted = list(columns) if columns is not None else self.spec.schema.names
        names: list[str] = symbols.to_pylist()
        rest = condition.without({SYMBOL, *self.spec.partition_by}).values
        bounds = _bound(condition.start), _bound(condition.stop)
        cut = None if rest else most

        def one(file: DataFile) -> pa.Table:
            found = self._store.rows(self.storage, self.spec, file, names, *bounds, cut, first)
            if found is None:
                return super(KeptSnapshot, self).parts([file], columns, condition)[0][0]
            needed = list(dict.fromkeys([*wanted, *rest]))
            rows = self._table(found, file, needed)
            return _filtered(rows, rest).select(wanted) if rest else rows

        self._prepare(files, names)
        return [one(file) for file in files], ReadStats(len(files))

    def _prepare(self, files: Sequence[DataFile], symbols: Sequence[str]) -> None:
        """Decode what is not yet of several files, at once."""
        missing = [file for file in files if not self._store.has(self.storage, file)]
        if len(missing) < 2:
            return

        def decode(file: DataFile) -> None:
            self._store.rows(self.storage, self.spec, file, symbols, None, None, 1)

        with ThreadPoolExecutor(
            min(len(missing), _S3_THREADS if self.storage.is_s3 else _LOCAL_THREADS)
        ) as pool:
            list(pool.map(decode, missing))

    def read(
        self,
        columns: Sequence[str] | None = None,
        symbols: str | Collection[str] | None = None,
        ts_from: Instant | None = None,
        ts_to: Instant | None = None,
        where: Where | None = None,
        dictionary: Collection[str] = (),
    ) -> tuple[pa.Table, ReadStats]:
        """The rows that hold, exactly; of one symbol from the store, as one table. See ``Snapshot``."""
        condition = Filter.of(self.spec, symbols, ts_from, ts_to, where)
        files = self.located(condition)
        found = None if dictionary else self._of_one(files, columns, condition)
        if found is None:
            return super().read(columns, symbols, ts_from, ts_to, where, dictionary)
        return found[0], ReadStats(len(files))

    def stamped(
        self, files: Sequence[DataFile], columns: Sequence[str] | None, condition: Filter
    ) -> tuple[pa.Table, pa.Array]:
        """The rows of some files, and when each one's file came; of one symbol from the store."""
        found = self._of_one(files, columns, condition)
        return super().stamped(files, columns, condition) if found is None else found

    def _of_one(
        self, files: Sequence[DataFile], columns: Sequence[str] | None, condition: Filter
    ) -> tuple[pa.Table, pa.Array] | None:
        """The rows of one symbol, and when each one's file came; None where the store does not have them.

        They are put together as records: a table a file takes longer than all the rest.
        """
        symbols: Any = condition.values.get(SYMBOL)
        wanted = list(columns) if columns is not None else self.spec.schema.names
        rest = condition.without({SYMBOL, *self.spec.partition_by}).values
        if self._layout is None or symbols is None or len(symbols) != 1 or rest or "period" in wanted:
            return None
        symbol, bounds = symbols[0].as_py(), (_bound(condition.start), _bound(condition.stop))
        parts, stamps = [], []
        self._prepare(files, [symbol])
        for file in files:
            found = self._store.rows(self.storage, self.spec, file, [symbol], *bounds)
            if found is None:
                return None
            if found:
                parts.append(found[0][1])
                stamps.append(np.full(len(found[0][1]), file.modified, np.int64))
        schema = self._schema(wanted)
        if not parts:
            return schema.empty_table(), pa.array([], pa.int64())
        rows = self._layout.table([(symbol, joined(parts))], files[0].partition, schema)
        return rows, as_arrow(np.concatenate(stamps))

    def _table(
        self, found: Sequence[tuple[str, npt.NDArray[Any]]], file: DataFile, wanted: Sequence[str]
    ) -> pa.Table:
        assert self._layout is not None
        schema = self._schema(wanted)
        return self._layout.table(found, file.partition, schema) if found else schema.empty_table()

    def _schema(self, wanted: Sequence[str]) -> pa.Schema:
        return pa.schema([self.spec.schema.field(name) for name in wanted])

    def may_hold(self, symbol: str, timeframe: str) -> bool:
        """Whether a table of bars may have some of a symbol and timeframe."""
        if not self._partitions:
            return super().may_hold(symbol, timeframe)
        return bool(self._candidates_of(timeframe, symbol))

    def holds(self, symbol: str, timeframe: str | None) -> bool:
        """Whether all rows of a symbol are kept: ``records`` of it reads no data file."""
        return self._layout is not None and all(
            self._store.holds(self.storage, self._file_at(row), symbol)
            for row, _, _ in self._candidates_of(timeframe, symbol)
        )

    def has(self, symbol: str, timeframe: str | None) -> bool:
        """Whether any of what was decoded is of a symbol."""
        return any(
            self._store.has_rows(self.storage, self._file_at(row), symbol)
            for row, _, _ in self._candidates_of(timeframe, symbol)
        )

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
        """The last ``n`` rows of one symbol by time, or the ``first``; see ``Snapshot``."""
        tested = dict(where or {})
        timeframe = tested.pop("timeframe", None) if "timeframe" in self.spec.partition_by else None
        complete = tested.pop("complete", None)
        plain = all(at is None or isinstance(at, int) for at in (ts_from, ts_to))
        found = None
        if not tested and plain and complete is not False and n > 0:
            found = self.records(n, symbol, timeframe, ts_from, ts_to, first, bool(complete))  # type: ignore[arg-type] # integers
        if found is None:
            return super().tail(n, symbol, columns, where, ts_from, ts_to, first)
        wanted = list(columns) if columns is not None else self.spec.schema.names
        return found.table(self._schema(wanted)), ReadStats(found.files)

    def records(
        self,
        n: int,
        symbol: str,
        timeframe: str | None,
        start: int | None = None,
        stop: int | None = None,
        first: bool = False,
        complete_only: bool = False,
        at_hand: bool = False,
    ) -> SymbolRows | None:
        """Return the last ``n`` rows of one symbol by time, or the ``first``; None where they are not kept.

        Args:
            n: how many at most.
            symbol: whose.
            timeframe: of bars; None for a table without.
            start: the least time, in its column's unit; None for any.
            stop: times are before.
            first: see there.
            complete_only: of bars: without open windows.
            at_hand: None, too, where a data file would have to be read.
        """
        layout = self._layout
        if layout is None or not self._partitions:
            return None
        found: npt.NDArray[Any] = np.zeros(0, layout.dtype)
        partition: dict[str, Any] = {}
        files = 0
        for row, bound in _in_order(self._candidates_of(timeframe, symbol), start, stop, first):
            if len(found) >= n:
                times = found[layout.time]
                if times[-1] < bound if first else times[0] > bound:
                    break
            file = self._file_at(row)
            if at_hand and not self._store.holds(self.storage, file, symbol):
                return None
            most = None if complete_only else n
            part = self._store.rows(self.storage, self.spec, file, [symbol], start, stop, most, first)
            if part is None:
                return None
            files += 1
            partition = dict(file.partition)
            records = part[0][1] if part else found[:0]
            if complete_only:
                records = records[records["complete"] == 1]
            found = _merged(found, records, layout.time)
            found = found[:n] if first else found[max(0, len(found) - n) :]
        return SymbolRows(layout, symbol, found, partition, files)


def _in_order(
    candidates: Sequence[tuple[int, int | None, int | None]], start: int | None, stop: int | None, first: bool
) -> list[tuple[int, float]]:
    """Files of a range with the time at an end of theirs, from that end on."""
    unknown = float("-inf") if first else float("inf")
    found = [
        (row, unknown if (bound := begin if first else end) is None else bound)
        for row, begin, end in candidates
        if (start is None or end is None or end >= start) and (stop is None or begin is None or begin < stop)
    ]
    return sorted(found, key=lambda pair: pair[1], reverse=not first)


def _merged(found: npt.NDArray[Any], more: npt.NDArray[Any], time: str) -> npt.NDArray[Any]:
    """Records of one symbol by time."""
    if not len(found):
        return more
    if not len(more):
        return found
    if more[time][-1] <= found[time][0]:
        return joined([more, found])
    if found[time][-1] <= more[time][0]:
        return joined([found, more])
    both = joined([found, more])
    return both[np.argsort(both[time], kind="stable")]


def _bound(at: pa.Scalar | None) -> int | None:
    """A bound as an integer in the column's unit."""
    if at is None:
        return None
    value: Any = at
    return int(value.value) if pa.types.is_timestamp(at.type) else int(value.cast(pa.int32()).as_py())


def _filtered(rows: pa.Table, values: Any) -> pa.Table:
    for name, among in values.items():
        rows = rows.filter(pc.is_in(rows[name], value_set=among))
    return rows
