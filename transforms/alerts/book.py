"""The alerts of one bucket in memory: rows by the path of prices that they follow, and the last prices.

A symbol has two paths: its prices within regular hours, and all. Rows of a path lie together (``first``
says where), so that a batch touches the rows of the symbols in it and no others. Beside each row stand
the levels that it is held against in the units of its symbol's latest session, and a screen: what the
batch's greatest and least price must reach for anything to happen. These are worked out anew when a
symbol enters a session, when something becomes known of it, and when it gets another alert.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fibflow.transforms.alerts import levels
from fibflow.transforms.alerts.facts import FACT, NO_DAY, Facts
from fibflow.transforms.alerts.groups import dense_ranks, ranges, rising
from fibflow.transforms.alerts.rows import MOVE, ROW, Rows, begin, end_by_later, is_dead, slots_of
from fibflow.transforms.alerts.schema import NEVER
from fibflow.transforms.calendar import TradingCalendar
from fibflow.transforms.partials import as_arrow, numbers
from fibflow.transforms.tickrows import words
from fibflow.transforms.timeframe import IntradayAnchor

Bool = npt.NDArray[np.bool_]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

#: The last price of a symbol (``ts, seq, price``) and its session's day; the last one within regular
#: hours with its day; and the last one of the session with regular prices before that.
LAST = np.dtype(
    [
        ("ts", "<i8"),
        ("seq", "<i8"),
        ("price", "<f8"),
        ("day", "<i4"),
        ("regular_price", "<f8"),
        ("regular_day", "<i4"),
        ("before_price", "<f8"),
        ("before_day", "<i4"),
    ]
)
_UNKNOWN = np.array([(NEVER, NEVER, np.nan, NO_DAY, np.nan, NO_DAY, np.nan, NO_DAY)], LAST)
_COPIED = (
    "alert",
    "version",
    "operator",
    "reference",
    "extended",
    "frequency",
    "span",
    "basis",
    "value",
    "reference_price",
    "cooldown",
    "rearm",
    "since",
    "fired",
)


class Book:
    """The alerts and the symbols of a bucket.

    Attributes:
        names: the symbols; everything else names them by their place.
        rows: of ``ROW``, by path.
        first: where the rows of each path begin, and the end; shape (2 symbols + 1,).
        held: what rows are held against, as ``levels.Held``.
        last: of ``LAST``, shape (symbols,).
        facts: closes and splits.
        fresh: the day that ``held`` is worked out for, by symbol; ``NO_DAY``: anew.
    """

    def __init__(self, calendar: TradingCalendar, anchor: IntradayAnchor) -> None:
        self._calendar, self._anchor = calendar, anchor
        self.names: list[str] = []
        self._places: dict[str, int] = {}
        self.rows: Rows = np.zeros(0, ROW)
        self.first: Int64 = np.zeros(1, np.int64)
        self.held = levels.Held(0)
        self.last: Rows = np.zeros(0, LAST)
        self.facts = Facts()
        self.fresh: Int32 = np.zeros(0, np.int32)

    def places(self, table: pa.Table) -> Int64:
        """Return the place of each row's symbol; a new symbol gets one."""
        known, codes = words(table, "symbol")
        found: list[Any] = list(map(self._places.get, known.to_pylist()))
        if None in found:
            present = np.zeros(len(known), np.bool_)
            present[codes] = True
            names: list[Any] = known.filter(as_arrow(present)).to_pylist()
            self.add_names([name for name in names if name not in self._places])
            found = [self._places.get(name, 0) for name in known.to_pylist()]
        return np.array(found, np.int64)[codes]

    def add_names(self, names: list[str]) -> None:
        """Give symbols a place."""
        if not names:
            return
        total = len(self.names) + len(names)
        self._places.update(zip(names, range(len(self.names), total), strict=True))
        self.names.extend(names)
        self.last = np.concatenate((self.last, np.repeat(_UNKNOWN, len(names))))
        self.fresh = np.concatenate((self.fresh, np.full(len(names), NO_DAY, np.int32)))
        self.first = np.concatenate((self.first, np.full(2 * len(names), self.first[-1])))
        self.facts.widen(total)

    # --- changes --------------------------------------------------------------------------------------------

    def take_changes(self, table: pa.Table) -> Rows:
        """Take versions of alerts: those that are greater than any known of their alert.

        Args:
            table: of ``CHANGES``.

        Returns:
            The new rows, of ``ROW``.
        """
        new: Rows = np.zeros(len(table), ROW)
        new["symbol"] = self.places(table)
        for name in _COPIED:
            new[name] = table[name].to_numpy() if name == "extended" else numbers(table, name)
        new["end"] = numbers(table, "until")
        begin(new)
        new = self._newer(new)
        self.add_rows(new)
        return new

    def _newer(self, new: Rows) -> Rows:
        """Return the rows that are newer than what is known of their alert, in the order of arrival."""
        known = self.rows[self._of_alerts(new)]
        both = np.concatenate((known, new))
        came = np.concatenate((np.full(len(known), -1), np.arange(len(new))))
        order = np.lexsort((came, both["alert"]))
        kept = np.zeros(len(both), np.bool_)
        kept[order] = rising(both["alert"][order], dense_ranks(both["version"])[order])
        return new[kept[len(known) :]]

    def add_rows(self, new: Rows) -> None:
        """Add rows; versions of an alert end where later ones begin."""
        if not len(new):
            return
        touched = np.unique(new["symbol"]).astype(np.int64)
        slots = slots_of(new)
        order = np.argsort(slots, kind="stable")
        at = self.first[slots[order] + 1]
        self.rows = np.insert(self.rows, at, new[order])
        self.held.insert(at)
        self.first[1:] += np.cumsum(np.bincount(slots, minlength=len(self.first) - 1))
        self.fresh[touched] = NO_DAY
        where = self._of_alerts(new)
        own = self.rows[where]
        order = np.lexsort((own["version"], own["alert"]))
        own = own[order]
        end_by_later(own)
        self.rows["end"][where[order]] = own["end"]

    def _of_alerts(self, new: Rows) -> Int64:
        """Return where the rows lie that are versions of the alerts of others."""
        where = self.rows_of(np.unique(new["symbol"]).astype(np.int64))
        return where[np.isin(self.rows["alert"][where], new["alert"])]

    def rows_of(self, symbols: Int64) -> Int64:
        """Return where the rows of symbols lie."""
        starts = self.first[2 * symbols]
        return ranges(starts, self.first[2 * symbols + 2] - starts)

    # --- what moves -----------------------------------------------------------------------------------------

    def moves_of(self, where: Int64) -> Rows:
        """Return what state must know of rows that moved, of ``MOVE``."""
        found = np.zeros(len(where), MOVE)
        for name in MOVE.names or ():
            found[name] = self.rows[name][where]
        return found

    def take_moves(self, moves: Rows) -> None:
        """Move rows as they did; of several moves of a row the last counts."""
        if not len(moves):
            return
        both = np.concatenate((self.moves_of(np.arange(len(self.rows))), moves))
        order = np.lexsort((np.arange(len(both)), both["version"], both["alert"]))
        alert, version = both["alert"][order], both["version"][order]
        same = (alert[1:] == alert[:-1]) & (version[1:] == version[:-1])
        first = np.flatnonzero(~np.concatenate((np.zeros(1, np.bool_), same)))
        last = np.append(first[1:], len(order)) - 1
        rows, best = order[first], both[order[last]]
        known = rows < len(self.rows)
        for name in ("state", "fired", "gen_ts", "gen_seq"):
            self.rows[name][rows[known]] = best[name][known]

    # --- levels ---------------------------------------------------------------------------------------------

    def learn(self, table: pa.Table) -> None:
        """Take a table of ``FACTS``."""
        facts = np.zeros(len(table), FACT)
        facts["symbol"] = self.places(table)
        for name in ("kind", "day", "value"):
            facts[name] = numbers(table, name)
        self.facts.take(facts)
        self.fresh[facts["symbol"]] = NO_DAY

    def renew(self, symbols: Int64, session: int) -> None:
        """Work out what rows of symbols are held against in a session, where that is not known yet."""
        day = int(self._calendar.days[session])
        stale = symbols[self.fresh[symbols] != day]
        if not len(stale):
            return
        self.fresh[stale] = day
        where = self.rows_of(stale)
        if not len(where):
            return
        rows = self.rows[where]
        symbol = rows["symbol"].astype(np.int64)
        closes = np.full(len(self.names), np.nan)
        closes[stale] = self._previous_closes(stale, session)
        factors = self.facts.factors(symbol, rows["basis"], day)
        self.held.put(where, levels.of_rows(rows, closes[symbol], factors))
        self.aim(where)

    def aim(self, where: Int64) -> None:
        """Set the screen of rows by their levels and their state."""
        self.held.aim(where, self.rows[where], self._calendar, self._anchor)

    def _previous_closes(self, symbols: Int64, session: int) -> Float64:
        """Return each symbol's close of the session before, in a session's units; NaN for none."""
        if session == 0:
            return np.full(len(symbols), np.nan)
        day, today = (int(self._calendar.days[at]) for at in (session - 1, session))
        official, last = self.facts.closes(symbols, day), self.last[symbols]
        before = np.where(last["before_day"] == day, last["before_price"], np.nan)
        seen = np.where(last["regular_day"] == day, last["regular_price"], before)
        close = np.where(np.isnan(official), seen, official)
        factors = self.facts.factors(symbols, np.full(len(symbols), day, np.int32), today)
        return close if factors is None else close * factors

    def previous(self, symbols: Int64, session: int, regular: bool) -> Float64:
        """Return the last price of each symbol's path, in a session's units; NaN for none."""
        own = self.last[symbols]
        price, day = ("regular_price", "regular_day") if regular else ("price", "day")
        factors = self.facts.factors(symbols, own[day], int(self._calendar.days[session]))
        return own[price] if factors is None else own[price] * factors

    # --- size -----------------------------------------------------------------------------------------------

    def dead(self) -> Bool:
        """Return which rows no price can touch again."""
        return is_dead(self.rows, self.last["ts"][self.rows["symbol"]])

    def drop(self, which: Bool) -> None:
        """Forget rows."""
        kept = ~which
        self.rows = self.rows[kept]
        self.held.keep(kept)
        count = np.bincount(slots_of(self.rows), minlength=len(self.first) - 1)
        self.first = np.concatenate((np.zeros(1, np.int64), np.cumsum(count)))
