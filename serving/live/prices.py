"""Last prices, from the first store that has one: Redis, DynamoDB, PostgreSQL, then the lake's last bar.

What one store lacks the next is asked. One that is down is passed over, at once while it stays so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from fibflow.io.aws import AwsConfig
from fibflow.io.dynamodb import DynamoError, PriceTable
from fibflow.io.postgres import LAST_ROWS, NoTable, PostgresError, RawOhlcv
from fibflow.io.storage import LakeError
from fibflow.serving.history.query import BarQuery
from fibflow.serving.live.circuit import Circuit, StoreDown
from fibflow.serving.live.store import Live
from fibflow.serving.problems import Problem
from fibflow.transforms.partials import numbers
from fibflow.transforms.timeframe import DAY, MINUTE_US, Timeframe, TimeframeError

if TYPE_CHECKING:
    from fibflow.serving.history.bars import History
    from fibflow.serving.settings import Settings

REDIS, DYNAMODB, POSTGRES, LAKE = "redis", "dynamodb", "postgres", "lake"
#: What a price is of that a bar closes with.
BAR = "bar"

_MINUTE = Timeframe(0, 1)
_DAY_US = 1440 * MINUTE_US


@dataclass(frozen=True)
class Price:
    """A last price.

    Attributes:
        symbol: whose.
        ts: of the trade, or the end of the bar that it closes, UTC microseconds.
        price: in the symbol's currency.
        size: shares; None where unknown.
        seq: of the trade; None where unknown.
        source: which store answered: ``redis``, ``dynamodb``, ``postgres`` or ``lake``.
        kind: what it is of: ``trade``, ``second``, ``minute`` or ``bar``.
    """

    symbol: str
    ts: int
    price: float
    size: float | None
    seq: int | None
    source: str
    kind: str


@dataclass(frozen=True)
class Found:
    """What the stores say.

    Attributes:
        prices: by symbol.
        asked: the stores that answered, in the order in which they were asked.
        down: those that did not, and one line each of what is wrong.
    """

    prices: dict[str, Price]
    asked: tuple[str, ...]
    down: dict[str, str]


@dataclass(frozen=True)
class _Store:
    """One store: its read and its check raise ``StoreDown``."""

    name: str
    read: Callable[[Sequence[str]], dict[str, Price]]
    check: Callable[[], object] | None = None


@dataclass
class Prices:
    """Last prices. Safe to use from several threads.

    Attributes:
        settings: say which stores there are.
        history: bars of the lake, which is asked last.
        clock: now, UTC.
        live: the live store; None where there is none.
    """

    settings: Settings
    history: History
    clock: Callable[[], datetime]
    live: Live | None = field(init=False, default=None)
    _stores: list[_Store] = field(init=False, repr=False, default_factory=list)
    _open: list[Live | RawOhlcv] = field(init=False, repr=False, default_factory=list)

    def __post_init__(self) -> None:
        settings = self.settings
        if settings.redis:
            self.live = live = Live(settings.redis, settings.prefix, settings.buckets)
            self._stores.append(_of_redis(live))
            self._open.append(live)
        if settings.dynamodb:
            aws = settings.aws or AwsConfig.resolve()
            self._stores.append(_of_dynamodb(PriceTable(settings.dynamodb, aws, clock=self._seconds)))
        if settings.postgres:
            rows = RawOhlcv(settings.postgres)
            self._stores.append(_of_postgres(rows))
            self._open.append(rows)
        self._stores.append(_of_lake(self.history))

    def close(self) -> None:
        """Close the connections that are open."""
        for one in self._open:
            one.close()

    def _seconds(self) -> float:
        return self.clock().timestamp()

    def last(self, symbols: Sequence[str]) -> dict[str, Price]:
        """Return the last price of each symbol that has one."""
        return self.find(symbols).prices

    def find(self, symbols: Sequence[str]) -> Found:
        """Return the last price of each symbol that has one, and which stores were asked for the others."""
        wanted = dict.fromkeys(symbols)
        found: dict[str, Price] = {}
        asked: list[str] = []
        down: dict[str, str] = {}
        for store in self._stores:
            lacking = [symbol for symbol in wanted if symbol not in found]
            if not lacking:
                break
            try:
                found.update(store.read(lacking))
                asked.append(store.name)
            except StoreDown as error:
                down[store.name] = str(error)
        return Found({symbol: found[symbol] for symbol in wanted if symbol in found}, tuple(asked), down)

    def of_live(self, symbols: Sequence[str]) -> dict[str, Price]:
        """Return the last price of each symbol that the live store has one of.

        Raises:
            StoreDown: it does not answer.
        """
        store = self._stores[0]
        return store.read(symbols) if store.name == REDIS else {}

    def stores(self) -> dict[str, str | None]:
        """Return what is wrong with each store but the lake, by name: one line, or None for nothing."""
        told: dict[str, str | None] = {}
        for store in self._stores:
            if store.check is None:
                continue
            try:
                store.check()
                told[store.name] = None
            except StoreDown as error:
                told[store.name] = str(error)
        return told


def _of_redis(live: Live) -> _Store:
    def read(symbols: Sequence[str]) -> dict[str, Price]:
        return _of_table(live.ask(lambda store: store.last_prices(symbols)), REDIS)

    return _Store(REDIS, read, lambda: live.ask(lambda store: store.status()))


def _of_dynamodb(table: PriceTable) -> _Store:
    circuit = Circuit((DynamoError,))

    def read(symbols: Sequence[str]) -> dict[str, Price]:
        return _of_table(circuit.ask(lambda: table.read(symbols)), DYNAMODB)

    return _Store(DYNAMODB, read, lambda: circuit.ask(table.check))


def _of_postgres(table: RawOhlcv) -> _Store:
    circuit = Circuit((PostgresError,))

    def rows(symbols: Sequence[str]) -> pa.Table:
        try:
            return table.last_rows(symbols)
        except NoTable:
            # A database of keys only.
            return LAST_ROWS.empty_table()

    def read(symbols: Sequence[str]) -> dict[str, Price]:
        return _of_rows(circuit.ask(lambda: rows(symbols)))

    return _Store(POSTGRES, read, lambda: circuit.ask(table.check))


def _of_lake(history: History) -> _Store:
    circuit = Circuit((LakeError, OSError))

    def read(symbols: Sequence[str]) -> dict[str, Price]:
        closes = ((symbol, circuit.ask(partial(_last_close, history, symbol))) for symbol in symbols)
        return {symbol: price for symbol, price in closes if price is not None}

    return _Store(LAKE, read)


def _of_table(prices: pa.Table, source: str) -> dict[str, Price]:
    """Return prices of ``liverecords.PRICES``."""
    columns = (prices[name].to_pylist() for name in ("symbol", "price", "size", "seq", "source"))
    rows = zip(*columns, numbers(prices, "ts").tolist(), strict=True)
    return {
        symbol: Price(symbol, ts, price, size, seq, source, kind)
        for symbol, price, size, seq, kind, ts in rows
    }


def _of_rows(rows: pa.Table) -> dict[str, Price]:
    """Return prices of ``postgres.LAST_ROWS``: of the rows of one time that which ends last."""
    found: dict[str, Price] = {}
    columns: list[list[Any]] = [rows[name].to_pylist() for name in ("symbol", "interval", "close")]
    for symbol, interval, close, ts in zip(*columns, numbers(rows, "ts").tolist(), strict=True):
        end = ts + _length(interval)
        if symbol not in found or found[symbol].ts < end:
            found[symbol] = Price(symbol, end, close, None, None, POSTGRES, BAR)
    return found


def _length(interval: str) -> int:
    """Return how long an interval is, microseconds; 0 where its name says nothing."""
    try:
        timeframe = Timeframe.parse(interval)
    except TimeframeError:
        return 0
    return timeframe.minutes * MINUTE_US or timeframe.sessions * _DAY_US


def _last_close(history: History, symbol: str) -> Price | None:
    """Return the close of a symbol's last minute, or of its last day where that began later."""
    minute, day = (_last_bar(history, symbol, timeframe) for timeframe in (_MINUTE, DAY))
    bar = day if minute is None or (day is not None and day["ts"] >= minute["end"]) else minute
    return None if bar is None else Price(symbol, bar["end"], bar["close"], None, None, LAKE, BAR)


def _last_bar(history: History, symbol: str, timeframe: Timeframe) -> Mapping[str, Any] | None:
    query = BarQuery((symbol,), timeframe, limit=1, descending=True, complete_only=True)
    try:
        table = history.bars(query).table
    except Problem as problem:
        if problem.status >= 500:
            raise LakeError(problem.detail) from problem
        return None
    if not len(table):
        return None
    return {
        **{name: int(numbers(table, name)[0]) for name in ("ts", "end")},
        "close": table["close"][0].as_py(),
    }
