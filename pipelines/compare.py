"""Bars of the predecessor's silver files against those of a lake, difference by difference.

Bars are matched by (symbol, session of ``ts``), one timeframe at a time, in sorted arrays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import RenderableType

from fibflow.io import tables
from fibflow.io.rowfilter import Where
from fibflow.io.silver import VALUES, Silver
from fibflow.io.snapshot import Snapshot
from fibflow.io.storage import LakeError
from fibflow.pipelines.show import grid
from fibflow.transforms.calendar import NO_SESSION, TradingCalendar
from fibflow.transforms.schemas import SYMBOL

#: A bar that only they have, only the lake has, or that both have with other values; or a further row of
#: theirs for one bar.
ONLY_THERE, ONLY_HERE, DIFFERS, DUPLICATE = "only_there", "only_here", "differs", "duplicate_there"
#: Before a kind: the bar is a symbol's last one, and its window is partial on a side. The sides may differ
#: there because one leaves such windows out, or because their histories end on different days.
TRAILING = "trailing_"
_SIDES = (ONLY_THERE, ONLY_HERE, DIFFERS)
KINDS = (*_SIDES, *(TRAILING + kind for kind in _SIDES), DUPLICATE)

#: One difference. ``column`` is null, with its values, where a whole bar is on one side only.
DIFFERENCES = pa.schema(
    [
        pa.field("timeframe", SYMBOL),
        pa.field("symbol", SYMBOL),
        pa.field("session", pa.date32()),
        pa.field("kind", SYMBOL),
        pa.field("column", SYMBOL),
        pa.field("there", pa.float64()),
        pa.field("here", pa.float64()),
    ]
)

# A key is the symbol's code, then the day, moved so that it is positive.
_SLOT = 32
_DAY_0 = 1 << 31
_PART = 1 << 20

Int64 = npt.NDArray[np.int64]
Index = npt.NDArray[np.intp]


@dataclass
class Summary:
    """What a comparison found: ``kinds`` counts bars, ``columns`` those in which a column differs."""

    timeframe: str
    there: int
    here: int
    equal: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    columns: Counter[str] = field(default_factory=Counter)

    def is_equal(self, ignore_trailing: bool = False) -> bool:
        """Whether nothing differs, or nothing but trailing partial windows."""
        return not any(
            n for kind, n in self.kinds.items() if not (ignore_trailing and kind.startswith(TRAILING))
        )


@dataclass
class Side:
    """Bars of one side, sorted by key, each key once.

    Attributes:
        keys: the symbol's code and the session in one number, ascending; shape (n,).
        order: where each bar is in ``values``.
        values: the columns ``VALUES``, as they were read.
        complete: whether the window has ended; None where the side does not say. As it was read.
    """

    keys: Int64
    order: Index
    values: dict[str, npt.NDArray[np.float64]]
    complete: npt.NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def last_of_symbol(self) -> npt.NDArray[np.bool_]:
        """Whether each bar is the last one of its symbol, in order of keys."""
        codes = self.keys >> _SLOT
        return np.append(codes[1:] != codes[:-1], True) if len(codes) else np.zeros(0, np.bool_)

    def value(self, name: str, at: Index) -> npt.NDArray[np.float64]:
        """Return a column of the bars at places of ``keys``."""
        return self.values[name][self.order[at]]


def compare(
    silver: Silver,
    snapshot: Snapshot,
    timeframe: str,
    calendar: TradingCalendar,
    tolerance: float = 0.0,
) -> tuple[Summary, Iterator[pa.Table]]:
    """Compare one timeframe.

    Args:
        silver: their files.
        snapshot: a version of ``silver.bars``.
        timeframe: its name.
        calendar: the table's.
        tolerance: values that differ by at most this part of the greater one are equal.

    Returns:
        The summary, and tables of ``DIFFERENCES``: of each kind, and column, by symbol and session.

    Raises:
        InputError: as ``Silver.read``.
        LakeError: the lake has no bars of the timeframe.
    """
    where = {"timeframe": timeframe}
    if not snapshot.select(where=where):
        raise LakeError(f"no {timeframe} bars in this lake: make them with pipelines.batch --anchor rows")
    theirs = _Columns.of(silver.read(timeframe), calendar.session_days)
    ours = _Columns.of(_ours(snapshot, where), lambda ts: _sessions(ts, calendar))
    symbols = pa.concat_arrays([theirs.symbols, ours.symbols]).unique()
    symbols = symbols.take(pc.array_sort_indices(symbols))
    there, further = theirs.side(symbols)
    here, _ = ours.side(symbols)
    match = _match(there, here, timeframe, tolerance)
    match.summary.kinds[DUPLICATE] = len(further)
    match.summary.there += len(further)
    return match.summary, _differences(match, symbols, further)


def _ours(snapshot: Snapshot, where: Where) -> pa.Table:
    return snapshot.read(["symbol", "ts", *VALUES, "complete"], where=where, dictionary=("symbol",))[0]


def _sessions(ts: Int64, calendar: TradingCalendar) -> npt.NDArray[Any]:
    """The days of the sessions in which bars of the lake begin."""
    positions = calendar.positions_at(ts)
    if (positions == NO_SESSION).any():
        raise LakeError(f"bars of this lake lie outside the sessions of {calendar.name}")
    return calendar.days[positions]


@dataclass
class _Columns:
    """Bars of one side as they were read: ``codes`` are places in ``symbols``, ``days`` sessions."""

    symbols: pa.Array
    codes: Index
    days: npt.NDArray[Any]
    values: dict[str, npt.NDArray[np.float64]]
    complete: npt.NDArray[np.bool_] | None

    @classmethod
    def of(cls, table: pa.Table, days: Callable[[Int64], npt.NDArray[Any]]) -> _Columns:
        columns: dict[str, Any] = dict(zip(table.column_names, table.columns, strict=True))
        # Each column is let go when it is copied: two copies of both sides do not fit.
        del table
        symbol = columns.pop("symbol").unify_dictionaries()
        names = symbol.chunk(0).dictionary if symbol.num_chunks else pa.array([], pa.string())
        codes = [chunk.indices.to_numpy() for chunk in symbol.chunks]
        sessions = days(pc.cast(columns.pop("ts"), pa.int64()).to_numpy()).astype(np.int32)
        values = {name: columns.pop(name).to_numpy() for name in VALUES}
        complete = columns.pop("complete").to_numpy() if "complete" in columns else None
        pa.default_memory_pool().release_unused()
        return cls(names, np.concatenate([np.zeros(0, np.int32), *codes]), sessions, values, complete)

    def side(self, symbols: pa.Array) -> tuple[Side, Int64]:
        """Return the side, and the keys of rows that a later row of the same key replaces."""
        keys = pc.index_in(self.symbols, value_set=symbols).to_numpy().astype(np.int64)[self.codes]
        keys <<= _SLOT
        keys += self.days
        keys += _DAY_0
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        again = np.append(keys[1:] == keys[:-1], False) if len(keys) else np.zeros(0, np.bool_)
        further = keys[again]
        if len(further):
            keys, order = keys[~again], order[~again]
        return Side(keys, order, self.values, self.complete), further


@dataclass
class _Match:
    """Two sides brought together.

    Attributes:
        there, here: the sides.
        summary: the counts.
        only_there, only_here: places in the keys of a side, by kind.
        a, b: places of the bars that both have.
        differing: which of these differ, by kind.
        columns: which of these differ in a column.
    """

    there: Side
    here: Side
    summary: Summary
    only_there: dict[str, Index]
    only_here: dict[str, Index]
    a: Index
    b: Index
    differing: dict[str, npt.NDArray[np.bool_]]
    columns: dict[str, npt.NDArray[np.bool_]]


def _match(there: Side, here: Side, timeframe: str, tolerance: float) -> _Match:
    place = np.searchsorted(here.keys, there.keys)
    place[place == len(here)] = 0
    both = here.keys[place] == there.keys if len(here) else np.zeros(len(there), np.bool_)
    a, b = np.flatnonzero(both), place[both]
    del place
    unmatched = np.ones(len(here), np.bool_)
    unmatched[b] = False
    open_here = ~here.complete[here.order] if here.complete is not None else np.zeros(len(here), np.bool_)

    summary = Summary(timeframe, len(there), len(here))
    ends = there.last_of_symbol()
    missing, further = np.flatnonzero(~both), np.flatnonzero(unmatched)
    # Their files do not say which windows are partial: a symbol's last one, where the lake leaves such out.
    dropped = ends[missing] & _beyond(there, here, missing) & (not open_here.any())
    only_there = _by_trailing(ONLY_THERE, missing, dropped)
    only_here = _by_trailing(ONLY_HERE, further, open_here[further])
    columns = {name: _differing(there, here, a, b, name, tolerance) for name in VALUES}
    different = np.logical_or.reduce(list(columns.values()))
    # Where the lake goes on after their last bar, that one was made of fewer days.
    trailing = open_here[b] | (ends[a] & ~here.last_of_symbol()[b])
    differing = {DIFFERS: different & ~trailing, TRAILING + DIFFERS: different & trailing}
    summary.kinds.update({kind: int(mask.sum()) for kind, mask in differing.items()})
    summary.columns.update({name: int(mask.sum()) for name, mask in columns.items()})
    for kind, places in (*only_there.items(), *only_here.items()):
        summary.kinds[kind] = len(places)
    summary.equal = len(a) - int(different.sum())
    return _Match(there, here, summary, only_there, only_here, a, b, differing, columns)


def _beyond(there: Side, here: Side, places: Index) -> npt.NDArray[np.bool_]:
    """Return which of their bars come after the lake's last one of the symbol, or are its first."""
    keys = there.keys[places]
    own = keys >> _SLOT
    at = np.searchsorted(here.keys, keys)
    before = np.where(at > 0, here.keys[np.maximum(at - 1, 0)] >> _SLOT, -1)
    after = np.where(at < len(here), here.keys[np.minimum(at, len(here) - 1)] >> _SLOT, -1)
    first = (places == 0) | (there.keys[np.maximum(places - 1, 0)] >> _SLOT != own)
    return (after != own) & ((before == own) | first)


