"""Prices, times and sizes of the trades in cells: random, and exact in what they come to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fibflow.pipelines.tape.cells import PRICE_UNITS, Bool, Cells, Float64, Int64, Phase

MS_US = 1_000
#: Bits that a moment within a cell, in milliseconds, needs at most.
_MOMENT = 27
ROUND_LOT = 100
_CLOSING_PART = 0.08


@dataclass(frozen=True, eq=False)
class Runs:
    """Cells laid end to end, a trade an element: shape (trades,) but for ``starts`` and ``ends`` (cells,)."""

    starts: Int64
    ends: Int64
    cell: Int64
    place: Int64

    @classmethod
    def of(cls, counts: Int64) -> Runs:
        """Return the layout of so many trades a cell; each cell has one at least."""
        ends = np.cumsum(counts)
        starts = ends - counts
        cell = np.repeat(np.arange(len(counts)), counts)
        return cls(starts, ends, cell, np.arange(int(ends[-1])) - starts[cell])


def moments(cells: Cells, runs: Runs, rng: np.random.Generator) -> Int64:
    """Return when each trade is, UTC microseconds on whole milliseconds, in order within its cell.

    Regular hours have most trades at both ends, the extended hours most beside the regular ones. The first
    trade of regular hours is at the open, the last a millisecond before the close.
    """
    phase = cells.phase[runs.cell]
    drawn = rng.random(len(phase))
    for kind, crowd in _CROWDS.items():
        rows = np.flatnonzero(phase == kind)
        drawn[rows] = np.interp(drawn[rows], crowd, np.linspace(0, 1, len(crowd)))
    length = (cells.end - cells.start) // MS_US
    moment = np.minimum((drawn * length[runs.cell]).astype(np.int64), length[runs.cell] - 1)
    moment = np.sort(runs.cell << _MOMENT | moment) & ((1 << _MOMENT) - 1)
    regular = cells.phase == Phase.REGULAR
    moment[runs.starts[regular]] = 0
    moment[runs.ends[regular] - 1] = np.where(runs.ends - runs.starts > 1, length - 1, 0)[regular]
    return cells.start[runs.cell] + moment * MS_US


def _crowd(weight: npt.NDArray[Any]) -> Float64:
    return np.concatenate(([0.0], np.cumsum(weight) / weight.sum()))


_GRID = np.linspace(0, 1, 128)
_CROWDS = {
    Phase.PRE: _crowd(0.1 + _GRID**3),
    Phase.REGULAR: _crowd(0.35 + 2.2 * np.abs(2 * _GRID - 1) ** 3),
    Phase.POST: _crowd(0.1 + (1 - _GRID) ** 3),
}


def prices(cells: Cells, runs: Runs, rng: np.random.Generator) -> tuple[Int64, Bool]:
    """Return the price of each trade, in units, and which trades make the cell's prices.

    A random bridge from open to close is stretched above and below them until it touches high and low, and
    set on whole cents. The first trade has the open, the last one the close; high and low are reached within.
    """
    count = runs.ends - runs.starts
    o, c = cells.open.astype(np.float64), cells.close.astype(np.float64)
    top, bottom = np.maximum(cells.open, cells.close), np.minimum(cells.open, cells.close)
    share = runs.place / np.maximum(count - 1, 1)[runs.cell]
    walk = np.cumsum(rng.standard_normal(len(share)))
    walk -= walk[runs.starts][runs.cell]
    walk -= share * walk[runs.ends - 1][runs.cell]
    walk *= ((cells.high - cells.low) * 0.7 / np.sqrt(count))[runs.cell]
    walk += o[runs.cell] + (c - o)[runs.cell] * share
    walk[runs.starts], walk[runs.ends - 1] = o, c
    highest, high_at = _extreme(walk, runs, np.maximum)
    lowest, low_at = _extreme(walk, runs, np.minimum)
    _stretch(walk, runs, top, highest, cells.high)
    _stretch(walk, runs, bottom, lowest, cells.low)
    cent = np.where(bottom >= PRICE_UNITS, PRICE_UNITS // 100, 1)[runs.cell]
    price = np.rint(walk / cent).astype(np.int64) * cent
    np.clip(price, cells.low[runs.cell], cells.high[runs.cell], out=price)
    special = np.zeros(len(price), np.bool_)
    # A bridge that never left its ends is put to high and low by hand, at different trades.
    needs_high, needs_low = cells.high > top, cells.low < bottom
    lacks_high, lacks_low = needs_high & (highest <= top), needs_low & (lowest >= bottom)
    high_at = np.where(lacks_high, runs.starts + 1 + (needs_low & (low_at == runs.starts + 1)), high_at)
    low_at = np.where(lacks_low, runs.starts + 1 + (needs_high & (high_at == runs.starts + 1)), low_at)
    for rows, values, where in (
        (high_at, cells.high, needs_high),
        (low_at, cells.low, needs_low),
        (runs.starts, cells.open, slice(None)),
        (runs.ends - 1, cells.close, slice(None)),
    ):
        price[rows[where]] = values[where]
        special[rows[where]] = True
    return price, special


def _extreme(walk: Float64, runs: Runs, take: np.ufunc) -> tuple[Float64, Int64]:
    """The extreme of each cell, and where it is first."""
    values = take.reduceat(walk, runs.starts)
    rows = np.flatnonzero(walk == values[runs.cell])
    first = rows[np.searchsorted(runs.cell[rows], np.arange(len(values)))]
    return values, first


def _stretch(walk: Float64, runs: Runs, base: Int64, reached: Float64, wanted: Int64) -> None:
    """Stretch what lies beyond ``base``, on the side that was ``reached``, so that it reaches ``wanted``."""
    reach = reached - base
    scale = (wanted - base) / np.where(reach == 0, 1.0, reach)
    away = walk - base[runs.cell]
    beyond = np.flatnonzero(away * reach[runs.cell] > 0)
    cell = runs.cell[beyond]
    walk[beyond] = base[cell] + away[beyond] * scale[cell]


def sizes(cells: Cells, runs: Runs, special: Bool, rng: np.random.Generator) -> Int64:
    """Return the shares of each trade, one at least; they add up to the cell's volume.

    Some are round lots and many are not; the last trade takes what is left, as a closing auction does. A cell
    with fewer shares than trades has one a trade.
    """
    weight = rng.exponential(1.0, len(runs.cell)) ** 2 + 0.02
    total = np.add.reduceat(weight, runs.starts)
    count = runs.ends - runs.starts
    target = np.where(count > 1, cells.volume * (1 - _CLOSING_PART), 0.0)
    made = (weight * (target / total)[runs.cell]).astype(np.int64)
    lots = made // ROUND_LOT * ROUND_LOT
    made = np.where((lots > 0) & ((rng.random(len(made)) < 0.5) | special), lots, made)
    np.maximum(made, 1, out=made)
    made[runs.ends - 1] = 0
    left = cells.volume - np.add.reduceat(made, runs.starts)
    # Minimums of one share can add up to more than there is: the largest trade gives it back.
    short = np.flatnonzero(left < 1)
    if len(short):
        _, largest = _extreme(made.astype(np.float64), runs, np.maximum)
        rows = largest[short]
        made[rows] = np.maximum(made[rows] + left[short] - 1, 1)
        left[short] = np.maximum(cells.volume[short] - np.add.reduceat(made, runs.starts)[short], 1)
    made[runs.ends - 1] = left
    return made
