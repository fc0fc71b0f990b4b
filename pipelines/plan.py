"""How a run's input is cut into units of work: symbol ranges whose rows fit in memory, and their files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import pyarrow.compute as pc

from fibflow.io.datafiles import DataFile
from fibflow.io.rows import RawRows, RowSource
from fibflow.io.shuffle import range_of, split_symbols
from fibflow.io.snapshot import Snapshot, read_files

#: Rows a unit: its bars fill files of a good size, and some units at once fit in memory.
UNIT_ROWS = 950_000
_FOOTERS = 16
#: Of a line of CSV, whose file does not say how many it has.
_BYTES_A_ROW = 50.0
_SAMPLES = 3


@dataclass(frozen=True)
class Plan:
    """What a pipeline reads.

    Attributes:
        source: reads items.
        bounds: the first symbol of each symbol range after the first.
        direct: (range, items) whose items hold symbols of that range only.
        scattered: groups of items whose rows belong to several ranges.
        rows: how many rows there are, about.
    """

    source: RowSource
    bounds: list[str] = field(default_factory=list)
    direct: list[tuple[int, list[Any]]] = field(default_factory=list)
    scattered: list[list[Any]] = field(default_factory=list)
    rows: int = 0

    @property
    def units(self) -> int:
        """How many units the rows are grouped into, at most."""
        return len(self.bounds) + 1


@dataclass(frozen=True)
class _Item:
    """A file with what is known of it without reading.

    ``low`` to ``high`` are its symbols, None where unknown.
    """

    payload: Any
    rows: int
    low: str | None
    high: str | None


def plan_raw(source: RawRows, unit_rows: int = UNIT_ROWS) -> Plan:
    """Plan a run over the raw files that ``source`` has staged.

    Raises:
        InputError: as ``RawReader.statistics`` and ``RawReader.read``.
    """
    reader, files = source.reader, source.files
    named = [rank for rank, file in enumerate(files) if file.symbol is not None]
    unnamed = [rank for rank, file in enumerate(files) if file.symbol is None]
    asked = [*named[:_FOOTERS], *unnamed]
    footers = reader.footers(files[rank] for rank in asked)
    known = {rank: stats for rank, stats in zip(asked, footers, strict=True) if stats is not None}
    counted = sum(stats.rows for stats in known.values())
    bytes_a_row = sum(files[rank].size for rank in known) / counted if counted else _BYTES_A_ROW
    items = []
    for rank, file in enumerate(files):
        stats = known.get(rank)
        rows = stats.rows if stats else int(file.size / max(1.0, bytes_a_row)) + 1
        low, high = (stats.symbol_min, stats.symbol_max) if stats else (file.symbol, file.symbol)
        items.append(_Item(rank, rows, low, high))

    def sample(item: _Item) -> Counter[str]:
        return _symbol_counts(reader.read(files[item.payload], source.kind, ["symbol"])["symbol"])

    return _plan(source, items, sample, unit_rows)


def plan_bronze(
    source: RowSource, snapshot: Snapshot, files: Sequence[DataFile], unit_rows: int = UNIT_ROWS
) -> Plan:
    """Plan a run over files of a bronze table; a few rows are one unit."""
    rows = sum(file.rows for file in files)
    if rows <= 2 * unit_rows and source.kind == "daily":
        return Plan(source, direct=[(0, list(files))] if files else [], rows=rows)
    table = snapshot.files
    columns = (table.column(name).to_pylist() for name in ("path", "min.symbol", "max.symbol"))
    bounds = {unquote(path): (low, high) for path, low, high in zip(*columns, strict=True)}
    items = [_Item(file, file.rows, *bounds.get(file.path, (None, None))) for file in files]

    def sample(item: _Item) -> Counter[str]:
        rows, _ = read_files(
            snapshot.storage, snapshot.spec, [item.payload], ["symbol"], dictionary=["symbol"]
        )
        return _symbol_counts(rows["symbol"])

    return _plan(source, items, sample, unit_rows)


def _symbol_counts(column: Any) -> Counter[str]:
    counts = pc.value_counts(column.unify_dictionaries()).to_pylist()
    return Counter({entry["values"]: entry["counts"] for entry in counts if entry["values"]})


def _plan(source: RowSource, items: Sequence[_Item], sample: Any, unit_rows: int) -> Plan:
    """Choose ranges of about ``unit_rows`` rows, and sort the files by whether they fit in one."""
    narrow = [item for item in items if item.low is not None and item.low == item.high]
    wide = [item for item in items if item.low is None or item.low != item.high]
    weights = [(item.low or "", item.rows) for item in narrow]
    if wide:
        weights += _sampled(wide, sample)
    bounds = split_symbols(weights, unit_rows)
    direct: dict[int, list[Any]] = {}
    scattered: list[_Item] = []
    # A range of minutes that is scattered comes month by month, a direct one at once: the two would not meet.
    apart = source.kind == "minutes" and any(_range(item, bounds) is None for item in items)
    for item in items:
        number = None if apart else _range(item, bounds)
        if number is None:
            scattered.append(item)
        else:
            direct.setdefault(number, []).append(item.payload)
    rows = sum(item.rows for item in items)
    return Plan(source, bounds, sorted(direct.items()), list(_chunks(scattered, unit_rows)), rows)


def _range(item: _Item, bounds: Sequence[str]) -> int | None:
    """Return the range that holds all symbols of a file; None where none does, or they are unknown."""
    if item.low is None or item.high is None:
        return None
    first = range_of(item.low, bounds)
    return first if range_of(item.high, bounds) == first else None


def _sampled(wide: Sequence[_Item], sample: Any) -> list[tuple[str, int]]:
    """Return symbols' rows in all wide files, judged by the largest few."""
    chosen = sorted(wide, key=lambda item: item.rows, reverse=True)[:_SAMPLES]
    counts: Counter[str] = Counter()
    for item in chosen:
        counts.update(sample(item))
    scale = sum(item.rows for item in wide) / max(1, counts.total())
    return [(symbol, max(1, int(count * scale))) for symbol, count in counts.items()]


def _chunks(items: Iterable[_Item], unit_rows: int) -> Iterable[list[Any]]:
    """Put small files together; a spill file is written for each group."""
    group: list[Any] = []
    filled = 0
    for item in items:
        if group and filled + item.rows > unit_rows:
            yield group
            group, filled = [], 0
        group.append(item.payload)
        filled += item.rows
    if group:
        yield group
