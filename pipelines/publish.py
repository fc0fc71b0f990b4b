"""From what a pipeline wrote to one commit: flags of open bars, merges with stored bars, dead letters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from fibflow.io import sinks, tables
from fibflow.io.datafiles import DataFile
from fibflow.io.failpoints import hit
from fibflow.io.lake import Lake, RebaseNeeded, Scope
from fibflow.io.manifest import Manifest
from fibflow.io.merge import Region, flags, instants, merge_timeframe, writer_of
from fibflow.io.snapshot import Snapshot, read_files
from fibflow.io.storage import Storage
from fibflow.pipelines.deadletters import commit_dead_letters
from fibflow.pipelines.facts import coverage_of, last_end, properties_of, snapshot_of
from fibflow.pipelines.request import Request, Summary
from fibflow.transforms.bars import BarSpec
from fibflow.transforms.calendar import TradingCalendar
from fibflow.transforms.partials import BAR_BATCH
from fibflow.transforms.timeframe import Anchor, Timeframe

_ATTEMPTS = 5
_CHANGES = ("new", "revised", "withdrawn", "unchanged")

Bars = dict[Timeframe, pa.Table]
#: From the table's properties to those that a run changes.
Covers = Callable[[Mapping[str, str]], Mapping[str, str]]


@dataclass
class Publisher:
    """Commits the bars of one run.

    Attributes:
        lake: where.
        request: of the run.
        calendar, basis: that the bars were made with.
        base: the table when the run began. What lands from then on must not be of the run's scope.
        summary: gets what was done.
    """

    lake: Lake
    request: Request
    calendar: TradingCalendar
    basis: str
    base: Snapshot
    summary: Summary

    def __post_init__(self) -> None:
        self.table = self.lake.table(tables.BARS)

    def replace(
        self, manifest: Manifest, staging: Storage, spec: BarSpec, as_of: int | None, marks: Mapping[str, int]
    ) -> None:
        """Commit files that a pipeline wrote to the table's folder, in place of all bars of its timeframes.

        A run for some symbols or windows replaces nothing: the table had no bars of these timeframes before.
        """
        add = list(manifest.of_table(tables.BARS.name))
        write = writer_of(self.table.writer(), self.calendar, self.request.run, 0)
        still_open = read_staged(staging.child(sinks.OPEN_BARS), manifest.of_table(sinks.OPEN_BARS))
        for staged in still_open.values():
            bars = with_flags(staged, as_of, self.request)
            complete = flags(bars["complete"])
            for label, mask in (("ended-", complete), ("open-", ~complete)):
                if mask.any():
                    add += write(bars.filter(pa.array(mask)), label)
        commit_dead_letters(self.lake, manifest, staging, self.request.run)

        def plan(snapshot: Snapshot) -> tuple[list[DataFile], list[DataFile]]:
            names = [timeframe.name for timeframe in spec.timeframes]
            replaced = len(snapshot) and not self.request.restricted
            return add, snapshot.select(where={"timeframe": names}) if replaced else []

        def covers(stored: Mapping[str, str]) -> Mapping[str, str]:
            replaced = not self.request.restricted
            return coverage_of(self.request, self.calendar, stored, spec.timeframes, marks, replaced)

        self._commit(plan, spec.timeframes, marks, covers)
        for timeframe in spec.timeframes:
            rows = sum(file.rows for file in add if file.partition["timeframe"] == timeframe.name)
            self.summary.bars[timeframe.name] += rows
        self.summary.tallies.update(manifest.tallies)

    def merge(
        self,
        made: Bars,
        regions: Sequence[Region],
        manifest: Manifest,
        staging: Storage,
        marks: Mapping[str, int],
        covers: Covers | None = None,
    ) -> None:
        """Merge bars into the stored ones of ``regions`` and commit.

        Where another run landed meanwhile with other symbols, merge again. ``covers`` gives what the table
        says of its coverage from then on.
        """
        commit_dead_letters(self.lake, manifest, staging, self.request.run)
        changes: Counter[str] = Counter()
        attempts = iter(range(_ATTEMPTS))

        def plan(snapshot: Snapshot) -> tuple[list[DataFile], list[DataFile]]:
            write = writer_of(self.table.writer(), self.calendar, self.request.run, next(attempts))
            changes.clear()
            add: list[DataFile] = []
            remove: list[DataFile] = []
            for timeframe, bars in made.items():
                merged = merge_timeframe(snapshot, bars, timeframe, regions, write)
                add += merged.add
                remove += merged.remove
                self.summary.read += merged.read
                changes.update({name: getattr(merged, name) for name in _CHANGES})
            return add, remove

        def by_marks(stored: Mapping[str, str]) -> Mapping[str, str]:
            return coverage_of(self.request, self.calendar, stored, tuple(made), marks)

        self._commit(plan, tuple(made), marks, covers or by_marks)
        self.summary.changes.update(changes)
        self.summary.bars.update({timeframe.name: len(bars) for timeframe, bars in made.items()})
        self.summary.tallies.update(manifest.tallies)

    def _commit(
        self,
        plan: Callable[[Snapshot], tuple[list[DataFile], list[DataFile]]],
        timeframes: Sequence[Timeframe],
        marks: Mapping[str, int],
        covers: Covers,
    ) -> None:
        request = self.request
        symbols = tuple(sorted(request.symbols)) if request.symbols is not None else None
        for attempt in range(_ATTEMPTS):
            snapshot = snapshot_of(self.table)
            add, remove = plan(snapshot)
            hit("after-files")
            stored, through = snapshot.properties, last_end(add)
            try:
                self.summary.version = self.table.commit(
                    add,
                    remove,
                    base_version=self.base.version,
                    scope=Scope(symbols, tuple(timeframe.name for timeframe in timeframes)),
                    run=request.run,
                    properties=properties_of(request, self.calendar, self.basis, stored, through)
                    | dict(covers(stored)),
                    app=marks,
                )
            except RebaseNeeded:
                if attempt + 1 == _ATTEMPTS:
                    raise
            else:
                self.summary.files += len(add)
                return


def read_staged(storage: Storage, files: Sequence[DataFile]) -> dict[str, pa.Table]:
    """Return staged bars by timeframe, ``BAR_BATCH``."""
    found: dict[str, list[DataFile]] = {}
    for file in files:
        found.setdefault(str(file.partition["timeframe"]), []).append(file)
    dictionaries = ["symbol", "timeframe"]
    return {
        name: read_files(storage, tables.BARS, some, BAR_BATCH.names, None, dictionaries)[0].cast(BAR_BATCH)
        for name, some in found.items()
    }


def with_flags(bars: pa.Table, as_of: int | None, request: Request) -> pa.Table:
    """Set ``complete`` and ``final`` by the as-of time (UTC microseconds) of the whole run."""
    if request.anchor is not Anchor.ROWS and as_of is not None:
        complete = pa.array(instants(bars["end"]) <= as_of)
        for name in ("complete", "final"):
            bars = bars.set_column(bars.schema.get_field_index(name), bars.schema.field(name), complete)
    return bars.filter(bars["complete"]) if request.complete_only else bars
