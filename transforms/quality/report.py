"""What a quality report says, and its form as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

from fibflow.transforms.quality.bars import BrokenBar

#: Refusals that are no fault of the data: a copy that lost, a trade that was taken back or corrected.
HARMLESS = frozenset({"duplicate", "cancelled", "corrected"})
UNEXPLAINED = "unexplained"
#: Entries of a list in the document; counts count all.
MOST = 1_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class DayGap(NamedTuple):
    """A session that a symbol lacks."""

    symbol: str
    session: date


class MinuteGap(NamedTuple):
    """Minutes that a symbol lacks; ``ts`` is the first one, UTC microseconds."""

    symbol: str
    session: date
    ts: int
    minutes: int


class Outage(NamedTuple):
    """Minutes that most symbols lack."""

    session: date
    ts: int
    minutes: int
    symbols: int


class Quiet(NamedTuple):
    """A symbol that stopped: its last session, None for before all that was looked at; sessions since."""

    symbol: str
    last: date | None
    sessions: int


@dataclass
class SessionRow:
    """What there is to say of one session."""

    session: date
    half: bool
    symbols: int = 0
    day_gaps: int = 0
    minutes_missing: int = 0
    symbols_missing_minutes: int = 0
    broken: int = 0
    differences: int = 0
    refused: int = 0


@dataclass
class QualityReport:
    """What was found in the newest sessions of a lake.

    Attributes:
        made_at: when.
        exchange: the calendar's name.
        rows: a session each, oldest first.
        symbols: how many were looked at.
        dense: of how many the minutes were.
        has_days, has_minutes: whether there are official days, and minutes in these sessions.
        day_gaps, minute_gaps, outages, quiet: what is missing; minutes by how many, most first.
        broken: bars that break a rule, by table, timeframe and rule; ``broken_bars`` are some of them.
        differences: what the daily run's reconciliation found, by timeframe and reason.
        refused: rows, by reason; ``undated`` are those without a time, of all of the lake's life.
    """

    made_at: datetime
    exchange: str
    rows: Sequence[SessionRow]
    symbols: int = 0
    dense: int = 0
    has_days: bool = False
    has_minutes: bool = False
    day_gaps: Sequence[DayGap] = ()
    minute_gaps: Sequence[MinuteGap] = ()
    outages: Sequence[Outage] = ()
    quiet: Sequence[Quiet] = ()
    broken: Mapping[tuple[str, str, str], int] = field(default_factory=Counter)
    broken_bars: Sequence[BrokenBar] = ()
    differences: Mapping[tuple[str, str], int] = field(default_factory=Counter)
    refused: Mapping[str, int] = field(default_factory=Counter)
    undated: Mapping[str, int] = field(default_factory=Counter)

    @property
    def minutes_missing(self) -> int:
        """Minutes that symbols lack."""
        return sum(gap.minutes for gap in self.minute_gaps)

    @property
    def unexplained(self) -> int:
        """Bars of the stream that differ from batch's for no known reason."""
        return sum(count for (_, why), count in self.differences.items() if UNEXPLAINED in why.split(","))

    @property
    def faulty(self) -> int:
        """Refused rows that are a fault of the data."""
        return sum(count for reason, count in self.refused.items() if reason not in HARMLESS)

    @property
    def found(self) -> bool:
        """Whether somebody should look: at what is missing or quiet, breaks a rule, or has no reason."""
        wrong = sum(self.broken.values()) + self.unexplained + self.faulty
        return bool(self.day_gaps or self.minute_gaps or self.quiet or wrong)

    def document(self) -> dict[str, Any]:
        """The report as JSON: texts, numbers, lists of at most ``MOST`` entries and objects."""
        return {
            "made_at": self.made_at.astimezone(UTC).isoformat(timespec="seconds"),
            "exchange": self.exchange,
            "sessions": [row.session.isoformat() for row in self.rows],
            "found": self.found,
            "symbols": self.symbols,
            "symbols_with_dense_minutes": self.dense,
            "has_days": self.has_days,
            "has_minutes": self.has_minutes,
            "gaps": {"1d": len(self.day_gaps), "1m": self.minutes_missing},
            "quiet_symbols": [each.symbol for each in self.quiet],
            "differences": sum(self.differences.values()),
            "unexplained": self.unexplained,
            "by_session": [{**vars(row), "session": row.session.isoformat()} for row in self.rows],
            "day_gaps": [
                {"symbol": gap.symbol, "session": gap.session.isoformat()} for gap in self.day_gaps[:MOST]
            ],
            "minute_gaps": [
                {"symbol": gap.symbol, "from": text_of(gap.ts), "minutes": gap.minutes}
                for gap in self.minute_gaps[:MOST]
            ],
            "outages": [
                {"from": text_of(each.ts), "minutes": each.minutes, "symbols": each.symbols}
                for each in self.outages[:MOST]
            ],
            "quiet": [
                {
                    "symbol": each.symbol,
                    "last": None if each.last is None else each.last.isoformat(),
                    "sessions": each.sessions,
                }
                for each in self.quiet[:MOST]
            ],
            "broken": [
                {"table": table, "timeframe": timeframe, "rule": rule, "bars": count}
                for (table, timeframe, rule), count in sorted(self.broken.items())
            ],
            "broken_bars": [{**each._asdict(), "ts": text_of(each.ts)} for each in self.broken_bars],
            "difference_reasons": [
                {"timeframe": timeframe, "why": why, "bars": count}
                for (timeframe, why), count in sorted(self.differences.items())
            ],
            "rejected": dict(sorted(self.refused.items())),
            "rejected_without_time": dict(sorted(self.undated.items())),
        }


def text_of(ts: int) -> str:
    """Return an instant (UTC microseconds) as ISO 8601."""
    return (_EPOCH + timedelta(microseconds=ts)).isoformat().replace("+00:00", "Z")
