"""The bar kernel: rows to partials (``fold``), partials together (``merge``), partials to bars (``finish``).

All three work on whole columns: sorted runs, and one ``reduceat`` a column. ``merge`` is associative and
commutative to the bit, because sums are integers and ties in time break on the sequence number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fibflow.transforms import accumulators as acc
from fibflow.transforms.schemas import BARS, PARTIALS, SYMBOL, TIMESTAMP

Bool = npt.NDArray[np.bool_]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]
Float64 = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Rows:
    """Rows of (symbol, time), strictly increasing in both; every array has shape (n,).

    Attributes:
        symbols: the dictionary, sorted; ``symbol`` holds indices into it.
        volume: in 1e-6 share.
        vwap, trade_count: NaN and -1 where a row lacks it; None where all do.
    """

    symbols: pa.StringArray
    symbol: Int32
    open: Float64
    high: Float64
    low: Float64
    close: Float64
    volume: Int64
    vwap: Float64 | None = None
    trade_count: Int64 | None = None

    def __len__(self) -> int:
        return len(self.symbol)

    @cached_property
    def volume_before(self) -> Int64:
        """The volume of all rows before each, and of all; shape (n + 1,). Wraps: only differences count."""
        total = np.zeros(len(self) + 1, np.int64)
        np.cumsum(self.volume, out=total[1:])
        return total

    @cached_property
    def greatest_volume(self) -> int:
        """The greatest volume of a row."""
        return int(self.volume.max(initial=0))


@dataclass(frozen=True)
class Partials:
    """Partial bars; the columns of ``schemas.PARTIALS`` as arrays of shape (n,).

    The notional's three are None where no input had a vwap; the trade count's two where none had a count.
    """

    symbols: pa.StringArray
    symbol: Int32
    ts: Int64
    end: Int64
    open: Float64
    open_ts: Int64
    open_seq: Int64
    high: Float64
    low: Float64
    close: Float64
    close_ts: Int64
    close_seq: Int64
    volume: Int64
    notional_hi: Int64 | None
    notional_lo: UInt64 | None
    has_notional: Bool | None
    trade_count: Int64 | None
    has_trade_count: Bool | None
    sessions: Int32

    def __len__(self) -> int:
        return len(self.symbol)

    def take(self, index: npt.NDArray[Any]) -> Partials:
        """Return the partials at ``index``: positions or a mask."""
        picked = {
            field.name: value[index]
            for field in fields(self)
            if field.name != "symbols" and (value := getattr(self, field.name)) is not None
        }
        return replace(self, **picked)

    def to_arrow(self) -> pa.Table:
        """Return the partials as a table of ``schemas.PARTIALS``."""
        n = len(self)
        zeros, no = np.zeros(n, np.int64), np.zeros(n, np.bool_)
        columns: dict[str, Any] = {name: getattr(self, name) for name in PARTIALS.names[1:]}
        columns["notional_hi"] = zeros if self.notional_hi is None else self.notional_hi
        columns["notional_lo"] = zeros.astype(np.uint64) if self.notional_lo is None else self.notional_lo
        columns["has_notional"] = no if self.has_notional is None else self.has_notional
        columns["trade_count"] = zeros if self.trade_count is None else self.trade_count
        columns["has_trade_count"] = no if self.has_trade_count is None else self.has_trade_count
        symbol = pa.DictionaryArray.from_arrays(as_arrow(self.symbol), self.symbols)
        return pa.table([symbol, *(as_arrow(columns[name]) for name in PARTIALS.names[1:])], schema=PARTIALS)

    @classmethod
    def from_arrow(cls, table: pa.Table) -> Partials:
        """Read a table of ``schemas.PARTIALS``; its symbols need not be in order."""
        symbols, codes = encode_symbols(table["symbol"])
        columns: dict[str, Any] = {name: table[name].to_numpy() for name in PARTIALS.names[1:]}
        if not columns["has_notional"].any():
            columns["notional_hi"] = columns["notional_lo"] = columns["has_notional"] = None
        if not columns["has_trade_count"].any():
            columns["trade_count"] = columns["has_trade_count"] = None
        return cls(symbols=symbols, symbol=codes, **columns)


def as_arrow(values: npt.NDArray[Any], mask: Bool | None = None) -> Any:
    """Return an array as Arrow's, null where ``mask`` is true; ``pa.array``'s stubs take no NumPy types."""
    return pa.array(values, mask=mask)


def numbers(rows: pa.Table, name: str) -> npt.NDArray[Any]:
    """Return a column without nulls as an array; instants as UTC microseconds."""
    column: Any = rows[name]
    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    if pa.types.is_timestamp(array.type):
        array = array.view(pa.int64())
    return array.to_numpy(zero_copy_only=False)


def encode_symbols(column: pa.ChunkedArray) -> tuple[pa.StringArray, Int32]:
    """Return the sorted distinct symbols of a column and each row's index into them, shape (n,)."""
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    array: Any = column.cast(SYMBOL).unify_dictionaries().combine_chunks()
    codes = array.indices.to_numpy(zero_copy_only=False).astype(np.int32, copy=False)
    words = array.dictionary
    names = words.to_pylist()
    order = sorted(range(len(names)), key=names.__getitem__)
    if order == list(range(len(names))):
        return words, codes
    rank = np.empty(len(names), np.int32)
    rank[order] = np.arange(len(names), dtype=np.int32)
    return words.take(as_arrow(np.array(order, np.int64))), rank[codes]


