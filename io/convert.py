"""Columns of whatever type a file has, as times, doubles, integers and symbols; null where unreadable."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fibflow.transforms.schemas import SYMBOL, TIMESTAMP

Column = pa.Array | pa.ChunkedArray
Int64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_ISO = (
    r"^\s*(?P<year>\d{4})-(?P<month>\d{2})-(?P<day>\d{2})"
    r"(?:[Tt ](?P<hour>\d{2})(?::?(?P<minute>\d{2})(?::?(?P<second>\d{2})(?:[.,](?P<fraction>\d{1,9}))?)?)?"
    r"\s*(?P<zone>[Zz]|UTC|[+-]\d{2}(?::?\d{2})?)?)?\s*$"
)
_NUMBER = r"^-?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
# What surely fits 64 bits, among it the nanoseconds of our time.
_INTEGER = r"^-?(\d{1,18}|[1-8]\d{18})$"
_FACTORS = {"s": 1_000_000, "ms": 1_000, "us": 1}
_YEAR_1, _YEAR_9999 = -62_135_596_800_000_000, 253_402_300_799_999_999
_DAY = 86_400_000_000
# Arrays of one value up to this length are slices of a shared one.
_SHARED_ROWS = 1 << 14
_NO_INT = np.iinfo(np.int64).min


def to_utc_us(array: Column) -> Column:
    """Normalise times of any spelling to ``timestamp[us, UTC]``, shape (n,) to (n,).

    - Timestamps of any unit and zone; without zone they are UTC. Nanoseconds are rounded down.
    - Dates: midnight UTC.
    - Epoch numbers: seconds, milliseconds, microseconds or nanoseconds, by the magnitude of the column's
      median (below 1e10, 1e13, 1e16), so that a millisecond column may reach through 1970. A column of which
      every number reads as a date YYYYMMDD is dates.
    - Text: ISO 8601 with or without zone, or numbers as above.

    Null is what cannot be read, and what lies before year 1 or after 9999.

    Raises:
        TypeError: The column's type holds no times.
    """
    kind = array.type
    if kind == TIMESTAMP:
        return array
    if pa.types.is_timestamp(kind) and kind.unit == "us":
        return array.cast(TIMESTAMP)
    if pa.types.is_null(kind):
        return pa.nulls(len(array)).cast(TIMESTAMP)
    if pa.types.is_dictionary(kind):
        return to_utc_us(array.cast(kind.value_type))
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if is_text(kind):
        return _from_text(array.cast(pa.string()))
    if pa.types.is_timestamp(kind):
        return from_unit(*_integers(array.cast(pa.int64())), kind.unit)
    if pa.types.is_date32(kind):
        return from_unit(*_integers(array.cast(pa.int32()).cast(pa.int64())), "D")
    if pa.types.is_date64(kind):
        return from_unit(*_integers(array.cast(pa.int64())), "ms")
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return _from_epoch(array)
    raise TypeError(f"{kind} holds no times")


def _integers(array: pa.Array) -> tuple[Int64, Mask]:
    """Return an int64 array's values, 0 where null, and where it is null."""
    null = np.asarray(array.is_null())
    return array.fill_null(0).to_numpy(), null


