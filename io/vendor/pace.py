"""How often the vendor is asked: a rate that all threads share, and how long to wait after a failure."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

#: The longest wait between two attempts that the vendor did not ask for, seconds.
LONGEST_WAIT_S = 20.0
_FIRST_WAIT_S = 0.5


class Rate:
    """At most ``per_second`` calls a second, evenly spaced: a token bucket that holds one token.

    Safe to use from several threads.

    Args:
        per_second: calls a second, above 0.
        clock: seconds, never back.
        sleep: waits for some seconds.
    """

    def __init__(
        self,
        per_second: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        if not per_second > 0:
            raise ValueError(f"a rate of {per_second} calls a second is none")
        self._gap = 1.0 / per_second
        self._clock, self._sleep = clock, sleep
        self._lock = threading.Lock()
        self._next = clock()

    def take(self) -> None:
        """Wait for this call's turn."""
        while True:
            with self._lock:
                now = self._clock()
                if now >= self._next:
                    self._next = max(self._next, now - self._gap) + self._gap
                    return
                # Nobody reserves a turn: a pause that another thread asks for holds for all who wait.
                wait = self._next - now
            self._sleep(wait)

    def pause(self, seconds: float) -> None:
        """Let no call go for some seconds from now: the vendor told one of them to wait."""
        with self._lock:
            self._next = max(self._next, self._clock() + seconds)


def backoff(failed: int, dice: random.Random) -> float:
    """Return how long to wait after so many failed attempts (1 or more), seconds: anything up to a bound.

    The bound doubles with each, up to ``LONGEST_WAIT_S``. Callers that failed together come back apart.
    """
    return dice.uniform(0.0, min(LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** (failed - 1)))


def retry_after(header: str | None, now: Callable[[], datetime]) -> float | None:
    """Return the seconds that ``Retry-After``, a number or a date, asks for; None where it makes no sense."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    when = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
    return max(0.0, (when - now()).total_seconds())
