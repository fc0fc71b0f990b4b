"""Arrow columns as PostgreSQL's binary ``COPY`` format, whole columns at a time.

Each row is the number of its fields, and of each field its length and its bytes, big-endian; a null field has
the length -1. Values arrive as they are, to the bit; nothing is written or read as text.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Values = npt.NDArray[Any]

_BEGIN = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_END = b"\xff\xff"
#: PostgreSQL counts from the start of 2000.
_DAYS = 10_957
_MICROS = _DAYS * 86_400_000_000
#: Of a slice: a row takes as much room as the longest.
_SLICE_ROWS, _SLICE_BYTES = 32_768, 16 << 20


def slices(rows: pa.Table) -> Iterator[bytes]:
    """Yield a stream for ``COPY ... FROM STDIN (FORMAT binary)``, some thousand rows at a time.

    Columns are text, ``float64``, ``int64`` (bigint), ``int32``, ``bool``, ``date32`` or timestamps in
    microseconds.

    Raises:
        TypeError: a column is of another type.
    """
    yield _BEGIN
    texts = [column for column in rows.columns if pa.types.is_string(column.type)]
    longest = sum(pc.max(pc.binary_length(column)).as_py() or 0 for column in texts)
    step = min(_SLICE_ROWS, 1 + _SLICE_BYTES // (12 * rows.num_columns + longest))
    for start in range(0, len(rows), step):
        yield _encoded(rows.slice(start, step))
    yield _END


class Stream:
    """What ``psycopg2`` reads from: the bytes of an iterator."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, at most ``size``; none at the end."""
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return b""
            self._rest = memoryview(chunk)
        end = len(self._rest) if size < 0 else size
        found, self._rest = self._rest[:end], self._rest[end:]
        return bytes(found)


class _Field(NamedTuple):
    """A column of a slice: its values, and how many bytes each has, -1 where it is null; shape (rows,)."""

    values: Values
    lengths: Values


def _encoded(rows: pa.Table) -> bytes:
    """Return rows' bytes: laid out one under the other, and the bytes that a row does not have left out."""
    fields = [_field(column) for column in rows.columns]
    layout: list[Any] = [("fields", ">i2")]
    for place, (values, _) in enumerate(fields):
        layout += [(f"length{place}", ">i4"), (f"value{place}", values.dtype, values.shape[1:])]
    block = np.empty(len(rows), layout)
    block["fields"] = len(fields)
    used = np.ones((len(rows), block.itemsize), np.bool_)
    end = 2
    for place, (values, lengths) in enumerate(fields):
        block[f"length{place}"] = lengths
        block[f"value{place}"] = values
        width = values[:1].nbytes
        start = end + 4
        end = start + width
        if (lengths < width).any():
            used[:, start:end] = np.arange(width) < lengths[:, None]
    flat = block.view(np.uint8).reshape(used.shape)
    return flat[used].tobytes() if not used.all() else flat.tobytes()


def _field(column: Any) -> _Field:
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    valid = np.asarray(array.is_valid())
    if pa.types.is_string(array.type):
        return _text(array, valid)
    values = _fixed(array, array.type)
    return _Field(values, np.where(valid, values.dtype.itemsize, -1))


def _text(array: Any, valid: Values) -> _Field:
    """Return texts as bytes, each filled up to the longest."""
    plain = array.cast(pa.large_string())
    lengths = pc.fill_null(pc.binary_length(plain), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    width = int(lengths.max(initial=0))
    values = np.zeros((len(lengths), width), np.uint8)
    _, offsets, data = plain.buffers()
    if width:
        begins = np.frombuffer(offsets, np.int64)[plain.offset : plain.offset + len(plain)]
        held = np.arange(width) < lengths[:, None]
        places = (begins[:, None] + np.arange(width))[held]
        values[held] = np.frombuffer(data, np.uint8)[places]
    return _Field(values, np.where(valid, lengths, -1))


def _fixed(array: Any, kind: pa.DataType) -> Values:
    """Return values in PostgreSQL's form, whatever it is where they are null."""
    plain = array
    if kind in _TIMES:
        plain = array.cast(pa.int64())
    elif pa.types.is_date32(kind):
        plain = array.cast(pa.int32())
    elif kind not in _FORMS:
        raise TypeError(f"{kind} has no form in PostgreSQL here")
    zero: Any = pa.scalar(False if pa.types.is_boolean(kind) else 0, plain.type)
    values = pc.fill_null(plain, zero).to_numpy(zero_copy_only=False)
    if pa.types.is_timestamp(kind):
        return (values - _MICROS).astype(">i8")
    if pa.types.is_date32(kind):
        return (values.astype(np.int64) - _DAYS).astype(">i4")
    return values.astype(_FORMS[kind])


_TIMES = (pa.timestamp("us"), pa.timestamp("us", tz="UTC"))
_FORMS: dict[pa.DataType, str] = {
    pa.float64(): ">f8",
    pa.int64(): ">i8",
    pa.int32(): ">i4",
    pa.bool_(): "u1",
}
