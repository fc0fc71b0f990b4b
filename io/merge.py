"""Bring newly made bars into ``silver.bars``: compare with what is there, and rewrite only files that change.

Bars of ended windows and bars of open ones lie in different files. So a run in which a session was added
replaces the small files of open bars, and appends; a correction rewrites exactly the files that hold its
windows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fibflow.io.datafiles import DataFile, DataFileWriter
from fibflow.io.rowfilter import Filter
from fibflow.io.snapshot import ReadStats, Snapshot, read_files
from fibflow.transforms.calendar import TradingCalendar
from fibflow.transforms.partials import BAR_BATCH, as_arrow, encode_symbols
from fibflow.transforms.timeframe import Anchor, Timeframe

#: A file of ended bars with fewer rows takes in what is added next.
TAIL_ROWS = 131_072

Bool = npt.NDArray[np.bool_]
Index = npt.NDArray[np.intp]
_CONTENT = tuple(name for name in BAR_BATCH.names if name not in ("symbol", "timeframe", "ts", "revision"))


@dataclass(frozen=True)
class Region:
    """Which stored bars were made anew.

    Attributes:
        changed_from: those that end later (UTC microseconds); None for all.
        start, end: of those, the ones whose ``ts`` is in ``[start, end)``.
        symbols: of those, the ones of these symbols; None for all.
        anchor: under ``rows``, a bar that is not complete is made anew too: its end moves with each row.
        since: of a symbol, where it is later than ``changed_from``.
    """

    changed_from: int | None = None
    start: int | None = None
    end: int | None = None
    symbols: frozenset[str] | None = None
    anchor: Anchor = Anchor.EXCHANGE
    since: Mapping[str, int] = field(default_factory=dict)

    def holds(self, bars: pa.Table) -> Bool:
        """Return which bars the region holds, shape (n,)."""
        ts, end = instants(bars["ts"]), instants(bars["end"])
        inside = np.ones(len(bars), np.bool_)
        if self.changed_from is not None:
            inside &= end > self._changed_from(bars)
            if self.anchor is Anchor.ROWS:
                inside |= ~flags(bars["complete"])
        if self.start is not None:
            inside &= ts >= self.start
        if self.end is not None:
            inside &= ts < self.end
        if self.symbols is not None:
            names, codes = encode_symbols(bars["symbol"])
            wanted = np.array([name in self.symbols for name in names.to_pylist()], np.bool_)
            inside &= wanted[codes] if len(wanted) else False
        return inside

    def _changed_from(self, bars: pa.Table) -> npt.NDArray[np.int64] | int:
        """Return from when on each bar's symbol changed, shape (n,); one instant where it is the same."""
        assert self.changed_from is not None
        if not self.since:
            return self.changed_from
        names, codes = encode_symbols(bars["symbol"])
        words: list[Any] = names.to_pylist()
        return np.array([self.since.get(name, self.changed_from) for name in words], np.int64)[codes]


@dataclass
class Merged:
    """What a merge asks to commit, and what it took."""

    add: list[DataFile] = field(default_factory=list)
    remove: list[DataFile] = field(default_factory=list)
    new: int = 0
    revised: int = 0
    withdrawn: int = 0
    unchanged: int = 0
    read: ReadStats = field(default_factory=ReadStats)


