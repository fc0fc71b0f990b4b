"""The graph of the live pipeline, from Kinesis to the live store and the lake: see ``docs/streaming.md``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa

from fibflow.io import lastprices, livesinks, tables
from fibflow.io.aws import AwsConfig
from fibflow.io.history import HistoryStart, TailHistory
from fibflow.io.kinesis import decoded
from fibflow.io.kinesis.positions import Lane
from fibflow.io.kinesis.source import ReadFromKinesis, SourceOptions
from fibflow.io.lake import Lake
from fibflow.io.livefill import FillClosed, last_bars
from fibflow.io.livestore import LiveStore
from fibflow.io.streamcommit import WAKE, CommitFiles
from fibflow.io.streamfiles import FileLimits, WriteFiles
from fibflow.io.streamtables import STREAM_TABLES, StreamJob
from fibflow.io.ticks import DecodeTicks, archive
from fibflow.transforms import aggregate, coders
from fibflow.transforms.bars import BarSpec
from fibflow.transforms.buckets import bucket_of
from fibflow.transforms.conditions import Rule, minute_input, trade_input
from fibflow.transforms.livebars import StreamPolicy

coders.register()

_SLACK_S = 5.0


@dataclass(frozen=True)
class LiveJob:
    """What a live job is made of.

    Attributes:
        lanes: as ``kinesis.shards.deal`` dealt them.
        aws: of the stream.
        feed: ``decoded.TRADES`` or ``decoded.MINUTES``: which of the two makes the bars.
        spec, policy: which bars, and how long they take rows.
        source: how to read.
        lake: None to leave the lake out.
        job: who writes the lake's tables.
        store: None to leave the live store out.
        properties: by table, what it has to say of itself.
        history: what official history is when the job starts; for timeframes of several sessions only.
        writers: how many file writers a table has.
        limits: by table, when rows become a file.
        commit_s: from one commit of a table to the next, seconds.
    """

    lanes: Sequence[Lane]
    aws: AwsConfig
    feed: str
    spec: BarSpec
    policy: StreamPolicy
    source: SourceOptions = field(default_factory=SourceOptions)
    lake: Lake | None = None
    job: StreamJob | None = None
    store: LiveStore | None = None
    properties: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    history: HistoryStart | None = None
    writers: int = 2
    limits: Mapping[str, FileLimits] = field(default_factory=dict)
    commit_s: float = 5.0


class Streams(NamedTuple):
    """What a live job reads and what it makes, by tag; for whoever looks on.

    Attributes:
        ticks: outputs of ``ReadFromKinesis``.
        made: outputs of ``AggregateBars``.
    """

    ticks: Any
    made: Any


def read(pipeline: beam.Pipeline, job: LiveJob) -> Any:
    """Add the reading and parsing of a live job's ticks, and return them by tag."""
    return pipeline | "Kinesis" >> ReadFromKinesis(job.lanes, job.aws, DecodeTicks(), job.source)


def build(pipeline: beam.Pipeline, job: LiveJob) -> Streams:
    """Add a live job to a pipeline. Names of steps are part of a savepoint: do not change them."""
    ticks = read(pipeline, job)
    trades = None
    if job.feed == decoded.TRADES or job.store is not None:
        trades = ticks[decoded.TRADES] | "TradeInput" >> _map(trade_input)
    if job.feed == decoded.TRADES:
        rows = trades
    else:
        rows = ticks[decoded.MINUTES] | "MinuteInput" >> _map(minute_input)
    pace = None if job.store is None else aggregate.Pace(marker=livesinks.LiveMarker(job.store))
    if job.history is not None:
        assert job.lake is not None
        tail = TailHistory(job.lake, job.history, job.spec.calendar, stop_at_end=job.source.stop_at_end)
        rows = (rows, pipeline | "History" >> tail)
    made = rows | "Bars" >> aggregate.AggregateBars(job.spec, stream=job.policy, pace=pace)
    if job.store is not None:
        _to_live_store(job, ticks, trades, made)
    if job.lake is not None:
        commits = _to_lake(pipeline, job, ticks, made)
        if job.store is not None:
            _fill_again(commits, job, job.store, job.lake)
    return Streams(ticks, made)


def _map(function: Any) -> beam.ParDo:
    return beam.Map(function).with_output_types(pa.Table)


