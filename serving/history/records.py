"""How rows of a lake table lie in records of one width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fibflow.io.datafiles import TableSpec

SYMBOL = "symbol"


@dataclass(frozen=True)
class Layout:
    """How the rows of a table lie in records: all columns but the symbol, and a bit for each null.

    Attributes:
        dtype: of a record.
        kinds: of its columns.
        time: the column of times.
    """

    dtype: np.dtype
    kinds: dict[str, Any]
    time: str

    @classmethod
    def of(cls, spec: TableSpec) -> Layout | None:
        """Return that of a table; None for one whose rows have texts or are not sorted by symbol and time."""
        fields = [field for field in spec.file_schema if field.name != SYMBOL]
        kinds = {field.name: field.type for field in fields}
        if spec.sort_by[:2] != (SYMBOL, spec.time_column) or len(fields) > 32:
            return None
        if not all(_is_fixed(kind) for kind in kinds.values()):
            return None
        types = [(name, _numpy_type(kind)) for name, kind in kinds.items()]
        return cls(np.dtype([*types, ("nulls", "u4")]), kinds, str(spec.time_column))

    def records(self, rows: pa.Table) -> npt.NDArray[Any]:
        """Return rows as records."""
        found = np.zeros(len(rows), self.dtype)
        for number, name in enumerate(self.kinds):
            column: Any = rows[name].combine_chunks()
            if column.null_count:
                found["nulls"] |= array_of(column.is_null()).astype(np.uint32) << np.uint32(number)
                column = column.fill_null(False if pa.types.is_boolean(column.type) else _zero(column.type))
            found[name] = array_of(plain(column))
        return found

    def table(
        self, found: Sequence[tuple[str, npt.NDArray[Any]]], partition: Mapping[str, Any], schema: pa.Schema
    ) -> pa.Table:
        """Return records of symbols as a table; ``partition`` has the columns that are not stored."""
        parts = [part for _, part in found]
        count, nulls = sum(map(len, parts)), [part["nulls"] for part in parts]
        some_null = any(part.any() for part in nulls)
        missing = np.concatenate(nulls) if some_null else None
        arrays = []
        for column in schema:
            name = column.name
            if name == SYMBOL:
                arrays.append(pa.concat_arrays([_repeated(symbol, len(part)) for symbol, part in found]))
            elif name in self.kinds:
                # Part by part: of records that are in the cache.
                values = np.concatenate([part[name] for part in parts])
                absent = None if missing is None else (missing >> np.uint32(self.numbers[name])) & 1
                arrays.append(_array(values, self.kinds[name], absent))
            else:
                arrays.append(_repeated(partition[name], count))
        return pa.Table.from_arrays(arrays, schema=schema)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The bit of each column's nulls."""
        return {name: number for number, name in enumerate(self.kinds)}


@dataclass(frozen=True)
class SymbolRows:
    """Rows of one symbol as records.

    Attributes:
        layout: of the records.
        symbol: whose they are.
        records: shape (n,), by time up or down.
        partition: the columns that are not stored.
        files: how many files were looked at.
    """

    layout: Layout
    symbol: str
    records: npt.NDArray[Any]
    partition: Mapping[str, Any]
    files: int = 0

    def __len__(self) -> int:
        return len(self.records)

    def table(self, schema: pa.Schema) -> pa.Table:
        """Return the rows as a table of some columns."""
        if not len(self.records):
            return schema.empty_table()
        return self.layout.table([(self.symbol, self.records)], self.partition, schema)

    def part(self, rows: slice) -> SymbolRows:
        """Return some of the rows."""
        return replace(self, records=self.records[rows])

    @cached_property
    def _some_null(self) -> int:
        """A bit for each column that has a null."""
        return int(np.bitwise_or.reduce(self.records["nulls"]))

    def missing(self, name: str) -> npt.NDArray[np.bool_] | None:
        """Return which rows have no value in a column; None where all have one."""
        bit = 1 << self.layout.numbers[name]
        return (self.records["nulls"] & np.uint32(bit)) != 0 if self._some_null & bit else None


def table_of_rows(parts: Sequence[SymbolRows], schema: pa.Schema) -> pa.Table:
    """Return rows of symbols, at least one's, of one table and partition, as a table of some columns."""
    first = parts[0]
    return first.layout.table([(part.symbol, part.records) for part in parts], first.partition, schema)


def _repeated(text: str | None, count: int) -> Any:
    value: Any = pa.scalar(text, pa.string())
    return pa.repeat(value, count)


def _array(values: npt.NDArray[Any], kind: Any, missing: Any) -> Any:
    """Values as an array of a type of the same width; booleans are bytes here."""
    data: Any = np.packbits(values, bitorder="little") if pa.types.is_boolean(kind) else values
    valid = None
    if missing is not None and missing.any():
        bits: Any = np.packbits(missing == 0, bitorder="little")
        valid = pa.py_buffer(bits)
    make: Any = pa.Array.from_buffers
    return make(kind, len(values), [valid, pa.py_buffer(data)])


def _is_fixed(kind: Any) -> bool:
    t = pa.types
    return (
        t.is_timestamp(kind)
        or t.is_date32(kind)
        or t.is_integer(kind)
        or t.is_float64(kind)
        or t.is_boolean(kind)
    )


def _numpy_type(kind: Any) -> str:
    if pa.types.is_boolean(kind):
        return "u1"
    letter = "f" if pa.types.is_floating(kind) else "u" if pa.types.is_unsigned_integer(kind) else "i"
    return f"{letter}{kind.bit_width // 8}"


def plain(column: Any) -> Any:
    """Return a column with instants and dates as integers."""
    if pa.types.is_timestamp(column.type):
        return column.view(pa.int64())
    return column.view(pa.int32()) if pa.types.is_date32(column.type) else column


def _zero(kind: Any) -> Any:
    return (
        pa.scalar(0, pa.int64() if pa.types.is_timestamp(kind) else pa.int32()).cast(kind)
        if (pa.types.is_timestamp(kind) or pa.types.is_date32(kind))
        else pa.scalar(0, kind)
    )


def array_of(column: Any) -> npt.NDArray[Any]:
    """Return a column without nulls as numpy's."""
    return np.asarray(column.to_numpy(zero_copy_only=False))


def joined(parts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Records of one layout put together."""
    if len(parts) == 1:
        return parts[0]
    # As plain bytes: numpy compares the fields of records one by one.
    dtype = parts[0].dtype
    return np.concatenate([part.view(np.dtype((np.void, dtype.itemsize))) for part in parts]).view(dtype)
