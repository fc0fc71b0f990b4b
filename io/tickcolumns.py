"""The feed's messages as columns, read where they stand: for messages of the plain form.

What is not exactly of that form is named and left to ``fibflow.io.tickmessages``, which says what every
message means; here the same is done faster.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fibflow.io.jsonframes import Frames
from fibflow.io.jsonspans import WORD, Bool, Index, Reader, Text, decimals, distinct, texts, whole, words_of
from fibflow.io.jsonwalk import BARE, LIST, TEXT, Layouts, Span, Walked
from fibflow.transforms.partials import as_arrow
from fibflow.transforms.schemas import AGGREGATES, ORIGIN, SYMBOL, TIMESTAMP, TRADES

_PLACE: list[Any] = [
    pa.field("record", pa.int32()),
    pa.field("place", pa.int32()),
    pa.field("start", pa.int64()),
    pa.field("end", pa.int64()),
]
_OF_RECORD = {*(field.name for field in ORIGIN), "arrived"}


def _parsed(schema: pa.Schema) -> pa.Schema:
    return pa.schema([*_PLACE, *(field for field in schema if field.name not in _OF_RECORD)])


#: Trades before they are judged: what a message lacks, or gives as another type, is null. ``record`` is the
#: record's number, ``place`` the message's in its payload, ``start`` and ``end`` are where its bytes lie.
PARSED_TRADES = _parsed(TRADES)
#: Aggregates, likewise.
PARSED_AGGREGATES = _parsed(AGGREGATES)

TRADE, SECOND, MINUTE = "T", "A", "AM"
#: What each kind of message that holds a row is parsed to.
PARSED = {TRADE: PARSED_TRADES, SECOND: PARSED_AGGREGATES, MINUTE: PARSED_AGGREGATES}

#: Numbers below these are milliseconds, microseconds; the others nanoseconds.
MS_BELOW, US_BELOW = 10**13, 10**16
_CODES = re.compile(rb"(?:(?:0|[1-9]\d{0,8})(?:, ?(?:0|[1-9]\d{0,8}))*)?")
_MAX_SHORT = (1 << 31) - 1
#: Symbols and lists of conditions of more characters than these are left to the parser.
_SYMBOL_WORDS, _LIST_WORDS = 3, 4


def to_us(values: Index) -> Index:
    """Return UTC microseconds of epoch milliseconds, microseconds or nanoseconds, each by its magnitude.

    Nanoseconds are rounded down. Values are not negative; shape (n,) to (n,).
    """
    if not len(values) or int(values.max()) < MS_BELOW:
        return values * 1000
    small = np.where(values < MS_BELOW, values, 0) * 1000
    return np.where(values < MS_BELOW, small, np.where(values < US_BELOW, values, values // 1000))


def conditions_text(value: object) -> str | None:
    """Return a list of condition codes joined by commas; None where it is no such list."""
    if not isinstance(value, list):
        return None
    if not all(type(code) is int and 0 <= code <= _MAX_SHORT for code in value):
        return None
    return ",".join(map(str, value))


def _conditions(value: bytes) -> str | None:
    """Return what stands between the brackets of a list of codes; None where that is not plain."""
    if not _CODES.fullmatch(value):
        return None
    return value.replace(b" ", b"").decode()


def read(text: Text, frames: Frames, layouts: Layouts, few: int) -> tuple[list[tuple[str, pa.Table]], Index]:
    """Read the messages of the plain form.

    Args:
        text: holds them.
        frames: where they are.
        layouts: what was learnt from other blocks.
        few: fewer messages of a layout are left.

    Returns:
        Tables of ``PARSED`` with their kinds, each in the frames' order, and the numbers of the frames that
        are left.
    """
    left = np.ones(len(frames.starts), np.bool_)
    tables = []
    for walked in layouts.walk(text, frames.starts, frames.ends, PARSED, few):
        if not len(walked.rows):
            continue
        fields = _Fields(text, frames, walked)
        table = _trades(fields) if walked.kind == TRADE else _aggregates(fields)
        rows = walked.rows
        if not fields.good.all():
            table, rows = table.filter(pa.array(fields.good)), rows[fields.good]
        left[rows] = False
        tables.append((walked.kind, table))
    return tables, np.flatnonzero(left)


class _Fields:
    """The fields of the messages of one kind.

    Attributes:
        text: holds the messages.
        starts: where each message begins, ascending, shape (n,).
        spans: the fields that are not read yet.
        good: which messages are of the plain form, as far as they were read.
        columns: what was read.
    """

    def __init__(self, text: Text, frames: Frames, walked: Walked) -> None:
        rows = walked.rows
        self.text = text
        self.starts, ends = frames.starts[rows], frames.ends[rows]
        self.spans = dict(walked.spans)
        self.good = np.ones(len(rows), np.bool_)
        self.columns: dict[str, Any] = {
            "record": frames.record[rows].astype(np.int32),
            "place": frames.place[rows].astype(np.int32),
            "start": self.starts,
            "end": ends,
        }


def _trades(fields: _Fields) -> pa.Table:
    _read_symbols(fields)
    _read_time(fields, "ts", "t")
    _read_whole(fields, "seq", "q")
    _read_doubles(fields, "price", "p")
    _read_doubles(fields, "size", "ds", "s")
    _read_conditions(fields)
    _read_texts(fields, "trade_id", "i")
    _read_whole(fields, "exchange", "x", is_short=True)
    _read_whole(fields, "tape", "z", is_short=True)
    _read_whole(fields, "correction", "e", is_short=True)
    return _table(fields, PARSED_TRADES)


def _aggregates(fields: _Fields) -> pa.Table:
    _read_symbols(fields)
    _read_time(fields, "ts", "s")
    for name, key in (("open", "o"), ("high", "h"), ("low", "l"), ("close", "c"), ("vwap", "vw")):
        _read_doubles(fields, name, key)
    _read_doubles(fields, "volume", "dv", "v")
    _read_whole(fields, "trade_count", "n")
    _read_time(fields, "version", "ver")
    return _table(fields, PARSED_AGGREGATES)


def _table(fields: _Fields, schema: pa.Schema) -> pa.Table:
    """Make the table, once the fields that no column is made of are known to be JSON."""
    for key, span in fields.spans.items():
        rows = np.arange(len(fields.good)) if span.present is None else np.flatnonzero(span.present)
        # Another name of `e`, and the parser knows which of the two goes first.
        fields.good[rows] &= key != "correction" and _is_plain(fields.text, span, rows)
    fields.columns["ts"] = fields.columns["ts"].view(TIMESTAMP)
    arrays = [pa.array(fields.columns[name]) for name in schema.names]
    return pa.Table.from_arrays(arrays, schema=schema)


def _is_plain(text: Text, span: Span, rows: Index) -> Bool:
    """Return where a field that is not needed is JSON: a number, true, false, null, a plain text or list."""
    words, starts, ends = span.words[rows], span.starts[rows], span.ends[rows]
    if span.form == TEXT:
        return texts(text, starts, ends)[1]
    if span.form == LIST:
        raw: Any = texts(text, starts, ends)[0].cast(pa.binary()).dictionary_encode()
        lists = np.array([_conditions(one) is not None for one in raw.dictionary.to_pylist()], np.bool_)
        return lists[np.asarray(raw.indices)]
    good = decimals(text, words, starts, ends)[1]
    rest = np.flatnonzero(~good)
    if len(rest):
        good[rest] = whole(text, words[rest], starts[rest], ends[rest])[1]
        lengths = ends - starts
        for word in (b"true", b"false", b"null"):
            good[rest] |= (lengths[rest] == len(word)) & text.holds(starts[rest], word)
    return good


def _take(fields: _Fields, key: str, form: bytes) -> Span | None:
    """Take out a field; None where no message has it. One of another form is left to the parser."""
    span = fields.spans.pop(key, None)
    if span is not None and span.form != form:
        fields.good &= False if span.present is None else ~span.present
        return None
    return span


def _read_numbers(fields: _Fields, span: Span, reader: Reader) -> npt.NDArray[Any]:
    """Read a field's numbers; 0 where a message lacks it."""
    if span.present is None:
        values, good = reader(fields.text, span.words, span.starts, span.ends)
        fields.good &= good
        return values
    rows = np.flatnonzero(span.present)
    some, good = reader(fields.text, span.words[rows], span.starts[rows], span.ends[rows])
    fields.good[rows] &= good
    values = np.zeros(len(span.present), some.dtype)
    values[rows] = some
    return values


