"""Upkeep of a lake table: small files merged, and files that no reader can reach deleted."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake.exceptions import DeltaError
from pyarrow import fs as pafs

from fibflow.io.datafiles import DataFile, TableSpec
from fibflow.io.deltalog import LOG, Scope
from fibflow.io.lake import LakeTable, RebaseNeeded
from fibflow.io.snapshot import Snapshot, read_files
from fibflow.io.storage import LakeError
from fibflow.io.streamtables import KEPT, STREAM, StreamJob
from fibflow.io.takeback import COMPACTED, COMPACTED_UNTIL, number_of

RETENTION_HOURS = 30 * 24
#: How long a stream's files stay apart, so that a job that goes back to a savepoint can take them back.
KEEP_APART = timedelta(hours=24)
#: Which of the rows that one commit has of a key stays: the greatest.
_DECIDE = ("revision", "final")
_ATTEMPTS = 5


@dataclass(frozen=True)
class CompactionReport:
    """What a compaction did, or would do when ``version`` is None and ``files_before`` is not 0."""

    partitions: int
    files_before: int
    files_after: int
    rows: int
    bytes_before: int
    version: int | None


@dataclass(frozen=True)
class VacuumReport:
    """The files, relative to the table, that a vacuum deleted, or would when ``dry_run``."""

    paths: tuple[str, ...]
    bytes: int
    dry_run: bool


def compact(
    table: LakeTable, target_rows: int, run: str, dry_run: bool = False, keep_apart: timedelta = KEEP_APART
) -> CompactionReport:
    """Merges the files under half of ``target_rows`` of each partition into files of about ``target_rows``.

    The new files are sorted by the spec's ``sort_by`` and unique by its ``key``: of rows with one key, that
    of the latest commit's file stays, and of one commit the greatest revision. Cuts are made between values
    of the first sort column where they can be. Runs that commit meanwhile are not disturbed: what they
    replaced is merged again. ``run`` is unique and names the files.

    Of a table that a stream may have to take commits back from, the files of the last ``keep_apart`` stay as
    they are: savepoints older than that can no longer be started from.

    Raises TableMissing; RebaseNeeded when other runs keep replacing the files.
    """
    until = table.clock() - keep_apart
    for attempt in range(_ATTEMPTS):
        snapshot = table.snapshot()
        apart, facts = _kept_apart(table, snapshot, until)
        groups = _small_files(snapshot, target_rows, apart)
        old = [file for group in groups for file in group]
        if dry_run or not groups:
            after = sum(_pieces(sum(f.rows for f in group), target_rows) for group in groups)
            return _report(groups, after, None)
        new: list[DataFile] = []
        for group in groups:
            new += _merge(table, group, target_rows, f"compact-{run}-{attempt}", len(new))
        try:
            version = table.commit(
                new,
                old,
                base_version=snapshot.version,
                scope=Scope(symbols=()),
                run=run,
                metadata=facts,
                operation="OPTIMIZE",
                data_change=False,
            )
        except RebaseNeeded:
            if attempt + 1 == _ATTEMPTS:
                raise
        else:
            return _report(groups, len(new), version)
    raise AssertionError("unreachable")


def _kept_apart(
    table: LakeTable, snapshot: Snapshot, until: datetime
) -> tuple[frozenset[str] | None, dict[str, Any]]:
    """The files that came after an instant, and what a compaction of the others has to say of itself.

    None where no stream takes anything back.
    """
    job = StreamJob.of_property(snapshot.properties.get(STREAM))
    if job is None or table.spec.name in KEPT:
        return None, {}
    app_id = job.app_id(table.spec.name)
    bound = int(until.timestamp() * 1000)
    young: set[str] = set()
    through = table.open(snapshot.version).transaction_version(app_id) or 0
    for entry in table.log.backwards(snapshot.version):
        if entry.info.get("timestamp", bound) < bound:
            break
        young |= {file.path for file in entry.files("add", moved=False)}
        number = number_of(entry, app_id)
        # Numbers have no gaps: a commit's is one more than that of the one before.
        through = through if number is None else number - 1
    return frozenset(young), {
        COMPACTED: {app_id: through},
        COMPACTED_UNTIL: until.isoformat(timespec="seconds"),
    }


def _report(groups: list[list[DataFile]], after: int, version: int | None) -> CompactionReport:
    files = [file for group in groups for file in group]
    return CompactionReport(
        len(groups), len(files), after, sum(f.rows for f in files), sum(f.size for f in files), version
    )


def _small_files(
    snapshot: Snapshot, target_rows: int, young: frozenset[str] | None = None
) -> list[list[DataFile]]:
    """The small files of each partition that has several, oldest first.

    Where a later commit's row counts over an earlier one's (``young`` is given), no commit of which a file
    is left apart lies between those of a group.
    """
    apart = snapshot.spec.apart
    mixed = {file.path for file in snapshot.select(where={apart: False})} if apart else set()
    small: dict[tuple[object, ...], list[DataFile]] = defaultdict(list)
    left: dict[tuple[object, ...], set[int]] = defaultdict(set)
    for file in snapshot.select():
        partition: tuple[object, ...] = (*file.partition.values(), file.path in mixed)
        if file.rows * 2 < target_rows and file.path not in (young or ()):
            small[partition].append(file)
        elif young is not None:
            left[partition].add(file.modified)
    groups: dict[tuple[object, ...], list[DataFile]] = defaultdict(list)
    for folder, files in small.items():
        between = sorted(left[folder])
        for file in sorted(files, key=lambda f: (f.modified, f.path)):
            before, after = bisect_left(between, file.modified), bisect_right(between, file.modified)
            groups[(folder, before, after)].append(file)
    return [group for group in groups.values() if len(group) > 1]


def _pieces(rows: int, target_rows: int) -> int:
    return max(1, round(rows / target_rows))


def _merge(
    table: LakeTable, group: list[DataFile], target_rows: int, name: str, first: int
) -> Iterator[DataFile]:
    spec = table.spec
    columns = spec.file_schema.names
    parts = [read_files(table.storage, spec, [file], columns)[0] for file in group]
    commits = np.repeat([file.modified for file in group], [len(part) for part in parts])
    rows = _sorted_unique(pa.concat_tables(parts), spec, commits)
    writer = table.writer()
    # As old as its newest row, so that rows committed meanwhile still count as later.
    modified = max(file.modified for file in group)
    for number, (start, stop) in enumerate(_cuts(rows, spec, target_rows), first):
        file = writer.write(rows.slice(start, stop - start), group[0].partition, f"{name}-{number:05d}")
        yield replace(file, modified=modified)


def _sorted_unique(rows: pa.Table, spec: TableSpec, commits: np.ndarray) -> pa.Table:
    """The rows sorted, the last of each key kept; ``commits`` orders their commits, shape (rows,)."""
    key = [name for name in spec.key if name in rows.column_names]
    if key:
        decide = [name for name in _DECIDE if name in rows.column_names]
        order = np.asarray(
            _order(rows.append_column("__commit", pa.array(commits)), [*key, "__commit", *decide])
        )
        ordered = rows.select(key).take(pa.array(order))
        last = np.ones(len(order), dtype=bool)
        if len(order) > 1:
            same = np.ones(len(order) - 1, dtype=bool)
            for column in ordered.columns:
                codes = _codes(column)
                same &= codes[1:] == codes[:-1]
            last[:-1] = ~same
        rows = rows.take(pa.array(np.sort(order[last])))
    return rows.take(pa.array(_order(rows, list(spec.sort_by)))) if spec.sort_by else rows


def _codes(column: Any) -> np.ndarray:
    """A number for each value, the same for the same values, nulls too; shape (rows,)."""
    return np.asarray(column.combine_chunks().dictionary_encode(null_encoding="encode").indices)


def _order(rows: pa.Table, columns: list[str]) -> np.ndarray:
    """The stable order of the rows by some columns."""
    keyed = rows.select(columns).append_column("__row", pa.array(np.arange(rows.num_rows)))
    return np.asarray(pc.sort_indices(keyed, [(name, "ascending") for name in [*columns, "__row"]]))


def _cuts(rows: pa.Table, spec: TableSpec, target_rows: int) -> Iterator[tuple[int, int]]:
    """Where to cut sorted rows into files, as (start, stop)."""
    total = rows.num_rows
    wanted = np.linspace(0, total, _pieces(total, target_rows) + 1).astype(np.int64)[1:-1]
    if spec.sort_by and len(wanted):
        changes = np.flatnonzero(np.diff(_codes(rows.column(spec.sort_by[0])))) + 1
        if len(changes):
            wanted = changes[np.minimum(np.searchsorted(changes, wanted), len(changes) - 1)]
    edges = np.unique(np.concatenate([[0], wanted, [total]])).tolist()
    return pairwise(edges)


def vacuum(
    table: LakeTable, now: datetime, retention_hours: float = RETENTION_HOURS, dry_run: bool = True
) -> VacuumReport:
    """Deletes the files that no version younger than ``retention_hours`` before ``now`` holds.

    That includes files that no commit ever named (what killed runs left), once they are that old: a run must
    not take longer than the retention. Older versions can then no longer be read.

    Raises TableMissing; ValueError for a negative retention.
    """
    if retention_hours < 0:
        raise ValueError(f"a retention of {retention_hours} hours")
    cutoff = now - timedelta(hours=retention_hours)
    # Listed first: what a commit names from here on is not among the candidates, or is active below.
    found = _listed(table)
    needed = set(table.snapshot().paths) | _removed_since(table, int(cutoff.timestamp() * 1000))
    base = table.storage.base + "/"
    old = [info for info in found if info.mtime is not None and info.mtime < cutoff]
    dead = [
        info
        for info in old
        if _is_staged(path := info.path.removeprefix(base)) or (_is_data(path) and path not in needed)
    ]
    if not dry_run:
        for info in dead:
            try:
                table.storage.filesystem.delete_file(info.path)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise LakeError(table.storage.explain("delete files of", error)) from error
        _expire_log(table)
    paths = sorted(info.path.removeprefix(base) for info in dead)
    return VacuumReport(tuple(paths), sum(info.size for info in dead), dry_run)


def _listed(table: LakeTable) -> list[pafs.FileInfo]:
    selector = pafs.FileSelector(table.storage.base, recursive=True, allow_not_found=True)
    try:
        infos = table.storage.filesystem.get_file_info(selector)
    except OSError as error:
        raise LakeError(table.storage.explain("list", error)) from error
    return [info for info in infos if info.type == pafs.FileType.File]


def _is_data(path: str) -> bool:
    return path.endswith(".parquet") and not any(part.startswith(("_", ".")) for part in path.split("/"))


def _is_staged(path: str) -> bool:
    return path.startswith(f"{LOG}/.") and path.endswith(".tmp")


def _removed_since(table: LakeTable, cutoff: int) -> set[str]:
    """The files that a version younger than ``cutoff`` (milliseconds) still held."""
    paths: set[str] = set()
    # A commit's stamp is its writer's clock: one commit is no proof that older ones are old.
    for entry in table.log.backwards(table.version):
        paths |= {
            file.path
            for action, file in zip(entry.of("remove"), entry.files("remove"), strict=True)
            if action.get("deletionTimestamp", cutoff) >= cutoff
        }
    return paths


def _expire_log(table: LakeTable) -> None:
    """Drops log files that are older than Delta's log retention and that a checkpoint stands for."""
    try:
        table.open().cleanup_metadata()
    except DeltaError as error:
        raise LakeError(table.storage.explain("clean the log of", error)) from error
