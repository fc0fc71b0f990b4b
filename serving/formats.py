"""Rows as bytes: JSON, CSV, Parquet and Arrow. No loop over rows."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq


class Format(StrEnum):
    """How rows are written."""

    JSON = "json"
    CSV = "csv"
    PARQUET = "parquet"
    ARROW = "arrow"


CONTENT_TYPES: dict[Format, str] = {
    Format.JSON: "application/json",
    Format.CSV: "text/csv; charset=utf-8",
    Format.PARQUET: "application/vnd.apache.parquet",
    Format.ARROW: "application/vnd.apache.arrow.stream",
}

_NUMPY = orjson.OPT_SERIALIZE_NUMPY
_FLAGS = {True: b"true", False: b"false", None: b"null"}
#: The JSON texts of a column, one a row; or one that holds for all rows.
Texts = list[bytes] | bytes


def encode(table: pa.Table, format: Format) -> bytes:
    """Write a table.

    JSON is an array of objects with the table's own names. In CSV instants are ISO 8601 in UTC and nulls are
    empty. Arrow is the stream format.
    """
    if format is Format.JSON:
        return json_rows(table, {name: name for name in table.column_names})
    sink = io.BytesIO()
    if format is Format.CSV:
        pacsv.write_csv(_texts(table), sink)
    elif format is Format.PARQUET:
        pq.write_table(table, sink, compression="zstd", compression_level=1)
    else:
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    return sink.getvalue()


def _texts(table: pa.Table) -> pa.Table:
    """Instants as texts that every reader of CSV takes for what they are, lists joined by ``;``."""
    columns: list[Any] = list(table.columns)
    for index, column in enumerate(columns):
        if pa.types.is_timestamp(column.type):
            columns[index] = _iso(column)
        elif pa.types.is_list(column.type):
            columns[index] = pc.binary_join(column.cast(pa.list_(pa.string())), ";")
        elif pa.types.is_dictionary(column.type):
            columns[index] = column.cast(column.type.value_type)
    return pa.table(columns, names=table.column_names)


def _iso(column: Any) -> Any:
    numbers = column.cast(pa.int64())
    a_second = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}[column.type.unit]
    whole = (
        a_second == 1
        or not pc.any(pc.not_equal(pc.multiply(pc.divide(numbers, a_second), a_second), numbers)).as_py()
    )
    plain = column.cast(pa.timestamp("s" if whole else column.type.unit))
    # By a cast, which is several times faster than strftime.
    texts = pc.replace_substring(plain.cast(pa.string()), pattern=" ", replacement="T", max_replacements=1)
    return pc.binary_join_element_wise(texts, "Z", "")


def json_rows(
    table: pa.Table,
    names: Mapping[str, str],
    constant: Mapping[str, Any] | None = None,
    drop_nulls: bool = False,
) -> bytes:
    """Write rows as a JSON array of objects.

    Instants are integers of UTC milliseconds, dates ``YYYY-MM-DD``, doubles the shortest text that reads back
    as the same number; what is not finite is null.

    Args:
        table: the rows.
        names: column to member; those that are named, in this order.
        constant: more members, the same in each object; they come first.
        drop_nulls: leave out members that are null.
    """
    count = table.num_rows
    if not count:
        return b"[]"
    members: list[tuple[bytes, Texts]] = [
        (orjson.dumps(name), orjson.dumps(value)) for name, value in (constant or {}).items()
    ]
    texts = _texts_of(table.select(list(names)), count)
    members += zip(map(orjson.dumps, names.values()), texts, strict=True)
    return put_together(members, count, len(constant or {}) if drop_nulls else None)


def put_together(members: list[tuple[bytes, Texts]], count: int, kept: int | None = None) -> bytes:
    """Return a JSON array of objects.

    Args:
        members: name and texts of each, JSON already.
        count: how many objects, at least one.
        kept: leave out members that are null, but for so many at the beginning; None: leave out none.
    """
    if kept is not None:
        members = members[:kept] + [(name, value) for name, value in members[kept:] if value != b"null"]
        if any(isinstance(value, list) and b"null" in value for _, value in members):
            return _without_nulls(members, count)
    # What is the same in all rows is written once, between the columns that are not.
    pieces: list[bytes | list[bytes]] = []
    literal = b"},{"
    comma = b""
    for name, value in members:
        literal += comma + name + b":"
        comma = b","
        if isinstance(value, bytes):
            literal += value
        else:
            pieces += [literal, value]
            literal = b""
    if not pieces:
        return b"[" + b",".join([(literal + b"}")[2:]] * count) + b"]"
    if literal:
        # It ends each row, and so begins the next one.
        last = literal
        pieces[0] = literal + bytes(pieces[0])  # type: ignore[arg-type] # the first one is no list
    else:
        last = b""
    width = len(pieces)
    out: list[bytes] = [b""] * (count * width)
    for place, piece in enumerate(pieces):
        out[place::width] = piece if isinstance(piece, list) else [piece] * count
    out[0] = b"[" + out[0][len(last) + 2 :]
    out.append(last + b"}]")
    return b"".join(out)


def _without_nulls(members: list[tuple[bytes, Texts]], count: int) -> bytes:
    """Rows without members that are null; a comma stands before each member that is not its row's first."""
    width = len(members) + 1
    out: list[bytes] = [b"},{"] * (count * width)
    empty = [True] * count
    for place, (name, value) in enumerate(members, 1):
        key, following = name + b":", b"," + name + b":"
        texts = value if isinstance(value, list) else [value] * count
        out[place::width] = [
            b"" if text == b"null" and isinstance(value, list) else (key if first else following) + text
            for text, first in zip(texts, empty, strict=True)
        ]
        if isinstance(value, bytes):
            empty = [False] * count
        elif any(empty):
            empty = [first and text == b"null" for text, first in zip(texts, empty, strict=True)]
    out[0] = b"[{"
    out.append(b"}]")
    return b"".join(out)


