"""Single symbols: which sessions they lack, asked for with one call a symbol, or a session."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from fibflow.io.vendor import presence as cells
from fibflow.io.vendor.changes import filled
from fibflow.io.vendor.errors import NoAccess
from fibflow.io.vendor.files import SESSION_ROWS
from fibflow.io.vendor.held import see_rows
from fibflow.io.vendor.presence import Presence, Range
from fibflow.pipelines.backfilling.sessions import Sessions
from fibflow.pipelines.backfilling.state import DOUBTS, State, each_once

#: A session with so many more holes than others have, in standard deviations, was given in part.
OUTLIER, FEW = 6.0, 2.0


class _Single(NamedTuple):
    symbol: str
    range: Range

    def __str__(self) -> str:
        return self.symbol


@dataclass
class Symbols:
    """Asks for what symbols lack.

    Attributes:
        state: of the run.
        sessions: asks for whole sessions.
    """

    state: State
    sessions: Sessions

    def fill(self) -> None:
        """Ask for sessions that many symbols lack once more, and for the rest symbol by symbol.

        Raises:
            WrongKey, NoAccess: the vendor refuses.
            LakeError: a file cannot be written.
        """
        state = self.state
        found = self._holes()
        if state.request.symbols is None and not state.request.dry_run:
            found = self._ask_crowded(found)
        wanted = cells.ranges(self._worth_a_call(found))
        names = state.presence.names
        if state.request.dry_run:
            state.report.ranges = [names[range_.symbol] for range_ in wanted]
            return
        state.ask_all("symbols", [_Single(names[range_.symbol], range_) for range_ in wanted], self._ask)

    def _holes(self) -> cells.Holes:
        """Return what symbols lack, as far as it may be an omission."""
        state = self.state
        presence, settled, vouched = state.presence, state.settled(), state.vouched()
        pending = set(state.report.pending)
        usable = state.over & np.array([day not in pending for day in state.window.dates], np.bool_)
        # By a session that is still to come nobody is judged.
        usable[sorted(self.sessions.undone)] = False
        held = usable & (vouched | (presence.counts() > 0))
        every = state.request.holes == "all"
        parts = [cells.holes(presence.cells, held, vouched, settled, every)]
        if state.request.symbols is not None:
            parts.append(cells.missing(presence.cells, usable & ~vouched, settled))
        width = len(state.window)
        keys = np.unique(np.concatenate([part.symbol * width + part.position for part in parts]))
        return cells.Holes(*np.divmod(keys, width))

    def _worth_a_call(self, found: cells.Holes) -> cells.Holes:
        """Return the holes to ask about symbol by symbol."""
        state, mode = self.state, self.state.request.holes
        if mode in ("all", "likely"):
            return found
        unsure = ~state.vouched()
        if mode == "none":
            chosen = unsure if state.request.symbols is not None else np.zeros_like(unsure)
        else:
            chosen = unsure | state.fresh()
        kept = chosen[found.position]
        return cells.Holes(found.symbol[kept], found.position[kept])

    def _ask_crowded(self, found: cells.Holes) -> cells.Holes:
        """Ask for sessions with many holes until an answer brings nothing new; return the holes of others."""
        confirmed = self.sessions.confirmed
        for _ in range(1 + DOUBTS):
            doubtful = self._crowded(found) - confirmed - self.sessions.undone
            if not doubtful:
                break
            self.sessions.ask(dict.fromkeys(sorted(doubtful), "many holes"))
            found = self._holes()
        self.sessions.remember()
        many = self._crowded(found)
        believed = np.isin(found.position, sorted(many & confirmed))
        self._remember(cells.Holes(found.symbol[believed], found.position[believed]))
        others = ~np.isin(found.position, sorted(many))
        return cells.Holes(found.symbol[others], found.position[others])

    def _crowded(self, found: cells.Holes) -> set[int]:
        """Return the sessions for which one call does more than one a symbol."""
        width, vouched = len(self.state.window), self.state.vouched()
        counts = np.bincount(found.position, minlength=width)
        usual = float(np.sort(counts)[: int(np.ceil(0.9 * width))].mean())
        crowded = vouched & (counts > usual + OUTLIER * np.sqrt(usual) + FEW)
        # Before a symbol's first row nothing of it is missing: there the number of symbols tells.
        crowded |= vouched & cells.partial(self.state.presence.counts(), vouched)
        # Of a history that came from elsewhere, whichever is less.
        unsure = ~vouched & (counts > 0)
        symbols = np.unique(found.symbol[unsure[found.position]])
        if self.state.request.holes != "none" and unsure.sum() < len(symbols):
            crowded |= unsure
        return set(np.flatnonzero(crowded).tolist())

    def _ask(self, single: _Single) -> None:
        symbol, range_ = single
        state = self.state
        row = state.presence.cells[range_.symbol].copy()
        asked = state.request.now()
        try:
            rows = self._rows(symbol, range_, row)
        except NoAccess:
            # A hole in what came from elsewhere; history that nobody has is no hole.
            if not row.any():
                raise
            rows = SESSION_ROWS.empty_table()
            with state.lock:
                state.report.refused.append(symbol)
        positions = state.window.positions_of(rows["session"])
        wanted = np.array(range_.wanted, np.int64)
        rows = rows.filter(pa.array(np.isin(positions, wanted)))
        if len(rows):
            dates = state.window.dates
            state.folder.write_range(symbol, dates[range_.first], dates[range_.last], rows, asked)
        absent = wanted[~np.isin(wanted, positions)]
        with state.lock:
            see_rows(state.presence, state.window, rows)
            report = state.report
            report.ranges.append(symbol)
            report.filled += len(rows)
            report.no_trade += len(absent)
            report.files += bool(len(rows))
            if row.any():
                report.changes = pa.concat_tables([report.changes, filled(rows)])
        state.remember([(symbol, first, last) for first, last in cells.stretches(absent, wanted)])

    def _rows(self, symbol: str, range_: Range, row: cells.Cells) -> pa.Table:
        """Ask for a symbol's rows, SESSION_ROWS, once more where there have to be others.

        The stretch begins and ends with a row that is held, where there is one: an answer without these is
        not all that there is. Without them one that leaves out days of a busy symbol is doubted.
        """
        window = self.state.window
        held = np.flatnonzero(row != cells.ABSENT)
        first = int(max(held[held < range_.first], default=range_.first))
        last = int(min(held[held > range_.last], default=range_.last))
        known = [place for place in (first, last) if row[place] != cells.ABSENT]
        rows = SESSION_ROWS.empty_table()
        for attempt in range(1 + DOUBTS):
            before = len(rows)
            bars = self.state.vendor.daily(symbol, window.dates[first], window.dates[last])
            rows = each_once(pa.concat_tables([rows, self.state.rows_of(bars)]), "session")
            positions = window.positions_of(rows["session"])
            doubtful = not np.isin(known, positions).all() if known else _has_gaps(rows, positions - first)
            if not doubtful or (attempt and len(bars) == len(rows) == before > 0):
                break
        return rows

    def _remember(self, absent: cells.Holes) -> None:
        names = self.state.presence.names
        self.state.report.no_trade += len(absent.symbol)
        stretches = []
        for range_ in cells.ranges(absent):
            wanted = np.array(range_.wanted, np.int64)
            stretches += [(names[range_.symbol], *ends) for ends in cells.stretches(wanted, wanted)]
        self.state.remember(stretches)


def _has_gaps(rows: pa.Table, positions: cells.Int) -> bool:
    """Whether a symbol's rows leave out a session between busy ones, or are none at all."""
    if not len(rows):
        return True
    width = int(positions.max()) + 1
    seen = Presence(width)
    seen.see(rows["symbol"], positions, rows["trade_count"])
    every = np.ones(width, np.bool_)
    return len(cells.holes(seen.cells, every, every, np.zeros(seen.cells.shape, np.bool_)).symbol) > 0
