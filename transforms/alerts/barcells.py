"""The state of a bucket of alerts on bars in its cells, and how it stays in memory from bundle to bundle.

- ``HEAD``: a few words: what the state was made with, how much was appended, and a stamp that follows from
  all that was ever written, so that equal heads mean equal states: who has the state in memory reads nothing
  else.
- ``NAMES``: the symbols of alerts. ``SPLITS``: of all symbols. ``ASKED``: of which series how many bars were
  asked for.
- ``ALERTS``, ``TERMS``, ``MOVES`` and ``BARS``: bags; each change adds to them. Now and then what still
  counts takes the place of all four.

Bags may come back in any order: each part says its number.

A version that is over is forgotten with its row; ``HEAD`` keeps the revision up to which that may have been.
The feed of changes tells each version once, in order: one up to there that it told again is passed over.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fibflow.transforms.alerts.barbook import MOVE, TERM, VERSION, Book
from fibflow.transforms.alerts.barshelf import ROW, Shelf
from fibflow.transforms.alerts.barsplits import Splits
from fibflow.transforms.alerts.forgotten import new_of
from fibflow.transforms.alerts.schema import NEVER
from fibflow.transforms.calendar import TradingCalendar
from fibflow.transforms.livecells import Cells, StateError
from fibflow.transforms.timeframe import MINUTE_US, Timeframe

Rows = npt.NDArray[np.void]

#: Of each cell's content, in its first byte; parts of bags too.
FORMAT = 1
HEAD, NAMES, SPLITS, ASKED = "head", "names", "splits", "asked"
ALERTS, TERMS, MOVES, BARS = "alerts", "terms", "moves", "bars"
VALUES, BAGS = (HEAD, NAMES, SPLITS, ASKED), (ALERTS, TERMS, MOVES, BARS)
_KINDS = {ALERTS: VERSION, TERMS: TERM, MOVES: MOVE, BARS: ROW}
#: Rows of a part, at most: a message of a runner is not to grow with the bucket.
_ROWS_A_PART = 1 << 13
#: The bags are made anew when more than this was appended, beside half of what they held before.
_BYTES = 1 << 16
_PARTS = 512
_CODEC = pa.Codec("zstd", 1)
_NUMBER = 8


@dataclass
class Head:
    """The cell ``HEAD``.

    Attributes:
        plan: what the state was made with.
        stamp: follows from all that was written.
        parts: how many were ever appended: the number of the next.
        whole: bytes of the rows when the bags were last made anew.
        bytes_since, parts_since: what was appended since.
        asked_end: up to which end bars were asked for last, UTC microseconds.
        revision: the highest of all changes that came.
        forgotten: what that was when the bags were last made anew.
    """

    plan: str
    stamp: str = ""
    parts: int = 0
    whole: int = 0
    bytes_since: int = 0
    parts_since: int = 0
    asked_end: int = NEVER
    revision: int = NEVER
    forgotten: int = NEVER

    def encode(self) -> bytes:
        """Return the cell."""
        return bytes((FORMAT,)) + json.dumps(vars(self), separators=(",", ":")).encode()

    @property
    def is_long(self) -> bool:
        """Whether so much was appended that the bags are to be made anew."""
        return self.bytes_since > _BYTES + self.whole // 2 or self.parts_since > _PARTS


@dataclass(frozen=True)
class Plan:
    """What all buckets of a job share.

    Attributes:
        calendar: the exchange's.
        timeframes: of the bars that the job makes.
        buckets: into how many keys symbols are hashed; fixed for the life of a job.
        lateness_us: for how long after its end a bar may be told again, microseconds.
    """

    calendar: TradingCalendar
    timeframes: tuple[Timeframe, ...]
    buckets: int = 16
    lateness_us: int = 15 * MINUTE_US

    def __post_init__(self) -> None:
        if self.buckets < 1:
            raise ValueError(f"{self.buckets} buckets: give 1 or more")

    @property
    def names(self) -> tuple[str, ...]:
        """The timeframes' names; a timeframe's number is its place."""
        return tuple(each.name for each in sorted(set(self.timeframes)))

    def told_late(self, number: int) -> int:
        """Return how many bars of a timeframe may have ended before one that is told again now."""
        minutes = Timeframe.parse(self.names[number]).minutes
        return 1 + (self.lateness_us // (minutes * MINUTE_US) if minutes else 0)

    @property
    def name(self) -> str:
        """The options that decide what state means."""
        return f"{self.calendar.name} {','.join(self.names)} {self.buckets} buckets"


@dataclass
class Held:
    """A bucket in memory.

    Attributes:
        book: its alerts.
        shelf: its bars.
        splits: of its symbols.
        asked: of each series how many bars were asked for; shape (series,).
        again: which are to be asked for again; shape (series,).
    """

    book: Book
    shelf: Shelf = field(default_factory=Shelf)
    splits: Splits = field(default_factory=Splits)
    asked: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    again: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))

    def widen(self) -> None:
        """Make room for the bars of all symbols, as many as their alerts need."""
        series = len(self.book.names) * len(self.book.timeframes)
        self.shelf.widen(series)
        more = series - len(self.asked)
        self.asked = np.concatenate((self.asked, np.zeros(more, np.int64)))
        self.again = np.concatenate((self.again, np.zeros(more, np.bool_)))
        np.maximum.at(self.shelf.keep, *self.book.needs())

    def sweep(self) -> None:
        """Forget alerts that are over, and bars that no alert needs."""
        self.book.sweep(self.shelf.mark_end)
        self.shelf.keep[:] = 0
        self.widen()
        self.shelf.trim()
        unwanted = self.shelf.keep == 0
        self.asked[unwanted], self.again[unwanted] = 0, False


class Memo:
    """A bucket in memory, with the head that it was read by. Dropping it loses time only."""

    def __init__(self) -> None:
        #: False while a call changes it: what it left half done, after an error, is not to be used.
        self.whole = True
        self.head_cell: bytes | None = None
        self.held: Held | None = None


class Keeper:
    """Takes a bucket out of its cells, for one call, and writes what changes."""

    def __init__(self, plan: Plan, cells: Cells, memo: Memo) -> None:
        """Read the state, unless the memo holds it.

        Raises:
            StateError: where the state was written by another release, or with other options.
        """
        self._cells, self._memo = cells, memo
        cell = cells.read(HEAD)
        self.head = Head(plan.name) if cell is None else Head(**json.loads(_content(cell, HEAD)))
        if self.head.plan != plan.name:
            raise StateError(
                f"the state of alerts on bars was made with {self.head.plan!r}, the job has {plan.name!r}: "
                "resume with the old options, or start without state"
            )
        if memo.held is None or not memo.whole or cell != memo.head_cell:
            memo.whole = False
            memo.held = self._read(plan)
            memo.head_cell, memo.whole = cell, True
        self.held = memo.held
        self._stamp = hashlib.blake2b(self.head.stamp.encode(), digest_size=8)

    def begin(self) -> None:
        """Begin to change the state."""
        self._memo.whole = False

    def leave(self) -> None:
        """End a call that changed nothing."""
        self._memo.whole = True

    def _read(self, plan: Plan) -> Held:
        held = Held(Book(plan.names))
        if self._memo.head_cell is None and self._cells.read(HEAD) is None:
            return held
        held.book.add_names(self._json(NAMES, []))
        held.splits.days = {
            name: {int(day): factor for day, factor in own.items()}
            for name, own in self._json(SPLITS, {}).items()
        }
        held.book.add(self._join(ALERTS), self._join(TERMS))
        held.book.take_moves(self._join(MOVES))
        held.widen()
        held.shelf.merge(self._join(BARS))
        for series, count, again in self._json(ASKED, []):
            held.asked[series], held.again[series] = count, again
        return held

    def _json(self, name: str, default: Any) -> Any:
        cell = self._cells.read(name)
        return default if cell is None else json.loads(_content(cell, name))

    def _join(self, name: str) -> Rows:
        kind = _KINDS[name]
        parts = sorted(_numbered(_content(part, name)) for part in self._cells.parts(name))
        return np.concatenate([np.zeros(0, kind), *(_unpack(part, kind) for _, part in parts)])

    # --- writing --------------------------------------------------------------------------------------------

    def put_names(self) -> None:
        """Write the symbols."""
        self._put(NAMES, self.held.book.names)

    def put_splits(self) -> None:
        """Write the splits."""
        self._put(SPLITS, self.held.splits.days)

    def put_asked(self) -> None:
        """Write what was asked for."""
        held = self.held
        series = np.flatnonzero((held.asked > 0) | held.again)
        told = zip(series.tolist(), held.asked[series].tolist(), held.again[series].tolist(), strict=True)
        self._put(ASKED, list(told))

    def append(self, name: str, rows: Rows) -> None:
        """Add rows to a bag."""
        head = self.head
        for first in range(0, len(rows), _ROWS_A_PART):
            part = _pack(rows[first : first + _ROWS_A_PART])
            part = bytes((FORMAT,)) + head.parts.to_bytes(_NUMBER, "little") + part
            self._cells.append(name, part)
            self._stamp.update(part)
            head.parts += 1
            head.parts_since += 1
            head.bytes_since += len(part)

    def new_of(self, changes: pa.Table) -> pa.Table:
        """Return the changes that are not among those that may be forgotten, and take note of all."""
        return new_of(changes, self.head)

    def save(self) -> None:
        """End the call: make the bags anew where they are long, and write the head."""
        memo, head = self._memo, self.head
        if head.is_long:
            self._renew()
        head.stamp = self._stamp.hexdigest()
        memo.head_cell = head.encode()
        self._cells.write(HEAD, memo.head_cell)
        memo.whole = True

    def _renew(self) -> None:
        """Forget what is over, and put the rest in the place of all that was appended."""
        held, head = self.held, self.head
        held.sweep()
        for name in BAGS:
            self._cells.clear(name)
        head.bytes_since = head.parts_since = 0
        head.forgotten = head.revision
        self.append(ALERTS, held.book.versions)
        self.append(TERMS, held.book.terms)
        self.append(BARS, held.shelf.rows())
        self.put_asked()
        head.whole, head.bytes_since, head.parts_since = head.bytes_since, 0, 0

    def _put(self, name: str, content: Any) -> None:
        cell = bytes((FORMAT,)) + json.dumps(content, separators=(",", ":")).encode()
        self._cells.write(name, cell)
        self._stamp.update(cell)


def _content(cell: bytes, name: str) -> bytes:
    """Return what a cell holds.

    Raises:
        StateError: where another release wrote it.
    """
    if cell[0] != FORMAT:
        raise StateError(
            f"state cell {name} of alerts on bars has format {cell[0]}, this release reads {FORMAT}: resume "
            "with the release that wrote it, or start without state"
        )
    return cell[1:]


def _numbered(part: bytes) -> tuple[int, bytes]:
    return int.from_bytes(part[:_NUMBER], "little"), part[_NUMBER:]


def _pack(rows: Rows) -> bytes:
    """Return rows column by column, compressed: most columns hold few values."""
    columns = b"".join(np.ascontiguousarray(rows[name]).tobytes() for name in rows.dtype.names or ())
    return len(rows).to_bytes(4, "little") + _CODEC.compress(columns, asbytes=True)


def _unpack(part: bytes, kind: np.dtype) -> Rows:
    count = int.from_bytes(part[:4], "little")
    columns = _CODEC.decompress(part[4:], decompressed_size=count * kind.itemsize, asbytes=True)
    rows = np.zeros(count, kind)
    offset = 0
    for name in kind.names or ():
        width = kind[name].itemsize * count
        rows[name] = np.frombuffer(columns[offset : offset + width], kind[name].base).reshape(
            rows[name].shape
        )
        offset += width
    return rows
