"""What snapshots show of tickers: the day's bar, the one before, the last minute's, and the last price.

The day's bar is the live store's open one, else the last that the lake has. Without a live store, or while it
is down, all is the lake's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fibflow.io.livestore import LiveStore
from fibflow.serving.compat.source import DAY_SPAN, MINUTE_SPAN, Range, is_raw, now_us, read
from fibflow.serving.history.bars import History
from fibflow.serving.history.query import BarQuery
from fibflow.serving.live.circuit import StoreDown
from fibflow.serving.live.prices import BAR, LAKE, Price
from fibflow.serving.problems import Problem
from fibflow.serving.services import Services
from fibflow.transforms.partials import newest, numbers
from fibflow.transforms.schemas import BARS
from fibflow.transforms.timeframe import DAY, MINUTE_US, Timeframe

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

#: A ticker of the whole market has traded within so many sessions.
RECENT = 15
#: The last minute of a ticker of the whole market is looked for so far back from the newest one.
_RECENT_MINUTES_US = 30 * MINUTE_US
#: So many tickers are asked for their last bar, to learn how far the lake goes.
_SAMPLE = 16
#: Of fewer tickers each is read by itself.
_FEW = 20
#: More bars than a market has in what counts as lately.
_ALL = 10_000_000
_MINUTE = Timeframe(0, 1)
_MISSING = ("unknown_symbol", "unknown_timeframe")
_NEVER = np.iinfo(np.int64).min


@dataclass(frozen=True)
class Part:
    """One bar, or one price, of each of n tickers that has it.

    Attributes:
        rows: them.
        at: the row of each ticker, -1 for none; shape (n,).
    """

    rows: pa.Table
    at: npt.NDArray[np.intp]

    @property
    def held(self) -> npt.NDArray[np.bool_]:
        """Which tickers have it, shape (n,)."""
        return self.at >= 0

    def doubles(self, name: str) -> Float64:
        """Return a column by ticker, shape (n,); NaN for none."""
        column: Any = self.rows[name]
        values = np.append(column.cast(pa.float64()).fill_null(float("nan")).to_numpy(), np.nan)
        found: Float64 = values[self.at]
        return found

    def instants(self, name: str) -> Int64:
        """Return an instant by ticker, UTC microseconds, shape (n,); before all time for none."""
        return np.append(numbers(self.rows, name), _NEVER)[self.at]

    def take(self, index: npt.NDArray[Any]) -> Part:
        """Return it of some tickers."""
        return Part(self.rows, self.at[index])


@dataclass(frozen=True)
class Sights:
    """What is known of n tickers now.

    Attributes:
        symbols: the tickers.
        day: the day's bar, of ``schemas.BARS``.
        previous: the daily bar before it.
        minute: the last bar of a minute.
        price: the last price: ``price``, ``size``, ``ts``, ``seq``, ``source``, ``kind``.
    """

    symbols: tuple[str, ...]
    day: Part
    previous: Part
    minute: Part
    price: Part

    @cached_property
    def change(self) -> Float64:
        """How far the last price is from the close before the day, shape (n,); NaN for unknown."""
        return self.price.doubles("price") - self.previous.doubles("close")

    @cached_property
    def change_percent(self) -> Float64:
        """Likewise, in percent of that close."""
        return self.change / self.previous.doubles("close") * 100

    @cached_property
    def updated(self) -> Int64:
        """When the newest of it is of, UTC microseconds, shape (n,)."""
        stamps = [part.instants("ts") for part in (self.day, self.minute, self.price)]
        found: Int64 = np.max(stamps, axis=0)
        return found

    def take(self, index: npt.NDArray[Any]) -> Sights:
        """Return what is known of some tickers."""
        parts = (part.take(index) for part in (self.day, self.previous, self.minute, self.price))
        return Sights(tuple(np.array(self.symbols, object)[index].tolist()), *parts)


def of_symbols(services: Services, symbols: Sequence[str]) -> Sights:
    """Return what is known of tickers, in their order; those of which nothing is are left out. Blocks."""
    names = tuple(dict.fromkeys(symbols))
    days, minutes = _lately(services, names) if len(names) > _FEW else (_NO_BARS, _NO_BARS)
    some, others = set(days["symbol"].to_pylist()), set(minutes["symbol"].to_pylist())
    days = _together(days, *(_last_days(services, name) for name in names if name not in some))
    minutes = _together(minutes, *(_last_minute(services, name) for name in names if name not in others))
    return _sights(services, names, days, minutes, _open_bars(services, names))


def of_market(services: Services, monotonic: Callable[[], float] = time.monotonic) -> Sights:
    """Return what is known of all tickers that have traded lately, by ticker. Blocks.

    It is as old as what is known of the lake may be, and made once for all who ask meanwhile.

    Args:
        services: of the process.
        monotonic: seconds that only grow.
    """
    with _MARKETS_LOCK:
        known = _MARKETS.setdefault(services.history, _Market())
    with known.lock:
        if known.sights is None or monotonic() - known.made >= services.settings.refresh_s:
            known.sights, known.made = _of_market(services), monotonic()
        return known.sights


@dataclass
class _Market:
    """All tickers, and when they were looked at, monotonic seconds."""

    sights: Sights | None = None
    made: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)


_MARKETS: WeakKeyDictionary[History, _Market] = WeakKeyDictionary()
_MARKETS_LOCK = threading.Lock()


def _of_market(services: Services) -> Sights:
    opened = _open_bars(services, None)
    days, minutes = _lately(services, None)
    names = pa.concat_tables([days.select(["symbol"]), opened.select(["symbol"])])["symbol"].unique()
    symbols: list[Any] = names.to_pylist()
    return _sights(services, tuple(sorted(symbols)), days, minutes, opened)


def _sights(
    services: Services, names: tuple[str, ...], days: pa.Table, minutes: pa.Table, opened: pa.Table
) -> Sights:
    """Put together what is known of tickers.

    Args:
        services: say last prices.
        names: of the tickers, each once.
        days: their last daily bars, in any order.
        minutes: their last closed bars of a minute.
        opened: open bars of both.
    """
    is_day: Any = pc.equal(opened["timeframe"], pa.scalar(DAY.name))
    day, previous = _last_two(names, days, opened.filter(is_day))
    minute, _ = _last_two(names, minutes, opened.filter(pc.invert(is_day)))
    settings = services.settings
    stores = settings.redis or settings.dynamodb or settings.postgres
    # Of the lake alone they are those of the bars that are here.
    prices = services.prices.last(names) if stores else {}
    found = Sights(names, day, previous, minute, _prices(names, prices, day, minute))
    return found.take(np.flatnonzero(found.price.held))


def _last_two(names: tuple[str, ...], bars: pa.Table, opened: pa.Table) -> tuple[Part, Part]:
    """Return the last bar of each ticker, and the one before.

    Of two bars of one window the one counts whose window has ended, else the open one of the store.
    """
    rows = _together(bars, opened)
    is_open = np.arange(len(rows)) >= len(bars)
    place: Any = pc.index_in(rows["symbol"], value_set=pa.array(names, pa.string()))
    codes = place.fill_null(-1).to_numpy()
    ts, complete = numbers(rows, "ts"), np.asarray(rows["complete"])
    at = newest(codes, ts, complete, is_open)
    at = at[codes[at] >= 0]
    codes = codes[at]
    ends = np.searchsorted(codes, np.arange(len(names)), side="right")
    begins = np.searchsorted(codes, np.arange(len(names)), side="left")
    padded = np.append(at, -1)
    last = padded[np.where(ends > begins, ends - 1, -1)]
    before = padded[np.where(ends > begins + 1, ends - 2, -1)]
    return Part(rows, last), Part(rows, before)


_PRICES: list[Any] = [
    ("price", pa.float64()),
    ("size", pa.float64()),
    ("ts", pa.int64()),
    ("seq", pa.int64()),
    ("source", pa.string()),
    ("kind", pa.string()),
]


def _prices(names: tuple[str, ...], known: Mapping[str, Price], day: Part, minute: Part) -> Part:
    """Return last prices: those that are known, and of the others what ``Prices`` takes from the lake."""
    by_day = day.held & (~minute.held | (day.instants("ts") >= minute.instants("end")))
    closes = np.where(by_day, day.doubles("close"), minute.doubles("close"))
    ends = np.where(by_day, day.instants("end"), minute.instants("end"))
    held = day.held | minute.held
    bars = [
        Price(name, end, close, None, None, LAKE, BAR) if has else None
        for name, close, end, has in zip(names, closes.tolist(), ends.tolist(), held.tolist(), strict=True)
    ]
    found = [known.get(name) or bar for name, bar in zip(names, bars, strict=True)]
    rows = [price for price in found if price is not None]
    columns = {name: pa.array([getattr(price, name) for price in rows], kind) for name, kind in _PRICES}
    has = np.array([price is not None for price in found], np.bool_)
    return Part(pa.table(columns), np.where(has, np.cumsum(has) - 1, -1))


# Where bars come from --------------------------------------------------------------------------------------

_NO_BARS = BARS.empty_table()


def _together(*tables: pa.Table) -> pa.Table:
    return pa.concat_tables([table.select(BARS.names) for table in (_NO_BARS, *tables)]).combine_chunks()


def _open_bars(services: Services, names: Sequence[str] | None) -> pa.Table:
    """Return the open bars of a day and of a minute; none where no live store answers."""
    live = services.prices.live
    if live is None:
        return _NO_BARS

    def question(store: LiveStore) -> pa.Table:
        return store.open_bars(names, [DAY.name, _MINUTE.name])

    try:
        return live.ask(question)
    except StoreDown:
        return _NO_BARS


def _last_minute(services: Services, name: str) -> pa.Table:
    """Return the last closed bar of a minute: the live store's, else the lake's."""
    live = services.prices.live
    if live is not None:
        try:
            table = live.ask(lambda store: store.closed_bars(name, _MINUTE.name, 1))
        except StoreDown:
            table = _NO_BARS
        if len(table):
            return table
    return _read(services, Range(name, MINUTE_SPAN, True, limit=1, descending=True))


def _last_days(services: Services, name: str) -> pa.Table:
    return _read(services, Range(name, DAY_SPAN, True, limit=2, descending=True))


def _read(services: Services, wanted: Range) -> pa.Table:
    try:
        return read(services, wanted).table
    except Problem as problem:
        if problem.code in _MISSING:
            return _NO_BARS
        raise


def _lately(services: Services, names: Sequence[str] | None) -> tuple[pa.Table, pa.Table]:
    """Return daily bars, and bars of a minute, of tickers that have traded lately."""
    since = _since(services, names)
    days = _NO_BARS if since is None else _all_bars(services, names, DAY, since)
    if not len(days):
        return _NO_BARS, _NO_BARS
    calendar = services.history.calendar
    last = int(np.searchsorted(calendar.day_starts, numbers(days, "ts").max(), side="right")) - 1
    until = min(int(calendar.closes[last]), now_us(services))
    return days, _all_bars(services, names, _MINUTE, until - _RECENT_MINUTES_US)


def _since(services: Services, names: Sequence[str] | None) -> int | None:
    """Return when the sessions begin that count as lately, UTC microseconds; None for a lake without days.

    They are counted back from the newest bar of some tickers: what is newer is in, too.
    """
    symbols = names or [one.symbol for one in services.reference.symbols() if one.active and one.has_bars]
    step = max(1, len(symbols) // _SAMPLE)
    stamps = [
        int(numbers(table, "ts")[0])
        for name in symbols[::step]
        if len(table := _read(services, Range(name, DAY_SPAN, False, limit=1, descending=True)))
    ]
    if not stamps:
        return None
    calendar = services.history.calendar
    at = int(np.searchsorted(calendar.day_starts, max(stamps), side="right")) - RECENT
    return int(calendar.day_starts[max(at, 0)])


def _all_bars(services: Services, names: Sequence[str] | None, timeframe: Timeframe, start: int) -> pa.Table:
    """Return the bars of some tickers, or of all, from an instant on; none where the lake has none such."""
    symbols = None if names is None else tuple(sorted(names))
    query = BarQuery(symbols, timeframe, start, limit=_ALL, adjusted=is_raw(services))
    try:
        return services.history.bars(query).table
    except Problem as problem:
        if problem.code in _MISSING:
            return _NO_BARS
        raise
