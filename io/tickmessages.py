"""What each of the feed's messages means, one at a time: the reference that ``tickcolumns`` agrees with.

- A payload is one JSON object, an array of them, or one object (or array) a line. Of what is no JSON the
  messages that can be told apart are kept: lines, and the objects of an array.
- A value of another type than its field's is missing. A number may be written as an integer or not: 100.0 is
  100. ``NaN`` is no JSON.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NoReturn

import pyarrow as pa

from fibflow.io.tickcolumns import MINUTE, MS_BELOW, PARSED, SECOND, TRADE, US_BELOW, conditions_text

UNREADABLE = "unreadable"
UNKNOWN_EVENT = "unknown_event"
HEARTBEAT, STATUS = "HB", "status"

_WHITE = b" \t\r\n"
_BETWEEN = re.compile(rb"(?<=\})[ \t\r\n]*,[ \t\r\n]*(?=\{)")
_DECIMAL = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", re.ASCII)
_INT32 = 1 << 31
_INT64 = 1 << 63


class _Broken:
    """Stands for what is no JSON."""


BROKEN = _Broken()


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def load(raw: bytes) -> Any:
    """Return the value of a JSON text in UTF-8; ``BROKEN`` where it is none."""
    try:
        return _DECODER.decode(raw.decode())
    except (ValueError, RecursionError):
        return BROKEN


def messages(payload: bytes) -> list[tuple[Any, bytes]]:
    """Return the messages of a payload in order, each with its bytes; ``BROKEN`` for what is no JSON."""
    bare = payload.strip(_WHITE)
    if not bare:
        return []
    value = load(bare)
    if value is not BROKEN:
        return _items(value, bare) if isinstance(value, list) else [(value, bare)]
    lines = [line for line in (line.strip(_WHITE) for line in bare.split(b"\n")) if line]
    if bare.startswith(b"[") and not (len(lines) > 1 and all(line.startswith(b"[") for line in lines)):
        return [(load(piece), piece) for piece in _pieces(bare)]
    found = []
    for line in lines:
        value = load(line)
        if isinstance(value, list):
            found += _items(value, line)
        elif value is BROKEN and line.startswith(b"["):
            found += [(load(piece), piece) for piece in _pieces(line)]
        else:
            found.append((value, line))
    return found


def _items(values: list[Any], raw: bytes) -> list[tuple[Any, bytes]]:
    """Return an array's items, each with its bytes, or with what is written of its value."""
    pieces = _pieces(raw)
    if len(pieces) != len(values):
        pieces = [json.dumps(value, separators=(",", ":")).encode() for value in values]
    return list(zip(values, pieces, strict=True))


def _pieces(raw: bytes) -> list[bytes]:
    """Cut an array apart between its objects."""
    inside = raw[1:-1] if raw.endswith(b"]") else raw[1:]
    pieces = (piece.strip(_WHITE) for piece in _BETWEEN.split(inside))
    return [piece for piece in pieces if piece]


@dataclass(frozen=True)
class Letter:
    """A message that no row can be made of. ``symbol`` and ``values`` are what is known of it."""

    reason: str
    record: int
    place: int
    payload: bytes
    values: dict[str, Any] = field(default_factory=dict)


