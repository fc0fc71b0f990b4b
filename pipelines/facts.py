"""What ``silver.bars`` remembers of how it was made: properties that runs share, marks of what it holds."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fibflow.io import coverage, tables
from fibflow.io.datafiles import DataFile
from fibflow.io.dialect import Kind
from fibflow.io.lake import LakeTable
from fibflow.io.snapshot import Snapshot
from fibflow.pipelines import cli
from fibflow.pipelines.request import Request
from fibflow.transforms.calendar import TradingCalendar
from fibflow.transforms.timeframe import Timeframe


def snapshot_of(table: LakeTable) -> Snapshot:
    """Return the newest snapshot of a table, an empty one where there is no table yet."""
    return table.snapshot() if table.exists else Snapshot.empty(table.storage, table.spec)


def timeframes_in(snapshot: Snapshot) -> set[str]:
    """Return the names of the timeframes that have stored bars."""
    return {str(file.partition["timeframe"]) for file in snapshot.select()} if len(snapshot) else set()


# Properties ------------------------------------------------------------------------------------------------


def hashes_key(kind: Kind) -> str:
    """Return the property that holds the calendar's hashes for bars of days, or of minutes."""
    return tables.CALENDAR_HASHES if kind == "daily" else tables.INTRADAY_CALENDAR_HASHES


def properties_of(
    request: Request, calendar: TradingCalendar, basis: str, stored: Mapping[str, str], through: int | None
) -> dict[str, str]:
    """Return the properties that a run gives the table.

    Args:
        request: of the run.
        calendar: of the run.
        basis: of its prices.
        stored: the table's properties.
        through: the end of the last window, UTC microseconds.
    """
    key = hashes_key(request.kind)
    years = [int(year) for year in json.loads(stored.get(key, "{}"))]
    if through is not None:
        years.append(int(np.datetime64(through, "us").astype("datetime64[Y]").astype(int)) + 1970)
    hashes = calendar.hashes(max(years)) if years else {}
    return {**_terms(request, calendar, basis), key: json.dumps(hashes, separators=(",", ":"))}


def _terms(request: Request, calendar: TradingCalendar, basis: str) -> dict[str, str]:
    terms = {tables.CALENDAR: calendar.name, tables.PRICE_BASIS: basis}
    if request.kind == "daily":
        return terms | {tables.ANCHOR: str(request.anchor)}
    return terms | {tables.INTRADAY_ANCHOR: str(request.intraday_anchor)}


def last_end(files: Iterable[DataFile]) -> int | None:
    """Return the end of the last window in files of bars (UTC microseconds), by their statistics."""
    ends = (json.loads(file.stats)["maxValues"]["end"] for file in files)
    newest = max(ends, default=None)
    return None if newest is None else int(np.datetime64(newest.removesuffix("Z"), "us").astype(int))


def check_properties(
    table: LakeTable, snapshot: Snapshot, request: Request, calendar: TradingCalendar, basis: str
) -> None:
    """Compare the table's properties with the run's; a run that replaces all bars may change them.

    Raises:
        PropertyMismatch: another anchor, price basis or calendar.
    """
    expected = _terms(request, calendar, basis)
    if request.full_refresh and not request.restricted:
        stay = timeframes_in(snapshot) - {timeframe.name for timeframe in request.timeframes}
        if not stay:
            return
        if not _of_kind(stay, request.kind):
            # An anchor is that of one kind of timeframes.
            expected = {key: expected[key] for key in (tables.CALENDAR, tables.PRICE_BASIS)}
    table.check(expected, snapshot.properties)


def _of_kind(names: Iterable[str], kind: Kind) -> set[str]:
    return {name for name in names if Timeframe.parse(name).is_intraday == (kind == "minutes")}


def moved_years(snapshot: Snapshot, request: Request, calendar: TradingCalendar) -> list[int]:
    """Return the years whose sessions changed since the bars were made, and that this run has to make anew.

    Raises:
        UsageError: some did, and the run was not told to make anew all that they move.
    """
    stored = json.loads(snapshot.properties.get(hashes_key(request.kind), "{}"))
    now = calendar.hashes(max(map(int, stored), default=0))
    moved = sorted(int(year) for year, digest in stored.items() if now.get(year, digest) != digest)
    if not moved:
        return []
    years = ", ".join(map(str, moved))
    if not (request.rewrite_calendar or request.full_refresh):
        raise cli.UsageError(
            f"calendar {calendar.name} changed in {years} since {snapshot.spec.name} was made: "
            "--rewrite-calendar makes anew the windows that it moves"
        )
    held = _of_kind(timeframes_in(snapshot), request.kind)
    if request.restricted or held - {timeframe.name for timeframe in request.timeframes}:
        names = ",".join(timeframe.name for timeframe in sorted(map(Timeframe.parse, held)))
        raise cli.UsageError(
            f"calendar {calendar.name} changed in {years}, and all windows have to be made anew at once: "
            f"ask for --timeframes {names}, without --symbols, --start and --end"
        )
    if request.full_refresh:
        return []
    if moved[0] < 2000:
        raise cli.UsageError(
            f"calendar {calendar.name} changed in {years}, before its count begins: run with --full-refresh"
        )
    return moved


