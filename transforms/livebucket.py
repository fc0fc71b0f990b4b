"""One bucket of live bars: its state in memory, and how it comes out of and goes into its cells."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fibflow.transforms.grid import Grid, Placed
from fibflow.transforms.livecells import (
    BASE,
    DAYS,
    HEAD,
    MINUTES,
    REVISIONS,
    SEEN,
    SLOTS,
    Cells,
    Head,
    Revisions,
    StateError,
    decode_revisions,
    encode_revisions,
)
from fibflow.transforms.livedays import DayMemo
from fibflow.transforms.livekeys import join_keys
from fibflow.transforms.livestate import DAYS as DAY_ROWS
from fibflow.transforms.livestate import (
    FEEDS,
    TRADES,
    Base,
    Entries,
    Ring,
    add_up,
    decode_entries,
    encode_entries,
    minute_of_part,
)
from fibflow.transforms.livewindows import without_prices
from fibflow.transforms.partials import as_arrow
from fibflow.transforms.timeframe import MINUTE_US

Bool = npt.NDArray[np.bool_]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

#: A bag of more parts is put together: each part costs on every call.
MOST_PARTS = 48


class News:
    """What has changed of a bucket's open bars, of one kind, since they were let out."""

    def __init__(self) -> None:
        #: When they were let out last by this worker, UTC microseconds.
        self.let_out = 0
        self.untold()

    @property
    def is_there(self) -> bool:
        """Whether open bars changed, or ended."""
        return self.ended or bool(self.changed)

    def untold(self) -> None:
        """Forget what was told: all of them are news."""
        #: The marker of the store that holds them but for the changes below; None: none does.
        self.told: str | None = None
        #: Windows have ended since.
        self.ended = False
        #: The places of the symbols that gained input since.
        self.changed: list[Int64] = []


