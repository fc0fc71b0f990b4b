"""What a backfill is asked for, and what it says that it did."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any, Literal

import pyarrow as pa

from fibflow.io.vendor.asking import Failed
from fibflow.io.vendor.changes import CHANGES
from fibflow.io.vendor.errors import VendorError

Holes = Literal["all", "likely", "recent", "none"]
#: Why a session was asked for.
Why = Literal["missing", "in part", "not over before", "many holes", "again"]

#: Changes and sessions that are shown; files hold them all.
_SHOWN = 20
_FEW = 6


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class BackfillRequest:
    """What to bring up to date.

    Attributes:
        raw: the raw folder, or ``s3://bucket/prefix``.
        first: the first date; None for the first one that the folder or the lake has.
        last: the last date; None, and any date later, for the last session that has closed.
        symbols: the only ones to keep; None for all that the vendor has (not with ``minutes``).
        minutes: fetch the symbols' minutes too.
        recheck: how many of the last sessions that are held to fetch again.
        holes: which sessions that a symbol lacks within its life to ask about, symbol by symbol: all; those
            that are likely an omission; of these the recent ones, and any that the vendor did not give; none.
        whole: fetch, too, sessions that are held but did not come whole from the vendor.
        ask_again: forget in which sessions symbols did not trade.
        calendar: as exchange_calendars names it; None for the lake's, else XNYS.
        dry_run: ask the vendor nothing, and say what would be asked.
        at_once: calls at a time.
        now: the time of day.
        tick: told, as the work goes on, how much of how much is done: ``tick(what, done, of)``.
    """

    raw: str
    first: date | None = None
    last: date | None = None
    symbols: frozenset[str] | None = None
    minutes: bool = False
    recheck: int = 0
    holes: Holes = "recent"
    whole: bool = False
    ask_again: bool = False
    calendar: str | None = None
    dry_run: bool = False
    at_once: int = 4
    now: Callable[[], datetime] = field(default=_now, repr=False)
    tick: Callable[[str, int, int], None] = field(default=lambda what, done, of: None, repr=False)


@dataclass
class BackfillReport:
    """What a backfill did, or would do in a dry run.

    Attributes:
        daily_input: what ``pipelines.load --input`` takes; None where the folder has no daily file.
        minutes_input: likewise, with ``--kind minutes``; None where no minutes were asked for.
        sessions: how many there are from the first to the last.
        held: how many of them were there before.
        fetched: sessions that were asked for, why, and how many rows each gave.
        pending: sessions of which the vendor has nothing yet.
        open: sessions that were fetched before their day was over: the next run asks again.
        rechecked: how many held sessions were asked for again.
        ranges: symbols that were asked for alone.
        filled: rows that this gave.
        no_trade: sessions of symbols without a trade, as the vendor said.
        refused: sessions and symbols that are held, and that the key's plan does not include.
        strays: rows of other sessions than the one asked for, left out.
        months: (symbol, month) of minutes that were asked for.
        minutes: rows that this gave.
        lost_minutes: rows that the vendor gives no more, and that are kept.
        changes: CHANGES; rows that came to, or differ in, sessions that were held.
        files: files that were written.
        calls: requests that were made.
        failed: what could not be fetched.
        ended: the error after which no other answer would have come; None where there was none.
        dry_run: nothing was asked.
    """

    daily_input: str | None = None
    minutes_input: str | None = None
    sessions: int = 0
    held: int = 0
    fetched: dict[date, tuple[Why, int]] = field(default_factory=dict)
    pending: list[date] = field(default_factory=list)
    open: list[date] = field(default_factory=list)
    rechecked: int = 0
    ranges: list[str] = field(default_factory=list)
    filled: int = 0
    no_trade: int = 0
    refused: list[str] = field(default_factory=list)
    strays: int = 0
    months: list[tuple[str, str]] = field(default_factory=list)
    minutes: int = 0
    lost_minutes: int = 0
    changes: pa.Table = field(default_factory=CHANGES.empty_table)
    files: int = 0
    calls: int = 0
    failed: list[Failed] = field(default_factory=list)
    ended: VendorError | None = None
    dry_run: bool = False

    @property
    def problem(self) -> str | None:
        """One line of why not all could be fetched; None where all was."""
        if not self.failed:
            return None
        others = f" (and {len(self.failed) - 1} others)" if len(self.failed) > 1 else ""
        return f"{self.failed[0].why}{others}; what came is kept, and the next run asks for the rest"

    def rows(self) -> Iterator[tuple[str, str]]:
        """Yield names and values for the table at the end."""
        if self.dry_run:
            yield "done", "dry run: the vendor was asked nothing"
        elif not self.files and not self.failed and self.ended is None:
            yield "done", "nothing new"
        yield "sessions", f"{self.sessions:,}"
        yield "held before", f"{self.held:,}"
        whys: dict[str, list[date]] = {}
        for day, (why, _) in self.fetched.items():
            whys.setdefault(f"{'to fetch' if self.dry_run else 'fetched'}: {why}", []).append(day)
        for name, days in sorted(whys.items()):
            yield name, _days(days)
        for name, days in (
            ("fetched before their day was over", self.open),
            ("the vendor has nothing yet", self.pending),
        ):
            if days:
                yield name, _days(days)
        yield "rows of sessions", f"{sum(rows for _, rows in self.fetched.values()):,}"
        if self.ranges:
            yield "symbols asked for alone", _some(sorted(self.ranges), len(self.ranges))
            yield "rows of them", f"{self.filled:,}"
            yield "sessions without a trade", f"{self.no_trade:,}"
        if self.rechecked:
            yield "sessions asked for again", f"{self.rechecked:,}"
        for change, count in sorted(_counts(self.changes).items()):
            yield f"rows {change}", f"{count:,}"
        if self.refused:
            yield "held, and not in the key's plan", _some(sorted(self.refused), len(self.refused))
        if self.strays:
            yield "rows of another session, left out", f"{self.strays:,}"
        if self.months:
            yield "months of minutes", f"{len(self.months):,}"
            yield "minutes", f"{self.minutes:,}"
        if self.lost_minutes:
            yield "minutes withdrawn, and kept", f"{self.lost_minutes:,}"
        for failed in self.failed[:_FEW]:
            yield f"failed: {failed.what}", failed.why
        yield "files written", f"{self.files:,}"
        yield "calls", f"{self.calls:,}"

    def change_rows(self) -> Iterator[tuple[str, str]]:
        """Yield a line for each of the first changes."""
        for row in self.changes.slice(0, _SHOWN).to_pylist():
            yield f"{row['session']} {row['symbol']} {row['change']}", _change(row)
        if len(self.changes) > _SHOWN:
            yield "and", f"{len(self.changes) - _SHOWN:,} more"


def _counts(changes: pa.Table) -> dict[str, int]:
    found: Any = changes["change"].value_counts()
    return {entry["values"]: entry["counts"] for entry in found.to_pylist()}


def _change(row: dict[str, object]) -> str:
    """Return what a row of CHANGES says: the values that differ, or the close and volume of a whole row."""
    names = [name.removeprefix("old_") for name in CHANGES.names if name.startswith("old_")]
    if row["change"] == "corrected":
        differ = [name for name in names if row[f"old_{name}"] != row[f"new_{name}"]]
        return ", ".join(f"{name} {row[f'old_{name}']} -> {row[f'new_{name}']}" for name in differ)
    side = "old" if row["change"] == "withdrawn" else "new"
    return f"close {row[f'{side}_close']}, volume {row[f'{side}_volume']}"


def _days(days: list[date]) -> str:
    return _some([day.isoformat() for day in sorted(days)], len(days))


def _some(texts: list[str], count: int) -> str:
    if count <= _FEW:
        return ", ".join(texts)
    return f"{count:,} ({texts[0]} to {texts[-1]})"
