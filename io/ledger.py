"""The ledger: which version of which raw file was landed in which bronze table, and how known files rank."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fibflow.io.datafiles import DataFile
from fibflow.io.files import RawFile
from fibflow.io.lake import LakeTable, RebaseNeeded, Scope
from fibflow.io.snapshot import read_files
from fibflow.io.storage import LakeError, Storage
from fibflow.transforms.schemas import LEDGER

Int64 = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]
Bool = npt.NDArray[np.bool_]

#: A table's files with fewer rows are merged when a partition has more of them than ``MOST_SMALL_FILES``.
SMALL_FILE_ROWS = 131_072
MOST_SMALL_FILES = 8
#: The rank of a file that is not known: below all others.
UNKNOWN = -1

_ATTEMPTS = 20
_CATALOG = "known-files.arrow"


def source_of(path: str) -> int:
    """Return the id of a file: positive, the same in every process and release."""
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:8]) >> 1


def sources_of(files: Iterable[RawFile]) -> Int64:
    """Return the id of each file, shape (files,)."""
    return np.fromiter((source_of(file.path) for file in files), np.int64)


def read_ledger(ledger: LakeTable, table: str) -> pa.Table:
    """Return the entries of a bronze table (LEDGER), one a file; none where there is no ledger yet."""
    if not ledger.exists:
        return LEDGER.empty_table()
    entries, _ = ledger.snapshot().read(where={"table": table})
    if pc.count_distinct(entries["source"]).as_py() < len(entries):
        # Two loads at once may both have landed a file.
        entries = entries.sort_by([("landed", "descending"), ("modified", "descending")])
        _, first = np.unique(_integers(entries["source"]), return_index=True)
        entries = entries.take(pa.array(np.sort(first)))
    return entries


@dataclass(frozen=True)
class Changes:
    """An input's files, by what the ledger knows of them. ``partly`` was landed for some symbols only."""

    new: list[RawFile]
    changed: list[RawFile]
    partly: list[RawFile]
    unchanged: list[RawFile]

    @property
    def to_land(self) -> list[RawFile]:
        """The files that have to be read."""
        return [*self.new, *self.changed, *self.partly]


def changes_of(files: Sequence[RawFile], entries: pa.Table) -> Changes:
    """Compare files with the ledger: one is unchanged when path, size and modification time are equal."""
    known = dict(
        zip(
            entries["source"].to_pylist(),
            zip(
                entries["size"].to_pylist(),
                entries["modified"].cast(pa.int64()).to_pylist(),
                entries["rows"].is_valid().to_pylist(),
                strict=True,
            ),
            strict=True,
        )
    )
    found = Changes([], [], [], [])
    for file in files:
        entry = known.get(source_of(file.path))
        if entry is None:
            found.new.append(file)
        elif entry[:2] != (file.size, file.modified):
            found.changed.append(file)
        else:
            (found.unchanged if entry[2] else found.partly).append(file)
    return found


def entries_of(files: Sequence[RawFile], rows: Sequence[int | None], table: str, landed: int) -> pa.Table:
    """Return ledger entries (LEDGER) of landed files; None for the rows of a file that was landed in part."""
    n = len(files)
    return pa.table(
        [
            pa.array(sources_of(files)),
            pa.array([table] * n, pa.string()),
            pa.array([file.path for file in files], pa.string()),
            pa.array([file.size for file in files], pa.int64()),
            pa.array([file.modified for file in files], pa.int64()).cast(LEDGER.field("modified").type),
            pa.array([file.is_daily_file for file in files], pa.bool_()),
            pa.array(list(rows), pa.int64()),
            pa.array(np.full(n, landed, np.int32)),
        ],
        schema=LEDGER,
    )


def record(ledger: LakeTable, entries: pa.Table, run: str, replace: str | None = None) -> int:
    """Commit entries over those of the same files, and return the version.

    Args:
        ledger: the table.
        entries: LEDGER; each file once.
        run: the run's id.
        replace: a bronze table whose other entries go.

    Raises:
        LakeError: where the ledger cannot be written.
    """
    for attempt in range(_ATTEMPTS):
        snapshot = ledger.snapshot() if ledger.exists else None
        stored: list[tuple[DataFile, pa.Table]] = []
        for file in snapshot.select() if snapshot else ():
            rows, _ = read_files(ledger.storage, ledger.spec, [file])
            stored.append((file, rows))
        small = sum(len(rows) < SMALL_FILE_ROWS for _, rows in stored) + 1 > MOST_SMALL_FILES
        kept, removed = [entries], []
        for file, rows in stored:
            outdated = _outdated(rows, entries, replace)
            if outdated.any() or (small and len(rows) < SMALL_FILE_ROWS):
                kept.append(rows.filter(pa.array(~outdated)))
                removed.append(file)
        merged = pa.concat_tables(kept).sort_by("path")
        added = [ledger.writer().write(merged, {}, f"{run}-{attempt}")] if len(merged) else []
        try:
            return ledger.commit(
                added,
                removed,
                base_version=snapshot.version if snapshot else -1,
                scope=Scope(symbols=()),
                run=run,
                operation="MERGE",
            )
        except RebaseNeeded:
            continue
    raise LakeError("bronze.ledger is written to too often to commit: run again")


