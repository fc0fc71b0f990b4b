"""Random streams for property tests: symbols, sessions, conditions, duplicates, versions, arrival."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import date
from functools import cache

from hypothesis import strategies as st

from fibflow.tests.transforms import oracle
from fibflow.tests.transforms.streams import ALL, ODD_LOT, minute, origin, trade
from fibflow.tests.transforms.tables import calendar
from fibflow.tests.transforms.worlds import DAYS_OF_MINUTES
from fibflow.transforms.bars import BarSpec
from fibflow.transforms.calendar import TradingCalendar
from fibflow.transforms.timeframe import IntradayAnchor, parse_timeframes

MINUTE = oracle.MINUTE
TIMEFRAMES = ("intraday,1d", "1m", "5m,1d", "1h,2h,90m", "1m,4h")
#: Each rule alone, none, all, and what an odd lot and a trade outside regular hours have.
RULES = (ALL, ALL, ALL, ODD_LOT, ODD_LOT, 0, 0b000111, 0b111000, 0b001001, 0b010010, 0b100101)
PRICES = (1.0, 9.99, 10.0, 10.01, 33.333333, 123456.7)


@dataclass
class TickWorld:
    """A stream: rows in the order of arrival, the options, and a source of chance for who runs it."""

    feed: str
    name: str
    rows: list[dict]
    timeframes: list[str]
    anchor: str
    lateness: int
    numbers: random.Random = field(repr=False)

    @property
    def spec(self) -> BarSpec:
        return BarSpec(
            parse_timeframes(self.timeframes), self.calendar, intraday_anchor=IntradayAnchor(self.anchor)
        )

    @property
    def calendar(self) -> TradingCalendar:
        return calendar(self.name)

    @property
    def oracle(self) -> oracle.Calendar:
        return _oracle(self.name)


@cache
def _oracle(name: str) -> oracle.Calendar:
    return oracle.calendar(name)


def _stamps(numbers: random.Random, session: oracle.Session, thick: int) -> list[int]:
    """Instants in a session's day: runs around its edges, and some anywhere."""
    found = []
    for edge in (session.start, session.opens, session.closes, session.end - 3 * MINUTE):
        ts = edge - numbers.choice([0, 0, 2 * MINUTE, 7 * MINUTE])
        for _ in range(numbers.choice([0, thick // 2, thick])):
            ts += numbers.choice([0, 1, 1000, 700_000, 20_000_000, 90_000_000])
            found.append(ts)
    found += [numbers.randrange(session.start, session.end) for _ in range(numbers.choice([0, 2, thick]))]
    return sorted(ts for ts in found if session.start <= ts < session.end)


def make_trades(numbers: random.Random, symbol: str, session: oracle.Session, thick: int) -> list[dict]:
    rows, seq = [], numbers.choice([1, 1, 2**40])
    for ts in _stamps(numbers, session, thick):
        seq += numbers.choice([1, 1, 1, 3, 2**33])
        shares = numbers.choice([0.000001, 0.5, 1, 99, 100, 1e6])
        rows.append(trade(symbol, ts, seq, numbers.choice(PRICES), shares, rules=numbers.choice(RULES)))
    for _ in range(len(rows) // 8):
        # Within a symbol numbers usually rise with time, but need not.
        one, two = numbers.choice(rows), numbers.choice(rows)
        one["seq"], two["seq"] = two["seq"], one["seq"]
    return rows


def make_minutes(numbers: random.Random, symbol: str, session: oracle.Session, thick: int) -> list[dict]:
    rows = []
    for ts in sorted({ts - ts % MINUTE for ts in _stamps(numbers, session, thick)}):
        for _ in range(numbers.choice([1, 1, 1, 2, 4])):
            low, opening, close, high = sorted(numbers.uniform(1, 99) for _ in range(4))
            rows.append(
                minute(symbol, ts, opening, numbers.randrange(3), 0, low=low, high=high, close=close)
                | {
                    "vwap": numbers.choice([opening, 12.3456789, None]),
                    "volume": numbers.choice([0.0, 7.25, 1e9]),
                }
                | {"trade_count": numbers.choice([5, 17, 0, None])}
            )
    return rows


@st.composite
def tick_worlds(draw: st.DrawFn) -> TickWorld:
    """Trades or minutes of one or two sessions: half days, changes of clocks, thick and thin."""
    feed = draw(st.sampled_from(["trades", "minutes"]))
    name = draw(st.sampled_from(["XNYS", "XNYS", "XIST", "AIXK"]))
    symbols = draw(st.integers(1, 4))
    thick = draw(st.sampled_from([2, 6, 14]))
    numbers = random.Random(draw(st.integers(0, 2**32)))
    of = _oracle(name)
    days: list[date] = sorted(numbers.sample(DAYS_OF_MINUTES[name], numbers.randint(1, 2)))
    make = make_trades if feed == "trades" else make_minutes
    rows = []
    for symbol in ["A", "AA", "BRK.B", "é"][:symbols]:
        for day in days:
            rows += make(numbers, symbol, of.sessions[of.index[day]], thick)
    rows += [dict(row) for row in rows if numbers.random() < draw(st.sampled_from([0.0, 0.15]))]
    if rows and numbers.random() < 0.3:
        rows.append(
            {**numbers.choice(rows), "ts": of.sessions[of.index[days[0]]].start - 40 * 24 * 60 * MINUTE}
        )
        while of.local_date(rows[-1]["ts"]) in of.index:
            rows[-1]["ts"] -= 24 * 60 * MINUTE
    delays = draw(
        st.sampled_from([(0,), (0, 0, 4 * MINUTE), (0, 0, 0, 3 * MINUTE, 14 * MINUTE, 70 * MINUTE)])
    )
    rows.sort(key=lambda row: row["ts"] + numbers.randint(0, 1 + numbers.choice(delays)))
    own = numbers.sample(range(len(rows)), len(rows)) if numbers.random() < 0.2 else range(len(rows))
    # Numbers in the stream rise with arrival, apart from records of other shards.
    rows = [{**row, **origin(number)} for number, row in zip(own, rows, strict=True)]
    timeframes = [str(timeframe) for timeframe in parse_timeframes(draw(st.sampled_from(TIMEFRAMES)))]
    lateness = draw(st.sampled_from([0, 90_000_000, 5 * MINUTE, 15 * MINUTE]))
    return TickWorld(feed, name, rows, timeframes, numbers.choice(["midnight", "open"]), lateness, numbers)
