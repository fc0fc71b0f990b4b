"""Trades of a tape: one after the other for each symbol, with sequence numbers, exchanges and conditions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fibflow.pipelines.tape import paths
from fibflow.pipelines.tape.cells import PRICE_UNITS, Bool, Cells, Int32, Int64, Phase

UInt8 = npt.NDArray[np.uint8]

#: What a trade counts for, by all its conditions.
HIGH_LOW, OPEN_CLOSE, VOLUME = 1, 2, 4
_ALL = HIGH_LOW | OPEN_CLOSE | VOLUME


@dataclass(frozen=True)
class Sale:
    """A set of sale conditions of the tape, what such a trade counts for, and how often it is drawn."""

    codes: tuple[int, ...]
    counts_for: int
    weight: float = 0.0


# The feed's codes: 2 average price, 8 closing print, 10 derivatively priced, 12 form T, 14 sweep, 15 official
# close, 25 opening print, 32 out of sequence, 37 odd lot, 41 trade through exempt, 53 qualified contingent.
_PLAIN = (
    Sale((), _ALL, 0.5),
    Sale((0,), _ALL, 0.08),
    Sale((14,), _ALL, 0.3),
    Sale((14, 41), _ALL, 0.12),
)
_ODD = (Sale((37,), VOLUME, 0.6), Sale((14, 37), VOLUME, 0.3), Sale((14, 37, 41), VOLUME, 0.1))
_RARE = (
    Sale((2,), VOLUME, 0.3),
    Sale((53,), VOLUME, 0.2),
    Sale((10,), HIGH_LOW | VOLUME, 0.3),
    Sale((32,), HIGH_LOW | VOLUME, 0.2),
)
_EXTENDED = (Sale((12,), _ALL, 0.7), Sale((12, 14), _ALL, 0.3))
_EXTENDED_ODD = (Sale((12, 37), VOLUME, 0.8), Sale((12, 14, 37), VOLUME, 0.2))
_OPENING, _CLOSING, _OFFICIAL_CLOSE = Sale((25,), _ALL), Sale((8,), _ALL), Sale((15,), 0)
#: Every set of conditions on the tape; a trade's ``sale`` is a position here.
SALES = (*_PLAIN, *_ODD, *_RARE, *_EXTENDED, *_EXTENDED_ODD, _OPENING, _CLOSING, _OFFICIAL_CLOSE)
_COUNTS_FOR = np.array([sale.counts_for for sale in SALES], np.uint8)
_RARE_PART = 0.01

#: Exchange codes with their shares of trades; 4 is FINRA's facility.
_EXCHANGES = np.array([4, 12, 11, 8, 10, 19, 2, 15, 3, 21, 9, 1], np.uint8)
_EXCHANGE_PARTS = np.array([0.38, 0.18, 0.1, 0.08, 0.07, 0.06, 0.04, 0.03, 0.02, 0.02, 0.01, 0.01])
_LARGEST_GAP = 40


@dataclass(frozen=True, eq=False)
class Trades:
    """Trades sorted by (symbol, ts, seq); all arrays have shape (trades,).

    Attributes:
        symbol: position among the tape's symbols.
        session: the session's date, days since 1970.
        ts: UTC microseconds, whole milliseconds.
        seq: rises within (symbol, session), with gaps.
        price: in ``1 / PRICE_UNITS`` of the currency.
        size: shares.
        sale: position in ``SALES``.
        exchange: the feed's code.
    """

    symbol: Int32
    session: Int32
    ts: Int64
    seq: Int64
    price: Int64
    size: Int64
    sale: UInt8
    exchange: UInt8

    def __len__(self) -> int:
        return len(self.ts)

    @property
    def counts_for(self) -> UInt8:
        """Bits of HIGH_LOW, OPEN_CLOSE and VOLUME."""
        return _COUNTS_FOR[self.sale]


def make_trades(cells: Cells, seed: int) -> Trades:
    """Return the trades of cells; the same cells and seed give the same trades.

    Trades that count for open and close, or for high and low, have the cell's prices; those that count for
    volume have its volume. Others lie off the path, so that who counts them gets other bars.
    """
    rng = np.random.default_rng([seed, 1])
    runs = paths.Runs.of(cells.trades)
    ts = paths.moments(cells, runs, rng)
    price, special = paths.prices(cells, runs, rng)
    size = paths.sizes(cells, runs, special, rng)
    sale = _sales(cells, runs, size, special, rng)
    _official_closes(cells, runs, size, sale)
    off = np.flatnonzero((_COUNTS_FOR[sale] & HIGH_LOW == 0) & ~special)
    price[off] = np.maximum(np.rint(price[off] * (1 + rng.normal(0, 0.01, len(off)))), 1)
    symbol, session = cells.symbol[runs.cell], cells.session[runs.cell]
    return Trades(
        symbol,
        session,
        ts,
        _sequence(symbol, session, rng),
        _on_cents(price, off),
        size,
        sale,
        rng.choice(_EXCHANGES, len(ts), p=_EXCHANGE_PARTS),
    )


def _sales(cells: Cells, runs: paths.Runs, size: Int64, special: Bool, rng: np.random.Generator) -> UInt8:
    """Draw each trade's conditions; those that make the cell's prices have none that keeps them from it."""
    phase = cells.phase[runs.cell]
    regular = (phase == Phase.REGULAR) | (phase == Phase.MINUTE)
    odd = (size < paths.ROUND_LOT) & ~special
    rare = (rng.random(len(size)) < _RARE_PART) & regular & ~special & ~odd
    made = np.empty(len(size), np.uint8)
    for rows, sales in (
        (regular & ~odd & ~rare, _PLAIN),
        (regular & odd, _ODD),
        (rare, _RARE),
        (~regular & ~odd, _EXTENDED),
        (~regular & odd, _EXTENDED_ODD),
    ):
        number = int(rows.sum())
        weights = np.array([sale.weight for sale in sales])
        made[rows] = SALES.index(sales[0]) + rng.choice(len(sales), number, p=weights).astype(np.uint8)
    day = cells.phase == Phase.REGULAR
    made[runs.starts[day]] = SALES.index(_OPENING)
    made[runs.ends[day] - 1] = SALES.index(_CLOSING)
    return made


def _official_closes(cells: Cells, runs: paths.Runs, size: Int64, sale: UInt8) -> None:
    """Make the first print after the close the listing market's official one, which counts for nothing."""
    first = runs.starts[(cells.phase == Phase.POST) & (cells.trades > 1)]
    size[first + 1] += size[first]
    sale[first] = SALES.index(_OFFICIAL_CLOSE)


def _on_cents(price: Int64, rows: Int64) -> Int64:
    """Set some prices on whole cents, where they are above the currency's unit."""
    cent = np.where(price[rows] >= PRICE_UNITS, PRICE_UNITS // 100, 1)
    price[rows] = np.rint(price[rows] / cent).astype(np.int64) * cent
    return price


def _sequence(symbol: Int32, session: Int32, rng: np.random.Generator) -> Int64:
    steps = np.cumsum(rng.integers(1, _LARGEST_GAP + 1, len(symbol)))
    begins = np.flatnonzero(
        np.diff(symbol, prepend=-1).astype(bool) | np.diff(session, prepend=-1).astype(bool)
    )
    base = steps[begins] - rng.integers(1, 2000, len(begins))
    lengths = np.diff(np.append(begins, len(symbol)))
    return steps - np.repeat(base, lengths)
