"""Open bars on their way to whoever shows them: how often they go out, and what an element says."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import pyarrow as pa

MICROS = 1_000_000


class Flush(NamedTuple):
    """Open bars of one bucket: those of minutes and hours, or those of days.

    Attributes:
        bucket: the bucket of all symbols in it.
        stamp: when they were let out, UTC microseconds; grows with each flush of a bucket.
        of_days: of which of the two kinds they are.
        whole: these are all open bars of the kind in the bucket; else all of the symbols in it, which gained
            input.
        bars: of ``partials.BAR_BATCH``, a window once; may be empty where they are all.
    """

    bucket: int
    stamp: int
    of_days: bool
    whole: bool
    bars: pa.Table


class Marker(Protocol):
    """Tells whether what was written still is there: ``current`` changes when it may not be."""

    def open(self) -> None:
        """Make ready, in the worker."""

    def current(self) -> str:
        """Return the marker as of now, or of a second ago."""

    def close(self) -> None:
        """End."""


@dataclass(frozen=True)
class Pace:
    """How open bars go out.

    The first change after a pause goes out at once, later ones when the interval is over. Bars of minutes and
    hours and those of days go out apart: the former end every minute. All open bars of a kind in a bucket go
    out as a whole after a window of it has ended, once from each worker, and each time that the marker
    changes: what an abandoned history of the job left is replaced, an emptied store is full again.

    Attributes:
        interval_us: the shortest time between two flushes of a bucket's minutes and hours; 0 lets each change
            out.
        days_us: the same of its days.
        marker: of what the flushes are written to; None: nothing is sent again.
        check_us: how often a bucket without changes looks at the marker.
        clock: seconds since 1970.
    """

    interval_us: int = 250_000
    days_us: int = 1_000_000
    marker: Marker | None = None
    check_us: int = 5_000_000
    clock: Callable[[], float] = time.time

    def interval(self, of_days: bool) -> int:
        """Return the shortest time between two flushes of a kind, microseconds."""
        return self.days_us if of_days else self.interval_us

    def now(self) -> int:
        """Return the clock's time, UTC microseconds."""
        return int(self.clock() * MICROS)

    def current(self) -> str:
        """Return the marker; always the same where there is none."""
        return "" if self.marker is None else self.marker.current()
