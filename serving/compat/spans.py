"""The vendor's timespans: our timeframes, and the weeks, months, quarters and years of the calendar.

Weeks begin on Sunday 00:00 of the exchange's clock, the others with their first day. Several of them are
counted from the week of 2 January 2000, and from January of year 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from fibflow.serving.compat.params import COMPARISONS, Params, moment_of, whole_of
from fibflow.serving.problems import bad_request
from fibflow.transforms.calendar import DAY_US, TradingCalendar
from fibflow.transforms.timeframe import MINUTE_US, Timeframe, TimeframeError

Int64 = npt.NDArray[np.int64]

_EPOCH = date(1970, 1, 1)
#: Sunday, 2 January 2000, in days since 1970.
_FIRST_WEEK = 10_958
_MOST = 1_000
_NS_A_US = 1_000


class Unit(StrEnum):
    """What a span counts."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    QUARTER = "quarter"
    YEAR = "year"


_MONTHS = {Unit.MONTH: 1, Unit.QUARTER: 3, Unit.YEAR: 12}


@dataclass(frozen=True)
class Span:
    """A bar's length: ``count`` of ``unit``."""

    count: int
    unit: Unit

    @classmethod
    def of(cls, multiplier: str, timespan: str) -> Span:
        """Read a multiplier and a timespan.

        Raises:
            Problem: they are none, or we have no such bars.
        """
        name = timespan.strip().lower()
        count = whole_of(multiplier, "multiplier", 1, 1_000_000)
        if name == "second":
            raise bad_request("there are no bars of seconds here: the shortest are 1/minute", "bad_timespan")
        if name not in tuple(Unit):
            raise bad_request(f"timespan {name[:40]!r}: choose {', '.join(Unit)}", "bad_timespan")
        span = cls(count, Unit(name))
        if span.timeframe is None and count > _MOST:
            raise bad_request(f"multiplier {count}: at most {_MOST} {name}s", "bad_timespan")
        return span

    @property
    def timeframe(self) -> Timeframe | None:
        """The timeframe of such bars; None for periods of the calendar.

        Raises:
            Problem: the length does not divide a day, or has too many sessions.
        """
        if self.unit in _MONTHS or self.unit is Unit.WEEK:
            return None
        try:
            return Timeframe.parse(f"{self.count}{self.unit[0]}")
        except TimeframeError:
            pass
        if self.unit is Unit.DAY:
            raise bad_request(f"multiplier {self.count}: at most {_MOST} days", "bad_timespan")
        raise bad_request(
            f"{self.count}/{self.unit} does not divide a day: choose minutes or hours that do, or 1/day",
            "bad_timespan",
        )

    @property
    def base(self) -> str:
        """The timespan as the vendor writes it, with its multiplier."""
        return f"{self.count}/{self.unit}"

    # Periods of the calendar.

    def periods(self, days: Int64) -> Int64:
        """Return the number of the period that each date (days since 1970) is in, shape (n,)."""
        if self.unit is Unit.WEEK:
            return np.floor_divide(days - _FIRST_WEEK, 7 * self.count)
        months = days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64) + 1970 * 12
        return np.floor_divide(months, _MONTHS[self.unit] * self.count)

    def first_days(self, periods: Int64) -> Int64:
        """Return the first date of each period, days since 1970, shape (n,)."""
        if self.unit is Unit.WEEK:
            return periods * (7 * self.count) + _FIRST_WEEK
        months = periods * (_MONTHS[self.unit] * self.count) - 1970 * 12
        return months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)

    # Where a range begins and ends.

    def start(self, moment: int | date, calendar: TradingCalendar) -> int:
        """Return the earliest ``ts`` of a bar that reaches beyond a moment, UTC microseconds.

        Of several days that of the day: where their window begins is known to the bars alone.

        Args:
            moment: UTC nanoseconds, or a date: its begin.
            calendar: of the bars.
        """
        if self.unit is Unit.DAY:
            if isinstance(moment, date):
                at = int(np.searchsorted(calendar.days, _day(moment)))
            else:
                at = int(np.searchsorted(calendar.day_ends, moment // _NS_A_US, side="right"))
            return int(calendar.day_starts[at]) if at < len(calendar) else int(calendar.day_ends[-1])
        if self.timeframe is None:
            return self._edge(moment, calendar, 0)
        if isinstance(moment, date):
            return calendar.midnight(_day(moment))
        instant = moment // _NS_A_US
        offset, since, _ = (int(part[0]) for part in calendar.clock(np.array([instant], np.int64)))
        length = self.timeframe.minutes * MINUTE_US
        return max(instant - (instant + offset) % length, since)

    def end(self, moment: int | date, calendar: TradingCalendar) -> int:
        """Return what the ``ts`` of all bars that begin by a moment lie before, UTC microseconds.

        Args:
            moment: UTC nanoseconds, or a date: its end.
            calendar: of the bars.
        """
        if self.timeframe is None:
            return self._edge(moment, calendar, 1)
        if not isinstance(moment, date):
            return moment // _NS_A_US + 1
        if self.unit is not Unit.DAY:
            return calendar.midnight(_day(moment) + 1)
        at = int(np.searchsorted(calendar.days, _day(moment), side="right"))
        return int(calendar.day_starts[at]) if at < len(calendar) else int(calendar.day_ends[-1])

    def _edge(self, moment: int | date, calendar: TradingCalendar, further: int) -> int:
        day = _day(moment) if isinstance(moment, date) else _local_day(moment // _NS_A_US, calendar)
        period = self.periods(np.array([day], np.int64)) + further
        return calendar.midnight(int(self.first_days(period)[0]))


def bounds_us(moment: int | date, calendar: TradingCalendar) -> tuple[int, int]:
    """Return the first and the last microsecond that a moment means: of a date its day's."""
    if isinstance(moment, date):
        day = _day(moment)
        return calendar.midnight(day), calendar.midnight(day + 1) - 1
    return moment // _NS_A_US, moment // _NS_A_US


def window_us(params: Params, name: str, calendar: TradingCalendar) -> tuple[int | None, int | None]:
    """Return the range ``[start, end)`` that comparisons leave, UTC microseconds; None for no bound.

    A date is all of its day on the exchange's clock. Nanoseconds are rounded to whole microseconds.

    Raises:
        Problem: one of them is no time.
    """
    starts: list[int] = []
    ends: list[int] = []
    for sign in ("", *COMPARISONS):
        key = f"{name}.{sign}" if sign else name
        if not (text := params.get(key)):
            continue
        moment = moment_of(text, key)
        if isinstance(moment, date):
            day = _day(moment)
            first, behind = calendar.midnight(day), calendar.midnight(day + 1)
        else:
            # Clients make nanoseconds of doubles: they are off by some hundreds.
            first = (moment + _NS_A_US // 2) // _NS_A_US
            behind = first + 1
        if sign in ("", "gt", "gte"):
            starts.append(behind if sign == "gt" else first)
        if sign in ("", "lt", "lte"):
            ends.append(first if sign == "lt" else behind)
    return max(starts, default=None), min(ends, default=None)


def midnights(days: Int64, calendar: TradingCalendar) -> Int64:
    """Return when dates (days since 1970) begin on the exchange's clock, UTC microseconds, shape (n,)."""
    found = days * DAY_US
    for _ in range(2):
        offset, _, _ = calendar.clock(found)
        found = days * DAY_US - offset
    return found


def local_date(instant: int, calendar: TradingCalendar) -> date:
    """Return the date on the exchange's clock of UTC microseconds."""
    return _date(_local_day(instant, calendar))


def _local_day(instant: int, calendar: TradingCalendar) -> int:
    return int(calendar.local_days(np.array([instant], np.int64))[0])


def _day(moment: date) -> int:
    return (moment - _EPOCH).days


def _date(day: int) -> date:
    found: Any = np.datetime64(day, "D").item()
    return found
