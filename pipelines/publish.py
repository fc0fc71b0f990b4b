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
from fibflow.io.merge import Region, flags, instants, match, merge_timeframe, writer_of
from fibflow.io.snapshot import Snapshot, read_files
from fibflow.io.storage import Storage
from fibflow.pipelines.facts import properties_of, snapshot_of
from fibflow.pipelines.request import Request, Summary
from fibflow.transforms.bars import BarSpec
from fibflow.transforms.calendar import TradingCalendar
from fibflow.transforms.partials import BAR_BATCH
from fibflow.transforms.timeframe import Anchor, Timeframe

_ATTEMPTS = 5
_CHANGES = ("new", "revised", "withdrawn", "unchanged")
_DEAD_LETTER_ORDER = ("symbol", "ts", "reason", "origin", "open", "high", "low", "close", "volume")

Bars = dict[Timeframe, pa.Table]


@dataclass
class Publisher:
    """Commits the bars of one run.

    Attributes:
        lake: where.
        request: of the run.
        calendar, basis: that the bars were made with.
        summary: gets what was done.
    """

    lake: Lake
    request: Request
    calendar: TradingCalendar
    basis: str
    summary: Summary

    def __post_init__(self) -> None:
        self.table = self.lake.table(tables.BARS)

    def replace(
        self, manifest: Manifest, staging: Storage, spec: BarSpec, as_of: int | None, marks: Mapping[str, int]
    ) -> None:
        """Commit the files of a pipeline that wrote to the table's folder, in place of all bars of its timeframes."""
        add = list(manifest.of_table(tables.BARS.name))
        write = writer_of(self.table.writer(), self.calendar, self.request.run, 0)
        still_open = read_staged(staging.child(sinks.OPEN_BARS), manifest.of_table(sinks.OPEN_BARS))
        for staged in still_open.values():
            bars = with_flags(staged, as_of, spec.anchor)
            complete = flags(bars["complete"])
            for label, mask in (("ended-", complete), ("open-", ~complete)):
                if mask.any():
                    add += write(bars.filter(pa.array(mask)), label)
        self.dead_letters(manifest, staging)

        def plan(snapshot: Snapshot) -> tuple[list[DataFile], list[DataFile]]:
            names = [timeframe.name for timeframe in spec.timeframes]
            return add, snapshot.select(where={"timeframe": names}) if len(snapshot) else []

        self._commit(plan, spec.timeframes, marks, as_of)
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
    ) -> None:
        """Merge bars into the stored ones of ``regions`` and commit; where another run landed meanwhile, merge again."""
        self.dead_letters(manifest, staging)
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

        ends = [int(instants(bars["end"]).max()) for bars in made.values() if len(bars)]
        self._commit(plan, tuple(made), marks, max(ends, default=None))
        self.summary.changes.update(changes)
        self.summary.bars.update({timeframe.name: len(bars) for timeframe, bars in made.items()})
        self.summary.tallies.update(manifest.tallies)

    def _commit(
        self,
        plan: Callable[[Snapshot], tuple[list[DataFile], list[DataFile]]],
        timeframes: Sequence[Timeframe],
        marks: Mapping[str, int],
        through: int | None,
    ) -> None:
        request = self.request
        symbols = tuple(sorted(request.symbols)) if request.symbols is not None else None
        base: int | None = None
        for attempt in range(_ATTEMPTS):
            snapshot = snapshot_of(self.table)
            base = snapshot.version if base is None else base
            add, remove = plan(snapshot)
            hit("after-files")
            stored = snapshot.properties.get(tables.CALENDAR_HASHES)
            try:
                self.summary.version = self.table.commit(
                    add,
                    remove,
                    # From the first one on: what landed since must not be of this scope.
                    base_version=base,
                    scope=Scope(symbols, tuple(timeframe.name for timeframe in timeframes)),
                    run=request.run,
                    properties=properties_of(request, self.calendar, self.basis, stored, through),
                    app=marks,
                )
            except RebaseNeeded:
                if attempt + 1 == _ATTEMPTS:
                    raise
            else:
                self.summary.files += len(add)
                return

    def dead_letters(self, manifest: Manifest, staging: Storage) -> None:
        """Commit the refused rows, once: a run that is made again refuses the same ones."""
        files = manifest.of_table(tables.DEAD_LETTERS.name)
        if not files:
            return
        table = self.lake.table(tables.DEAD_LETTERS)
        rows, _ = read_files(staging.child(tables.DEAD_LETTERS.name), tables.DEAD_LETTERS, files)
        rows = rows.sort_by([(name, "ascending") for name in _DEAD_LETTER_ORDER])
        name = sinks.content_name(rows)
        at = rows.schema.get_field_index("run")
        rows = rows.set_column(at, rows.schema.field(at), pa.repeat(pa.scalar(self.request.run), len(rows)))
        snapshot = snapshot_of(table)
        if not any(path.startswith(name) for path in snapshot.paths):
            file = table.writer().write(rows, {}, f"{name}-{self.request.run}")
            nothing = Scope(symbols=())
            table.commit([file], base_version=snapshot.version, scope=nothing, run=self.request.run)


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


def with_flags(bars: pa.Table, as_of: int | None, anchor: Anchor) -> pa.Table:
    """Set ``complete`` and ``final`` by the as-of time (UTC microseconds) of the whole run."""
    if anchor is Anchor.ROWS or as_of is None:
        return bars
    complete = pa.array(instants(bars["end"]) <= as_of)
    for name in ("complete", "final"):
        bars = bars.set_column(bars.schema.get_field_index(name), bars.schema.field(name), complete)
    return bars


def distinct(parts: Sequence[pa.Table]) -> pa.Table:
    """Put the bars of one timeframe together; a bar that two parts hold is the same in both."""
    joined = parts[0]
    for part in parts[1:]:
        _, at = match(part, joined)
        joined = pa.concat_tables([joined, part.filter(pa.array(at < 0))])
    return joined
