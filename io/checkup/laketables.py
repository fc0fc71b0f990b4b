"""The lake's tables: whether this release reads them, on what terms they were made, and how old they are."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa

from fibflow.io import tables
from fibflow.io.checkup import machine
from fibflow.io.checkup.findings import Finding, Wrong, failed, ok, warning
from fibflow.io.checkup.site import Site
from fibflow.io.lake import Lake, TableSpec
from fibflow.io.snapshot import Snapshot
from fibflow.io.storage import LakeError
from fibflow.transforms.calendar import SECOND_US, TradingCalendar

#: Official history may be so many sessions behind before that is an error.
MOST_BEHIND = 2
DEFAULT_CALENDAR = "XNYS"
_AT_ONCE = 4
_HASHES = (tables.CALENDAR_HASHES, tables.INTRADAY_CALENDAR_HASHES)


def calendar_and_tables(site: Site) -> Iterator[Finding]:
    """Look at the tables and at the calendar that they were made with."""
    found: dict[str, Snapshot] = {}
    if site.lake is None:
        yield machine.reaches(machine.calendar_of(DEFAULT_CALENDAR, site.now()), site.now())
        return
    read = _read(Lake(site.lake, site.lake_aws()))
    errors = {name: error for name, error in read.items() if isinstance(error, LakeError)}
    found = {name: each for name, each in read.items() if isinstance(each, Snapshot)}
    yield _of_tables(found, errors)
    yield _terms(found)
    named = _values(found, tables.CALENDAR) or {DEFAULT_CALENDAR: []}
    calendar = machine.calendar_of(min(named), site.now())
    yield machine.reaches(calendar, site.now())
    yield _hashes(found, calendar)
    yield _days(found, calendar, site.now())


def _read(lake: Lake) -> dict[str, Snapshot | LakeError]:
    def one(spec: TableSpec) -> Snapshot | LakeError | None:
        try:
            table = lake.table(spec)
            return table.snapshot() if table.exists else None
        except LakeError as error:
            return error

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        read = zip(tables.TABLES, pool.map(one, tables.TABLES.values()), strict=True)
        return {name: each for name, each in read if each is not None}


def _of_tables(found: Mapping[str, Snapshot], errors: Mapping[str, LakeError]) -> Finding:
    name = "lake tables"
    if errors:
        return failed(
            name,
            "; ".join(map(str, errors.values())),
            "use the release that wrote them, or a later one; or correct what is said",
        )
    if not found:
        raise Wrong("there is no table", "correct --lake, or make some: pipelines.load, pipelines.stream")
    return ok(name, ", ".join(f"{each} at version {snapshot.version}" for each, snapshot in found.items()))


def _values(found: Mapping[str, Snapshot], key: str) -> dict[str, list[str]]:
    """Return the tables by their value of a property."""
    values: dict[str, list[str]] = defaultdict(list)
    for name, snapshot in found.items():
        if key in snapshot.properties:
            values[snapshot.properties[key]].append(name)
    return dict(values)


def _terms(found: Mapping[str, Snapshot]) -> Finding:
    told = []
    for key in (tables.CALENDAR, tables.PRICE_BASIS, tables.ANCHOR, tables.INTRADAY_ANCHOR):
        values, name = _values(found, key), key.removeprefix("fibflow.").replace("_", " ")
        if len(values) > 1:
            each = " and ".join(f"{value} ({', '.join(names)})" for value, names in values.items())
            return failed(
                "lake terms",
                f"the {name} is {each}",
                "these tables do not belong together: make the ones that are wrong anew (--full-refresh)",
            )
        told += [f"{name} {value}" for value in values]
    return ok("lake terms", ", ".join(told) or "no table says any")


def _hashes(found: Mapping[str, Snapshot], calendar: TradingCalendar) -> Finding:
    name, moved, most = "lake calendar", defaultdict(list), 0
    for table, snapshot in found.items():
        if snapshot.properties.get(tables.CALENDAR) != calendar.name:
            continue
        for key in _HASHES:
            stored = json.loads(snapshot.properties.get(key, "{}"))
            now = calendar.hashes(max(map(int, stored), default=0))
            most = max(most, len(stored))
            for year, digest in stored.items():
                if now.get(year, digest) != digest:
                    moved[year].append(table)
    if moved:
        return failed(
            name,
            f"{calendar.name} has other sessions in {', '.join(sorted(moved))} than the lake was made with",
            "run pipelines.load --full-refresh and pipelines.batch --rewrite-calendar, or install the "
            "release of exchange_calendars that made it",
        )
    return ok(name, f"{calendar.name} has the sessions that the lake was made with, in {most} years")


def newest_day(snapshot: Snapshot) -> int | None:
    """Return the newest session of a table of days, days since 1970."""
    column = f"max.{snapshot.spec.time_column}"
    if not len(snapshot) or column not in snapshot.files.column_names:
        return None
    values: Any = snapshot.files.column(column)
    return int(values.cast(pa.int32()).to_numpy().max())


def _days(found: Mapping[str, Snapshot], calendar: TradingCalendar, now: float) -> Finding:
    name, daily = "lake days", found.get(tables.DAILY.name)
    newest = newest_day(daily) if daily is not None else None
    if newest is None:
        return warning(name, "there are no official days", "run pipelines.daily (docs/daily.md)")
    due = int(np.searchsorted(calendar.day_ends, int(now * SECOND_US), side="right")) - 1
    behind = due - calendar.position_on_or_before(newest)
    told = f"the newest official day is {np.datetime64(newest, 'D')}"
    if behind <= 0:
        return ok(name, told)
    reason = f"{told}, {behind} session{'s' if behind > 1 else ''} behind"
    advice = "see why pipelines.daily did not run, and run it: it finds all that is missing"
    return (failed if behind > MOST_BEHIND else warning)(name, reason, advice)
