"""Bars that cannot be: by themselves, and days beside their minutes."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fibflow.transforms.calendar import Int64
from fibflow.transforms.partials import as_arrow
from fibflow.transforms.quality.span import MINUTE_US, Bool, Span, grown

Floats = npt.NDArray[np.float64]

#: By how much of the day's volume that of its minutes may differ, and of its high and low theirs.
VOLUME_APART, PRICE_APART = 0.10, 0.01
COLUMNS = ("open", "high", "low", "close", "volume")
#: What a bar breaks: prices that are none; a high below the low; an open or close outside of them; volume.
PRICE, HIGH_LOW, OUTSIDE, VOLUME = "no_price", "high_below_low", "outside_high_low", "no_volume"
#: What a day breaks beside its minutes, and a key that is there more than once.
DAY_VOLUME, DAY_RANGE, TWICE = "volume_of_minutes", "range_of_minutes", "twice"
#: Bars of which more than a count is told.
KEPT = 200
RULES = (PRICE, HIGH_LOW, OUTSIDE, VOLUME, TWICE, DAY_VOLUME, DAY_RANGE)


def broken(rows: pa.Table) -> dict[str, Bool]:
    """Return which rows break which rule, the first one that applies; shape (n,) each.

    Args:
        rows: with ``COLUMNS``.
    """
    first, high, low, last, volume = (floats(rows, name) for name in COLUMNS)
    with np.errstate(invalid="ignore"):
        bad = np.zeros(len(rows), np.bool_)
        for each in (first, high, low, last):
            bad |= ~(np.isfinite(each) & (each > 0))
        masks = {
            PRICE: bad,
            HIGH_LOW: high < low,
            OUTSIDE: (np.maximum(first, last) > high) | (np.minimum(first, last) < low),
            VOLUME: ~(np.isfinite(volume) & (volume >= 0)),
        }
    taken = np.zeros(len(rows), np.bool_)
    for name, mask in masks.items():
        masks[name] = mask & ~taken
        taken |= mask
    return masks


class BrokenBar(NamedTuple):
    """A bar that breaks a rule; ``ts`` is its start, UTC microseconds, of a day its session's."""

    table: str
    timeframe: str
    rule: str
    symbol: str
    ts: int


class BrokenBars:
    """Counts bars that break a rule, and keeps some.

    Args:
        sessions: how many there are.
    """

    def __init__(self, sessions: int) -> None:
        self.by_session = np.zeros(sessions, np.int64)
        self.counts: Counter[tuple[str, str, str]] = Counter()
        self.kept: list[BrokenBar] = []

    def look(self, table: str, timeframe: str, rows: pa.Table, ts: Int64, places: Int64) -> None:
        """Look at bars by themselves.

        Args:
            table: its name.
            timeframe: of the bars.
            rows: with ``symbol`` and ``COLUMNS``, shape (n,).
            ts: when each begins.
            places: its session in the span, -1 for none.
        """
        for rule, mask in broken(rows).items():
            self.add(table, timeframe, rule, rows["symbol"], ts, places, np.flatnonzero(mask))

    def add(
        self, table: str, timeframe: str, rule: str, symbols: Any, ts: Int64, places: Int64, at: Int64
    ) -> None:
        """Add bars that break a rule: those at some places of columns that are ``look``'s."""
        if not len(at):
            return
        self.counts[table, timeframe, rule] += len(at)
        of_session = places[at]
        np.add.at(self.by_session, of_session[of_session >= 0], 1)
        room = at[: max(0, KEPT - len(self.kept))]
        names = symbols.take(as_arrow(room)).to_pylist()
        for name, start in zip(names, ts[room].tolist(), strict=True):
            self.kept.append(BrokenBar(table, timeframe, rule, str(name), start))


def floats(rows: pa.Table, name: str) -> Floats:
    """A column of numbers, nan for null; shape (n,)."""
    column: Any = rows[name]
    return np.asarray(column.cast(pa.float64()).fill_null(np.nan))


class Totals(NamedTuple):
    """What minutes add up to; shape (symbols, sessions) each.

    ``volume`` is of all hours, ``high`` and ``low`` of regular ones; nan, or infinite, where there are none.
    """

    volume: Floats
    high: Floats
    low: Floats


class MinuteSums:
    """Volume, high and low of days as their minutes have them; grows as rows are seen.

    Args:
        span: the sessions.
    """

    def __init__(self, span: Span) -> None:
        self.span = span
        shape = (64, len(span))
        self._volume: Floats = np.full(shape, np.nan)
        self._high: Floats = np.full(shape, -np.inf)
        self._low: Floats = np.full(shape, np.inf)

    def see(self, rows: Int64, ts: Int64, bars: pa.Table) -> None:
        """Take minutes in, each key once; ``bars`` has ``COLUMNS``, other arguments are ``MinuteGrid``'s."""
        places = self.span.places_at(ts)
        good = np.flatnonzero((places >= 0) & (rows >= 0))
        if not len(good):
            return
        row, place = rows[good], places[good]
        need = int(row.max()) + 1
        self._volume = grown(self._volume, need, np.nan)
        self._high, self._low = grown(self._high, need, -np.inf), grown(self._low, need, np.inf)
        width = len(self.span)
        cells = row * width + place
        sums = np.bincount(cells, floats(bars, "volume")[good], minlength=need * width)
        seen = np.unique(cells)
        volume = self._volume.reshape(-1)
        volume[seen] = np.nan_to_num(volume[seen]) + sums[seen]
        minute = (ts[good] - self.span.opens[place]) // MINUTE_US
        regular = (minute >= 0) & (minute < self.span.minutes[place])
        at = cells[regular]
        np.maximum.at(self._high.reshape(-1), at, floats(bars, "high")[good][regular])
        np.minimum.at(self._low.reshape(-1), at, floats(bars, "low")[good][regular])

    def totals(self, symbols: int) -> Totals:
        """What was seen."""
        return Totals(
            grown(self._volume, symbols, np.nan)[:symbols],
            grown(self._high, symbols, -np.inf)[:symbols],
            grown(self._low, symbols, np.inf)[:symbols],
        )


def days_apart(days: Totals, minutes: Totals) -> dict[str, Bool]:
    """Return which days are not what their minutes add up to, by rule; shape (symbols, sessions) each.

    A day is official: its prices come with the auctions, and by other rules than those of minutes. Only
    what is clearly apart is told: a volume by ``VOLUME_APART``, minutes beyond the day's high or low by
    ``PRICE_APART``.
    """
    with np.errstate(invalid="ignore"):
        volume = np.abs(minutes.volume - days.volume) > VOLUME_APART * np.maximum(days.volume, minutes.volume)
        beyond = minutes.high > days.high * (1 + PRICE_APART)
        below = minutes.low < days.low * (1 - PRICE_APART)
    return {DAY_VOLUME: volume, DAY_RANGE: (beyond | below) & ~np.isnan(days.volume)}
