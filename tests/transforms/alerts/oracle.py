"""Alerts by brute force: one change, fact or price at a time, in plain Python."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from fibflow.transforms.alerts.schema import NEVER, Fact, Frequency, Operator, Reference
from fibflow.transforms.calendar import TradingCalendar

MINUTE = 60_000_000
NAN = math.nan
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass
class Version:
    """A version of an alert, and how it fares."""

    change: dict
    armed: bool = True
    done: bool = False
    fired: int | None = None
    period: Any = None
    generation: str = "0"


@dataclass
class Symbol:
    """What is known of a symbol."""

    seen: tuple[int, int] | None = None
    #: By hours, the last price and its day.
    path: dict[bool, tuple[float, int]] = field(default_factory=dict)
    official: dict[int, float] = field(default_factory=dict)
    regular: dict[int, float] = field(default_factory=dict)
    splits: dict[int, float] = field(default_factory=dict)
    alerts: dict[int, list[Version]] = field(default_factory=lambda: defaultdict(list))

    def factor(self, since: int, day: int) -> float:
        found = 1.0
        for split in sorted(self.splits):
            if since < split <= day:
                found *= self.splits[split]
        return found


class Oracle:
    """Takes one row after the other; ``events`` has all that fired."""

    def __init__(self, calendar: TradingCalendar, from_open: bool) -> None:
        self.zone, self.from_open = ZoneInfo(calendar.zone), from_open
        columns = (calendar.day_starts, calendar.day_ends, calendar.opens, calendar.closes, calendar.days)
        self.sessions = list(zip(*(column.tolist() for column in columns), strict=True))
        self.starts = [session[0] for session in self.sessions]
        self.symbols: dict[str, Symbol] = defaultdict(Symbol)
        self.events: list[dict] = []

    def take(self, row: dict) -> None:
        symbol = self.symbols[row["symbol"]]
        if "alert" in row:
            self.change(symbol, row)
        elif "kind" in row:
            known = symbol.official if row["kind"] == Fact.CLOSE else symbol.splits
            known[row["day"]] = row["value"]
        else:
            self.price(symbol, row)

    def change(self, symbol: Symbol, row: dict) -> None:
        versions = symbol.alerts[row["alert"]]
        if any(known.change["version"] >= row["version"] for known in versions):
            return
        version = Version(row)
        if row["fired"] != NEVER:
            version.fired = row["fired"]
            version.period = self.period(version, row["fired"])
            version.done = row["frequency"] == Frequency.ONCE
            version.armed = row["frequency"] != Frequency.EVERY_TIME or always(row)
        versions.append(version)

    def session(self, ts: int) -> int | None:
        found = bisect_right(self.starts, ts) - 1
        return found if found >= 0 and ts < self.sessions[found][1] else None

    def period(self, version: Version, ts: int) -> Any:
        session, row = self.session(ts), version.change
        if session is None or row["frequency"] not in (Frequency.BAR, Frequency.DAILY):
            return None
        if row["frequency"] == Frequency.DAILY:
            return (date(1970, 1, 1) + timedelta(days=self.sessions[session][4])).isoformat()
        start, _, opens, closes, _ = self.sessions[session]
        span = row["span"] * MINUTE
        if self.from_open:
            base = closes if ts >= closes else opens
            return max(start, base + (ts - base) // span * span)
        local = (EPOCH + timedelta(microseconds=ts)).astimezone(self.zone)
        minutes = (local.hour * 60 + local.minute) // row["span"] * row["span"]
        bar = local.replace(hour=minutes // 60, minute=minutes % 60, second=0, microsecond=0)
        return (bar.astimezone(UTC) - EPOCH) // timedelta(microseconds=1)

    def price(self, symbol: Symbol, row: dict) -> None:
        session = self.session(row["ts"])
        if session is None:
            return
        if symbol.seen is not None and (row["ts"], row["seq"]) <= symbol.seen:
            return
        symbol.seen = row["ts"], row["seq"]
        day = self.sessions[session][4]
        paths = [True, False] if row["regular"] else [True]
        for versions in symbol.alerts.values():
            for number, version in enumerate(versions):
                later = [each.change["since"] for each in versions[number + 1 :]]
                if version.change["extended"] in paths:
                    self.hold(symbol, version, row, session, min([version.change["until"], *later]))
        for hours in paths:
            symbol.path[hours] = row["price"], day
        if row["regular"]:
            symbol.regular[day] = row["price"]

    def hold(self, symbol: Symbol, version: Version, row: dict, session: int, end: int) -> None:
        own, ts, price = version.change, row["ts"], row["price"]
        floor = max(own["since"], own["fired"])
        if own["operator"] == Operator.ENDED or version.done or not floor < ts <= end:
            return
        day = self.sessions[session][4]
        level = self.levels(symbol, own, session)
        back = own["rearm"] * symbol.factor(own["basis"], day)
        if not version.armed:
            if undone(own["operator"], price, *level, back):
                version.armed, version.generation = True, f"{ts}.{row['seq']}"
            return
        if version.fired is not None and ts < version.fired + own["cooldown"]:
            return
        period = self.period(version, ts)
        if period is not None and period == version.period:
            return
        before = NAN
        if own["extended"] in symbol.path:
            value, of_day = symbol.path[own["extended"]]
            before = value * symbol.factor(of_day, day)
        held = reached(own["operator"], price, before, *level)
        if held is None:
            return
        generation = f"{ts}.{row['seq']}" if always(own) else version.generation
        parts = [str(own["alert"]), str(own["version"]), generation]
        self.events.append(
            {
                "id": "-".join(parts if period is None else [*parts, str(period)]),
                "alert": own["alert"],
                "version": own["version"],
                "symbol": own["symbol"],
                "ts": ts,
                "seq": row["seq"],
                "price": price,
                "previous": before,
                "level": held,
            }
        )
        version.fired, version.period = ts, period
        version.done = own["frequency"] == Frequency.ONCE
        version.armed = own["frequency"] != Frequency.EVERY_TIME or always(own)

    def levels(self, symbol: Symbol, own: dict, session: int) -> tuple[float, float]:
        """The level upward, and the one downward."""
        day = self.sessions[session][4]
        factor = symbol.factor(own["basis"], day)
        if own["reference"] == Reference.NONE:
            return own["value"] * factor, own["value"] * factor
        reference = own["reference_price"] * factor
        if own["reference"] == Reference.PREVIOUS_CLOSE:
            before = self.sessions[session - 1][4]
            close = symbol.official.get(before, symbol.regular.get(before, NAN))
            reference = close * symbol.factor(before, day)
        return reference * (100 + own["value"]) / 100, reference * (100 - own["value"]) / 100


def always(own: dict) -> bool:
    every_time = own["frequency"] == Frequency.EVERY_TIME
    return own["operator"] == Operator.CROSSES and every_time and own["rearm"] == 0


def reached(operator: int, price: float, before: float, up: float, down: float) -> float | None:
    """The level that a price fires at."""
    upward = {
        Operator.ABOVE: price > up,
        Operator.CROSSES_UP: before < up <= price,
        Operator.CROSSES: before < up <= price,
        Operator.PERCENT_UP: price >= up,
        Operator.PERCENT: price >= up,
    }
    downward = {
        Operator.BELOW: price < down,
        Operator.CROSSES_DOWN: before > down >= price,
        Operator.CROSSES: before > down >= price,
        Operator.PERCENT_DOWN: price <= down,
        Operator.PERCENT: price <= down,
    }
    if upward.get(Operator(operator), False):
        return up
    return down if downward.get(Operator(operator), False) else None


def undone(operator: int, price: float, up: float, down: float, back: float) -> bool:
    """Whether a price arms again."""
    return {
        Operator.ABOVE: price <= up - back,
        Operator.BELOW: price >= down + back,
        Operator.CROSSES_UP: price < up - back,
        Operator.CROSSES_DOWN: price > down + back,
        Operator.CROSSES: price < up - back or price > up + back,
        Operator.PERCENT_UP: price < up - back,
        Operator.PERCENT_DOWN: price > down + back,
        Operator.PERCENT: down + back < price < up - back,
    }[Operator(operator)]
