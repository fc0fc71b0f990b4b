"""One update of reference data: a table brought up to date, and the history with it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from fibflow.io.datafiles import TableSpec
from fibflow.io.lake import Lake
from fibflow.io.reference import Upserted, upsert
from fibflow.io.referenceasked import note_asked
from fibflow.io.referencechanges import record

# The stubs know too few types of columns.
pc: Any = pyarrow.compute

Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Given:
    """Rows for one table.

    Attributes:
        spec: of the table.
        rows: as ``reference.upsert`` takes them.
        since: the first day of which they hold all rows; None where they are not all of any time.
        symbols: the only ones that were asked for; None for all.
        until: the day up to which, with these rows, all of the symbols are known; None where nothing says so.
    """

    spec: TableSpec
    rows: pa.Table
    since: date | None = None
    symbols: frozenset[str] | None = None
    until: date | None = None

    def whole(self, stored: pa.Table) -> Bool:
        """Say which stored rows would be among ``rows`` if they still held."""
        if self.since is None or not len(self.rows):
            # An answer without any row is no proof.
            return np.zeros(len(stored), np.bool_)
        mask: Any = pc.greater_equal(stored[str(self.spec.time_column)], self.since)
        if self.symbols is not None:
            mask = pc.and_(mask, pc.is_in(stored["symbol"], value_set=pa.array(sorted(self.symbols))))
        return np.asarray(mask)


@dataclass(frozen=True)
class Updated:
    """What an update did.

    Attributes:
        spec: of the table.
        rows: counts, and the table's version after it.
        changes: what came into the history: of this run, and of one that died before it wrote its own.
    """

    spec: TableSpec
    rows: Upserted
    changes: pa.Table


def update(lake: Lake, given: Given, run: str) -> Updated:
    """Bring a table up to date and append what changed to ``reference.changes``; again, it does nothing.

    Killed between the two, the next update writes what is missing of the history.

    Raises:
        LakeError: the lake cannot be read or written.
    """
    missed = record(lake, given.spec, run)
    done = upsert(lake.table(given.spec), given.rows, run, given.whole)
    if given.until is not None:
        note_asked(lake, given.spec, given.symbols, given.until)
    return Updated(given.spec, done, pa.concat_tables([missed, record(lake, given.spec, run)]))
