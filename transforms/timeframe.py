"""Timeframes: parsing of names, and vectorised windows.

A ``Timeframe`` names a window length. Which window an input falls in also depends on the calendar and on an
anchor (``docs/data-model.md``, Windows).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from fibflow.transforms.calendar import NO_SESSION, CalendarError, TradingCalendar

Int64 = npt.NDArray[np.int64]
Index = npt.NDArray[np.intp]
Counted = npt.NDArray[np.int16] | npt.NDArray[np.int32]

MINUTE_US = 60_000_000
MINUTES_A_DAY = 1440
MOST_SESSIONS = 1000


class TimeframeError(ValueError):
    """A timeframe's name cannot be read."""


class Anchor(StrEnum):
    """Where the count of sessions of ``<N>d`` begins."""

    EXCHANGE = "exchange"
    LISTING = "listing"
    ROWS = "rows"


class IntradayAnchor(StrEnum):
    """Where intraday windows are counted from."""

    MIDNIGHT = "midnight"
    OPEN = "open"


@dataclass(frozen=True, order=True)
class Timeframe:
    """A window's length: ``sessions`` exchange sessions, or ``minutes`` of the clock; the other one is 0."""

    sessions: int
    minutes: int

    @property
    def is_intraday(self) -> bool:
        """Whether windows lie within a session's day."""
        return self.minutes > 0

    @property
    def name(self) -> str:
        """The canonical name: ``90m`` and ``1h``, never ``60m``."""
        if self.sessions:
            return f"{self.sessions}d"
        return f"{self.minutes // 60}h" if self.minutes % 60 == 0 else f"{self.minutes}m"

    def __str__(self) -> str:
        return self.name

    @classmethod
    def parse(cls, name: str) -> Timeframe:
        """Read a name such as ``5m``, ``4h`` or ``13d``.

        Raises:
            TimeframeError: where the name is malformed, or its length does not divide a day.
        """
        found = re.fullmatch(r"([1-9]\d{0,3})([mhd])", name.strip().lower())
        if not found:
            raise TimeframeError(
                f"unknown timeframe {name!r}: write <N>m, <N>h or <N>d, such as 5m, 4h or 13d"
            )
        count, unit = int(found[1]), found[2]
        if unit == "d":
            if count > MOST_SESSIONS:
                raise TimeframeError(f"timeframe {name}: at most {MOST_SESSIONS} sessions")
            return cls(count, 0)
        minutes = count * (60 if unit == "h" else 1)
        if MINUTES_A_DAY % minutes or minutes == MINUTES_A_DAY:
            raise TimeframeError(
                f"timeframe {name} does not divide a day: choose minutes or hours that do, or 1d"
            )
        return cls(0, minutes)


DAY = Timeframe(1, 0)
FIBONACCI = tuple(Timeframe(n, 0) for n in (3, 5, 8, 13, 21, 34))
INTRADAY = tuple(Timeframe(0, n) for n in (1, 5, 15, 30, 60, 120, 240))


def parse_timeframes(names: str | Iterable[str]) -> tuple[Timeframe, ...]:
    """Read a comma-separated list, or several names; sorted, each once.

    ``fibonacci`` and ``intraday`` name the sets.

    Raises:
        TimeframeError: where the list is empty or holds a name that cannot be read.
    """
    parts = names.split(",") if isinstance(names, str) else list(names)
    found: set[Timeframe] = set()
    for part in (part.strip() for part in parts):
        if part in ("fibonacci", "intraday"):
            found.update(FIBONACCI if part == "fibonacci" else INTRADAY)
        elif part:
            found.add(Timeframe.parse(part))
    if not found:
        raise TimeframeError("no timeframe given: name some, such as 3d,5d,8d")
    return tuple(sorted(found))


def by_sessions(
    timeframes: Iterable[Timeframe],
) -> tuple[tuple[Timeframe, ...], tuple[Timeframe, ...], bool]:
    """Return the timeframes within a session, those of several, and whether these lack the days they fold."""
    given = tuple(timeframes)
    short = tuple(timeframe for timeframe in given if timeframe.sessions <= 1)
    long = tuple(timeframe for timeframe in given if timeframe.sessions > 1)
    return short, long, bool(long) and DAY not in short


@dataclass(frozen=True)
class SessionWindows:
    """Windows of ``<N>d`` over positions of a calendar.

    ``base`` is the position (``exchange``, ``listing``) or the row number (``rows``) at which a window
    begins, for
    all rows or for each: shape () or (n,).
    """

    calendar: TradingCalendar
    sessions: int

    def numbers(self, counted: Counted) -> Counted:
        """Return the number of the window of each row, shape (n,), from what ``count_from`` gave."""
        return np.floor_divide(counted, counted.dtype.type(self.sessions))

    def bounds(self, numbers: Counted, base: Index | int) -> tuple[Int64, Int64]:
        """Return start and end (UTC microseconds) of windows counted in sessions from ``base``, shape (n,).

        Raises:
            CalendarError: where a window ends after the calendar.
        """
        if isinstance(base, int) and len(numbers):
            # One base: there are as many windows as the calendar has, however many symbols.
            lowest = int(numbers.min())
            grid = np.arange(lowest, int(numbers.max()) + 1)
            starts, ends = self._bounds(grid * self.sessions + base)
            index = numbers - np.int32(lowest)
            return starts.take(index), ends.take(index)
        return self._bounds(numbers.astype(np.int64) * self.sessions + base)

    def _bounds(self, first: Int64) -> tuple[Int64, Int64]:
        last = first + (self.sessions - 1)
        if len(last) and int(last.max()) >= len(self.calendar):
            raise CalendarError(
                f"calendar {self.calendar.name} ends before a window of {self.sessions} sessions does"
            )
        return self.calendar.day_starts[np.maximum(first, 0)], self.calendar.day_ends[last]


def count_from(positions: Index, base: Index | int) -> Counted:
    """Return how many sessions (or rows) each position is after ``base``, shape (n,).

    In 16 bits where they suffice: what is done with every row for every timeframe is then several times
    faster.
    """
    counted = positions - base
    low, high = int(counted.min(initial=0)), int(counted.max(initial=0))
    limits = np.iinfo(np.int16)
    if limits.min <= low and high <= limits.max:
        return counted.astype(np.int16)
    return counted.astype(np.int32)


def intraday_windows(
    ts: Int64, timeframe: Timeframe, calendar: TradingCalendar, anchor: IntradayAnchor
) -> tuple[Int64, Int64]:
    """Return start and end (UTC microseconds) of the intraday window of each instant, shape (n,) each.

    No window reaches out of its session's day.

    Raises:
        ValueError: where an instant lies in no session's day.
    """
    length = timeframe.minutes * MINUTE_US
    position = calendar.positions_at(ts)
    if (position == NO_SESSION).any():
        raise ValueError("an instant lies in no session's day")
    if anchor is IntradayAnchor.MIDNIGHT:
        offset, since, until = calendar.clock(ts)
        start = ts - np.mod(ts + offset, length)
        start, end = np.maximum(start, since), np.minimum(start + length, until)
    else:
        opens, closes = calendar.opens[position], calendar.closes[position]
        after = ts >= closes
        base = np.where(after, closes, opens)
        start = base + np.floor_divide(ts - base, length) * length
        end = start + length
        regular = (ts >= opens) & ~after
        end = np.where(regular, np.minimum(end, closes), end)
    return np.maximum(start, calendar.day_starts[position]), np.minimum(end, calendar.day_ends[position])