# Coverage --------------------------------------------------------------------------------------------------


def coverage_of(
    request: Request,
    calendar: TradingCalendar,
    stored: Mapping[str, str],
    timeframes: Sequence[Timeframe],
    marks: Mapping[str, int],
    replaced: bool = False,
    taken: frozenset[int] = frozenset(),
) -> dict[str, str]:
    """Return the properties that say which windows the table answers for alone, as a run changes them.

    Args:
        request: of the run.
        calendar: of the run.
        stored: the table's properties.
        timeframes: that the run made.
        marks: of the run: bars of days that are as of a session speak for all windows up to it.
        replaced: all bars of the timeframes were: what earlier runs said of them no longer holds.
        taken: positions of the sessions whose bars official minutes made, if ticks had made them before.
    """
    covered: dict[str, coverage.Stretches] = {}
    of_ticks: dict[str, coverage.Stretches] = {}
    for timeframe in timeframes:
        day = marks.get(_names(timeframe, tables.DAILY.name)[2])
        if replaced:
            covered[timeframe.name] = of_ticks[timeframe.name] = ()
        if request.kind == "daily" and day is not None:
            end = int(calendar.day_ends[calendar.position_on_or_before(day)])
            covered[timeframe.name] = ((None, end),)
        if taken:
            held = coverage.sessions_in(coverage.stretches(stored, tables.OF_TICKS, timeframe.name), calendar)
            of_ticks[timeframe.name] = coverage.of_sessions(held - taken, calendar)
    return coverage.changed(stored, tables.COVERED, covered) | coverage.changed(
        stored, tables.OF_TICKS, of_ticks
    )


def sessions_of_ticks(
    stored: Mapping[str, str], timeframes: Iterable[Timeframe], calendar: TradingCalendar
) -> frozenset[int]:
    """Return the positions of the sessions whose bars of any of the timeframes were made of ticks."""
    found = (
        coverage.sessions_in(coverage.stretches(stored, tables.OF_TICKS, timeframe.name), calendar)
        for timeframe in timeframes
    )
    return frozenset().union(*found)


# Marks -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mark:
    """What the bars of a timeframe hold: a version of a bronze table, as of a session (days since 1970)."""

    version: int
    day: int


@dataclass(frozen=True)
class Marks:
    """The application transactions of ``silver.bars`` that say what it holds of a bronze table.

    A run for some symbols has marks of its own. They are made on top of everybody's, and count as long as
    those stay.

    Attributes:
        found: of each timeframe of the run; None where its bars were never made of this bronze table.
        names: the names of each timeframe's transactions: of the bronze table, its version, the session.
        source: stands for the bronze table: another one of its name is not the same.
    """

    found: Mapping[Timeframe, Mark | None]
    names: Mapping[Timeframe, tuple[str, str, str]]
    source: int

    @classmethod
    def read(cls, bars: LakeTable, request: Request, bronze: LakeTable) -> Marks:
        """Read the marks of a run's timeframes."""
        source = uuid.UUID(str(bronze.open().metadata().id)).int >> 80
        opened = bars.open() if bars.exists else None
        found: dict[Timeframe, Mark | None] = {}
        names: dict[Timeframe, tuple[str, str, str]] = {}
        for timeframe in request.timeframes:
            own = _names(timeframe, bronze.spec.name)
            values = [None if opened is None else opened.transaction_version(name) for name in own]
            mark = _mark(values, source)
            if request.symbols is not None:
                on_top = json.dumps([sorted(request.symbols), values])
                own = _names(
                    timeframe, f"{bronze.spec.name}:{hashlib.sha256(on_top.encode()).hexdigest()[:16]}"
                )
                values = [None if opened is None else opened.transaction_version(name) for name in own]
                mark = _mark(values, source) or mark
            found[timeframe], names[timeframe] = mark, own
        return cls(found, names, source)

    def of(self, timeframes: Sequence[Timeframe], version: int, day: int) -> dict[str, int]:
        """Return the transactions that say what a run made."""
        made: dict[str, int] = {}
        for timeframe in timeframes:
            made |= dict(zip(self.names[timeframe], (self.source, version, day), strict=True))
        return made


def no_marks(request: Request, bronze: str, base_version: int) -> dict[str, int]:
    """Return the transactions of a run from a raw folder: the next one from bronze makes everything anew.

    The value is negative, and another one each time: marks that were made on top of it go with it.
    """
    return {_names(timeframe, bronze)[0]: -2 - base_version for timeframe in request.timeframes}


def _names(timeframe: Timeframe, scope: str) -> tuple[str, str, str]:
    return (
        f"of:{scope}:{timeframe.name}",
        f"batch:{scope}:{timeframe.name}",
        f"as-of:{scope}:{timeframe.name}",
    )


def _mark(values: Sequence[int | None], source: int) -> Mark | None:
    of, version, day = values
    return Mark(version, day) if of == source and version is not None and day is not None else None
