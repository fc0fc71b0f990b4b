"""Split adjustment on read, for lakes whose prices are raw."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fibflow.serving.history.sources import NEVER, Source
from fibflow.serving.problems import bad_request
from fibflow.transforms.calendar import TradingCalendar
from fibflow.transforms.partials import as_arrow

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

_PRICES = ("open", "high", "low", "close", "vwap")
#: Room for a date beside a symbol's number in one integer: days since 1970, made positive.
_DAYS, _SHIFT = 1 << 22, 1 << 21


@dataclass(frozen=True)
class Factors:
    """What rows of before a split are multiplied by, for all splits up to a date.

    Attributes:
        symbols: that have splits, sorted.
        keys: of each split, its symbol's place and its date as one integer, sorted; shape (n,).
        prices, volumes: the products of the splits from this one on; shape (n,).
    """

    symbols: tuple[str, ...]
    keys: Int64
    prices: Float64
    volumes: Float64

    @classmethod
    def of(cls, splits: pa.Table, until: int) -> Factors:
        """Read splits (``symbol``, ``execution_date``, ``split_from``, ``split_to``) up to a date.

        Args:
            splits: in any order.
            until: days since 1970; splits that are executed later have not happened.
        """
        days = _ints(splits["execution_date"].cast(pa.date32()).cast(pa.int32()))
        names: list[Any] = splits["symbol"].to_pylist()
        since, to = (_doubles(splits[name]) for name in ("split_from", "split_to"))
        usable = (days <= until) & (since > 0) & (to > 0) & np.isfinite(since) & np.isfinite(to)
        symbols = tuple(sorted({name for name, used in zip(names, usable.tolist(), strict=True) if used}))
        place = {name: number for number, name in enumerate(symbols)}
        places = np.array([place.get(name, 0) for name in names], np.int64)[usable]
        keys = places * _DAYS + days[usable] + _SHIFT
        order = np.argsort(keys, kind="stable")
        keys, places = keys[order], places[order]
        return cls(
            symbols,
            keys,
            _products((since / to)[usable][order], places),
            _products((to / since)[usable][order], places),
        )

    def __bool__(self) -> bool:
        return bool(self.symbols)

    @cached_property
    def names(self) -> frozenset[str]:
        """The symbols that have splits."""
        return frozenset(self.symbols)

    @cached_property
    def mark(self) -> int:
        """Names these splits, for the keys of caches."""
        return hash((self.symbols, self.keys.tobytes(), self.prices.tobytes()))

    def only(self, symbols: Collection[str]) -> Factors:
        """Return those of some symbols."""
        kept = sorted(self.names.intersection(symbols))
        old = [bisect_left(self.symbols, name) for name in kept]
        spans = [np.searchsorted(self.keys, (place * _DAYS, (place + 1) * _DAYS)).tolist() for place in old]
        index = np.concatenate([np.arange(a, b) for a, b in spans] or [np.zeros(0, np.int64)])
        moved = np.repeat(np.arange(len(kept)) - np.array(old, np.int64), [b - a for a, b in spans])
        keys = self.keys[index] + moved * _DAYS
        return Factors(tuple(kept), keys, self.prices[index], self.volumes[index])

    def of_rows(self, symbols: Any, days: Int64) -> tuple[Float64, Float64]:
        """Return what prices and volumes of rows are multiplied by; shape (n,) each.

        Args:
            symbols: of the rows, texts or a dictionary of them.
            days: their sessions, days since 1970.
        """
        prices, volumes = np.ones(len(days)), np.ones(len(days))
        if not self.symbols or not len(days):
            return prices, volumes
        place = pc.index_in(symbols.cast(pa.string()), value_set=pa.array(self.symbols))
        places = _ints(pc.fill_null(place, -1)).astype(np.int64)
        # The first split after the row's session.
        at = np.searchsorted(self.keys, places * _DAYS + days + _SHIFT, side="right")
        inside = np.minimum(at, len(self.keys) - 1)
        applies = (places >= 0) & (at < len(self.keys)) & (self.keys[inside] // _DAYS == places)
        prices[applies], volumes[applies] = self.prices[inside[applies]], self.volumes[inside[applies]]
        return prices, volumes

    def scaled(self, rows: pa.Table, days: Int64) -> pa.Table:
        """Return rows with prices, vwap and volume scaled; other columns as they are."""
        prices, volumes = self.of_rows(rows["symbol"], days)
        if (prices == 1).all() and (volumes == 1).all():
            return rows
        for name, factor in (*((name, prices) for name in _PRICES), ("volume", volumes)):
            index = rows.schema.get_field_index(name)
            if index >= 0:
                column = pc.multiply(rows.column(index), as_arrow(factor))
                rows = rows.set_column(index, rows.schema.field(index), column)
        return rows

    def straddled(self, rows: pa.Table, first: Int64, last: Int64) -> Any:
        """Return which rows hold a split inside, by their windows' first and last sessions; shape (n,)."""
        before, _ = self.of_rows(rows["symbol"], first)
        after, _ = self.of_rows(rows["symbol"], last)
        return before != after


