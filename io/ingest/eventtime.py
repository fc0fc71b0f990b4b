"""How far the feed's time is: of what came, and, while nothing comes, of the time that passes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from fibflow.io.tickcolumns import MINUTE, MS_BELOW, SECOND, US_BELOW
from fibflow.io.tickmessages import messages

MINUTE_US, SECOND_US = 60_000_000, 1_000_000

_WIDTH = {MINUTE: MINUTE_US, SECOND: SECOND_US}
#: A message that is timed so much later than it came is wrong, and tells no time.
_AHEAD_US = 60_000_000


def _us(value: Any) -> int | None:
    """Return UTC microseconds of milliseconds, microseconds or nanoseconds; None for what is no time."""
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        return None
    return value * 1000 if value < MS_BELOW else value if value < US_BELOW else value // 1000


def _values(frame: bytes) -> Iterable[Any]:
    try:
        value = orjson.loads(frame)
    except ValueError:
        return [value for value, _ in messages(frame)]
    return value if isinstance(value, list) else [value]


def _times(frame: bytes) -> Iterator[int]:
    for value in _values(frame):
        if not isinstance(value, dict):
            continue
        kind = value.get("ev")
        width = _WIDTH.get(kind) if isinstance(kind, str) else None
        time = _us(value.get("t")) if width is None else _us(value.get("e"))
        if time is None and width is not None and (start := _us(value.get("s"))) is not None:
            time = start + width
        if time is not None:
            yield time


def newest_of(frame: bytes, now: int) -> int:
    """Return when the newest message of a frame was made: a trade's time, an aggregate's end.

    Args:
        frame: as it came.
        now: UTC microseconds; what is timed later is wrong.

    Returns:
        UTC microseconds; 0 where no message tells.
    """
    return max((time for time in _times(frame) if time <= now + _AHEAD_US), default=0)


class FeedTime:
    """The time up to which everything has come, lateness apart.

    It is the time of the newest message, and goes on from there as long as the connection gives signs of
    life: in a quiet market too time passes. It goes by the feed's own time, so that a delayed feed or one
    that is played back has its own.

    Args:
        newest: where it begins, UTC microseconds; 0 for nowhere.
        came: when that came, by the clock of ``heard``.
    """

    def __init__(self, newest: int = 0, came: int = 0) -> None:
        self.newest = newest
        self._came = self._alive = came

    def heard(self, newest: int, now: int) -> None:
        """Take in the newest time of what has just come; ``now`` is any clock, microseconds."""
        self._alive = now
        if newest >= self.newest or not self._came:
            self.newest, self._came = max(newest, self.newest), now

    def lives(self, now: int) -> None:
        """Take in a sign of life."""
        self._alive = now

    def estimate(self, now: int | None = None) -> int:
        """Return the time, UTC microseconds; 0 for none.

        Args:
            now: reckon up to here, whether there was a sign of life or not; None for up to the last one.
        """
        if not self.newest or not self._came:
            return self.newest
        return self.newest + max(0, (self._alive if now is None else now) - self._came)
