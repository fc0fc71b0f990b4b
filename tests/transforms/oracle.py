"""Bars by brute force, straight from docs/data-model.md: Python's integers, dicts and loops, row by row.

It shares nothing with the kernel: sessions come from exchange_calendars, clocks from zoneinfo. Instants are
UTC microseconds, rows and bars are dicts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import exchange_calendars

MINUTE = 60_000_000
DAY = 1440 * MINUTE
MICRO = 10**6
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: Where exchange_calendars knows an exchange from a later date on than 1900.
BEGINS = {"AIXK": "2017-01-01"}


def instant(us: int) -> datetime:
    return EPOCH + timedelta(microseconds=us)


def micros(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)


@cache
def offset(zone: str, minute: int) -> int:
    found = instant(minute * MINUTE).astimezone(ZoneInfo(zone)).utcoffset()
    assert found is not None
    return found // timedelta(microseconds=1)


@dataclass(frozen=True)
class Session:
    day: date
    opens: int
    closes: int
    start: int
    end: int


class Calendar:
    """Sessions of an exchange that does not open on the evening before."""

    def __init__(self, zone: str, sessions: list[Session]) -> None:
        self.zone = zone
        self.sessions = sessions
        self.index = {session.day: number for number, session in enumerate(sessions)}
        self.origin = next(n for n, session in enumerate(sessions) if session.day >= date(2000, 1, 3))

    def without(self, *days: date) -> Calendar:
        return Calendar(self.zone, [session for session in self.sessions if session.day not in days])

    def session_at(self, ts: int) -> Session:
        """The session in whose day an instant falls: the day of the exchange's clock."""
        return self.sessions[self.index[self.local_date(ts)]]

    def local_date(self, ts: int) -> date:
        return instant(ts).astimezone(ZoneInfo(self.zone)).date()

    def named(self, stamp: int) -> date:
        """The date that a daily row's stamp names."""
        return instant(stamp).date() if stamp % DAY == 0 else self.local_date(stamp)


@cache
def calendar(name: str) -> Calendar:
    start = BEGINS.get(name, "1900-01-01")
    found = exchange_calendars.get_calendar(name, start=start, end="2030-12-31")
    zone = ZoneInfo(str(found.tz))
    # The library's own sessions hold the regular holidays of the years before 1970.
    rules = found.regular_holidays.rules if found.regular_holidays is not None else ()
    holidays = {day.date() for rule in rules for day in rule.dates("1900-01-01", "2030-12-31")}

    def midnight(day: date) -> int:
        return micros(datetime(day.year, day.month, day.day, tzinfo=zone))

    sessions = [
        Session(
            label.date(),
            micros(opens.to_pydatetime()),
            micros(closes.to_pydatetime()),
            midnight(label.date()),
            midnight(label.date() + timedelta(days=1)),
        )
        for label, opens, closes in zip(found.sessions, found.opens, found.closes, strict=True)
        if label.date() not in holidays
    ]
    return Calendar(str(found.tz), sessions)


# --- which rows count ---------------------------------------------------------------------------------------


def refusal(row: dict, of: Calendar, kind: str) -> str | None:
    """The first reason that applies to a row, or None."""
    prices = [row[name] for name in ("open", "high", "low", "close")]
    opens, high, low, close = prices
    volume = row["volume"]
    if not row["symbol"]:
        return "null_symbol"
    if row["ts"] is None:
        return "null_time"
    if any(price is None or not math.isfinite(price) for price in prices):
        return "null_price"
    if min(prices) <= 0:
        return "non_positive_price"
    if high < max(low, opens, close) or low > min(opens, close):
        return "high_low_mismatch"
    if volume is None or not math.isfinite(volume):
        return "null_volume"
    if volume < 0:
        return "negative_volume"
    if volume > 1e11:
        return "volume_out_of_range"
    day = of.named(row["ts"]) if kind == "daily" else of.local_date(row["ts"])
    return None if day in of.index else "not_a_session"


def accept(row: dict, of: Calendar, kind: str) -> dict:
    """A valid row in canonical form: its key's ``time``, optional values cleaned, exact sums' terms."""
    vwap, count = row["vwap"], row["trade_count"]
    if vwap is not None and not (math.isfinite(vwap) and vwap > 0):
        vwap = None
    if count is not None and count < 0:
        count = None
    volume = round(row["volume"] * 1e6)
    return {
        **row,
        "vwap": vwap,
        "trade_count": count,
        "time": of.named(row["ts"]) if kind == "daily" else row["ts"] - row["ts"] % MINUTE,
        "exact_volume": volume,
        "notional": None if vwap is None else round(vwap * 1e6) * volume,
    }


