"""What the vendor says now against what is held: which rows of a session differ."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from fibflow.io.vendor.files import SESSION_ROWS

# The stubs know too few types of columns.
pc: Any = pyarrow.compute

#: The change of a row that the vendor gives no more, and that is kept.
WITHDRAWN = "withdrawn"
_VALUES = SESSION_ROWS.names[2:]
_SIDES: list[Any] = [
    SESSION_ROWS.field(name).with_name(f"{side}_{name}") for name in _VALUES for side in ("old", "new")
]

#: Rows of history that a run changed. ``change`` is ``corrected``; ``new``, a row that came to a session that
#: was held; ``filled``, one that closed a symbol's hole; or ``withdrawn``, one that the vendor gives no more
#: and that is kept.
CHANGES = pa.schema(
    [
        pa.field("session", pa.date32()),
        pa.field("symbol", pa.string()),
        pa.field("change", pa.string()),
        *_SIDES,
    ]
)


def compared(old: pa.Table, new: pa.Table) -> pa.Table:
    """Return what differs between a session's rows, CHANGES, by symbol.

    Args:
        old: SESSION_ROWS, each symbol once.
        new: likewise.
    """
    at: Any = pc.index_in(new["symbol"], value_set=old["symbol"].combine_chunks())
    back: Any = pc.index_in(old["symbol"], value_set=new["symbol"].combine_chunks())
    known = np.asarray(at.is_valid())
    before = old.take(at.filter(pa.array(known)))
    after = new.filter(pa.array(known))
    differs = ~_same(before, after)
    gone = old.filter(back.is_null())
    parts = [
        _changes("corrected", before.filter(pa.array(differs)), after.filter(pa.array(differs))),
        _changes("new", None, new.filter(pa.array(~known))),
        _changes(WITHDRAWN, gone, None),
    ]
    return pa.concat_tables(parts).sort_by("symbol")


def filled(rows: pa.Table) -> pa.Table:
    """Return rows that closed holes, SESSION_ROWS, as CHANGES."""
    return _changes("filled", None, rows)


def with_kept(old: pa.Table, new: pa.Table) -> pa.Table:
    """Return the new rows of a session, and of the old ones those that the new ones lack; by symbol."""
    back: Any = pc.index_in(old["symbol"], value_set=new["symbol"].combine_chunks())
    return pa.concat_tables([new, old.filter(back.is_null())]).sort_by("symbol")


def _changes(change: str, old: pa.Table | None, new: pa.Table | None) -> pa.Table:
    keys: Any = old if new is None else new
    count = len(keys)
    columns: list[Any] = [keys["session"], keys["symbol"], pa.array([change] * count, pa.string())]
    for field in _SIDES:
        side, _, name = field.name.partition("_")
        rows = old if side == "old" else new
        columns.append(pa.nulls(count, field.type) if rows is None else rows[name])
    return pa.table(columns, schema=CHANGES)


def _same(a: pa.Table, b: pa.Table) -> Any:
    same = np.ones(len(a), np.bool_)
    for name in _VALUES:
        x, y = a[name], b[name]
        both_null = np.asarray(pc.and_(x.is_null(), y.is_null()))
        same &= both_null | np.asarray(pc.equal(x, y).fill_null(False))
    return same