def run_starts(symbol: npt.NDArray[Any], window: npt.NDArray[Any]) -> Index:
    """Return where each run of equal (symbol, window) begins in sorted columns; shape (runs,)."""
    if not len(symbol):
        return np.zeros(0, np.intp)
    change = window[1:] != window[:-1]
    change |= symbol[1:] != symbol[:-1]
    return np.concatenate((np.zeros(1, np.intp), np.flatnonzero(change) + 1))


def newest(symbol: npt.NDArray[Any], window: npt.NDArray[Any], *ranks: npt.NDArray[Any]) -> Index:
    """Return the position of the greatest row of each (symbol, window), in their order; shape (runs,).

    Args:
        symbol: the first key, in any order; shape (n,).
        window: the second, likewise.
        ranks: what makes a row greater, the most significant first; of equal rows the last one counts.
    """
    order = np.lexsort((*reversed(ranks), window, symbol))
    starts = run_starts(symbol[order], window[order])
    return order[np.append(starts, len(order))[1:] - 1]


@dataclass(frozen=True)
class Runs:
    """The runs of rows that make a bar each; arrays of shape (k,), in the order in which the bars are wanted.

    Attributes:
        starts: first row of every run, in the order of the rows, shape (runs,).
        chosen: which runs to fold, shape (k,); None for all, in order.
        first, last: the chosen runs' first and last rows.
        ts, end: their windows.
        begins, finishes: first instant of each run's first row, last instant of its last row; None where the
            partials are not to be merged with others.
        sessions: how many sessions each run holds.
    """

    starts: Index
    chosen: Index | None
    first: Index
    last: Index
    ts: Int64
    end: Int64
    begins: Int64 | None
    finishes: Int64 | None
    sessions: Int32


def fold(rows: Rows, runs: Runs) -> Partials:
    """Fold runs of rows, sorted by symbol and time, into one partial bar each."""
    starts = runs.starts
    chosen: Any = slice(None) if runs.chosen is None else runs.chosen
    first, last = runs.first, runs.last
    zeros = np.zeros(len(first), np.int64)
    hi = lo = has_notional = count = has_count = None
    if rows.vwap is not None:
        known = np.isfinite(rows.vwap)
        products = acc.multiply(acc.to_micro(np.where(known, rows.vwap, 0.0)), rows.volume)
        hi, lo = (part[chosen] for part in acc.sum_runs(*products, starts))
        has_notional = np.logical_and.reduceat(known, starts)[chosen]
        hi, lo = np.where(has_notional, hi, 0), np.where(has_notional, lo, np.uint64(0))
    if rows.trade_count is not None:
        has_count = np.logical_and.reduceat(rows.trade_count >= 0, starts)[chosen]
        count = np.where(has_count, np.add.reduceat(rows.trade_count, starts)[chosen], 0)
    return Partials(
        symbols=rows.symbols,
        symbol=rows.symbol[first],
        ts=runs.ts,
        end=runs.end,
        open=rows.open[first],
        open_ts=zeros if runs.begins is None else runs.begins,
        open_seq=zeros,
        high=np.maximum.reduceat(rows.high, starts)[chosen],
        low=np.minimum.reduceat(rows.low, starts)[chosen],
        close=rows.close[last],
        close_ts=zeros if runs.finishes is None else runs.finishes,
        close_seq=zeros,
        volume=_volume(rows, runs),
        notional_hi=hi,
        notional_lo=lo,
        has_notional=has_notional,
        trade_count=count,
        has_trade_count=has_count,
        sessions=runs.sessions,
    )


def _volume(rows: Rows, runs: Runs) -> Int64:
    """Return the volume of each chosen run, exactly."""
    longest = int((runs.last - runs.first).max(initial=0)) + 1
    if rows.greatest_volume * longest < acc.VOLUME_LIMIT:
        return rows.volume_before.take(runs.last + 1) - rows.volume_before.take(runs.first)
    total = acc.sum_volume(rows.volume, runs.starts)
    return total if runs.chosen is None else total[runs.chosen]


