"""Alerts on the close of bars, of one bucket for one call: tables in, events out. Free of Beam.

The events are a function of each symbol's bars, changes and facts in the order in which they came. Bars of
one symbol that end at one instant and come in one table are known before any of them is judged: ``1d`` sees
the ``13d`` that ends with it, and the other way round. A bar is judged once, as it was first told, and only
if it is newer than those of its series that were judged before. Later revisions change what later bars are
held against.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fibflow.transforms.alerts.barcells import ALERTS, BARS, HEAD, MOVES, TERMS, Held, Keeper, Memo, Plan
from fibflow.transforms.alerts.barjudge import judge
from fibflow.transforms.alerts.barshelf import days_of, rows_of
from fibflow.transforms.alerts.barterm import FIELDS
from fibflow.transforms.alerts.events import Firings
from fibflow.transforms.alerts.groups import dense_ranks, run_starts
from fibflow.transforms.alerts.schema import NEVER, Frequency
from fibflow.transforms.calendar import TradingCalendar
from fibflow.transforms.livecells import Cells
from fibflow.transforms.partials import as_arrow, numbers
from fibflow.transforms.tickrows import words

__all__ = ["BarAlerts", "Memo", "Plan", "Reader", "Taken"]

Int64 = npt.NDArray[np.int64]
Rows = npt.NDArray[np.void]

#: Gives the last complete bars of symbols: of (symbols, timeframe, end, count) so many a symbol, or some
#: more, that end at ``end`` or before, UTC microseconds; a table with the columns of ``partials.BAR_BATCH``,
#: in any order. None where they cannot be read now. What it raises fails the call.
Reader = Callable[[Sequence[str], str, int, int], "pa.Table | None"]

_CLOSE = FIELDS.index("close")


@dataclass(frozen=True)
class Taken:
    """What a call gives.

    Attributes:
        events: a table of ``schema.EVENTS``; None for nothing.
        awaits: bars are to be asked for again, some seconds later: ``ask_again``.
        refused: how many conditions cannot be judged: they wait for nothing.
    """

    events: pa.Table | None = None
    awaits: bool = False
    refused: int = 0


class BarAlerts:
    """One bucket, for one call or for many."""

    def __init__(
        self, plan: Plan, cells: Cells, memo: Memo | None = None, reader: Reader | None = None
    ) -> None:
        """Take a bucket.

        Args:
            plan: of the job.
            cells: the bucket's.
            memo: what an earlier call kept of this bucket; read anew where the cells say otherwise.
            reader: of bars that were before the stream's; None: there are none.
        """
        self._plan, self._cells, self._reader = plan, cells, reader
        self._memo = Memo() if memo is None else memo

    def _keeper(self) -> Keeper:
        """Return the bucket's state; raises StateError where another release, or another job, wrote it."""
        return Keeper(self._plan, self._cells, self._memo)

    def take_changes(self, changes: pa.Table) -> Taken:
        """Take versions of alerts, a table of ``barbook.BAR_CHANGES`` in the order of their revisions."""
        if not len(changes):
            return Taken()
        keeper = self._keeper()
        keeper.begin()
        book = keeper.held.book
        known = len(book.names)
        new, terms, refused = book.take_changes(keeper.new_of(changes))
        book.add(new, terms)
        keeper.held.widen()
        keeper.append(ALERTS, new)
        keeper.append(TERMS, terms)
        if len(book.names) > known:
            keeper.put_names()
        keeper.save()
        return Taken(refused=refused)

    def take_facts(self, facts: pa.Table) -> Taken:
        """Take a table of ``schema.FACTS``: splits, of any symbols."""
        if not len(facts):
            return Taken()
        keeper = self._keeper()
        keeper.begin()
        if keeper.held.splits.learn(facts):
            keeper.put_splits()
            keeper.save()
        else:
            keeper.leave()
        return Taken()

    def take_bars(self, bars: pa.Table) -> Taken:
        """Take bars of the bucket's symbols, a table of ``partials.BAR_BATCH``; return what fired."""
        if self._cells.read(HEAD) is None:
            return Taken()
        keeper = self._keeper()
        held = keeper.held
        if not held.shelf.keep.any():
            return Taken()
        bars = bars.filter(bars["complete"])
        series, wanted = _series_of(bars, held)
        new = np.flatnonzero(held.shelf.keep > held.asked) if self._reader is not None else series[:0]
        if not len(bars) or not (wanted.any() or len(new)):
            return Taken(awaits=bool(held.again.any()))
        keeper.begin()
        rows = rows_of(bars.filter(as_arrow(wanted)), series[wanted], self._plan.calendar)
        if len(new):
            # All of them may be old ones that are told again.
            keeper.head.asked_end = int(numbers(bars, "end").max()) + self._plan.lateness_us
            held.asked[new], held.again[new] = held.shelf.keep[new], True
            # The bars of this table may be in the lake, too.
            self._ask(keeper, new, int(np.bincount(rows["series"]).max(initial=0)))
            keeper.put_asked()
        rows = rows[~held.shelf.is_stale(rows)]
        events = self._judge_all(keeper, rows) if len(rows) else None
        if len(rows) or len(new):
            keeper.save()
        else:
            keeper.leave()
        return Taken(events, bool(held.again.any()))

    def ask_again(self) -> Taken:
        """Ask once more for the bars before the stream's: the lake gets them some seconds after it."""
        keeper = self._keeper()
        series = np.flatnonzero(keeper.held.again)
        if len(series):
            keeper.begin()
            keeper.held.again[self._ask(keeper, series, 0)] = False
            keeper.put_asked()
            keeper.save()
        return Taken(awaits=bool(keeper.held.again.any()))

    def _ask(self, keeper: Keeper, series: Int64, more: int) -> Int64:
        """Keep what the reader gives of series; return those that it could read.

        Args:
            keeper: of the bucket.
            series: numbers, shape (n,).
            more: as many bars more than are to be kept of each.
        """
        held, end = keeper.held, keeper.head.asked_end
        assert self._reader is not None
        width, read = len(held.book.timeframes), []
        for number in np.unique(series % width).tolist():
            own = series[series % width == number]
            names = [held.book.names[place] for place in (own // width).tolist()]
            count = int(held.shelf.keep[own].max()) + more + self._plan.told_late(number)
            bars = self._reader(names, held.book.timeframes[number], end, count)
            if bars is None:
                continue
            read.append(own)
            bars = bars.filter(bars["complete"])
            place = held.book.places_of(bars)
            known = np.isin(place * width + number, own) & (numbers(bars, "end") <= end)
            rows = rows_of(bars.filter(as_arrow(known)), place[known] * width + number, self._plan.calendar)
            keeper.append(BARS, held.shelf.seed(rows))
        return np.concatenate([series[:0], *read])

    def _judge_all(self, keeper: Keeper, rows: Rows) -> pa.Table | None:
        """Keep rows, and judge those that are news."""
        held = keeper.held
        kept, firings = [], []
        for wave, together in enumerate(_waves(rows, len(held.book.timeframes))):
            put, first = held.shelf.put(together)
            kept.append(put)
            if first.any():
                firings += _fire(held, put[first], wave, self._plan.calendar)
        keeper.append(BARS, np.concatenate(kept))
        fired = Firings.concat([each for each, _ in firings])
        if fired is None:
            return None
        keeper.append(MOVES, np.concatenate([moved for _, moved in firings]))
        return fired.table(held.book.names)


def _series_of(bars: pa.Table, held: Held) -> tuple[Int64, npt.NDArray[np.bool_]]:
    """Return the series of each bar, and whether it is wanted; shape (n,) each."""
    known, codes = words(bars, "timeframe")
    numbers_of = {name: number for number, name in enumerate(held.book.timeframes)}
    of_word = np.array([numbers_of.get(name, -1) for name in known.to_pylist()], np.int64)
    number, place = of_word[codes], held.book.places_of(bars)
    there = (number >= 0) & (place >= 0)
    series = np.where(there, place * len(numbers_of) + number, 0)
    return series, there & (held.shelf.keep[series] > 0)


def _waves(rows: Rows, width: int) -> Iterator[Rows]:
    """Yield rows, bars of one symbol by their end; of one bar that comes several times one at a time."""
    symbol, end, series = rows["series"] // width, rows["end"], rows["series"]
    ranks = dense_ranks(symbol, end, series)
    order = np.argsort(ranks, kind="stable")
    starts = run_starts(ranks[order])
    times = np.empty(len(rows), np.int64)
    times[order] = np.arange(len(rows)) - np.repeat(starts, np.diff(np.append(starts, len(rows))))
    ranks = dense_ranks(symbol, end, times)
    first = np.full(int(symbol.max()) + 1, len(rows))
    np.minimum.at(first, symbol, ranks)
    wave = ranks - first[symbol]
    order = np.argsort(wave, kind="stable")
    bounds = np.append(run_starts(wave[order]), len(rows)).tolist()
    for start, stop in pairwise(bounds):
        yield rows[order[start:stop]]


def _fire(held: Held, bars: Rows, wave: int, calendar: TradingCalendar) -> list[tuple[Firings, Rows]]:
    """Judge the alerts of bars, one a series; return what fired and what moved, where there is any."""
    book, shelf = held.book, held.shelf
    where, of = book.of_series(bars["series"])
    may = _may_fire(book.versions[where], bars[of], calendar)
    where, of = where[may], of[may]
    if not len(where):
        return []
    at = shelf.find(bars["series"], bars["ts"], "ts")
    holds, level = judge(book, shelf, held.splits, where, at[of])
    if not holds.any():
        return []
    where, of, level = where[holds], of[holds], level[holds]
    own, bar, place = book.versions[where], bars[of], at[of]
    moved = book.move(where, bar["end"])
    period = np.where(own["frequency"] == Frequency.BAR, bar["ts"], bar["day"])
    fired = Firings(
        at=np.full(len(where), wave),
        alert=own["alert"],
        version=own["version"],
        frequency=own["frequency"],
        place=own["symbol"].astype(np.int64),
        ts=bar["end"],
        seq=np.zeros(len(where), np.int64),
        price=bar["values"][:, _CLOSE],
        before=_closes_before(held, bar, place, own["symbol"].astype(np.int64)),
        level=level,
        gen_ts=np.full(len(where), NEVER),
        gen_seq=np.zeros(len(where), np.int64),
        period=period,
    )
    return [(fired, moved)]


def _may_fire(versions: Rows, bars: Rows, calendar: TradingCalendar) -> npt.NDArray[np.bool_]:
    """Return which versions are in force at their bar, and not quiet."""
    end, frequency = bars["end"], versions["frequency"]
    may = (versions["floor"] < end) & (end <= versions["end"])
    had = np.flatnonzero(may & (versions["fired"] != NEVER))
    if len(had):
        fired = versions["fired"][had]
        quiet = (frequency[had] == Frequency.ONCE) | (end[had] < fired + versions["cooldown"][had])
        same_day = days_of(fired, calendar) == bars["day"][had]
        may[had] = ~(quiet | ((frequency[had] == Frequency.DAILY) & same_day))
    return may


def _closes_before(held: Held, bars: Rows, place: Int64, symbol: Int64) -> npt.NDArray[np.float64]:
    """Return the close of the bar before each, in its units; NaN for none."""
    shelf = held.shelf
    there = np.flatnonzero(place > shelf.start[bars["series"]])
    found = np.full(len(bars), np.nan)
    before = shelf.flat[place[there] - 1]
    value: Any = before["values"][:, _CLOSE]
    since, day = (rows["day"].astype(np.int64) for rows in (before, bars[there]))
    factors = held.splits.factors(held.book.names, symbol[there], since, day)
    found[there] = value if factors is None else value * factors
    return found
