"""Beam transforms of a load: raw files in, data files of a bronze table out."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import quote

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from apache_beam import pvalue

from fibflow.io import tables
from fibflow.io.datafiles import DataFile, DataFileWriter
from fibflow.io.dialect import Kind
from fibflow.io.failures import told
from fibflow.io.ledger import KnownFiles
from fibflow.io.manifest import Tally, Wrote
from fibflow.io.rows import RawRows
from fibflow.io.shuffle import Slice, gather, range_of, scatter_groups
from fibflow.io.sinks import mark_progress
from fibflow.io.snapshot import Snapshot, read_files
from fibflow.io.storage import Storage
from fibflow.io.threads import InThreads
from fibflow.io.upsert import Origins, compare, patched, pieces, stored_form
from fibflow.transforms import coders
from fibflow.transforms.calendar import TradingCalendar
from fibflow.transforms.duplicates import resolve
from fibflow.transforms.partials import encode_symbols
from fibflow.transforms.validation import Validated, dead_letters

coders.register()

TOLD = "told"
DEAD_LETTERS = "dead_letters"
#: What the manifest calls the stored files that others replace.
REPLACED = "replaced"
#: Rows a data file, about.
FILE_ROWS = 1_000_000

_SLICES = "slices"
_PATCHES = "patches"

Days = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Target:
    """The bronze table that rows are landed in. Can be pickled to workers.

    Attributes:
        snapshot: what it holds; an empty one where all is landed anew.
        kind: of its rows.
        calendar: gives each row its session, and the session its period.
        known: ranks files.
        landed: the number of the load.
        run: the run's id.
        write: False for a dry run.
    """

    snapshot: Snapshot
    kind: Kind
    calendar: TradingCalendar
    known: KnownFiles
    landed: int
    run: str
    write: bool = True

    @property
    def time(self) -> str:
        """The column of the key beside ``symbol``."""
        return "session" if self.kind == "daily" else "ts"

    @property
    def writer(self) -> DataFileWriter:
        """Writes the table's data files."""
        return DataFileWriter(self.snapshot.storage, self.snapshot.spec)

    def positions(self, rows: pa.Table) -> Days:
        """Return the position of each row's session in the calendar, shape (n,)."""
        column = rows[self.time].combine_chunks()
        if self.kind == "daily":
            return self.calendar.positions(column.view(pa.int32()).to_numpy(zero_copy_only=False))
        return self.calendar.positions_at(column.view(pa.int64()).to_numpy(zero_copy_only=False))

    @cached_property
    def periods(self) -> tuple[list[str], npt.NDArray[np.intp]]:
        """The names of all periods, and the number of each session's, shape (sessions,)."""
        period = tables.DAILY_PERIOD if self.kind == "daily" else tables.MINUTES_PERIOD
        names, numbers = np.unique(period.names(self.calendar.days), return_inverse=True)
        return names.tolist(), numbers

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "periods"}


class _Read(beam.DoFn):
    """Read and validate files; spill their rows by period and symbol range."""

    def __init__(
        self,
        source: RawRows,
        target: Target,
        bounds: Sequence[str],
        staging: Storage,
    ) -> None:
        self._source, self._target, self._bounds, self._staging = source, target, bounds, staging

    def process(self, element: tuple[int, list[int]]) -> Iterator[Any]:
        number, items = element
        with told(self._staging):
            validated = self._source.read(items)
            yield from self._counts(validated, items)
            if len(validated.rejected):
                yield pvalue.TaggedOutput(DEAD_LETTERS, validated.rejected)
            if len(validated.rows):
                yield from self._spill(validated.rows, f"spill/{number:06d}.arrow")
            mark_progress(self._staging, f"read-{number}")

    def _counts(self, validated: Validated, items: Sequence[int]) -> Iterator[Any]:
        """Tell how many rows there are, in all and in each file."""
        yield pvalue.TaggedOutput(TOLD, Tally("rows_read", len(validated.rows) + len(validated.rejected)))
        counts = Counter(dict(enumerate(np.bincount(validated.rows["rank"].to_numpy()).tolist())))
        if len(validated.rejected):
            by_path = {self._source.files[item].path: item for item in items}
            found: Any = validated.rejected["origin"].value_counts()
            for entry in found.to_pylist():
                counts[by_path[entry["values"]]] += entry["counts"]
        for item, count in counts.items():
            if count:
                yield pvalue.TaggedOutput(TOLD, Tally(f"rows.{item}", count))

    def _spill(self, rows: pa.Table, path: str) -> Iterator[tuple[str, tuple[int, Slice]]]:
        names, numbers = self._target.periods
        symbols, codes = encode_symbols(rows["symbol"])
        ranges = np.array([range_of(str(name), self._bounds) for name in symbols.to_pylist()], np.int64)
        groups = numbers[self._target.positions(rows)] * (len(self._bounds) + 1) + ranges[codes]
        used = np.zeros(int(groups.max()) + 1, np.bool_)
        used[groups] = True
        found = np.flatnonzero(used)
        # numpy sorts integers of 16 bits by radix.
        dense = np.cumsum(used, dtype=np.uint16 if len(found) <= np.iinfo(np.uint16).max else np.int64) - 1
        for group, part in scatter_groups(rows, dense[groups], self._staging, path):
            period, range_number = divmod(int(found[group]), len(self._bounds) + 1)
            yield names[period], (range_number, part)