def _outdated(rows: pa.Table, entries: pa.Table, replace: str | None) -> Bool:
    of_table = pc.is_in(rows["table"], value_set=entries["table"].unique())
    mask = np.isin(_integers(rows["source"]), _integers(entries["source"])) & of_table.to_numpy()
    if replace is None:
        return mask
    return mask | pc.is_in(rows["table"], value_set=pa.array([replace])).to_numpy()


def _integers(column: pa.ChunkedArray) -> Any:
    return column.combine_chunks().to_numpy(zero_copy_only=False)


@dataclass
class KnownFiles:
    """All files that rows may come from, this run's and the ledger's, in order of precedence, weakest first.

    Workers read the list from ``staging``. A file's place in it is its *rank*.
    """

    staging: Storage

    def stage(self, files: Sequence[RawFile], entries: pa.Table, changed: Iterable[RawFile]) -> None:
        """Write the list.

        Args:
            files: this run's, in order of precedence.
            entries: the ledger's.
            changed: the files of this run that the ledger knows in another version.
        """
        own = entries_of(files, [None] * len(files), "", 0)
        sources = _integers(own["source"])
        others = entries.filter(pa.array(~np.isin(_integers(entries["source"]), sources)))
        place = np.concatenate((np.arange(len(own), dtype=np.int32), np.full(len(others), -1, np.int32)))
        both = pa.concat_tables([own, others]).select(["is_daily_file", "modified", "path", "source"])
        both = both.append_column("place", pa.array(place))
        is_changed = np.isin(_integers(both["source"]), sources_of(changed))
        both = both.append_column("changed", pa.array(is_changed))
        both = both.sort_by([(name, "ascending") for name in ("is_daily_file", "modified", "path")])
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, both.schema) as writer:
            writer.write_table(both)
        self.staging.write(_CATALOG, sink.getvalue().to_pybytes())

    def __getstate__(self) -> dict[str, Any]:
        return {"staging": self.staging}

    @cached_property
    def _table(self) -> pa.Table:
        content = self.staging.read(_CATALOG)
        if content is None:
            raise LakeError(f"{self.staging.uri} holds no list of files: give workers the same staging place")
        return pa.ipc.open_file(pa.BufferReader(content)).read_all()

    @cached_property
    def sources(self) -> Int64:
        """The id of each file, by rank."""
        return _integers(self._table["source"])

    @cached_property
    def changed(self) -> Bool:
        """Whether this run brings another version of the file, by rank."""
        return _integers(self._table["changed"])

    @cached_property
    def ranks(self) -> Int32:
        """The rank of each of this run's files, by its place among them."""
        places = _integers(self._table["place"])
        ranks = np.flatnonzero(places >= 0).astype(np.int32)
        return ranks[np.argsort(places[ranks], kind="stable")]

    @cached_property
    def _order(self) -> npt.NDArray[np.intp]:
        return np.argsort(self.sources, kind="stable")

    def rank_of(self, sources: Int64) -> Int32:
        """Return the rank of the file with each id, ``UNKNOWN`` where there is none; shape (n,)."""
        if not len(self.sources):
            return np.full(len(sources), UNKNOWN, np.int32)
        ordered = self.sources[self._order]
        at = np.minimum(np.searchsorted(ordered, sources), len(ordered) - 1)
        return np.where(ordered[at] == sources, self._order[at], UNKNOWN).astype(np.int32)

    def paths(self, ranks: Int32) -> list[str]:
        """Return the files' paths; ``UNKNOWN`` gives an empty text."""
        found = self._table["path"].take(pa.array(np.maximum(ranks, 0))).to_pylist() if len(ranks) else []
        return [
            str(path) if rank != UNKNOWN else "" for rank, path in zip(ranks.tolist(), found, strict=True)
        ]
