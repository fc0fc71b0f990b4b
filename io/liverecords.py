"""What the live store holds, as bytes: packed records of bars and prices, and the names they go by.

Whole columns are packed at once: a record is a row of a NumPy structured array. ``docs/live-store.md`` gives
the bytes for readers in other languages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fibflow.transforms.partials import as_arrow
from fibflow.transforms.schemas import BARS, TIMESTAMP
from fibflow.transforms.timeframe import Timeframe

#: The number of this layout of keys and bytes; readers and writers refuse another.
LAYOUT = 3

_PRICES = ("open", "high", "low", "close", "volume", "vwap")

#: A bar, 85 bytes, little-endian and without gaps. ``vwap`` is NaN and ``trade_count`` -1 where unknown,
#: ``flags`` are COMPLETE and FINAL, ``written`` is when it was written: UTC seconds, 0 from the lake.
#: ``frame`` is the timeframe's ``frame_of``.
BAR = np.dtype(
    [
        ("ts", "<i8"),
        ("end", "<i8"),
        *((name, "<f8") for name in _PRICES),
        ("trade_count", "<i8"),
        ("revision", "<i4"),
        ("sessions", "<u2"),
        ("flags", "u1"),
        ("written", "<u4"),
        ("frame", "<u2"),
    ]
)
COMPLETE = 1
FINAL = 2
#: Of a ``frame``: it counts sessions, not minutes.
_SESSIONS = 0x8000

#: A last price, 33 bytes, likewise. ``size`` is NaN where unknown; ``source`` is a place in ``SOURCES``.
PRICE = np.dtype([("ts", "<i8"), ("seq", "<i8"), ("price", "<f8"), ("size", "<f8"), ("source", "u1")])
SOURCES = ("trade", "second", "minute")

_PRICE_FIELDS: list[Any] = [
    pa.field("symbol", pa.string()),
    pa.field("price", pa.float64()),
    pa.field("size", pa.float64()),
    pa.field("ts", TIMESTAMP),
    pa.field("seq", pa.int64()),
    pa.field("source", pa.string()),
]

#: Last prices: at most one a symbol. ``ts`` is the trade's time, or the last microsecond of the aggregate;
#: ``seq`` the trade's sequence number, or the aggregate's version; ``source`` is one of ``SOURCES``.
PRICES = pa.schema(_PRICE_FIELDS)

_MICROS = 1_000_000
_LONGEST_NAME = 0xFFFF


@dataclass(frozen=True)
class Packed:
    """Records and their symbols; both of length n.

    Attributes:
        names: the symbols, a ``pa.StringArray``.
        rows: of dtype BAR or PRICE.
    """

    names: Any
    rows: npt.NDArray[Any]

    def __len__(self) -> int:
        return len(self.rows)

    def slice(self, start: int, stop: int) -> Packed:
        """Return the records ``[start, stop)``, without a copy."""
        return Packed(self.names.slice(start, stop - start), self.rows[start:stop])

    def take(self, index: npt.NDArray[Any]) -> Packed:
        """Return the records at ``index``: positions or a mask."""
        at = np.flatnonzero(index) if index.dtype == np.bool_ else index
        return Packed(self.names.take(as_arrow(at)), self.rows[at])

    def parts(self) -> tuple[bytes, bytes, bytes]:
        """Return what goes over the wire: the names' lengths (u16 each), the names, and the records."""
        return *_texts(self.names), self.rows.tobytes()

    @classmethod
    def of_parts(cls, sizes: bytes, names: bytes, rows: bytes, dtype: np.dtype) -> Packed:
        """Read what ``parts`` gives.

        Raises:
            ValueError: the three do not fit together.
        """
        array, records = _words(sizes, names), np.frombuffer(rows, dtype)
        if len(records) != len(array):
            raise ValueError("the parts of an entry do not fit together")
        return cls(array, records)


