"""Beam transforms that bring the rows of whole symbols together: the reading end of every bounded pipeline."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam import pvalue

from fibflow.io.manifest import Tally
from fibflow.io.rows import RowSource
from fibflow.io.shuffle import Slice, gather, scatter
from fibflow.io.sinks import mark_progress
from fibflow.io.storage import Storage
from fibflow.transforms import coders

coders.register()

ROWS = "rows"
DEAD_LETTERS = "dead_letters"
TALLIES = "tallies"


class _Scatter(beam.DoFn):
    def __init__(self, source: RowSource, bounds: Sequence[str], staging: Storage) -> None:
        self._source, self._bounds, self._staging = source, bounds, staging

    def process(self, element: tuple[int, list[Any]]) -> Iterator[Any]:
        number, items = element
        validated = self._source.read(items)
        yield from _refused(validated.rejected)
        yield pvalue.TaggedOutput(TALLIES, Tally("rows_read", len(validated.rows) + len(validated.rejected)))
        yield from scatter(validated.rows, self._bounds, self._staging, f"spill/{number:06d}.arrow")
        mark_progress(self._staging, f"scatter-{number}")


class _Gather(beam.DoFn):
    def __init__(self, source: RowSource, staging: Storage) -> None:
        self._source, self._staging = source, staging

    def process(self, element: tuple[int, Iterable[Any]]) -> Iterator[Any]:
        number, found = element
        parts = list(found)
        slices = [part for part in parts if isinstance(part, Slice)]
        items = [item for part in parts if not isinstance(part, Slice) for item in part]
        tables = gather(slices, self._staging)
        if items:
            validated = self._source.read(items)
            yield from _refused(validated.rejected)
            yield pvalue.TaggedOutput(TALLIES, Tally("rows_read", len(validated.rows) + len(validated.rejected)))
            tables.append(validated.rows)
        rows = pa.concat_tables(tables, promote_options="default")
        del tables
        if len(rows):
            yield rows
        mark_progress(self._staging, f"gather-{number}")


def _refused(rows: pa.Table) -> Iterator[pvalue.TaggedOutput]:
    if len(rows):
        yield pvalue.TaggedOutput(DEAD_LETTERS, rows)


@dataclass
class ReadWholeSymbols(beam.PTransform):
    """Read rows so that each element holds all rows of its symbols.

    Input: the root of a pipeline. Output: ``rows``, tables of validated rows, a symbol range each; ``dead_letters``, tables of
    refused rows; ``tallies``.

    Attributes:
        source: reads items.
        direct: (range, items) of items within one symbol range.
        scattered: groups of items that are not.
        bounds: of the ranges.
        staging: for spill files.
    """

    source: RowSource
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
            >> beam.ParDo(_Scatter(self.source, self.bounds, self.staging)).with_outputs(
                DEAD_LETTERS, TALLIES, main="slices"
            )
        )
        direct = root | "FilesOfRanges" >> beam.Create(list(self.direct))
        gathered = (
            (scattered["slices"], direct)
            | beam.Flatten()
            | "ByRange" >> beam.GroupByKey()
            | "Gather"
            >> beam.ParDo(_Gather(self.source, self.staging)).with_outputs(DEAD_LETTERS, TALLIES, main=ROWS)
        )
        return {
            ROWS: gathered[ROWS],
            DEAD_LETTERS: (scattered[DEAD_LETTERS], gathered[DEAD_LETTERS]) | "DeadLetters" >> beam.Flatten(),
            TALLIES: (scattered[TALLIES], gathered[TALLIES]) | "Tallies" >> beam.Flatten(),
        }
