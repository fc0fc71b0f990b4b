"""Official history on its way to live bars: elements that hold the days of a bucket's symbols.

An element is a table of DAILY_ROWS that says in its schema's metadata what it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from fibflow.transforms.buckets import buckets_of
from fibflow.transforms.partials import as_arrow
from fibflow.transforms.schemas import DAILY_ROWS

_KEY = b"fibflow.history"


@dataclass(frozen=True)
class Note:
    """What an element of history says of itself; dates are days since 1970.

    Attributes:
        version: of the table that the rows come from: of two rows of a (symbol, session) the greater counts.
        through: the last session of history when the job began: ticks make the days after it.
        since: these are all rows of history from this session on; None: some that are new or changed.
        official: False for days that ticks made, which an earlier job has published.
    """

    version: int
    through: int
    since: int | None = None
    official: bool = True


def with_note(rows: pa.Table, note: Note) -> pa.Table:
    """Return rows (DAILY_ROWS, a (symbol, session) once) as an element."""
    return rows.cast(DAILY_ROWS).replace_schema_metadata({_KEY: json.dumps(asdict(note)).encode()})


def note_of(rows: pa.Table) -> Note | None:
    """Return what an element says of itself; None where it is none of history."""
    told = (rows.schema.metadata or {}).get(_KEY)
    return None if told is None else Note(**json.loads(told))


def split_history(rows: pa.Table, note: Note, buckets: int) -> Iterator[tuple[int, pa.Table]]:
    """Yield (bucket, element): one for each bucket of the rows, for every bucket where they are all rows.

    Args:
        rows: DAILY_ROWS.
        note: what they are.
        buckets: how many there are.
    """
    own = buckets_of(rows["symbol"], buckets)
    order = np.argsort(own, kind="stable")
    bounds = np.searchsorted(own[order], np.arange(buckets + 1)).tolist()
    sorted_rows: Any = rows.take(as_arrow(order))
    for bucket in range(buckets):
        first, stop = bounds[bucket], bounds[bucket + 1]
        if stop > first or note.since is not None:
            yield bucket, with_note(_compact(sorted_rows.slice(first, stop - first)), note)


def _compact(rows: pa.Table) -> pa.Table:
    """Return rows whose dictionary holds no other symbols."""
    symbols: Any = rows["symbol"].cast(pa.string()).dictionary_encode()
    return rows.set_column(rows.schema.get_field_index("symbol"), "symbol", symbols)
