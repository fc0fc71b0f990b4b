"""Conditions on rows, and which files or row groups may hold such rows by their bounds.

Arrays are built from buffers here: ``pa.array``, ``pa.scalar`` and ``to_numpy`` import pandas where it is
installed, and that takes many times longer than a point read.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fibflow.io.datafiles import TableSpec

Instant = datetime | date | int
Where = Mapping[str, Any]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class Filter:
    """Conditions on rows that all hold.

    The value of each column of ``values`` is among those given, and ``start <= time < stop``. None leaves a
    bound out.
    """

    values: Mapping[str, pa.Array]
    time: str | None = None
    start: pa.Scalar | None = None
    stop: pa.Scalar | None = None

    @classmethod
    def of(
        cls,
        spec: TableSpec,
        symbols: str | Collection[str] | None = None,
        ts_from: Instant | None = None,
        ts_to: Instant | None = None,
        where: Where | None = None,
    ) -> Filter:
        """Raises ValueError for a column that the table does not have."""
        wanted = dict(where or {})
        if symbols is not None:
            wanted["symbol"] = symbols
        values = {name: _values(spec, name, value) for name, value in wanted.items()}
        if (ts_from is not None or ts_to is not None) and spec.time_column is None:
            raise ValueError(f"{spec.name} has no time column")
        return cls(values, spec.time_column, _instant(spec, ts_from), _instant(spec, ts_to))

    @property
    def columns(self) -> list[str]:
        """The columns that the conditions read."""
        timed = self.start is not None or self.stop is not None
        return [*self.values, *([self.time] if timed and self.time else [])]

    def mask(self, table: pa.Table) -> Any:
        """Which rows hold, None for all; ``table`` has all of ``columns``, strings as dictionaries or not."""
        masks: list[Any] = [_is_among(table.column(name), values) for name, values in self.values.items()]
        if self.start is not None and self.time:
            masks.append(pc.greater_equal(table.column(self.time), self.start))
        if self.stop is not None and self.time:
            masks.append(pc.less(table.column(self.time), self.stop))
        both: Callable[[Any, Any], Any] = pc.and_
        return reduce(both, masks) if masks else None

    def without(self, columns: Collection[str]) -> Filter:
        """The conditions on other columns."""
        return replace(self, values={k: v for k, v in self.values.items() if k not in columns})

    def may_hold(self, lows: Mapping[str, pa.Array], highs: Mapping[str, pa.Array], size: int) -> Any:
        """Which of ``size`` files or row groups may have such rows, by their bounds; unknown ones may."""
        keep = mask_array(np.ones(size, dtype=bool))
        for name, values in self.values.items():
            if name in lows:
                keep = pc.and_(keep, _may_be_among(lows[name], highs[name], values))
        if self.start is not None and self.time and self.time in highs:
            keep = pc.and_(keep, _true_or_unknown(pc.greater_equal(highs[self.time], self.start)))
        if self.stop is not None and self.time and self.time in lows:
            keep = pc.and_(keep, _true_or_unknown(pc.less(lows[self.time], self.stop)))
        return keep


def _values(spec: TableSpec, name: str, value: Any) -> pa.Array:
    if name not in spec.schema.names:
        raise ValueError(f"{spec.name} has no column {name!r}")
    several = isinstance(value, Collection) and not isinstance(value, str | bytes)
    kind = spec.schema.field(name).type
    if isinstance(value, pa.Array | pa.ChunkedArray):
        values = pa.concat_arrays(value.chunks) if isinstance(value, pa.ChunkedArray) else value
        return values.cast(kind).unique().sort()
    return plain_array(list(value) if several else [value], kind).unique().sort()


def _instant(spec: TableSpec, value: Instant | None) -> pa.Scalar | None:
    if value is None or spec.time_column is None:
        return None
    kind = spec.schema.field(spec.time_column).type
    timed = pa.types.is_timestamp(kind)
    if isinstance(value, datetime):
        if not timed:
            raise ValueError(f"{spec.name} is read by date, not by instant: {value}")
        if value.tzinfo is None:
            raise ValueError(f"{value} has no time zone")
    elif isinstance(value, date) and timed:
        value = datetime(value.year, value.month, value.day, tzinfo=UTC)
    return plain_array([value], kind)[0]


def _is_among(column: Any, values: pa.Array) -> Any:
    if len(values) == 1 and not pa.types.is_dictionary(column.type):
        return pc.equal(column, values[0])
    if not pa.types.is_dictionary(column.type):
        return pc.is_in(column, value_set=values)
    chunks = [pc.is_in(c.dictionary, value_set=values).take(c.indices) for c in column.chunks]
    return pa.chunked_array(chunks, pa.bool_())


def _may_be_among(lows: pa.Array, highs: pa.Array, values: pa.Array) -> Any:
    if len(values) == 1:
        return _true_or_unknown(
            pc.and_kleene(pc.less_equal(lows, values[0]), pc.greater_equal(highs, values[0]))
        )
    # In a sorted list the first value at or above the low bound has to be at or below the high one.
    keys = values.to_pylist()
    bounds = zip(lows.to_pylist(), highs.to_pylist(), strict=True)
    may = [a is None or b is None or bisect_left(keys, a) < bisect_right(keys, b) for a, b in bounds]
    return mask_array(np.array(may, dtype=bool))


def _true_or_unknown(mask: Any) -> Any:
    return pc.or_kleene(mask, pc.is_null(mask))


# The stubs do not know that a buffer may be None: no nulls.
_from_buffers: Any = pa.Array.from_buffers


def mask_array(bits: np.ndarray) -> Any:
    """Numpy's booleans as an arrow array."""
    return _from_buffers(pa.bool_(), len(bits), [None, _bits(bits)])


def plain_array(values: list[Any], kind: Any) -> Any:
    """Python values, None for null, as an arrow array. Times may also be integers in the type's unit."""
    t = pa.types
    valid = np.array([value is not None for value in values], dtype=bool)
    nulls = None if valid.all() else _bits(valid)
    if t.is_string(kind):
        texts = [(value or "").encode() for value in values]
        offsets = np.cumsum([0, *map(len, texts)], dtype=np.int32)
        return pa.StringArray.from_buffers(
            len(values), pa.py_buffer(offsets.tobytes()), pa.py_buffer(b"".join(texts)), nulls
        )
    if t.is_boolean(kind):
        bits = _bits(np.array([bool(value) for value in values], dtype=bool))
        return _from_buffers(kind, len(values), [nulls, bits])
    micros = t.is_timestamp(kind) and kind.unit == "us"
    if micros or t.is_date32(kind) or t.is_integer(kind) or t.is_floating(kind):
        letter = "f" if t.is_floating(kind) else "u" if t.is_unsigned_integer(kind) else "i"
        numbers = [0 if value is None else _number(value) for value in values]
        data = np.array(numbers, dtype=f"{letter}{kind.bit_width // 8}")
        return _from_buffers(kind, len(values), [nulls, pa.py_buffer(data.tobytes())])
    return pa.array(values, kind)


def _bits(bits: np.ndarray) -> pa.Buffer:
    return pa.py_buffer(np.packbits(bits, bitorder="little").tobytes())


def _number(value: Any) -> int | float:
    if isinstance(value, datetime):
        return ((value if value.tzinfo else value.replace(tzinfo=UTC)) - _EPOCH) // _MICROSECOND
    return (value - _EPOCH.date()).days if isinstance(value, date) else value
