"""What the alerts of a bucket know of its symbols beside prices: official closes and splits.

A split is no event that changes what is kept: closes and prices are kept with the day that they are of,
alerts with the day that their values are of, and the factor between two days is worked out where it is
needed. So it counts once, whenever it becomes known.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fibflow.transforms.alerts.groups import run_starts
from fibflow.transforms.alerts.schema import Fact

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

#: Official closes that are kept of a symbol: the latest. More than anybody asks for, unless facts run
#: ahead of prices by days.
CLOSES = 8
#: Before any session.
NO_DAY = -(1 << 31)
#: A fact as it is kept; the symbol's place in the bucket.
FACT = np.dtype([("symbol", "<i4"), ("kind", "i1"), ("day", "<i4"), ("value", "<f8")])


class Facts:
    """Closes and splits of a bucket's symbols, by their places."""

    def __init__(self) -> None:
        self._days: Int32 = np.zeros((0, CLOSES), np.int32)
        self._closes: Float64 = np.zeros((0, CLOSES))
        #: By symbol, the factor of each day from which on prices are so many times what they were.
        self._splits: dict[int, dict[int, float]] = {}

    def widen(self, symbols: int) -> None:
        """Make room for symbols, so many in all."""
        more = symbols - len(self._days)
        if more > 0:
            self._days = np.concatenate((self._days, np.full((more, CLOSES), NO_DAY, np.int32)))
            self._closes = np.concatenate((self._closes, np.full((more, CLOSES), np.nan)))

    def take(self, facts: npt.NDArray[np.void]) -> None:
        """Learn facts, of ``FACT``; of two of one symbol and day the later one counts."""
        is_split = facts["kind"] == Fact.SPLIT
        for symbol, _, day, value in facts[is_split].tolist():
            of_symbol = self._splits.setdefault(symbol, {})
            of_symbol[day] = value
            self._splits[symbol] = dict(sorted(of_symbol.items()))
        closes = facts[facts["kind"] == Fact.CLOSE]
        if len(closes):
            self._take_closes(closes)

    def _take_closes(self, closes: npt.NDArray[np.void]) -> None:
        touched = np.unique(closes["symbol"])
        known = self._records(touched)
        both = np.concatenate((known, closes))
        symbol, day = both["symbol"], both["day"]
        # The newest day of each symbol first; of one day the last that came.
        order = np.lexsort((-np.arange(len(both)), -day.astype(np.int64), symbol))
        key = symbol[order].astype(np.int64) * (1 << 33) + day[order]
        best = order[run_starts(key)]
        starts = run_starts(symbol[best])
        counts = np.diff(np.append(starts, len(best)))
        rank = np.arange(len(best)) - np.repeat(starts, counts)
        kept = best[rank < CLOSES]
        place = rank[rank < CLOSES]
        self._days[touched], self._closes[touched] = NO_DAY, np.nan
        self._days[symbol[kept], place] = day[kept]
        self._closes[symbol[kept], place] = both["value"][kept]

    def _records(self, symbols: Int32) -> npt.NDArray[np.void]:
        at, place = np.nonzero(self._days[symbols] != NO_DAY)
        found = np.zeros(len(at), FACT)
        found["symbol"], found["kind"] = symbols[at], Fact.CLOSE
        found["day"], found["value"] = self._days[symbols[at], place], self._closes[symbols[at], place]
        return found

    def records(self) -> npt.NDArray[np.void]:
        """Return all that is known, of ``FACT``."""
        splits = [
            (symbol, int(Fact.SPLIT), day, value)
            for symbol, of_symbol in self._splits.items()
            for day, value in of_symbol.items()
        ]
        closes = self._records(np.arange(len(self._days), dtype=np.int32))
        return np.concatenate((closes, np.array(splits, FACT)))

    def closes(self, symbols: Int64, day: int) -> Float64:
        """Return the official close of each symbol on a day, NaN where it is not known; shape (n,)."""
        found = self._days[symbols] == day
        value = self._closes[symbols, found.argmax(axis=1)]
        return np.where(found.any(axis=1), value, np.nan)

    def factors(self, symbols: Int64, since: Int32, day: int) -> Float64 | None:
        """Return how many times what it was on days ``since`` a price of each symbol is on ``day``.

        Returns:
            Shape (n,); None where it is 1 for all.
        """
        if not self._splits:
            return None
        found = None
        split = np.isin(symbols, np.fromiter(self._splits, np.int64, len(self._splits)))
        for symbol in np.unique(symbols[split]).tolist():
            own = symbols == symbol
            for when, factor in self._splits[symbol].items():
                if when <= day:
                    found = np.ones(len(symbols)) if found is None else found
                    found[own & (since < when)] *= factor
        return found
