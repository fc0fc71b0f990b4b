"""The graph of the bounded pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from fibflow.io import grouping, sinks
from fibflow.io.manifest import Manifest
from fibflow.io.rows import Origins
from fibflow.io.storage import Storage
from fibflow.io.threads import InThreads
from fibflow.pipelines.plan import Plan
from fibflow.transforms import aggregate
from fibflow.transforms.bars import BarSpec


@dataclass(frozen=True)
class Destination:
    """Where a run's files go.

    Attributes:
        bars: the folder of the bars whose windows have ended: the table's, or a staged one where they are
            merged.
        staging: spill files, open bars, refused rows, and the manifest.
        run: the run's id.
    """

    bars: Storage
    staging: Storage
    run: str


def run_bars(
    plan: Plan,
    spec: BarSpec,
    to: Destination,
    options: PipelineOptions,
    threads: int = 1,
    prepare: Sequence[beam.DoFn] = (),
) -> Manifest:
    """Run history to bars, and return what was written. Nothing is committed.

    Args:
        plan: what to read.
        spec: what to make.
        to: where files go.
        options: Beam's.
        threads: how many units of work run at once in a worker.
        prepare: what is done to the rows of whole symbols before they are bars.
    """
    with beam.Pipeline(options=options) as pipeline:
        grouped = pipeline | "GroupSymbols" >> grouping.GroupSymbols(
            plan.source, spec.calendar, plan.direct, plan.scattered, plan.bounds, to.staging, threads
        )
        unit = [
            grouping.Gather(plan.source, to.staging),
            *prepare,
            aggregate.MakeBars(spec, Origins(plan.source)),
            sinks.WriteBars(to.bars, to.staging.child(sinks.OPEN_BARS), spec.calendar, to.run),
        ]
        refused = sinks.WriteDeadLetters(to.staging)
        in_threads = beam.ParDo(InThreads(unit, threads, {grouping.DEAD_LETTERS: refused}))
        made = grouped[grouping.UNITS] | "MakeBars" >> in_threads.with_outputs(grouping.TALLIES, main="files")
        unread = grouped[grouping.DEAD_LETTERS] | "WriteDeadLetters" >> beam.ParDo(refused)
        (
            (made["files"], unread, grouped[grouping.TALLIES], made[grouping.TALLIES])
            | "Told" >> beam.Flatten()
            | "ToOne" >> beam.WithKeys(None)
            | "Together" >> beam.GroupByKey()
            | "WriteManifest" >> beam.ParDo(sinks.WriteManifest(to.staging))
        )
    return Manifest.read(to.staging)
