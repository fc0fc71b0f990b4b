"""The feed's messages: decoded from records, and archived in ``bronze.ticks``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fibflow.io.jsonframes import Frames, frame
from fibflow.io.jsonspans import PAD, Index, Text
from fibflow.io.jsonwalk import Layouts
from fibflow.io.kinesis.decoded import Decoded
from fibflow.io.tickcolumns import MINUTE, SECOND, TRADE, read
from fibflow.io.tickmessages import BROKEN, Parsed, load
from fibflow.io.tickoutputs import TAG_OF, Judge, chunk, us_of
from fibflow.transforms import schemas
from fibflow.transforms.partials import as_arrow

#: How far ahead of its arrival a message may be timed, microseconds.
MAX_AHEAD_US = 86_400_000_000

# Records of so many bytes are read at once, so that their columns stay in the cache.
_BLOCK_BYTES = 2_000_000
_ESCAPED = re.compile(rb"\\.", re.DOTALL)
_DAY_US = 86_400_000_000


@dataclass(frozen=True)
class DecodeTicks:
    """A ``Decoder`` of the vendor's messages: trades, aggregates of seconds and minutes, heartbeats.

    A message that cannot be read, or whose row is refused, becomes a dead letter with its bytes; those beside
    it do not mind. ``docs/data-model.md`` has the reasons.

    Attributes:
        max_ahead_us: a message that is timed so much later than it arrived is refused: one wrong time would
            else move the watermark past all that follows.
        few_bytes: blocks of fewer bytes are parsed message by message, which gives the same and costs less.
        few_messages: so are messages that have fewer of their like in a block.
    """

    max_ahead_us: int = MAX_AHEAD_US
    few_bytes: int = 16_000
    few_messages: int = 48
    _layouts: Layouts = field(default_factory=Layouts, init=False, repr=False, compare=False)

    def __call__(self, records: pa.Table) -> Decoded:
        """Decode a table of ``schemas.RECORDS``.

        Rows of the outputs are in the order of the records and their messages.
        """
        records = records.combine_chunks()
        payloads = _Payloads(records)
        parsed = Parsed()
        parts: dict[str, list[pa.Table]] = {kind: [] for kind in TAG_OF}
        for first, last in payloads.blocks():
            for kind, table in self._read(payloads, first, last, parsed):
                parts[kind].append(table)
        for kind, table in parsed.tables().items():
            parts[kind].append(table)
        tables = {kind: _in_order(found) for kind, found in parts.items() if found}
        return Judge(records, payloads.cut, parsed, self.max_ahead_us).decoded(tables)

    def _read(
        self, payloads: _Payloads, first: int, last: int, parsed: Parsed
    ) -> Iterator[tuple[str, pa.Table]]:
        """Yield what is read of some records where it stands; what is left of them goes to ``parsed``."""
        begins, ends = payloads.begins[first:last], payloads.ends[first:last]
        others: Index = np.arange(last - first)
        if ends[-1] - begins[0] >= self.few_bytes:
            text = Text(payloads.data[begins[0] : ends[-1]])
            shift = PAD - int(begins[0])
            frames = frame(text, begins + shift, ends + shift)
            tables, left = read(text, frames, self._layouts, self.few_messages)
            others = _parse_left(text, frames, left, first, parsed)
            for kind, table in tables:
                if len(others) > len(frames.others):
                    table = table.filter(pa.array(~np.isin(table["record"].to_numpy(), others)))
                yield kind, _shifted(table, first, -shift)
        for record in (others + first).tolist():
            parsed.add_payload(record, payloads.cut(payloads.begins[record], payloads.ends[record]))


class _Payloads:
    """The payloads of a block of records.

    Attributes:
        data: all of them, one behind the other.
        begins: where each begins, shape (n,).
        ends: where each ends.
    """

    def __init__(self, records: pa.Table) -> None:
        column: Any = chunk(records["data"])
        if column.null_count:
            column = column.fill_null(b"")
        n = len(column)
        _, offsets, held = column.buffers()
        places: Index = np.zeros(1, np.int64)
        if n:
            places = np.frombuffer(offsets, np.int32)[column.offset : column.offset + n + 1].astype(np.int64)
        self.data = np.frombuffer(b"" if held is None else held, np.uint8)
        self.begins, self.ends = places[:-1], places[1:]

    def cut(self, start: int, end: int) -> bytes:
        """Return the bytes of one span."""
        return self.data[start:end].tobytes()

    def blocks(self) -> list[tuple[int, int]]:
        """Return ranges of records, each of few enough bytes for the cache."""
        if not len(self.ends):
            return []
        number = (self.begins - self.begins[0]) // _BLOCK_BYTES
        firsts = np.flatnonzero(np.diff(number, prepend=-1)).tolist()
        return list(zip(firsts, [*firsts[1:], len(number)], strict=True))


def _shifted(table: pa.Table, record: int, shift: int) -> pa.Table:
    """Count records and bytes from others than a block's."""
    for name, offset in (("record", record), ("start", shift), ("end", shift)):
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(at), pa.array(table[name].to_numpy() + offset))
    return table


