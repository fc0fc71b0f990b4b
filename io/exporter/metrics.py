"""The exporter's metrics: their names, labels and kinds, and what a look gives of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily


class Kind(StrEnum):
    """How a metric is read: a counter by its rate, a summary by the rates of its sum and its count."""

    COUNTER = "counter"
    GAUGE = "gauge"
    SUMMARY = "summary"


@dataclass(frozen=True)
class Spec:
    """A metric.

    Attributes:
        name: as Prometheus stores it; of a summary without ``_sum`` and ``_count``.
        help: one line.
        labels: their names.
        kind: how it is read.
        is_age: samples say since when, seconds since 1970; what is told is how long ago that was.
    """

    name: str
    help: str
    labels: tuple[str, ...] = ()
    kind: Kind = Kind.GAUGE
    is_age: bool = False


@dataclass(frozen=True)
class Sample:
    """A value of a metric.

    Attributes:
        of: the metric.
        value: the number; of a summary the sum.
        labels: a value for each label.
        count: of a summary.
    """

    of: Spec
    value: float
    labels: tuple[str, ...] = field(default=())
    count: int = 0


UP = Spec("fibflow_exporter_up", "Whether a source answered.", ("source",))
SECONDS = Spec("fibflow_exporter_seconds", "What the last look at a source took.", ("source",))

SESSION_OPEN = Spec("fibflow_session_open", "Whether a session runs, extended hours too.", ("exchange",))
SESSION_SECONDS = Spec(
    "fibflow_session_seconds", "Since the running session began; 0 between sessions.", ("exchange",)
)

STREAM_UP = Spec("fibflow_stream_up", "Whether the job runs.", ("job",))
RESTARTS = Spec("fibflow_stream_restarts_total", "Restarts since it was submitted.", ("job",), Kind.COUNTER)
TICKS = Spec("fibflow_stream_ticks_total", "Messages read and accepted.", ("kind",), Kind.COUNTER)
REJECTED = Spec("fibflow_stream_rejected_total", "Messages refused.", ("reason",), Kind.COUNTER)
LATE = Spec("fibflow_stream_late_total", "Messages that came after their minute's horizon.", (), Kind.COUNTER)
DUPLICATES = Spec(
    "fibflow_stream_duplicates_total", "Trades that came twice, and minutes that another one replaced.",
    (), Kind.COUNTER,
)  # fmt: skip
BARS = Spec("fibflow_stream_bars_total", "Bars that went out.", ("timeframe",), Kind.COUNTER)
BARS_REVISED = Spec(
    "fibflow_stream_bars_revised_total", "Of these, revised ones.", ("timeframe",), Kind.COUNTER
)
WATERMARK_LAG = Spec(
    "fibflow_stream_watermark_lag_seconds", "From where bars are made up to now.", ("job",), is_age=True
)
COMMIT = Spec("fibflow_stream_commit_seconds", "What commits to the lake took.", ("table",), Kind.SUMMARY)
CHECKPOINT_BYTES = Spec("fibflow_stream_checkpoint_bytes", "State in the last checkpoint.")
CHECKPOINT_SECONDS = Spec("fibflow_stream_checkpoint_seconds", "What the last checkpoint took.")
CHECKPOINT_AGE = Spec(
    "fibflow_stream_checkpoint_age_seconds", "Since the last checkpoint was whole.", is_age=True
)
CHECKPOINTS_FAILED = Spec(
    "fibflow_stream_checkpoints_failed_total", "Checkpoints that failed.", (), Kind.COUNTER
)

KINESIS_LAG = Spec("fibflow_kinesis_lag_seconds", "By how much the job is behind a shard's end.", ("shard",))
KINESIS_THROTTLED = Spec(
    "fibflow_kinesis_throttled_total", "Reads that a quota of Kinesis refused.", (), Kind.COUNTER
)
KINESIS_SHARDS = Spec("fibflow_kinesis_open_shards", "Shards that take records.")

LAKE_AGE = Spec("fibflow_lake_age_seconds", "Since the newest commit of a table.", ("table",), is_age=True)
DAILY_SUCCESS = Spec(
    "fibflow_daily_last_success_timestamp_seconds", "When a daily run last ended well, since 1970."
)
DAILY_DIFFERENCES = Spec(
    "fibflow_daily_differences", "Bars of the stream that differ from batch's for no known reason."
)
QUALITY_GAPS = Spec("fibflow_quality_gaps", "Gaps in the newest quality report.", ("timeframe",))
QUALITY_QUIET = Spec("fibflow_quality_quiet_symbols", "Symbols gone quiet, likewise.")
QUALITY_TIME = Spec("fibflow_quality_timestamp_seconds", "When that report was made, since 1970.")

OUTBOX_WAITING = Spec("fibflow_outbox_waiting", "Deliveries of alerts that wait.")
OUTBOX_OVERDUE = Spec("fibflow_outbox_overdue_seconds", "For how long the oldest of them is past its turn.")

SPECS = tuple(each for each in vars().values() if isinstance(each, Spec))


def families(samples: Iterable[Sample], now: float) -> list[Metric]:
    """Return samples as Prometheus' client takes them, those of a metric together, in the order of ``SPECS``.

    Args:
        samples: in any order; of two with the same labels the last one counts.
        now: seconds since 1970.
    """
    found: dict[str, dict[tuple[str, ...], Sample]] = {}
    for sample in samples:
        found.setdefault(sample.of.name, {})[sample.labels] = sample
    return [_family(spec, found[spec.name], now) for spec in SPECS if spec.name in found]


def _family(spec: Spec, samples: Mapping[tuple[str, ...], Sample], now: float) -> Metric:
    if spec.kind is Kind.SUMMARY:
        summary = SummaryMetricFamily(spec.name, spec.help, labels=spec.labels)
        for labels, sample in sorted(samples.items()):
            summary.add_metric(labels, sample.count, sample.value)
        return summary
    family = CounterMetricFamily if spec.kind is Kind.COUNTER else GaugeMetricFamily
    made = family(spec.name, spec.help, labels=spec.labels)
    for labels, sample in sorted(samples.items()):
        made.add_metric(labels, max(0.0, now - sample.value) if spec.is_age else sample.value)
    return made
