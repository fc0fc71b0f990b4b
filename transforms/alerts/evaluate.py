"""A batch of prices against all alerts of its symbols at once.

What is evaluated, price by price of a symbol in the order in which they came:

- A price whose (ts, seq) is not greater than that of the last one of its symbol is passed over: it is
  late, or came twice, or corrects what has been. So is one of no session's day.
- A version of an alert counts for prices with ``since < ts <= end``, where its end is its ``until`` or
  the ``since`` of a later version. The price before is its path's, however old.
- above: price > level; below: price < level. crosses_up: before < level <= price; crosses_down: before >
  level >= price; crosses: either. percent_up: price >= reference * (100 + value) / 100; percent_down:
  price <= reference * (100 - value) / 100; percent: either. What is not known makes nothing fire.
- The previous close is that of the session before the price's: the official one where it is known, else
  the last price within its regular hours that came.
- once: one firing. bar: one in each bar. daily: one in each session. every_time: firing disarms it,
  and a price that undoes it arms it again: of above, one at the level less ``rearm`` or lower, of
  crosses_up and percent_up one lower than that; the same upward of below, crosses_down and percent_down;
  of percent one inside both; of crosses one further than ``rearm`` from the level, and without ``rearm``
  it always is armed. A price that arms does not fire.
- After firing at ts nothing fires before ts + cooldown.
- Splits rescale levels, closes and previous prices to the units of the price's session.

Done per batch: the greatest and the least price of each path leave few rows, the candidates. Each is then
held against each price of its path; the first that fires or arms it moves it, and it goes on with the
next: as many rounds as the row with most moves needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fibflow.transforms.alerts.book import Book
from fibflow.transforms.alerts.events import Firings
from fibflow.transforms.alerts.groups import by_place, dense_ranks, ranges, rising, run_starts
from fibflow.transforms.alerts.levels import HAS_DOWN, HAS_UP, IS_EDGE, IS_STRICT
from fibflow.transforms.alerts.rows import Rows, State, bar_starts, is_always_armed, quiet_until
from fibflow.transforms.alerts.schema import ALWAYS, Frequency
from fibflow.transforms.calendar import NO_SESSION, TradingCalendar
from fibflow.transforms.partials import numbers
from fibflow.transforms.timeframe import IntradayAnchor

Bool = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

#: Prices of one symbol that are evaluated together: more make a round dearer than what it saves.
RUN = 64
#: Pairs of a candidate and a price at a time.
PAIRS = 1 << 18


@dataclass(frozen=True)
class Ticks:
    """Prices by symbol, in the order in which they came; shape (n,) each. ``at`` is the row of the batch."""

    place: Int64
    ts: Int64
    seq: Int64
    price: Float64
    regular: Bool
    at: Int64

    def __len__(self) -> int:
        return len(self.place)

    def pick(self, which: Any) -> Ticks:
        """Return some of them."""
        return Ticks(*(column[which] for column in vars(self).values()))


@dataclass(frozen=True)
class Paths:
    """The prices of a batch by path, each with the one before; and the paths as runs of them.

    Attributes:
        ts, seq, at, price, before: of the prices, shape (n,).
        slots: the paths, shape (runs,); ``starts`` and ``stops`` are theirs.
    """

    ts: Int64
    seq: Int64
    at: Int64
    price: Float64
    before: Float64
    slots: Int64
    starts: Int64
    stops: Int64

    def joined(self, more: Paths) -> Paths:
        """Return the paths of both."""
        columns = (np.concatenate((own, vars(more)[name])) for name, own in vars(self).items())
        found = Paths(*columns)
        found.starts[len(self.starts) :] += len(self.ts)
        found.stops[len(self.stops) :] += len(self.ts)
        return found


@dataclass(frozen=True)
class Outcome:
    """What a batch did: whether any price counted, the alerts that fired, and where rows moved."""

    counted: int
    firings: Firings | None
    moved: Int64


def evaluate(book: Book, table: pa.Table, calendar: TradingCalendar, anchor: IntradayAnchor) -> Outcome:
    """Hold a table of ``PRICES`` against a bucket's alerts, and move these and the last prices.

    Args:
        book: the bucket.
        table: in the order in which they came.
        calendar: says which session a price is of.
        anchor: where bars are counted from.
    """
    ticks, session = _accepted(book, table, calendar)
    if not len(ticks):
        return Outcome(0, None, np.zeros(0, np.int64))
    firings, moved = [], []
    judge = _Judge(book, calendar, anchor)
    for at in np.unique(session).tolist():
        mine = session == at
        for part in _parts(ticks if mine.all() else ticks.pick(mine)):
            fired, rows = judge.take(part, at)
            firings += fired
            moved.append(rows)
    return Outcome(len(ticks), Firings.concat(firings), np.unique(np.concatenate(moved)))


def _accepted(book: Book, table: pa.Table, calendar: TradingCalendar) -> tuple[Ticks, Int64]:
    """Return the prices that count, by symbol, and the session of each."""
    place = book.places(table)
    ts, seq, price = (numbers(table, name) for name in ("ts", "seq", "price"))
    ticks = Ticks(place, ts, seq, price, table["regular"].to_numpy(), np.arange(len(place)))
    order = by_place(place, len(book.names))
    if order is not None:
        ticks = ticks.pick(order)
    session = calendar.positions_at(ticks.ts).astype(np.int64)
    if (session == NO_SESSION).any():
        inside = session != NO_SESSION
        ticks, session = ticks.pick(inside), session[inside]
    kept = _in_order(book, ticks)
    return (ticks, session) if kept.all() else (ticks.pick(kept), session[kept])


def _in_order(book: Book, ticks: Ticks) -> Bool:
    """Return which prices are later than all before them of their symbol."""
    place, ts, seq = ticks.place, ticks.ts, ticks.seq
    first = np.zeros(len(ts), np.bool_)
    first[run_starts(place)] = True
    last = book.last[place[first]]
    before_ts, before_seq = np.empty_like(ts), np.empty_like(seq)
    before_ts[1:], before_seq[1:] = ts[:-1], seq[:-1]
    before_ts[first], before_seq[first] = last["ts"], last["seq"]
    later = (ts > before_ts) | ((ts == before_ts) & (seq > before_seq))
    if later.all():
        return later
    starts = np.flatnonzero(first)
    places = np.insert(place, starts, place[starts])
    all_ts, all_seq = np.insert(ts, starts, last["ts"]), np.insert(seq, starts, last["seq"])
    known = np.zeros(len(places), np.bool_)
    known[starts + np.arange(len(starts))] = True
    return rising(places, dense_ranks(all_ts, all_seq))[~known]


def _parts(ticks: Ticks) -> list[Ticks]:
    """Return prices in parts that hold no more than some of a symbol each."""
    starts = run_starts(ticks.place)
    counts = np.diff(np.append(starts, len(ticks)))
    if counts.max() <= RUN:
        return [ticks]
    number = (np.arange(len(ticks)) - np.repeat(starts, counts)) // RUN
    return [ticks.pick(number == part) for part in range(int(number.max()) + 1)]


class _Judge:
    """Evaluates prices of one session, and moves what they move."""

    def __init__(self, book: Book, calendar: TradingCalendar, anchor: IntradayAnchor) -> None:
        self._book, self._calendar, self._anchor = book, calendar, anchor

    def take(self, ticks: Ticks, session: int) -> tuple[list[Firings], Int64]:
        """Return what fired, and where rows moved."""
        starts = run_starts(ticks.place)
        self._book.renew(ticks.place[starts], session)
        paths = self._paths(ticks, starts, session)
        where, run = self._candidates(paths)
        fired: list[Firings] = []
        moved: list[Int64] = [np.zeros(0, np.int64)]
        if len(where):
            pairs = np.cumsum((paths.stops - paths.starts)[run])
            cuts = np.flatnonzero(np.diff(pairs // PAIRS)) + 1
            for part, runs in zip(np.split(where, cuts), np.split(run, cuts), strict=True):
                found, rows = self._settle(paths, part, runs, session)
                fired += found
                moved.append(rows)
        self._pass_on(ticks, starts, session)
        return fired, np.concatenate(moved)

    def _paths(self, ticks: Ticks, starts: Int64, session: int) -> Paths:
        """Return both paths of each symbol, as far as they have prices."""
        every = self._path(ticks, starts, session, regular=False)
        if not ticks.regular.any():
            return every
        if not ticks.regular.all():
            ticks = ticks.pick(ticks.regular)
            starts = run_starts(ticks.place)
        return every.joined(self._path(ticks, starts, session, regular=True))

    def _path(self, ticks: Ticks, starts: Int64, session: int, regular: bool) -> Paths:
        symbols = ticks.place[starts]
        before = np.empty_like(ticks.price)
        before[1:] = ticks.price[:-1]
        before[starts] = self._book.previous(symbols, session, regular)
        stops = np.append(starts[1:], len(ticks))
        slots = 2 * symbols + (not regular)
        return Paths(ticks.ts, ticks.seq, ticks.at, ticks.price, before, slots, starts, stops)

    def _candidates(self, paths: Paths) -> tuple[Int64, Int64]:
        """Return where the rows lie that the prices may move, and the run of each."""
        held, first = self._book.held, self._book.first
        begins = first[paths.slots]
        counts = first[paths.slots + 1] - begins
        where = ranges(begins, counts)
        before = paths.before[paths.starts]
        greatest = np.fmax(np.maximum.reduceat(paths.price, paths.starts), before)
        least = np.fmin(np.minimum.reduceat(paths.price, paths.starts), before)
        high = np.repeat(greatest, counts)
        screen = held.screen.take(where, axis=0)
        may = high >= screen[:, 0]
        may &= np.repeat(least, counts) <= screen[:, 1]
        may |= high >= screen[:, 2]
        chosen = np.flatnonzero(may)
        run = np.searchsorted(np.cumsum(counts), chosen, side="right")
        where = where[chosen]
        loud = paths.ts[paths.stops - 1][run] >= held.quiet[where]
        return where[loud], run[loud]

    def _settle(self, paths: Paths, where: Int64, run: Int64, session: int) -> tuple[list[Firings], Int64]:
        """Hold rows against each price of their path; return what fired, and where rows moved."""
        book = self._book
        case = _Case(book, where)
        cursor, stop = paths.starts[run], paths.stops[run]
        moved = np.zeros(len(where), np.bool_)
        fired = []
        active: Int64 = np.arange(len(where))
        while len(active):
            counts = stop[active] - cursor[active]
            at, who = ranges(cursor[active], counts), np.repeat(active, counts)
            hits = np.flatnonzero(case.hits(paths, at, who))
            hits = hits[run_starts(who[hits])]
            active, at = who[hits], at[hits]
            moved[active] = True
            fires = case.rows["state"][active] == State.ARMED
            if fires.any():
                fired.append(self._fire(case, paths, active[fires], at[fires], session))
            case.arm(paths, active[~fires], at[~fires])
            case.quiet[active] = quiet_until(case.rows[active], self._calendar, self._anchor)
            cursor[active] = at + 1
            active = active[(cursor[active] < stop[active]) & (case.rows["state"][active] != State.DONE)]
        if moved.any():
            book.rows[where] = case.rows
            book.aim(where[moved])
        over = case.rows["end"] < paths.ts[stop - 1]
        book.held.quiet[where[over]] = ALWAYS
        return fired, where[moved]

    def _fire(self, case: _Case, paths: Paths, who: Int64, at: Int64, session: int) -> Firings:
        rows = case.rows[who]
        ts, seq = paths.ts[at], paths.seq[at]
        always = is_always_armed(rows)
        frequency = rows["frequency"]
        period = np.where(frequency == Frequency.DAILY, self._calendar.days[session], 0).astype(np.int64)
        bar = np.flatnonzero(frequency == Frequency.BAR)
        if len(bar):
            period[bar] = bar_starts(ts[bar], rows["span"][bar], self._calendar, self._anchor)
        upward = paths.price[at] >= case.up[who]
        found = Firings(
            at=paths.at[at],
            alert=rows["alert"],
            version=rows["version"],
            frequency=frequency,
            place=rows["symbol"].astype(np.int64),
            ts=ts,
            seq=seq,
            price=paths.price[at],
            before=paths.before[at],
            level=np.where(upward, case.up[who], case.down[who]),
            gen_ts=np.where(always, ts, rows["gen_ts"]),
            gen_seq=np.where(always, seq, rows["gen_seq"]),
            period=period,
        )
        case.rows["fired"][who] = ts
        case.rows["state"][who[frequency == Frequency.ONCE]] = State.DONE
        case.rows["state"][who[(frequency == Frequency.EVERY_TIME) & ~always]] = State.DISARMED
        return found

    def _pass_on(self, ticks: Ticks, starts: Int64, session: int) -> None:
        """Remember the last prices."""
        last, day = self._book.last, self._calendar.days[session]
        symbols, ends = ticks.place[starts], np.append(starts[1:], len(ticks)) - 1
        for name in ("ts", "seq", "price"):
            last[name][symbols] = getattr(ticks, name)[ends]
        last["day"][symbols] = day
        if not ticks.regular.any():
            return
        if not ticks.regular.all():
            ticks = ticks.pick(ticks.regular)
            starts = run_starts(ticks.place)
            ends = np.append(starts[1:], len(ticks)) - 1
            symbols = ticks.place[ends]
        begun = symbols[last["regular_day"][symbols] != day]
        last["before_price"][begun] = last["regular_price"][begun]
        last["before_day"][begun] = last["regular_day"][begun]
        last["regular_price"][symbols], last["regular_day"][symbols] = ticks.price[ends], day


class _Case:
    """Candidates, with what they are held against, while they are moved; shape (k,) each."""

    def __init__(self, book: Book, where: Int64) -> None:
        held = book.held
        self.rows: Rows = book.rows[where]
        self.up, self.down, self.back = held.up[where], held.down[where], held.back[where]
        self.quiet = held.quiet[where]
        operator = self.rows["operator"]
        self._has_up, self._has_down = HAS_UP[operator], HAS_DOWN[operator]
        self._edge, self._strict = IS_EDGE[operator], IS_STRICT[operator]

    def hits(self, paths: Paths, at: Int64, who: Int64) -> Bool:
        """Return which pairs of a candidate and a price fire it, or arm it where it is disarmed.

        Args:
            paths: the prices.
            at: a price of each pair, shape (m,).
            who: a candidate of each pair.
        """
        ts = paths.ts[at]
        found = (ts >= self.quiet[who]) & (ts <= self.rows["end"][who])
        armed = self.rows["state"][who] == State.ARMED
        for kind, judge in ((armed, self._fires), (~armed, self._arms)):
            some = np.flatnonzero(found & kind)
            if len(some):
                found[some] = judge(paths.price[at[some]], paths.before[at[some]], who[some])
        return found

    def _fires(self, price: Float64, before: Float64, who: Int64) -> Bool:
        up, down = self.up[who], self.down[who]
        reaches, edge = ~self._strict[who], self._edge[who]
        upward = (price > up) | (reaches & (price == up))
        downward = (price < down) | (reaches & (price == down))
        return (upward & (~edge | (before < up))) | (downward & (~edge | (before > down)))

    def _arms(self, price: Float64, _: Float64, who: Int64) -> Bool:
        low, high = self.up[who] - self.back[who], self.down[who] + self.back[who]
        reaches = self._strict[who]
        below = (price < low) | (reaches & (price == low))
        above = (price > high) | (reaches & (price == high))
        has_up, has_down, edge = self._has_up[who], self._has_down[who], self._edge[who]
        both = has_up & has_down
        return np.where(both, np.where(edge, below | above, below & above), np.where(has_up, below, above))

    def arm(self, paths: Paths, who: Int64, at: Int64) -> None:
        """Arm candidates, each by a price."""
        self.rows["state"][who] = State.ARMED
        self.rows["gen_ts"][who], self.rows["gen_seq"][who] = paths.ts[at], paths.seq[at]
