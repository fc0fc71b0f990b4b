"""Bars of minutes and hours from the ticks that a stream archived: the sessions that are new or have changed.

A session is made as a whole, its cancels and corrections applied, some sessions a commit. Those that official
minutes hold are left to ``BatchJob``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fibflow.io import coverage, tables, ticksessions
from fibflow.io.coverage import runs
from fibflow.io.datafiles import DataFile
from fibflow.io.lake import Lake, Scope
from fibflow.io.manifest import Manifest
from fibflow.io.merge import Region
from fibflow.io.rowfilter import Filter
from fibflow.io.rows import TickRows
from fibflow.io.snapshot import Snapshot, read_files
from fibflow.io.storage import Storage
from fibflow.pipelines import cli, facts
from fibflow.pipelines.job import make_staged
from fibflow.pipelines.plan import plan_bronze
from fibflow.pipelines.publish import Covers, Publisher
from fibflow.pipelines.request import Request, Summary
from fibflow.transforms.calendar import TradingCalendar
from fibflow.transforms.corrections import CANCELLED, CORRECTED, ApplyCorrections
from fibflow.transforms.timeframe import Timeframe

#: Sessions of fewer messages together are one pipeline and one commit; a session with more is one by itself.
AT_ONCE = 4_000_000


@dataclass(frozen=True)
class _Part:
    """Consecutive sessions, by position, and the timeframes to make of them."""

    first: int
    last: int
    timeframes: tuple[Timeframe, ...]
    files: Sequence[DataFile]


@dataclass
class TickJob:
    """Makes intraday bars of ``bronze.ticks``.

    Attributes:
        lake: where.
        request: of the run: intraday timeframes.
        feed: ``trades`` or ``minutes``: which messages make the bars.
        calendar: of the stream.
        basis: of its prices.
        through: position of the last session that has ended.
        summary: gets what was done.
    """

    lake: Lake
    request: Request
    feed: str
    calendar: TradingCalendar
    basis: str
    through: int
    summary: Summary = field(default_factory=Summary)

    def __post_init__(self) -> None:
        self.bars = self.lake.table(tables.BARS)
        self.ticks = self.lake.table(tables.TICKS)

    def check(self) -> Snapshot:
        """Refuse what would be refused at the start of the run, and return the stored bars.

        Raises:
            LakeError, UsageError: as the run would.
        """
        stored = facts.snapshot_of(self.bars)
        facts.check_properties(self.bars, stored, self.request, self.calendar, self.basis)
        facts.moved_years(stored, self.request, self.calendar)
        return stored

    def run(self) -> Summary:
        """Make the sessions that are new or have changed.

        Raises:
            LakeError, UsageError, InputError: as a batch run.
        """
        request, snapshot, stored = self.request, self.ticks.snapshot(), self.check()
        self.summary.version = stored.version
        changed = ticksessions.changed_at(snapshot, self.feed, self.calendar)
        # What was made stays up to date, also where this run goes less far: its mark speaks for all.
        before = facts.sessions_of_ticks(stored.properties, request.timeframes, self.calendar)
        changed = {p: at for p, at in changed.items() if p <= self.through or p in before}
        marks = facts.Marks.read(self.bars, request, self.ticks)
        official, made_of_minutes = self._minutes(stored, frozenset(changed))
        todo: dict[Timeframe, frozenset[int]] = {}
        for timeframe in request.timeframes:
            mark, of_ticks = marks.found[timeframe], self._sessions(stored, tables.OF_TICKS, timeframe)
            since = -1 if mark is None else mark.version
            old = {position for position in of_ticks if changed.get(position, -1) > since}
            todo[timeframe] = frozenset(old | (changed.keys() - of_ticks - official))
        parts = list(self._parts(snapshot, todo))
        if request.dry_run:
            self._tell(parts)
            return self.summary
        day = int(self.calendar.days[self.through])
        with cli.staging_place(
            request.staging, self.lake, request.runner.place.local, request.run
        ) as staging:
            for number, part in enumerate(parts):
                # Until all are made the old mark stands: what changed since then is looked at again.
                ends = not any(set(part.timeframes) & set(later.timeframes) for later in parts[number + 1 :])
                done = marks.of(part.timeframes, snapshot.newest, day) if ends else {}
                own = replace(request, timeframes=part.timeframes, run=f"{request.run}-{number}")
                publisher = Publisher(self.lake, own, self.calendar, self.basis, stored, self.summary)
                self._make(part, publisher, snapshot, done, made_of_minutes, staging.child(f"part-{number}"))
                stored = self.bars.snapshot(self.summary.version)
        self._settle(made_of_minutes)
        if not parts:
            self.summary.said = "no new ticks: nothing to do"
        return self.summary

    def _sessions(self, stored: Snapshot, key: str, timeframe: Timeframe) -> frozenset[int]:
        found = coverage.stretches(stored.properties, key, timeframe.name)
        return coverage.sessions_in(found, self.calendar)

    def _minutes(self, stored: Snapshot, positions: frozenset[int]) -> tuple[frozenset[int], _OfTimeframe]:
        """Return the sessions that official minutes hold, and by timeframe those that bars were made of.

        Sessions whose bars readers have are not looked at again.
        """
        table, request = self.lake.table(tables.MINUTES), self.request
        settled = {t: self._sessions(stored, tables.COVERED, t) for t in request.timeframes}
        of_minutes = {t: own - self._sessions(stored, tables.OF_TICKS, t) for t, own in settled.items()}
        if not table.exists:
            return frozenset(), of_minutes
        asked = positions - frozenset.intersection(*settled.values())
        official = ticksessions.held(table.snapshot(), asked, self.calendar)
        marks = facts.Marks.read(self.bars, request, table)
        for timeframe, mark in marks.found.items():
            if mark is None or not official:
                continue
            there = official
            if mark.version != table.version:
                # What landed since is not in the bars yet: the next run makes it.
                there = ticksessions.held(table.snapshot(mark.version), official, self.calendar)
            newest = self.calendar.position_on_or_before(mark.day)
            of_minutes[timeframe] |= {position for position in there if position <= newest}
        return official.union(*of_minutes.values()), of_minutes

    def _parts(self, snapshot: Snapshot, todo: Mapping[Timeframe, frozenset[int]]) -> Iterator[_Part]:
        """Yield what to make, oldest first: consecutive sessions with the same timeframes."""
        alike: dict[frozenset[int], list[Timeframe]] = {}
        for timeframe, positions in todo.items():
            alike.setdefault(positions, []).append(timeframe)
        for positions, timeframes in alike.items():
            for first, last in runs(positions):
                begin = first
                files: dict[str, DataFile] = {}
                for position in range(first, last + 1):
                    own = {file.path: file for file in self._files(snapshot, position)}
                    if position > begin and _rows(files) + _rows(own) > AT_ONCE:
                        yield _Part(begin, position - 1, tuple(timeframes), list(files.values()))
                        begin, files = position, {}
                    files |= own
                yield _Part(begin, last, tuple(timeframes), list(files.values()))

    def _files(self, snapshot: Snapshot, position: int) -> list[DataFile]:
        bounds = int(self.calendar.day_starts[position]), int(self.calendar.day_ends[position])
        return snapshot.select(None, *bounds, {"kind": ticksessions.KIND_OF[self.feed]})

    def _make(
        self,
        part: _Part,
        publisher: Publisher,
        snapshot: Snapshot,
        marks: dict[str, int],
        of_minutes: _OfTimeframe,
        staging: Storage,
    ) -> None:
        request, calendar, trades = publisher.request, self.calendar, self.feed == ticksessions.TRADES
        start, end = int(calendar.day_starts[part.first]), int(calendar.day_ends[part.last])
        kind = {"kind": ticksessions.KIND_OF[self.feed]}
        source = TickRows(
            snapshot.storage, snapshot.spec, Filter.of(snapshot.spec, None, start, end, kind), trades
        )
        plan = plan_bronze(source, snapshot, part.files)
        spec = request.bar_spec(calendar, end)
        made, manifest = make_staged(request, plan, spec, staging, [ApplyCorrections(calendar)])
        self._commit_letters(manifest, staging, start, end, request.run)
        sessions = frozenset(range(part.first, part.last + 1))
        covers = self._covers(request, sessions, of_minutes)
        publisher.merge(made, [Region(start=start, end=end)], manifest, staging, marks, covers)

    def _covers(self, request: Request, made: frozenset[int], of_minutes: _OfTimeframe) -> Covers:
        """Say that readers find these sessions in ``silver.bars``, beside those that minutes made."""

        def covers(stored: Mapping[str, str]) -> Mapping[str, str]:
            covered: dict[str, coverage.Stretches] = {}
            of_ticks: dict[str, coverage.Stretches] = {}
            for timeframe in request.timeframes:
                before, ticks = (
                    coverage.sessions_in(coverage.stretches(stored, key, timeframe.name), self.calendar)
                    for key in (tables.COVERED, tables.OF_TICKS)
                )
                official = of_minutes[timeframe] - made
                covered[timeframe.name] = coverage.of_sessions(before | made | official, self.calendar)
                of_ticks[timeframe.name] = coverage.of_sessions(ticks | made, self.calendar)
            return coverage.changed(stored, tables.COVERED, covered) | coverage.changed(
                stored, tables.OF_TICKS, of_ticks
            )

        return covers

    def _settle(self, of_minutes: _OfTimeframe) -> None:
        """Say that readers find sessions in ``silver.bars`` that minutes made, where nothing else changed."""
        stored = facts.snapshot_of(self.bars)
        changes = self._covers(self.request, frozenset(), of_minutes)(stored.properties)
        if changes and stored.version >= 0:
            self.summary.version = self.bars.commit(
                base_version=stored.version,
                scope=Scope(timeframes=tuple(t.name for t in self.request.timeframes)),
                run=self.request.run,
                properties=changes,
            )

    def _commit_letters(self, manifest: Manifest, staging: Storage, start: int, end: int, run: str) -> None:
        """Keep the trades that were cancelled or corrected, each once. The stream has told of duplicates."""
        files = manifest.files.pop(tables.DEAD_LETTERS.name, [])
        rows, _ = read_files(staging.child(tables.DEAD_LETTERS.name), tables.DEAD_LETTERS, files)
        reasons = {"reason": [CANCELLED, CORRECTED]}
        rows = rows.filter(pc.is_in(rows["reason"], value_set=pa.array(reasons["reason"])))
        if not len(rows):
            return
        table = self.lake.table(tables.DEAD_LETTERS)
        snapshot = facts.snapshot_of(table)
        told, _ = snapshot.read(["reason", "origin"], None, start, end, reasons)
        rows = rows.filter(pc.invert(pc.is_in(_named(rows), value_set=_named(told).combine_chunks())))
        if not len(rows):
            return
        rows = rows.sort_by([(name, "ascending") for name in ("symbol", "ts", "reason", "origin")])
        at = rows.schema.get_field_index("run")
        rows = rows.set_column(at, rows.schema.field(at), pa.repeat(pa.scalar(run), len(rows)))
        file = table.writer().write(rows, {}, f"corrections-{run}")
        table.commit([file], base_version=snapshot.version, scope=Scope(symbols=()), run=run)

    def _tell(self, parts: Sequence[_Part]) -> None:
        said = []
        for part in parts:
            first, last = (np.datetime64(int(self.calendar.days[at]), "D") for at in (part.first, part.last))
            days = f"{first}" if first == last else f"{first} to {last}"
            names = ", ".join(timeframe.name for timeframe in part.timeframes)
            said.append(f"would make {names} of {days} from {sum(file.rows for file in part.files):,} ticks")
        self.summary.said = "; ".join(said) or "no new ticks: nothing to do"


def _named(letters: pa.Table) -> Any:
    columns: list[Any] = [letters["reason"], letters["origin"]]
    return pc.binary_join_element_wise(*columns, " ")


_OfTimeframe = dict[Timeframe, frozenset[int]]


def _rows(files: Mapping[str, DataFile]) -> int:
    return sum(file.rows for file in files.values())
