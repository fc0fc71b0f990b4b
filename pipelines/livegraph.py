"""The graph of the live pipeline, from Kinesis to the live store and the lake: see ``docs/streaming.md``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa

from fibflow.io import lastprices, livesinks, tables
from fibflow.io.alerts.history import BarHistory
from fibflow.io.alerts.sink import ToOutbox
from fibflow.io.alerts.source import tail_alerts, tail_facts
from fibflow.io.aws import AwsConfig
from fibflow.io.dynamofeed import PriceFeed
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
from fibflow.transforms.alerts import paths
from fibflow.transforms.alerts.barintime import EvaluateBarsInTime
from fibflow.transforms.alerts.intime import EvaluateInTime
from fibflow.transforms.alerts.schema import kind_of
from fibflow.transforms.bars import BarSpec
from fibflow.transforms.buckets import bucket_of
from fibflow.transforms.conditions import Rule, minute_input, trade_input
from fibflow.transforms.livebars import StreamPolicy
from fibflow.transforms.timeframe import MINUTE_US

coders.register()

_SLACK_S = 5.0
_SECOND_US = 1_000_000


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
        dynamodb: None to leave DynamoDB out; it never holds anything else back.
        alerts: address of the database that has them, without a password; None to leave them out. They need
            a lake.
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
    dynamodb: PriceFeed | None = None
    alerts: str | None = field(default=None, repr=False)
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
    if job.feed == decoded.TRADES or job.store is not None or job.dynamodb is not None:
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
    if job.store is not None or job.dynamodb is not None:
        _last_prices(job, ticks, trades)
    if job.store is not None:
        _to_live_store(job.store, made)
    if job.lake is not None:
        wake, commits = _to_lake(pipeline, job, ticks, made)
        if job.store is not None:
            _fill_again(commits, job, job.store, job.lake)
        if job.alerts is not None:
            # Behind everything else, and with no source of their own: Flink names an operator by the number
            # of what goes into it, and tells sources apart by their place. So a savepoint of a job without
            # alerts holds for one with them.
            begin = wake | "AlertsBegin" >> _one_key(), commits | "AlertsGoOn" >> _one_key()
            _add_alerts(begin | "AlertsWake" >> beam.Flatten(), job, ticks, trades, made)
    return Streams(ticks, made)


def _map(function: Any) -> beam.ParDo:
    return beam.Map(function).with_output_types(pa.Table)


def _last_prices(job: LiveJob, ticks: Any, trades: Any) -> None:
    # The steps are the same wherever prices go: a savepoint holds for all.
    kinds = [
        (trades, "Trades", livesinks.PricesOf(lastprices.TRADE, int(Rule.OPEN_CLOSE), job.spec.calendar)),
        (ticks[decoded.SECONDS], decoded.SECONDS.title(), livesinks.PricesOf(lastprices.SECOND)),
        (ticks[decoded.MINUTES], decoded.MINUTES.title(), livesinks.PricesOf(lastprices.MINUTE)),
    ]
    for rows, name, prices_of in kinds:
        rows | f"PricesOf{name}" >> beam.ParDo(_price_writer(job, prices_of))


def _price_writer(job: LiveJob, prices_of: livesinks.PricesOf) -> beam.DoFn:
    if job.store is None:
        assert job.dynamodb is not None
        return livesinks.SendLastPrices(prices_of, job.dynamodb)
    kind = prices_of.source, prices_of.rule, prices_of.calendar
    return livesinks.WriteLastPrices(job.store, *kind, beside=job.dynamodb)


def _add_alerts(wakes: Any, job: LiveJob, ticks: Any, trades: Any, made: Any) -> None:
    """Hold prices against alerts: those of the messages that make the bars, and of seconds beside minutes.

    Alerts on bars are judged by what comes of these.
    """
    assert job.alerts is not None
    assert job.lake is not None
    calendar = job.spec.calendar
    if job.feed == decoded.TRADES:
        prices = [trades | "AlertTrades" >> _map(partial(paths.of_trades, calendar=calendar))]
    else:
        spans = {decoded.SECONDS: _SECOND_US, decoded.MINUTES: MINUTE_US}
        prices = [
            ticks[tag]
            | f"Alert{tag.title()}" >> _map(partial(paths.of_aggregates, span_us=span, calendar=calendar))
            for tag, span in spans.items()
        ]
    # Steps with state of one and the same input would be told apart by nothing that lasts: each has its own.
    changes = wakes | "ChangesWake" >> _same() | "AlertChanges" >> tail_alerts(job.alerts)
    through = None if job.history is None else job.history.through
    facts = wakes | "FactsWake" >> _same() | "AlertFacts" >> tail_facts(job.lake, through)
    of_prices, of_bars = (
        changes | f"Of{name}" >> beam.Filter(_is_of, kind).with_output_types(pa.Table)
        for name, kind in (("Prices", "changes"), ("Bars", "bar_changes"))
    )
    evaluate = EvaluateInTime(calendar, job.spec.intraday_anchor, job.policy.buckets)
    on_prices = (*prices, of_prices, facts) | "Alerts" >> evaluate
    judged = [made[aggregate.BARS], of_bars]
    if _is_raw(job):
        judged.append(facts)
    on_bars = tuple(judged) | "BarAlerts" >> _bar_alerts(job)
    (on_prices, on_bars) | "Fired" >> beam.Flatten() | "Outbox" >> ToOutbox(job.alerts)


def _same() -> beam.ParDo:
    return beam.Map(_itself).with_output_types(tuple[str, bytes])


def _itself(wake: tuple[str, bytes]) -> tuple[str, bytes]:
    return wake


def _is_of(table: pa.Table, kind: str) -> bool:
    return kind_of(table) == kind


def _is_raw(job: LiveJob) -> bool:
    """Return whether splits move the bars' prices."""
    raw = tables.PRICE_BASES[0]
    return job.properties.get(tables.LIVE.name, {}).get(tables.PRICE_BASIS, raw) == raw


