"""Which alerts hold when bars close: operands, terms, and lists of terms, all in columns."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from fibflow.transforms.alerts.barbook import Book
from fibflow.transforms.alerts.barshelf import Shelf
from fibflow.transforms.alerts.barsplits import Splits
from fibflow.transforms.alerts.barterm import CROSSINGS, Compare, Kind, Unit
from fibflow.transforms.alerts.groups import ranges, run_starts

Bool = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
Rows = npt.NDArray[np.void]

#: Values of bars that are looked at together, at most.
_AT_ONCE = 1 << 20
#: Lists of a condition, at most.
_LISTS = 1 << 8


def judge(book: Book, shelf: Shelf, splits: Splits, where: Int64, at: Int64) -> tuple[Bool, Float64]:
    """Judge versions at bars.

    Args:
        book: of the bucket.
        shelf: with the bars.
        splits: so that all is in the units of the bar's day.
        where: the versions, shape (n,).
        at: the place in the shelf of the bar that each is judged at, of its own series; shape (n,).

    Returns:
        Whether each holds, and the value of its first term's right operand; shape (n,) each.
    """
    versions = book.versions[where]
    counts = versions["terms"].astype(np.int64)
    owner = np.repeat(np.arange(len(where)), counts)
    terms = book.terms[ranges(versions["first"].astype(np.int64), counts)]
    view = _View(book, shelf, splits, versions[owner], terms, at[owner])
    holds, right = view.terms_hold()
    firsts = np.cumsum(counts) - counts
    return _join(owner, terms["list"], holds, versions["all"] != 0), right[firsts]


def _join(owner: Int64, lists: npt.NDArray[Any], holds: Bool, joins_all: Bool) -> Bool:
    """Return which conditions hold, of terms in their order; shape (conditions,)."""
    starts = run_starts(owner * _LISTS + lists)
    sizes = np.diff(np.append(starts, len(owner)))
    true = np.add.reduceat(holds.astype(np.int64), starts) if len(starts) else starts
    of = owner[starts]
    list_holds = np.where(joins_all[of], true > 0, true == sizes)
    good = np.bincount(of[list_holds], minlength=len(joins_all))
    return np.where(joins_all, good == np.bincount(of, minlength=len(joins_all)), good > 0)


class _View:
    """Terms, each with the version that it is of and the bar at which it is judged."""

    def __init__(
        self, book: Book, shelf: Shelf, splits: Splits, versions: Rows, terms: Rows, at: Int64
    ) -> None:
        self._book, self._shelf, self._splits = book, shelf, splits
        self._terms, self._at = terms, at
        self._trigger = versions["series"]
        self._symbol = versions["symbol"].astype(np.int64)
        self._basis = versions["basis"].astype(np.int64)
        self._day = shelf.flat["day"][at].astype(np.int64)

    def terms_hold(self) -> tuple[Bool, Float64]:
        """Return which terms hold, and the values of their right operands; shape (terms,) each."""
        every = np.arange(len(self._terms))
        left, right = (self._values(side, every, self._at) for side in ("left", "right"))
        operator = self._terms["operator"]
        holds = np.select(
            [operator == each for each in (Compare.ABOVE, Compare.BELOW, Compare.AT_LEAST, Compare.AT_MOST)],
            [left > right, left < right, left >= right, left <= right],
            False,
        )
        crossing = np.flatnonzero(np.isin(operator, CROSSINGS))
        before = self._at[crossing] - 1
        there = before >= self._shelf.start[self._trigger[crossing]]
        crossing, before = crossing[there], before[there]
        if len(crossing):
            was_left, was_right = (self._values(side, crossing, before) for side in ("left", "right"))
            up = (was_left < was_right) & (left >= right)[crossing]
            down = (was_left > was_right) & (left <= right)[crossing]
            holds[crossing] = np.where(operator[crossing] == Compare.CROSSES_UP, up, down)
        return holds, right

    def _values(self, side: str, rows: Int64, at: Int64) -> Float64:
        """Return what an operand of some terms is worth at a bar; NaN where it is not there.

        Args:
            side: ``left`` or ``right``.
            rows: of the terms, shape (n,).
            at: place of the bar of the trigger, shape (n,).
        """
        shelf, operands = self._shelf, self._terms[side][rows]
        series = operands["series"].astype(np.int64)
        found = np.full(len(rows), np.nan)
        number = np.flatnonzero(series < 0)
        found[number] = self._in_units(np.ones(len(number)), rows[number], self._basis[rows[number]])
        of_bars = np.flatnonzero(series >= 0)
        series, own = series[of_bars], operands[of_bars]
        # The place behind the last bar that had closed; of the trigger's own bars, of the one that just has.
        base = at[of_bars].copy()
        other = series != self._trigger[rows[of_bars]]
        base[other] = shelf.find(series[other], shelf.flat["end"][base[other]], "end", after=True)
        there = base - own["count"] >= shelf.start[series]
        of_bars, own, base = of_bars[there], own[there], base[there]
        plain = own["kind"] == Kind.FIELD
        place = base[plain] - own["count"][plain]
        value = shelf.flat["values"][place, own["field"][plain]]
        found[of_bars[plain]] = self._in_units(
            value, rows[of_bars[plain]], shelf.flat["day"][place].astype(np.int64)
        )
        several = of_bars[~plain]
        found[several] = self._of_several(own[~plain], rows[several], base[~plain])
        return found * operands["times"]

    def _of_several(self, operands: Rows, rows: Int64, base: Int64) -> Float64:
        """Return averages, and highest and lowest values, of the bars before ``base``."""
        found = np.full(len(rows), np.nan)
        # Many alerts ask for the same one.
        day, kind, field = self._day[rows], operands["kind"], operands["field"]
        count = operands["count"].astype(np.int64)
        keys = (day, self._terms["unit"][rows], kind, field, base, count)
        order = np.lexsort(keys)
        differs = np.ones(len(order), np.bool_)
        for n, key in enumerate(keys):
            ordered = key[order]
            same = ordered[1:] == ordered[:-1]
            differs[1:] = ~same if n == 0 else differs[1:] | ~same
        chosen = order[differs]
        values = np.zeros(len(chosen))
        bounds = np.append(run_starts(count[chosen]), len(chosen)).tolist()
        for start, stop in pairwise(bounds):
            bars = int(count[chosen[start]])
            step = max(1, _AT_ONCE // bars)
            for first in range(start, stop, step):
                part = chosen[first : min(first + step, stop)]
                values[first : first + len(part)] = self._sums(
                    kind[part], field[part], rows[part], base[part], bars
                )
        found[order] = values[np.cumsum(differs) - 1]
        return found

    def _sums(
        self, kind: npt.NDArray[Any], field: npt.NDArray[Any], rows: Int64, base: Int64, bars: int
    ) -> Float64:
        """Return what ``bars`` bars before each ``base`` come to."""
        flat = self._shelf.flat
        places = (base[:, None] - bars + np.arange(bars)).ravel()
        values = flat["values"][places, np.repeat(field, bars)]
        values = self._in_units(values, np.repeat(rows, bars), flat["day"][places].astype(np.int64))
        each = values.reshape(-1, bars)
        found = each.sum(axis=1) / bars
        for which, reduce in ((Kind.HIGHEST, np.max), (Kind.LOWEST, np.min)):
            own = kind == which
            found[own] = reduce(each[own], axis=1, initial=-np.inf if which is Kind.HIGHEST else np.inf)
        return found

    def _in_units(self, values: Float64, rows: Int64, since: Int64) -> Float64:
        """Return values of days ``since`` in the units of the day of the bar that they are held against."""
        factors = self._splits.factors(self._book.names, self._symbol[rows], since, self._day[rows])
        if factors is None:
            return values
        unit = self._terms["unit"][rows]
        return np.where(
            unit == Unit.PRICE, values * factors, np.where(unit == Unit.VOLUME, values / factors, values)
        )
