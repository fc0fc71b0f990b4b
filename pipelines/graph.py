"""The graph of the bounded pipeline."""

from __future__ import annotations

from dataclasses import dataclass

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from fibflow.io import grouping, sinks, tables
from fibflow.io.manifest import Manifest
from fibflow.io.rows import Lazy
from fibflow.io.storage import Storage
from fibflow.pipelines.plan import Plan
from fibflow.transforms import aggregate
from fibflow.transforms.bars import BarSpec


@dataclass(frozen=True)
class Destination:
    """Where a run's files go: ``lake`` holds the tables' folders; ``staging`` spill files and the manifest."""

    lake: Storage
    staging: Storage
    run: str


def run_bars(plan: Plan, spec: BarSpec, to: Destination, options: PipelineOptions) -> Manifest:
    """Run history to bars, and return what was written. Nothing is committed."""
    with beam.Pipeline(options=options) as pipeline:
        read = pipeline | "ReadWholeSymbols" >> grouping.ReadWholeSymbols(
            plan.source, plan.direct, plan.scattered, plan.bounds, to.staging
        )
        made = read[grouping.ROWS] | aggregate.AggregateBars(
            spec, whole_symbols=True, origins=Lazy(plan.source)
        )
        bars = made[aggregate.BARS] | "WriteBars" >> beam.ParDo(
            sinks.WriteBars(to.lake.child(tables.BARS.name), spec.calendar, to.run, to.staging)
        )
        refused = (
            (read[grouping.DEAD_LETTERS], made[aggregate.DEAD_LETTERS])
            | "AllDeadLetters" >> beam.Flatten()
            | "WriteDeadLetters"
            >> beam.ParDo(sinks.WriteDeadLetters(to.lake.child(tables.DEAD_LETTERS.name), to.run))
        )
        (
            (bars, refused, read[grouping.TALLIES])
            | "Told" >> beam.Flatten()
            | "ToOne" >> beam.WithKeys(None)
            | "Together" >> beam.GroupByKey()
            | "WriteManifest" >> beam.ParDo(sinks.WriteManifest(to.staging))
        )
    return Manifest.read(to.staging)
