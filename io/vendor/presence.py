"""Which symbols have a row in which sessions, and so what is missing: pure, over whole arrays.

Positions are those of sessions in a *range* of the calendar: 0 is its first one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Bool = npt.NDArray[np.bool_]
Int = npt.NDArray[np.int64]
Cells = npt.NDArray[np.uint8]

ABSENT, THIN, BUSY = 0, 1, 2
#: Trades a day from which on a day without any is not to be expected.
BUSY_TRADES = 10
#: A session with less than this share of the symbols that those around it have is taken for a part.
WHOLE_SHARE = 0.8
#: Sessions on either side that say how many symbols are usual.
AROUND = 5
# Symbols that are judged at once: a few arrays of them and thousands of sessions fit into memory.
_BLOCK = 1024


class Presence:
    """A matrix of symbols and sessions, which grows as rows are seen.

    A cell is ``ABSENT``, ``BUSY`` (a row with ``BUSY_TRADES`` trades or more, or no count) or ``THIN``.

    Args:
        sessions: how many the range has.
        symbols: the only ones that count, there or not; None for all that are seen.
    """

    def __init__(self, sessions: int, symbols: frozenset[str] | None = None) -> None:
        self.sessions = sessions
        self.closed = symbols is not None
        self._names: list[str] = sorted(symbols or ())
        self._cells = np.zeros((max(len(self._names), 64), sessions), np.uint8)

    @property
    def names(self) -> list[str]:
        """The symbols, a row of ``cells`` each."""
        return self._names

    @property
    def cells(self) -> Cells:
        """The matrix, shape (symbols, sessions)."""
        return self._cells[: len(self._names)]

    def see(self, symbols: Any, positions: Int, trades: Any) -> None:
        """Take rows in.

        Args:
            symbols: a column of text, or a dictionary of it, shape (n,); null counts for nothing.
            positions: their sessions' positions; those outside the range count for nothing. Shape (n,).
            trades: a column of counts, shape (n,).
        """
        encoded = symbols if pa.types.is_dictionary(symbols.type) else pc.dictionary_encode(symbols)
        if isinstance(encoded, pa.ChunkedArray):
            encoded = encoded.unify_dictionaries().combine_chunks()
        if isinstance(encoded, pa.ChunkedArray):
            return
        rows = self._rows(encoded.dictionary)
        codes: Any = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        counts: Any = pc.fill_null(trades, BUSY_TRADES)
        kinds = np.where(np.asarray(counts) >= BUSY_TRADES, BUSY, THIN).astype(np.uint8)
        good = (codes >= 0) & (positions >= 0) & (positions < self.sessions)
        at = rows[codes[good]]
        known = at >= 0
        self._cells[at[known], positions[good][known]] = kinds[good][known]

    def counts(self) -> Int:
        """Return how many symbols each session has, shape (sessions,)."""
        return np.count_nonzero(self.cells, axis=0).astype(np.int64)

    def _rows(self, names: Any) -> Int:
        """Return the row of each symbol, -1 for one that does not count."""
        values: Any = pa.array(self._names, pa.string())
        found: Any = pc.index_in(names, value_set=values).fill_null(-1)
        rows: Int = found.to_numpy(zero_copy_only=False).astype(np.int64)
        new = np.flatnonzero(rows < 0)
        if self.closed or not len(new):
            return rows
        rows[new] = len(self._names) + np.arange(len(new))
        self._names += names.take(pa.array(new)).to_pylist()
        if len(self._names) > len(self._cells):
            grown = np.zeros((2 * len(self._names), self.sessions), np.uint8)
            grown[: len(self._cells)] = self._cells
            self._cells = grown
        return rows


def partial(counts: Int, judged: Bool) -> Bool:
    """Return which sessions have clearly fewer symbols than those around them, shape (sessions,).

    What is usual is the lesser of the medians of the ``AROUND`` sessions with rows before and after: where
    history begins to hold more symbols, neither side is a part.

    Args:
        counts: symbols of each session, shape (sessions,).
        judged: the sessions to judge; the others only help.
    """
    found = np.zeros(len(counts), np.bool_)
    filled = np.flatnonzero(counts)
    for position in np.flatnonzero(judged & (counts > 0)).tolist():
        place = int(np.searchsorted(filled, position))
        sides = (filled[max(0, place - AROUND) : place], filled[place + 1 : place + 1 + AROUND])
        usual = [float(np.median(counts[side])) for side in sides if len(side)]
        found[position] = bool(usual) and counts[position] < WHOLE_SHARE * min(usual)
    return found


class Holes(NamedTuple):
    """Sessions that symbols lack, in order of (symbol, position): a symbol is its row in the matrix.

    Both have the shape (n,).
    """

    symbol: Int
    position: Int


def missing(cells: Cells, wanted: Bool, settled: Bool) -> Holes:
    """Return all sessions among the wanted ones that symbols lack and that are not settled."""
    return Holes(*(found.astype(np.int64) for found in np.nonzero((cells == ABSENT) & wanted & ~settled)))


def holes(cells: Cells, held: Bool, vouched: Bool, settled: Bool, every: bool = False) -> Holes:
    """Return the sessions that symbols lack within their life, as far as it is worth to ask about them.

    A symbol's life reaches from its first session with a row to its last, and as far as ``AROUND`` sessions
    that are held further. In a session that the vendor gave whole a symbol is missing for good reason, unless
    it is one that trades every day: busy on both sides, or on the last side that there is.

    Args:
        cells: of ``Presence``, shape (symbols, sessions).
        held: sessions that are there at all; others are no symbol's hole. Shape (sessions,).
        vouched: those of them that the vendor gave whole.
        settled: where the vendor said already that a symbol did not trade, shape (symbols, sessions).
        every: ask about every one inside a life.
    """
    order = np.flatnonzero(held)
    found: list[tuple[Int, Int]] = [(np.zeros(0, np.int64), np.zeros(0, np.int64))]
    for start in range(0, len(cells), _BLOCK):
        block = slice(start, start + _BLOCK)
        at, place = _holes(cells[block][:, order], vouched[order], settled[block][:, order], every)
        found.append((at + start, order[place].astype(np.int64)))
    symbols, positions = (np.concatenate(part) for part in zip(*found, strict=True))
    return Holes(symbols, positions)


def _holes(seen: Cells, vouched: Bool, settled: Bool, every: bool) -> tuple[Int, Int]:
    """Return row and column of each hole of a block, all of whose sessions are held."""
    width = seen.shape[1]
    flat = np.ravel(seen)
    there = np.flatnonzero(flat)
    if not len(there):
        return there, there
    # Neighbours in a row with something between them: a row of thousands of sessions has few of these.
    before, after = there[:-1], there[1:]
    apart = (after - before > 1) & (after // width == before // width)
    before, after = before[apart], after[apart]
    suspect = (flat[before] == BUSY) & (flat[after] == BUSY)
    unsure = np.ones(width, np.bool_) if every else ~vouched
    sums = np.append(0, np.cumsum(unsure))
    worth = suspect | (sums[after % width] > sums[before % width + 1])
    before, after, suspect = before[worth], after[worth], suspect[worth]
    # A symbol that left some sessions ago is gone, not missing.
    last = np.append(there[1:] // width != there[:-1] // width, True)
    ends = there[last]
    left = width - 1 - ends % width
    recent = (flat[ends] == BUSY) & (left > 0) & (left <= AROUND)
    starts = np.concatenate([before, ends[recent]]) + 1
    lengths = np.concatenate([after - before - 1, left[recent]])
    certain = np.concatenate([suspect, np.ones(int(recent.sum()), np.bool_)])
    offsets = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    cells = np.repeat(starts, lengths) + offsets
    cells = np.sort(cells[np.repeat(certain, lengths) | unsure[cells % width]])
    cells = cells[~np.ravel(settled)[cells]]
    return cells // width, cells % width


class Range(NamedTuple):
    """Sessions of one symbol that one call asks for: ``wanted`` are its positions, ascending."""

    symbol: int
    wanted: tuple[int, ...]

    @property
    def first(self) -> int:
        """The first position."""
        return self.wanted[0]

    @property
    def last(self) -> int:
        """The last position."""
        return self.wanted[-1]


def ranges(found: Holes) -> list[Range]:
    """Return one range a symbol."""
    symbols, starts = np.unique(found.symbol, return_index=True)
    ends = np.append(starts, len(found.symbol))[1:]
    return [
        Range(symbol, tuple(found.position[start:end].tolist()))
        for symbol, start, end in zip(symbols.tolist(), starts.tolist(), ends.tolist(), strict=True)
    ]


def stretches(positions: Int, among: Int) -> list[tuple[int, int]]:
    """Return positions as stretches, both ends included, that go on over what is not ``among`` others.

    Args:
        positions: ascending.
        among: ascending; holds all of ``positions``.
    """
    if not len(positions):
        return []
    rank = np.searchsorted(among, positions)
    breaks = np.flatnonzero(np.diff(rank) > 1)
    firsts = positions[np.append(0, breaks + 1)].tolist()
    lasts = positions[np.append(breaks, len(positions) - 1)].tolist()
    return list(zip(firsts, lasts, strict=True))
