"""Frames of the feed to messages with their symbols. The bytes of a message are passed on as they came."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fibflow.io.jsonframes import frame
from fibflow.io.jsonspans import PAD, Index, Text, distinct, texts, words_of
from fibflow.io.kinesis.packing import MOST_MESSAGE
from fibflow.io.tickmessages import STATUS, load, messages
from fibflow.transforms.schemas import TIMESTAMP

#: A symbol of a message that names none, or that is no JSON: it travels too, for the stream to refuse.
NOBODY = ""

# What a message begins with, up to its symbol, whatever blanks the vendor writes.
_HEAD = re.compile(rb'\{\s*"ev"\s*:\s*"(?!status")\w{1,8}"\s*,\s*"sym"\s*:\s*"')
_HEAD_BYTES = 64
#: So many kinds of beginnings are looked for in a block; what has another is parsed.
_HEADS = 8
_SYMBOL_WORDS = 3
_LINES = re.compile(rb"[\r\n]+")

_Row = tuple[int, str | None, bytes]


class Ticks(NamedTuple):
    """Messages to be put.

    Attributes:
        table: columns ``symbol``, ``message`` and ``ts``, as ``PutTicks`` takes them.
        status: how many messages were about the connection: they are left out.
        too_large: how many are larger than a record may be: they are left out.
    """

    table: pa.Table
    status: int = 0
    too_large: int = 0


def ticks_of(data: bytes, lengths: npt.NDArray[np.int64], time: int) -> Ticks:
    """Return the messages of frames in their order.

    Messages of the plain form are never parsed: where they begin and end and where their symbols are is
    found in all of them at once. Others are, one by one; of a frame that is no JSON each piece is a message.

    Args:
        data: the frames, one behind the other.
        lengths: bytes of each, shape (frames,).
        time: goes in ``ts`` of all, UTC microseconds.
    """
    text = Text(np.frombuffer(data, np.uint8))
    ends = np.cumsum(lengths) + PAD
    begins = ends - lengths
    plain = frame(text, begins, ends)
    at, until = _symbol_spans(text, plain.starts, plain.ends)
    odd = (until <= at) | (plain.ends - plain.starts >= MOST_MESSAGE)
    if b"\n" in data:
        lines = text.places(b"\n")
        odd |= np.searchsorted(lines, plain.starts) != np.searchsorted(lines, plain.ends)
    rows: list[_Row] = []
    for one in np.flatnonzero(odd).tolist():
        raw = text.cut(int(plain.starts[one]), int(plain.ends[one]))
        rows.append(_row(int(plain.record[one]) << 32 | int(plain.place[one]), load(raw), raw))
    for record in plain.others.tolist():
        found = messages(text.cut(int(begins[record]), int(ends[record])))
        rows += [_row(record << 32 | place, value, raw) for place, (value, raw) in enumerate(found)]
    kept = np.flatnonzero(~odd)
    symbols = _symbols(text, at[kept], until[kept])
    payloads = _cut(text, plain.starts[kept], plain.ends[kept])
    if not rows:
        return Ticks(_table(symbols, payloads, time))
    good = [row for row in rows if row[1] is not None and len(row[2]) < MOST_MESSAGE]
    numbers = np.append(plain.record[kept] << 32 | plain.place[kept], [row[0] for row in good])
    index: Any = pa.array(np.argsort(numbers.astype(np.int64), kind="stable"))
    symbols = pa.concat_arrays([symbols.cast(pa.string()), pa.array([row[1] for row in good], pa.string())])
    payloads = pa.concat_arrays([payloads, pa.array([row[2] for row in good], pa.binary())])
    status = sum(row[1] is None for row in rows)
    table = _table(symbols.take(index), payloads.take(index), time)
    return Ticks(table, status, len(rows) - status - len(good))


def _row(number: int, value: Any, raw: bytes) -> _Row:
    """Return a message that was parsed: its place, its symbol (None for a status), its bytes in one line."""
    symbol: str | None = NOBODY
    if isinstance(value, dict):
        named = value.get("sym")
        symbol = named if isinstance(named, str) and named.isprintable() else NOBODY
        symbol = None if value.get("ev") == STATUS else symbol
    # An end of line in a message would be the end of the message to who reads the record.
    return number, symbol, _LINES.sub(b" ", raw)


def _symbol_spans(text: Text, starts: Index, ends: Index) -> tuple[Index, Index]:
    """Return where the symbols of messages begin and end; the same place where none was found."""
    at: Index = np.zeros(len(starts), np.int64)
    rest: Index = np.arange(len(starts))
    for _ in range(_HEADS):
        if not len(rest):
            break
        first = int(starts[rest[0]])
        head = _HEAD.match(text.cut(first, first + _HEAD_BYTES))
        if head is None:
            rest = rest[1:]
            continue
        token = head.group()
        same = text.holds(starts[rest], token)
        at[rest[same]] = starts[rest[same]] + len(token)
        rest = rest[~same]
    until = at.copy()
    found = np.flatnonzero(at)
    if len(found):
        begin, limits = at[found], ends[found]
        until[found] = text.find(b'"', text.words[begin], begin, limits, _SYMBOL_WORDS)
        until[found[until[found] >= limits]] = 0
        # One that is not of plain characters may end elsewhere.
        found = found[until[found] > begin]
        until[found[~texts(text, at[found], until[found])[1]]] = 0
    return at, until


def _symbols(text: Text, starts: Index, ends: Index) -> Any:
    """Return the symbols in these spans, a dictionary array."""
    if not len(starts):
        return pa.array([], pa.string()).dictionary_encode()
    codes, first = distinct(words_of(text, text.words[starts], starts, ends, _SYMBOL_WORDS))
    spans = zip(starts[first].tolist(), ends[first].tolist(), strict=True)
    names = [text.cut(start, end).decode() for start, end in spans]
    return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(names, pa.string()))


def _cut(text: Text, starts: Index, ends: Index) -> pa.Array:
    """Return spans, ascending, as binary values."""
    if not len(starts):
        return pa.array([], pa.binary())
    # Every other one of the values between these places is wanted; taking those copies them.
    places = np.empty(2 * len(starts), np.int32)
    places[::2], places[1::2] = starts, ends
    buffers: Any = [None, pa.py_buffer(places.data), pa.py_buffer(text.bytes.data)]
    between: Any = pa.Array.from_buffers(pa.binary(), 2 * len(starts) - 1, buffers)
    return between.take(pa.array(np.arange(0, 2 * len(starts), 2)))


def _table(symbols: Any, payloads: Any, time: int) -> pa.Table:
    times: Any = pa.array(np.full(len(payloads), time)).view(TIMESTAMP)
    return pa.table({"symbol": symbols, "message": payloads, "ts": times})


def frame_of(rows: Sequence[dict[str, Any]]) -> bytes:
    """Return messages as a frame of the feed."""
    return json.dumps(rows, separators=(",", ":")).encode()