def _bar_alerts(job: LiveJob) -> EvaluateBarsInTime:
    calendar, policy = job.spec.calendar, job.policy
    reader = None if job.lake is None else BarHistory(job.lake, calendar)
    return EvaluateBarsInTime(
        calendar, job.spec.timeframes, policy.buckets, reader, policy.lateness_us, _settle_s(job)
    )


def _settle_s(job: LiveJob) -> float:
    """Return within what time a bar is in the lake: it waits for its file, then for the commit."""
    age = job.limits.get(tables.LIVE.name, FileLimits()).age
    return 2 * (age + job.commit_s) + _SLACK_S


def _to_live_store(store: LiveStore, made: Any) -> None:
    made[aggregate.BARS] | "ClosedBars" >> beam.ParDo(livesinks.WriteClosedBars(store))
    made[aggregate.OPEN] | "OpenBars" >> beam.ParDo(livesinks.WriteOpenBars(store))


def _to_lake(pipeline: beam.Pipeline, job: LiveJob, ticks: Any, made: Any) -> tuple[Any, Any]:
    """Write the lake; return what is there from the beginning on, and what comes of each commit."""
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
    return wake, (files, wake) | "Files" >> beam.Flatten() | "CommitFiles" >> beam.ParDo(commits)


def _fill_again(commits: Any, job: LiveJob, store: LiveStore, lake: Lake) -> None:
    assert job.job is not None
    bars = partial(last_bars, lake, job.spec.timeframes, job.spec.calendar, store.keep)
    fill = FillClosed(store, bars, job.job.run, settle_s=_settle_s(job))
    # Behind the commits, not from a source of its own: Flink starts parts of a graph that hang together again
    # apart from others, and a part that goes on keeps the workers that died alive for the rest.
    commits | "OneKey" >> _one_key() | "FillClosed" >> beam.ParDo(fill)


def _one_key() -> beam.ParDo:
    return beam.Map(_woken).with_output_types(tuple[str, bytes])


def _woken(_: tuple[str, Any]) -> tuple[str, bytes]:
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