def _texts_of(table: pa.Table, count: int) -> list[Texts]:
    """The JSON texts of each column: one a row, or one for all rows."""
    found: list[Texts] = [b"null"] * table.num_columns
    doubles: dict[int, Any] = {}
    integers: dict[int, Any] = {}
    for place, column in enumerate(table.columns):
        kind = column.type
        t = pa.types
        if column.null_count == count:
            continue
        if t.is_floating(kind):
            doubles[place] = _numpy(column)
        elif t.is_integer(kind) or t.is_timestamp(kind):
            values = _milliseconds(column) if t.is_timestamp(kind) else _numpy(_filled(column, 0))
            if values[0] == values[-1] and not column.null_count and (values == values[0]).all():
                found[place] = b"%d" % int(values[0])
            elif t.is_uint64(kind):
                found[place] = _with_nulls(orjson.dumps(values, option=_NUMPY)[1:-1].split(b","), column)
            else:
                integers[place] = values
        else:
            found[place] = _other(column)
    for columns in (doubles, integers):
        for place, texts in _split(columns).items():
            found[place] = texts if columns is doubles else _with_nulls(texts, table.column(place))
    return found


def _split(columns: dict[int, Any]) -> dict[int, list[bytes]]:
    """The texts of columns of one type, written in one go."""
    return dict(zip(columns, number_texts(list(columns.values())), strict=True))


def number_texts(columns: Sequence[Any]) -> list[list[bytes]]:
    """Return the JSON texts of columns of numbers of one type; what is not finite is null."""
    if not columns:
        return []
    whole = orjson.dumps(np.stack(columns), option=_NUMPY)
    return [text.split(b",") for text in whole[2:-2].split(b"],[")]


def _other(column: Any) -> Texts:
    """The texts of a column that holds no numbers."""
    kind = column.type
    t = pa.types
    if t.is_date(kind):
        return [b"null" if day is None else b'"%b"' % day.isoformat().encode() for day in column.to_pylist()]
    array: Any = _one_chunk(column)
    if t.is_boolean(kind):
        flags: list[bool | None] = array.to_pylist() if array.null_count else _numpy(array).tolist()
        texts = [_FLAGS[flag] for flag in flags]
        return texts[0] if flags.count(flags[0]) == len(flags) else texts
    if not (t.is_string(kind) or t.is_dictionary(kind)):
        return [orjson.dumps(value) for value in column.to_pylist()]
    if not t.is_dictionary(kind):
        array = array.dictionary_encode()
    words = [orjson.dumps(word) for word in array.dictionary.to_pylist()]
    if len(words) == 1 and not array.null_count:
        return words[0]
    words.append(b"null")
    return [words[place] for place in _filled(array.indices, len(words) - 1).to_pylist()]


def _milliseconds(column: Any) -> Any:
    per = {"s": 1, "ms": 1, "us": 1_000, "ns": 1_000_000}[column.type.unit]
    numbers = _numpy(_filled(column.cast(pa.int64()), 0))
    # Instants before 1970 go down, not towards it.
    return np.floor_divide(numbers, per) * (1_000 if column.type.unit == "s" else 1)


def _filled(column: Any, value: Any) -> Any:
    return column.fill_null(value) if column.null_count else column


def _one_chunk(column: Any) -> Any:
    if not isinstance(column, pa.ChunkedArray):
        return column
    if column.num_chunks == 1:
        return column.chunk(0)
    if pa.types.is_dictionary(column.type):
        column = column.unify_dictionaries()
    array = column.combine_chunks()
    return array.chunk(0) if isinstance(array, pa.ChunkedArray) else array


def _numpy(column: Any) -> Any:
    """A column as an array: nulls of doubles as NaN."""
    found = _one_chunk(column).to_numpy(zero_copy_only=False)
    kind = np.float64 if found.dtype.kind == "f" else found.dtype if found.dtype == np.uint64 else np.int64
    return np.ascontiguousarray(found, kind)


def _with_nulls(texts: list[bytes], column: Any) -> list[bytes]:
    if not column.null_count:
        return texts
    return [
        text if valid else b"null" for text, valid in zip(texts, column.is_valid().to_pylist(), strict=True)
    ]