@dataclass
class Parsed:
    """What was parsed message by message.

    Attributes:
        rows: by kind, rows of ``PARSED``; ``start`` is the number of the message's bytes, from -1 downwards.
        raw: the bytes of the messages in ``rows``.
        beats: record, place, time and bytes of heartbeats; None for one that tells no time.
        letters: what no row was made of.
    """

    rows: dict[str, list[tuple[Any, ...]]] = field(default_factory=lambda: {kind: [] for kind in PARSED})
    raw: list[bytes] = field(default_factory=list)
    beats: list[tuple[int, int, int | None, bytes]] = field(default_factory=list)
    letters: list[Letter] = field(default_factory=list)

    def add(self, record: int, place: int, value: Any, raw: bytes) -> None:
        """Take in one message of the record with number ``record``."""
        if not isinstance(value, dict):
            self.letters.append(Letter(UNREADABLE, record, place, raw))
            return
        kind = value.get("ev")
        if kind == HEARTBEAT:
            self.beats.append((record, place, _time(value.get("t")), raw))
        elif kind == TRADE:
            conditions = conditions_text(value["c"]) if value.get("c") is not None else ""
            if conditions is None:
                self.letters.append(Letter(UNREADABLE, record, place, raw))
            else:
                self._append(kind, record, place, raw, _trade(value, conditions))
        elif kind in (SECOND, MINUTE):
            self._append(kind, record, place, raw, _aggregate(value))
        elif kind != STATUS:
            self.letters.append(Letter(UNKNOWN_EVENT, record, place, raw))

    def add_payload(self, record: int, payload: bytes) -> None:
        """Take in all messages of a record."""
        for place, (value, raw) in enumerate(messages(payload)):
            self.add(record, place, value, raw)

    def _append(self, kind: str, record: int, place: int, raw: bytes, row: tuple[Any, ...]) -> None:
        self.raw.append(raw)
        self.rows[kind].append((record, place, -len(self.raw), 0, *row))

    def tables(self) -> dict[str, pa.Table]:
        """Return the rows by kind, kinds without rows left out."""
        return {kind: _table(rows, PARSED[kind]) for kind, rows in self.rows.items() if rows}


def _table(rows: Iterable[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    columns = zip(*rows, strict=True)
    arrays: list[Any] = []
    for column, kind in zip(columns, schema.types, strict=True):
        if pa.types.is_dictionary(kind):
            arrays.append(pa.array(column, pa.string()).dictionary_encode())
        elif pa.types.is_timestamp(kind):
            arrays.append(pa.array(column, pa.int64()).view(kind))
        else:
            arrays.append(pa.array(column, kind))
    return pa.Table.from_arrays(arrays, schema=schema)


def _trade(value: dict[str, Any], conditions: str) -> tuple[Any, ...]:
    size = _decimal(value.get("ds"))
    correction = _whole(value.get("e"), _INT32)
    return (
        _symbol(value.get("sym")),
        _time(value.get("t")),
        _whole(value.get("q")),
        _number(value.get("p")),
        _number(value.get("s")) if size is None else size,
        conditions,
        _text(value.get("i")),
        _whole(value.get("x"), _INT32),
        _whole(value.get("z"), _INT32),
        _whole(value.get("correction"), _INT32) if correction is None else correction,
    )


def _aggregate(value: dict[str, Any]) -> tuple[Any, ...]:
    volume = _decimal(value.get("dv"))
    return (
        _symbol(value.get("sym")),
        _time(value.get("s")),
        *(_number(value.get(key)) for key in ("o", "h", "l", "c")),
        _number(value.get("v")) if volume is None else volume,
        _number(value.get("vw")),
        _whole(value.get("n")),
        _time(value.get("ver")),
    )


def _text(value: Any) -> str | None:
    """Return a text; None for another type, and for halves of characters, which no text can hold."""
    if not isinstance(value, str):
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        return None
    return value


def _symbol(value: Any) -> str | None:
    return _text(value) or None


def _number(value: Any) -> float | None:
    """Return a finite double; None where there is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _decimal(value: Any) -> float | None:
    """Return the number that a text spells, as JSON does; None where there is none."""
    if not isinstance(value, str) or not _DECIMAL.fullmatch(value):
        return None
    return _number(float(value))


def _whole(value: Any, limit: int = _INT64) -> int | None:
    """Return a whole number within ``[-limit, limit)``; None where there is none."""
    number: int | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        number = value
    elif isinstance(value, float) and value.is_integer():
        number = int(value)
    return number if number is not None and -limit <= number < limit else None


def _time(value: Any) -> int | None:
    """Return UTC microseconds; None where there are none, or they lie before 1970."""
    number = _whole(value)
    if number is None or number < 0:
        return None
    return number * 1000 if number < MS_BELOW else number if number < US_BELOW else number // 1000