def _in_order(tables: list[pa.Table]) -> pa.Table:
    """Return the rows of all in the messages' order."""
    whole = tables[0] if len(tables) == 1 else pa.concat_tables(tables).unify_dictionaries().combine_chunks()
    key = whole["record"].to_numpy().astype(np.int64) << 32 | whole["place"].to_numpy()
    return whole if (np.diff(key) > 0).all() else whole.take(as_arrow(key.argsort(kind="stable")))


def _parse_left(text: Text, frames: Frames, left: Index, first: int, parsed: Parsed) -> Index:
    """Parse messages one by one.

    Returns:
        The records whose messages could not be told apart, ascending; nothing of them was parsed.
    """
    others = set(frames.others.tolist())
    found = []
    for row in left.tolist():
        record = int(frames.record[row])
        if record in others:
            continue
        raw = text.cut(int(frames.starts[row]), int(frames.ends[row]))
        value = load(raw)
        # A brace in a text may have cut an object of an array; and an object over several lines is no line.
        if value is BROKEN and _ends_in_text(raw) if frames.is_array[record] else b"\n" in raw:
            others.add(record)
        else:
            found.append((record, int(frames.place[row]), value, raw))
    for message in found:
        if message[0] not in others:
            parsed.add(message[0] + first, *message[1:])
    return np.array(sorted(others), np.int64)


def _ends_in_text(raw: bytes) -> bool:
    """Return whether a text is not closed."""
    return _ESCAPED.sub(b"", raw).count(b'"') % 2 == 1


def archive(outputs: Mapping[str, pa.Table]) -> pa.Table:
    """Return the rows of ``bronze.ticks`` that decoded messages make.

    Args:
        outputs: of ``Decoded``; dead letters are left out.
    """
    tables = [_ticks(outputs[tag], kind) for kind, tag in TAG_OF.items() if tag in outputs]
    return pa.concat_tables(tables) if tables else schemas.TICKS.empty_table()


def _ticks(table: pa.Table, kind: str) -> pa.Table:
    n = len(table)
    days = us_of(table["ts"]) // _DAY_US
    found, place = np.unique(days, return_inverse=True)
    names = pa.array(np.datetime_as_string(found.astype("datetime64[D]")), pa.string())
    columns: dict[str, Any] = {name: table[name] for name in table.column_names}
    columns["kind"] = pa.repeat(pa.scalar(kind), n)
    columns["period"] = names.take(as_arrow(place))
    arrays = [
        columns[field.name].cast(field.type) if field.name in columns else pa.nulls(n, field.type)
        for field in schemas.TICKS
    ]
    return pa.Table.from_arrays(arrays, schema=schemas.TICKS)


def trades_of(ticks: pa.Table) -> pa.Table:
    """Return the trades among rows of ``bronze.ticks``, in their order, as ``schemas.TRADES``."""
    return _of_kind(ticks, TRADE, schemas.TRADES)


def aggregates_of(ticks: pa.Table, kind: str) -> pa.Table:
    """Return the aggregates of one kind, ``AM`` or ``A``, among rows of ``bronze.ticks``.

    Returns:
        A table of ``schemas.AGGREGATES``, in the rows' order.

    Raises:
        ValueError: There is no such kind of aggregates.
    """
    if kind not in (MINUTE, SECOND):
        raise ValueError(f"there are no aggregates of kind {kind!r}: take {MINUTE!r} or {SECOND!r}")
    return _of_kind(ticks, kind, schemas.AGGREGATES)


def _of_kind(ticks: pa.Table, kind: str, schema: pa.Schema) -> pa.Table:
    rows = ticks.filter(pc.equal(ticks["kind"], pa.scalar(kind))).select(schema.names)
    arrays = []
    for field_ in schema:
        column = rows[field_.name].combine_chunks()
        if pa.types.is_dictionary(field_.type) and not pa.types.is_dictionary(column.type):
            column = column.dictionary_encode()
        arrays.append(column)
    return pa.Table.from_arrays(arrays, schema=schema)
