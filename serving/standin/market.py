"""A market by a seed: companies that are listed, renamed, split and delisted, with their days and minutes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fibflow.serving.standin.names import companies, figis, tickers
from fibflow.transforms.calendar import TradingCalendar, load_calendar
from fibflow.transforms.schemas import DAILY_ROWS, DIVIDENDS, MINUTE_ROWS, RENAMES, SPLITS, SYMBOLS

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

MINUTE_US = 60_000_000
#: Parts of the companies to which something happens within the market's time; of each at least one.
_LISTED, _DELISTED, _RENAMED, _SPLIT, _PAYING = 0.05, 0.04, 0.01, 0.03, 0.4
#: A company is not traded on such a part of its days.
_HALTED = 0.001
#: (from, to): shares of before, shares of after.
_RATIOS = ((1, 2), (1, 4), (1, 10), (2, 3), (10, 1), (20, 1))
_QUARTER = 63
_LEAST_SESSIONS = 10
_CHEAPEST, _DEAREST = 1.0, 4_000.0
_DAYS, _MINUTES, _ACTIONS, _KINDS = range(4)


@dataclass(frozen=True, eq=False)
class Market:
    """Companies over some sessions. The same arguments give the same rows, on every machine.

    Attributes:
        calendar: of the sessions.
        first, last: positions of the first and the last session.
        seed: of all that is drawn.
        names: of each company, the symbols that it had, oldest first.
        since: from which session on (counted from ``first``) it has each of them.
        listed: the session of each company's first row, counted from ``first``; shape (companies,).
        delisted: the one after its last; the number of sessions for who still trades.
        splits_at: of each company's splits: company, session, from, to; shape (splits, 4).
    """

    calendar: TradingCalendar
    first: int
    last: int
    seed: int
    names: tuple[tuple[str, ...], ...]
    since: tuple[tuple[int, ...], ...]
    listed: Ints
    delisted: Ints
    splits_at: Ints

    @classmethod
    def make(
        cls,
        symbols: int,
        first: date,
        last: date,
        seed: int = 0,
        calendar: TradingCalendar | None = None,
    ) -> Market:
        """Return a market of so many companies on the sessions of ``[first, last]``.

        Raises:
            ValueError: there are too few sessions, or no company.
        """
        calendar = calendar or load_calendar()
        days = calendar.days.astype("datetime64[D]")
        begin = int(np.searchsorted(days, np.datetime64(first)))
        count = int(np.searchsorted(days, np.datetime64(last), side="right")) - begin
        if count < _LEAST_SESSIONS or symbols < 1:
            raise ValueError(f"a market has a company and {_LEAST_SESSIONS} sessions at least")
        rng = np.random.default_rng([seed, _ACTIONS])
        order = rng.permutation(symbols)
        numbers = [max(1, round(part * symbols)) for part in (_LISTED, _DELISTED, _RENAMED, _SPLIT)]
        # Different companies, as far as there are so many.
        new, gone, renamed, split = (
            order[np.arange(end - number, end) % symbols]
            for end, number in zip(np.cumsum(numbers).tolist(), numbers, strict=True)
        )
        # First they are listed, then renamed or split, last delisted.
        early, late = count // 3, 2 * count // 3
        listed, delisted = np.zeros(symbols, np.int64), np.full(symbols, count, np.int64)
        listed[new] = rng.integers(1, early, len(new))
        delisted[gone] = rng.integers(late, count, len(gone))
        made = tickers(rng, symbols + len(renamed))
        names, since = [[name] for name in made[:symbols]], [[start] for start in listed.tolist()]
        for company, name in zip(renamed.tolist(), made[symbols:], strict=True):
            names[company].append(name)
            since[company].append(int(rng.integers(early + 1, late)))
        at = rng.integers(early, late, len(split))
        ratios = np.array(_RATIOS)[np.arange(len(split)) % len(_RATIOS)]
        return cls(
            calendar,
            begin,
            begin + count - 1,
            seed,
            tuple(map(tuple, names)),
            tuple(map(tuple, since)),
            listed,
            delisted,
            np.column_stack([split, at, ratios]).astype(np.int64),
        )

    @cached_property
    def sessions(self) -> list[date]:
        """The dates, oldest first."""
        found: list[date] = self.calendar.days[self.first : self.last + 1].astype("datetime64[D]").tolist()
        return found

    @cached_property
    def renames(self) -> pa.Table:
        """What was renamed, of ``schemas.RENAMES``, sorted."""
        known = {row["symbol"]: row for row in self.symbols.to_pylist()}
        rows = [
            {
                "symbol": new,
                "old_symbol": old,
                "date": self.sessions[begins],
                "composite_figi": known[new]["composite_figi"],
                "cik": known[new]["cik"],
            }
            for names, since in zip(self.names, self.since, strict=True)
            for old, new, begins in zip(names[:-1], names[1:], since[1:], strict=True)
        ]
        return pa.Table.from_pylist(rows, RENAMES).sort_by([("symbol", "ascending"), ("date", "ascending")])

    @cached_property
    def _shape(self) -> tuple[int, int]:
        return len(self.sessions), len(self.names)

    @cached_property
    def _traded(self) -> Bools:
        """Who has a row when; shape (sessions, companies)."""
        at = np.arange(self._shape[0])[:, None]
        rng = np.random.default_rng([self.seed, _KINDS])
        halted = rng.random(self._shape) < _HALTED
        first = at == self.listed
        return (at >= self.listed) & (at < self.delisted) & (~halted | first)

    @cached_property
    def _symbols_at(self) -> npt.NDArray[np.int32]:
        """Positions in ``_every_name``; shape (sessions, companies)."""
        found = np.empty(self._shape, np.int32)
        number = 0
        for company, since in enumerate(self.since):
            for begins in since:
                found[begins:, company] = number
                number += 1
        return found

    @cached_property
    def _every_name(self) -> pa.Array:
        return pa.array([name for names in self.names for name in names], pa.string())

    @cached_property
    def _values(self) -> dict[str, Floats]:
        """Unrounded prices, scaled by the splits so far, and volumes; shape (sessions, companies)."""
        companies = len(self.names)
        rng = np.random.default_rng([self.seed, _DAYS])
        start = np.log(rng.uniform(12, 220, companies))
        close = np.exp(start + np.cumsum(rng.normal(0.0002, 0.015, self._shape), axis=0))
        opened = close * np.exp(rng.normal(0, 0.006, self._shape))
        scale = np.ones(self._shape)
        for company, at, before, after in self.splits_at.tolist():
            scale[at:, company] *= before / after
        close, opened = (np.clip(prices * scale, _CHEAPEST, _DEAREST) for prices in (close, opened))
        high = np.maximum(opened, close) * np.exp(np.abs(rng.normal(0, 0.006, self._shape)))
        low = np.minimum(opened, close) * np.exp(-np.abs(rng.normal(0, 0.006, self._shape)))
        volume = np.exp(rng.normal(0, 0.4, self._shape) + rng.uniform(10, 15.5, companies)) / scale
        prices = {
            name: np.round(v, 2)
            for name, v in (("open", opened), ("high", high), ("low", low), ("close", close))
        }
        vwap = np.round((prices["high"] + prices["low"] + prices["close"]) / 3, 4)
        volume = np.round(volume)
        return {
            **prices,
            "volume": volume,
            "vwap": vwap,
            "trade_count": np.maximum(1, np.rint(volume / rng.uniform(60, 240, companies))),
        }

    @cached_property
    def daily(self) -> pa.Table:
        """The days of ``schemas.DAILY_ROWS``, symbols plain, sorted by session and symbol."""
        at, company = np.nonzero(self._traded)
        names: Any = pa.array(self._symbols_at[at, company])
        columns: list[Any] = [
            self._every_name.take(names),
            pa.array(self.calendar.days[self.first + at], pa.int32()).cast(pa.date32()),
            *(pa.array(values[at, company]) for values in self._values.values()),
        ]
        rows = pa.table(columns, names=DAILY_ROWS.names).cast(_plain(DAILY_ROWS))
        return rows.sort_by([("session", "ascending"), ("symbol", "ascending")])

    def minutes(self, session: date) -> pa.Table:
        """Return a session's minutes, of ``schemas.MINUTE_ROWS``, symbols plain, sorted by symbol and time.

        They begin with the day's open and end with its close, and leave neither its high nor its low. A
        minute without a trade has no row.

        Raises:
            ValueError: the market has no such session.
        """
        if session not in self.sessions:
            raise ValueError(f"{session} is no session of the market")
        at = self.sessions.index(session)
        begins, ends = (int(v[self.first + at]) for v in (self.calendar.opens, self.calendar.closes))
        count = (ends - begins) // MINUTE_US
        company = np.flatnonzero(self._traded[at])
        day = {name: values[at, company] for name, values in self._values.items()}
        rng = np.random.default_rng([self.seed, _MINUTES, at])
        shape = count, len(company)
        steps = np.cumsum(rng.normal(0, 1, shape), axis=0)
        part = np.arange(1, count + 1)[:, None] / count
        # A path from open to close that wanders between low and high.
        bridge = (steps - part * steps[-1]) / np.maximum(np.abs(steps).max(axis=0), 1) * 0.8
        room = day["high"] - day["low"]
        close = np.clip(
            day["open"] + (day["close"] - day["open"]) * part + bridge * room, day["low"], day["high"]
        )
        close = np.round(close, 2)
        close[-1] = day["close"]
        opened = np.concatenate([day["open"][None], close[:-1]])
        reach = rng.uniform(0, 0.02, (2, *shape)) * room
        high = np.minimum(np.round(np.maximum(opened, close) + reach[0], 2), day["high"])
        low = np.maximum(np.round(np.minimum(opened, close) - reach[1], 2), day["low"])
        weight = rng.gamma(0.8, 1, shape) * (1 + 2 * np.abs(part - 0.5))
        volume = np.floor(day["volume"] * weight / weight.sum(axis=0))
        volume[[0, -1]] = np.maximum(volume[[0, -1]], 1)
        trades = np.maximum(1, np.floor(volume / 120))
        ts = begins + np.arange(count) * MINUTE_US
        values = {
            "open": opened,
            "high": high,
            "low": low,
            "close": close,
            "volume": volume,
            "vwap": np.round((high + low + close) / 3, 4),
            "trade_count": trades,
        }
        row, column = np.nonzero(volume >= 1)
        names = self._every_name.take(pa.array(self._symbols_at[at, company[column]]))
        columns: list[Any] = [
            names,
            pa.array(ts[row]).cast(pa.timestamp("us", "UTC")),
            *(pa.array(found[row, column]) for found in values.values()),
            pa.nulls(len(row), pa.int64()),
        ]
        rows = pa.table(columns, names=MINUTE_ROWS.names).cast(_plain(MINUTE_ROWS))
        return rows.sort_by([("symbol", "ascending"), ("ts", "ascending")])

    @cached_property
    def symbols(self) -> pa.Table:
        """What is known of each symbol today, of ``schemas.SYMBOLS``, sorted.

        A company that was renamed has a row for each name, with one FIGI: the old one is delisted on the day
        on which the new one is listed.
        """
        rng = np.random.default_rng([self.seed, _KINDS, 1])
        told = companies(rng, len(self.names))
        numbers = figis(rng, len(self.names))
        listed_before = date(1990, 1, 2).toordinal() + rng.integers(0, 3_000, len(self.names))
        rows = []
        for company, (names, since) in enumerate(zip(self.names, self.since, strict=True)):
            for place, name in enumerate(names):
                begins = since[place]
                ends = since[place + 1] if place + 1 < len(names) else int(self.delisted[company])
                old = begins == 0
                rows.append(
                    {
                        "symbol": name,
                        "name": told[company][0],
                        "type": told[company][1],
                        "exchange": told[company][2],
                        "currency": "usd",
                        "active": ends == self._shape[0],
                        "listed": date.fromordinal(int(listed_before[company]))
                        if old
                        else self.sessions[begins],
                        "delisted": None if ends == self._shape[0] else self.sessions[ends],
                        "cik": f"{1_000_000 + company:010}",
                        "composite_figi": numbers[company][0],
                        "share_class_figi": numbers[company][1],
                        "description": f"{told[company][0]} is a company of a market that a seed made.",
                        "homepage": f"https://www.example.com/{company}",
                        "updated": None,
                    }
                )
        return pa.Table.from_pylist(rows, SYMBOLS).sort_by("symbol")

    @cached_property
    def splits(self) -> pa.Table:
        """The splits, of ``schemas.SPLITS``, sorted. Days before one are in shares of before."""
        rows = [
            {
                "symbol": self.name_of(company, at),
                "execution_date": self.sessions[at],
                "split_from": float(before),
                "split_to": float(after),
                "id": f"S{self.seed:04}{number:06}",
            }
            for number, (company, at, before, after) in enumerate(self.splits_at.tolist())
        ]
        return pa.Table.from_pylist(rows, SPLITS).sort_by(
            [("symbol", "ascending"), ("execution_date", "ascending")]
        )

    @cached_property
    def dividends(self) -> pa.Table:
        """Quarterly dividends, of ``schemas.DIVIDENDS``, sorted."""
        rng = np.random.default_rng([self.seed, _KINDS, 2])
        paying = np.flatnonzero(rng.random(len(self.names)) < _PAYING)
        rows: list[dict[str, Any]] = []
        for company in paying.tolist():
            amount = round(float(rng.uniform(0.05, 1.5)), 2)
            first = int(self.listed[company]) + int(rng.integers(1, _QUARTER))
            for at in range(first, int(self.delisted[company]), _QUARTER):
                day = self.sessions[at]
                rows.append(
                    {
                        "symbol": self.name_of(company, at),
                        "ex_dividend_date": day,
                        "cash_amount": amount,
                        "currency": "USD",
                        "dividend_type": "CD",
                        "frequency": 4,
                        "declaration_date": day - timedelta(days=21),
                        "record_date": day + timedelta(days=1),
                        "pay_date": day + timedelta(days=15),
                        "id": f"D{self.seed:04}{len(rows):06}",
                    }
                )
        order = [(name, "ascending") for name in ("symbol", "ex_dividend_date", "id")]
        return pa.Table.from_pylist(rows, DIVIDENDS).sort_by(order)  # type: ignore[arg-type] # literals

    def name_of(self, company: int, at: int) -> str:
        """Return the symbol that a company has in a session, counted from ``first``."""
        since: Sequence[int] = self.since[company]
        return self.names[company][int(np.searchsorted(since, at, side="right")) - 1 if at >= since[0] else 0]


def _plain(schema: pa.Schema) -> pa.Schema:
    return schema.set(0, pa.field("symbol", pa.string()))
