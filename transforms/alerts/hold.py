"""Prices, and bars, wait until all changes are known that are in force for them. Free of Beam.

A change is in force some seconds after it is asked for: longer than it takes to reach the job, while all goes
well. After a crash, or a stop, prices come as fast as they can be read, and the changes of meanwhile come
beside them; and a new job has prices before it has any alerts. So whoever reads changes says up to which
instant all are told, and prices later than that wait for the next such word. A bucket's prices keep their
order.

Nothing waits for ever: not for a word that does not come, for then nobody can ask for changes either; and not
for a price whose time is ahead of the clock.

All of it goes for bars, by their ends. A table of bars waits whole: those that close together are to be
judged together.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fibflow.transforms import coders
from fibflow.transforms.alerts.paths import split_alerts
from fibflow.transforms.alerts.schema import ALWAYS, KIND, NEVER
from fibflow.transforms.livecells import Cells, StateError
from fibflow.transforms.partials import numbers

HELD, KNOWN = "held", "known"
#: By kind of table, which of the words of ``KNOWN`` it gives.
_TELLS = {b"changes": "changes", b"bar_changes": "changes", b"facts": "facts"}
_THROUGH = b"fibflow.alerts.through"
_FORMAT = 1
_CELL = struct.Struct("<bqqqqqq")


@dataclass(frozen=True)
class HoldPolicy:
    """How long prices wait.

    Attributes:
        ahead_us: so long after the instant up to which all is told nothing else is in force yet.
        patience_us: after which prices wait no more, once alerts have been told at all.
        most: rows of a bucket that wait at most.
    """

    ahead_us: int = 1_500_000
    patience_us: int = 60_000_000
    most: int = 1_000_000


def with_through(table: pa.Table, instant: int) -> pa.Table:
    """Return changes or facts that say: with these and those before them all is told up to an instant.

    Args:
        table: of ``schema.CHANGES``, ``barbook.BAR_CHANGES`` or ``schema.FACTS``; it may have no rows.
        instant: UTC microseconds; of facts any will do.
    """
    return table.replace_schema_metadata({**(table.schema.metadata or {}), _THROUGH: b"%d" % instant})


def through_of(table: pa.Table) -> int | None:
    """Return the instant up to which all is told; None where a table does not say."""
    told = (table.schema.metadata or {}).get(_THROUGH)
    return None if told is None else int(told)


def split_told(rows: pa.Table, buckets: int) -> Iterator[tuple[int, pa.Table]]:
    """Yield (bucket, rows) as ``split_alerts`` does; what says up to when all is told goes to all buckets."""
    if through_of(rows) is None:
        yield from split_alerts(rows, buckets)
    else:
        of_bucket = dict(split_alerts(rows, buckets))
        nothing = rows.slice(0, 0)
        for bucket in range(buckets):
            yield bucket, of_bucket.get(bucket, nothing)


class _Known(NamedTuple):
    """The cell ``KNOWN``; instants in UTC microseconds.

    Attributes:
        changes, facts: up to when these are told.
        since: when prices began to wait; ``NEVER``: none do.
        given_up: what ``changes`` was when prices had waited for too long; ``ALWAYS`` where they had not.
        rows, parts: that wait.
    """

    changes: int = NEVER
    facts: int = NEVER
    since: int = NEVER
    given_up: int = ALWAYS
    rows: int = 0
    parts: int = 0

    def encode(self) -> bytes:
        return _CELL.pack(_FORMAT, *self)

    @classmethod
    def decode(cls, cell: bytes | None) -> _Known:
        if cell is None:
            return cls()
        if cell[0] != _FORMAT:
            raise StateError(
                f"state cell {KNOWN} of alerts has format {cell[0]}, this release reads {_FORMAT}: resume "
                "with the release that wrote it, or start without state"
            )
        return cls(*_CELL.unpack(cell)[1:])


class Hold:
    """The prices of one bucket that wait, for one call.

    Args:
        policy: how long they do.
        cells: ``HELD``, a bag of tables, and ``KNOWN``.
        now: UTC microseconds.
    """

    #: Whether facts are told too.
    _has_facts = True

    def __init__(self, policy: HoldPolicy, cells: Cells, now: int) -> None:
        self._policy, self._cells, self._now = policy, cells, now
        self._known = _Known.decode(cells.read(KNOWN))

    def take(self, table: pa.Table) -> list[pa.Table]:
        """Take a table, and return those whose turn it is, in order."""
        known = self._known
        told = _TELLS.get((table.schema.metadata or {}).get(KIND, b""))
        if told is None:
            ready = self._take_rows(table)
        else:
            through = through_of(table)
            ready = [table]
            if through is not None:
                self._known = known._replace(**{told: through})
                if known.parts and self._is_late:
                    self._give_facts_up()
                ready += self._let_out()
        if self._known != known:
            self._cells.write(KNOWN, self._known.encode())
        return ready

    def _take_rows(self, rows: pa.Table) -> list[pa.Table]:
        known, policy = self._known, self._policy
        if not known.parts:
            early = self._ready(rows)
            if early == len(rows):
                return [rows]
            self._known = known._replace(since=self._now)
            self._put(rows.slice(early))
            return [rows.slice(0, early)] if early else []
        self._put(rows)
        if not self._is_late and self._known.rows < policy.most:
            return []
        self._known = self._known._replace(given_up=known.changes)
        self._give_facts_up()
        return self._let_out()

    def _give_facts_up(self) -> None:
        """Wait no more for facts: those that do not come now may never."""
        self._known = self._known._replace(facts=max(self._known.facts, self._now))

    @property
    def _is_late(self) -> bool:
        """Whether some have waited for too long."""
        known = self._known
        return known.changes != NEVER and self._now >= known.since + self._policy.patience_us

    def _ready(self, rows: pa.Table) -> int:
        """Return how many of the first rows need not wait."""
        late = self._must_wait(numbers(rows, "ts"))
        return int(late.argmax()) if late.any() else len(rows)

    def _must_wait(self, instants: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Return which instants are later than what is told; shape (n,)."""
        known = self._known
        if known.given_up == known.changes:
            return np.zeros(len(instants), np.bool_)
        bound = known.changes + self._policy.ahead_us
        if known.changes == NEVER or (self._has_facts and known.facts == NEVER):
            bound = NEVER
        # One that is ahead of the clock would wait for as long as it is.
        return (instants > bound) & (instants <= self._now)

    def _put(self, rows: pa.Table) -> None:
        known = self._known
        self._cells.append(HELD, struct.pack("<q", known.parts) + coders.encode_table(rows))
        self._known = known._replace(rows=known.rows + len(rows), parts=known.parts + 1)

    def _let_out(self) -> list[pa.Table]:
        known = self._known
        if not known.parts:
            return []
        parts = sorted(self._cells.parts(HELD), key=lambda part: struct.unpack_from("<q", part)[0])
        held = [coders.decode_table(part[8:]) for part in parts]
        early = [self._ready(rows) for rows in held]
        stuck = next((at for at, rows in enumerate(held) if early[at] < len(rows)), len(held))
        ready = held[:stuck]
        if stuck < len(held) and early[stuck]:
            ready.append(held[stuck].slice(0, early[stuck]))
        if not ready:
            return []
        rest = [held[stuck].slice(early[stuck]), *held[stuck + 1 :]] if stuck < len(held) else []
        self._cells.clear(HELD)
        self._known = known._replace(since=self._now if rest else NEVER, rows=0, parts=0)
        for rows in rest:
            self._put(rows)
        return ready


class BarHold(Hold):
    """The bars of one bucket that wait, for one call.

    Args:
        policy, cells, now: as of ``Hold``.
        has_facts: whether facts are told too.
    """

    def __init__(self, policy: HoldPolicy, cells: Cells, now: int, has_facts: bool) -> None:
        super().__init__(policy, cells, now)
        self._has_facts = has_facts

    def _ready(self, rows: pa.Table) -> int:
        return 0 if self._must_wait(numbers(rows, "end")).any() else len(rows)
