"""Whether the exchange's session runs, extended hours too, by its calendar."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from fibflow.io.checkup.machine import calendar_of
from fibflow.io.exporter import metrics
from fibflow.io.exporter.metrics import Sample
from fibflow.transforms.calendar import SECOND_US, TradingCalendar

#: How long the extended hours last before the open and after the close, as far as the session's day goes:
#: in New York from 04:00 to 20:00, on a half day to 17:00.
BEFORE_US, AFTER_US = 19_800 * SECOND_US, 14_400 * SECOND_US


def running_since(calendar: TradingCalendar, now: float) -> float | None:
    """Return when the session began that runs now, seconds since 1970; None where none does.

    Args:
        calendar: of the exchange.
        now: seconds since 1970.
    """
    at = int(now * SECOND_US)
    place = int(np.searchsorted(calendar.day_starts, at, side="right")) - 1
    if place < 0:
        return None
    start = max(int(calendar.opens[place]) - BEFORE_US, int(calendar.day_starts[place]))
    end = min(int(calendar.closes[place]) + AFTER_US, int(calendar.day_ends[place]))
    return start / SECOND_US if start <= at < end else None


class Sessions:
    """The sessions of an exchange.

    Args:
        exchange: the calendar's name, such as ``XNYS``.
        now: seconds since 1970.
    """

    def __init__(self, exchange: str, now: Callable[[], float]) -> None:
        self._exchange, self._now = exchange, now

    def look(self) -> Iterator[Sample]:
        """Yield whether a session runs.

        Raises:
            CalendarError: there is no such calendar, or it cannot be made.
        """
        now = self._now()
        since = running_since(calendar_of(self._exchange, now), now)
        yield Sample(metrics.SESSION_OPEN, float(since is not None), (self._exchange,))
        yield Sample(metrics.SESSION_SECONDS, 0.0 if since is None else now - since, (self._exchange,))
