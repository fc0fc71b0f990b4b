"""One batch job: decide what to make anew, run the pipeline, publish."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import apache_beam as beam
import numpy as np
import pyarrow as pa

from fibflow.io import sinks, tables
from fibflow.io.aws import AwsConfig
from fibflow.io.files import InputError, list_raw
from fibflow.io.lake import Lake, LakeError, LakeTable
from fibflow.io.manifest import Manifest
from fibflow.io.merge import Region
from fibflow.io.rowfilter import Filter
from fibflow.io.rows import BronzeRows, RawRows
from fibflow.io.snapshot import ReadStats, Snapshot
from fibflow.io.storage import Storage
from fibflow.pipelines import cli, facts
from fibflow.pipelines.changes import Group, changed_rows, groups_of, minute_groups, rows_between
from fibflow.pipelines.graph import Destination, run_bars
from fibflow.pipelines.plan import Plan, plan_bronze, plan_raw
from fibflow.pipelines.publish import Bars, Publisher, read_staged, with_flags
from fibflow.pipelines.request import Request, Summary
from fibflow.transforms.bars import BarSpec
from fibflow.transforms.calendar import TradingCalendar, load_calendar
from fibflow.transforms.partials import BAR_BATCH
from fibflow.transforms.timeframe import Anchor, Timeframe

_SESSIONS_A_YEAR = 240
#: A day after all others: none of a symbol's rows are wanted.
_NEVER = np.iinfo(np.int32).max


@dataclass
class BatchJob:
    """One run of ``pipelines.batch`` over daily rows or over minutes."""

    lake: Lake
    aws: AwsConfig | None
    request: Request
    summary: Summary = field(default_factory=Summary)

    def __post_init__(self) -> None:
        self.bars = self.lake.table(tables.BARS)
        self.source_spec = tables.DAILY if self.request.kind == "daily" else tables.MINUTES

    def check(self) -> None:
        """Refuse what would be refused at the start of the run.

        Raises:
            UsageError, InputError, LakeError: as the run would.
        """
        bronze = self._bronze()
        if bronze is not None:
            self._open(bronze)

    def run(self) -> Summary:
        """Run the job and return what it did."""
        request = self.request
        with cli.staging_place(
            request.staging, self.lake, request.runner.place.local, request.run
        ) as staging:
            bronze = self._bronze()
            if bronze is None:
                self._run_raw(staging)
            else:
                self._run_bronze(bronze, staging)
        return self.summary

    def _bronze(self) -> LakeTable | None:
        """Return the bronze table that is the input, None for a raw folder."""
        given, name = self.request.input, self.source_spec.name
        if given is None or given == name:
            table = self.lake.table(self.source_spec)
        elif (last := given.rstrip("/").rpartition("/")[2]) == name:
            table = LakeTable(Storage(given, self.aws), self.source_spec)
        elif last in tables.TABLES:
            raise cli.UsageError(f"--input {given} does not hold the rows of these timeframes: {name} does")
        else:
            return None
        if not table.exists:
            raise InputError(
                f"{table.storage.uri}: there is no such table; land history with pipelines.load, or give a "
                "raw folder with --input"
            )
        return table

    def _calendar(self, name: str) -> TradingCalendar:
        """Return the calendar, with enough years for the last window."""
        request = self.request
        newest = request.year if request.as_of is None else max(request.year, 1971 + request.as_of // 365)
        longest = max(timeframe.sessions for timeframe in request.timeframes)
        return load_calendar(name, newest + 2 + longest // _SESSIONS_A_YEAR)

    # Raw folders -------------------------------------------------------------------------------------------

    def _run_raw(self, staging: Storage) -> None:
        request = self.request
        assert request.input is not None
        if request.price_basis is None:
            raise cli.UsageError(
                f"{request.input}: declare its prices with --price-basis raw or --price-basis split-adjusted"
            )
        calendar = self._calendar(request.calendar or "XNYS")
        snapshot = facts.snapshot_of(self.bars)
        self.summary.version = snapshot.version
        facts.check_properties(self.bars, snapshot, request, calendar, request.price_basis)
        facts.moved_years(snapshot, request, calendar)
        held = facts.timeframes_in(snapshot)
        again = [timeframe.name for timeframe in request.timeframes if timeframe.name in held]
        if again and not (request.full_refresh or request.restricted):
            raise cli.UsageError(
                f"{self.bars.storage.uri} holds {', '.join(again)} bars: --full-refresh replaces them, "
                "--symbols some of them; incremental runs are made from bronze tables (pipelines.load)"
            )
        source = RawRows(request.input, request.kind, calendar, staging, self.aws, request.symbols)
        source.stage(list_raw(request.input, self.aws))
        if not source.files:
            raise InputError(f"{request.input}: no file holds a symbol of --symbols")
        spec = request.bar_spec(calendar, request.as_of_instant(calendar, None))
        marks = facts.no_marks(request, self.source_spec.name, snapshot.version)
        publisher = Publisher(self.lake, request, calendar, request.price_basis, snapshot, self.summary)
        self._make_all(plan_raw(source), spec, staging, publisher, marks)

    def _make_all(
        self, plan: Plan, spec: BarSpec, staging: Storage, publisher: Publisher, marks: dict[str, int]
    ) -> None:
        """Make all bars that are asked for."""
        request = self.request
        if request.dry_run:
            self._say(f"would read about {plan.rows:,} rows in {plan.units:,} units and make all bars")
            return
        held = facts.timeframes_in(publisher.base) & {timeframe.name for timeframe in spec.timeframes}
        if held and request.restricted:
            made, manifest = self._make_staged(plan, spec, staging)
            region = Region(start=spec.start, end=spec.end, symbols=request.symbols)
            publisher.merge(made, [region], manifest, staging, marks)
            return
        manifest = self._run_pipeline(plan, spec, Destination(self.bars.storage, staging, request.run))
        as_of = spec.as_of or request.as_of_instant(spec.calendar, manifest.newest)
        publisher.replace(manifest, staging, spec, as_of, marks)

    def _say(self, text: str) -> None:
        self.summary.said = "; ".join(part for part in (self.summary.said, text) if part)

    # Bronze tables -----------------------------------------------------------------------------------------

    def _open(self, bronze: LakeTable) -> _BronzeRun:
        """Compare the request with the bronze table, and with the bars that are there."""
        request, name = self.request, bronze.spec.name
        snapshot = bronze.snapshot()
        basis = snapshot.properties.get(tables.PRICE_BASIS, "")
        if request.price_basis not in (None, basis):
            raise cli.UsageError(f"{name} holds {basis} prices; --price-basis says {request.price_basis}")
        zone = snapshot.properties.get(tables.CALENDAR, "XNYS")
        if request.calendar not in (None, zone):
            raise cli.UsageError(
                f"{name} was landed with calendar {zone}; --calendar says {request.calendar}"
            )
        calendar = self._calendar(zone)
        as_of = request.as_of_instant(calendar, _newest_day(snapshot, calendar))
        if as_of is None:
            raise InputError(f"{bronze.storage.uri} holds no rows: land history with pipelines.load")
        stored = facts.snapshot_of(self.bars)
        self.summary.version = stored.version
        facts.check_properties(self.bars, stored, request, calendar, basis)
        moved = facts.moved_years(stored, request, calendar)
        publisher = Publisher(self.lake, request, calendar, basis, stored, self.summary)
        return _BronzeRun(bronze, snapshot, calendar, as_of, moved, publisher)

    def _run_bronze(self, bronze: LakeTable, staging: Storage) -> None:
        request, run = self.request, self._open(bronze)
        snapshot = run.snapshot
        marks = facts.Marks.read(self.bars, request, bronze)
        since = {t: None if request.full_refresh else mark for t, mark in marks.found.items()}
        done = False
        for number, mark in enumerate(dict.fromkeys(since.values())):
            some = tuple(t for t, own in since.items() if own == mark)
            # A range of windows is less than the marks speak of.
            ranged = request.start is not None or request.end is not None
            now = {} if ranged else marks.of(some, snapshot.version, run.as_of_day)
            place = staging.child(f"part-{number}")
            if mark is not None:
                done |= self._run_increment(run, some, mark, now, place)
                continue
            source = BronzeRows(
                bronze.storage, bronze.spec, request.kind, Filter.of(bronze.spec, request.symbols)
            )
            plan = plan_bronze(source, snapshot, snapshot.select(request.symbols))
            spec = request.bar_spec(run.calendar, run.as_of, some)
            self._make_all(plan, spec, place, run.publisher, now)
            done = True
        if not done:
            self._say("no new data: nothing to do")

    def _run_increment(
        self,
        run: _BronzeRun,
        timeframes: tuple[Timeframe, ...],
        mark: facts.Mark,
        marks: dict[str, int],
        staging: Storage,
    ) -> bool:
        """Make anew what changed after ``mark``; return whether anything did."""
        groups = self._groups(run, timeframes, mark)
        if not groups:
            return False
        if self.request.dry_run:
            first = np.datetime64(int(run.calendar.days[min(group.changed for group in groups)]), "D")
            self._say(f"would make anew the windows that changed from {first} on")
            return True
        parts: dict[Timeframe, list[pa.Table]] = {timeframe: [] for timeframe in timeframes}
        manifest, regions = Manifest(), []
        for number, group in enumerate(groups):
            plan, spec, region = self._plan_group(run, group, timeframes)
            regions.append(region)
            made, told = self._make_staged(plan, spec, staging.child(f"group-{number}"))
            manifest.tallies.update(told.tallies)
            for timeframe, bars in made.items():
                parts[timeframe].append(bars.filter(pa.array(region.holds(bars))))
        bars_of = {timeframe: pa.concat_tables(some) for timeframe, some in parts.items()}
        taken = frozenset(
            position
            for group in groups
            if group.until is not None and self.request.kind == "minutes" and not self.request.restricted
            for position in range(group.changed, group.until)
        )

        def covers(stored: Mapping[str, str]) -> dict[str, str]:
            return facts.coverage_of(self.request, run.calendar, stored, timeframes, marks, taken=taken)

        run.publisher.merge(bars_of, regions, manifest, staging, marks, covers)
        return True

    def _groups(self, run: _BronzeRun, timeframes: tuple[Timeframe, ...], mark: facts.Mark) -> list[Group]:
        calendar, request = run.calendar, self.request
        before, newest = calendar.position_on_or_before(mark.day), run.as_of_position
        if newest < before:
            raise cli.UsageError(
                f"{self.bars.spec.name} is as of {np.datetime64(mark.day, 'D')}: an older --as-of needs "
                "--full-refresh or another lake"
            )
        changed = changed_rows(run.bronze, run.snapshot, calendar, mark.version)
        if changed is None:
            raise LakeError(
                f"{run.bronze.spec.name} was landed anew since the last run: run with --full-refresh"
            )
        tip = before + 1 if before < newest else None
        if run.moved:
            january = int(np.datetime64(f"{run.moved[0]}-01-01", "D").astype(int))
            tip = min(before + 1, calendar.position_on_or_before(january))
        changed = changed.through(newest)
        if request.kind == "daily" and request.anchor is Anchor.ROWS and tip is not None:
            # Where a row's window is depends on the rows before it: only its own symbol's windows move.
            changed |= rows_between(run.snapshot, calendar, tip, newest)
        self.summary.read += changed.read
        if request.kind == "minutes":
            of_ticks = facts.sessions_of_ticks(run.publisher.base.properties, timeframes, calendar)
            if of_ticks and tip is not None:
                # What ticks made stays where minutes hold no row: no window is made anew but theirs.
                changed |= rows_between(run.snapshot, calendar, tip, newest)
            groups = minute_groups(changed, tip, of_ticks)
        else:
            anchor, stored = request.anchor, run.publisher.base
            groups, cost = groups_of(changed.first, tip, anchor, timeframes, calendar, stored)
            self.summary.read += cost
        if request.symbols is None:
            return groups
        return [own for group in groups if (own := group.only(request.symbols)) is not None]

    def _plan_group(
        self, run: _BronzeRun, group: Group, timeframes: tuple[Timeframe, ...]
    ) -> tuple[Plan, BarSpec, Region]:
        calendar, request, bronze = run.calendar, self.request, run.bronze
        by_day = bronze.spec.time_column == "session"
        first, last = (
            None if at is None else int((calendar.days if by_day else calendar.day_starts)[at])
            for at in (group.read_from, group.until)
        )
        symbols = None if group.symbols is None else sorted(group.symbols)
        files = run.snapshot.select(symbols, first, last)
        condition = Filter.of(bronze.spec, symbols, first, last)
        starts = {name: int(calendar.days[position]) for name, position in group.starts.items()}
        starts |= dict.fromkeys(group.others, _NEVER)
        source = BronzeRows(bronze.storage, bronze.spec, request.kind, condition, starts)
        self.summary.read += ReadStats(len(files), sum(file.size for file in files))
        changed_from = int(calendar.day_starts[group.changed])
        spec = request.bar_spec(calendar, run.as_of, timeframes, changed_from, group.bases)
        until = None if group.until is None else int(calendar.day_starts[group.until])
        end = min((bound for bound in (spec.end, until) if bound is not None), default=None)
        since = {name: int(calendar.day_starts[position]) for name, position in group.since.items()}
        region = Region(changed_from, spec.start, end, group.symbols, request.anchor, since)
        return plan_bronze(source, run.snapshot, files), spec, region

    # Running -----------------------------------------------------------------------------------------------

    def _run_pipeline(self, plan: Plan, spec: BarSpec, to: Destination) -> Manifest:
        return run_pipeline(self.request, plan, spec, to)

    def _make_staged(self, plan: Plan, spec: BarSpec, staging: Storage) -> tuple[Bars, Manifest]:
        return make_staged(self.request, plan, spec, staging)


def run_pipeline(
    request: Request, plan: Plan, spec: BarSpec, to: Destination, prepare: Sequence[beam.DoFn] = ()
) -> Manifest:
    """Run the pipeline, with progress shown."""
    units = len(plan.scattered) + plan.units
    what = f"bars of about {plan.rows:,} rows"
    options = request.runner.options()
    with cli.known_errors(to.staging), cli.progress(to.staging, units, what):
        return run_bars(plan, spec, to, options, request.workers, prepare)


def make_staged(
    request: Request, plan: Plan, spec: BarSpec, staging: Storage, prepare: Sequence[beam.DoFn] = ()
) -> tuple[Bars, Manifest]:
    """Run the pipeline into staged files; return its bars with flags set."""
    place = staging.child("bars")
    manifest = run_pipeline(request, plan, spec, Destination(place, staging, request.run), prepare)
    as_of = spec.as_of or request.as_of_instant(spec.calendar, manifest.newest)
    ended = read_staged(place, manifest.of_table(tables.BARS.name))
    still_open = read_staged(staging.child(sinks.OPEN_BARS), manifest.of_table(sinks.OPEN_BARS))
    none = BAR_BATCH.empty_table()
    made: Bars = {}
    for timeframe in spec.timeframes:
        open_bars = with_flags(still_open.get(timeframe.name, none), as_of, request)
        made[timeframe] = pa.concat_tables([ended.get(timeframe.name, none), open_bars])
    return made, manifest


@dataclass(frozen=True)
class _BronzeRun:
    """What is fixed for a run from a bronze table; ``moved`` are the years whose sessions changed."""

    bronze: LakeTable
    snapshot: Snapshot
    calendar: TradingCalendar
    as_of: int
    moved: Sequence[int]
    publisher: Publisher

    @property
    def as_of_position(self) -> int:
        """The position of the as-of session."""
        return int(np.searchsorted(self.calendar.day_ends, self.as_of, side="right")) - 1

    @property
    def as_of_day(self) -> int:
        """The as-of session, days since 1970."""
        return int(self.calendar.days[self.as_of_position])


def _newest_day(snapshot: Snapshot, calendar: TradingCalendar) -> int | None:
    """Return the newest session of a bronze table by its statistics, days since 1970."""
    column = f"max.{snapshot.spec.time_column}"
    if column not in snapshot.files.column_names or not len(snapshot):
        return None
    newest = snapshot.files.column(column)
    if pa.types.is_date(newest.type):
        return int(newest.cast(pa.int32()).to_numpy().max())
    latest = int(newest.cast(pa.int64()).to_numpy().max())
    # Not by day: the calendar may have lost that session since.
    return int(calendar.days[np.searchsorted(calendar.day_starts, latest, side="right") - 1])
