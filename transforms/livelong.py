"""The bars of several sessions of one bucket, for the time of one call: of history and of its minutes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fibflow.transforms.calendar import NO_SESSION
from fibflow.transforms.grid import Grid
from fibflow.transforms.history import Note
from fibflow.transforms.livebucket import Bucket
from fibflow.transforms.livecells import NEVER
from fibflow.transforms.livedays import (
    FROM_TICKS,
    OFFICIAL,
    Chosen,
    DayGrid,
    DayWindow,
    LiveDays,
    day_of_ticks,
    days_of_rows,
    fold_window,
    fold_windows,
    frozen_day,
)
from fibflow.transforms.livestate import OPEN, Entries, add_up
from fibflow.transforms.livewindows import Bars, without_prices
from fibflow.transforms.partials import as_arrow
from fibflow.transforms.timeframe import DAY

Bool = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]


class LongBars:
    """The windows of several sessions of a bucket. There are none before history has come."""

    def __init__(self, days: DayGrid, grid: Grid, bucket: Bucket, lateness: int) -> None:
        self._days, self._grid, self._bucket, self._lateness = days, grid, bucket, lateness
        self._calendar = days.calendar
        self._day = grid.timeframes.index(DAY)

    @property
    def _through(self) -> int | None:
        """The position of the last session of official history when the job began."""
        day = self._bucket.head.through
        return None if day is None else int(self._calendar.positions(np.array([day]))[0])

    def _of_ticks(self) -> Int64:
        """Return the sessions that still take ticks, of which some have come; in order."""
        bucket, calendar = self._bucket, self._calendar
        placed, start = bucket.placed, int(bucket.base.starts[self._day])
        of = placed, start, bucket.head.clock, bucket.head.through
        known = bucket.of_days.of_ticks
        if known is not None and known[0][0] is placed and known[0][1:] == of[1:]:
            return known[1]
        found = np.unique(placed.session)
        if start:
            found = np.union1d(found, calendar.positions_at(np.array([start])))
        taking = calendar.day_ends[found] + self._lateness > bucket.head.clock
        after = NEVER if self._through is None else self._through
        found = found[taking & (found > after)].astype(np.int64)
        bucket.of_days.of_ticks = of, found
        return found

    def _present(self) -> Int64:
        """Return the sessions of which there is a day."""
        held = self._chosen().positions
        return np.union1d(held, self._of_ticks())

    def _chosen(self) -> Chosen:
        """Return the days in the ring, one a session and symbol."""
        memo, days = self._bucket.of_days, self._bucket.days
        if memo.chosen is None or memo.chosen.prices.shape[2] != days.width:
            memo.forget()
            memo.chosen = Chosen.of(days, self._calendar)
        return memo.chosen

    def _now(self, clock: int) -> int:
        """Return the session that time has reached: days of later ones are not looked at."""
        begun = int(np.searchsorted(self._calendar.day_starts, clock, side="right")) - 1
        through = self._through
        return max([begun, -1 if through is None else through, *self._of_ticks()[-1:].tolist()])

    def windows(self, positions: Int64) -> list[DayWindow]:
        """Return the windows that hold any of some sessions: of those that history ended, none."""
        through = self._through
        if through is None:
            return []
        return [window for window in self._days.windows(positions) if window.stop - 1 > through]

    def closed(self, positions: Int64) -> list[DayWindow]:
        """Return those that have ended and are not final."""
        clock = self._bucket.head.clock
        found = self.windows(positions)
        return [each for each in found if each.end <= clock < each.end + self._lateness]

    def due(self, after: int, until: int) -> list[DayWindow]:
        """Return the windows that end, or become final, in ``(after, until]``."""
        return [
            window
            for window in self.windows(self._present())
            if after < window.end <= until or after < window.end + self._lateness <= until
        ]

    def open(self) -> list[DayWindow]:
        """Return the windows that time has reached, and that have not ended."""
        present = self._present()
        clock = self._bucket.head.clock
        reached = present[present <= self._now(clock)]
        return [window for window in self.windows(reached) if window.end > clock]

    def next_due(self) -> int | None:
        """Return the first instant after the clock at which a window ends or is final."""
        clock = self._bucket.head.clock
        ends = np.array([window.end for window in self.windows(self._present())], np.int64)
        instants = np.concatenate((ends, ends + self._lateness))
        ahead = instants[instants > clock]
        return int(ahead.min()) if len(ahead) else None

    def collect(
        self,
        windows: Sequence[DayWindow],
        index: Int64 | None,
        touched: Bool | None = None,
        clock: int | None = None,
    ) -> Bars:
        """Return what windows hold, where it makes a bar.

        Args:
            windows: at least one.
            index: symbols to look at; None for all.
            touched: of each window and symbol of ``index``, whether it is wanted; None for all.
            clock: up to when time has come; the bucket's clock unless given.
        """
        bucket, memo = self._bucket, self._bucket.of_days
        self._chosen()
        until = self._now(bucket.head.clock if clock is None else clock) + 1
        spans = tuple((window.first, min(window.stop, until)) for window in windows)
        live = self._live_days(index)
        symbols = np.arange(bucket.ring.width) if index is None else index
        fold = fold_windows(spans, memo, live, index)
        if fold is not None:
            wanted = ~np.isnan(fold.prices[:, OPEN])
            if touched is not None:
                wanted &= touched
            of, at = np.nonzero(wanted)
            prices, sums = fold.prices[of, :, at].T, fold.sums[of, :, at].T
            return Bars(of, symbols[at], prices, sums, fold.sessions[of, at])
        parts = []
        for place, span in enumerate(spans):
            fold = fold_window(*span, memo, live, index)
            if fold is None:
                continue
            wanted = ~np.isnan(fold.prices[OPEN])
            if touched is not None:
                wanted &= touched[place]
            at = np.flatnonzero(wanted)
            of = np.full(len(at), place)
            parts.append(Bars(of, symbols[at], fold.prices[:, at], fold.sums[:, at], fold.sessions[at]))
        return Bars.concat(parts)

    def _live_days(self, index: Int64 | None) -> LiveDays:
        """Return the days so far of the sessions that still take ticks, of some symbols; None for all."""
        return {position: self._day_of(position, index) for position in self._of_ticks().tolist()}

    def _day_of(self, position: int, index: Int64 | None) -> tuple[Float64, Int64]:
        ring, base, placed = self._bucket.ring, self._bucket.base, self._bucket.placed
        rows = placed.session == position
        prices, sums = ring.prices[rows], ring.sums[rows]
        if index is not None:
            prices, sums = prices.take(index, axis=2), sums.take(index, axis=2)
        prices = without_prices(prices, ~placed.regular[rows])
        if base.starts[self._day] == self._calendar.day_starts[position]:
            past_prices, past_sums = base.prices[self._day], base.sums[self._day]
            if index is not None:
                past_prices, past_sums = past_prices.take(index, axis=1), past_sums.take(index, axis=1)
            prices = np.concatenate((past_prices[None], prices))
            sums = np.concatenate((past_sums[None], sums))
        return day_of_ticks(*add_up(prices, sums))

    # --- what changes the days ------------------------------------------------------------------------------

    def count(self, day: int) -> int:
        """Return the number of a session by its date."""
        return int(self._calendar.positions(np.array([day]))[0]) - self._calendar.origin

    def sessions_of(self, rows: pa.Table, note: Note) -> Int64:
        """Return the positions of the sessions that an element of history may change."""
        days = _days_of(rows)
        if note.since is not None:
            days = np.concatenate((days, self._bucket.days.minutes // 2))
        return np.unique(self._calendar.positions(days)).astype(np.int64)

    def sift(self, rows: pa.Table) -> pa.Table:
        """Return the rows of history, DAILY_ROWS, that windows hold which are not final."""
        positions = self._calendar.positions(_days_of(rows))
        distinct = np.unique(positions)
        wanted = np.array(
            [self._is_needed(position, self._bucket.head.clock) for position in distinct.tolist()]
        )
        return rows.filter(as_arrow(np.isin(positions, distinct[wanted.astype(np.bool_)])))

    def _is_needed(self, position: int, clock: int) -> bool:
        """Return whether some window that holds a session is not final, and not history's."""
        if position == NO_SESSION:
            return False
        last, through = self._days.last_position(position), self._through
        is_open = int(self._calendar.day_ends[last]) + self._lateness > clock
        return is_open and (through is None or last > through)

    def take(self, rows: pa.Table, places: Int64, note: Note) -> None:
        """Put rows of history in the place of those that are there.

        Args:
            rows: DAILY_ROWS, sifted.
            places: of their symbols in the bucket.
            note: what they are.
        """
        keys = self._bucket.days.minutes
        if note.since is not None:
            self._bucket.keep_days((keys % 2 != OFFICIAL) | (keys // 2 < note.since))
        if len(rows):
            kind = OFFICIAL if note.official else FROM_TICKS
            self._bucket.add_days(days_of_rows(rows, places, kind, note.version))

    def retire(self, until: int) -> None:
        """Keep the days of sessions that take no ticks from an instant on; drop those that nobody needs then.

        To be called while the bucket's clock and minutes are as they were before.
        """
        made: list[Entries] = []
        for position in self._of_ticks().tolist():
            if self._calendar.day_ends[position] + self._lateness <= until and self._is_needed(
                position, until
            ):
                day = frozen_day(int(self._calendar.days[position]), *self._day_of(position, None))
                made += [day] if len(day.index) else []
        keys = self._bucket.days.minutes
        positions = self._calendar.positions(keys // 2)
        needed = [self._is_needed(position, until) for position in positions.tolist()]
        self._bucket.keep_days(np.array(needed, np.bool_))
        self._bucket.add_days(made)


def _days_of(rows: pa.Table) -> Int64:
    column: Any = rows["session"].combine_chunks()
    found: Int64 = column.view(pa.int32()).to_numpy().astype(np.int64)
    return found
