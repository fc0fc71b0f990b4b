"""What official history changed for readers: bars before against bars after, and why they differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fibflow.io.merge import equal_content, instants, match
from fibflow.transforms.calendar import TradingCalendar
from fibflow.transforms.partials import as_arrow, encode_symbols
from fibflow.transforms.schemas import RECONCILIATION

Bool = npt.NDArray[np.bool_]
Index = npt.NDArray[np.intp]

MISSING, SURPLUS, DIFFERENT = "missing", "surplus", "different"
#: Reasons that are found in the window itself, in the order in which they are named.
LATE, CANCELLED, CORRECTED = "late", "cancelled", "corrected"
OFFICIAL, NOT_COVERED, UNEXPLAINED = "official", "not_covered", "unexplained"

_VALUES = ("open", "high", "low", "close", "volume", "vwap", "trade_count")
_COMPARED = ("end", "sessions", *_VALUES)
_TIME_BITS = 40


def differences(old: pa.Table, new: pa.Table, calendar: TradingCalendar) -> pa.Table:
    """Return what differs between bars of one timeframe, as rows of ``RECONCILIATION``.

    ``run`` and ``why`` are null. Flags and revisions are not compared: a stream counts its own.

    Args:
        old: bars as readers saw them, each key once.
        new: as they see them now.
        calendar: of the bars.
    """
    found, at = match(new, old)
    same = np.zeros(len(new), np.bool_)
    same[found] = equal_content(new.take(as_arrow(found)), old.take(as_arrow(at[found])), _COMPARED)
    gone = np.ones(len(old), np.bool_)
    gone[at[found]] = False
    of_new = np.concatenate((np.flatnonzero(~same), np.full(int(gone.sum()), -1, np.intp)))
    of_old = np.concatenate((at[~same], np.flatnonzero(gone)))
    before, after = _take(old, of_old), _take(new, of_new)
    key = {name: pc.coalesce(after[name], before[name]) for name in ("symbol", "timeframe", "ts", "end")}
    change = np.where(of_old < 0, MISSING, np.where(of_new < 0, SURPLUS, DIFFERENT))
    position = calendar.positions_at(instants(key["ts"]))
    columns: dict[str, Any] = {
        **key,
        "session": as_arrow(calendar.days[position]).cast(pa.date32()),
        "change": as_arrow(change),
    }
    for name in _VALUES:
        columns |= {f"old_{name}": before[name], f"new_{name}": after[name]}
    arrays = [
        columns[field.name].cast(field.type) if field.name in columns else pa.nulls(len(of_new), field.type)
        for field in RECONCILIATION
    ]
    return pa.Table.from_arrays(arrays, schema=RECONCILIATION)


def _take(bars: pa.Table, places: Index) -> pa.Table:
    """Return bars at places, nulls where a place is -1."""
    return bars.take(as_arrow(places, mask=places < 0))


def with_reasons(rows: pa.Table, reasons: Mapping[str, Bool], otherwise: npt.NDArray[Any]) -> pa.Table:
    """Return differences with their reasons: those that hold, joined by commas, else that of ``otherwise``.

    Args:
        rows: of ``RECONCILIATION``.
        reasons: by name in the order in which they are named, which rows each holds of; shape (n,) each.
        otherwise: a name for each row, shape (n,).
    """
    why: npt.NDArray[Any] = np.full(len(rows), "", object)
    for name, holds in reasons.items():
        why = np.where(holds, np.where(why == "", name, why + f",{name}"), why)
    at = rows.schema.get_field_index("why")
    return rows.set_column(at, rows.schema.field(at), as_arrow(np.where(why == "", otherwise, why)))


def holding(rows: pa.Table, events: pa.Table) -> Bool:
    """Return which differences have an event of their symbol in their window, shape (n,).

    Args:
        rows: of ``RECONCILIATION``, of a few sessions.
        events: with ``symbol`` and ``ts``.
    """
    if not len(rows) or not len(events):
        return np.zeros(len(rows), np.bool_)
    chunks: list[Any] = [*rows["symbol"].chunks, *events["symbol"].chunks]
    _, codes = encode_symbols(pa.chunked_array(chunks))
    starts, ends = instants(rows["ts"]), instants(rows["end"])
    base = int(starts.min())
    own, other = codes[: len(rows)].astype(np.int64), codes[len(rows) :].astype(np.int64)
    # What lies before or after all windows may not look like another symbol's.
    times = np.clip(instants(events["ts"]) - base, -1, (1 << _TIME_BITS) - 2)
    keys = np.sort((other << _TIME_BITS) + times + 1)
    first = np.searchsorted(keys, (own << _TIME_BITS) + starts - base + 1)
    stop = np.searchsorted(keys, (own << _TIME_BITS) + ends - base + 1)
    return stop > first