def from_unit(values: Int64, null: Mask, unit: str) -> pa.Array:
    """Return timestamps from integers of ``s``, ``ms``, ``us``, ``ns`` or ``D`` since 1970."""
    if unit == "ns":
        null = null | (values == _NO_INT)
        values = values // 1000
    else:
        factor = _FACTORS.get(unit, _DAY)
        # -(-x // f) rounds up: times before year 1 are out, to the unit.
        null = null | (values < -(-_YEAR_1 // factor)) | (values > _YEAR_9999 // factor)
        values = np.where(null, 0, values) * factor
    return pa.array(values, pa.int64(), mask=null).cast(TIMESTAMP)


def _from_epoch(array: pa.Array) -> pa.Array:
    """Return timestamps from epoch numbers, or from numbers YYYYMMDD."""
    if pa.types.is_integer(array.type):
        if pa.types.is_uint64(array.type):
            largest = pa.scalar(np.iinfo(np.int64).max, pa.uint64())
            array = pc.min_element_wise(array, largest, skip_nulls=False)
        values, null = _integers(array.cast(pa.int64()))
        null = null | (values == _NO_INT)
    else:
        floats = array.cast(pa.float64()).fill_null(np.nan).to_numpy()
        null = ~(np.abs(floats) < 2.0**63)
        floats = np.where(null, 0.0, floats)
        values = floats.astype(np.int64)
        if _unit_of(values[~null]) == "s" and not np.array_equal(values, floats):
            null |= np.abs(floats) > 1e12
            return from_unit(np.rint(np.where(null, 0.0, floats) * 1e6).astype(np.int64), null, "us")
    given = values[~null]
    if not len(given):
        return pa.nulls(len(values)).cast(TIMESTAMP)
    if given.min() >= 1900_01_01 and given.max() <= 2200_12_31:
        days, valid = _days(values // 10_000, values // 100 % 100, values % 100)
        if np.all(valid | null):
            return from_unit(days, null, "D")
    return from_unit(values, null, _unit_of(given))


def _unit_of(values: Int64) -> str:
    """Return the unit of epoch numbers by the magnitude of their median."""
    if not len(values):
        return "s"
    middle = int(np.partition(np.abs(values), len(values) // 2)[len(values) // 2])
    return "s" if middle < 10**10 else "ms" if middle < 10**13 else "us" if middle < 10**16 else "ns"


def _days(year: Int64, month: Int64, day: Int64) -> tuple[Int64, Mask]:
    """Return days since 1970 of civil dates, and which of them exist."""
    months = (year - 1970) * 12 + month - 1
    first = months.astype("M8[M]").astype("M8[D]").astype(np.int64)
    following = (months + 1).astype("M8[M]").astype("M8[D]").astype(np.int64)
    valid = (year > 0) & (month >= 1) & (month <= 12) & (day >= 1) & (day <= following - first)
    return first + day - 1, valid


def _from_text(array: pa.Array) -> pa.Array:
    """Return timestamps from text; null where it is neither ISO 8601 nor a number."""
    for target in (pa.timestamp("us"), TIMESTAMP):
        try:
            whole = array.cast(target)
        except (pa.ArrowInvalid, OverflowError):
            continue
        return from_unit(*_integers(whole.cast(pa.int64())), "us")
    parts = pc.extract_regex(array, _ISO)
    iso = np.asarray(parts.is_valid())

    def number(name: str) -> Int64:
        text = pc.struct_field(parts, name)
        return pc.utf8_lpad(text, 2, "0").cast(pa.int64()).fill_null(0).to_numpy()

    days, valid = _days(number("year"), number("month"), number("day"))
    hour, minute, second = number("hour"), number("minute"), number("second")
    fraction = pc.utf8_slice_codeunits(pc.utf8_rpad(pc.struct_field(parts, "fraction"), 6, "0"), 0, 6)
    micros = fraction.cast(pa.int64()).fill_null(0).to_numpy()
    zone = pc.replace_substring(pc.struct_field(parts, "zone"), ":", "")
    zone = pc.if_else(pc.is_in(zone, pa.array(["", "Z", "z", "UTC"])), "+0000", pc.utf8_rpad(zone, 5, "0"))
    offset = pc.utf8_slice_codeunits(zone, 1, 5).cast(pa.int64()).fill_null(0).to_numpy()
    east = np.where(np.asarray(pc.starts_with(zone, "-").fill_null(False)), -1, 1)
    valid &= iso & (hour < 24) & (minute < 60) & (second < 60) & (offset < 2400) & (offset % 100 < 60)
    seconds = (hour - east * (offset // 100)) * 3600 + (minute - east * (offset % 100)) * 60 + second
    times = from_unit(days * _DAY + seconds * 1_000_000 + micros, ~valid, "us")
    numbers = _matching(array, _NUMBER)
    if numbers.null_count == len(numbers):
        return times
    whole = _matching(numbers, _INTEGER)
    times = pc.coalesce(times, _from_epoch(whole.cast(pa.int64())))
    if whole.null_count == numbers.null_count:
        return times
    others = pc.if_else(whole.is_null(), numbers, pa.scalar(None, pa.string()))
    return pc.coalesce(times, _from_epoch(others.cast(pa.float64())))


def _matching(array: Any, pattern: str) -> Any:
    """Return trimmed text, null where it does not match."""
    array = pc.utf8_trim_whitespace(array)
    return pc.if_else(pc.match_substring_regex(array, pattern), array, pa.scalar(None, pa.string()))


def to_double(column: Column) -> Column:
    """Return a column as ``float64``, null where text is no number.

    Raises:
        TypeError: The column's type holds no numbers.
    """
    kind = column.type
    if kind == pa.float64():
        return column
    if pa.types.is_dictionary(kind):
        return to_double(column.cast(kind.value_type))
    if is_text(kind):
        column = column.cast(pa.string())
        try:
            return column.cast(pa.float64())
        except pa.ArrowInvalid:
            return _matching(column, _NUMBER).cast(pa.float64())
    _check_number(kind)
    if pa.types.is_decimal(kind):
        # Arrow divides, which may round to a neighbour; its parser of text gives the nearest double.
        return column.cast(pa.string()).cast(pa.float64())
    return column.cast(pa.float64(), safe=False)


def to_int(column: Column) -> Column:
    """Return a column as ``int64``, null where it holds no whole number; times become microseconds.

    Raises:
        TypeError: The column's type holds no numbers.
    """
    kind = column.type
    if kind == pa.int64():
        return column
    if pa.types.is_dictionary(kind):
        return to_int(column.cast(kind.value_type))
    if pa.types.is_temporal(kind):
        return to_utc_us(column).cast(pa.int64())
    if is_text(kind):
        text = column.cast(pa.string())
        exact = _matching(text, _INTEGER)
        if exact.null_count == text.null_count:
            return exact.cast(pa.int64())
        return pc.coalesce(exact.cast(pa.int64()), to_int(to_double(text)))
    _check_number(kind)
    try:
        return column.cast(pa.int64())
    except pa.ArrowInvalid:
        doubles: Any = column.cast(pa.float64(), safe=False)
        whole = pc.and_(pc.equal(doubles, pc.floor(doubles)), pc.less(pc.abs(doubles), pa.scalar(2.0**63)))
        return pc.if_else(whole, doubles, pa.scalar(None, pa.float64())).cast(pa.int64(), safe=False)


def to_symbol(column: Column) -> Column:
    """Return a column as ``dictionary<int32, string>`` with one dictionary.

    Raises:
        TypeError: The column's type holds no symbols.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(SYMBOL)
    else:
        if not (is_text(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)):
            raise TypeError(f"{kind} holds no symbols")
        column = column.cast(pa.string()).dictionary_encode()
    if isinstance(column, pa.ChunkedArray) and column.num_chunks > 1:
        column = column.unify_dictionaries()
    return column


def is_text(kind: pa.DataType) -> bool:
    """Return whether a type is text, declared as such or as bytes."""
    return (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
    )


def _check_number(kind: pa.DataType) -> None:
    if not (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_null(kind)
    ):
        raise TypeError(f"{kind} holds no numbers")


def constant(value: int | None, kind: pa.DataType, rows: int) -> Any:
    """Return an array of one value; small files, of which there are many, share one buffer."""
    if rows > _SHARED_ROWS:
        return _repeat(value, kind, rows)
    return _shared(value, kind).slice(0, rows)


@functools.cache
def _shared(value: int | None, kind: pa.DataType) -> Any:
    return _repeat(value, kind, _SHARED_ROWS)


def _repeat(value: int | None, kind: pa.DataType, rows: int) -> Any:
    scalar: Any = pa.scalar(value, kind)
    return pa.repeat(scalar, rows)