def instants(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Return a column of instants as UTC microseconds."""
    return column.combine_chunks().view(pa.int64()).to_numpy(zero_copy_only=False)


def flags(column: pa.ChunkedArray) -> Bool:
    """Return a boolean column as an array."""
    return column.combine_chunks().to_numpy(zero_copy_only=False)


def merge_timeframe(
    snapshot: Snapshot,
    made: pa.Table,
    timeframe: Timeframe,
    regions: Sequence[Region],
    write: Callable[[pa.Table, str], Sequence[DataFile]],
) -> Merged:
    """Merge the bars of one timeframe.

    Args:
        snapshot: of ``silver.bars``.
        made: the regions' bars, ``BAR_BATCH``, each key once, with revision 0.
        timeframe: of the bars.
        regions: which stored bars these replace.
        write: writes bars of one timeframe to data files; the second argument makes their names unique.
    """
    merged = Merged()
    candidates = _candidates(snapshot, timeframe, regions)
    stored: list[tuple[DataFile, pa.Table]] = []
    for file in candidates:
        bars, cost = _read(snapshot, file)
        merged.read += cost
        stored.append((file, bars))
    masks = [np.logical_or.reduce([region.holds(bars) for region in regions]) for _, bars in stored]
    old = pa.concat_tables(
        [bars.filter(pa.array(mask)) for (_, bars), mask in zip(stored, masks, strict=True)]
        or [BAR_BATCH.empty_table()]
    )
    found, at = match(made, old)
    same = np.zeros(len(made), np.bool_)
    same[found] = equal_content(made.take(as_arrow(found)), old.take(as_arrow(at[found])))
    revision = np.zeros(len(made), np.int32)
    before = old["revision"].to_numpy()
    revision[found] = before[at[found]] + 1
    made = made.set_column(
        made.schema.get_field_index("revision"), BAR_BATCH.field("revision"), pa.array(revision)
    )
    kept_old = np.zeros(len(old), np.bool_)
    kept_old[at[same]] = True
    merged.new = len(made) - len(found)
    merged.revised = len(found) - int(same.sum())
    merged.withdrawn = len(old) - len(found)
    merged.unchanged = int(same.sum())
    if merged.unchanged == len(made) == len(old):
        return merged
    _rewrite(snapshot, timeframe, merged, stored, masks, kept_old, at, made, ~same, write)
    return merged


def _rewrite(
    snapshot: Snapshot,
    timeframe: Timeframe,
    merged: Merged,
    stored: Sequence[tuple[DataFile, pa.Table]],
    masks: Sequence[Bool],
    kept_old: Bool,
    at: Index,
    made: pa.Table,
    changed: Bool,
    write: Callable[[pa.Table, str], Sequence[DataFile]],
) -> None:
    """Plan the files: touched ones of ended bars anew, one with new bars, one with the open ones."""
    ended_pool: list[pa.Table] = []
    open_pool: list[pa.Table] = []
    placed = np.zeros(len(made), np.bool_)
    complete = flags(made["complete"])
    offset = 0
    for (file, bars), mask in zip(stored, masks, strict=True):
        inside = int(mask.sum())
        kept_here = kept_old[offset : offset + inside]
        replaced_by = changed & (at >= offset) & (at < offset + inside)
        offset += inside
        if kept_here.all():
            continue
        stay = ~mask
        stay[mask] = kept_here
        remaining = bars.filter(pa.array(stay))
        merged.remove.append(file)
        if flags(bars["complete"]).all():
            mine = replaced_by & complete
            placed |= mine
            remaining = pa.concat_tables([remaining, made.filter(pa.array(mine))])
            if len(remaining):
                merged.add += write(remaining, f"m{len(merged.remove)}-")
        else:
            ended = flags(remaining["complete"])
            ended_pool.append(remaining.filter(pa.array(ended)))
            open_pool.append(remaining.filter(pa.array(~ended)))
    rest = changed & ~placed
    ended_pool.append(made.filter(pa.array(rest & complete)))
    open_pool.append(made.filter(pa.array(rest & ~complete)))
    if sum(map(len, ended_pool)):
        tail = _tail(snapshot, timeframe, {file.path for file, _ in stored})
        if tail is not None:
            bars, cost = _read(snapshot, tail)
            merged.read += cost
            merged.remove.append(tail)
            ended_pool.append(bars)
        merged.add += write(pa.concat_tables(ended_pool), "new-")
    if sum(map(len, open_pool)):
        merged.add += write(pa.concat_tables(open_pool), "open-")


def _candidates(snapshot: Snapshot, timeframe: Timeframe, regions: Sequence[Region]) -> list[DataFile]:
    """Return the files that may hold bars of a region, in order of path."""
    where: dict[str, Any] = {"timeframe": timeframe.name}
    found: dict[str, DataFile] = {}
    for region in regions:
        symbols = sorted(region.symbols) if region.symbols is not None else None
        within = snapshot.select(symbols, region.start, region.end, where)
        if region.changed_from is not None:
            late = _ending_after(snapshot, region.changed_from)
            within = [file for file in within if file.path in late]
        found |= {file.path: file for file in within}
        if region.anchor is Anchor.ROWS:
            still_open = snapshot.select(symbols, where={**where, "complete": False})
            found |= {file.path: file for file in still_open}
    return [found[path] for path in sorted(found)]


def _ending_after(snapshot: Snapshot, instant: int) -> frozenset[str]:
    """Return the files that may hold a bar that ends later, by the statistics of ``end``."""
    if "max.end" not in snapshot.files.column_names:
        return snapshot.paths
    ends: Any = snapshot.files.column("max.end").cast(pa.int64())
    latest = ends.fill_null(np.iinfo(np.int64).max)
    files = snapshot.files.filter(pa.array(latest.to_numpy() > instant))
    return Snapshot(snapshot.storage, snapshot.spec, snapshot.version, snapshot.properties, files).paths


def _tail(snapshot: Snapshot, timeframe: Timeframe, touched: set[str]) -> DataFile | None:
    """Return the smallest file of ended bars of a timeframe of all time, if it is small."""
    if timeframe.is_intraday:
        return None
    still_open = {
        file.path for file in snapshot.select(where={"timeframe": timeframe.name, "complete": False})
    }
    small = [
        file
        for file in snapshot.select(where={"timeframe": timeframe.name})
        if file.rows < TAIL_ROWS and file.path not in touched and file.path not in still_open
    ]
    return min(small, key=lambda file: (file.rows, file.path), default=None)


def _read(snapshot: Snapshot, file: DataFile) -> tuple[pa.Table, ReadStats]:
    bars, cost = read_files(
        snapshot.storage, snapshot.spec, [file], BAR_BATCH.names, Filter({}), ["symbol", "timeframe"]
    )
    return bars.cast(BAR_BATCH), cost


def match(made: pa.Table, old: pa.Table) -> tuple[Index, Index]:
    """Find bars of the same (symbol, ts), in tables of one timeframe whose keys are unique.

    Returns:
        ``found``, the places in ``made`` that have a partner, and ``at``, for each place in ``made`` its
        partner's place in ``old``, -1 for none; shapes (k,) and (len(made),).
    """
    at = np.full(len(made), -1, np.intp)
    if not len(made) or not len(old):
        return np.zeros(0, np.intp), at
    chunks: list[Any] = [*made["symbol"].chunks, *old["symbol"].chunks]
    both = pa.chunked_array(chunks)
    _, codes = encode_symbols(both)
    ts = np.concatenate((instants(made["ts"]), instants(old["ts"])))
    order = np.lexsort((ts, codes))
    same = (codes[order][1:] == codes[order][:-1]) & (ts[order][1:] == ts[order][:-1])
    first, second = order[:-1][same], order[1:][same]
    mine, theirs = np.minimum(first, second), np.maximum(first, second) - len(made)
    at[mine] = theirs
    return np.flatnonzero(at >= 0), at


def equal_content(a: pa.Table, b: pa.Table, names: Sequence[str] = _CONTENT) -> Bool:
    """Return where two tables of bars with the same keys have the same content, ``revision`` aside.

    Null equals null.
    """
    same = np.ones(len(a), np.bool_)
    for name in names:
        x: Any = a[name]
        y: Any = b[name]
        equal = pc.fill_null(pc.equal(x, y), False)
        both_null = pc.and_(x.is_null(), y.is_null())
        same &= pc.or_(equal, both_null).to_numpy()
    return same


def writer_of(
    writer: DataFileWriter, calendar: TradingCalendar, run: str, attempt: int
) -> Callable[[pa.Table, str], list[DataFile]]:
    """Return a function that writes bars of one timeframe, sorted, to files that no other attempt writes."""
    from fibflow.io.sinks import sort_bars, write_bars

    def write(bars: pa.Table, label: str) -> list[DataFile]:
        return list(write_bars(writer, sort_bars(bars), calendar, run, f"{attempt}-{label}"))

    return write
