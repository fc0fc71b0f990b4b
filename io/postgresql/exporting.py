"""From the lake into PostgreSQL: official days into ``raw_ohlcv``, and reference data.

A run takes what was landed since the one before, by a watermark; without one, or where the lake no longer
tells, it compares everything. It is safe to run twice, at once, and to kill.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from fibflow.io import reference, tables
from fibflow.io.lake import Lake, LakeTable
from fibflow.io.landed import landed_rows
from fibflow.io.postgresql import symbols, watermarks
from fibflow.io.postgresql.ohlcv import declare_basis, upsert_ohlcv
from fibflow.io.postgresql.upserts import Upserted
from fibflow.io.snapshot import Snapshot
from fibflow.io.storage import LakeError
from fibflow.transforms.calendar import NO_SESSION, TradingCalendar, load_calendar
from fibflow.transforms.schemas import DAILY_ROWS, TIMESTAMP

__all__ = ["Exported", "export_daily", "export_reference"]

_JOB = "export"
#: With more rows in the files that were written since, years are read one by one.
_MOST_AT_ONCE = 4_000_000
_REFERENCE = (
    (tables.SYMBOLS, symbols.SYMBOLS, False),
    (tables.SPLITS, symbols.SPLITS, True),
    (tables.DIVIDENDS, symbols.DIVIDENDS, True),
    (tables.RENAMES, symbols.RENAMES, True),
)


@dataclass(frozen=True)
class Exported:
    """What an export did.

    Attributes:
        rows: what it did to rows by key.
        version: the version of ``bronze.daily`` that PostgreSQL holds now.
        since: only what was landed after this version was read; None for everything.
    """

    rows: Upserted
    version: int
    since: int | None


def export_daily(
    lake: Lake, url: str, run: str, *, full: bool = False, part: Callable[[str, int], None] | None = None
) -> Exported:
    """Bring ``raw_ohlcv`` up to date with the official days of a lake, as interval ``1d``.

    A row's timestamp is the start of its session's day, as the ``ts`` of a ``1d`` bar. A year, or what is
    new, is one transaction. Rows that the lake does not have stay.

    Args:
        lake: with a table ``bronze.daily``.
        url: ``postgresql://user@host/database``, migrated.
        run: the run's id.
        full: compare everything, whatever the watermark says.
        part: told of each part: its name and its rows.

    Raises:
        LakeError: the lake cannot be read, or has no official days.
        PostgresError: PostgreSQL does not answer or refuses, or holds prices of another basis. What was
            written stays, and a second run goes on.
    """
    table = lake.table(tables.DAILY)
    if not table.exists:
        raise LakeError(f"there is no bronze.daily in {lake.uri}: pipelines.load lands official days")
    opened = table.open()
    snapshot = Snapshot.of(opened, table.storage, table.spec)
    calendar = load_calendar(snapshot.properties.get(tables.CALENDAR, "XNYS"))
    if basis := snapshot.properties.get(tables.PRICE_BASIS):
        declare_basis(url, basis)
    # A lake that is made anew is another table.
    key = f"{table.spec.name}/{opened.metadata().id}"
    mark = None if full else watermarks.read(url, _JOB, key)
    since = None if mark is None else int(mark.position or -1)
    known = datetime.fromtimestamp(snapshot.newest / 1000, UTC)
    done = Upserted()
    rows = None if since is None else _landed(table, since, snapshot.version)
    since = None if rows is None else since
    for name, some in _years(snapshot) if rows is None else [("new", rows)]:
        if len(some):
            done += upsert_ohlcv(url, _bars(some, calendar), "1d", known=known)
            if part is not None:
                part(name, len(some))
    watermarks.advance(url, _JOB, key, known, run, position=str(snapshot.version))
    return Exported(done, snapshot.version, since)


def _landed(table: LakeTable, since: int, until: int) -> pa.Table | None:
    """Return the rows landed after a version; None where everything has to be compared."""
    if since >= until:
        return DAILY_ROWS.empty_table()
    try:
        added, _ = table.changes(since, until)
        if sum(file.rows for file in added) > _MOST_AT_ONCE:
            return None
        found = landed_rows(table, since, until, DAILY_ROWS.names)
    except LakeError:
        # The log no longer holds these versions.
        return None
    return None if found is None else found[0]


def _years(snapshot: Snapshot) -> Iterator[tuple[str, pa.Table]]:
    if not len(snapshot):
        return
    for period in sorted(str(name) for name in snapshot.files["partition.period"].unique().to_pylist()):
        yield period, snapshot.read(DAILY_ROWS.names, where={"period": period}, dictionary=["symbol"])[0]


def _bars(rows: pa.Table, calendar: TradingCalendar) -> pa.Table:
    """Return daily rows with the start of their session's day as ``ts``."""
    days = rows["session"].cast(pa.int32()).to_numpy()
    positions = calendar.positions(days)
    strange = np.flatnonzero(positions == NO_SESSION)
    if len(strange):
        day = np.datetime64(int(days[strange[0]]), "D")
        raise LakeError(
            f"bronze.daily has rows of {day}, which is no session of {calendar.name} here: install the "
            "release of exchange_calendars that they were landed with, or load them anew"
        )
    starts: Any = pa.array(calendar.day_starts[positions]).cast(TIMESTAMP)
    return rows.drop_columns(["session"]).append_column("ts", starts)


def export_reference(lake: Lake, url: str, run: str) -> dict[str, Upserted]:
    """Bring the tables of reference data up to date with a lake's; return what was done, by table.

    Splits, dividends and renames are afterwards those of the lake; symbols that it does not have stay. Tables
    that the lake does not have are left alone.

    Raises:
        LakeError: the lake cannot be read.
        PostgresError: PostgreSQL does not answer, or refuses.
    """
    done = {}
    for spec, target, whole in _REFERENCE:
        table = lake.table(spec)
        if not table.exists:
            continue
        rows, _ = reference.read_reference(lake, spec)
        known = datetime.fromtimestamp(table.snapshot().newest / 1000, UTC)
        done[target.name] = symbols.upsert_reference(url, target, rows, run=run, known=known, whole=whole)
    return done
