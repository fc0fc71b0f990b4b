"""Which windows ``silver.bars`` answers for: properties of the table, which a reader has with its files.

A property is that of one timeframe, so that runs of different ones can land side by side. It holds JSON:
stretches ``[start, end)`` of UTC microseconds, apart and in order, null for since ever. A window belongs to a
stretch that holds all of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from fibflow.transforms.calendar import TradingCalendar

Bool = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]

Stretches = tuple[tuple[int | None, int], ...]


def stretches(properties: Mapping[str, str], key: str, timeframe: str) -> Stretches:
    """Return the stretches that a table's properties have for a timeframe under ``key``."""
    return tuple((start, end) for start, end in json.loads(properties.get(f"{key}.{timeframe}", "[]")))


def changed(properties: Mapping[str, str], key: str, found: Mapping[str, Stretches]) -> dict[str, str]:
    """Return the properties that have to change so that they hold these stretches, by timeframe."""
    return {
        f"{key}.{name}": json.dumps(own, separators=(",", ":"))
        for name, own in found.items()
        if stretches(properties, key, name) != own
    }


def covers(found: Stretches, start: int, end: int) -> bool:
    """Return whether a window, or all those of a file, belong to a stretch."""
    return any((since is None or since <= start) and end <= until for since, until in found)


def within(found: Stretches, starts: Int64, ends: Int64) -> Bool:
    """Return which windows belong to a stretch, shape (n,)."""
    inside = np.zeros(len(starts), np.bool_)
    for since, until in found:
        inside |= (ends <= until) if since is None else (starts >= since) & (ends <= until)
    return inside


def sessions_in(found: Stretches, calendar: TradingCalendar) -> frozenset[int]:
    """Return the positions of the sessions whose day belongs to a stretch."""
    starts, ends = calendar.day_starts, calendar.day_ends
    held: set[int] = set()
    for since, until in found:
        first = 0 if since is None else int(np.searchsorted(starts, since))
        held.update(range(first, int(np.searchsorted(ends, until, side="right"))))
    return frozenset(held)


def of_sessions(positions: frozenset[int], calendar: TradingCalendar) -> Stretches:
    """Return sessions as stretches; consecutive ones are one, and what lies between them is in it."""
    return tuple(
        (int(calendar.day_starts[first]), int(calendar.day_ends[last])) for first, last in runs(positions)
    )


def runs(positions: frozenset[int]) -> list[tuple[int, int]]:
    """Return the first and the last of each run of consecutive positions."""
    ordered = np.array(sorted(positions), np.int64)
    if not len(ordered):
        return []
    breaks = np.flatnonzero(np.diff(ordered) > 1)
    firsts = ordered[np.append(0, breaks + 1)].tolist()
    return list(zip(firsts, ordered[np.append(breaks, len(ordered) - 1)].tolist(), strict=True))
