"""The report of a reconciliation: what readers saw before and see now, compared and committed once.

What was reported of a timeframe is two application transactions of the table ``reconciliation``: the version
of ``silver.bars``, and up to when windows had ended. A window that had ended then is compared with itself at
that version; any other one with the stream's bar. So each change is named by exactly one run, also where bars
landed in a run that was killed before its report, or by ``pipelines.batch``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fibflow.io import coverage, tables
from fibflow.io.datafiles import DataFile
from fibflow.io.failpoints import hit
from fibflow.io.lake import Lake, Scope
from fibflow.io.live import TickReader
from fibflow.io.merge import instants
from fibflow.io.readbars import View
from fibflow.io.reconciliation import (
    CANCELLED,
    CORRECTED,
    LATE,
    NOT_COVERED,
    OFFICIAL,
    UNEXPLAINED,
    differences,
    holding,
    with_reasons,
)
from fibflow.io.rowfilter import Filter
from fibflow.io.snapshot import Snapshot, read_files
from fibflow.io.storage import LakeError
from fibflow.pipelines.facts import snapshot_of
from fibflow.transforms.calendar import TradingCalendar
from fibflow.transforms.partials import as_arrow
from fibflow.transforms.schemas import BARS, RECONCILIATION
from fibflow.transforms.timeframe import Timeframe

_VERSION, _UNTIL = "reported:silver.bars", "reported:until"
#: Windows of days that begin in so many sessions are compared at once.
_SESSIONS = 64

Bool = npt.NDArray[np.bool_]
Span = tuple[int, int]
Changes = tuple[list[DataFile], list[DataFile]]


@dataclass(frozen=True)
class _Task:
    """What is compared of a timeframe.

    Attributes:
        timeframe: which.
        bars: the version of ``silver.bars`` that was reported on; None for none that can be read.
        reported: up to when windows had ended then, UTC microseconds; None where nothing was reported.
        through: position of the last session whose windows are compared.
        until: its end.
    """

    timeframe: Timeframe
    bars: Snapshot | None
    reported: int | None
    through: int
    until: int


@dataclass
class Report:
    """Compares, and commits what differs.

    Attributes:
        lake: where.
        live: the stream's bars.
        calendar: of the bars.
        through: position of the last session whose windows are compared.
        run: the run's id.
        counts: (timeframe, why) of what was reported.
    """

    lake: Lake
    live: Snapshot
    calendar: TradingCalendar
    through: int
    run: str
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._versions: dict[int, Snapshot | None] = {}
        self._changes: dict[int, Changes | None] = {}

    def write(self, timeframes: Sequence[Timeframe]) -> None:
        """Compare the windows of some timeframes that changed since the last report, and commit it.

        Raises:
            ConflictError: another run reported at the same time.
            LakeError: a table cannot be read.
        """
        table = self.lake.table(tables.RECONCILIATION)
        base = snapshot_of(table)
        bars = snapshot_of(self.lake.table(tables.BARS))
        opened = table.open() if table.exists else None
        found = [RECONCILIATION.empty_table()]
        marks: dict[str, int] = {}
        for timeframe in timeframes if bars.version >= 0 else ():
            names = [f"{name}:{timeframe.name}" for name in (_VERSION, _UNTIL)]
            stored = [None if opened is None else opened.transaction_version(name) for name in names]
            task = self._task(timeframe, stored[0], stored[1], bars)
            if task is None:
                continue
            spans = self._changed(task, bars)
            own = list(self._compare(task, bars, spans))
            if own or spans or task.reported != task.until:
                marks |= dict(zip(names, (bars.version, task.until), strict=True))
            found += own
        if not marks:
            return
        rows = pa.concat_tables(found)
        at = rows.schema.get_field_index("run")
        rows = rows.set_column(at, rows.schema.field(at), pa.repeat(pa.scalar(self.run), len(rows)))
        rows = rows.sort_by([(name, "ascending") for name in tables.RECONCILIATION.sort_by])
        files = [table.writer().write(rows, {}, self.run)] if len(rows) else []
        hit("before-report")
        table.commit(files, base_version=base.version, scope=Scope(), run=self.run, app=marks)
        columns: list[Any] = [rows[name].to_pylist() for name in ("timeframe", "why")]
        self.counts.update(zip(*columns, strict=True))

    def _task(
        self, timeframe: Timeframe, version: int | None, reported: int | None, bars: Snapshot
    ) -> _Task | None:
        """Return what to compare; None where no session has ended."""
        if version is not None and version > bars.version:
            # The table was made anew.
            version = reported = None
        through = self.through
        if reported is not None:
            # What was reported on stays so, also where this run goes less far.
            at = int(np.searchsorted(self.calendar.day_ends, reported, side="right")) - 1
            through = max(through, at)
        if through < 0:
            return None
        before = None if version is None else self._version(version, bars)
        return _Task(timeframe, before, reported, through, int(self.calendar.day_ends[through]))

    def _version(self, version: int, bars: Snapshot) -> Snapshot | None:
        if version == bars.version:
            return bars
        if version not in self._versions:
            try:
                self._versions[version] = self.lake.table(tables.BARS).snapshot(version)
            except LakeError:
                # Too old to be read: what was reported is not compared again.
                self._versions[version] = None
        return self._versions[version]

    def _changed(self, task: _Task, bars: Snapshot) -> list[Span]:
        """Return in which stretches bars may have changed since then, by the files that came and went."""
        before, name = task.bars, task.timeframe.name
        if before is None or before.version == bars.version:
            return []
        if before.version not in self._changes:
            try:
                found = self.lake.table(tables.BARS).changes(before.version, bars.version)
            except LakeError:
                found = None
            self._changes[before.version] = found
        changes = self._changes[before.version]
        if changes is None:
            # The log does not reach back so far: anything may have changed.
            return [(0, int(np.iinfo(np.int64).max))]
        added, removed = changes
        bounds = [json.loads(file.stats) for file in added if file.partition["timeframe"] == name]
        spans = [(_us(own["minValues"]["ts"]), _us(own["maxValues"]["ts"])) for own in bounds]
        paths = {file.path for file in removed if file.partition["timeframe"] == name}
        if paths:
            ends: list[Any] = [
                before.files[f"{side}.ts"].cast(pa.int64()).to_pylist() for side in ("min", "max")
            ]
            stretches = zip(before.unquoted_paths, *ends, strict=True)
            spans += [(low, high) for path, low, high in stretches if path in paths]
        return spans

    # Comparing ---------------------------------------------------------------------------------------------

    def _compare(self, task: _Task, bars: Snapshot, spans: list[Span]) -> Iterator[pa.Table]:
        timeframe, reported = task.timeframe, task.reported
        first = self._first_of_live(timeframe)
        if first is None or first > task.through:
            return
        begin = int(self.calendar.day_starts[first])
        before, alone, after = View(task.bars, self.live), View(None, self.live), View(bars, self.live)
        for start, end in self._slices(task, first, bars):
            touched = any(low < end and high >= start for low, high in spans)
            if not (touched or reported is None or end > reported):
                continue

            def seen(view: View, start: int = start, end: int = end) -> pa.Table:
                rows = view.read(BARS.names, None, timeframe.name, start, end, complete_only=True)
                ends = instants(rows["end"])
                return rows.filter(pa.array((ends > begin) & (ends <= task.until)))

            live = old = seen(alone)
            if reported is not None and start < reported:
                known = seen(before)
                old = old.filter(_after(old, reported))
                old = pa.concat_tables([old, known.filter(pc.invert(_after(known, reported)))])
            rows = differences(old, seen(after), self.calendar)
            if reported is not None and task.bars is None:
                rows = rows.filter(_after(rows, reported))
            if len(rows):
                yield self._explained(rows, bars, live, timeframe)

    def _first_of_live(self, timeframe: Timeframe) -> int | None:
        """Return the position of the session in which the stream's bars of a timeframe begin."""
        files = self.live.files.filter(pc.field("partition.timeframe") == timeframe.name)
        least = pc.min(files["min.ts"].cast(pa.int64())).as_py() if len(files) else None
        if least is None:
            return None
        first = int(np.searchsorted(self.calendar.day_starts, least, side="right")) - 1
        # A window of some sessions may have begun before the stream did.
        return first if timeframe.sessions <= 1 else max(first, self._began[0])

    @cached_property
    def _ticks(self) -> Snapshot:
        return snapshot_of(self.lake.table(tables.TICKS))

    @cached_property
    def _began(self) -> tuple[int, bool]:
        """The position of the session in which the stream began, and whether that was after its open."""
        names: list[Any] = pc.unique(self.live.files["partition.timeframe"]).to_pylist()
        # A longer window begins where history does.
        short = [name for name in names if Timeframe.parse(name).sessions <= 1] or names
        own = pc.is_in(self.live.files["partition.timeframe"], value_set=pa.array(short, pa.string()))
        least = pc.min(self.live.files["min.ts"].filter(own).cast(pa.int64())).as_py()
        position = int(np.searchsorted(self.calendar.day_starts, least, side="right")) - 1
        ticks = self._ticks
        within = {file.path for file in ticks.select(None, *self._day(position))}
        stamps: list[Any] = ticks.files["min.ts"].cast(pa.int64()).to_pylist() if within else []
        firsts = [ts for path, ts in zip(ticks.unquoted_paths, stamps, strict=False) if path in within]
        return position, min(firsts, default=0) > int(self.calendar.opens[position])

    def _day(self, position: int) -> Span:
        return int(self.calendar.day_starts[position]), int(self.calendar.day_ends[position])

    def _slices(self, task: _Task, first: int, bars: Snapshot) -> Iterator[Span]:
        """Yield stretches that hold the starts of all windows to compare: a session's, or those of some."""
        starts, ends, timeframe = self.calendar.day_starts, self.calendar.day_ends, task.timeframe
        filled = self._sessions_of(self.live, timeframe) | self._sessions_of(bars, timeframe)
        step = 1 if timeframe.is_intraday else _SESSIONS
        for position in range(max(0, first - max(0, timeframe.sessions - 1)), task.through + 1, step):
            last = min(position + step - 1, task.through)
            if filled[position : last + 1].any():
                yield int(starts[position]), int(ends[last])

    def _sessions_of(self, bars: Snapshot, timeframe: Timeframe) -> Bool:
        """Return in which sessions windows with a bar may begin, by the files' statistics."""
        files = bars.files.filter(pc.field("partition.timeframe") == timeframe.name)
        begins = np.zeros(len(self.calendar) + 1, np.int64)
        for side, step in (("min", 1), ("max", -1)):
            stamps = files[f"{side}.ts"].cast(pa.int64()).to_numpy()
            at = np.searchsorted(self.calendar.day_starts, stamps, side="right") - (step > 0)
            np.add.at(begins, at, step)
        return np.cumsum(begins)[:-1] > 0

    # Explaining --------------------------------------------------------------------------------------------

    def _explained(self, rows: pa.Table, bars: Snapshot, live: pa.Table, timeframe: Timeframe) -> pa.Table:
        """Say of each difference why it is there."""
        starts, ends = instants(rows["ts"]), instants(rows["end"])
        of_ticks = coverage.within(
            coverage.stretches(bars.properties, tables.OF_TICKS, timeframe.name), starts, ends
        )
        unseen = ~np.isin(starts, np.unique(instants(live["ts"])))
        if timeframe.is_intraday:
            # Nobody may have traded: the stream was away where it has nothing of that time at all.
            spans = set(zip(starts[unseen].tolist(), ends[unseen].tolist(), strict=True))
            gaps = [start for start, end in spans if not self._archived(start, end)]
            unseen = np.isin(starts, np.array(gaps, np.int64))
        else:
            position, partial = self._began
            begin, end = self._day(position)
            unseen |= partial & (starts < end) & (ends > begin)
        otherwise = np.where(unseen, NOT_COVERED, np.where(of_ticks, UNEXPLAINED, OFFICIAL))
        reasons = {}
        if of_ticks.any():
            events = self._events(int(starts.min()), int(ends.max()))
            reasons = {name: of_ticks & holding(rows, found) for name, found in events.items()}
        return with_reasons(rows, reasons, otherwise)

    def _archived(self, start: int, end: int) -> bool:
        """Return whether the stream archived anything of a stretch."""
        condition = Filter.of(tables.TICKS, None, start, end)
        return any(
            len(read_files(self._ticks.storage, tables.TICKS, [file], ["ts"], condition)[0])
            for file in self._ticks.select(None, start, end)
        )

    def _events(self, start: int, end: int) -> dict[str, pa.Table]:
        """Return what happened in a stretch, by reason: symbols and times."""
        late = TickReader(self.lake).late(None, start, end).select(["symbol", "ts"])
        letters = snapshot_of(self.lake.table(tables.DEAD_LETTERS))
        found = {LATE: late}
        for reason in (CANCELLED, CORRECTED):
            found[reason], _ = letters.read(["symbol", "ts"], None, start, end, {"reason": reason})
        return found


def _after(rows: pa.Table, instant: int) -> Any:
    """Return which windows end later."""
    return as_arrow(instants(rows["end"]) > instant)


def _us(text: str) -> int:
    return int(np.datetime64(text.removesuffix("Z"), "us").astype(np.int64))