def _nullable(values: npt.NDArray[Any], present: Bool | None) -> Any:
    return pa.array(values, mask=None if present is None else ~present)


def _read_whole(fields: _Fields, name: str, key: str, is_short: bool = False) -> None:
    """Read whole numbers, of 32 bits if short; null where there is none."""
    span = _take(fields, key, BARE)
    if span is None:
        fields.columns[name] = pa.nulls(len(fields.good)).cast(pa.int32() if is_short else pa.int64())
        return
    values = _read_numbers(fields, span, whole)
    if is_short:
        fields.good &= values <= _MAX_SHORT
        values = values.astype(np.int32)
    fields.columns[name] = _nullable(values, span.present)


def _read_time(fields: _Fields, name: str, key: str) -> None:
    """Read times, in microseconds; null where there is none."""
    span = _take(fields, key, BARE)
    if span is None:
        fields.columns[name] = pa.nulls(len(fields.good)).cast(pa.int64())
    else:
        fields.columns[name] = _nullable(to_us(_read_numbers(fields, span, whole)), span.present)


def _read_doubles(fields: _Fields, name: str, *keys: str) -> None:
    """Read numbers, of the first of the fields that a message has; null where there is none."""
    values: npt.NDArray[Any] = np.zeros(len(fields.good))
    present: Bool | None = np.zeros(len(fields.good), np.bool_)
    for key in keys:
        # Decimals in quotation marks, that a number would round.
        span = _take(fields, key, TEXT if key in ("ds", "dv") else BARE)
        if span is None:
            continue
        found = _read_numbers(fields, span, decimals)
        if present is not None:
            values = np.where(present, values, found) if present.any() else found
            present = None if span.present is None else present | span.present
    fields.columns[name] = _nullable(values, present)


