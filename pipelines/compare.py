"""Bars of the predecessor's silver files against those of a lake, difference by difference.

Bars are matched by (symbol, session of ``ts``), one timeframe at a time, in sorted arrays.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from rich.console import RenderableType

from fibflow.io import tables
from fibflow.io.aws import AwsConfig
from fibflow.io.convert import to_double, to_symbol, to_utc_us
from fibflow.io.files import InputError, RawFile, filesystem_for, list_raw
from fibflow.io.raw import ALIASES
from fibflow.io.snapshot import Snapshot
from fibflow.io.storage import LakeError
from fibflow.pipelines.show import grid
from fibflow.transforms.calendar import NO_SESSION, TradingCalendar
from fibflow.transforms.schemas import SYMBOL
from fibflow.transforms.timeframe import Timeframe, TimeframeError

VALUES = ("open", "high", "low", "close", "volume")

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

_FOLDER = re.compile(r"(?:^|/)silver_(\d+[mhd])(?=/)")
# A key is the symbol's code, then the day, moved so that it is positive.
_SLOT = 32
_DAY_0 = 1 << 31

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


class Silver:
    """The predecessor's silver files at or under ``uri``: ``silver_<timeframe>/**/*.parquet``.

    Raises:
        InputError: there are none.
    """

    def __init__(self, uri: str, aws: AwsConfig | None = None) -> None:
        self.uri = uri
        self._filesystem: pafs.FileSystem = filesystem_for(uri, aws)[0]
        self._files: dict[str, list[RawFile]] = {}
        for file in list_raw(uri, aws):
            if file.is_parquet and (found := _FOLDER.findall(file.path)):
                self._files.setdefault(found[-1], []).append(file)
        if not self._files:
            raise InputError(f"{uri}: no folder silver_3d, silver_5d or the like with Parquet files is in it")

    @property
    def timeframes(self) -> list[str]:
        """The timeframes that there are files of, shortest first.

        Raises:
            InputError: a folder's name is no timeframe.
        """
        try:
            return [t.name for t in sorted(map(Timeframe.parse, self._files))]
        except TimeframeError as error:
            raise InputError(f"{self.uri}: {error}") from None

    def read(self, timeframe: str) -> pa.Table:
        """Return the rows of a timeframe: symbol, ts and ``VALUES``, in order of the files' paths.

        Raises:
            InputError: there are no files of it, or one cannot be read.
        """
        if timeframe not in self._files:
            raise InputError(
                f"{self.uri}: no folder silver_{timeframe}; there are {', '.join(self.timeframes)}"
            )
        return pa.concat_tables([self._read(file) for file in self._files[timeframe]]).unify_dictionaries()

    def _read(self, file: RawFile) -> pa.Table:
        try:
            with self._filesystem.open_input_file(file.path) as source:
                parquet = pq.ParquetFile(source)
                names = {name.lower(): name for name in parquet.schema_arrow.names}
                found = {}
                for name in ("symbol", "ts", *VALUES):
                    there = [names[alias] for alias in ALIASES[name] if alias in names]
                    if not there:
                        wanted, has = " or ".join(ALIASES[name]), ", ".join(names.values())
                        raise InputError(f"{file.path}: no column for {name} ({wanted}); it has {has}")
                    found[name] = there[0]
                rows = parquet.read(list(found.values()), use_threads=False)
            columns: list[Any] = [to_symbol(rows[found["symbol"]]), to_utc_us(rows[found["ts"]])]
            columns += [to_double(rows[found[name]]) for name in VALUES]
        except (OSError, pa.ArrowException, TypeError) as error:
            line = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"{file.path}: cannot be read as silver bars ({line})") from error
        table = pa.table(columns, names=["symbol", "ts", *VALUES])
        if table["symbol"].null_count or table["ts"].null_count:
            raise InputError(f"{file.path}: a row has no symbol, or no date that can be read")
        return table


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
    theirs = silver.read(timeframe)
    ours, _ = snapshot.read(["symbol", "ts", *VALUES, "complete"], where=where, dictionary=("symbol",))
    symbols = pa.concat_arrays([_names(theirs), _names(ours)]).unique()
    symbols = symbols.take(pc.array_sort_indices(symbols))
    there, further = _side(theirs, symbols, calendar.session_days(_micros(theirs)))
    del theirs
    positions = calendar.positions_at(_micros(ours))
    if (positions == NO_SESSION).any():
        raise LakeError(f"{timeframe} bars of this lake lie outside the sessions of {calendar.name}")
    here, _ = _side(ours, symbols, calendar.days[positions])
    del ours
    match = _match(there, here, timeframe, tolerance)
    match.summary.kinds[DUPLICATE] = len(further)
    match.summary.there += len(further)
    return match.summary, _differences(match, symbols, further)


def _names(table: pa.Table) -> pa.Array:
    chunks: list[Any] = table["symbol"].chunks
    parts = [chunk.dictionary for chunk in chunks]
    return pa.concat_arrays(parts).unique() if parts else pa.array([], pa.string())


def _micros(table: pa.Table) -> Int64:
    return pc.cast(table["ts"], pa.int64()).to_numpy()


def _side(table: pa.Table, symbols: pa.Array, days: npt.NDArray[Any]) -> tuple[Side, Int64]:
    """Return the side, and the keys of rows that a later row of the same key replaces."""
    chunks: list[Any] = table["symbol"].chunks
    codes = [
        pc.index_in(chunk.dictionary, value_set=symbols).to_numpy().astype(np.int64)[chunk.indices.to_numpy()]
        for chunk in chunks
    ]
    keys = (np.concatenate([np.zeros(0, np.int64), *codes]) << _SLOT) + (days.astype(np.int64) + _DAY_0)
    del codes
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    again = np.append(keys[1:] == keys[:-1], False) if len(keys) else np.zeros(0, np.bool_)
    further = keys[again]
    if len(further):
        keys, order = keys[~again], order[~again]
    values = {name: table[name].to_numpy() for name in VALUES}
    complete = table["complete"].to_numpy() if "complete" in table.column_names else None
    return Side(keys, order, values, complete), further


@dataclass
class _Match:
    """Two sides brought together: places in their keys, by kind of difference."""

    there: Side
    here: Side
    summary: Summary
    only_there: dict[str, Index]
    only_here: dict[str, Index]
    differing: dict[str, dict[str, tuple[Index, Index]]]


def _match(there: Side, here: Side, timeframe: str, tolerance: float) -> _Match:
    place = np.searchsorted(here.keys, there.keys)
    place[place == len(here)] = 0
    both = here.keys[place] == there.keys if len(here) else np.zeros(len(there), np.bool_)
    a, b = np.flatnonzero(both), place[both]
    unmatched = np.ones(len(here), np.bool_)
    unmatched[b] = False
    open_here = ~here.complete[here.order] if here.complete is not None else np.zeros(len(here), np.bool_)

    summary = Summary(timeframe, len(there), len(here))
    ends = there.last_of_symbol()
    # Their files do not say which windows are partial: a symbol's last one, where the lake leaves such out.
    dropped = ends & _beyond(there, here) if not open_here.any() else np.zeros(len(there), np.bool_)
    only_there = _by_trailing(ONLY_THERE, np.flatnonzero(~both), dropped)
    only_here = _by_trailing(ONLY_HERE, np.flatnonzero(unmatched), open_here)
    columns: dict[str, npt.NDArray[np.bool_]] = {}
    different = np.zeros(len(a), np.bool_)
    for name in VALUES:
        columns[name] = ~_equal(there.value(name, a), here.value(name, b), tolerance)
        different |= columns[name]
    # Where the lake goes on after their last bar, that one was made of fewer days.
    trailing = open_here[b] | (ends[a] & ~here.last_of_symbol()[b])
    differing: dict[str, dict[str, tuple[Index, Index]]] = {}
    for kind, mask in ((DIFFERS, different & ~trailing), (TRAILING + DIFFERS, different & trailing)):
        summary.kinds[kind] = int(mask.sum())
        differing[kind] = {name: (a[mask & found], b[mask & found]) for name, found in columns.items()}
        summary.columns.update({name: len(found[0]) for name, found in differing[kind].items()})
    for kind, places in (*only_there.items(), *only_here.items()):
        summary.kinds[kind] = len(places)
    summary.equal = len(a) - int(different.sum())
    return _Match(there, here, summary, only_there, only_here, differing)


def _beyond(there: Side, here: Side) -> npt.NDArray[np.bool_]:
    """Return which of their bars come after the lake's last one of the symbol, or are its first."""
    own = there.keys >> _SLOT
    codes = np.concatenate([[-1], here.keys >> _SLOT, [-1]])
    following = np.searchsorted(here.keys, there.keys)
    first = np.append(True, own[1:] != own[:-1]) if len(own) else np.zeros(0, np.bool_)
    return (codes[following + 1] != own) & ((codes[following] == own) | first)


def _by_trailing(kind: str, places: Index, trailing: npt.NDArray[np.bool_]) -> dict[str, Index]:
    late = trailing[places]
    return {kind: places[~late], TRAILING + kind: places[late]}


def _equal(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], tolerance: float) -> npt.NDArray[np.bool_]:
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if tolerance:
        same |= np.abs(a - b) <= tolerance * np.maximum(np.abs(a), np.abs(b))
    return same


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

    for kind, columns in match.differing.items():
        for name, (a, b) in columns.items():
            if len(a):
                yield table(kind, there.keys[a], name, there.value(name, a), here.value(name, b))
    for side, kinds in ((there, match.only_there), (here, match.only_here)):
        for kind, places in kinds.items():
            if len(places):
                yield table(kind, side.keys[places], None)
    if len(further):
        yield table(DUPLICATE, further, None)


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