def _by_trailing(kind: str, places: Index, trailing: npt.NDArray[np.bool_]) -> dict[str, Index]:
    return {kind: places[~trailing], TRAILING + kind: places[trailing]}


def _differing(
    there: Side, here: Side, a: Index, b: Index, name: str, tolerance: float
) -> npt.NDArray[np.bool_]:
    """Return in which of the matched bars a column differs, by parts, to spare memory."""
    found = np.zeros(len(a), np.bool_)
    for start in range(0, len(a), _PART):
        part = slice(start, start + _PART)
        x, y = there.value(name, a[part]), here.value(name, b[part])
        same = (x == y) | (np.isnan(x) & np.isnan(y))
        if tolerance:
            same |= np.abs(x - y) <= tolerance * np.maximum(np.abs(x), np.abs(y))
        found[part] = ~same
    return found


def _differences(match: _Match, symbols: pa.Array, further: Int64) -> Iterator[pa.Table]:
    """Yield tables of ``DIFFERENCES``, none without rows."""
    there, here, timeframe = match.there, match.here, match.summary.timeframe

    def table(kind: str, keys: Int64, column: str | None, a: Any = None, b: Any = None) -> pa.Table:
        n = len(keys)
        days = (keys & ((1 << _SLOT) - 1)) - _DAY_0
        codes: Any = pa.array((keys >> _SLOT).astype(np.int32))
        arrays: list[Any] = [
            _constant(timeframe, n),
            pa.DictionaryArray.from_arrays(codes, symbols),
            pa.array(days.astype(np.int32)).cast(pa.date32()),
            _constant(kind, n),
            _constant(column, n),
            *(
                pa.nulls(n, pa.float64()) if side is None else pa.array(side, mask=np.isnan(side))
                for side in (a, b)
            ),
        ]
        return pa.Table.from_arrays(arrays, schema=DIFFERENCES)

    for kind, differs in match.differing.items():
        for name, mask in match.columns.items():
            for at in _parts(np.flatnonzero(differs & mask)):
                a, b = match.a[at], match.b[at]
                yield table(kind, there.keys[a], name, there.value(name, a), here.value(name, b))
    for side, kinds in ((there, match.only_there), (here, match.only_here)):
        for kind, places in kinds.items():
            for at in _parts(places):
                yield table(kind, side.keys[at], None)
    for part in _parts(further):
        yield table(DUPLICATE, part, None)


