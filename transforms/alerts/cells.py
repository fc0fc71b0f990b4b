"""The state of a bucket of alerts in its cells, and how it stays in memory from bundle to bundle.

- ``HEAD``: a few words: what the state was made with, how much was appended, and a stamp that follows
  from all that was ever written, so that equal heads mean equal states: who has the state in memory reads
  nothing else.
- ``NAMES``: the symbols; everything else names them by their place. ``LAST``: their last prices, written
  with each batch: some kilobytes. ``FACTS``: closes and splits.
- ``ALERTS`` and ``MOVES``: bags. Each change adds its rows to the one, each batch that fires or arms
  something what moved to the other. Now and then the rows that still count, as they are, take the place
  of both.

Bags may come back in any order: each part says its number.

A version that is over is forgotten with its row; ``HEAD`` keeps the revision up to which that may have been.
The feed of changes tells each version once, in order: one up to there that it told again is passed over.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fibflow.transforms.alerts.book import LAST as LAST_ROW
from fibflow.transforms.alerts.book import Book
from fibflow.transforms.alerts.facts import FACT
from fibflow.transforms.alerts.forgotten import new_of
from fibflow.transforms.alerts.rows import MOVE, ROW, Rows
from fibflow.transforms.alerts.schema import NEVER
from fibflow.transforms.calendar import TradingCalendar
from fibflow.transforms.livecells import Cells, StateError
from fibflow.transforms.timeframe import IntradayAnchor

#: Of each cell's content, in its first byte; parts of bags too.
FORMAT = 1
HEAD, NAMES, LAST, FACTS = "head", "names", "last", "facts"
ALERTS, MOVES = "alerts", "moves"
VALUES, BAGS = (HEAD, NAMES, LAST, FACTS), (ALERTS, MOVES)
#: Rows of a part, at most: a message of a runner is not to grow with the bucket.
_ROWS_A_PART = 1 << 13
#: Both bags are made anew when more than this was appended, beside half of what they held before.
MOST_BYTES = 1 << 16
MOST_PARTS = 512
_CODEC = pa.Codec("zstd", 1)
_NUMBER = np.dtype("<i8")


class Head:
    """The cell ``HEAD``.

    Attributes:
        plan: what the state was made with.
        stamp: follows from all that was written.
        parts: how many were ever appended: the number of the next.
        whole: bytes of the rows when the bags were last made anew.
        bytes_since, parts_since: what was appended since.
        revision: the highest of all changes that came.
        forgotten: what that was when the bags were last made anew.
    """

    def __init__(
        self,
        plan: str,
        stamp: str = "",
        parts: int = 0,
        whole: int = 0,
        bytes_since: int = 0,
        parts_since: int = 0,
        revision: int = NEVER,
        forgotten: int = NEVER,
    ) -> None:
        self.plan, self.stamp, self.parts = plan, stamp, parts
        self.whole, self.bytes_since, self.parts_since = whole, bytes_since, parts_since
        self.revision, self.forgotten = revision, forgotten

    def encode(self) -> bytes:
        """Return the cell."""
        return bytes((FORMAT,)) + json.dumps(vars(self), separators=(",", ":")).encode()

    @classmethod
    def decode(cls, cell: bytes) -> Head:
        """Return the head of a cell."""
        return cls(**json.loads(_content(cell, HEAD)))

    @property
    def is_long(self) -> bool:
        """Whether so much was appended that the bags are to be made anew."""
        return self.bytes_since > MOST_BYTES + self.whole // 2 or self.parts_since > MOST_PARTS


@dataclass(frozen=True)
class Plan:
    """What all buckets of a job share.

    Attributes:
        calendar: the exchange's.
        anchor: where bars of the frequency ``bar`` are counted from.
        buckets: into how many keys symbols are hashed; fixed for the life of a job.
    """

    calendar: TradingCalendar
    anchor: IntradayAnchor = IntradayAnchor.MIDNIGHT
    buckets: int = 16

    def __post_init__(self) -> None:
        if self.buckets < 1:
            raise ValueError(f"{self.buckets} buckets: give 1 or more")

    @property
    def name(self) -> str:
        """The options that decide what state means."""
        return f"{self.calendar.name} {self.anchor} {self.buckets} buckets"


class Memo:
    """A bucket in memory, with the head that it was read by. Dropping it loses time only."""

    def __init__(self) -> None:
        #: False while a call changes it: what it left half done, after an error, is not to be used.
        self.whole = True
        self.head_cell: bytes | None = None
        self.book: Book | None = None
        #: The latest day for which it was looked for rows that are over.
        self.swept = 0


class Keeper:
    """Takes a bucket out of its cells, for one call, and writes what changes."""

    def __init__(self, plan: Plan, cells: Cells, memo: Memo) -> None:
        """Read the state, unless the memo holds it.

        Raises:
            StateError: where the state was written by another release, or with other options.
        """
        self._cells, self._memo = cells, memo
        cell = cells.read(HEAD)
        self._head = Head(plan.name) if cell is None else Head.decode(cell)
        if self._head.plan != plan.name:
            raise StateError(
                f"the state of alerts was made with {self._head.plan!r}, the job has {plan.name!r}: resume "
                "with the old options, or start without state"
            )
        if memo.book is None or not memo.whole or cell != memo.head_cell:
            memo.whole = False
            memo.book = self._read(plan)
            memo.head_cell, memo.swept, memo.whole = cell, 0, True
        self.book = memo.book
        self._names = len(self.book.names)
        self._is_written = False
        self._stamp = hashlib.blake2b(self._head.stamp.encode(), digest_size=8)

    def begin(self) -> None:
        """Begin to change the state."""
        self._memo.whole = False

    def _read(self, plan: Plan) -> Book:
        book = Book(plan.calendar, plan.anchor)
        cell = self._cells.read(NAMES)
        if cell is not None:
            book.add_names(json.loads(_content(cell, NAMES)))
        cell = self._cells.read(LAST)
        if cell is not None:
            last = np.frombuffer(_content(cell, LAST), LAST_ROW)
            book.last[: len(last)] = last
        cell = self._cells.read(FACTS)
        if cell is not None:
            book.facts.take(np.frombuffer(_content(cell, FACTS), FACT))
        book.add_rows(self._join(ALERTS, ROW))
        book.take_moves(self._join(MOVES, MOVE))
        return book

    def _join(self, name: str, kind: np.dtype) -> Rows:
        parts = sorted(map(_numbered, (_content(part, name) for part in self._cells.parts(name))))
        return np.concatenate([np.zeros(0, kind), *(_unpack(part, kind) for _, part in parts)])

    # --- writing --------------------------------------------------------------------------------------------

    def put_last(self) -> None:
        """Write the last prices."""
        self._put(LAST, self.book.last.tobytes())

    def put_facts(self) -> None:
        """Write closes and splits."""
        self._put(FACTS, self.book.facts.records().tobytes())

    def append(self, name: str, rows: npt.NDArray[np.void]) -> None:
        """Add rows of ``ROW`` to ``ALERTS``, or of ``MOVE`` to ``MOVES``."""
        head = self._head
        for first in range(0, len(rows), _ROWS_A_PART):
            part = _pack(rows[first : first + _ROWS_A_PART])
            part = bytes((FORMAT,)) + head.parts.to_bytes(_NUMBER.itemsize, "little") + part
            self._cells.append(name, part)
            self._note(part)
            head.parts += 1
            head.parts_since += 1
            head.bytes_since += len(part)

    def new_of(self, changes: pa.Table) -> pa.Table:
        """Return the changes that are not among those that may be forgotten, and take note of all."""
        return new_of(changes, self._head)

    def sweep(self, day: int) -> None:
        """Look, once a day, whether many rows are over, and forget them then."""
        memo, rows = self._memo, len(self.book.rows)
        if day > memo.swept:
            memo.swept = day
            if 4 * int(np.count_nonzero(self.book.dead())) > rows:
                self._renew()

    def save(self) -> None:
        """End the call: make the bags anew where they are long; write the head where anything was written."""
        book, memo, head = self.book, self._memo, self._head
        if len(book.names) > self._names:
            self._put(NAMES, json.dumps(book.names, separators=(",", ":")).encode())
        if head.is_long:
            self._renew()
        if self._is_written:
            head.stamp = self._stamp.hexdigest()
            memo.head_cell = head.encode()
            self._cells.write(HEAD, memo.head_cell)
        memo.whole = True

    def _renew(self) -> None:
        """Forget rows that are over, and put the others in the place of all that was appended."""
        book, head = self.book, self._head
        book.drop(book.dead())
        for name in BAGS:
            self._cells.clear(name)
        head.bytes_since = head.parts_since = 0
        head.forgotten = head.revision
        self.append(ALERTS, book.rows)
        head.whole, head.bytes_since, head.parts_since = head.bytes_since, 0, 0

    def _put(self, name: str, content: bytes) -> None:
        cell = bytes((FORMAT,)) + content
        self._cells.write(name, cell)
        self._note(cell)

    def _note(self, written: bytes) -> None:
        self._stamp.update(written)
        self._is_written = True


def _content(cell: bytes, name: str) -> bytes:
    """Return what a cell holds.

    Raises:
        StateError: where another release wrote it.
    """
    if cell[0] != FORMAT:
        raise StateError(
            f"state cell {name} of alerts has format {cell[0]}, this release reads {FORMAT}: resume with the "
            "release that wrote it, or start without state"
        )
    return cell[1:]


def _numbered(part: bytes) -> tuple[int, bytes]:
    width = _NUMBER.itemsize
    return int.from_bytes(part[:width], "little"), part[width:]


def _pack(rows: npt.NDArray[np.void]) -> bytes:
    """Return rows column by column, compressed: most columns hold few values."""
    plain = len(rows).to_bytes(4, "little")
    columns = b"".join(np.ascontiguousarray(rows[name]).tobytes() for name in rows.dtype.names or ())
    return plain + _CODEC.compress(columns, asbytes=True)


def _unpack(part: bytes, kind: np.dtype) -> Rows:
    count = int.from_bytes(part[:4], "little")
    columns = _CODEC.decompress(part[4:], decompressed_size=count * kind.itemsize, asbytes=True)
    rows = np.zeros(count, kind)
    offset = 0
    for name in kind.names or ():
        rows[name] = np.frombuffer(columns, kind[name], count, offset)
        offset += count * kind[name].itemsize
    return rows
