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
from fibflow.transforms import coders
from fibflow.transforms.calendar import TradingCalendar
from fibflow.transforms.validation import Validated

coders.register()

ROWS = "rows"
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


class _Gather(beam.DoFn):
    def __init__(self, source: RowSource, staging: Storage) -> None:
        self._source, self._staging = source, staging

    def process(self, element: tuple[tuple[str, int], Iterable[Any]]) -> Iterator[Any]:
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
    ts = rows["ts"].combine_chunks().view(pa.int64()).to_numpy()
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
class ReadWholeSymbols(beam.PTransform):
    """Read rows so that each element holds all rows of its symbols.

    Input: the root of a pipeline. Output: ``rows``, tables of validated rows, a symbol range each (of minutes
    that were scattered: and a month each); ``dead_letters``, tables of refused rows; ``tallies``.

    Attributes:
        source: reads items.
        calendar: says which month a minute belongs to.
        direct: (range, items) of items within one symbol range; with minutes, none where any are scattered.
        scattered: groups of items that are not.
        bounds: of the ranges.
        staging: for spill files.
    """

    source: RowSource
    calendar: TradingCalendar
    direct: Sequence[tuple[int, list[Any]]]
    scattered: Sequence[list[Any]]
    bounds: Sequence[str]
    staging: Storage

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, root: pvalue.PBegin) -> dict[str, beam.PCollection]:
        """Scatter what spans ranges, then gather each range by references."""
        scattered = (
            root
            | "Files" >> beam.Create(list(enumerate(self.scattered)))
            | "Scatter"
            >> beam.ParDo(_Scatter(self.source, self.calendar, self.bounds, self.staging)).with_outputs(
                DEAD_LETTERS, TALLIES, main="slices"
            )
        )
        coders.tables_of(scattered, DEAD_LETTERS)
        direct = root | "FilesOfRanges" >> beam.Create(
            [((ALL_TIME, number), items) for number, items in self.direct]
        )
        gathered = (
            (scattered["slices"], direct)
            | beam.Flatten()
            | "ByRange" >> beam.GroupByKey()
            | "Gather"
            >> beam.ParDo(_Gather(self.source, self.staging)).with_outputs(DEAD_LETTERS, TALLIES, main=ROWS)
        )
        coders.tables_of(gathered, ROWS, DEAD_LETTERS)
        return {
            ROWS: gathered[ROWS],
            DEAD_LETTERS: (scattered[DEAD_LETTERS], gathered[DEAD_LETTERS]) | "DeadLetters" >> beam.Flatten(),
            TALLIES: (scattered[TALLIES], gathered[TALLIES]) | "Tallies" >> beam.Flatten(),
        }
