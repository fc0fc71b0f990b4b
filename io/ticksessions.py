"""Which sessions an archived stream holds, when each changed last, and how far its bars are final."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fibflow.io import tables
from fibflow.io.rowfilter import Filter
from fibflow.io.snapshot import Snapshot, read_files
from fibflow.io.tickcolumns import MINUTE, TRADE
from fibflow.transforms.calendar import TradingCalendar

TRADES, MINUTES = "trades", "minutes"
#: What ``bronze.ticks`` calls the messages of a feed.
KIND_OF = {TRADES: TRADE, MINUTES: MINUTE}


def changed_at(ticks: Snapshot, feed: str, calendar: TradingCalendar) -> dict[int, int]:
    """Return when a message of each session may have come last: milliseconds since 1970, by position.

    The times are those of files, which are an exact order: what comes later is greater, and merging files
    changes nothing (ADR 0006).
    """
    chosen = {file.path for file in ticks.select(where={"kind": KIND_OF[feed]})}
    if not chosen:
        return {}
    found: dict[int, int] = {}
    firsts, lasts = (_instants(ticks, f"{side}.ts") for side in ("min", "max"))
    first = np.searchsorted(calendar.day_ends, firsts, side="right").tolist()
    last = (np.searchsorted(calendar.day_starts, lasts, side="right") - 1).tolist()
    paths = ticks.unquoted_paths
    modified: list[Any] = ticks.files["modification_time"].to_pylist()
    for path, low, high, stamp in zip(paths, first, last, modified, strict=True):
        if path in chosen:
            for position in range(low, high + 1):
                found[position] = max(found.get(position, 0), stamp)
    return found


def _instants(snapshot: Snapshot, name: str) -> Any:
    return snapshot.files[name].cast(pa.int64()).to_numpy()


def feeds_of(messages: Snapshot) -> set[str]:
    """Return which feeds have messages in ``bronze.ticks`` or in ``late``."""
    found: set[str] = set()
    for feed, kind in KIND_OF.items():
        condition = Filter.of(messages.spec, where={"kind": kind})
        for file in messages.select(where={"kind": kind}):
            if len(read_files(messages.storage, messages.spec, [file], ["kind"], condition)[0]):
                found.add(feed)
                break
    return found


def final_until(live: Snapshot) -> int | None:
    """Return the end of the newest bar that the stream calls final, UTC microseconds; None for none.

    Files are opened from the newest end on: only the last minutes of a stream hold bars that are not final.
    """
    ends = dict(zip(live.unquoted_paths, _instants(live, "max.end").tolist(), strict=True))
    newest: int | None = None
    for file in sorted(live.select(), key=lambda file: ends[file.path], reverse=True):
        if newest is not None and ends[file.path] <= newest:
            break
        rows, _ = read_files(live.storage, live.spec, [file], ["end"], _FINAL)
        end: Any = pc.max(rows["end"].cast(pa.int64())).as_py()
        newest = end if newest is None or (end is not None and end > newest) else newest
    return newest


_FINAL = Filter.of(tables.LIVE, where={"final": True})


def held(minutes: Snapshot | None, positions: Iterable[int], calendar: TradingCalendar) -> frozenset[int]:
    """Return which sessions ``bronze.minutes`` has rows of, among some positions."""
    if minutes is None:
        return frozenset()
    found = set()
    for position in positions:
        bounds = int(calendar.day_starts[position]), int(calendar.day_ends[position])
        condition = Filter.of(minutes.spec, None, *bounds)
        for file in minutes.select(None, *bounds):
            if len(read_files(minutes.storage, minutes.spec, [file], ["ts"], condition)[0]):
                found.add(position)
                break
    return frozenset(found)
