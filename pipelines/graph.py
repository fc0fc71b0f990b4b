"""The graph of the bounded pipeline."""

from __future__ import annotations

from dataclasses import dataclass

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from fibflow.io import grouping, sinks
from fibflow.io.manifest import Manifest
from fibflow.io.rows import Origins
from fibflow.io.storage import Storage
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


def run_bars(plan: Plan, spec: BarSpec, to: Destination, options: PipelineOptions) -> Manifest:
    """Run history to bars, and return what was written. Nothing is committed."""
    with beam.Pipeline(options=options) as pipeline:
        read = pipeline | "ReadWholeSymbols" >> grouping.ReadWholeSymbols(
            plan.source, spec.calendar, plan.direct, plan.scattered, plan.bounds, to.staging
        )
        made = read[grouping.ROWS] | aggregate.AggregateBars(
            spec, whole_symbols=True, origins=Origins(plan.source)
        )
        bars = made[aggregate.BARS] | "WriteBars" >> beam.ParDo(
            sinks.WriteBars(to.bars, to.staging.child(sinks.OPEN_BARS), spec.calendar, to.run)
        )
        refused = (
            (read[grouping.DEAD_LETTERS], made[aggregate.DEAD_LETTERS])
            | "AllDeadLetters" >> beam.Flatten()
            | "WriteDeadLetters" >> beam.ParDo(sinks.WriteDeadLetters(to.staging))
        )
        (
            (bars, refused, read[grouping.TALLIES])
            | "Told" >> beam.Flatten()
            | "ToOne" >> beam.WithKeys(None)
            | "Together" >> beam.GroupByKey()
            | "WriteManifest" >> beam.ParDo(sinks.WriteManifest(to.staging))
        )
    return Manifest.read(to.staging)
