"""Small tools on runs of rows: no loop over rows, whatever the runs' lengths."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Bool = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]


def ranges(starts: npt.NDArray[Any], counts: npt.NDArray[Any]) -> Int64:
    """Return ``start, start + 1, ...`` of each run, one after the other; shape (sum of counts,)."""
    stops = np.cumsum(counts)
    total = int(stops[-1]) if len(stops) else 0
    return np.arange(total, dtype=np.int64) + np.repeat(starts - (stops - counts), counts)


def run_starts(group: npt.NDArray[Any]) -> Int64:
    """Return where each run of equal values begins, shape (runs,)."""
    if not len(group):
        return np.zeros(0, np.int64)
    return np.concatenate((np.zeros(1, np.int64), np.flatnonzero(group[1:] != group[:-1]) + 1))


def dense_ranks(*keys: npt.NDArray[Any]) -> Int64:
    """Return the place of each row among the distinct ones in order, the first key most significant."""
    order = np.lexsort(keys[::-1])
    differs = np.zeros(len(order), np.bool_)
    for key in keys:
        ordered = key[order]
        differs[1:] |= ordered[1:] != ordered[:-1]
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.cumsum(differs)
    return ranks


def rising(group: npt.NDArray[Any], ranks: Int64) -> Bool:
    """Return which rows are greater than all before them in their group.

    Args:
        group: in ascending order, shape (n,).
        ranks: 0 or more, shape (n,).
    """
    if not len(ranks):
        return np.zeros(0, np.bool_)
    value = dense_ranks(group) * (int(ranks.max()) + 1) + ranks
    greatest = np.maximum.accumulate(value)
    return np.concatenate((np.ones(1, np.bool_), value[1:] > greatest[:-1]))


def by_place(places: npt.NDArray[Any], most: int) -> Int64 | None:
    """Return the stable order of places; None where they are in order.

    Args:
        places: 0 up to ``most``, shape (n,).
        most: the greatest that may occur.
    """
    if (places[1:] >= places[:-1]).all():
        return None
    # NumPy sorts small integers by radix.
    small = places.astype(np.uint16) if most <= np.iinfo(np.uint16).max else places
    return np.argsort(small, kind="stable").astype(np.int64, copy=False)
