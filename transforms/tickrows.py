"""Rows of a stream: their columns as arrays, their identity, and the tables of those that do not count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fibflow.transforms import accumulators as acc
from fibflow.transforms.partials import as_arrow, numbers
from fibflow.transforms.schemas import DEAD_LETTERS, LATE
from fibflow.transforms.timeframe import MINUTE_US

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

DUPLICATE = "duplicate"
NOT_A_SESSION = "not_a_session"
#: A sequence number is kept as so many words of 63 bits, greatest first: room for 56 decimal digits.
WORDS = 3
_WORD_BITS = 63
_WORD_MASK = (1 << _WORD_BITS) - 1


def is_stream_input(rows: pa.Table) -> bool:
    """Return whether rows are TRADE_INPUT or MINUTE_INPUT: they carry their place in the stream."""
    return "place" in rows.column_names


def is_trades(rows: pa.Table) -> bool:
    """Return whether rows of a stream are trades; else they are minute aggregates."""
    return "rules" in rows.column_names


def optional(rows: pa.Table, name: str, missing: Any) -> npt.NDArray[Any]:
    """Return a column as an array with ``missing`` for null."""
    column: Any = rows[name]
    return numbers(rows, name) if not column.null_count else pc.fill_null(column, missing).to_numpy()


def words(rows: pa.Table, name: str) -> tuple[Any, Int32]:
    """Return a dictionary column's words (each once, in any order) and each row's index into them."""
    column: Any = rows[name]
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    if column.num_chunks != 1:
        column = column.unify_dictionaries()
        array: Any = column.combine_chunks() if len(rows) else pa.array([], column.type)
    else:
        array = column.chunk(0)
    return array.dictionary, array.indices.to_numpy(zero_copy_only=False).astype(np.int32, copy=False)


def minutes_of(ts: Int64) -> Int64:
    """Return the start of each instant's minute, UTC microseconds, shape (n,)."""
    if not len(ts):
        return ts
    first, last = int(ts.min()) // MINUTE_US, int(ts.max()) // MINUTE_US
    if first == last:
        return np.full(len(ts), first * MINUTE_US)
    return ts - np.mod(ts, MINUTE_US)


def sequence_numbers(texts: Sequence[str]) -> list[int]:
    """Return sequence numbers as integers: leading zeros do not count.

    Raises:
        ValueError: where one is no decimal number of up to 56 digits.
    """
    found = []
    for text in texts:
        value = int(text) if text.isascii() and text.isdigit() else -1
        if value < 0 or value >> (WORDS * _WORD_BITS):
            raise ValueError(
                f"sequence number {text!r} is no decimal number of up to 56 digits: give the stream's own"
            )
        found.append(value)
    return found


def to_words(values: Sequence[int]) -> Int64:
    """Return integers as words of 63 bits, greatest first, shape (WORDS, n); they order alike."""
    split = [
        [(value >> (_WORD_BITS * place)) & _WORD_MASK for value in values]
        for place in range(WORDS - 1, -1, -1)
    ]
    return np.array(split, np.int64).reshape(WORDS, len(values))


def from_words(parts: Int64) -> list[int]:
    """Return the integers of ``to_words``."""
    total = [0] * parts.shape[1]
    for row in parts.tolist():
        total = [(above << _WORD_BITS) | word for above, word in zip(total, row, strict=True)]
    return total


def ranks(values: Sequence[Any]) -> Int64:
    """Return the place of each value among the distinct ones in order, shape (n,)."""
    place = {value: number for number, value in enumerate(sorted(set(values)))}
    return np.array([place[value] for value in values], np.int64)


def identity(rows: pa.Table) -> tuple[Int64, ...]:
    """Return what orders messages by their place in the stream, for ``numpy.lexsort``: least weight first.

    The order is (sequence as an integer, sub, place, shard).
    """
    shards, shard = words(rows, "shard")
    sequences, sequence = words(rows, "sequence")
    of_shard, of_sequence = ranks(shards.to_pylist()), ranks(sequence_numbers(sequences.to_pylist()))
    return of_shard[shard], numbers(rows, "place"), numbers(rows, "sub"), of_sequence[sequence]


def origins(rows: pa.Table) -> Any:
    """Return ``kinesis:SHARD/SEQUENCE/SUB/PLACE`` of each row."""
    columns: list[Any] = [rows[name].cast(pa.string()) for name in ("shard", "sequence", "sub", "place")]
    joined = pc.binary_join_element_wise(*columns, "/")
    return pc.binary_join_element_wise("kinesis:", joined, "")


def dead_letters(rows: pa.Table, reason: str) -> pa.Table:
    """Return TRADE_INPUT or MINUTE_INPUT rows in the form of the table ``dead_letters``; the run is null.

    A trade's price is its bar's open, high, low and close.
    """
    n = len(rows)
    columns: dict[str, Any] = {
        "reason": pa.repeat(pa.scalar(reason), n),
        "origin": origins(rows),
        "symbol": rows["symbol"].cast(pa.string()),
        "ts": rows["ts"],
    }
    if is_trades(rows):
        columns |= dict.fromkeys(("open", "high", "low", "close"), rows["price"])
        columns["volume"] = as_arrow(numbers(rows, "volume") / np.float64(acc.MICRO))
    else:
        names = ("open", "high", "low", "close", "volume", "vwap", "trade_count")
        columns |= {name: rows[name] for name in names}
    return _table(columns, n, DEAD_LETTERS)


def late_rows(rows: pa.Table, clock: int) -> pa.Table:
    """Return TRADE_INPUT or MINUTE_INPUT rows in the form of the table ``late``.

    Args:
        rows: came after their minute's horizon.
        clock: what the bucket had seen of the watermark, UTC microseconds.
    """
    n = len(rows)
    columns: dict[str, Any] = {
        "kind": pa.repeat(pa.scalar("T" if is_trades(rows) else "AM"), n),
        "horizon": as_arrow(np.full(n, clock)),
        "period": pc.strftime(rows["ts"], "%Y-%m-%d"),
    }
    for name in ("symbol", "ts", "seq", "shard", "sequence", "sub", "place"):
        if name in rows.column_names:
            columns[name] = rows[name]
    return _table(columns, n, LATE)


def _table(columns: dict[str, Any], n: int, schema: pa.Schema) -> pa.Table:
    arrays = [
        columns[field.name].cast(field.type) if field.name in columns else pa.nulls(n, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)
