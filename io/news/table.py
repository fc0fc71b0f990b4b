"""Writing ``reference.news``: each article once, as it was told last.

A call's articles come in one commit. Files of a month are merged as they come: one with those that are not
larger, so that a month has as many files as its number of articles has binary digits at most, and each row is
written anew as often at most. A changed article's file is written anew without it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from fibflow.io.datafiles import DataFile
from fibflow.io.lake import Lake, LakeTable, RebaseNeeded, Scope
from fibflow.io.news.articles import micros, us_of
from fibflow.io.news.files import Int64, digests, of_each, rows_at, whole
from fibflow.io.reference import same_values
from fibflow.io.snapshot import Snapshot
from fibflow.io.storage import LakeError
from fibflow.io.tables import NEWS, NEWS_PERIOD, split_by
from fibflow.transforms.partials import as_arrow
from fibflow.transforms.schemas import ARTICLES, TIMESTAMP

# The stubs know too few types of columns.
pc: Any = pyarrow.compute

_ATTEMPTS = 20
#: The property of the table that says from when on it has the vendor's history.
_SINCE = "fibflow.news_since"
_DAY_US = 86_400_000_000
_STORED = NEWS.file_schema.names
#: Larger files are not merged with others.
_LARGEST = 32_768


@dataclass(frozen=True)
class Written:
    """What a call did to articles by id, and the table's version after it.

    Attributes:
        new: articles that came.
        late: of these, those that are older than the newest of before.
        changed: articles that are told another way now.
        unchanged: articles that are as they were.
        version: of the table.
    """

    new: int = 0
    late: int = 0
    changed: int = 0
    unchanged: int = 0
    version: int = -1

    def __add__(self, other: Written) -> Written:
        return Written(
            self.new + other.new,
            self.late + other.late,
            self.changed + other.changed,
            self.unchanged + other.unchanged,
            other.version,
        )


@dataclass
class NewsTable:
    """The table of a lake, for one writer at a time. Keeps a number for each id: reads those of a file once.

    Attributes:
        lake: of the table.
    """

    lake: Lake
    _ids: dict[str, npt.NDArray[np.uint64]] = field(default_factory=dict, repr=False)

    @property
    def table(self) -> LakeTable:
        """The table, there or not."""
        return self.lake.table(NEWS)

    def newest(self) -> int | None:
        """Return when the newest article was published, UTC microseconds; None where there is none.

        Raises:
            LakeError: the table cannot be read.
        """
        return _greatest(_snapshot(self.table), "max.published")

    @property
    def since(self) -> date | None:
        """The date from which on the vendor's history was asked for; None where it never was.

        Raises:
            LakeError: the table cannot be read.
        """
        text = self.table.properties.get(_SINCE)
        return None if text is None else date.fromisoformat(text)

    def has_since(self, first: date, run: str) -> None:
        """Keep that history was asked for from a date on.

        Raises:
            LakeError: the table cannot be written.
        """
        table = self.table
        if table.exists:
            facts = {_SINCE: first.isoformat()}
            table.commit(base_version=table.version, scope=Scope(symbols=()), run=run, properties=facts)

    def write(self, rows: pa.Table, run: str) -> Written:
        """Bring the table up to date with articles. A second call does nothing.

        Args:
            rows: of ``schemas.ARTICLES``, each id once.
            run: the run's id.

        Raises:
            LakeError: the table cannot be read or written.
        """
        table = self.table
        rows = rows.select(ARTICLES.names).combine_chunks()
        for attempt in range(_ATTEMPTS):
            snapshot = _snapshot(table)
            files = snapshot.select()
            self._learn(table, files)
            held, of_file, places = self._held(table, files, rows["id"])
            at: Any = pc.index_in(rows["id"], value_set=held["id"].combine_chunks())
            known = np.asarray(at.is_valid())
            before = held.take(at)
            same = same_values(rows["article"], before["article"]) & known
            newest = _greatest(snapshot, "max.published") or -1
            came = ~known
            late = came & (micros(rows["published"]) < newest)
            changed = known & ~same
            counted: Any = (*(int(mask.sum()) for mask in (came, late, changed, same)), snapshot.version)
            done = Written(*counted)
            if same.all():
                return done
            fresh = self._stamped(table, rows, before, known, snapshot).filter(as_arrow(~same))
            replaced = np.asarray(at.fill_null(0))[changed]
            survivors, removed = _taken(table, files, of_file[replaced], places[replaced])
            added, merged = _merged(table, snapshot, fresh, survivors, removed, f"{run}-{attempt}")
            try:
                version = table.commit(
                    added,
                    [*removed, *merged],
                    base_version=snapshot.version,
                    scope=Scope(),
                    run=run,
                    operation="MERGE",
                    exact=True,
                )
            except RebaseNeeded:
                continue
            return replace(done, version=version)
        raise LakeError(f"{NEWS.name} is written to too often to commit: run again")

    def _learn(self, table: LakeTable, files: list[DataFile]) -> None:
        """Read the ids of files that are new, and forget those of files that are gone."""
        self._ids = {file.path: self._ids[file.path] for file in files if file.path in self._ids}
        new = [file for file in files if file.path not in self._ids]
        found = of_each(table.storage, new, lambda file: digests(whole(table.storage, file, ["id"])[0]["id"]))
        self._ids |= dict(zip((file.path for file in new), found, strict=True))

    def _held(self, table: LakeTable, files: list[DataFile], ids: Any) -> tuple[pa.Table, Int64, Int64]:
        """Return the rows that have one of some ids, and of each its file's number and its place in it."""
        wanted = np.sort(digests(ids))
        hits: list[tuple[int, Int64]] = []
        for number, file in enumerate(files):
            own = self._ids[file.path]
            at = np.searchsorted(wanted, own)
            places = np.flatnonzero(wanted[np.minimum(at, len(wanted) - 1)] == own) if len(wanted) else at[:0]
            if len(places):
                hits.append((number, places.astype(np.int64)))
        parts = of_each(table.storage, hits, lambda hit: rows_at(table.storage, files[hit[0]], hit[1]))
        held = pa.concat_tables([NEWS.file_schema.empty_table(), *parts])
        nothing = np.zeros(0, np.int64)
        of_file = np.concatenate([nothing, *(np.full(len(places), number) for number, places in hits)])
        places = np.concatenate([nothing, *(places for _, places in hits)])
        # Two ids may have one number.
        exact = np.asarray(pc.is_in(held["id"].combine_chunks(), value_set=ids.combine_chunks()))
        return held.filter(as_arrow(exact)), of_file[exact], places[exact]

    def _stamped(
        self,
        table: LakeTable,
        rows: pa.Table,
        before: pa.Table,
        known: npt.NDArray[np.bool_],
        snapshot: Snapshot,
    ) -> pa.Table:
        """Return rows as they are stored; ``before`` has those that they replace, or nulls."""
        last = _greatest(snapshot, "max.updated")
        # Each has its own, above all that were: who has read up to one has seen all before.
        first = max(us_of(table.clock()), 0 if last is None else last + 1)
        updated = as_arrow(first + np.arange(len(rows))).cast(TIMESTAMP)
        revisions = pc.add(pc.fill_null(before["revision"], -1), as_arrow(np.ones(len(rows), np.int32)))
        stored = {
            **{name: rows[name] for name in ARTICLES.names},
            "revision": pc.if_else(as_arrow(known), revisions, pa.scalar(0, pa.int32())),
            "seen": pc.coalesce(before["seen"], updated),
            "updated": updated,
        }
        return pa.table([stored[name] for name in _STORED], schema=NEWS.file_schema)


