"""What was seen of some sessions, taken in part by part."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fibflow.transforms.calendar import Int64
from fibflow.transforms.partials import as_arrow
from fibflow.transforms.quality.bars import (
    TWICE,
    BrokenBars,
    MinuteSums,
    Totals,
    days_apart,
    floats,
)
from fibflow.transforms.quality.minutes import MinuteGrid
from fibflow.transforms.quality.span import Bool, Roster, Span, grown

#: Where bars of the window come from: tables, and one-minute bars as readers see them.
DAYS, OFFICIAL, MADE, LIVE = "bronze.daily", "bronze.minutes", "silver", "silver.live"
DAY, MINUTE = "1d", "1m"


class Evidence:
    """What was seen.

    Attributes:
        span: the sessions.
        roster: the symbols.
        minutes: of regular hours, of fewer sessions before the same window.
        broken: bars that break a rule.

    Args:
        span: the sessions.
        minutes_before: sessions before the window of which minutes are looked at.
    """

    def __init__(self, span: Span, minutes_before: int) -> None:
        self.span = span
        self.roster = Roster()
        self.minutes = MinuteGrid(span.tail(minutes_before))
        self.broken = BrokenBars(len(span))
        self._sums = {table: MinuteSums(span) for table in (OFFICIAL, MADE)}
        shape = (64, len(span))
        self._days: Bool = np.zeros(shape, np.bool_)
        self._totals = Totals(np.full(shape, np.nan), np.full(shape, np.nan), np.full(shape, np.nan))

    @property
    def days(self) -> Bool:
        """Where there is an official day, shape (symbols, sessions)."""
        return grown(self._days, len(self.roster))[: len(self.roster)]

    @property
    def anything(self) -> Bool:
        """Where there is a day or a minute, shape (symbols, sessions)."""
        found = self.days.copy()
        found[:, self.offset :] |= self.minutes.sessions(len(self.roster))
        return found

    @property
    def offset(self) -> int:
        """The place in the span of the first session of which minutes are looked at."""
        return len(self.span) - len(self.minutes.span)

    def see_keys(self, part: pa.Table) -> None:
        """Take in minutes before the window: ``symbol`` and ``ts``; a key may come again."""
        self.minutes.see(self.roster.rows(part["symbol"]), instants(part["ts"]))

    def see_minutes(self, table: str, part: pa.Table) -> None:
        """Take in minutes of the window, with prices, each key once; from ``OFFICIAL`` or ``MADE``."""
        rows, ts = self.roster.rows(part["symbol"]), instants(part["ts"])
        self.minutes.see(rows, ts)
        self._sums[table].see(rows, ts, part)
        self.broken.look(table, MINUTE, part, ts, self.span.places_at(ts))

    def see_bars(self, table: str, part: pa.Table) -> None:
        """Look at other bars of the window, with ``timeframe``."""
        names: list[Any] = part["timeframe"].unique().to_pylist()
        for name in names:
            bars = part.filter(pc.equal(part["timeframe"], name))
            ts = instants(bars["ts"])
            self.broken.look(table, str(name), bars, ts, self.span.places_at(ts))

    def see_days(self, part: pa.Table) -> None:
        """Take in official days, all at once."""
        rows, days = self.roster.rows(part["symbol"]), dates(part["session"])
        places = self.span.places_of(days)
        good = np.flatnonzero((rows >= 0) & (places >= 0))
        self._days = grown(self._days, len(self.roster))
        self._days[rows[good], places[good]] = True
        self._totals = Totals(*(grown(each, len(self.roster), np.nan) for each in self._totals))
        for name, matrix in zip(("volume", "high", "low"), self._totals, strict=True):
            matrix[rows[good], places[good]] = floats(part, name)[good]
        at = np.flatnonzero(places >= self.span.judged)
        bars, own = part.take(as_arrow(at)), places[at]
        ts = self._day_stamps(own)
        self.broken.look(DAYS, DAY, bars, ts, own)
        keys = rows[at] * len(self.span) + own
        again = np.ones(len(keys), np.bool_)
        again[np.unique(keys, return_index=True)[1]] = False
        self.broken.add(DAYS, DAY, TWICE, bars["symbol"], ts, own, np.flatnonzero(again))

    def compare_days(self) -> None:
        """Hold official days against their minutes, official ones where there are some. Call it once."""
        count = len(self.roster)
        official, made = (self._sums[table].totals(count) for table in (OFFICIAL, MADE))
        has = ~np.isnan(official.volume)
        sums = Totals(*(np.where(has, mine, other) for mine, other in zip(official, made, strict=True)))
        days = Totals(*(grown(each, count, np.nan)[:count] for each in self._totals))
        names: Any = pa.array(self.roster.names, pa.string())
        for rule, mask in days_apart(days, sums).items():
            rows, places = np.nonzero(mask[:, self.span.judged :])
            places += self.span.judged
            ts, at = self._day_stamps(places), np.arange(len(rows))
            self.broken.add(DAYS, DAY, rule, names.take(as_arrow(rows)), ts, places, at)

    def _day_stamps(self, places: Int64) -> Int64:
        return self.span.calendar.day_starts[self.span.first + places]


def instants(column: Any) -> Int64:
    """A column of times as UTC microseconds."""
    return np.asarray(column.cast(pa.int64()))


def dates(column: Any) -> Int64:
    """A column of dates as days since 1970."""
    return np.asarray(column.cast(pa.int32())).astype(np.int64)