@dataclass(frozen=True)
class Grouped:
    """Bars by symbol: all that are open of each.

    Attributes:
        names: the symbols, each once, a ``pa.StringArray`` of length n.
        counts: how many records each has, shape (n,).
        rows: of dtype BAR, symbol by symbol.
    """

    names: Any
    counts: npt.NDArray[np.int64]
    rows: npt.NDArray[Any]

    def parts(self) -> tuple[bytes, bytes, bytes, bytes]:
        """Return what goes over the wire: as of ``Packed``, and the counts (u16 each) before the records."""
        return *_texts(self.names), self.counts.astype("<u2").tobytes(), self.rows.tobytes()

    @classmethod
    def of_parts(cls, sizes: bytes, names: bytes, counts: bytes, rows: bytes) -> Grouped:
        """Read what ``parts`` gives.

        Raises:
            ValueError: the four do not fit together.
        """
        array, of_each = _words(sizes, names), np.frombuffer(counts, "<u2").astype(np.int64)
        records = np.frombuffer(rows, BAR)
        if len(of_each) != len(array) or of_each.sum() != len(records):
            raise ValueError("the parts of an entry do not fit together")
        return cls(array, of_each, records)

    def flat(self) -> Packed:
        """Return the records with a name each."""
        return Packed(
            self.names.take(as_arrow(np.repeat(np.arange(len(self.counts)), self.counts))), self.rows
        )


def _texts(names: Any) -> tuple[bytes, bytes]:
    """Return the lengths (u16 each) and the bytes of a ``pa.StringArray``."""
    if not len(names):
        return b"", b""
    _, offsets, data = names.buffers()
    ends = np.frombuffer(offsets, np.int32)[names.offset : names.offset + len(names) + 1]
    sizes = np.diff(ends)
    if sizes.max() > _LONGEST_NAME:
        raise ValueError(f"a symbol of {sizes.max()} bytes: the live store takes at most {_LONGEST_NAME}")
    text = memoryview(data)[ends[0] : ends[-1]].tobytes() if data is not None else b""
    return sizes.astype("<u2").tobytes(), text


def _words(sizes: bytes, names: bytes) -> Any:
    """Return the ``pa.StringArray`` that ``_texts`` was given."""
    lengths = np.frombuffer(sizes, "<u2")
    offsets = np.concatenate((np.zeros(1, np.int32), np.cumsum(lengths, dtype=np.int32)))
    if offsets[-1] != len(names):
        raise ValueError("the parts of an entry do not fit together")
    return pa.StringArray.from_buffers(len(lengths), pa.py_buffer(offsets.tobytes()), pa.py_buffer(names))


def frame_of(timeframe: Timeframe) -> int:
    """Return a timeframe as a number of 16 bits: its minutes, or its sessions with the highest bit set."""
    return timeframe.sessions | _SESSIONS if timeframe.sessions else timeframe.minutes


def _timeframe_of(frame: int) -> Timeframe:
    return Timeframe(frame & ~_SESSIONS, 0) if frame & _SESSIONS else Timeframe(0, frame)


def pack_bars(bars: pa.Table, written: int) -> Packed:
    """Pack bars of any symbols and timeframes, in their order.

    Args:
        bars: of ``schemas.BARS`` or ``partials.BAR_BATCH``.
        written: when they are written, UTC seconds.
    """
    return Packed(_plain(bars["symbol"]), _records(bars.combine_chunks(), written))


def group_bars(bars: pa.Table, written: int) -> Grouped:
    """Pack bars by symbol, those of a symbol by timeframe and time; arguments are those of ``pack_bars``."""
    symbols, codes = _coded(bars["symbol"])
    rows = _records(bars.combine_chunks(), written)
    order = np.lexsort((rows["ts"], rows["frame"], codes))
    counts = np.bincount(codes, minlength=len(symbols))
    held = np.flatnonzero(counts)
    return Grouped(symbols.take(as_arrow(held)), counts[held], rows[order])


def _records(bars: pa.Table, written: int) -> npt.NDArray[Any]:
    rows = np.empty(len(bars), BAR)
    for name in ("ts", "end"):
        rows[name] = _numbers(bars[name].combine_chunks().view(pa.int64()))
    for name in (*_PRICES, "revision", "sessions"):
        rows[name] = _numbers(bars[name])
    counts: Any = bars["trade_count"]
    rows["trade_count"] = _numbers(counts.fill_null(-1))
    rows["flags"] = COMPLETE * _numbers(bars["complete"]) + FINAL * _numbers(bars["final"])
    rows["written"] = written
    names, at = _coded(bars["timeframe"])
    frames = [frame_of(Timeframe.parse(name)) for name in names.to_pylist()]
    rows["frame"] = np.array(frames, np.uint16)[at]
    return rows