def _snapshot(table: LakeTable) -> Snapshot:
    return table.snapshot() if table.exists else Snapshot.empty(table.storage, NEWS)


def _greatest(snapshot: Snapshot, bound: str) -> int | None:
    if not len(snapshot):
        return None
    found: Any = pc.max(snapshot.files[bound].cast(TIMESTAMP)).cast(pa.int64()).as_py()
    return None if found is None else int(found)


def _taken(
    table: LakeTable, files: list[DataFile], of_file: Int64, places: Int64
) -> tuple[list[pa.Table], list[DataFile]]:
    """Return the files that hold rows which are replaced, and what else they hold."""
    survivors, removed = [], []
    for number in np.unique(of_file).tolist():
        file = files[number]
        rows, _ = whole(table.storage, file, _STORED)
        keep = np.ones(len(rows), np.bool_)
        keep[places[of_file == number]] = False
        survivors.append(rows.filter(as_arrow(keep)))
        removed.append(file)
    return survivors, removed


def _merged(
    table: LakeTable,
    snapshot: Snapshot,
    fresh: pa.Table,
    survivors: list[pa.Table],
    removed: list[DataFile],
    name: str,
) -> tuple[list[DataFile], list[DataFile]]:
    """Write new files, one a month, and return them with those that they were merged with."""
    rows = pa.concat_tables([fresh, *survivors])
    days = micros(rows["published"]) // _DAY_US
    gone = {file.path for file in removed}
    added: list[DataFile] = []
    merged: list[DataFile] = []
    for period, mask in split_by(NEWS_PERIOD.names(days)):
        part = rows if mask is None else rows.filter(as_arrow(mask))
        others = [file for file in snapshot.select(where={"period": period}) if file.path not in gone]
        parts = [part]
        count = len(part)
        for file in sorted(others, key=lambda other: (other.rows, other.path)):
            if file.rows > min(count, _LARGEST):
                break
            parts.append(whole(table.storage, file, _STORED)[0])
            merged.append(file)
            count += file.rows
        ordered = pa.concat_tables(parts).sort_by([(column, "ascending") for column in NEWS.sort_by])
        added.append(
            table.writer().write(ordered.combine_chunks(), {"period": period}, f"news-{name}-{period}")
        )
    return added, merged