def _read_few(fields: _Fields, span: Span, most: int) -> tuple[npt.NDArray[np.int32], Any, Bool]:
    """Read short values of which there are few different ones.

    Args:
        fields: the messages.
        span: where the values are.
        most: their greatest length, in words of eight characters.

    Returns:
        The number of each value, the values as a ``pa.StringArray``, and which of those are plain.
    """
    lengths = span.ends - span.starts
    count = min(max(-(-int(lengths.max(initial=0)) // WORD), 1), most)
    codes, first = distinct(words_of(fields.text, span.words, span.starts, span.ends, count))
    # One that is longer than its number's has been cut, or ends with a zero.
    fields.good &= (lengths == lengths[first][codes]) & (lengths <= count * WORD)
    values, plain = texts(fields.text, span.starts[first], span.ends[first])
    return codes, values, plain


def _coded(fields: _Fields, codes: npt.NDArray[np.int32], values: list[str | None]) -> Any:
    """Return a dictionary of ``values``; where one is None the message is left to the parser."""
    fields.good &= np.array([value is not None for value in values], np.bool_)[codes]
    # What is written differently may be equal.
    known: Any = pa.array([value or "" for value in values], pa.string()).dictionary_encode()
    return pa.DictionaryArray.from_arrays(as_arrow(np.asarray(known.indices)[codes]), known.dictionary)


def _read_symbols(fields: _Fields) -> None:
    """Read symbols; null where there is none, or an empty one."""
    span = _take(fields, "sym", TEXT)
    if span is None:
        fields.columns["symbol"] = pa.nulls(len(fields.good)).cast(SYMBOL)
        return
    codes, values, plain = _read_few(fields, span, _SYMBOL_WORDS)
    if not plain.all():
        raw = zip(values.cast(pa.binary()).to_pylist(), plain.tolist(), strict=True)
        symbols = _coded(fields, codes, [one.decode() if good else None for one, good in raw])
        codes, values = np.asarray(symbols.indices), symbols.dictionary
    empty = span.starts == span.ends
    known = _nullable(codes, ~empty if empty.any() else None)
    fields.columns["symbol"] = pa.DictionaryArray.from_arrays(known, values)


def _read_conditions(fields: _Fields) -> None:
    """Read lists of conditions; an empty one where there is none."""
    span = _take(fields, "c", LIST)
    if span is None:
        codes: npt.NDArray[Any] = np.zeros(len(fields.good), np.int32)
        fields.columns["conditions"] = pa.DictionaryArray.from_arrays(as_arrow(codes), [""])
        return
    codes, values, _ = _read_few(fields, span, _LIST_WORDS)
    raw = values.cast(pa.binary()).to_pylist()
    fields.columns["conditions"] = _coded(fields, codes, [_conditions(one) for one in raw])


def _read_texts(fields: _Fields, name: str, key: str) -> None:
    """Read texts; null where there is none."""
    span = _take(fields, key, TEXT)
    if span is None:
        fields.columns[name] = pa.nulls(len(fields.good)).cast(pa.string())
        return
    values, plain = texts(fields.text, span.starts, span.ends)
    fields.good &= plain
    if span.present is not None:
        values = pc.if_else(pa.array(span.present), values, pa.scalar(None, pa.string()))
    fields.columns[name] = values