def _to_live_store(job: LiveJob, ticks: Any, trades: Any, made: Any) -> None:
    store = job.store
    assert store is not None
    trades | "PricesOfTrades" >> beam.ParDo(
        livesinks.WriteLastPrices(store, lastprices.TRADE, int(Rule.OPEN_CLOSE), job.spec.calendar)
    )
    for tag, source in ((decoded.SECONDS, lastprices.SECOND), (decoded.MINUTES, lastprices.MINUTE)):
        ticks[tag] | f"PricesOf{tag.title()}" >> beam.ParDo(livesinks.WriteLastPrices(store, source))
    made[aggregate.BARS] | "ClosedBars" >> beam.ParDo(livesinks.WriteClosedBars(store))
    made[aggregate.OPEN] | "OpenBars" >> beam.ParDo(livesinks.WriteOpenBars(store))


def _to_lake(pipeline: beam.Pipeline, job: LiveJob, ticks: Any, made: Any) -> Any:
    assert job.lake is not None
    assert job.job is not None
    rows = [
        ticks[tag]
        | f"Archive{tag.title()}" >> _map(_Archive(tag))
        | f"Key{tag.title()}" >> beam.ParDo(ToWriter(tables.TICKS.name, job.writers, "shard"))
        for tag in (decoded.TRADES, decoded.SECONDS, decoded.MINUTES)
    ]
    of_bars = {
        aggregate.BARS: tables.LIVE.name,
        aggregate.LATE: tables.LATE.name,
        aggregate.DEAD_LETTERS: tables.DEAD_LETTERS.name,
    }
    rows += [
        made[tag] | f"KeyOf{tag.title()}" >> beam.ParDo(ToWriter(table, job.writers))
        for tag, table in of_bars.items()
    ]
    rows.append(
        ticks[decoded.DEAD_LETTERS]
        | "KeyUnreadable" >> beam.ParDo(ToWriter(tables.DEAD_LETTERS.name, job.writers))
    )
    files = (
        rows
        | "Rows" >> beam.Flatten()
        | "WriteFiles" >> beam.ParDo(WriteFiles(job.lake, job.spec.calendar, job.limits))
    )
    wake = pipeline | "Tables" >> beam.Create(
        [(spec.name, WAKE) for spec in STREAM_TABLES], reshuffle=False
    ).with_output_types(tuple[str, bytes])
    commits = CommitFiles(job.lake, job.job, job.properties, job.commit_s)
    return (files, wake) | "Files" >> beam.Flatten() | "CommitFiles" >> beam.ParDo(commits)


def _fill_again(commits: Any, job: LiveJob, store: LiveStore, lake: Lake) -> None:
    assert job.job is not None
    bars = partial(last_bars, lake, job.spec.timeframes, job.spec.calendar, store.keep)
    # A bar waits for its file, then for the commit.
    age = job.limits.get(tables.LIVE.name, FileLimits()).age
    fill = FillClosed(store, bars, job.job.run, settle_s=2 * (age + job.commit_s) + _SLACK_S)
    # Behind the commits, not from a source of its own: Flink starts parts of a graph that hang together again
    # apart from others, and a part that goes on keeps the workers that died alive for the rest.
    one = beam.Map(_one_key).with_output_types(tuple[str, bytes])
    commits | "OneKey" >> one | "FillClosed" >> beam.ParDo(fill)


def _one_key(_: tuple[str, int]) -> tuple[str, bytes]:
    return "closed", WAKE


@dataclass(frozen=True)
class _Archive:
    tag: str

    def __call__(self, rows: pa.Table) -> pa.Table:
        return archive({self.tag: rows})


@beam.typehints.with_input_types(pa.Table)
@beam.typehints.with_output_types(tuple[tuple[str, int], pa.Table])
class ToWriter(beam.DoFn):
    """Keys rows by table and writer, by their first value of a column; a bucket's rows keep their order."""

    def __init__(self, table: str, writers: int, column: str = "symbol") -> None:
        self._table, self._writers, self._column = table, writers, column

    def process(self, element: pa.Table) -> Iterator[tuple[tuple[str, int], pa.Table]]:
        """Yield ((table, writer), rows)."""
        yield (self._table, bucket_of(str(element[self._column][0]), self._writers)), element