def cut(
    element: tuple[str, Iterable[tuple[int, Slice]]], target: int = FILE_ROWS
) -> Iterator[tuple[str, int, list[Slice]]]:
    """Yield (period, number, slices): neighbouring symbol ranges of a period that fill a file together."""
    period, found = element
    parts = sorted(found)
    rows: Counter[int] = Counter()
    for number, part in parts:
        rows[number] += part.rows
    share = rows.total() / max(1, round(rows.total() / target))
    piece: dict[int, int] = {}
    before = 0
    for number in sorted(rows):
        # A range belongs where its middle lies.
        piece[number] = int((before + rows[number] / 2) / share)
        before += rows[number]
    slices: dict[int, list[Slice]] = {}
    for number, part in parts:
        slices.setdefault(piece[number], []).append(part)
    for number, members in sorted(slices.items()):
        yield period, number, members


class _Land(beam.DoFn):
    """Resolve duplicates, compare with what the table holds, write new rows, hand on changes of files."""

    def __init__(self, target: Target, staging: Storage) -> None:
        self._target, self._staging = target, staging

    def process(self, element: tuple[str, int, list[Slice]]) -> Iterator[Any]:
        period, number, slices = element
        with told(self._staging):
            rows = pa.concat_tables(gather(slices, self._staging), promote_options="default")
            yield from self._land(rows, period, number)
            mark_progress(self._staging, f"land-{period}-{number}")

    def _land(self, rows: pa.Table, period: str, number: int) -> Iterator[Any]:
        target = self._target
        ranks = pa.array(target.known.ranks[rows["rank"].to_numpy()])
        rows = rows.set_column(rows.schema.get_field_index("rank"), "rank", ranks)
        winners, losers = resolve(rows, target.time)
        del rows
        if len(losers):
            lost = dead_letters(losers, "duplicate", Origins(target.known))
            yield pvalue.TaggedOutput(DEAD_LETTERS, lost)
        winners = winners.combine_chunks()
        new: Any = np.ones(len(winners), np.bool_)
        changed = ~new
        if len(target.snapshot):
            found = compare(winners, period, target.snapshot, target.known, target.landed)
            new, changed = found.new, found.changed
            for lost in found.lost:
                yield pvalue.TaggedOutput(DEAD_LETTERS, lost)
            for name, count in found.counts.items():
                yield Tally(name, count)
            if target.write:
                yield from self._patches(found.patches, f"patches/{period}-{number}.arrow")
        yield from self._tallies(winners, period, new, changed)
        if target.write and new.any():
            fresh = winners if new.all() else winners.filter(pa.array(new))
            del winners
            yield from self._write(fresh, period, number)

    def _write(self, rows: pa.Table, period: str, number: int) -> Iterator[Wrote]:
        target = self._target
        for piece, part in enumerate(pieces(rows, FILE_ROWS)):
            first = quote(part["symbol"][0].as_py(), safe="")[:64]
            name = f"{target.run}-{number}-{piece}-{first}"
            stored = stored_form(part, target.snapshot.spec, target.known, target.landed)
            yield Wrote(target.snapshot.spec.name, target.writer.write(stored, {"period": period}, name))

    def _patches(self, patches: Sequence[tuple[DataFile, pa.Table]], path: str) -> Iterator[Any]:
        if not patches:
            return
        rows = pa.concat_tables([patch for _, patch in patches]).unify_dictionaries()
        groups = np.repeat(np.arange(len(patches)), [len(patch) for _, patch in patches])
        for place, part in scatter_groups(rows, groups, self._staging, path):
            yield pvalue.TaggedOutput(_PATCHES, (patches[place][0].path, part))

    def _tallies(self, rows: pa.Table, period: str, new: Any, changed: Any) -> Iterator[Tally]:
        """Count new and changed rows by period, and both together by session (days since 1970)."""
        for name, mask in (("new", new), ("changed", changed)):
            if count := int(mask.sum()):
                yield Tally(f"{name}.{period}", count)
        counts = np.bincount(self._target.positions(rows)[new | changed])
        for place in np.flatnonzero(counts).tolist():
            yield Tally(f"session.{self._target.calendar.days[place]}", int(counts[place]))


