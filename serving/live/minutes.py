"""The vendor's aggregates of minutes and its trades, of what the live store tells."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fibflow.serving.live.fragments import having, objects, pick, positions
from fibflow.serving.live.topics import MINUTES, TRADES
from fibflow.transforms.partials import as_arrow, numbers
from fibflow.transforms.schemas import TIMESTAMP
from fibflow.transforms.timeframe import DAY, MINUTE_US

#: The timeframe that becomes ``AM``.
MINUTE_NAME = "1m"
#: Of so many minutes it is known which revision was told: more than may still change.
_MINUTES_KEPT = 240
_UNKNOWN = np.iinfo(np.int64).min
_UNTOLD = -1
_MINUTE_MEMBERS = {
    "symbol": "sym",
    "volume": "v",
    "av": "av",
    "op": "op",
    "vwap": "vw",
    "open": "o",
    "close": "c",
    "high": "h",
    "low": "l",
    "a": "a",
    "z": "z",
    "ts": "s",
    "e": "e",
}
_TRADE_MEMBERS = {"symbol": "sym", "price": "p", "size": "s", "ts": "t", "seq": "q"}


class Minutes:
    """Closed minutes as ``AM``, with what their day has come to. For one thread.

    ``av``, ``op`` and ``a`` are of the symbol's bar of a day, open or closed, as it was told last; they are
    left out while none is known.
    """

    def __init__(self) -> None:
        self._symbols: Any = pa.array([], pa.string())
        self._day: dict[str, npt.NDArray[Any]] = {name: np.zeros(0, np.int64) for name in ("ts", "end")}
        self._of_day: dict[str, npt.NDArray[Any]] = {
            name: np.zeros(0, np.float64) for name in ("open", "volume", "vwap")
        }
        self._told: dict[int, npt.NDArray[np.int32]] = {}

    def begin(self, open_days: pa.Table) -> None:
        """Begin, or go on where something was missed: with the days as they are now.

        Args:
            open_days: open bars of days, of ``schemas.BARS``.
        """
        self._day["end"][:] = 0
        self.learn(open_days)

    def learn(self, bars: pa.Table) -> None:
        """Take in what days have come to.

        Args:
            bars: of ``schemas.BARS``, of any timeframes, in the order in which they were told.
        """
        days = having(bars, "timeframe", DAY.name)
        if not len(days):
            return
        ts, codes = numbers(days, "ts"), self._codes(days["symbol"])
        # Of a symbol that comes twice the later day stays, and of one day what was told last: NumPy assigns
        # in order.
        order = np.argsort(ts, kind="stable")
        known = np.where(self._day["end"][codes] == 0, _UNKNOWN, self._day["ts"][codes])
        order = order[ts[order] >= known[order]]
        days, codes = days.take(as_arrow(order)), codes[order]
        for name, instants in self._day.items():
            instants[codes] = numbers(days, name)
        for name, values in self._of_day.items():
            column: Any = days[name]
            values[codes] = column.fill_null(np.nan).to_numpy()

    def news(self, closed: pa.Table) -> pa.Table:
        """Return the minutes among closed bars that say something that was not told before.

        A minute that becomes final without another revision says nothing new.

        Args:
            closed: of ``schemas.BARS``, of any timeframes.
        """
        bars = having(closed, "timeframe", MINUTE_NAME)
        return pick(bars, self._is_new(bars)) if len(bars) else bars

    def encode(self, bars: pa.Table) -> Any:
        """Return the objects of closed minutes, of ``schemas.BARS``."""
        codes, ts = self._codes(bars["symbol"]), numbers(bars, "ts")
        unknown = ~((self._day["ts"][codes] <= ts) & (ts < self._day["end"][codes]))
        opened, volume, vwap = (values[codes] for values in self._of_day.values())
        trade_count: Any = bars["trade_count"]
        trades = trade_count.fill_null(0).to_numpy()
        some = trades > 0
        mean = np.rint(bars["volume"].to_numpy() / np.where(some, trades, 1)).astype(np.int64)
        taken = ("symbol", "ts", "open", "high", "low", "close", "volume", "vwap")
        rows = pa.table(
            {
                **{name: bars[name] for name in taken},
                "av": as_arrow(volume, unknown),
                "op": as_arrow(opened, unknown),
                "a": as_arrow(vwap, unknown),
                "z": as_arrow(mean, ~some),
                # The vendor's minutes end where the next one begins, also where ours are cut.
                "e": as_arrow(ts + MINUTE_US).view(TIMESTAMP),
            }
        )
        return objects(rows, _MINUTE_MEMBERS, MINUTES)

    def _is_new(self, bars: pa.Table) -> npt.NDArray[np.bool_]:
        """Return which minutes say something that was not told, and remember that they were."""
        codes, ts = self._codes(bars["symbol"]), numbers(bars, "ts")
        revision = bars["revision"].to_numpy()
        final: Any = bars["final"].to_numpy()
        found = np.ones(len(bars), np.bool_)
        for minute in np.unique(ts).tolist():
            at = np.flatnonzero(ts == minute)
            told = _grown(self._told.get(minute, np.zeros(0, np.int32)), len(self._symbols), _UNTOLD)
            found[at] = ~(final[at] & (told[codes[at]] == revision[at]))
            told[codes[at]] = revision[at]
            self._told[minute] = told
        for minute in sorted(self._told)[:-_MINUTES_KEPT]:
            del self._told[minute]
        return found

    def _codes(self, symbols: Any) -> npt.NDArray[np.int64]:
        """Return a number for each symbol, its own for good."""
        at = positions(symbols, self._symbols)
        if (at < 0).any():
            fresh = pc.unique(symbols.filter(as_arrow(at < 0)))
            self._symbols = pa.concat_arrays([self._symbols, fresh])
            count = len(self._symbols)
            self._day = {name: _grown(known, count, 0) for name, known in self._day.items()}
            self._of_day = {name: _grown(known, count, np.nan) for name, known in self._of_day.items()}
            at = positions(symbols, self._symbols)
        return at


def _grown(values: npt.NDArray[Any], count: int, fill: float) -> npt.NDArray[Any]:
    if len(values) == count:
        return values
    return np.concatenate((values, np.full(count - len(values), fill, values.dtype)))


def trades(prices: pa.Table) -> tuple[Any, Any]:
    """Return the symbols and the objects of last prices (``liverecords.PRICES``) that trades set."""
    rows = having(prices, "source", "trade")
    return rows["symbol"], objects(rows, _TRADE_MEMBERS, TRADES)
