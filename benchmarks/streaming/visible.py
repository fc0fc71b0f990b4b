"""When each trade became visible: what was sent, against what a reader of the live store saw. Pure.

A trade is visible in its symbol's last price when the price shown is its own or of a later trade, and in its
symbol's one-minute bar when that bar counts at least as many trades as there were up to it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MINUTE_US = 60_000_000
PARTS = (50.0, 90.0, 99.0, 100.0)


def prices_visible(ts: Ints, symbol: Ints, seen_at: Floats, seen_symbol: Ints, seen_ts: Ints) -> Floats:
    """Return when each trade's symbol showed it or a later one, shape (trades,); NaN for never.

    Args:
        ts, symbol: of trades, shape (trades,).
        seen_at: when a price was seen, seconds, rising; shape (prices,).
        seen_symbol, seen_ts: what was seen.
    """
    return _first_at_least(symbol, ts, seen_symbol, seen_ts, seen_at)


def bars_visible(
    ts: Ints, symbol: Ints, seen_at: Floats, seen_symbol: Ints, seen_minute: Ints, seen_count: Ints
) -> Floats:
    """Return when each trade was in the one-minute bar of its symbol, shape (trades,); NaN for never.

    Args:
        ts, symbol: of trades in the order of their symbol's numbers, shape (trades,).
        seen_at: when a bar was seen, seconds, rising; shape (bars,).
        seen_symbol, seen_minute, seen_count: its symbol, start and number of trades.
    """
    minute = ts // MINUTE_US
    both = np.concatenate((minute, seen_minute // MINUTE_US))
    base = int(both.min(initial=0)) if len(both) else 0
    span = int(both.max(initial=0)) - base + 1
    group, seen_group = (
        symbol * span + (minute - base),
        seen_symbol * span + (seen_minute // MINUTE_US - base),
    )
    order = np.lexsort((np.arange(len(ts)), group))
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    number = np.empty(len(ts), np.int64)
    number[order] = np.arange(len(ts)) - np.repeat(starts, np.diff(starts, append=len(ts))) + 1
    return _first_at_least(group, number, seen_group, seen_count, seen_at)


def _first_at_least(group: Ints, value: Ints, seen_group: Ints, seen_value: Ints, seen_at: Floats) -> Floats:
    """Return when the first thing of a group was seen whose value is as great, shape (n,); NaN for never."""
    if not len(seen_at):
        return np.full(len(group), np.nan)
    order = np.lexsort((seen_at, seen_group))
    seen_group, seen_value, seen_at = seen_group[order], seen_value[order], seen_at[order]
    starts = np.flatnonzero(np.diff(seen_group, prepend=seen_group[0] - 1))
    stops = np.append(starts[1:], len(seen_group))
    # What is shown never goes back: a later, smaller value would not hide what was seen before it.
    top = seen_value.copy()
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        np.maximum.accumulate(top[start:stop], out=top[start:stop])
    both = np.concatenate((value, top))
    low = int(both.min())
    width = int(both.max()) - low + 1
    groups, ranks = np.unique(np.concatenate((group, seen_group)), return_inverse=True)
    if len(groups) > np.iinfo(np.int64).max // width:
        raise ValueError(f"{len(groups)} groups of values {width} apart: more than 64 bits tell apart")
    rank, seen_rank = ranks[: len(group)], ranks[len(group) :]
    key = rank * width + (value - low)
    place = np.searchsorted(seen_rank * width + (top - low), key)
    inside = place < len(seen_at)
    found = np.full(len(group), np.nan)
    at = place[inside]
    same = seen_rank[at] == rank[inside]
    found[np.flatnonzero(inside)[same]] = seen_at[at[same]]
    return found


def percentiles(values: Floats, parts: tuple[float, ...] = PARTS) -> dict[str, float]:
    """Return percentiles by name, ``p50`` and so on: each is a value that is there, the nearest rank.

    NaN stands for never, and makes those percentiles NaN that it reaches; none at all are NaN.
    """
    ordered = np.sort(values)  # NaN go last
    if not len(ordered):
        return {f"p{part:g}": float("nan") for part in parts}
    ranks = [max(1, int(np.ceil(part / 100 * len(ordered)))) for part in parts]
    return {f"p{part:g}": float(ordered[rank - 1]) for part, rank in zip(parts, ranks, strict=True)}