def rewritten_name(path: str, run: str) -> str:
    """Return the name, without its ending, of the file that a run writes in place of another."""
    return f"{run}-{hashlib.sha256(path.encode()).hexdigest()[:16]}"


class _Rewrite(beam.DoFn):
    """Write a stored file anew with the rows that it gets."""

    def __init__(self, target: Target, staging: Storage) -> None:
        self._target, self._staging = target, staging

    def process(self, element: tuple[str, Iterable[Slice]]) -> Iterator[Wrote]:
        path, slices = element
        snapshot, time = self._target.snapshot, self._target.time
        with told(self._staging):
            patch = pa.concat_tables(gather(slices, self._staging))
            (file,) = (file for file in snapshot.select() if file.path == path)
            names = snapshot.spec.file_schema.names
            stored, _ = read_files(snapshot.storage, snapshot.spec, [file], names, dictionary=["symbol"])
            name = rewritten_name(path, self._target.run)
            written = self._target.writer.write(patched(stored, patch, time), file.partition, name)
        yield Wrote(snapshot.spec.name, written)
        yield Wrote(REPLACED, file)


@dataclass
class LandFiles(beam.PTransform):
    """Land raw files in a bronze table.

    Input: the root of a pipeline. Output: ``told``, the files written and replaced and all that was counted;
    ``dead_letters``, tables of refused rows.

    Attributes:
        source: reads the files.
        target: the table.
        chunks: the files' ranks, those that are read together.
        bounds: first symbol of each symbol range after the first, for what is grouped together.
        staging: for spill files.
        threads: how many elements are worked on at once.
    """

    source: RawRows
    target: Target
    chunks: Sequence[list[int]]
    bounds: Sequence[str]
    staging: Storage
    threads: int = 1

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, root: pvalue.PBegin) -> dict[str, beam.PCollection]:
        """Spill by period, land each period's pieces, then write the stored files that change."""
        reader = _Read(self.source, self.target, self.bounds, self.staging)
        read = (
            root
            | "Chunks" >> beam.Create(list(enumerate(self.chunks)))
            | "Read"
            >> beam.ParDo(InThreads([reader], self.threads)).with_outputs(TOLD, DEAD_LETTERS, main=_SLICES)
        )
        landed = (
            read[_SLICES]
            | "ByPeriod" >> beam.GroupByKey()
            | "Cut" >> beam.FlatMap(cut)
            | "Spread" >> beam.Reshuffle()
            | "Land"
            >> beam.ParDo(InThreads([_Land(self.target, self.staging)], self.threads)).with_outputs(
                _PATCHES, DEAD_LETTERS, main=TOLD
            )
        )
        rewritten = (
            landed[_PATCHES]
            | "ByFile" >> beam.GroupByKey()
            | "Rewrite" >> beam.ParDo(InThreads([_Rewrite(self.target, self.staging)], self.threads))
        )
        return {
            TOLD: (read[TOLD], landed[TOLD], rewritten) | "Told" >> beam.Flatten(),
            DEAD_LETTERS: (read[DEAD_LETTERS], landed[DEAD_LETTERS]) | "DeadLetters" >> beam.Flatten(),
        }
