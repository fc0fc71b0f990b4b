"""Beam transforms that bring the rows of whole symbols together: where every bounded pipeline begins."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam import pvalue

from fibflow.io.failures import told
from fibflow.io.manifest import Newest, Tally
from fibflow.io.rows import RowSource
from fibflow.io.shuffle import Slice, gather, scatter
from fibflow.io.sinks import mark_progress
from fibflow.io.storage import Storage
from fibflow.io.tables import ALL_TIME, MINUTES_PERIOD, split_by
from fibflow.io.threads import InThreads
from fibflow.transforms import coders
from fibflow.transforms.calendar import TradingCalendar
from fibflow.transforms.partials import numbers
from fibflow.transforms.validation import Validated

coders.register()

UNITS = "units"
DEAD_LETTERS = "dead_letters"
TALLIES = "tallies"


class _Scatter(beam.DoFn):
    def __init__(
        self, source: RowSource, calendar: TradingCalendar, bounds: Sequence[str], staging: Storage
    ) -> None:
        self._source, self._calendar, self._bounds, self._staging = source, calendar, bounds, staging

    def process(self, element: tuple[int, list[Any]]) -> Iterator[Any]:
        number, items = element
        with told(self._staging):
            validated = self._source.read(items)
        yield from _counts(validated)
        for period, rows in _by_period(validated.rows, self._calendar):
            path = f"spill/{number:06d}-{period}.arrow"
            for range_number, part in scatter(rows, self._bounds, self._staging, path):
                yield (period, range_number), part
        mark_progress(self._staging, f"scatter-{number}")


class Gather(beam.DoFn):
    """Reads a unit, slices of spill files and items as they are; yields one table of whole symbols."""

    def __init__(self, source: RowSource, staging: Storage) -> None:
        self._source, self._staging = source, staging

    def process(self, element: tuple[tuple[str, int], Iterable[Any]]) -> Iterator[Any]:
        """Read one unit."""
        (period, number), found = element
        parts = list(found)
        slices = [part for part in parts if isinstance(part, Slice)]
        items = [item for part in parts if not isinstance(part, Slice) for item in part]
        tables = gather(slices, self._staging)
        if items:
            with told(self._staging):
                validated = self._source.read(items)
            yield from _counts(validated)
            tables.append(validated.rows)
        rows = pa.concat_tables(tables, promote_options="default")
        del tables
        if len(rows):
            yield rows
        mark_progress(self._staging, f"gather-{period}-{number}")


def _by_period(rows: pa.Table, calendar: TradingCalendar) -> Iterator[tuple[str, pa.Table]]:
    """Cut minute rows by month of their session: a unit of all time would not fit in memory.

    Daily rows stay together.
    """
    if "session" in rows.column_names or not len(rows):
        yield ALL_TIME, rows
        return
    ts = numbers(rows, "ts")
    days = calendar.days[calendar.positions_at(ts)]
    for period, mask in split_by(MINUTES_PERIOD.names(days)):
        yield period, rows if mask is None else rows.filter(pa.array(mask))


def _counts(validated: Validated) -> Iterator[pvalue.TaggedOutput]:
    rows, rejected = validated.rows, validated.rejected
    if len(rejected):
        yield pvalue.TaggedOutput(DEAD_LETTERS, rejected)
    yield pvalue.TaggedOutput(TALLIES, Tally("rows_read", len(rows) + len(rejected)))
    if len(rows) and "session" in rows.column_names:
        days = rows["session"].combine_chunks().view(pa.int32()).to_numpy()
        yield pvalue.TaggedOutput(TALLIES, Newest(int(days.max())))


@dataclass
class GroupSymbols(beam.PTransform):
    """Bring together the references to all rows of each symbol.

    Input: the root of a pipeline. Output: ``units``, ((period, symbol range), references) for ``Gather``: the
    period is all of time, or of minutes that were scattered a month; ``dead_letters``, tables of refused
    rows; ``tallies``.

    Attributes:
        source: reads items.
        calendar: says which month a minute belongs to.
        direct: (range, items) of items within one symbol range; with minutes, none where any are scattered.
        scattered: groups of items that are not.
        bounds: of the ranges.
        staging: for spill files.
        threads: how many groups are scattered at once.
    """

    source: RowSource
    calendar: TradingCalendar
    direct: Sequence[tuple[int, list[Any]]]
    scattered: Sequence[list[Any]]
    bounds: Sequence[str]
    staging: Storage
    threads: int = 1

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, root: pvalue.PBegin) -> dict[str, beam.PCollection]:
        """Scatter what spans ranges, then group the references by range."""
        scatter_rows = _Scatter(self.source, self.calendar, self.bounds, self.staging)
        in_threads = beam.ParDo(InThreads([scatter_rows], self.threads))
        scattered = (
            root
            | "Files" >> beam.Create(list(enumerate(self.scattered)))
            | "Scatter" >> in_threads.with_outputs(DEAD_LETTERS, TALLIES, main="slices")
        )
        coders.tables_of(scattered, DEAD_LETTERS)
        direct = root | "FilesOfRanges" >> beam.Create(
            [((ALL_TIME, number), items) for number, items in self.direct]
        )
        units = (scattered["slices"], direct) | beam.Flatten() | "ByRange" >> beam.GroupByKey()
        return {UNITS: units, DEAD_LETTERS: scattered[DEAD_LETTERS], TALLIES: scattered[TALLIES]}
