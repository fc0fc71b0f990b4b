"""What an exchange does now, and which days it is closed, by its calendar.

Extended hours are not in the calendar. Those of New York's stocks are the published ones of its exchanges
(NYSE Arca, Nasdaq), which the vendors' feeds follow: before the open from 4:00, after the close for four
hours, that is until 20:00, and on half days until 17:00. Other calendars are open or closed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from fibflow.transforms.calendar import DAY_US, NO_SESSION, TradingCalendar
from fibflow.transforms.timeframe import MINUTE_US

_HOUR_US = 60 * MINUTE_US
#: Names of the calendar of New York's stocks.
_NEW_YORK = ("XNYS", "NYSE", "XNAS", "NASDAQ", "XASE", "ARCX", "BATS", "OOTC")
_EARLY_FROM_US, _AFTER_US = 4 * _HOUR_US, 4 * _HOUR_US
_EPOCH = date(1970, 1, 1)
#: A day of the week is one of trading when the year around has so many sessions on it.
_MANY = 26


class Market(StrEnum):
    """What the market is."""

    OPEN = "open"
    CLOSED = "closed"
    EXTENDED = "extended-hours"


@dataclass(frozen=True)
class Status:
    """The market at an instant. Instants are UTC microseconds.

    Attributes:
        market: whether it is open.
        early, after: extended hours before the open, after the close.
        session: the session in whose day the instant falls; None for none.
        opens, closes: of that session; None without.
        next_open: the first open after the instant; None where the calendar ends.
    """

    market: Market
    early: bool
    after: bool
    session: date | None
    opens: int | None
    closes: int | None
    next_open: int | None


@dataclass(frozen=True)
class Holiday:
    """A day on which the exchange is closed, or closes early.

    Attributes:
        date: of the day.
        status: ``closed`` or ``early-close``.
        opens, closes: of a session that ends early, UTC microseconds.
        name: where it is known: of New York's holidays.
    """

    date: date
    status: str
    opens: int | None
    closes: int | None
    name: str | None


def status(calendar: TradingCalendar, now_us: int) -> Status:
    """Return what the market is at an instant, UTC microseconds."""
    instant = np.array([now_us], np.int64)
    position = int(calendar.positions_at(instant)[0])
    following = int(np.searchsorted(calendar.opens, now_us, side="right"))
    next_open = int(calendar.opens[following]) if following < len(calendar) else None
    if position == NO_SESSION:
        return Status(Market.CLOSED, False, False, None, None, None, next_open)
    opens, closes = int(calendar.opens[position]), int(calendar.closes[position])
    early, after = False, False
    if calendar.name in _NEW_YORK:
        begins = calendar.midnight(int(calendar.days[position])) + _EARLY_FROM_US
        early = begins <= now_us < opens
        after = closes <= now_us < closes + _AFTER_US
    market = Market.OPEN if opens <= now_us < closes else Market.EXTENDED if early or after else Market.CLOSED
    return Status(market, early, after, date_of(int(calendar.days[position])), opens, closes, next_open)


def upcoming(calendar: TradingCalendar, now_us: int, days: int = 365) -> list[Holiday]:
    """Return the holidays and half days from today on, for so many days, oldest first.

    A holiday is a day without a session, of a weekday that has sessions.
    """
    today = int(calendar.local_days(np.array([now_us], np.int64))[0])
    last = min(today + days, int(calendar.days[-1]))
    trading = _trading_weekdays(calendar, today)
    positions = calendar.positions(np.arange(today, last + 1)).astype(np.int64)
    early = np.zeros(len(positions), np.bool_)
    early[positions != NO_SESSION] = early_closes(calendar, positions[positions != NO_SESSION])
    found = []
    for day, position, is_early in zip(
        range(today, last + 1), positions.tolist(), early.tolist(), strict=True
    ):
        if is_early:
            opens, closes = int(calendar.opens[position]), int(calendar.closes[position])
            found.append(Holiday(date_of(day), "early-close", opens, closes, _name(calendar, day)))
        elif position == NO_SESSION and trading[_weekday(day)]:
            found.append(Holiday(date_of(day), "closed", None, None, _name(calendar, day)))
    return found


def early_closes(calendar: TradingCalendar, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return which sessions close earlier on the exchange's clock than most of their year, shape (n,)."""
    closes = _local_closes(calendar, positions)
    early = np.zeros(len(positions), np.bool_)
    years = _years(calendar.days[positions])
    for year in np.unique(years).tolist():
        own = years == year
        first, stop = np.searchsorted(_years(calendar.days), [year, year + 1])
        usual, counts = np.unique(_local_closes(calendar, np.arange(first, stop)), return_counts=True)
        early[own] = closes[own] < usual[np.argmax(counts)]
    return early


def date_of(day: int) -> date:
    """Return a date from days since 1970."""
    return _EPOCH + timedelta(days=day)


def _years(days: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    return days.astype("datetime64[D]").astype("datetime64[Y]").astype(np.int64)


def _local_closes(calendar: TradingCalendar, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return when sessions close, on the exchange's clock, as microseconds after their date's midnight."""
    closes = calendar.closes[positions]
    local: npt.NDArray[np.int64] = closes + calendar.clock(closes)[0]
    return local - calendar.days[positions].astype(np.int64) * DAY_US


def _weekday(day: int) -> int:
    """Return the day of the week, Monday 0."""
    return (day + 3) % 7


def _trading_weekdays(calendar: TradingCalendar, today: int) -> npt.NDArray[np.bool_]:
    """Return which days of the week have sessions, in the year before the last that the calendar knows."""
    around = min(today, int(calendar.days[-1]))
    days = calendar.days[(calendar.days > around - 365) & (calendar.days <= around)]
    return np.bincount((days + 3) % 7, minlength=7) >= _MANY


def _name(calendar: TradingCalendar, day: int) -> str | None:
    """Return what a holiday, or half day, of New York is called; None for one out of the order."""
    if calendar.name not in _NEW_YORK:
        return None
    found, weekday = date_of(day), _weekday(day)
    month, number = found.month, found.day
    monday = weekday == 0
    if (month, number) == (1, 1) or (monday and (month, number) == (1, 2)):
        return "New Year's Day"
    if month == 1 and monday and 15 <= number <= 21:
        return "Martin Luther King Jr. Day"
    if month == 2 and monday and 15 <= number <= 21:
        return "Washington's Birthday"
    if month in (3, 4) and weekday == 4:
        return "Good Friday"
    if month == 5 and monday and number >= 25:
        return "Memorial Day"
    if month == 6 and 18 <= number <= 20:
        return "Juneteenth"
    if month == 7 and 2 <= number <= 5:
        return "Independence Day"
    if month == 9 and monday and number <= 7:
        return "Labor Day"
    # The fourth Thursday, and the day after.
    if month == 11 and ((weekday == 3 and 22 <= number <= 28) or (weekday == 4 and 23 <= number <= 29)):
        return "Thanksgiving"
    if month == 12 and 24 <= number <= 26:
        return "Christmas"
    return None
