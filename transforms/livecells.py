"""The cells of a bucket of live bars: which there are, and the small ones.

Minutes lie in a ring of slots, a bag each: every element appends what it adds to a minute, so that little is
written; a bag of many parts is put together now and then. The keys of trades lie in a ring of bags of their
own, which is read only where a trade may be a duplicate.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

#: Of each cell's content, in its first byte.
FORMAT = 1
#: Slots of the ring; a slot is as many minutes long as lateness needs. Part of the job's graph.
SLOTS = 5
HEAD, BASE, REVISIONS = "head", "base", "revisions"
#: The days of the sessions that windows of several sessions hold: of official history, and of ticks.
DAYS = "days"
MINUTES = tuple(f"minutes_{slot}" for slot in range(SLOTS))
SEEN = tuple(f"seen_{slot}" for slot in range(SLOTS))

#: Before any instant.
NEVER = int(np.iinfo(np.int64).min)


class StateError(RuntimeError):
    """State cannot be read by this release or with these options."""


class Cells(Protocol):
    """The cells of one bucket: values (HEAD, BASE, REVISIONS) and bags (MINUTES, SEEN, DAYS)."""

    def read(self, name: str) -> bytes | None:
        """Return a value, None where there is none."""
        ...

    def write(self, name: str, value: bytes) -> None:
        """Put a value."""
        ...

    def parts(self, name: str) -> list[bytes]:
        """Return what a bag holds, in the order of appending."""
        ...

    def append(self, name: str, part: bytes) -> None:
        """Add to a bag."""
        ...

    def clear(self, name: str) -> None:
        """Empty a cell of either kind."""
        ...


def check_format(cell: bytes, name: str) -> None:
    """Refuse a cell that another release wrote.

    Raises:
        StateError: naming both formats.
    """
    if cell[0] != FORMAT:
        raise StateError(
            f"state cell {name} has format {cell[0]}, this release reads {FORMAT}: resume with the release "
            "that wrote it and drain the job, or start without state"
        )


@dataclass
class Head:
    """What a bucket is about.

    Attributes:
        plan: what the state was made with.
        feed: ``trades`` or ``minutes``; empty before the first row.
        clock: the latest timer that fired, UTC microseconds; ``NEVER`` before.
        armed: when the timer is set for; ``NEVER`` for none.
        symbols, shards: the words that columns and registers point into.
        through: the last session of official history when the job began, days since 1970; None until that
            history is in.
        counted: that session's number; another one tells of a changed calendar.
    """

    plan: str
    feed: str = ""
    clock: int = NEVER
    armed: int = NEVER
    symbols: list[str] = field(default_factory=list)
    shards: list[str] = field(default_factory=list)
    through: int | None = None
    counted: int | None = None

    def encode(self) -> bytes:
        """Return the cell."""
        return bytes((FORMAT,)) + json.dumps(vars(self), separators=(",", ":")).encode()

    @classmethod
    def decode(cls, cell: bytes) -> Head:
        """Return the head of a cell."""
        check_format(cell, HEAD)
        return cls(**json.loads(cell[1:]))


#: How often a published bar changed, where it did: by (timeframe, start) of the window, of each symbol.
Revisions = dict[tuple[int, int], dict[int, int]]


def encode_revisions(revisions: Revisions) -> bytes:
    """Return the cell."""
    rows = [
        (number, start, symbol, revision)
        for (number, start), of_symbol in revisions.items()
        for symbol, revision in of_symbol.items()
    ]
    return bytes((FORMAT,)) + np.array(rows, np.int64).tobytes()


def decode_revisions(cell: bytes) -> Revisions:
    """Return the revisions of a cell."""
    check_format(cell, REVISIONS)
    found: Revisions = {}
    for number, start, symbol, revision in np.frombuffer(cell[1:], np.int64).reshape(-1, 4).tolist():
        found.setdefault((number, start), {})[symbol] = revision
    return found