def _products(factors: Float64, places: Int64) -> Float64:
    """Of each symbol's run the products from each split to the last one."""
    found = factors.copy()
    for index in range(len(found) - 2, -1, -1):
        if places[index] == places[index + 1]:
            found[index] *= found[index + 1]
    return found


def _ints(column: Any) -> npt.NDArray[Any]:
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return np.asarray(array.to_numpy(zero_copy_only=False))


def _doubles(column: Any) -> Float64:
    found: Float64 = _ints(column.cast(pa.float64()).fill_null(float("nan")))
    return found


@dataclass(frozen=True)
class Scaled:
    """Bars of another source, scaled by the date of the session in which they begin.

    That is right where a bar holds no split inside.

    Attributes:
        source: of the bars.
        factors: what they are multiplied by.
        calendar: of the bars.
        sessions: how many sessions a bar has at most.
    """

    source: Source
    factors: Factors
    calendar: TradingCalendar
    sessions: int = 1
    stored: bool = False

    def _scaled(self, bars: pa.Table) -> pa.Table:
        if not len(bars):
            return bars
        starts, ends = (_ints(bars[name].cast(pa.int64())) for name in ("ts", "end"))
        first = self.calendar.days[self.calendar.positions_at(starts)].astype(np.int64)
        if self.sessions > 1:
            last = self.calendar.days[self.calendar.positions_at(ends - 1)].astype(np.int64)
            if self.factors.straddled(bars, first, last).any():
                raise bad_request(
                    "a bar of this range has a split inside, and the lake has no daily rows to make it anew: "
                    "ask for 1d, or for adjusted=false",
                    "split_inside",
                )
        return self.factors.scaled(bars, first)

    def ends(self, symbol: str, start: int | None, end: int | None, n: int, first: bool) -> pa.Table:
        """Return the bars at an end of a range; see ``Source``."""
        return self._scaled(self.source.ends(symbol, start, end, n, first))

    def between(self, symbols: Collection[str] | None, start: int | None, end: int | None) -> pa.Table:
        """Return the bars of a range."""
        return self._scaled(self.source.between(symbols, start, end))

    def held(self, symbols: Collection[str]) -> set[str]:
        """Return which symbols have bars."""
        return self.source.held(symbols)

    def symbols(self) -> list[str]:
        """Return all symbols."""
        return self.source.symbols()

    def weight(self, start: int | None, end: int | None) -> int:
        """Return how many rows a range's files have."""
        return self.source.weight(start, end)

    @property
    def known_until(self) -> int:
        """The as-of of the data."""
        return self.source.known_until

    def settled_until(self, start: int | None) -> int:
        """Return the beginning of time: another split moves all bars before it."""
        return NEVER
