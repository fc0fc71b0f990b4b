"""The state machine of live bars: rows and instants in, bars out. Free of Beam.

A bucket's whole state lies in its cells (``livecells``). ``docs/streaming.md`` states the policy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fibflow.transforms import tickrows
from fibflow.transforms.bars import BarSpec
from fibflow.transforms.calendar import NO_SESSION
from fibflow.transforms.grid import Grid
from fibflow.transforms.history import note_of
from fibflow.transforms.livebucket import Bucket, Memo, News
from fibflow.transforms.livecells import NEVER, SLOTS, Cells, Revisions
from fibflow.transforms.livedays import DayGrid, DayWindow
from fibflow.transforms.livefeeds import Accepted, Rows, accept_minutes, accept_trades
from fibflow.transforms.livelong import LongBars
from fibflow.transforms.livestate import REGISTERS, TRADES
from fibflow.transforms.livewindows import (
    Bars,
    Window,
    collect,
    next_due,
    same_content,
    table_of,
    windows_due,
    windows_left,
    windows_with,
)
from fibflow.transforms.partials import BAR_BATCH, as_arrow, numbers
from fibflow.transforms.timeframe import DAY, MINUTE_US, Anchor, TimeframeError, by_sessions

Bool = npt.NDArray[np.bool_]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

_MILLISECOND_US = 1000
#: How far most rows may be ahead of a timer: more than rows of one bucket are apart in a live stream.
_AHEAD_US = 3 * MINUTE_US
#: How long what is due waits for others at most, where rows are further ahead.
_LEAP_US = 15 * MINUTE_US
#: Minutes of one element that are remembered; of more, one by one is slower than all at once.
_FEW = 512


@dataclass(frozen=True)
class StreamPolicy:
    """What a stream needs beside ``BarSpec``.

    Attributes:
        lateness_us: for how long after its end a minute takes rows, microseconds.
        buckets: into how many keys symbols are hashed; fixed for the life of a job.
    """

    lateness_us: int = 15 * MINUTE_US
    buckets: int = 16

    def __post_init__(self) -> None:
        if self.lateness_us < 0 or self.lateness_us % _MILLISECOND_US:
            raise ValueError(f"lateness of {self.lateness_us} us: give whole milliseconds, 0 or more")
        if self.buckets < 1:
            raise ValueError(f"{self.buckets} buckets: give 1 or more")


class Plan:
    """What all buckets of a job share; holds no state."""

    def __init__(self, spec: BarSpec, policy: StreamPolicy, tells_open: bool = True) -> None:
        """Take the options; ``tells_open``: somebody asks for open bars.

        Raises:
            ValueError: for options that only history has.
            TimeframeError: for timeframes of several sessions that are not counted as the exchange's are.
        """
        bounds = (spec.as_of, spec.start, spec.end, spec.changed_from)
        if spec.complete_only or any(bound is not None for bound in bounds):
            raise ValueError("bars of a stream take no as_of, start, end, changed_from or complete_only")
        short, long, lacks_days = by_sessions(spec.timeframes)
        if long and spec.anchor is not Anchor.EXCHANGE:
            raise TimeframeError(
                f"timeframe {long[0]}: a stream counts sessions from the anchor exchange, not {spec.anchor}"
            )
        #: The number of a timeframe that others are made of, and nobody asked for.
        self.hidden = len(short) if lacks_days else None
        self.grid = Grid((*short, DAY) if lacks_days else short, spec.calendar, spec.intraday_anchor)
        self.timeframes = (*self.grid.timeframes, *long)
        self.days = DayGrid(long, len(self.grid.timeframes), spec.calendar) if long else None
        self.lateness = policy.lateness_us
        self.tells_open = tells_open
        #: Of open bars: whether they are of days, which go out apart.
        self.kinds = tuple(sorted({not timeframe.is_intraday for timeframe in (*short, *long)}))
        minutes = -(-policy.lateness_us // MINUTE_US)
        #: So long that the minutes inside the lateness, and some ahead of the clock, fit into the ring.
        self.block = max(1, -(-minutes // (SLOTS - 2))) * MINUTE_US
        names = ",".join(timeframe.name for timeframe in (*short, *long))
        self.name = f"{names} {spec.intraday_anchor} {spec.calendar.name} lateness {policy.lateness_us} us"

    def is_of_days(self, window: Window | DayWindow) -> bool:
        """Return whether a window is of one session or more."""
        return not self.timeframes[window.number].is_intraday


@dataclass(frozen=True)
class Output:
    """What a call gives; None, or an empty tuple, for nothing.

    Attributes:
        bars: closed, revised and final bars, tables of ``partials.BAR_BATCH``.
        late: rows after their horizon, ``schemas.LATE``.
        dead_letters: duplicates, superseded minutes and rows of no session, tables of DEAD_LETTERS.
        timer: what to set the timer for, UTC microseconds; None to leave it.
    """

    bars: pa.Table | None = None
    late: pa.Table | None = None
    dead_letters: tuple[pa.Table, ...] = ()
    timer: int | None = None


class LiveBars:
    """One bucket for one call: ``add`` or ``advance``, or neither; and ``let_out`` after it."""

    def __init__(self, plan: Plan, cells: Cells, memo: Memo | None = None) -> None:
        """Read the state.

        Args:
            plan: of the job.
            cells: the bucket's.
            memo: what an earlier call kept of this bucket; read anew where the cells say otherwise.

        Raises:
            StateError: where the state was written by another release, or with other options.
        """
        self._plan = plan
        self._memo = Memo() if memo is None else memo
        days = plan.days
        self._bucket = Bucket(plan.name, plan.grid, plan.block, cells, self._memo, days is not None)
        self._long = None if days is None else LongBars(days, plan.grid, self._bucket, plan.lateness)

    # --- rows -----------------------------------------------------------------------------------------------

    def add(self, table: pa.Table) -> Output:
        """Take rows: TRADE_INPUT or MINUTE_INPUT, always the same, in any order.

        Raises:
            ValueError: where the bucket holds rows of the other kind.
        """
        bucket = self._bucket
        if not len(table):
            return Output()
        bucket.begin()
        feed = TRADES if tickrows.is_trades(table) else REGISTERS
        bucket.start_feed(feed.name)
        if bucket.head.feed != feed.name:
            raise ValueError(
                f"rows of {feed.name} came to a bucket of {bucket.head.feed}: make bars from one of them"
            )
        rows, late, letters = self._sift(table)
        bars = timer = None
        if rows is not None:
            if feed is TRADES:
                accepted = accept_trades(rows, bucket.ring, bucket.placed, bucket.read_keys)
            else:
                accepted = accept_minutes(rows, bucket.ring, bucket.head.symbols, bucket.head.shards)
            letters += accepted.dead_letters
            if accepted.entries:
                bars, timer = self._apply(accepted)
        bucket.save()
        return Output(bars, late, tuple(letters), timer)

    def _sift(self, table: pa.Table) -> tuple[Rows | None, pa.Table | None, list[pa.Table]]:
        """Take out rows of no session, and rows whose minute has passed the horizon."""
        plan, clock = self._plan, self._bucket.head.clock
        minutes, at = _distinct(tickrows.minutes_of(numbers(table, "ts")))
        placed = (plan.grid.look_up if len(minutes) <= _FEW else plan.grid.place)(minutes)
        stray = placed.session == NO_SESSION
        passed = ~stray & (minutes + MINUTE_US + plan.lateness <= clock)
        late, letters = None, []
        if stray.any():
            letters.append(tickrows.dead_letters(table.filter(as_arrow(stray[at])), tickrows.NOT_A_SESSION))
        if passed.any():
            late = tickrows.late_rows(table.filter(as_arrow(passed[at])), clock)
        if letters or late is not None:
            kept = ~(stray | passed)[at]
            table = table.filter(as_arrow(kept))
            if not len(table):
                return None, late, letters
            minutes, at = _distinct(minutes[at[kept]])
            placed = plan.grid.place(minutes)
        symbol = self._bucket.symbol_places(*tickrows.words(table, "symbol"))
        return Rows(table, symbol, at, minutes, placed), late, letters

    def _apply(self, accepted: Accepted) -> tuple[pa.Table | None, int | None]:
        """Add entries, and return the closed bars that changed, and the timer."""
        bucket = self._bucket
        minutes = np.array([entries.minute for entries in accepted.entries], np.int64)
        new = bucket.make_room(minutes)
        rows, index, member = self._members(minutes, [entries.index for entries in accepted.entries])
        closed = self._closed(rows)
        before = self._collect(closed, index) if closed else None
        bucket.append(accepted.entries, accepted.keys)
        self._changed(index, self._plan.kinds)
        bars = None
        if before is not None:
            touched = _touched(closed, rows, bucket.placed.session[rows], member)
            bars = self._revise(closed, before, self._collect(closed, index, touched))
        return bars, self._arm() if new else None

    def _members(self, minutes: Int64, symbols: list[Int64]) -> tuple[Int64, Int64, Bool | None]:
        """Return the places of minutes in the ring, the symbols of any of them, and which are of which.

        The last has shape (minutes, symbols); None for one minute, whose symbols they all are.
        """
        rows = np.searchsorted(self._bucket.ring.minutes, minutes)
        if len(symbols) == 1:
            return rows, symbols[0], None
        member = np.zeros((len(rows), self._bucket.ring.width), np.bool_)
        for number, own in enumerate(symbols):
            member[number, own] = True
        index = np.flatnonzero(member.any(axis=0))
        return rows, index, member[:, index]

    def _shown(self, windows: list[Window]) -> list[Window | DayWindow]:
        return [window for window in windows if window.number != self._plan.hidden]

    def _closed(self, rows: Int64) -> list[Window | DayWindow]:
        """Return the windows that have ended of those that hold any of some minutes; the long ones last."""
        bucket = self._bucket
        found = self._shown(windows_with(bucket.placed, rows))
        closed = [window for window in found if window.end <= bucket.head.clock]
        if self._long is not None:
            closed += self._long.closed(np.unique(bucket.placed.session[rows]))
        return closed

    def _collect(
        self,
        windows: list[Window | DayWindow],
        index: Int64 | None,
        touched: Bool | None = None,
        clock: int | None = None,
    ) -> Bars:
        """Return what windows hold, of which the long ones are the last; arguments as for ``collect``."""
        bucket = self._bucket
        short = [window for window in windows if isinstance(window, Window)]
        long = [window for window in windows if isinstance(window, DayWindow)]
        parts = []
        if short:
            wanted = None if touched is None else touched[: len(short)]
            timeframes = self._plan.timeframes
            parts.append(collect(short, bucket.ring, bucket.base, bucket.placed, timeframes, index, wanted))
        if long:
            assert self._long is not None
            wanted = None if touched is None else touched[len(short) :]
            made = self._long.collect(long, index, wanted, clock)
            parts.append(replace(made, window=made.window + len(short)))
        return Bars.concat(parts)

    def _revise(self, windows: list[Window | DayWindow], before: Bars, after: Bars) -> pa.Table | None:
        """Return the closed bars whose content changed, with their revisions counted up."""
        bucket = self._bucket
        same, place = same_content(before, after)
        changed = np.flatnonzero(~same)
        if not len(changed):
            return None
        revisions = bucket.read_revisions()
        made = after.pick(changed)
        numbers = []
        for window, symbol, old in zip(
            made.window.tolist(), made.symbol.tolist(), place[changed].tolist(), strict=True
        ):
            key = (windows[window].number, windows[window].start)
            revision = 0 if old < 0 else 1 + revisions.get(key, {}).get(symbol, 0)
            if revision:
                revisions.setdefault(key, {})[symbol] = revision
            numbers.append(revision)
        bucket.write_revisions(revisions)
        own = np.array(numbers, np.int32)
        return table_of(made, windows, bucket.words, self._plan.timeframes, True, revision=own)

    # --- history --------------------------------------------------------------------------------------------

    def take_history(self, element: pa.Table) -> Output:
        """Take official days of the bucket's symbols, which stand in the place of those that ticks made.

        Raises:
            ValueError: where the element is none of history, or no timeframe has several sessions.
        """
        bucket, long, note = self._bucket, self._long, note_of(element)
        if note is None or long is None:
            raise ValueError("history is for timeframes of several sessions, and says what it is")
        bucket.begin()
        is_first = bucket.head.through is None
        if is_first:
            bucket.head.through, bucket.head.counted = note.through, long.count(note.through)
        rows = long.sift(element)
        places = bucket.symbol_places(*tickrows.words(rows, "symbol")) if len(rows) else np.zeros(0, np.int64)
        index = None if note.since is not None else np.unique(places)
        closed: list[Window | DayWindow] = [] if is_first else [*long.closed(long.sessions_of(rows, note))]
        before = self._collect(closed, index) if closed else None
        long.take(rows, places, note)
        bars = None
        if before is not None:
            bars = self._revise(closed, before, self._collect(closed, index))
        elif is_first and (ended := long.due(NEVER, bucket.head.clock)):
            bars = self._publish([*ended], bucket.head.clock)
        self.news(True).ended |= note.since is not None
        if index is not None:
            self._changed(index, (True,))
        timer = self._arm()
        bucket.save()
        return Output(bars, timer=timer)

    # --- time -----------------------------------------------------------------------------------------------

    def advance(self, clock: int) -> Output:
        """Take the instant of a timer that fired, UTC microseconds: close windows, and make them final."""
        bucket, plan = self._bucket, self._plan
        bucket.begin()
        before, bars = bucket.head.clock, None
        if clock > before:
            lateness = plan.lateness
            windows = self._shown(windows_due(bucket.placed, bucket.base, before, clock, lateness))
            if self._long is not None:
                windows += self._long.due(before, clock)
            if windows:
                bars = self._publish(windows, clock)
                for window in windows:
                    self.news(self._plan.is_of_days(window)).ended |= window.end > before
            if self._long is not None:
                self._long.retire(clock)
            bucket.head.clock = clock
            bucket.retire(clock, lateness)
        timer = self._arm(always=True)
        bucket.save()
        return Output(bars=bars, timer=timer)

    def _publish(self, windows: list[Window | DayWindow], clock: int) -> pa.Table | None:
        """Return the bars of windows that ended or are final, and forget the revisions of those that are."""
        bucket = self._bucket
        made = self._collect(windows, None, clock=clock)
        final = np.array([window.end + self._plan.lateness <= clock for window in windows])
        revision = None
        known = bucket.read_revisions()
        if known:
            revision = _revisions_of(made, windows, known)
            keys = {
                (window.number, window.start) for window, done in zip(windows, final, strict=True) if done
            }
            left = {key: value for key, value in known.items() if key not in keys}
            if len(left) < len(known):
                bucket.write_revisions(left)
        if not len(made.window):
            return None
        return table_of(made, windows, bucket.words, self._plan.timeframes, True, final, revision)

    # --- open bars ------------------------------------------------------------------------------------------

    def news(self, of_days: bool) -> News:
        """Return what has changed of open bars of a kind since ``let_out``."""
        return self._memo.news[of_days]

    @property
    def is_empty(self) -> bool:
        """Whether the bucket holds no window that is not final."""
        return self._bucket.is_empty

    def let_out(self, marker: str, of_days: bool) -> tuple[bool, pa.Table] | None:
        """Return the open bars of a kind of the symbols that gained input since the last time, or of all.

        All come after a window has ended, and where a store with this marker is not known to hold the others.

        Returns:
            Whether they are all, and a table of ``partials.BAR_BATCH``; None where nothing changed.
        """
        news = self.news(of_days)
        whole = news.ended or news.told != marker
        index = None
        if not whole and news.changed:
            index = news.changed[0] if len(news.changed) == 1 else np.unique(np.concatenate(news.changed))
        bars = self._open_bars(index, of_days) if whole or news.changed else BAR_BATCH.empty_table()
        news.untold()
        news.told = marker
        return (whole, bars) if whole or len(bars) else None

    def _open_bars(self, index: Int64 | None, of_days: bool) -> pa.Table:
        """Return the bars of a kind of windows that have not ended, of some symbols; None for all of them."""
        bucket = self._bucket
        rows = np.arange(len(bucket.ring.minutes))
        found = windows_with(bucket.placed, rows) if len(rows) else []
        found += windows_left(bucket.placed, bucket.base)
        windows = [
            window
            for window in self._shown(found)
            if window.end > bucket.head.clock and self._plan.is_of_days(window) == of_days
        ]
        if of_days and self._long is not None:
            windows += self._long.open()
        if not windows:
            return BAR_BATCH.empty_table()
        made = self._collect(windows, index)
        return table_of(made, windows, bucket.words, self._plan.timeframes, False)

    def _changed(self, index: Int64, kinds: tuple[bool, ...]) -> None:
        """Note which symbols gained input."""
        if self._plan.tells_open and len(index):
            for of_days in kinds:
                self.news(of_days).changed.append(index)

    # --- timers ---------------------------------------------------------------------------------------------

    def _arm(self, always: bool = False) -> int | None:
        """Return what to set the timer for; None where it stands, or nothing is due.

        Where most rows are far ahead of what is due, the stream is catching up: minutes are then closed some
        at a time. A few rows with a wrong clock make nothing wait, and a timer that is set is never put off.
        """
        bucket = self._bucket
        ends = bucket.ring.minutes + MINUTE_US
        due = next_due(bucket.placed, ends, bucket.base, bucket.head.clock, self._plan.lateness)
        if self._long is not None:
            due = min((at for at in (due, self._long.next_due()) if at is not None), default=None)
        most = bucket.ring.minute_of_most()
        if due is not None and most is not None:
            due = max(due, min(most + MINUTE_US - _AHEAD_US, due + _LEAP_US))
        standing = bucket.head.armed
        if not always and (due is None or NEVER < standing <= due):
            return None
        bucket.head.armed = NEVER if due is None else due
        return due


def _distinct(minute: Int64) -> tuple[Int64, Int64]:
    """Return the distinct minutes in order, and each row's place among them."""
    low, high = int(minute.min()), int(minute.max())
    if low == high:
        return minute[:1], np.zeros(len(minute), np.int64)
    span = (high - low) // MINUTE_US + 1
    if span > 4 * len(minute) + 1024:
        distinct, at = np.unique(minute, return_inverse=True)
        return distinct, at.astype(np.int64)
    number = (minute - low) // MINUTE_US
    present = np.zeros(span, np.int64)
    present[number] = 1
    return np.flatnonzero(present) * MINUTE_US + low, (np.cumsum(present) - 1)[number]


def _touched(
    windows: list[Window | DayWindow], rows: Int64, sessions: Int64, member: Bool | None
) -> Bool | None:
    """Return which symbols gained input in each window, shape (windows, symbols); None for all.

    Args:
        windows: of minutes, and of sessions.
        rows: places of minutes in the ring.
        sessions: of these minutes.
        member: which symbols gained input in which of the minutes.
    """
    if member is None:
        return None
    touched = []
    for window in windows:
        at = sessions if isinstance(window, DayWindow) else rows
        touched.append(member[(at >= window.first) & (at < window.stop)].any(axis=0))
    return np.array(touched)


def _revisions_of(bars: Bars, windows: list[Window | DayWindow], known: Revisions) -> Int32:
    """Return the revision of each bar, shape (n,)."""
    found = np.zeros(len(bars.window), np.int32)
    for place, window in enumerate(windows):
        of_symbol: dict[int, Any] = known.get((window.number, window.start), {})
        if of_symbol:
            own = np.flatnonzero(bars.window == place)
            names = bars.symbol[own].tolist()
            found[own] = [of_symbol.get(name, 0) for name in names]
    return found
