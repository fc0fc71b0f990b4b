"""What a batch run is asked for, and what it reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from fibflow.io.dialect import Kind
from fibflow.io.snapshot import ReadStats
from fibflow.pipelines.runner import Runner
from fibflow.transforms.bars import BarSpec
from fibflow.transforms.calendar import CalendarError, TradingCalendar
from fibflow.transforms.timeframe import Anchor, IntradayAnchor, Timeframe


@dataclass(frozen=True)
class Request:
    """What the command line asks for: all timeframes of days, or all intraday. Dates are days since 1970."""

    timeframes: tuple[Timeframe, ...]
    anchor: Anchor
    intraday_anchor: IntradayAnchor
    input: str | None
    calendar: str | None
    price_basis: str | None
    symbols: frozenset[str] | None
    start: int | None
    end: int | None
    as_of: int | None
    complete_only: bool
    full_refresh: bool
    rewrite_calendar: bool
    dry_run: bool
    runner: Runner
    workers: int
    staging: str | None
    run: str
    year: int

    @property
    def kind(self) -> Kind:
        """``daily`` or ``minutes``."""
        return "minutes" if self.timeframes[0].is_intraday else "daily"

    @property
    def restricted(self) -> bool:
        """Whether only some symbols or windows are asked for."""
        return self.symbols is not None or self.start is not None or self.end is not None

    def as_of_instant(self, calendar: TradingCalendar, newest: int | None) -> int | None:
        """Return the as-of instant (UTC microseconds): of ``--as-of``, else of the newest session.

        Args:
            calendar: of the run.
            newest: days since 1970.

        Raises:
            CalendarError: the calendar has no session up to then.
        """
        day = self.as_of if self.as_of is not None else newest
        if day is None:
            return None
        position = calendar.position_on_or_before(day)
        if position < 0:
            begin, asked = (np.datetime64(int(at), "D") for at in (calendar.days[0], day))
            raise CalendarError(f"--as-of {asked} is before calendar {calendar.name} begins: {begin}")
        return int(calendar.day_ends[position])

    def bar_spec(
        self,
        calendar: TradingCalendar,
        as_of: int | None,
        timeframes: tuple[Timeframe, ...] | None = None,
        changed_from: int | None = None,
        bases: dict[str, int] | None = None,
    ) -> BarSpec:
        """Return what to make, in the transform's terms."""
        return BarSpec(
            timeframes=timeframes or self.timeframes,
            calendar=calendar,
            as_of=as_of,
            anchor=self.anchor,
            intraday_anchor=self.intraday_anchor,
            # A worker does not know the as-of time of the whole run.
            complete_only=self.complete_only and as_of is not None,
            start=None if self.start is None else _start_of(self.start, calendar),
            end=None if self.end is None else _start_of(self.end, calendar),
            changed_from=changed_from,
            bases=bases or {},
        )


def _start_of(day: int, calendar: TradingCalendar) -> int:
    """Return when the first session on or after a date (days since 1970) begins, UTC microseconds."""
    position = int(np.searchsorted(calendar.days, day))
    return int(calendar.day_starts[position] if position < len(calendar) else calendar.day_ends[-1])


@dataclass
class Summary:
    """What a run did, for the table at its end."""

    said: str = ""
    tallies: Counter[str] = field(default_factory=Counter)
    bars: Counter[str] = field(default_factory=Counter)
    changes: Counter[str] = field(default_factory=Counter)
    files: int = 0
    read: ReadStats = field(default_factory=ReadStats)
    version: int | None = None

    def rows(self, seconds: float) -> Iterator[tuple[str, str]]:
        """Yield names and values."""
        if self.said:
            yield "done", self.said
        yield "rows read", f"{self.tallies['rows_read']:,}"
        for name, count in sorted(self.tallies.items()):
            if name.startswith("rejected."):
                yield name.replace(".", ": "), f"{count:,}"
        for name, count in self.bars.items():
            yield f"bars {name}", f"{count:,}"
        for name in ("new", "revised", "withdrawn", "unchanged"):
            if self.changes[name]:
                yield f"bars {name}", f"{self.changes[name]:,}"
        yield "files written", f"{self.files:,}"
        yield "seconds", f"{seconds:.1f}"
        yield "table version", "none" if self.version is None or self.version < 0 else str(self.version)
