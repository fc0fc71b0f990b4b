"""What a stream wrote, as readers see it: one row a bar, one row a message, and the messages that count.

A stream may write a row again after a restore, and a bar again with each revision. No file is changed for
that: who reads picks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fibflow.io import tables
from fibflow.io.datafiles import DataFile, TableSpec
from fibflow.io.lake import Lake, TableMissing, VersionMissing
from fibflow.io.rowfilter import Filter, Instant, Where
from fibflow.io.snapshot import Snapshot, read_files, read_parts
from fibflow.io.storage import LakeError
from fibflow.transforms.partials import as_arrow, newest, numbers
from fibflow.transforms.schemas import BARS

#: A version of the table, or an instant: the table as it was then. None: as it is.
AsOf = Any

IDENTITY = ("shard", "sequence", "sub", "place")
_WORDS = ("shard", "sequence")
#: Two files can only hold the same message where they overlap in each of these.
_BOUNDS = ("shard", "sequence", "symbol", "ts")
_COMPARED = 512


@dataclass(frozen=True)
class LiveReader:
    """Reads ``silver.live``: the bars that a stream has closed. Each call sees the newest version."""

    lake: Lake

    def snapshot(self, as_of: AsOf = None) -> Snapshot:
        """The files of one version. Raises LakeError where no stream has written bars."""
        return _snapshot(self.lake, tables.LIVE, as_of)

    def bars(
        self,
        symbols: str | Collection[str] | None,
        timeframe: str,
        start: Instant | None = None,
        end: Instant | None = None,
        *,
        as_of: AsOf = None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """The bars whose ``ts`` lies in ``[start, end)``, each once, sorted by symbol and ts.

        Of the rows of one bar that of the latest commit counts, and of one commit's that with the greatest
        revision, and of those the final one.

        Args:
            symbols: one, several, or None for all.
            timeframe: its canonical name.
            start: an instant with a zone, or UTC microseconds; a date is its midnight in UTC.
            end: likewise.
            as_of: a version or an instant: read the table as it was.
            columns: names of ``schemas.BARS``, all by default.

        Raises:
            LakeError: no stream has written bars, or the version is not there.
            ValueError: an unknown column, or an instant without zone.
        """
        wanted = BARS.names if columns is None else list(columns)
        if unknown := [name for name in wanted if name not in BARS.names]:
            raise ValueError(f"bars have no column {unknown[0]!r}: they have {', '.join(BARS.names)}")
        snapshot = self.snapshot(as_of)
        where = {"timeframe": timeframe}
        files = sorted(snapshot.select(symbols, start, end, where), key=lambda file: file.modified)
        needed = list(dict.fromkeys([*wanted, "symbol", "ts", "revision", "final"]))
        condition = Filter.of(snapshot.spec, symbols, start, end, where)
        parts, _ = read_parts(snapshot.storage, snapshot.spec, files, needed, condition, ("symbol",))
        commits = np.repeat([file.modified for file in files], [len(part) for part in parts[: len(files)]])
        rows = pa.concat_tables(parts).unify_dictionaries()
        found = rows.take(as_arrow(_latest(rows, commits))).select(wanted)
        return found.cast(pa.schema([BARS.field(name) for name in wanted]))


def _latest(rows: pa.Table, commits: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """The positions of the rows that count, in order of symbol and ts."""
    if not len(rows):
        return np.zeros(0, np.int64)
    symbol: Any = rows["symbol"].combine_chunks()
    names: Any = pc.rank(symbol.dictionary, sort_keys="ascending", tiebreaker="dense")
    codes = names.to_numpy()[symbol.indices.to_numpy()]
    ts, revision, final = (numbers(rows, name) for name in ("ts", "revision", "final"))
    return newest(codes, ts, commits, revision, final)


@dataclass(frozen=True)
class TickReader:
    """Reads ``bronze.ticks`` and ``late``: the messages of a stream. Each call sees the newest version.

    A table holds the columns of ``schemas.TICKS`` but ``period``, or those asked for.

    Fresh files hold all symbols and a few seconds each, in the order in which the messages came: a read by
    time opens few of them. Compaction sorts them by symbol; then a read by symbol does too.
    """

    lake: Lake

    def ticks(
        self,
        symbols: str | Collection[str] | None = None,
        start: Instant | None = None,
        end: Instant | None = None,
        *,
        where: Where | None = None,
        columns: Sequence[str] | None = None,
        as_of: AsOf = None,
    ) -> pa.Table:
        """The messages whose ``ts`` lies in ``[start, end)``, each once, sorted by symbol, ts and seq.

        Args:
            symbols: one, several, or None for all.
            start: an instant with a zone, or UTC microseconds; a date is its midnight in UTC.
            end: likewise.
            where: a column to its value or values: ``{"kind": "T"}``.
            columns: names of ``schemas.TICKS``.
            as_of: a version or an instant: read the table as it was.

        Raises:
            LakeError: no stream has written messages, or the version is not there.
            ValueError: an unknown column, or an instant without zone.
        """
        order = tables.TICKS.sort_by
        wanted = _columns(columns)
        needed = list(dict.fromkeys([*wanted, *order]))
        parts = self._parts(symbols, start, end, where, needed, as_of, late=True)
        rows = pa.concat_tables([_plain(part, needed) for part in parts])
        return rows.sort_by([(name, "ascending") for name in order]).select(wanted)

    def ticks_without_late(
        self,
        symbols: str | Collection[str] | None = None,
        start: Instant | None = None,
        end: Instant | None = None,
        *,
        where: Where | None = None,
        columns: Sequence[str] | None = None,
        as_of: AsOf = None,
    ) -> Iterator[pa.Table]:
        """Yield the messages that the stream's bars hold: those that did not come too late.

        Arguments and errors as for ``ticks``; ``as_of`` a version is that of ``bronze.ticks``. A table for
        each data file, in its order, none empty: what it takes of memory is that of one file and of the late
        messages in it, whatever the range.
        """
        wanted = _columns(columns)
        for rows in self._parts(symbols, start, end, where, wanted, as_of, late=False):
            if len(rows):
                yield _plain(rows, wanted)

    def late(
        self,
        symbols: str | Collection[str] | None = None,
        start: Instant | None = None,
        end: Instant | None = None,
        *,
        where: Where | None = None,
        as_of: AsOf = None,
    ) -> pa.Table:
        """The messages that came too late, sorted by symbol, ts and seq; arguments as for ``ticks``.

        A stream to which nothing came too late has none.
        """
        names = [name for name in tables.LATE.schema.names if name != "period"]
        try:
            snapshot = _snapshot(self.lake, tables.LATE, as_of)
        except (_NothingWritten, VersionMissing):
            return _plain(tables.LATE.schema.empty_table(), names, tables.LATE)
        rows, _ = snapshot.read(names, symbols, start, end, where)
        return rows.sort_by([(name, "ascending") for name in tables.LATE.sort_by])

    def _parts(
        self,
        symbols: str | Collection[str] | None,
        start: Instant | None,
        end: Instant | None,
        where: Where | None,
        columns: Sequence[str],
        as_of: AsOf,
        late: bool,
    ) -> Iterator[pa.Table]:
        """The rows of each file that no earlier file holds, with or without the late ones."""
        snapshot = _snapshot(self.lake, tables.TICKS, as_of)
        spec = snapshot.spec
        condition = Filter.of(spec, symbols, start, end, where)
        files = sorted(snapshot.select(symbols, start, end, where), key=lambda f: (f.modified, f.path))
        others = _overlapping(snapshot, files)
        of_late = None if late else self._late_snapshot(as_of)
        needed = list(dict.fromkeys([*columns, *IDENTITY]))
        yield spec.schema.empty_table().select(list(columns))
        for file, earlier in zip(files, others, strict=True):
            rows, _ = read_files(snapshot.storage, spec, [file], needed, condition, _WORDS)
            if earlier and len(rows):
                held, _ = read_files(
                    snapshot.storage, spec, earlier, IDENTITY, _among(condition, rows), _WORDS
                )
                rows = rows.filter(_lacks(held, rows))
            if of_late is not None and len(rows):
                sequences = rows["sequence"].unique()
                held, _ = of_late.read(IDENTITY, symbols, start, end, {"sequence": sequences}, _WORDS)
                rows = rows.filter(_lacks(held, rows))
            yield rows.select(list(columns))

    def _late_snapshot(self, as_of: AsOf) -> Snapshot | None:
        try:
            # Versions of two tables have nothing to do with each other.
            return _snapshot(self.lake, tables.LATE, None if isinstance(as_of, int) else as_of)
        except (_NothingWritten, VersionMissing):
            return None


class _NothingWritten(LakeError):
    """The stream has not made the table yet."""


def _snapshot(lake: Lake, spec: TableSpec, as_of: AsOf) -> Snapshot:
    try:
        return lake.table(spec).snapshot(as_of)
    except TableMissing as error:
        raise _NothingWritten(f"there is no {spec.name} in {lake.uri}: pipelines.stream writes it") from error


def _columns(columns: Sequence[str] | None) -> list[str]:
    names = [name for name in tables.TICKS.schema.names if name != "period"]
    wanted = names if columns is None else list(columns)
    if unknown := [name for name in wanted if name not in names]:
        raise ValueError(f"ticks have no column {unknown[0]!r}: they have {', '.join(names)}")
    return wanted


def _plain(rows: pa.Table, columns: Sequence[str], spec: TableSpec = tables.TICKS) -> pa.Table:
    """The columns with their stored types."""
    return rows.select(list(columns)).cast(pa.schema([spec.schema.field(name) for name in columns]))


def _among(condition: Filter, rows: pa.Table) -> Filter:
    """The condition, and only records that ``rows`` hold too."""
    records = Filter.of(tables.TICKS, where={"sequence": rows["sequence"].unique()})
    return Filter({**condition.values, **records.values}, condition.time, condition.start, condition.stop)


def _overlapping(snapshot: Snapshot, files: Sequence[DataFile]) -> list[list[DataFile]]:
    """For each file the earlier ones that may hold a message of it, by their statistics."""
    known = [name for name in _BOUNDS if f"min.{name}" in snapshot.files.column_names]
    columns = [f"{side}.{name}" for name in known for side in ("min", "max")]
    stored = snapshot.files.select(["path", *columns])
    position = {unquote(str(path)): at for at, path in enumerate(stored["path"].to_pylist())}
    bounds = stored.take(pa.array([position[file.path] for file in files], pa.int64()))
    found: list[list[DataFile]] = []
    ranks = [_ranked(bounds, name) for name in known]
    for first in range(0, len(files), _COMPARED):
        stop = min(first + _COMPARED, len(files))
        both = np.ones((stop - first, stop), np.bool_)
        for low, high in ranks:
            both &= (low[first:stop, None] <= high[None, :stop]) & (
                low[None, :stop] <= high[first:stop, None]
            )
        both &= np.arange(stop)[None, :] < np.arange(first, stop)[:, None]
        found += [[files[i] for i in np.flatnonzero(row)] for row in both]
    return found


def _ranked(bounds: pa.Table, name: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The order of the files' lower and upper bounds of a column; an unknown one is as wide as can be."""
    low, high = (bounds[f"{side}.{name}"].combine_chunks() for side in ("min", "max"))
    ranks: Any = pc.rank(pa.concat_arrays([low, high]), sort_keys="ascending", tiebreaker="dense")
    numbers = ranks.to_numpy().astype(np.int64)
    unknown = np.asarray(pc.or_(low.is_null(), high.is_null()))
    lows, highs = numbers[: len(low)].copy(), numbers[len(low) :].copy()
    lows[unknown], highs[unknown] = 0, len(numbers) + 1
    return lows, highs


