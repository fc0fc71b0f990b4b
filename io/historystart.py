"""Whether history and a stream meet: what windows of several sessions need before a live job starts."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fibflow.io import tables
from fibflow.io.history import HistoryStart, filled_days
from fibflow.io.lake import Lake
from fibflow.io.snapshot import Snapshot
from fibflow.io.storage import LakeError
from fibflow.transforms.calendar import NO_SESSION, TradingCalendar
from fibflow.transforms.livedays import DayGrid
from fibflow.transforms.timeframe import Anchor, Timeframe

#: A session with fewer rows than this share of the one before was landed in part.
_WHOLE = 0.8
_NAMED = 5


def history_start(
    lake: Lake,
    timeframes: Sequence[Timeframe],
    calendar: TradingCalendar,
    basis: str,
    first: int | None = None,
) -> HistoryStart:
    """Return what a job knows of history when it starts.

    Args:
        lake: with ``bronze.daily``.
        timeframes: of several sessions.
        calendar: of the job.
        basis: of the stream's prices.
        first: the first session (days since 1970) that the job's ticks make; None: the one after the newest
            of ``bronze.daily``.

    Raises:
        LakeError: there is no history, it does not fit, or sessions lie between it and the ticks.
    """
    table = lake.table(tables.DAILY)
    if not table.exists:
        raise LakeError(
            f"{lake.uri} has no bronze.daily, and {timeframes[0]} bars need the sessions before the stream's "
            "own: land them with pipelines.load, or ask for minutes, hours and 1d only"
        )
    snapshot = table.snapshot()
    table.check({tables.CALENDAR: calendar.name, tables.PRICE_BASIS: basis}, snapshot.properties)
    _check_counted(lake, calendar)
    newest = _newest(snapshot, calendar)
    at = newest + 1 if first is None else _position(calendar, first)
    grid = DayGrid(timeframes, 0, calendar)
    since = grid.first_position(at)
    if first is None:
        _check_whole(snapshot, calendar, newest)
    filled = None
    if at > newest + 1:
        filled = _filled(lake, calendar, range(newest + 1, at))
    days = calendar.days
    return HistoryStart(snapshot.version, int(days[since]), int(days[at - 1]), filled)


def _check_counted(lake: Lake, calendar: TradingCalendar) -> None:
    """Refuse stored bars whose sessions were counted in another way."""
    bars = lake.table(tables.BARS)
    if bars.exists:
        bars.check({tables.ANCHOR: str(Anchor.EXCHANGE), tables.CALENDAR: calendar.name})


def _newest(snapshot: Snapshot, calendar: TradingCalendar) -> int:
    """Return the position of the newest session that history has rows of."""
    newest = pc.max(snapshot.files["max.session"].cast(pa.int32())).as_py() if len(snapshot) else None
    if newest is None:
        raise LakeError(f"{snapshot.storage.uri} holds no rows: land history with pipelines.load")
    return calendar.position_on_or_before(newest)


def _position(calendar: TradingCalendar, day: int) -> int:
    position = int(calendar.positions(np.array([day]))[0])
    if position == NO_SESSION:
        raise LakeError(f"{np.datetime64(day, 'D')} is no session of calendar {calendar.name}")
    return position


def _check_whole(snapshot: Snapshot, calendar: TradingCalendar, newest: int) -> None:
    """Refuse a newest session of which there are far fewer rows than of the one before."""
    bounds = int(calendar.days[newest - 1]), int(calendar.days[newest]) + 1
    rows, _ = snapshot.read(["session"], None, *bounds)
    days = rows["session"].cast(pa.int32()).to_numpy()
    before, last = (int(np.count_nonzero(days == day)) for day in (bounds[0], calendar.days[newest]))
    if last < _WHOLE * before:
        session = calendar.days[newest].astype("datetime64[D]")
        raise LakeError(
            f"bronze.daily has {last:,} rows of its newest session {session}, {before:,} of the one before: "
            f"land it whole, or say --from-session {session} where the stream holds all of that session"
        )


def _filled(lake: Lake, calendar: TradingCalendar, positions: Collection[int]) -> tuple[int, int]:
    """Return the version of ``silver.live`` and the session from which on it has days that history lacks.

    Raises:
        LakeError: it lacks some, too.
    """
    wanted = sorted(positions)
    first, last = int(calendar.days[wanted[0]]), int(calendar.days[wanted[-1]])
    table = lake.table(tables.LIVE)
    missing = set(wanted)
    version = -1
    if table.exists:
        version = table.version
        found = filled_days(lake, calendar, version, first, last)["session"].unique().cast(pa.int32())
        missing -= set(calendar.positions(np.array(found.to_pylist(), np.int32)).tolist())
    if missing:
        names = [str(np.datetime64(int(calendar.days[position]), "D")) for position in sorted(missing)]
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        raise LakeError(
            f"neither bronze.daily nor the final 1d bars of silver.live have {', '.join(names[:_NAMED])}"
            f"{more}: land official history with pipelines.load, or start the stream where it still holds "
            "that session"
        )
    return version, first
