"""Incoming rows against those that a bronze table holds: which are new, which win, and which lose.

Rows of one key (symbol, session or minute) are judged as ``docs/data-model.md`` says. A stored row gives way
to its own file's newer version, and to a row of another file that goes before it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fibflow.io.datafiles import DataFile, TableSpec
from fibflow.io.ledger import KnownFiles
from fibflow.io.rowfilter import Filter
from fibflow.io.snapshot import Snapshot, read_files
from fibflow.transforms.partials import encode_symbols
from fibflow.transforms.schemas import SYMBOL
from fibflow.transforms.validation import dead_letters

Bool = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]
Index = npt.NDArray[np.intp]

_KEY_COLUMNS = ("symbol", "session", "ts", "source", "landed", "period")
_FEW_SYMBOLS = 1_000
_SPAN = 1 << 33


@dataclass
class Compared:
    """What a comparison found.

    Attributes:
        new: which incoming rows have a key that the table does not hold, shape (n,).
        changed: which incoming rows replace a stored one of other values, shape (n,).
        patches: for each stored file that changes, its new rows as they are stored.
        lost: rows that another file's row displaced, of either side, as DEAD_LETTERS.
        counts: ``unchanged`` rows; ``restamped``, those of them whose values another file of higher rank
            holds too; ``superseded``, stored rows whose own file comes in another version with this run.
    """

    new: Bool
    changed: Bool
    patches: list[tuple[DataFile, pa.Table]] = field(default_factory=list)
    lost: list[pa.Table] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


class Origins(Sequence[str]):
    """The paths of known files by rank."""

    def __init__(self, known: KnownFiles) -> None:
        self._known = known

    def __getitem__(self, rank: Any) -> Any:
        return self._known.paths(np.array([rank], np.int32))[0]

    def __len__(self) -> int:
        return len(self._known.sources)


def stored_form(rows: pa.Table, spec: TableSpec, known: KnownFiles, landed: int) -> pa.Table:
    """Return rows as the files of ``spec`` hold them (symbols stay a dictionary).

    Args:
        rows: DAILY_ROWS or MINUTE_ROWS, where optional columns may be missing, with ``rank`` among ``known``.
        spec: of the bronze table.
        known: names the rows' files.
        landed: the number of the load.
    """
    columns: dict[str, Any] = {name: rows[name] for name in rows.column_names}
    columns["source"] = pa.array(known.sources[rows["rank"].to_numpy()])
    columns["landed"] = pa.array(np.full(len(rows), landed, np.int32))
    for stored in spec.file_schema:
        if stored.name not in columns:
            columns[stored.name] = pa.nulls(len(rows)).cast(stored.type)
    return pa.table({name: columns[name] for name in spec.file_schema.names})


def compare(rows: pa.Table, period: str, snapshot: Snapshot, known: KnownFiles, landed: int) -> Compared:
    """Compare rows of one period with the stored ones.

    Args:
        rows: as for ``stored_form``; sorted by key, each key once; one chunk.
        period: the partition.
        snapshot: of the table.
        known: ranks the files of both sides.
        landed: the number of the load.

    Raises:
        LakeError: a stored file cannot be read.
    """
    time = snapshot.spec.time_column
    assert time is not None
    result = Compared(np.ones(len(rows), np.bool_), np.zeros(len(rows), np.bool_))
    times = _integers(rows[time])
    bounds = int(times.min()), int(times.max()) + 1
    names, keys = _keys(rows, time)
    symbols: Any = names.to_pylist() if len(names) <= _FEW_SYMBOLS else None
    condition = Filter.of(snapshot.spec, symbols, *bounds)
    for file in snapshot.select(symbols, *bounds, where={"period": period}):
        held, _ = read_files(
            snapshot.storage, snapshot.spec, [file], ["symbol", time, "source"], condition, ["symbol"]
        )
        if not len(held):
            continue
        held = held.combine_chunks()
        stored_keys = _keys(held, time, names)[1]
        at = np.minimum(np.searchsorted(keys, stored_keys), len(keys) - 1)
        hit = keys[at] == stored_keys
        if not hit.any():
            continue
        at = at[hit]
        result.new[at] = False
        values = [*_values(snapshot.spec), "landed"]
        stored, _ = read_files(snapshot.storage, snapshot.spec, [file], values, condition)
        stored = pa.table([*held.columns, *stored.columns], [*held.column_names, *values])
        _judge(result, file, rows, at, stored.filter(pa.array(hit)), snapshot.spec, known, landed)
    return result


def _judge(
    result: Compared,
    file: DataFile,
    rows: pa.Table,
    at: Index,
    stored: pa.Table,
    spec: TableSpec,
    known: KnownFiles,
    landed: int,
) -> None:
    """Judge ``rows`` at ``at`` against stored rows of the same keys, in the same order."""
    index: Any = pa.array(at)
    incoming = rows.take(index)
    ranks = incoming["rank"].to_numpy()
    sources = _integers(stored["source"])
    stored_ranks = known.rank_of(sources)
    same_file = known.sources[ranks] == sources
    wins = ranks > stored_ranks
    if "version" in spec.schema.names:
        mine, theirs = _versions(incoming), _versions(stored)
        wins = (mine > theirs) | ((mine == theirs) & wins)
    wins |= same_file
    equal = _equal(incoming, stored, _values(spec))
    changed, restamped = wins & ~equal, wins & equal & ~same_file
    result.changed[at[changed]] = True
    result.counts["unchanged"] += int(equal.sum())
    result.counts["restamped"] += int(restamped.sum())
    superseded = (stored_ranks >= 0) & known.changed[np.maximum(stored_ranks, 0)]
    result.counts["superseded"] += int(superseded.sum())
    if (patched := changed | restamped).any():
        patch = stored_form(incoming.filter(pa.array(patched)), spec, known, landed)
        # Batch looks for rows of this load: a row whose values stay is none.
        numbers = np.where(changed, np.int32(landed), _integers(stored["landed"]))[patched]
        place = patch.schema.get_field_index("landed")
        patch = patch.set_column(place, "landed", pa.array(numbers.astype(np.int32)))
        result.patches.append((file, patch))
    origins = Origins(known)
    # What a file's own newer version replaced was corrected, not displaced.
    displaced = changed & ~same_file & ~superseded
    for lost, mask in ((incoming, ~wins & ~equal), (stored, displaced)):
        if not mask.any():
            continue
        found = lost.filter(pa.array(mask))
        if "rank" not in found.column_names:
            found = found.append_column("rank", pa.array(stored_ranks[mask]))
        result.lost.append(dead_letters(found, "duplicate", origins))


def patched(stored: pa.Table, patch: pa.Table, time: str) -> pa.Table:
    """Return a stored file's rows with those of ``patch`` in the place of the rows of the same keys.

    Args:
        stored: sorted, symbols as a dictionary.
        patch: rows of keys that ``stored`` holds, in any order.
        time: ``session`` or ``ts``.
    """
    both = pa.concat_tables([stored, patch.select(stored.column_names).cast(stored.schema)])
    both = both.unify_dictionaries().combine_chunks()
    _, keys = _keys(both, time)
    n = len(stored)
    order = np.argsort(keys[n:], kind="stable")
    replaced = np.searchsorted(keys[:n], keys[n:][order])
    at = np.arange(n)
    at[replaced] = n + order
    index: Any = pa.array(at)
    return both.take(index)


def pieces(rows: pa.Table, target: int) -> Iterator[pa.Table]:
    """Cut sorted rows into pieces of about ``target``, between symbols where they can be."""
    count = max(1, round(len(rows) / target))
    if count == 1:
        yield rows
        return
    _, codes = encode_symbols(rows["symbol"])
    wanted = np.arange(1, count) * len(rows) // count
    begins = np.searchsorted(codes, codes[wanted])
    ends = np.searchsorted(codes, codes[wanted], side="right")
    nearest = np.where(wanted - begins <= ends - wanted, begins, ends)
    # A symbol with more rows than a piece is cut within.
    cuts = np.where(abs(nearest - wanted) > target // 2, wanted, nearest)
    places = np.unique(np.concatenate(([0], cuts, [len(rows)]))).tolist()
    for start, stop in pairwise(places):
        yield rows.slice(start, stop - start)


def sort_rows(rows: pa.Table, time: str) -> pa.Table:
    """Return rows sorted by symbol and time, with one sorted dictionary of symbols."""
    names, keys = _keys(rows, time)
    _, codes = encode_symbols(rows["symbol"])
    indices: Any = pa.array(codes)
    symbols = pa.DictionaryArray.from_arrays(indices, names)
    rows = rows.set_column(rows.schema.get_field_index("symbol"), pa.field("symbol", SYMBOL), symbols)
    order: Any = pa.array(np.argsort(keys, kind="stable"))
    return rows.combine_chunks().take(order)


def _keys(rows: pa.Table, time: str, names: pa.StringArray | None = None) -> tuple[pa.StringArray, Int64]:
    """Return the symbols and one integer a row that sorts as (symbol, time), shape (n,).

    With ``names`` given, codes are places in it, and a row of another symbol has a negative key.
    """
    symbols, codes = encode_symbols(rows["symbol"])
    wide = codes.astype(np.int64)
    if names is not None:
        places: Any = pc.index_in(symbols, value_set=names)
        wide = places.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)[codes]
    column = rows[time]
    units = _integers(column)
    if not pa.types.is_date32(column.type):
        units = np.floor_divide(units, 60_000_000)
    return symbols, (wide << 34) + (units + _SPAN)


def _values(spec: TableSpec) -> list[str]:
    return [name for name in spec.schema.names if name not in _KEY_COLUMNS]


def _versions(rows: pa.Table) -> Int64:
    if "version" not in rows.column_names:
        return np.full(len(rows), -1, np.int64)
    versions: Any = rows["version"]
    return _integers(versions.fill_null(-1))


def _equal(a: pa.Table, b: pa.Table, names: Sequence[str]) -> Bool:
    """Return where two tables have the same values, to the bit; a missing column is one of nulls."""
    same = np.ones(len(a), np.bool_)
    for name in names:
        x, y = (_bits(table, name) for table in (a, b))
        same &= (x[0] == y[0]) & (x[1] == y[1])
    return same


def _bits(table: pa.Table, name: str) -> tuple[Any, Any]:
    if name not in table.column_names:
        return np.int64(0), np.False_
    column = table[name].combine_chunks()
    known = column.is_valid().to_numpy(zero_copy_only=False)
    zero: Any = pa.scalar(0, column.type)
    return column.fill_null(zero).view(pa.int64()).to_numpy(zero_copy_only=False), known


def _integers(column: Any) -> Any:
    """Return integers, dates as days, instants as microseconds."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    kind = array.type
    if pa.types.is_date32(kind):
        return array.view(pa.int32()).to_numpy(zero_copy_only=False).astype(np.int64)
    if pa.types.is_timestamp(kind):
        array = array.view(pa.int64())
    return array.to_numpy(zero_copy_only=False)