def concat(parts: Sequence[Partials]) -> Partials:
    """Put partials end to end, with one sorted dictionary of symbols.

    Raises:
        ValueError: where there is nothing to put together.
    """
    if not parts:
        raise ValueError("no partials to concatenate")
    if len(parts) == 1:
        return parts[0]
    return Partials.from_arrow(pa.concat_tables([part.to_arrow() for part in parts]))


def merge(partials: Partials, add_sessions: bool = False) -> Partials:
    """Merge all partials of one (symbol, ts) into one; sorted by symbol and ts.

    Associative and commutative. Two partials are of the same session unless ``add_sessions``: then each has
    its own.
    """
    if not len(partials):
        return partials
    p = partials
    opening = _order(p.open_seq, p.open_ts, p.ts, p.symbol)
    opened = p if opening is None else p.take(opening)
    starts = run_starts(opened.symbol, opened.ts)
    last = np.append(starts[1:], len(p)) - 1
    closing = _order(p.close_seq, p.close_ts, p.ts, p.symbol)
    last = last if closing is None else closing[last]
    has_notional = has_count = hi = lo = count = None
    if opened.notional_hi is not None and opened.notional_lo is not None and opened.has_notional is not None:
        has_notional = np.logical_and.reduceat(opened.has_notional, starts)
        hi, lo = acc.sum_runs(opened.notional_hi, opened.notional_lo, starts)
        hi, lo = np.where(has_notional, hi, 0), np.where(has_notional, lo, np.uint64(0))
    if opened.trade_count is not None and opened.has_trade_count is not None:
        has_count = np.logical_and.reduceat(opened.has_trade_count, starts)
        count = np.where(has_count, np.add.reduceat(opened.trade_count, starts), 0)
    return Partials(
        symbols=p.symbols,
        symbol=opened.symbol[starts],
        ts=opened.ts[starts],
        end=np.maximum.reduceat(opened.end, starts),
        open=opened.open[starts],
        open_ts=opened.open_ts[starts],
        open_seq=opened.open_seq[starts],
        high=np.maximum.reduceat(opened.high, starts),
        low=np.minimum.reduceat(opened.low, starts),
        close=p.close[last],
        close_ts=p.close_ts[last],
        close_seq=p.close_seq[last],
        volume=acc.sum_volume(opened.volume, starts),
        notional_hi=hi,
        notional_lo=lo,
        has_notional=has_notional,
        trade_count=count,
        has_trade_count=has_count,
        sessions=(np.add if add_sessions else np.maximum).reduceat(opened.sessions, starts),
    )


def _order(*keys: npt.NDArray[Any]) -> Index | None:
    """Return the order by ``keys``, as ``numpy.lexsort``; None where they are in order already."""
    above = np.zeros(len(keys[0]) - 1, np.bool_)
    level = ~above
    for key in reversed(keys):
        above |= level & (key[1:] > key[:-1])
        level &= key[1:] == key[:-1]
    return None if (above | level).all() else np.lexsort(keys)


def finish(partials: Partials, timeframe: str, complete: Bool) -> pa.Table:
    """Return the bars of partials (``BAR_BATCH``), ``revision`` 0 and ``final`` as ``complete``."""
    p = partials
    n = len(p)
    vwap: Any = pa.nulls(n, pa.float64())
    count: Any = pa.nulls(n, pa.int64())
    if p.notional_hi is not None and p.notional_lo is not None and p.has_notional is not None:
        value = acc.vwap(p.notional_hi, p.notional_lo, p.volume)
        vwap = as_arrow(value, mask=~p.has_notional | (p.volume == 0))
    if p.trade_count is not None and p.has_trade_count is not None:
        count = as_arrow(p.trade_count, mask=~p.has_trade_count)
    zeros = as_arrow(np.zeros(n, np.int32))
    flags = as_arrow(complete)
    columns: list[Any] = [
        pa.DictionaryArray.from_arrays(as_arrow(p.symbol), p.symbols),
        pa.DictionaryArray.from_arrays(zeros, [timeframe]),
        as_arrow(p.ts).view(TIMESTAMP),
        as_arrow(p.end).view(TIMESTAMP),
        *(as_arrow(prices) for prices in (p.open, p.high, p.low, p.close)),
        as_arrow(p.volume / np.float64(acc.MICRO)),
        vwap,
        count,
        as_arrow(p.sessions),
        flags,
        flags,
        zeros,
    ]
    return pa.table(columns, schema=BAR_BATCH)


#: ``schemas.BARS`` with its two strings as dictionaries: bars in memory.
BAR_BATCH = pa.schema(
    [field.with_type(SYMBOL) if pa.types.is_string(field.type) else field for field in BARS]
)
