"""What ``silver.bars`` remembers of how it was made: properties that every run must share, and marks of what it holds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np

from fibflow.io import tables
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


def properties_of(
    request: Request, calendar: TradingCalendar, basis: str, stored: str | None, through: int | None
) -> dict[str, str]:
    """Return the properties that a run gives the table.

    Args:
        request, calendar, basis: of the run.
        stored: the table's calendar hashes.
        through: the end of the last window, UTC microseconds.
    """
    years = [int(year) for year in json.loads(stored or "{}")]
    if through is not None:
        years.append(int(np.datetime64(through, "us").astype("datetime64[Y]").astype(int)) + 1970)
    properties = {
        tables.CALENDAR: calendar.name,
        tables.PRICE_BASIS: basis,
        tables.CALENDAR_HASHES: json.dumps(calendar.hashes(max(years, default=1970)), separators=(",", ":")),
    }
    if request.kind == "daily":
        properties[tables.ANCHOR] = str(request.anchor)
    else:
        properties[tables.INTRADAY_ANCHOR] = str(request.intraday_anchor)
    return properties


def check_properties(
    table: LakeTable, snapshot: Snapshot, request: Request, calendar: TradingCalendar, basis: str
) -> None:
    """Compare the table's properties with the run's; a run that replaces all bars may change them.

    Raises:
        PropertyMismatch: another anchor, price basis or calendar.
    """
    replaced = {timeframe.name for timeframe in request.timeframes}
    if request.full_refresh and not request.restricted and timeframes_in(snapshot) <= replaced:
        return
    expected = properties_of(request, calendar, basis, None, None)
    del expected[tables.CALENDAR_HASHES]
    table.check(expected, snapshot.properties)


def moved_years(snapshot: Snapshot, request: Request, calendar: TradingCalendar) -> list[int]:
    """Return the years whose sessions changed since the bars were made, and that this run has to make anew.

    Raises:
        UsageError: some did, and the run was not told to.
    """
    stored = snapshot.properties.get(tables.CALENDAR_HASHES)
    now = calendar.hashes(request.year + 1)
    moved = sorted(
        int(year) for year, digest in json.loads(stored or "{}").items() if now.get(year, digest) != digest
    )
    if not moved or request.full_refresh:
        return []
    years = ", ".join(map(str, moved))
    if not request.rewrite_calendar:
        raise cli.UsageError(
            f"calendar {calendar.name} changed in {years} since {snapshot.spec.name} was made: --rewrite-calendar makes "
            "anew the windows that it moves"
        )
    if moved[0] < 2000:
        raise cli.UsageError(
            f"calendar {calendar.name} changed in {years}, before its count begins: run with --full-refresh"
        )
    return moved


def read_mark(
    table: LakeTable, request: Request, timeframe: Timeframe, bronze: str
) -> tuple[int, int] | None:
    """Return (bronze version, as-of day) that a timeframe's bars hold; None where they were never made.

    A run for some symbols has marks of its own; it begins at the later of them and everybody's.
    """
    if not table.exists:
        return None
    opened = table.open()
    found = [
        (int(version), int(day))
        for names in (_mark_names(request, timeframe, bronze), _mark_names(None, timeframe, bronze))
        for version, day in [tuple(opened.transaction_version(name) for name in names)]
        if version is not None and day is not None
    ]
    return max(found, default=None)


def marks_of(
    request: Request, timeframes: Sequence[Timeframe], bronze: str, version: int, as_of_day: int
) -> dict[str, int]:
    """Return the application transactions that record what a run made; none for a range of windows."""
    if request.start is not None or request.end is not None:
        return {}
    marks: dict[str, int] = {}
    for timeframe in timeframes:
        of_version, of_day = _mark_names(request, timeframe, bronze)
        marks |= {of_version: version, of_day: as_of_day}
    return marks


def _mark_names(request: Request | None, timeframe: Timeframe, bronze: str) -> tuple[str, str]:
    scope = ""
    if request is not None and request.symbols is not None:
        scope = ":" + hashlib.sha256(",".join(sorted(request.symbols)).encode()).hexdigest()[:12]
    return f"batch:{bronze}:{timeframe.name}{scope}", f"as-of:{bronze}:{timeframe.name}{scope}"
