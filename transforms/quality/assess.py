"""The report that follows from what was seen."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from fibflow.transforms.calendar import DAY_US
from fibflow.transforms.quality.days import Life, active_at, day_gaps, known_of, life_of
from fibflow.transforms.quality.evidence import Evidence, dates, instants
from fibflow.transforms.quality.minutes import Judged, Runs
from fibflow.transforms.quality.report import (
    DayGap,
    MinuteGap,
    Outage,
    QualityReport,
    Quiet,
    SessionRow,
)
from fibflow.transforms.quality.span import MINUTE_US, Bool


@dataclass(frozen=True)
class Told:
    """What others know and have found.

    Attributes:
        symbols, renames: of ``schemas.SYMBOLS`` and ``schemas.RENAMES``.
        differences: ``session``, ``timeframe``, ``why`` and ``count`` of bars.
        refused: ``ts`` and ``reason`` of rows.
        undated: ``reason`` and ``count`` of rows without a time.
    """

    symbols: pa.Table
    renames: pa.Table
    differences: pa.Table
    refused: pa.Table
    undated: pa.Table


def assess(seen: Evidence, told: Told, quiet_after: int, has_days: bool, now: datetime) -> QualityReport:
    """Return the report.

    Args:
        seen: the sessions.
        told: what others say.
        quiet_after: sessions without anything after which a symbol may be quiet.
        has_days: there are official days: what they lack is a gap.
        now: the time of day, which is told.
    """
    span, names = seen.span, seen.roster.names
    days: list[date] = span.days.astype("datetime64[D]").tolist()
    known = known_of(told.symbols, told.renames, seen.roster, span)
    life = life_of(seen.anything, known, quiet_after)
    gaps = day_gaps(seen.days, life, span.judged) if has_days else np.zeros_like(life.alive)
    judged = _minutes(seen, life, gaps)
    rows, places = (axis.tolist() for axis in np.nonzero(gaps))
    day_gaps_ = sorted(
        (DayGap(names[row], days[place]) for row, place in zip(rows, places, strict=True)),
        key=lambda gap: (gap.session, gap.symbol),
    )
    own = days[seen.offset :]

    def ts(place: int, minute: int) -> int:
        return int(seen.minutes.span.opens[place]) + minute * MINUTE_US

    minute_gaps = sorted(
        (MinuteGap(names[row], own[p], ts(p, minute), n) for row, p, minute, n in _rows(judged.runs)),
        key=lambda gap: (-gap.minutes, gap.ts, gap.symbol),
    )
    return QualityReport(
        made_at=now,
        exchange=span.calendar.name,
        rows=_session_rows(seen, days, gaps, judged, told),
        symbols=int(life.alive[:, span.judged :].any(1).sum()),
        dense=int(judged.dense.sum()),
        has_days=has_days,
        has_minutes=bool(seen.minutes.sessions(len(names))[:, seen.minutes.span.judged :].any()),
        day_gaps=day_gaps_,
        minute_gaps=minute_gaps,
        outages=[Outage(own[p], ts(p, minute), n, count) for count, p, minute, n in _rows(judged.outages)],
        quiet=_quiet(seen, life, told.symbols, quiet_after, days),
        broken=seen.broken.counts,
        broken_bars=seen.broken.kept,
        differences=_counter(told.differences, "timeframe", "why"),
        refused=Counter(map(str, told.refused["reason"].to_pylist())),
        undated=_counter(told.undated, "reason"),
    )


def _minutes(seen: Evidence, life: Life, gaps: Bool) -> Judged:
    """What minutes lack. A session without anything of a symbol is a gap of days, and not of minutes too."""
    place = np.arange(len(seen.span))
    stopped = life.quiet[:, None] & (place >= len(seen.span) - life.silence[:, None])
    alive = (life.alive & ~stopped)[:, seen.offset :]
    whole = gaps[:, seen.offset :] & ~seen.minutes.sessions(len(seen.roster))
    return seen.minutes.judge(alive & ~whole)


def _rows(runs: Runs) -> list[Any]:
    return list(zip(*(column.tolist() for column in runs), strict=True))


def _quiet(seen: Evidence, life: Life, symbols: pa.Table, quiet_after: int, days: list[date]) -> list[Quiet]:
    """Symbols that stopped in the span, and active ones that have nothing in it; by name."""
    names, sessions = seen.roster.names, len(days)
    found = [
        Quiet(names[row], days[sessions - 1 - int(life.silence[row])], int(life.silence[row]))
        for row in np.flatnonzero(life.quiet).tolist()
    ]
    if sessions >= quiet_after:
        active = active_at(symbols, int(seen.span.days[sessions - quiet_after]))
        unseen = active.filter(pa.array(seen.roster.find(active) < 0)).to_pylist()
        found += [Quiet(str(name), None, sessions) for name in unseen]
    return sorted(found, key=lambda each: each.symbol)


def _session_rows(
    seen: Evidence, days: list[date], gaps: Bool, judged: Judged, told: Told
) -> list[SessionRow]:
    span, runs = seen.span, judged.runs
    present = seen.days
    usual = int(span.minutes.max())
    stamps = instants(told.refused["ts"])
    # A daily row is stamped at midnight, and is its date's.
    at_midnight = span.places_of(stamps // DAY_US)
    refused = np.where(stamps % DAY_US == 0, at_midnight, span.places_at(stamps))
    differing, counts = (
        span.places_of(dates(told.differences["session"])),
        told.differences["count"].to_numpy(),
    )
    made = []
    for place in range(span.judged, len(span)):
        mine = runs.session == place - seen.offset
        row = SessionRow(
            days[place],
            half=int(span.minutes[place]) < usual,
            symbols=int(present[:, place].sum()),
            day_gaps=int(gaps[:, place].sum()),
            minutes_missing=int(runs.length[mine].sum()),
            symbols_missing_minutes=len(np.unique(runs.symbol[mine])),
            broken=int(seen.broken.by_session[place]),
            differences=int(counts[differing == place].sum()),
            refused=int((refused == place).sum()),
        )
        made.append(row)
    return made


def _counter(rows: pa.Table, *names: str) -> Counter[Any]:
    """How many there are of each value of some columns; a key of one column is no tuple."""
    found: Counter[Any] = Counter()
    keys = zip(*(map(str, rows[name].to_pylist()) for name in names), strict=True)
    counts: list[Any] = rows["count"].to_pylist()
    for key, count in zip(keys, counts, strict=True):
        found[key[0] if len(names) == 1 else key] += count
    return found