def _lacks(held: pa.Table, rows: pa.Table) -> Any:
    """Which of ``rows`` are messages that ``held`` does not have; both have ``IDENTITY``."""
    count = len(held)
    both = pa.concat_tables([held.select(list(IDENTITY)), rows.select(list(IDENTITY))]).unify_dictionaries()
    sequence: Any = both["sequence"].combine_chunks()
    shard: Any = both["shard"].combine_chunks()
    codes = sequence.indices.to_numpy()
    known = np.zeros(len(sequence.dictionary), np.bool_)
    known[codes[:count]] = True
    # Most rows are of records of which nothing is held.
    candidates = count + np.flatnonzero(known[codes[count:]])
    at = np.concatenate([np.arange(count), candidates])
    columns = [codes[at], shard.indices.to_numpy()[at]]
    columns += [both[name].to_numpy()[at] for name in ("sub", "place")]
    # Stable: of equal ones those that are held come first.
    order = np.lexsort(columns)
    starts = np.ones(len(order), np.bool_)
    starts[1:] = np.any([column[order][1:] != column[order][:-1] for column in columns], axis=0)
    first = order[np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))]
    mask = np.ones(len(rows), np.bool_)
    mask[at[order[(first < count) & (order >= count)]] - count] = False
    return as_arrow(mask)
