"""Bars of ticks by brute force, straight from docs/data-model.md and docs/streaming.md, row by row.

Calendars and the division are those of ``oracle``; it shares nothing with the kernel.
"""

from __future__ import annotations

from fibflow.tests.transforms import oracle
from fibflow.tests.transforms.oracle import MICRO, MINUTE

HIGH_LOW, OPEN_CLOSE, VOLUME = 1, 2, 4


def place_in_stream(row: dict) -> tuple:
    return (int(row["sequence"]), row["sub"], row["place"], row["shard"])


def session_of(row: dict, of: oracle.Calendar) -> oracle.Session | None:
    """The session in whose day a row's minute lies."""
    day = of.local_date(row["ts"] - row["ts"] % MINUTE)
    return of.sessions[of.index[day]] if day in of.index else None


def choose(rows: list[dict], of: oracle.Calendar) -> tuple[list[dict], list[dict], list[dict]]:
    """Rows that count, duplicates that do not, and rows of no session."""
    strays = [row for row in rows if session_of(row, of) is None]
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        session = session_of(row, of)
        if session is not None:
            time = (session.day, row["seq"]) if "rules" in row else row["ts"] - row["ts"] % MINUTE
            groups.setdefault((row["symbol"], time), []).append(row)
    counted, lost = [], []
    for group in groups.values():
        if "rules" in group[0]:
            group.sort(key=place_in_stream)
        else:
            group.sort(key=lambda row: (row["version"], *place_in_stream(row)), reverse=True)
        counted.append(group[0])
        lost += group[1:]
    return counted, lost, strays


def make_bars(
    rows: list[dict], of: oracle.Calendar, timeframes: list[str], anchor: str, as_of: int | None = None
) -> dict[tuple[str, str, int], dict]:
    """All bars of rows that count, by (symbol, timeframe, ts)."""
    windows: dict[tuple[str, str, int, int], list[dict]] = {}
    for row in rows:
        minute = row["ts"] - row["ts"] % MINUTE
        session = session_of(row, of)
        assert session is not None
        regular = session.opens <= minute < session.closes
        for timeframe in timeframes:
            if timeframe == "1d":
                window, priced = (session.start, session.end), regular
            else:
                minutes = int(timeframe[:-1]) * (60 if timeframe[-1] == "h" else 1)
                window, priced = oracle.intraday_window(minute, minutes, anchor, of), True
            part = _of_trade(row, regular) if "rules" in row else _of_minute(row)
            if not priced:
                part |= {"open": None, "high": None, "low": None, "close": None}
            windows.setdefault((row["symbol"], timeframe, *window), []).append(part)
    bars = {}
    for (symbol, timeframe, ts, end), parts in windows.items():
        parts.sort(key=lambda part: part["order"])
        opens = [part["open"] for part in parts if part["open"] is not None]
        if not opens:
            continue
        close = [part["close"] for part in parts if part["close"] is not None][-1]
        edges = [opens[0], close]
        counts = [part["count"] for part in parts]
        notionals = [part["notional"] for part in parts]
        volume = sum(part["volume"] for part in parts)
        bars[symbol, timeframe, ts] = {
            "symbol": symbol,
            "timeframe": timeframe,
            "ts": ts,
            "end": end,
            "open": opens[0],
            "high": max(edges + [part["high"] for part in parts if part["high"] is not None]),
            "low": min(edges + [part["low"] for part in parts if part["low"] is not None]),
            "close": close,
            "volume": volume / 1e6,
            "vwap": None if volume == 0 or None in notionals else oracle.divide(sum(notionals), volume),
            "trade_count": None if None in counts else sum(counts),
            "sessions": 1,
            "complete": as_of is None or end <= as_of,
            "final": as_of is None or end <= as_of,
        }
    return bars


def _of_trade(row: dict, regular: bool) -> dict:
    rules, price = (row["rules"] if regular else row["rules"] >> 3), row["price"]
    edge = price if rules & OPEN_CLOSE else None
    extreme = price if rules & HIGH_LOW else None
    volume = row["volume"] if rules & VOLUME else 0
    return {
        "order": (row["ts"], row["seq"]),
        "open": edge,
        "close": edge,
        "high": extreme,
        "low": extreme,
        "volume": volume,
        "notional": round(price * MICRO) * volume,
        "count": int(rules & VOLUME > 0),
    }


def _of_minute(row: dict) -> dict:
    volume, vwap, count = round(row["volume"] * MICRO), row["vwap"], row["trade_count"]
    return {
        "order": (row["ts"], 0),
        **{name: row[name] for name in ("open", "high", "low", "close")},
        "volume": volume,
        "notional": None if vwap is None or not 0 < vwap < 1e12 else round(vwap * MICRO) * volume,
        "count": None if count is None or count < 0 else count,
    }
