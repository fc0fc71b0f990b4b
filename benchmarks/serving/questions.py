"""What users ask, and what right answers hold: drawn by a seed from the lake's catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from fibflow.benchmarks.serving.errors import BenchmarkError
from fibflow.benchmarks.serving.lakes import BARS, DAILY, STORED
from fibflow.benchmarks.serving.market import last_prices

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

BARS_OWN, BARS_COMPATIBLE = "bars", "aggregates"
PRICE_OWN, PRICE_COMPATIBLE = "price", "last trade"
EXPORT = "export"
#: Kinds of questions, in the order of tables.
KINDS = (BARS_OWN, BARS_COMPATIBLE, PRICE_OWN, PRICE_COMPATIBLE, EXPORT)
HISTORY = (BARS_OWN, BARS_COMPATIBLE)
PRICES = (PRICE_OWN, PRICE_COMPATIBLE)
#: Timeframes of questions for history.
TIMEFRAMES = (*STORED, DAILY)
EXPORT_ROWS = 100_000
EXPORT_TIMEFRAMES = ("3d", "5d", "8d")
FORMS = ("parquet", "csv", "arrow")
CODINGS = ("gzip", "identity")
_FIRST, _LAST = "1962-01-01", "2025-12-31"


@dataclass(frozen=True)
class Question:
    """A question and what its answer must hold.

    Attributes:
        kind: of ``KINDS``.
        target: path and query.
        symbols: whose rows or price it is.
        timeframe: of the bars; empty for a price.
        rows: how many; None where that is not known.
        total: the sum of their closes; of a price, the price.
        last_ts: UTC milliseconds of the last bar; of ``1d`` the midnight of its date, UTC.
        form: of an export.
    """

    kind: str
    target: str
    symbols: tuple[str, ...]
    timeframe: str = ""
    rows: int | None = None
    total: float = 0.0
    last_ts: int = 0
    form: str = ""


@dataclass(frozen=True)
class _Timeframe:
    """The catalogue of one timeframe, by symbol in order; arrays have shape (symbols,)."""

    rows: Ints
    last_rows: Ints
    last_ts: Ints
    total: Floats
    last_total: Floats


class Book:
    """Makes questions about a lake and a live store.

    Args:
        catalogue: of ``lakes``.
        seed: of the live store's prices.
    """

    def __init__(self, catalogue: Path, seed: int) -> None:
        table = pq.read_table(catalogue)
        self._of: dict[str, _Timeframe] = {}
        self.symbols: list[str] = []
        frames = table["timeframe"].to_numpy(zero_copy_only=False)
        for name in TIMEFRAMES:
            own = table.filter(frames == name).sort_by("symbol")
            symbols: list[Any] = own["symbol"].to_pylist()
            if self.symbols and symbols != self.symbols:
                raise BenchmarkError(f"the lake lacks symbols in {name}: make it anew")
            self.symbols = symbols
            columns = ("rows", "last_rows", "last_ts", "total", "last_total")
            self._of[name] = _Timeframe(*(own[column].to_numpy() for column in columns))
        self.prices = last_prices(len(self.symbols), seed)

    def bars(self, symbol: int, timeframe: str) -> Question:
        """Return a question for the last 500 bars, to our own API."""
        name = self.symbols[symbol]
        target = f"/v1/bars?symbols={quote(name)}&timeframe={timeframe}&limit={BARS}&order=desc"
        return self._history(BARS_OWN, target, symbol, timeframe)

    def aggregates(self, symbol: int, timeframe: str) -> Question:
        """Return the same question to the compatible API."""
        name, days = self.symbols[symbol], timeframe.removesuffix("d")
        target = f"/v2/aggs/ticker/{quote(name)}/range/{days}/day/{_FIRST}/{_LAST}?sort=desc&limit={BARS}"
        return self._history(BARS_COMPATIBLE, target, symbol, timeframe)

    def _history(self, kind: str, target: str, symbol: int, timeframe: str) -> Question:
        symbols = (self.symbols[symbol],)
        own = self._of.get(timeframe)
        if own is None:
            return Question(kind, target, symbols, timeframe)
        rows, total, last = own.last_rows[symbol], own.last_total[symbol], own.last_ts[symbol]
        return Question(kind, target, symbols, timeframe, int(rows), float(total), int(last))

    def price(self, symbol: int, own: bool) -> Question:
        """Return a question for a last price, to our own API or to the compatible one."""
        name = self.symbols[symbol]
        kind, path = (PRICE_OWN, "/v1/prices/") if own else (PRICE_COMPATIBLE, "/v2/last/trade/")
        return Question(kind, path + quote(name), (name,), total=float(self.prices[symbol]))

    def export(self, rng: np.random.Generator) -> Question:
        """Return a question for the whole history of as many symbols as have 100,000 rows, or of all."""
        timeframe = EXPORT_TIMEFRAMES[rng.integers(len(EXPORT_TIMEFRAMES))]
        form, own = FORMS[rng.integers(len(FORMS))], self._of[timeframe]
        order = rng.permutation(len(self.symbols))
        enough = int(np.searchsorted(np.cumsum(own.rows[order]), EXPORT_ROWS)) + 1
        chosen = np.sort(order[:enough])
        names = tuple(self.symbols[symbol] for symbol in chosen)
        target = f"/v1/exports?symbols={quote(','.join(names), safe=',')}&timeframe={timeframe}&format={form}"
        rows, total = int(own.rows[chosen].sum()), float(own.total[chosen].sum())
        return Question(EXPORT, target, names, timeframe, rows, total, form=form)

    def draw(self, rng: np.random.Generator, kinds: Sequence[str]) -> list[Question]:
        """Return a question of each of some kinds, of random symbols and timeframes."""
        symbols = rng.integers(len(self.symbols), size=len(kinds)).tolist()
        frames = rng.integers(len(TIMEFRAMES), size=len(kinds)).tolist()
        found = []
        for kind, symbol, frame in zip(kinds, symbols, frames, strict=True):
            if kind == BARS_OWN:
                found.append(self.bars(symbol, TIMEFRAMES[frame]))
            elif kind == BARS_COMPATIBLE:
                found.append(self.aggregates(symbol, TIMEFRAMES[frame]))
            elif kind == EXPORT:
                found.append(self.export(rng))
            else:
                found.append(self.price(symbol, kind == PRICE_OWN))
        return found

    def tour(self, rng: np.random.Generator) -> list[Question]:
        """Return a question for the history of each symbol in each timeframe, in a random order."""
        places = rng.permutation(len(self.symbols) * len(TIMEFRAMES)).tolist()
        found = []
        for place in places:
            symbol, frame = divmod(place, len(TIMEFRAMES))
            ask = self.bars if (symbol + frame) % 2 else self.aggregates
            found.append(ask(symbol, TIMEFRAMES[frame]))
        return found

    def longest(self, rng: np.random.Generator, timeframe: str, count: int) -> list[int]:
        """Return symbols that have 500 bars of a timeframe, drawn; those with the most where too few have.

        Where there are fewer symbols than ``count``, they come again.
        """
        rows = self._of[timeframe if timeframe in self._of else "13d"].rows
        long = np.flatnonzero(rows >= BARS)
        if len(long) < count:
            long = np.argsort(-rows, kind="stable")[:count]
        chosen: list[int] = np.resize(rng.permutation(long)[:count], count).tolist()
        return chosen


@dataclass(frozen=True)
class Mix:
    """How large a share each kind of question has; the two ways to ask for it share it evenly."""

    history: float = 0.495
    price: float = 0.495
    export: float = 0.01

    def kinds(self, rng: np.random.Generator, count: int) -> list[str]:
        """Return kinds, drawn."""
        shares = [self.history / 2] * 2 + [self.price / 2] * 2 + [self.export]
        return [KINDS[place] for place in rng.choice(len(KINDS), count, p=shares)]


@dataclass(frozen=True)
class Plan:
    """Who asks what when.

    Attributes:
        at: when each question is to be sent, seconds from the start, rising; shape (questions,).
        user: who, shape (questions,).
        questions: what.
    """

    at: Floats
    user: Ints
    questions: list[Question]


def plan(book: Book, users: int, seconds: float, every_s: float, mix: Mix, seed: int) -> Plan:
    """Return questions of users who ask at an interval, each at a phase of its own."""
    rng = np.random.default_rng(seed)
    each = max(1, round(seconds / every_s))
    phase = rng.random(users) * every_s
    at = (phase[:, None] + np.arange(each) * every_s).ravel()
    user = np.repeat(np.arange(users), each)
    order = np.argsort(at, kind="stable")
    return Plan(at[order], user[order], book.draw(rng, mix.kinds(rng, len(at))))
