"""Whether everything reached the stream: what a sink kept, beside what the vendor has."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.json

from fibflow.io.kinesis.records import user_records

# The stubs know too few types of columns.
pc: Any = pyarrow.compute

_LENGTH = struct.Struct("<I")
_BLOCK = 64 << 20
_PRICES = ("o", "h", "l", "c", "v")
_COLUMNS = ("open", "high", "low", "close", "volume")
_FIELDS: list[Any] = [
    pa.field("ev", pa.string()),
    pa.field("sym", pa.string()),
    pa.field("s", pa.int64()),
    *(pa.field(name, pa.float64()) for name in _PRICES),
]
_MESSAGE = pa.schema(_FIELDS)


@dataclass(frozen=True)
class Checked:
    """What a stream has of the vendor's minutes.

    Attributes:
        wanted: minutes of the vendor.
        missing: of these, not in the stream.
        strange: in the stream, not the vendor's.
        again: messages that came more than once.
        other: minutes whose last message has other values than the vendor's.
    """

    wanted: int
    missing: int
    strange: int
    again: int
    other: int


def minutes_in(kept: Path) -> pa.Table:
    """Return the messages ``AM`` of the records that a sink kept, in their order."""
    options = pa.json.ParseOptions(explicit_schema=_MESSAGE, unexpected_field_behavior="ignore")
    found = []
    for lines in _blocks(kept):
        text: Any = pa.BufferReader(lines)
        rows = pa.json.read_json(text, parse_options=options)
        rows = rows.filter(pc.equal(rows["ev"], "AM")).drop_columns("ev")
        symbols: Any = rows["sym"].dictionary_encode()
        found.append(rows.set_column(0, "sym", symbols))
    return pa.concat_tables(found).unify_dictionaries()


def _blocks(kept: Path) -> Iterator[bytes]:
    parts: list[bytes] = []
    size = 0
    with kept.open("rb") as file:
        while head := file.read(_LENGTH.size):
            for _, payload in user_records("", file.read(_LENGTH.unpack(head)[0])):
                parts.append(payload)
                size += len(payload)
            if size >= _BLOCK:
                yield b"\n".join(parts)
                parts, size = [], 0
    if parts:
        yield b"\n".join(parts)


def check(kept: Path, minutes: pa.Table) -> Checked:
    """Compare what a sink kept with the vendor's minutes.

    Args:
        kept: the sink's file.
        minutes: ``symbol``, ``ts`` and the prices, each (symbol, ts) once.
    """
    found = minutes_in(kept)
    symbols = minutes["symbol"].cast(pa.string()).combine_chunks()
    names = pc.unique(symbols)
    wanted = _keys(pc.index_in(symbols, names), minutes["ts"].cast(pa.int64()).to_numpy() // 1000)
    had = _keys(pc.index_in(found["sym"].cast(pa.string()).combine_chunks(), names), found["s"].to_numpy())
    # The last one of each counts.
    distinct, from_behind = np.unique(had[::-1], return_index=True)
    last = len(had) - 1 - from_behind
    order = np.argsort(wanted)
    place = np.minimum(np.searchsorted(wanted[order], distinct), len(wanted) - 1)
    known = wanted[order][place] == distinct
    other = np.zeros(int(known.sum()), np.bool_)
    for short, column in zip(_PRICES, _COLUMNS, strict=True):
        there = minutes[column].to_numpy()[order][place[known]]
        other |= found[short].to_numpy()[last[known]] != there
    return Checked(
        wanted=len(wanted),
        missing=len(wanted) - int(known.sum()),
        strange=int((~known).sum()),
        again=len(had) - len(distinct),
        other=int(other.sum()),
    )


def _keys(symbol: Any, millis: Any) -> Any:
    """Return one number a (symbol, minute)."""
    number = pc.fill_null(symbol, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    return (number << 40) | (millis // 60_000)