def winners(rows: list[dict]) -> tuple[list[dict], list[dict]]:
    """The row of each key that counts, and the others. ``rank`` orders files, ``place`` the rows of one."""

    def precedence(row: dict) -> tuple:
        version = row.get("version")
        return (version is not None, version or 0, row["rank"], row["place"])

    best: dict[tuple, dict] = {}
    lost = []
    for row in rows:
        key = (row["symbol"], row["time"])
        other = best.get(key)
        if other is None:
            best[key] = row
        elif precedence(row) > precedence(other):
            lost.append(other)
            best[key] = row
        else:
            lost.append(row)
    return list(best.values()), lost


# --- windows and bars ---------------------------------------------------------------------------------------


def intraday_window(ts: int, minutes: int, anchor: str, of: Calendar) -> tuple[int, int]:
    session = of.session_at(ts)
    length = minutes * MINUTE
    if anchor == "open":
        base = session.opens if ts < session.closes else session.closes
        start = base + (ts - base) // length * length
        end = start + length
        if session.opens <= ts < session.closes:
            end = min(end, session.closes)
    else:
        now = offset(of.zone, ts // MINUTE)
        start = ts - (ts + now) % length
        end = start + length
        same = [m for m in range(start // MINUTE, end // MINUTE) if offset(of.zone, m) == now]
        start, end = max(start, same[0] * MINUTE), min(end, same[-1] * MINUTE + MINUTE)
    return max(start, session.start), min(end, session.end)


def make_bars(
    rows: list[dict],
    of: Calendar,
    timeframes: list[str],
    *,
    anchor: str = "exchange",
    intraday_anchor: str = "midnight",
    as_of: int | None = None,
    complete_only: bool = False,
    start: int | None = None,
    end: int | None = None,
) -> dict[tuple[str, str, int], dict]:
    """All bars of accepted rows that won, by (symbol, timeframe, ts)."""
    session_of = {
        (row["symbol"], row["time"]): of.sessions[of.index[row["time"]]]
        if isinstance(row["time"], date)
        else of.session_at(row["time"])
        for row in rows
    }
    if as_of is None:
        as_of = max((session.end for session in session_of.values()), default=0)
    bars: dict[tuple[str, str, int], dict] = {}
    for symbol in {row["symbol"] for row in rows}:
        known = sorted(
            (row for row in rows if row["symbol"] == symbol and session_of[symbol, row["time"]].end <= as_of),
            key=lambda row: row["time"],
        )
        for timeframe in timeframes:
            n, unit = int(timeframe[:-1]), timeframe[-1]
            groups: dict[tuple[int, int], list[dict]] = {}
            for number, row in enumerate(known):
                if unit != "d":
                    minutes = n * (60 if unit == "h" else 1)
                    window = intraday_window(row["time"], minutes, intraday_anchor, of)
                elif anchor == "rows":
                    group = known[number // n * n : number // n * n + n]
                    days = [session_of[symbol, member["time"]] for member in group]
                    window = (days[0].start, days[-1].end)
                else:
                    base = of.origin if anchor == "exchange" else of.index[known[0]["time"]]
                    first = (of.index[row["time"]] - base) // n * n + base
                    window = (of.sessions[max(first, 0)].start, of.sessions[first + n - 1].end)
                groups.setdefault(window, []).append(row)
            for (ts, until), members in groups.items():
                complete = len(members) == n if anchor == "rows" and unit == "d" else until <= as_of
                if (
                    (complete_only and not complete)
                    or (start is not None and ts < start)
                    or (end is not None and ts >= end)
                ):
                    continue
                key = (symbol, timeframe, ts)
                assert key not in bars, f"two windows begin alike: {key}"
                bars[key] = {
                    **_bar(members, len({session_of[symbol, member["time"]] for member in members})),
                    "symbol": symbol,
                    "timeframe": timeframe,
                    "ts": ts,
                    "end": until,
                    "complete": complete,
                    "final": complete,
                    "revision": 0,
                }
    return bars


def _bar(members: list[dict], sessions: int) -> dict:
    volume = sum(row["exact_volume"] for row in members)
    counts = [row["trade_count"] for row in members]
    notionals = [row["notional"] for row in members]
    return {
        "open": members[0]["open"],
        "high": max(row["high"] for row in members),
        "low": min(row["low"] for row in members),
        "close": members[-1]["close"],
        "volume": float(volume) / 1e6,
        "vwap": None if volume == 0 or None in notionals else divide(sum(notionals), volume),
        "trade_count": None if None in counts else sum(counts),
        "sessions": sessions,
    }


def divide(notional: int, volume: int) -> float:
    """Notional over volume in currency: whole units of 1e-6 and the rest apart, so that little is rounded."""
    whole, rest = divmod(notional, volume)
    return (float(whole) + float(rest) / float(volume)) / 1e6