class Memo:
    """A bucket's state in memory, with the bytes that it was read from. Dropping it loses time only."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        #: False while a call changes it: what it left half done, after an error, is not to be used.
        self.whole = True
        self.head_cell: bytes | None = None
        self.head: Head | None = None
        self.symbols: dict[str, int] = {}
        self.words: Any = pa.array([], pa.string())
        self.parts: list[list[bytes]] = [[] for _ in range(SLOTS)]
        self.ring: Ring | None = None
        self.placed: Placed | None = None
        self.base_cell: bytes | None = None
        self.base: Base | None = None
        self.day_parts: list[bytes] = []
        self.days: Ring | None = None
        self.of_days = DayMemo()
        #: Of minutes and hours, and of days.
        self.news = (News(), News())

    def untold(self) -> None:
        """Forget what was told of open bars."""
        for news in self.news:
            news.untold()


class Bucket:
    """The state of one bucket, for the time of one call; ``begin`` and ``save`` are about what changes it.

    Attributes:
        head, ring, base, days: what the cells hold.
    """

    def __init__(
        self, name: str, grid: Grid, block: int, cells: Cells, memo: Memo, with_days: bool = False
    ) -> None:
        """Read the state.

        Args:
            name: of the options that decide what the state means.
            grid: of the job.
            block: microseconds of a slot of the ring.
            cells: the bucket's.
            memo: what an earlier call kept of this bucket, or a new one.
            with_days: there are windows of several sessions.

        Raises:
            StateError: where the state was written by another release, with other options, or by another
                calendar.
        """
        self._grid, self._block, self._cells, self._memo = grid, block, cells, memo
        cell = cells.read(HEAD)
        if memo.head is None or cell != memo.head_cell or not memo.whole:
            memo.reset()
            memo.head_cell = cell
            memo.head = Head(name) if cell is None else Head.decode(cell)
            if memo.head.plan != name:
                raise StateError(
                    f"the state was made with {memo.head.plan!r}, the job has {name!r}: resume with the old "
                    "options, or start without state"
                )
            _check_count(memo.head, grid)
            memo.symbols = {word: place for place, word in enumerate(memo.head.symbols)}
            memo.words = pa.array(memo.head.symbols, pa.string())
        memo.whole = False
        self.head = memo.head
        self._as_read = self._brief()
        cell = cells.read(BASE)
        if memo.base is None or cell != memo.base_cell:
            memo.base_cell = cell
            memo.base = Base.empty(len(grid.timeframes)) if cell is None else Base.decode(cell)
        self.base = memo.base
        self.ring = self._read_ring()
        self._with_days = with_days
        self.days = self._read_days() if with_days else Ring(DAY_ROWS)
        self._widen()
        memo.whole = True

    @property
    def is_empty(self) -> bool:
        """Whether there is no window that is not final."""
        return not (len(self.ring.minutes) or self.base.starts.any() or len(self.days.minutes))

    def begin(self) -> None:
        """Begin to change the state."""
        self._memo.whole = False

    def _read_ring(self) -> Ring:
        """Return the minutes: what was appended since is added to those in memory, else all is read."""
        memo = self._memo
        if not self.head.feed:
            return Ring(TRADES)
        feed = FEEDS[self.head.feed]
        parts = [self._cells.parts(name) for name in MINUTES]
        if memo.ring is None or any(
            now[: len(old)] != old for now, old in zip(parts, memo.parts, strict=True)
        ):
            memo.ring, memo.placed, memo.parts = Ring(feed), None, [[] for _ in range(SLOTS)]
            memo.untold()
        new = [part for now, old in zip(parts, memo.parts, strict=True) for part in now[len(old) :]]
        memo.parts = parts
        if new:
            memo.ring.widen(len(self.head.symbols))
            entries = [decode_entries(part, feed) for part in new]
            memo.ring.insert(np.unique([each.minute for each in entries]))
            memo.placed = None
            for each in entries:
                memo.ring.add(each)
        return memo.ring

    def _read_days(self) -> Ring:
        """Return the days, as ``_read_ring`` does the minutes."""
        memo = self._memo
        parts = self._cells.parts(DAYS)
        if memo.days is None or parts[: len(memo.day_parts)] != memo.day_parts:
            memo.days, memo.day_parts = Ring(DAY_ROWS), []
            memo.of_days.forget()
            memo.untold()
        new = parts[len(memo.day_parts) :]
        if new:
            memo.days.widen(len(self.head.symbols))
            self._hold_days(memo.days, [decode_entries(part, DAY_ROWS) for part in new])
        memo.day_parts = parts
        return memo.days

    def _hold_days(self, days: Ring, entries: list[Entries]) -> None:
        days.insert(np.unique([each.minute for each in entries]))
        for each in entries:
            days.add(each)
        self._memo.of_days.forget()

    def _brief(self) -> tuple[Any, ...]:
        """Return what differs wherever the head does: words are only added, or all dropped."""
        head = self.head
        return head.feed, head.clock, head.armed, len(head.symbols), len(head.shards), head.through

    def _widen(self) -> None:
        self.ring.widen(len(self.head.symbols))
        if self._with_days:
            self.days.widen(len(self.head.symbols))
        self.base = self._memo.base = self.base.widened(self.ring.width)

    @property
    def placed(self) -> Placed:
        """Where the minutes of the ring lie."""
        if self._memo.placed is None:
            self._memo.placed = self._grid.look_up(self.ring.minutes)
        return self._memo.placed

    @property
    def words(self) -> Any:
        """The symbols, as an array of strings."""
        return self._memo.words

    def start_feed(self, name: str) -> None:
        """Take the kind of the first rows."""
        if not self.head.feed:
            self.head.feed = name
            self.ring = self._memo.ring = Ring(FEEDS[name])
            self._widen()

    def symbol_places(self, words: Any, codes: Int32) -> Int64:
        """Return the place of each row's symbol; a new symbol gets one."""
        present = np.zeros(len(words), np.bool_)
        present[codes] = True
        used = np.flatnonzero(present)
        names: list[Any] = (words if len(used) == len(words) else words.take(as_arrow(used))).to_pylist()
        known = self._memo.symbols
        new = [name for name in names if name not in known]
        if new:
            known.update(zip(new, range(len(known), len(known) + len(new)), strict=True))
            self.head.symbols.extend(new)
            self._memo.words = pa.array(self.head.symbols, pa.string())
            self._widen()
        places = np.zeros(len(words), np.int64)
        places[used] = [known[name] for name in names]
        return places[codes]

    def make_room(self, minutes: Int64) -> bool:
        """Give minutes a place in the ring; return whether any was new."""
        new = self.ring.insert(minutes)
        if new:
            self._memo.placed = None
        return new

    def append(self, entries: list[Entries], keys: list[tuple[int, bytes]]) -> None:
        """Add entries to their minutes, and keys to those seen."""
        touched = set()
        for each in entries:
            self.ring.add(each)
            slot = self._slot(each.minute)
            touched.add(slot)
            part = encode_entries(each, self.ring.feed)
            self._cells.append(MINUTES[slot], part)
            self._memo.parts[slot].append(part)
        for minute, part in keys:
            self._cells.append(SEEN[self._slot(minute)], part)
        for slot in touched:
            rows = self._rows_of(slot)
            if len(self._memo.parts[slot]) > MOST_PARTS + 2 * len(rows):
                self._rewrite(slot, [encode_entries(self.ring.entries(row), self.ring.feed) for row in rows])
                if self.ring.feed is TRADES:
                    keys_of_slot = join_keys(self._cells.parts(SEEN[slot]))
                    self._put(SEEN[slot], keys_of_slot)

    def _slot(self, minute: int) -> int:
        return minute // self._block % SLOTS

    def _rows_of(self, slot: int) -> list[int]:
        own = self.ring.minutes // self._block % SLOTS == slot
        return np.flatnonzero(own).tolist()

    def _rewrite(self, slot: int, parts: list[bytes]) -> None:
        self._put(MINUTES[slot], parts)
        self._memo.parts[slot] = parts

    def _put(self, name: str, parts: list[bytes]) -> None:
        self._cells.clear(name)
        for part in parts:
            self._cells.append(name, part)

    def read_keys(self, minutes: set[int]) -> list[bytes]:
        """Return the parts of the bags that hold the keys of minutes."""
        slots = sorted({self._slot(minute) for minute in minutes})
        return [part for slot in slots for part in self._cells.parts(SEEN[slot])]

    @property
    def of_days(self) -> DayMemo:
        """What is worked out of the days."""
        return self._memo.of_days

    def add_days(self, entries: list[Entries]) -> None:
        """Add days, each as wide as its symbols."""
        if not entries:
            return
        self.days.widen(len(self.head.symbols))
        self._hold_days(self.days, entries)
        for each in entries:
            part = encode_entries(each, DAY_ROWS)
            self._cells.append(DAYS, part)
            self._memo.day_parts.append(part)
        if len(self._memo.day_parts) > MOST_PARTS + 2 * len(self.days.minutes):
            self._put_days()

    def keep_days(self, which: Bool) -> None:
        """Drop the other days."""
        if not which.all():
            self.days.keep(which)
            self._memo.of_days.forget()
            self._put_days()

    def _put_days(self) -> None:
        parts = [encode_entries(self.days.entries(row), DAY_ROWS) for row in range(len(self.days.minutes))]
        self._put(DAYS, parts)
        self._memo.day_parts = parts

    def retire(self, clock: int, lateness: int) -> None:
        """Clear the slots that passed the horizon; windows that are not final keep their totals."""
        ring, base = self.ring, self.base
        blocks = ring.minutes // self._block
        open_from = int(np.searchsorted(ring.minutes, clock - lateness - MINUTE_US, side="right"))
        gone = blocks < blocks[open_from] if open_from < len(blocks) else np.ones(len(blocks), np.bool_)
        stale = np.flatnonzero((base.starts != 0) & (base.ends + lateness <= clock))
        for number in stale.tolist():
            base.reset(number)
        if gone.any():
            self._keep_totals(int(np.count_nonzero(gone)), clock, lateness)
            slots = {self._slot(minute) for minute in ring.minutes[gone].tolist()}
            leaving = set(ring.minutes[gone].tolist())
            ring.keep(~gone)
            self._memo.placed = None
            for slot in sorted(slots):
                live = [part for part in self._memo.parts[slot] if minute_of_part(part) not in leaving]
                self._rewrite(slot, live)
                if ring.feed is TRADES:
                    keys = self._cells.parts(SEEN[slot]) if live else []
                    self._put(SEEN[slot], [part for part in keys if minute_of_part(part) not in leaving])
        if gone.any() or len(stale):
            self._write_base()

    def _keep_totals(self, gone: int, clock: int, lateness: int) -> None:
        """Add the first minutes of the ring to the windows that hold them and are not final."""
        ring, base, placed = self.ring, self.base, self.placed
        day_prices = without_prices(ring.prices[:gone], ~placed.regular[:gone])
        for number, timeframe in enumerate(self._grid.timeframes):
            first = int(np.searchsorted(placed.ends[number, :gone] + lateness, clock, side="right"))
            if first == gone:
                continue
            prices = (ring.prices[:gone] if timeframe.is_intraday else day_prices)[first:]
            sums = ring.sums[first:gone]
            if base.starts[number]:
                prices = np.concatenate((base.prices[number][None], prices))
                sums = np.concatenate((base.sums[number][None], sums))
            base.starts[number], base.ends[number] = (
                placed.starts[number, first],
                placed.ends[number, first],
            )
            base.prices[number], base.sums[number] = add_up(prices, sums)

    def _write_base(self) -> None:
        memo = self._memo
        memo.base_cell = None
        if self.base.starts.any():
            memo.base_cell = self.base.encode(len(self.head.symbols))
            self._cells.write(BASE, memo.base_cell)
        else:
            self._cells.clear(BASE)

    def read_revisions(self) -> Revisions:
        """Return the revisions of windows that are not final."""
        cell = self._cells.read(REVISIONS)
        return {} if cell is None else decode_revisions(cell)

    def write_revisions(self, revisions: Revisions) -> None:
        """Put the revisions of windows that are not final."""
        if revisions:
            self._cells.write(REVISIONS, encode_revisions(revisions))
        else:
            self._cells.clear(REVISIONS)

    def save(self) -> None:
        """End the call: write the head if it changed. A bucket without input forgets its symbols."""
        memo, head = self._memo, self.head
        if head.symbols and self.is_empty:
            head.symbols, head.shards = [], []
            memo.symbols, memo.words = {}, pa.array([], pa.string())
            memo.ring, memo.base, memo.placed, memo.days = None, None, None, None
            memo.untold()
            for news in memo.news:
                news.ended = True
        if self._brief() != self._as_read:
            memo.head_cell = head.encode()
            self._cells.write(HEAD, memo.head_cell)
        memo.whole = True


def _check_count(head: Head, grid: Grid) -> None:
    """Refuse a calendar that counts the sessions of open windows in another way."""
    if head.through is None:
        return
    position = int(grid.calendar.positions(np.array([head.through]))[0])
    if position - grid.calendar.origin != head.counted:
        raise StateError(
            f"calendar {grid.calendar.name} has changed up to {np.datetime64(head.through, 'D')} since the "
            "state was made, and with it the windows of several sessions: make history anew with "
            "pipelines.batch --rewrite-calendar, and start without state, under another name that replaces "
            "this job"
        )
