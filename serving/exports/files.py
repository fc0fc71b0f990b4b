"""Which files hold the bars of a question, and how DuckDB reads them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from fibflow.io import coverage
from fibflow.io.bars import where_of
from fibflow.io.datafiles import DataFile
from fibflow.io.readbars import View
from fibflow.io.snapshot import Snapshot
from fibflow.io.storage import Storage
from fibflow.transforms.schemas import BARS

#: What DuckDB would take for a pattern in a path.
_PATTERN = frozenset("*?[")


@dataclass(frozen=True)
class Stretch:
    """Which bars of a view: of some symbols or all, ``ts`` in ``[start, end)``, UTC microseconds."""

    view: View
    timeframe: str
    symbols: tuple[str, ...] | None
    start: int | None
    end: int | None
    complete_only: bool


@dataclass(frozen=True)
class Files:
    """Files of one table that may hold rows of a stretch, with the symbols that they lie between."""

    storage: Storage
    files: tuple[DataFile, ...] = ()
    lows: tuple[str | None, ...] = ()
    highs: tuple[str | None, ...] = ()

    def within(self, first: str, last: str) -> Files:
        """Return those that may hold symbols from ``first`` to ``last``."""
        kept = [
            at
            for at, (low, high) in enumerate(zip(self.lows, self.highs, strict=True))
            if (low is None or low <= last) and (high is None or high >= first)
        ]
        return replace(
            self,
            files=tuple(self.files[at] for at in kept),
            lows=tuple(self.lows[at] for at in kept),
            highs=tuple(self.highs[at] for at in kept),
        )

    @property
    def paths(self) -> list[str]:
        """As the filesystem takes them."""
        return [self.storage.path(file.path) for file in self.files]


def source_of(name: str, files: Files) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return what stands behind FROM for some files, with its values and tables; it has a column ``path``."""
    paths = files.paths
    if not files.storage.is_s3 and not any(_PATTERN & set(path) for path in paths):
        text = f"read_parquet(${name}, hive_partitioning = false, filename = 'path')"
        return text, {name: paths}, {}
    # DuckDB reads buckets by an extension that it would load from the net: Arrow reads them for it. Arrow's
    # datasets import pandas, which takes a second.
    import pyarrow.dataset as pads

    make: Any = pads.ParquetFileFormat
    parquet = make()
    filesystem = files.storage.filesystem
    fragments = [
        parquet.make_fragment(path, filesystem, partition_expression=pads.field("path") == path)
        for path in paths
    ]
    schema = pa.schema(
        [*(field for field in BARS if field.name != "timeframe"), pa.field("path", pa.string())]
    )
    return name, {}, {name: pads.FileSystemDataset(fragments, schema, parquet, filesystem)}


def files_of(snapshot: Snapshot, stretch: Stretch, hidden: coverage.Stretches) -> Files:
    """Return the files that may hold bars of a stretch which no stretch of ``hidden`` holds."""
    where = where_of(stretch.timeframe, stretch.complete_only)
    chosen = snapshot.select(stretch.symbols, stretch.start, stretch.end, where)
    columns: dict[str, list[Any]] = {}
    for name in ("min.symbol", "max.symbol", "min.ts", "max.end"):
        column: Any = snapshot.files[name] if name in snapshot.files.column_names else None
        if column is None:
            columns[name] = [None] * len(snapshot)
        else:
            columns[name] = (column if name.endswith("symbol") else column.cast(pa.int64())).to_pylist()
    bounds = dict(zip(snapshot.unquoted_paths, zip(*columns.values(), strict=True), strict=True))
    kept = [
        file
        for file in chosen
        if None in (bounds[file.path][2], bounds[file.path][3])
        or not coverage.covers(hidden, bounds[file.path][2], bounds[file.path][3])
    ]
    lows, highs = (tuple(bounds[file.path][side] for file in kept) for side in (0, 1))
    return Files(snapshot.storage, tuple(kept), lows, highs)
