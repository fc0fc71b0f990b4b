"""Minutes that are missing in regular hours, of symbols that trade nearly every minute."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fibflow.transforms.calendar import Int64
from fibflow.transforms.quality.days import SELDOM
from fibflow.transforms.quality.span import MINUTE_US, Bool, Span, grown

#: The part of the minutes before the window from which on a symbol is one that trades every minute.
DENSE = 0.95
#: Sessions with minutes before the window that a symbol needs to be judged.
LEAST = 3
#: Of these sessions the worst do not count: one in so many, and at least one.
TRIMMED = 5
#: The part of the judged symbols that lack a minute from which on it is the market's, not theirs.
OUTAGE = 0.5


class Runs(NamedTuple):
    """Minutes that are missing one after another; shape (n,) each.

    Attributes:
        symbol: the row.
        session: the place in the span.
        minute: of the regular session, the first one that is missing.
        length: how many are.
    """

    symbol: Int64
    session: Int64
    minute: Int64
    length: Int64


class Judged(NamedTuple):
    """What there is to say of minutes.

    Attributes:
        dense: the symbols that were judged, shape (symbols,).
        runs: what they lack.
        outages: what most of them lack; ``symbol`` is how many.
    """

    dense: Bool
    runs: Runs
    outages: Runs


class MinuteGrid:
    """A matrix of symbols and the minutes of regular hours, which grows as rows are seen.

    Args:
        span: the sessions.
    """

    def __init__(self, span: Span) -> None:
        self.span = span
        self.starts = np.concatenate(([0], np.cumsum(span.minutes)))
        self._cells: Bool = np.zeros((64, int(self.starts[-1])), np.bool_)
        self._any: Bool = np.zeros((64, len(span)), np.bool_)

    def see(self, rows: Int64, ts: Int64) -> None:
        """Take minutes in.

        Args:
            rows: the symbol's row of each, -1 for none; shape (n,).
            ts: its start, UTC microseconds; minutes of other sessions and hours count for nothing here.
        """
        places = self.span.places_at(ts)
        good = (places >= 0) & (rows >= 0)
        rows, places, ts = rows[good], places[good], ts[good]
        if not len(rows):
            return
        need = int(rows.max()) + 1
        self._cells, self._any = grown(self._cells, need), grown(self._any, need)
        self._any[rows, places] = True
        minute = (ts - self.span.opens[places]) // MINUTE_US
        regular = (minute >= 0) & (minute < self.span.minutes[places])
        self._cells[rows[regular], self.starts[places[regular]] + minute[regular]] = True

    def sessions(self, symbols: int) -> Bool:
        """Where a symbol has any minute, in extended hours too; shape (symbols, sessions)."""
        return self._all(self._any, symbols)

    def judge(self, alive: Bool) -> Judged:
        """Return what is missing in the window.

        A symbol that trades nearly every minute now and then misses some: by how many of them it lacked
        before, the worst sessions left out, a run of such minutes must be most unlikely to be told.

        Args:
            alive: where a symbol should have minutes, shape (symbols, sessions).
        """
        cells = self._all(self._cells, len(alive))
        counts = np.add.reduceat(cells, self.starts[:-1], axis=1, dtype=np.int64)
        missed, enough = self._usual(counts[:, : self.span.judged])
        dense = enough & (missed <= 1 - DENSE)
        parts, outages = [], []
        for place in range(self.span.judged, len(self.span)):
            own = np.flatnonzero(dense & alive[:, place])
            lacks = ~cells[own, self.starts[place] : self.starts[place + 1]]
            found = _runs(own, lacks, place)
            chance = lacks.shape[1] * missed[found.symbol] ** found.length
            parts.append(Runs(*(column[chance < SELDOM] for column in found)))
            outages.append(_outages(lacks, place))
        return Judged(dense, _joined(parts), _joined(outages))

    def _usual(self, counts: Int64) -> tuple[npt.NDArray[np.float64], Bool]:
        """The part of the minutes that each symbol lacked before the window, and whether that is known."""
        had = counts > 0
        known = had.sum(1)
        minutes = self.span.minutes[: counts.shape[1]]
        share = np.where(had, 1 - counts / minutes, np.inf)
        order = np.argsort(share, axis=1, kind="stable")
        kept = np.arange(counts.shape[1]) < (known - np.maximum(1, known // TRIMMED))[:, None]
        of_those = np.take_along_axis(counts, order, 1)
        total = np.where(kept, minutes[order], 0).sum(1)
        found = 1 - np.where(kept, of_those, 0).sum(1) / np.maximum(total, 1)
        return np.clip(found, 0, 1), known >= LEAST

    @staticmethod
    def _all(matrix: npt.NDArray[np.bool_], symbols: int) -> Bool:
        return grown(matrix, symbols)[:symbols]


def _runs(own: Int64, lacks: Bool, place: int) -> Runs:
    """The runs in which rows of a matrix hold."""
    edges = np.zeros((lacks.shape[0], lacks.shape[1] + 2), np.int8)
    edges[:, 1:-1] = lacks
    steps = np.diff(edges, axis=1)
    row, start = np.nonzero(steps == 1)
    _, stop = np.nonzero(steps == -1)
    return Runs(
        own[row], np.full(len(row), place, np.int64), start.astype(np.int64), (stop - start).astype(np.int64)
    )


def _outages(lacks: Bool, place: int) -> Runs:
    """The runs of minutes that most symbols lack; of each, how many lack all of it."""
    many = lacks.sum(0) >= max(2.0, OUTAGE * len(lacks))
    found = _runs(np.zeros(1, np.int64), many[None, :], place)
    counts = [
        int(lacks[:, start : start + length].all(1).sum())
        for start, length in zip(found.minute.tolist(), found.length.tolist(), strict=True)
    ]
    return found._replace(symbol=np.array(counts, np.int64))


def _joined(parts: list[Runs]) -> Runs:
    empty = np.zeros(0, np.int64)
    return Runs(*(np.concatenate([empty, *columns]) for columns in zip(*parts, strict=True)))