def list_names(timeframes: pa.ChunkedArray, symbols: Any) -> Any:
    """Return what each bar's list of closed bars goes by, ``timeframe:symbol``; no timeframe has a colon."""
    return pc.binary_join_element_wise(_plain(timeframes), symbols, ":")


def symbols_of(names: Any) -> Any:
    """Return the symbols of ``list_names``."""
    cut: Any = pc.split_pattern(names, ":", max_splits=1)
    return cut.flatten().take(as_arrow(2 * np.arange(len(names)) + 1))


def unpack_bars(packed: Packed) -> pa.Table:
    """Return packed bars as a table of ``schemas.BARS``, in their order."""
    rows = packed.rows
    if not len(rows):
        return BARS.empty_table()
    frames, at = np.unique(rows["frame"], return_inverse=True)
    timeframes = pa.array([_timeframe_of(frame).name for frame in frames.tolist()], pa.string())
    columns = {
        "symbol": packed.names,
        "timeframe": timeframes.take(as_arrow(at.astype(np.int64))),
        **{name: as_arrow(rows[name].copy()).view(TIMESTAMP) for name in ("ts", "end")},
        **{name: as_arrow(rows[name].copy()) for name in _PRICES},
        "vwap": as_arrow(rows["vwap"].copy(), mask=np.isnan(rows["vwap"])),
        "trade_count": as_arrow(rows["trade_count"].copy(), mask=rows["trade_count"] < 0),
        "sessions": as_arrow(rows["sessions"].astype(np.int32)),
        "complete": as_arrow((rows["flags"] & COMPLETE) != 0),
        "final": as_arrow((rows["flags"] & FINAL) != 0),
        "revision": as_arrow(rows["revision"].copy()),
    }
    return pa.table([columns[name] for name in BARS.names], schema=BARS)


def pack_prices(prices: pa.Table) -> Packed:
    """Pack last prices of ``PRICES``, in their order."""
    prices = prices.combine_chunks()
    rows = np.empty(len(prices), PRICE)
    rows["ts"] = _numbers(prices["ts"].combine_chunks().view(pa.int64()))
    for name in ("seq", "price", "size"):
        rows[name] = _numbers(prices[name])
    rows["source"] = _numbers(pc.index_in(prices["source"], value_set=pa.array(SOURCES)))
    return Packed(_plain(prices["symbol"]), rows)


def unpack_prices(packed: Packed) -> pa.Table:
    """Return packed last prices as a table of ``PRICES``, in their order."""
    rows = packed.rows
    columns = [
        packed.names,
        as_arrow(rows["price"].copy()),
        as_arrow(rows["size"].copy(), mask=np.isnan(rows["size"])),
        as_arrow(rows["ts"].copy()).view(TIMESTAMP),
        as_arrow(rows["seq"].copy()),
        pa.array(SOURCES).take(as_arrow(rows["source"].astype(np.int32))),
    ]
    return pa.table(columns, schema=PRICES)


def seconds(micros: int) -> int:
    """Return an instant, UTC microseconds, as a record's ``written``."""
    return min(max(micros // _MICROS, 0), 0xFFFFFFFF)


def _plain(column: pa.ChunkedArray) -> Any:
    """Return a column of words as one ``StringArray``."""
    array: Any = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], pa.string())
    return array.cast(pa.string())


def _coded(column: pa.ChunkedArray) -> tuple[Any, npt.NDArray[np.int32]]:
    """Return the words of a column as a ``StringArray``, and each row's place among them."""
    coded: Any = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    array = coded.unify_dictionaries().combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        return pa.array([], pa.string()), np.zeros(0, np.int32)
    return array.dictionary.cast(pa.string()), _numbers(array.indices)


def _numbers(column: Any) -> Any:
    return column.to_numpy() if isinstance(column, pa.ChunkedArray) else column.to_numpy(zero_copy_only=False)
