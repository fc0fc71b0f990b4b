"""``AggregateBars``: rows in, bars of every timeframe out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam import pvalue

from fibflow.transforms import coders
from fibflow.transforms.bars import BarSpec, daily_bars, minute_bars
from fibflow.transforms.buckets import BUCKETS, bucket_of
from fibflow.transforms.duplicates import resolve
from fibflow.transforms.history import note_of, split_history
from fibflow.transforms.livebars import Plan, StreamPolicy
from fibflow.transforms.livedofn import BARS, DEAD_LETTERS, LATE, OPEN, LiveBarsFn, split_ticks
from fibflow.transforms.openbars import Pace
from fibflow.transforms.partials import as_arrow, encode_symbols
from fibflow.transforms.tickrows import is_stream_input
from fibflow.transforms.ticks import aggregate_ticks
from fibflow.transforms.timeframe import TimeframeError
from fibflow.transforms.validation import Names, dead_letters

coders.register()

__all__ = [
    "BARS",
    "DEAD_LETTERS",
    "LATE",
    "OPEN",
    "AggregateBars",
    "MakeBars",
    "Pace",
    "StreamPolicy",
    "aggregate",
    "split_by_bucket",
]


def split_by_bucket(rows: pa.Table, buckets: int = BUCKETS) -> Iterator[tuple[int, pa.Table]]:
    """Yield (bucket, rows) with the order of rows kept within each bucket."""
    if not len(rows):
        return
    symbols, codes = encode_symbols(rows["symbol"])
    names: list[Any] = symbols.to_pylist()
    of_symbol = np.array([bucket_of(name, buckets) for name in names], np.int64)
    of_row = of_symbol[codes]
    order = np.argsort(of_row, kind="stable")
    starts = np.flatnonzero(np.diff(of_row[order], prepend=-1))
    stops = np.append(starts[1:], len(order))
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        yield int(of_row[order[start]]), rows.take(as_arrow(order[start:stop]))


def aggregate(rows: pa.Table, spec: BarSpec, origins: Names = ("",)) -> tuple[list[pa.Table], pa.Table]:
    """Return the bars of each timeframe, and the duplicates that lost, of rows that hold whole symbols.

    The plain twin of ``AggregateBars``.

    Args:
        rows: DAILY_ROWS or MINUTE_ROWS in any order, where a column ``rank`` orders rows of one key; or rows
            of a stream, TRADE_INPUT or MINUTE_INPUT, as ``ticks.aggregate_ticks`` takes them.
        spec: what to make.
        origins: names of the files by rank, for dead letters.
    """
    if is_stream_input(rows):
        return aggregate_ticks(rows, spec)
    daily = "session" in rows.column_names
    winners, losers = resolve(rows, "session" if daily else "ts", ranked=False)
    bars = list((daily_bars if daily else minute_bars)(winners, spec))
    return bars, dead_letters(losers, "duplicate", origins)


@beam.typehints.with_input_types(pa.Table)
@beam.typehints.with_output_types(pa.Table)
class MakeBars(beam.DoFn):
    """Makes the bars of tables that hold whole symbols; ``DEAD_LETTERS`` are the rows that did not count."""

    def __init__(self, spec: BarSpec, origins: Names) -> None:
        self._spec = spec
        self._origins = origins

    def process(self, element: pa.Table) -> Iterator[pa.Table | pvalue.TaggedOutput]:
        """Yield a table of bars a timeframe."""
        bars, lost = aggregate(element, self._spec, self._origins)
        yield from bars
        if len(lost):
            yield pvalue.TaggedOutput(DEAD_LETTERS, lost)


@dataclass
class AggregateBars(beam.PTransform):
    """Make the bars of every timeframe.

    Bounded input: a PCollection of tables of DAILY_ROWS or MINUTE_ROWS in any order and cut. A key (symbol,
    time) that occurs again is resolved by ``version`` and ``rank``; a file that holds one key twice comes in
    one table. Or tables of TRADE_INPUT or MINUTE_INPUT, an archived stream, in any order and cut.
    Output: ``bars``, tables of ``partials.BAR_BATCH``, one timeframe and whole symbols each; and
    ``dead_letters``, tables of DEAD_LETTERS with the rows that did not count.

    Unbounded input: a PCollection of tables of TRADE_INPUT, or of MINUTE_INPUT, in any order and cut. For
    timeframes of several sessions a pair: with it a PCollection of ``history`` elements, whose watermark does
    not pass anything before they tell of all official days of open windows.
    Output: ``bars``, tables of ``partials.BAR_BATCH``: each bar when its window ends (``complete``), with a
    higher ``revision`` whenever it changes after, and ``final`` when nothing can change it any more;
    ``open``, the fields of ``openbars.Flush`` with bars of windows that have not ended, at the pace that is
    asked for; ``late``, tables of LATE with the rows that came after their minute's horizon; and
    ``dead_letters``. ``docs/streaming.md`` states the policy. What is kept by the greatest (revision, final)
    is what bounded input without the ``late`` rows gives.

    Attributes:
        spec: what to make; ``docs/data-model.md`` says what the fields mean.
        whole_symbols: each element holds all rows of its symbols (for minutes: of its symbols' sessions), so
            that nothing has to be shuffled. The caller proves it, by the files' statistics.
        origins: names of the files by rank, for dead letters.
        buckets: into how many keys symbols of bounded input are hashed where they are shuffled.
        stream: lateness and buckets of unbounded input.
        pace: how open bars of unbounded input go out; None for none of them.
    """

    spec: BarSpec
    whole_symbols: bool = False
    origins: Names = ("",)
    buckets: int = BUCKETS
    stream: StreamPolicy = field(default_factory=StreamPolicy)
    pace: Pace | None = None

    def __post_init__(self) -> None:
        super().__init__()

    def expand(
        self, rows: beam.PCollection | tuple[beam.PCollection, beam.PCollection]
    ) -> pvalue.DoOutputsTuple:
        """Group by symbol bucket where needed, then run the kernel."""
        if isinstance(rows, tuple):
            return self._unbounded(*rows)
        return self._bounded(rows) if rows.is_bounded else self._unbounded(rows, None)

    def _unbounded(self, rows: beam.PCollection, history: beam.PCollection | None) -> pvalue.DoOutputsTuple:
        plan = Plan(self.spec, self.stream)
        if (plan.days is None) != (history is None):
            raise TimeframeError("timeframes of several sessions come with history, and no others")
        buckets = self.stream.buckets
        split = beam.FlatMap(split_ticks, buckets).with_output_types(tuple[int, pa.Table])
        fold = beam.ParDo(LiveBarsFn(self.spec, self.stream, self.pace))
        keyed = rows | "ByBucket" >> split
        if history is not None:
            days = beam.FlatMap(_days_by_bucket, buckets).with_output_types(tuple[int, pa.Table])
            keyed = (keyed, history | "HistoryByBucket" >> days) | "WithHistory" >> beam.Flatten()
        made = keyed | "Live" >> fold.with_outputs(OPEN, LATE, DEAD_LETTERS, main=BARS)
        made[OPEN].element_type = tuple[int, int, bool, bool, pa.Table]
        return coders.tables_of(made, BARS, LATE, DEAD_LETTERS)

    def _bounded(self, rows: beam.PCollection) -> pvalue.DoOutputsTuple:
        if not self.whole_symbols:
            rows = (
                rows
                | "ByBucket"
                >> beam.FlatMap(split_by_bucket, self.buckets).with_output_types(tuple[int, pa.Table])
                | beam.GroupByKey()
                | "Concat" >> beam.MapTuple(_concat).with_output_types(pa.Table)
            )
        fold = beam.ParDo(MakeBars(self.spec, self.origins))
        made = rows | "Fold" >> fold.with_outputs(DEAD_LETTERS, main=BARS)
        return coders.tables_of(made, BARS, DEAD_LETTERS)


def _days_by_bucket(element: pa.Table, buckets: int) -> Iterator[tuple[int, pa.Table]]:
    note = note_of(element)
    assert note is not None
    return split_history(element, note, buckets)


def _concat(_: int, tables: Iterable[pa.Table]) -> pa.Table:
    return pa.concat_tables(list(tables), promote_options="default")
