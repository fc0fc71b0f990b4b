"""The minutes of a bucket of live bars, and what left them: in memory and as bytes.

In memory a bucket is dense, a column a symbol: adding to it, and windows over it, need no sorting.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fibflow.transforms.livecells import BASE, FORMAT, check_format

Bool = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]
Float64 = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

# Rows of the dense arrays.
OPEN, HIGH, LOW, CLOSE = range(4)
#: The notional is ``(N2 << 64) + (N1 << 32) + N0``, not carried: adding up needs no care. The last two count
#: inputs that lacked theirs.
VOLUME, N2, N1, N0, COUNT, NO_VWAP, NO_COUNT = range(7)
#: Where there is none.
NO_PRICES = np.array([np.nan, -np.inf, np.inf, np.nan])[:, None]
_NO_SUMS = np.zeros((7, 1), np.int64)

_MOST = int(np.iinfo(np.int64).max)
_LEAST = int(np.iinfo(np.int64).min)
_ROOM = 64
_LOW = 0xFFFFFFFF


@dataclass(frozen=True)
class Feed:
    """A kind of input: what a minute keeps beside prices and sums.

    Attributes:
        name: ``trades`` or ``minutes``; ``days``, which is no feed.
        empty: what the further rows hold where a symbol has no input.
        sums: how many rows of sums can be other than 0.
        mark: the further row that is ``_LEAST`` where a symbol has no input, and only there.
        ranks: how many further rows, the first ones, say which of two inputs of a symbol stands; 0: they are
            folded.
    """

    name: str
    empty: tuple[int, ...]
    sums: int
    mark: int
    ranks: int


#: Further rows of trades: order of open and close, and the least and greatest ``seq`` seen.
OPEN_TS, OPEN_SEQ, CLOSE_TS, CLOSE_SEQ, SEQ_FROM, SEQ_TO = range(6)
TRADES = Feed("trades", (_MOST, 0, _LEAST, 0, _MOST, _LEAST), 5, SEQ_TO, 0)
#: Further rows of registers: precedence (greatest weight first), then the values that a dead letter repeats.
VERSION, WORD, SUB, PLACE, SHARD, VWAP, RAW_VOLUME, RAW_COUNT = 0, 1, 4, 5, 6, 7, 8, 9
REGISTERS = Feed("minutes", (_LEAST, 0, 0, 0, 0, 0, 0, 0, 0, -1), 7, VERSION, PLACE + 1)
FEEDS = {feed.name: feed for feed in (TRADES, REGISTERS)}
#: Days, each in the place of a minute: ``livedays`` says how. The further row is the version of the history.
DAYS = Feed("days", (_LEAST,), 7, VERSION, 1)


@dataclass(frozen=True)
class Entries:
    """What one minute holds or gains, of some symbols.

    Attributes:
        minute: its start, UTC microseconds.
        index: the symbols' places in the bucket, each once, shape (n,).
        prices, sums, extra: shapes (4, n), (7, n), (rows of the feed, n).
    """

    minute: int
    index: Int64
    prices: Float64
    sums: Int64
    extra: Int64

    def pick(self, which: npt.NDArray[Any]) -> Entries:
        """Return the entries at positions, or of a mask."""
        return Entries(
            self.minute, self.index[which], self.prices[:, which], self.sums[:, which], self.extra[:, which]
        )


_ENTRIES = struct.Struct("<BxxxIq")


def encode_entries(entries: Entries, feed: Feed) -> bytes:
    """Return entries as a part of a bag."""
    head = _ENTRIES.pack(FORMAT, len(entries.index), entries.minute)
    arrays = (entries.prices, entries.sums[: feed.sums], entries.extra, entries.index.astype(np.uint32))
    return b"".join((head, *(array.tobytes() for array in arrays)))


def decode_entries(part: bytes, feed: Feed) -> Entries:
    """Return the entries of a part."""
    check_format(part, "days" if feed is DAYS else "minutes")
    _, n, minute = _ENTRIES.unpack_from(part)
    numbers = np.frombuffer(part, np.int64, (4 + feed.sums + len(feed.empty)) * n, _ENTRIES.size)
    rows = numbers.reshape(-1, n)
    index = np.frombuffer(part, np.uint32, n, _ENTRIES.size + numbers.nbytes).astype(np.int64)
    sums = np.zeros((7, n), np.int64)
    sums[: feed.sums] = rows[4 : 4 + feed.sums]
    return Entries(minute, index, rows[:4].view(np.float64), sums, rows[4 + feed.sums :])


def minute_of_part(part: bytes) -> int:
    """Return the minute of a part of either bag."""
    return int(_ENTRIES.unpack_from(part)[2])


class Ring:
    """The minutes of a bucket in memory, in order of time; a column a symbol, some to spare.

    Attributes:
        minutes: their starts, shape (m,).
        prices, sums, extra: shapes (m, 4, s), (m, 7, s), (m, rows of the feed, s).
    """

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self._blank = np.array(feed.empty, np.int64)[:, None]
        self.minutes: Int64 = np.zeros(0, np.int64)
        self.prices: Float64 = np.zeros((0, 4, 0))
        self.sums: Int64 = np.zeros((0, 7, 0), np.int64)
        self.extra: Int64 = np.zeros((0, len(feed.empty), 0), np.int64)

    @property
    def width(self) -> int:
        """Columns that there are."""
        return self.prices.shape[2]

    def widen(self, symbols: int) -> None:
        """Make room for so many symbols."""
        width = -(-symbols // _ROOM) * _ROOM
        if width > self.width:
            self.prices = _wider(self.prices, NO_PRICES, width)
            self.sums = _wider(self.sums, _NO_SUMS, width)
            self.extra = _wider(self.extra, self._blank, width)

    def insert(self, minutes: Int64) -> bool:
        """Make room for minutes, given in order; return whether any was new."""
        there = np.zeros(len(minutes), np.bool_)
        if len(self.minutes):
            at = np.searchsorted(self.minutes, minutes)
            there = self.minutes[np.minimum(at, len(self.minutes) - 1)] == minutes
        if there.all():
            return False
        new = minutes[~there]
        at = np.searchsorted(self.minutes, new)
        self.minutes = np.insert(self.minutes, at, new)
        self.prices = np.insert(self.prices, at, NO_PRICES, axis=0)
        self.sums = np.insert(self.sums, at, 0, axis=0)
        self.extra = np.insert(self.extra, at, self._blank, axis=0)
        return True

    def keep(self, which: Bool) -> None:
        """Drop the other minutes."""
        self.minutes = self.minutes[which]
        self.prices, self.sums, self.extra = self.prices[which], self.sums[which], self.extra[which]

    def row(self, minute: int) -> int:
        """Return the place of a minute that there is."""
        return int(np.searchsorted(self.minutes, minute))

    def add(self, entries: Entries) -> None:
        """Add entries to their minute, for which there is room."""
        row, index = self.row(entries.minute), entries.index
        if self.feed.ranks:
            wins = precedes(self.extra[row][:, index], entries.extra, self.feed.ranks)
            if not wins.all():
                entries, index = entries.pick(wins), index[wins]
            self.prices[row][:, index] = entries.prices
            self.sums[row][:, index] = entries.sums
            self.extra[row][:, index] = entries.extra
            return
        prices, extra = self.prices[row], self.extra[row]
        own, order, theirs = prices[:, index], extra[:, index], entries.extra
        opens = _before(theirs[OPEN_TS], theirs[OPEN_SEQ], order[OPEN_TS], order[OPEN_SEQ])
        closes = _before(order[CLOSE_TS], order[CLOSE_SEQ], theirs[CLOSE_TS], theirs[CLOSE_SEQ])
        own[OPEN] = np.where(opens, entries.prices[OPEN], own[OPEN])
        own[CLOSE] = np.where(closes, entries.prices[CLOSE], own[CLOSE])
        own[HIGH] = np.maximum(own[HIGH], entries.prices[HIGH])
        own[LOW] = np.minimum(own[LOW], entries.prices[LOW])
        order[:2] = np.where(opens, theirs[:2], order[:2])
        order[2:4] = np.where(closes, theirs[2:4], order[2:4])
        order[SEQ_FROM] = np.minimum(order[SEQ_FROM], theirs[SEQ_FROM])
        order[SEQ_TO] = np.maximum(order[SEQ_TO], theirs[SEQ_TO])
        prices[:, index], extra[:, index] = own, order
        self.sums[row][:, index] += entries.sums

    def _held(self) -> Bool:
        """Return which symbols each minute holds, shape (m, s)."""
        return self.extra[:, self.feed.mark] != _LEAST

    def entries(self, row: int) -> Entries:
        """Return all that a minute holds."""
        return self.at(row, np.flatnonzero(self._held()[row]))

    def minute_of_most(self) -> int | None:
        """Return the minute by which nine tenths of all entries lie, never all; None where these are few."""
        held = np.cumsum(self._held().sum(axis=1))
        most = 9 * int(held[-1]) // 10 if len(held) else 0
        return int(self.minutes[np.searchsorted(held, most)]) if most else None

    def drop(self, row: int) -> None:
        """Forget what a minute holds."""
        self.prices[row], self.sums[row], self.extra[row] = NO_PRICES, 0, self._blank

    def at(self, row: int, index: Int64) -> Entries:
        """Return what a minute holds of some symbols."""
        return Entries(
            int(self.minutes[row]),
            index,
            self.prices[row][:, index],
            self.sums[row][:, index],
            self.extra[row][:, index],
        )


def _wider(array: npt.NDArray[Any], blank: npt.NDArray[Any], width: int) -> npt.NDArray[Any]:
    wide = np.empty((*array.shape[:2], width), array.dtype)
    wide[:] = blank
    wide[:, :, : array.shape[2]] = array
    return wide


def _before(ts: Int64, seq: Int64, than_ts: Int64, than_seq: Int64) -> Bool:
    return (ts < than_ts) | ((ts == than_ts) & (seq < than_seq))


def precedes(extra: Int64, other: Int64, ranks: int = REGISTERS.ranks) -> Bool:
    """Return where inputs lose to others: of registers by (version, sequence, sub, place); shape (n,)."""
    less = np.zeros(extra.shape[1], np.bool_)
    for row in range(ranks - 1, -1, -1):
        less = (extra[row] < other[row]) | ((extra[row] == other[row]) & less)
    return less


def add_up(prices: Float64, sums: Int64) -> tuple[Float64, Int64]:
    """Return one window's prices and sums, shapes (4, n) and (7, n), of parts in order of time.

    Args:
        prices: shape (m, 4, n), at least one part.
        sums: shape (m, 7, n).

    Raises:
        OverflowError: where a volume does not fit.
    """
    if len(prices) == 1:
        return prices[0], sums[0]
    total = sums.sum(axis=0)
    if int(sums[:, VOLUME].max(initial=0)) * len(sums) > _MOST:
        # Far from any real volume: below the limit an estimate is enough to tell that no sum wrapped.
        estimate = sums[:, VOLUME].astype(np.float64).sum(axis=0)
        if ((total[VOLUME] < 0) | (estimate > 1.5 * _MOST)).any():
            raise OverflowError("a window's volume reaches 9.2e12 shares, the most that a bar can hold")
    has = ~np.isnan(prices[:, OPEN])
    first, last = has.argmax(axis=0), len(prices) - 1 - has[::-1].argmax(axis=0)
    columns = np.arange(prices.shape[2])
    found = np.empty(prices.shape[1:])
    found[OPEN] = prices[first, OPEN, columns]
    found[CLOSE] = prices[last, CLOSE, columns]
    prices[:, HIGH].max(axis=0, out=found[HIGH])
    prices[:, LOW].min(axis=0, out=found[LOW])
    return found, total


def notional(sums: Int64) -> tuple[Int64, UInt64]:
    """Return the notional with its words carried: its upper and lower 64 bits, shape (n,)."""
    middle = sums[N1] + (sums[N0] >> 32)
    low = ((middle & _LOW) << 32).view(np.uint64) | (sums[N0] & _LOW).view(np.uint64)
    return sums[N2] + (middle >> 32), low


@dataclass
class Base:
    """What left the ring, of the window of each timeframe that is not final; one at most is.

    Attributes:
        starts, ends: of the window, both 0 where there is none; shape (timeframes,).
        prices, sums: shapes (timeframes, 4, s), (timeframes, 7, s).
    """

    starts: Int64
    ends: Int64
    prices: Float64
    sums: Int64

    @classmethod
    def empty(cls, timeframes: int) -> Base:
        """Return a base without windows."""
        zeros = np.zeros(timeframes, np.int64)
        return cls(
            zeros, zeros.copy(), np.zeros((timeframes, 4, 0)), np.zeros((timeframes, 7, 0), np.int64)
        ).widened(0)

    def widened(self, width: int) -> Base:
        """Return the base with as many columns as the ring."""
        if width <= self.prices.shape[2]:
            return self
        prices, sums = _wider(self.prices, NO_PRICES, width), _wider(self.sums, _NO_SUMS, width)
        return Base(self.starts, self.ends, prices, sums)

    def reset(self, number: int) -> None:
        """Forget a timeframe's window."""
        self.starts[number] = self.ends[number] = 0
        self.prices[number], self.sums[number] = NO_PRICES, _NO_SUMS

    def encode(self, symbols: int) -> bytes:
        """Return the windows that there are, of the symbols that there are."""
        live = np.flatnonzero(self.starts)
        head = struct.pack("<BBHI", FORMAT, len(self.starts), len(live), symbols)
        arrays = (
            live.astype(np.int64),
            self.starts[live],
            self.ends[live],
            self.prices[live, :, :symbols],
            self.sums[live, :, :symbols],
        )
        return b"".join((head, *(array.tobytes() for array in arrays)))

    @classmethod
    def decode(cls, cell: bytes) -> Base:
        """Return the base of a cell."""
        check_format(cell, BASE)
        _, timeframes, windows, symbols = struct.unpack_from("<BBHI", cell)
        numbers = np.frombuffer(cell, np.int64, offset=8)
        live, starts, ends = numbers[: 3 * windows].reshape(3, windows)
        rest = numbers[3 * windows :]
        base = cls.empty(timeframes).widened(symbols)
        base.starts[live], base.ends[live] = starts, ends
        split = windows * 4 * symbols
        base.prices[live] = rest[:split].view(np.float64).reshape(windows, 4, symbols)
        base.sums[live] = rest[split:].reshape(windows, 7, symbols)
        return base
