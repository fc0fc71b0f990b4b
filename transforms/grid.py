"""The grid of minutes: in which session, and in which window of each timeframe, a minute lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fibflow.transforms.calendar import NO_SESSION, TradingCalendar
from fibflow.transforms.timeframe import IntradayAnchor, Timeframe, TimeframeError, intraday_windows

Bool = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]

#: Minutes remembered: some days.
_REMEMBERED = 1 << 13


@dataclass(frozen=True)
class Placed:
    """Where minutes lie.

    Attributes:
        session: position of the session, ``NO_SESSION`` outside all; shape (n,).
        regular: whether the minute lies in regular hours, ``[open, close)``; shape (n,).
        starts, ends: the minute's window of each timeframe, UTC microseconds, 0 where there is no session;
            shape (timeframes, n).
    """

    session: Int64
    regular: Bool
    starts: Int64
    ends: Int64


class Grid:
    """Places minutes, and remembers those that it placed: few are alive at a time."""

    def __init__(
        self, timeframes: Sequence[Timeframe], calendar: TradingCalendar, anchor: IntradayAnchor
    ) -> None:
        """Take what windows follow from.

        Raises:
            TimeframeError: for a timeframe of several sessions.
        """
        for timeframe in timeframes:
            if timeframe.sessions > 1:
                raise TimeframeError(
                    f"timeframe {timeframe}: bars of several sessions come with history; of ticks name "
                    "minutes, hours and 1d"
                )
        self.timeframes = tuple(timeframes)
        self.calendar = calendar
        self.anchor = anchor
        self._known: dict[int, Int64] = {}

    def place(self, minutes: Int64) -> Placed:
        """Return where minutes lie: their starts, UTC microseconds, shape (n,)."""
        calendar = self.calendar
        session = calendar.positions_at(minutes).astype(np.int64)
        inside = session != NO_SESSION
        at, own = minutes[inside], session[inside]
        regular = np.zeros(len(minutes), np.bool_)
        regular[inside] = (at >= calendar.opens[own]) & (at < calendar.closes[own])
        starts = np.zeros((len(self.timeframes), len(minutes)), np.int64)
        ends = np.zeros_like(starts)
        for number, timeframe in enumerate(self.timeframes):
            if timeframe.is_intraday:
                start, end = intraday_windows(at, timeframe, calendar, self.anchor)
            else:
                start, end = calendar.day_starts[own], calendar.day_ends[own]
            starts[number, inside], ends[number, inside] = start, end
        return Placed(session, regular, starts, ends)

    def look_up(self, minutes: Int64) -> Placed:
        """Return the same as ``place``, for few minutes and again and again."""
        names = minutes.tolist()
        missing = [minute for minute in names if minute not in self._known]
        if missing:
            if len(self._known) > _REMEMBERED:
                self._known.clear()
                missing = names
            found = self.place(np.array(missing, np.int64))
            columns = np.concatenate((found.session[None], found.regular[None], found.starts, found.ends))
            self._known.update(zip(missing, columns.T.astype(np.int64), strict=True))
        table = np.array([self._known[minute] for minute in names], np.int64).T
        count = len(self.timeframes)
        table = table.reshape(2 + 2 * count, len(names))
        return Placed(table[0], table[1] != 0, table[2 : 2 + count], table[2 + count :])
