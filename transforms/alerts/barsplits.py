"""Splits of a bucket's symbols: by how much bars and numbers of one day differ from those of another.

Bars are kept as they came, with the day that they are of, and the factor between two days is worked out where
it is needed: so a split counts once, whenever it becomes known.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fibflow.transforms.alerts.schema import Fact
from fibflow.transforms.partials import numbers

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]


class Splits:
    """From which days on a symbol's prices are how many times what they were.

    Attributes:
        days: of each symbol, all by day.
    """

    def __init__(self) -> None:
        self.days: dict[str, dict[int, float]] = {}
        self._last: Int64 = np.zeros(0, np.int64)

    def learn(self, facts: pa.Table) -> bool:
        """Take a table of ``schema.FACTS``; return whether it tells of a split that was not known."""
        told = facts.filter(np.asarray(numbers(facts, "kind") == Fact.SPLIT))
        symbols: list[Any] = told["symbol"].to_pylist()
        is_new = False
        for name, day, factor in zip(
            symbols, numbers(told, "day").tolist(), numbers(told, "value").tolist(), strict=True
        ):
            own = self.days.setdefault(name, {})
            if own.get(day) != factor:
                own[day] = factor
                is_new = True
        if is_new:
            self._last = np.zeros(0, np.int64)
        return is_new

    def factors(self, names: list[str], symbols: Int64, since: Int64, day: Int64) -> Float64 | None:
        """Return how many times what it was on day ``since`` a price is on a later ``day``; shape (n,).

        Args:
            names: the symbols by place.
            symbols: places, shape (n,).
            since: days since 1970, shape (n,).
            day: likewise.

        Returns:
            None where it is 1 for all.
        """
        if not self.days:
            return None
        if len(self._last) != len(names):
            self._last = np.array([max(self.days.get(name, {0: 1.0})) for name in names], np.int64)
        split = np.flatnonzero((self._last[symbols] > since) & (since < day))
        if not len(split):
            return None
        found = np.ones(len(symbols))
        for symbol in np.unique(symbols[split]).tolist():
            own = split[symbols[split] == symbol]
            for when, factor in sorted(self.days[names[symbol]].items()):
                found[own[(since[own] < when) & (when <= day[own])]] *= factor
        return found
