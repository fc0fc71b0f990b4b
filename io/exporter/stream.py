"""The live job as its Beam counters tell it, through Flink."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from fibflow.io import tables
from fibflow.io.exporter import metrics
from fibflow.io.exporter.flinknumbers import FlinkNumbers, Reading, instant_of
from fibflow.io.exporter.metrics import Sample, Spec
from fibflow.io.flinkrest import Job

RUNNING = "RUNNING"
_WATERMARK = "currentInputWatermark"
_DUPLICATE = "duplicate"
#: Of the vertex that makes bars: it counts what comes in.
_MAKES_BARS = ("fibflow_ticks_in", "fibflow_history_in")
#: Sums over subtasks: what begins a counter's name, and what the rest of it is a label of.
_SUMS: Mapping[str, Spec] = {
    "kinesis_messages_": metrics.TICKS,
    "kinesis_rejected_": metrics.REJECTED,
    "fibflow_rejected_": metrics.REJECTED,
    "fibflow_bars_out_": metrics.BARS,
    "fibflow_bars_revised_": metrics.BARS_REVISED,
}
_PLAIN: Mapping[str, Spec] = {"fibflow_late": metrics.LATE, "kinesis_throttled": metrics.KINESIS_THROTTLED}
_LAG = "kinesis_millis_behind_latest_"
_COMMIT = "lake_commit_ms_"
_TABLES = {name.replace(".", "_"): name for name in tables.TABLES}
#: Messages that are no ticks; they are counted by their reason.
_NO_TICKS = ("dead_letters",)
_DISTRIBUTION = re.compile(r"\b(sum|count)=(-?\d+)")


class Stream:
    """A job that is looked at.

    Args:
        flink: where it runs.
        job: our name of it, its own or its id.
    """

    def __init__(self, flink: FlinkNumbers, job: str) -> None:
        self._flink, self._job = flink, job

    def look(self) -> Iterator[Sample]:
        """Yield what Flink says of the job. One that does not run has no other numbers.

        Raises:
            FlinkError: Flink cannot be reached.
        """
        job = self._running()
        yield Sample(metrics.STREAM_UP, float(job is not None), (self._job,))
        if job is None:
            return
        yield from self._checkpoints(job)
        yield from self._counters(job)
        # Last: a job manager that nobody asked for long gathers its metrics at the first question.
        restarts = self._flink.restarts(job.id)
        if restarts is not None:
            yield Sample(metrics.RESTARTS, restarts, (self._job,))

    def _running(self) -> Job | None:
        named = (job for job in self._flink.jobs() if self._job in (job.id, job.name, job.called))
        return next((job for job in named if job.state == RUNNING), None)

    def _checkpoints(self, job: Job) -> Iterator[Sample]:
        known = self._flink.totals(job.id)
        yield Sample(metrics.CHECKPOINTS_FAILED, known.failed)
        # Where there is none yet, it is as old as the job.
        yield Sample(metrics.CHECKPOINT_AGE, known.ended if known.size is not None else job.started / 1000)
        if known.size is not None:
            yield Sample(metrics.CHECKPOINT_BYTES, known.size)
            yield Sample(metrics.CHECKPOINT_SECONDS, known.took)

    def _counters(self, job: Job) -> Iterator[Sample]:
        vertices = self._flink.vertices(job.id)
        # While some tasks start a sum over those that run would look like one that began anew.
        if not all(each.runs for each in vertices):
            return
        found: list[Reading] = []
        watermarks: list[float | None] = []
        for vertex in vertices:
            own = list(self._flink.readings(job.id, vertex.id, _is_wanted))
            found += own
            if any(each.name in _MAKES_BARS for each in own):
                watermarks += [instant_of(each.value) for each in own if each.name == _WATERMARK]
        yield from samples_of(found)
        # Where no time is known yet: the job's own age.
        known = [job.started / 1000 if at is None else at for at in watermarks or [None]]
        yield Sample(metrics.WATERMARK_LAG, min(known), (self._job,))


def samples_of(readings: Sequence[Reading]) -> Iterator[Sample]:
    """Yield what the counters of a job's tasks come to.

    A counter is never told as less than 0: it says what was counted since its task began.
    """
    sums: dict[tuple[Spec, tuple[str, ...]], float] = defaultdict(float)
    commits: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for reading in readings:
        name = reading.name
        if name.startswith(_COMMIT):
            table = _TABLES.get(name.removeprefix(_COMMIT))
            told = dict(_DISTRIBUTION.findall(reading.value))
            if table is not None and {"sum", "count"} <= set(told):
                commits[table][0] += int(told["sum"])
                commits[table][1] += int(told["count"])
            continue
        number = _number(reading.value)
        if number is None or number < 0:
            continue
        if name.startswith(_LAG):
            key = metrics.KINESIS_LAG, (name.removeprefix(_LAG),)
            sums[key] = max(sums[key], number / 1000)
        elif name in _PLAIN:
            sums[_PLAIN[name], ()] += number
        elif (found := _labelled(name)) is not None:
            sums[found] += number
    for (spec, labels), value in sums.items():
        yield Sample(spec, value, labels)
    for table, (took_ms, count) in commits.items():
        yield Sample(metrics.COMMIT, took_ms / 1000, (table,), count)


def _labelled(name: str) -> tuple[Spec, tuple[str, ...]] | None:
    """Return the metric of a counter, and its label."""
    for begin, spec in _SUMS.items():
        if name.startswith(begin):
            word = name.removeprefix(begin)
            if word in _NO_TICKS:
                return None
            if spec is metrics.REJECTED and word == _DUPLICATE:
                return metrics.DUPLICATES, ()
            return spec, (word,)
    return None


def _is_wanted(name: str) -> bool:
    return name in (_WATERMARK, *_MAKES_BARS, *_PLAIN) or name.startswith((*_SUMS, _LAG, _COMMIT))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
