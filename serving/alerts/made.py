"""Which bars are made while prices come: without them an alert on bars would wait for ever."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from fibflow.io.alerts.barsmade import bars_made
from fibflow.io.storage import LakeError, Storage
from fibflow.transforms.alerts.barcondition import BarCondition
from fibflow.transforms.timeframe import Timeframe

_LOG = logging.getLogger("fibflow.serving")
#: For how long it is not asked again, seconds.
KEPT_S = 10.0


class MadeBars:
    """The timeframes that the job makes which evaluates alerts. Blocks; safe for threads.

    Args:
        place: the lake's, where jobs are kept as they were submitted.
        clock: seconds, never back.
    """

    def __init__(self, place: Storage, clock: Callable[[], float] = time.monotonic) -> None:
        self._place, self._clock = place, clock
        self._lock = threading.Lock()
        self._asked: float | None = None
        self._found: tuple[Timeframe, ...] | None = None

    def timeframes(self) -> tuple[Timeframe, ...] | None:
        """Return them, some seconds old; None where that is not known."""
        with self._lock:
            now = self._clock()
            if self._asked is None or now - self._asked >= KEPT_S:
                try:
                    self._found = bars_made(self._place)
                except LakeError as error:
                    _LOG.warning("which bars are made is not known: %s", error)
                    self._found = None
                self._asked = now
            return self._found

    def warning(self, bars: BarCondition) -> str | None:
        """Return why a condition may never hold as things are; None where all its bars are made."""
        named = {Timeframe.parse(each) for each in (bars.timeframe, *_operands(bars))}
        made = self.timeframes()
        if made is None:
            why = "no job was submitted with --alerts on the server's lake"
            return f"whether bars of {_list(named)} are made is not known: {why}"
        lacking = named.difference(made)
        return f"it cannot fire: no bars of {_list(lacking)} are made now" if lacking else None


def _operands(bars: BarCondition) -> list[str]:
    return [side.timeframe for term in bars.terms for side in (term.left, term.right) if side.timeframe]


def _list(timeframes: set[Timeframe]) -> str:
    return ", ".join(each.name for each in sorted(timeframes))