def _parts(places: Any) -> Iterator[Any]:
    return (places[start : start + _PART] for start in range(0, len(places), _PART))


def _constant(text: str | None, rows: int) -> pa.Array:
    if text is None:
        return pa.nulls(rows, SYMBOL)
    codes: Any = pa.array(np.zeros(rows, np.int32))
    return pa.DictionaryArray.from_arrays(codes, pa.array([text]))


def anchor_of(snapshot: Snapshot) -> str:
    """Return the anchor that the bars were made with."""
    return snapshot.properties.get(tables.ANCHOR, "exchange")


def grids(summaries: Sequence[Summary], sample: pa.Table) -> Iterator[RenderableType]:
    """Yield the tables to print: bars by timeframe and kind, and some of the differences, if any."""
    found = [kind for kind in KINDS if any(summary.kinds[kind] for summary in summaries)]
    columns = [name for name in VALUES if any(summary.columns[name] for summary in summaries)]
    rows = [
        [
            s.timeframe,
            *(
                f"{n:,}"
                for n in (s.there, s.here, s.equal, *map(s.kinds.get, found), *map(s.columns.get, columns))
            ),
        ]
        for s in summaries
    ]
    named = ["timeframe", "there", "here", "equal", *(kind.replace("_", " ") for kind in found)]
    yield grid(
        "predecessor (there) and lake (here), bars", [*named, *(f"in {name}" for name in columns)], rows
    )
    if not len(sample):
        return
    plain = [column.cast(pa.string()).to_pylist() for column in sample.columns]
    cells = [["" if value is None else value for value in row] for row in zip(*plain, strict=True)]
    yield grid(
        f"the first {len(sample)} differences", sample.column_names, cells, left=("symbol", "kind", "column")
    )
