"""Whole sessions: which are missing or held in part, asked for with one call each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute

from fibflow.io.vendor import presence as cells
from fibflow.io.vendor.answers import BARS
from fibflow.io.vendor.changes import WITHDRAWN, compared, with_kept
from fibflow.io.vendor.errors import NoAccess
from fibflow.io.vendor.files import SESSION_ROWS, SessionFile
from fibflow.io.vendor.held import lake_session, see_rows
from fibflow.pipelines.backfilling.request import Why
from fibflow.pipelines.backfilling.state import DOUBTS, LATE_US, Bool, State, each_once

# The stubs know too few types of columns.
pc: Any = pyarrow.compute


class _Question(NamedTuple):
    position: int
    why: Why
    day: date

    def __str__(self) -> str:
        return self.day.isoformat()


@dataclass
class Sessions:
    """Asks for sessions and writes those that are not held as they came.

    Attributes:
        state: of the run.
        confirmed: positions of sessions of which the vendor gave exactly what is held, or will give no more.
        known: those of them that were known before.
        undone: positions of sessions that were to be asked for and gave no good answer.
    """

    state: State
    confirmed: set[int] = field(default_factory=set)
    known: frozenset[int] = frozenset()
    undone: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._was_held = self.state.presence.counts() > 0
        self.known = frozenset(self.state.confirmed())
        self.confirmed |= self.known

    def wanted(self) -> dict[int, Why]:
        """Return the sessions to ask for, and why: what came since, then what is older; each oldest first."""
        state = self.state
        counts, vouched, over = state.presence.counts(), state.vouched(), state.over
        lacking = self._lacking(vouched)
        everything = state.request.symbols is None
        believed = np.isin(np.arange(len(counts)), sorted(self.confirmed))
        part = cells.partial(counts, over & ~vouched & ~believed & everything)
        whys: dict[int, Why] = {}
        for position, day in enumerate(state.window.dates):
            file = state.files.get(day)
            if vouched[position]:
                continue
            if file is not None and not file.whole:
                whys[position] = "not over before"
            elif lacking[position] or not over[position]:
                whys[position] = "missing"
            elif part[position] or (file is not None and everything) or state.request.whole:
                whys[position] = "in part"
        held = [p for p in range(len(counts)) if p not in whys and counts[p]]
        state.report.sessions, state.report.held = len(counts), len(held)
        again = held[len(held) - min(state.request.recheck, len(held)) :]
        whys |= dict.fromkeys(again, "again")
        last = max(held, default=-1)
        return {position: whys[position] for position in sorted(whys, key=lambda p: (p < last, p))}

    def remember(self) -> None:
        """Keep which sessions were confirmed in this run."""
        new = sorted(self.confirmed - self.known)
        self.state.remember([("", position, position) for position in new])

    def _lacking(self, vouched: Bool) -> Bool:
        """Return the sessions that are missing; of chosen symbols, if it is cheaper than symbol by symbol."""
        state = self.state
        if state.request.symbols is None:
            return state.presence.counts() == 0
        gaps = cells.missing(state.presence.cells, state.over & ~vouched, state.settled())
        sessions = np.unique(gaps.position)
        lacking = np.zeros(len(vouched), np.bool_)
        if len(np.unique(gaps.symbol)) >= len(sessions):
            lacking[sessions] = True
        return lacking

    def ask(self, wanted: Mapping[int, Why]) -> None:
        """Ask for sessions in their order; a dry run only notes them.

        Where three in a row failed, the newest one that is left says whether it was they, or the vendor.

        Raises:
            WrongKey, NoAccess: the vendor refuses.
            LakeError: a file cannot be written.
        """
        dates = self.state.window.dates
        if self.state.request.dry_run:
            self.state.report.fetched |= {dates[position]: (why, 0) for position, why in wanted.items()}
            return
        questions = [_Question(position, why, dates[position]) for position, why in wanted.items()]
        self.undone |= wanted.keys()
        tried: set[int] = set()

        def ask(question: _Question) -> None:
            tried.add(question.position)
            self._ask(question)
            self.undone.discard(question.position)

        self.state.ask_all("sessions", questions, ask)
        left = sorted((one for one in questions if one.position not in tried), reverse=True)
        self.state.ask_all("sessions", left[:1], ask)
        if left and left[0].position not in self.undone:
            self.state.ask_all("sessions", left[1:], ask)

    def _ask(self, question: _Question) -> None:
        position, why, day = question
        state = self.state
        asked, over = state.request.now(), bool(state.over[position])
        file = state.files.get(day)
        old = state.folder.read_session(day) if file is not None else None
        told = pa.array(state.without_trade(position), pa.string())
        expected = None if old is None else old.filter(pc.invert(pc.is_in(old["symbol"], told)))
        try:
            rows, strays = self._rows(position, day, expected)
        except NoAccess:
            # What is held and cannot be bettered is left as it is, and not asked for in every run.
            if why not in ("in part", "many holes"):
                raise
            with state.lock:
                self.confirmed.add(position)
                state.report.refused.append(day.isoformat())
            return
        if not len(rows):
            with state.lock:
                state.report.pending.append(day)
            return
        symbols = self._kept_symbols(file)
        if symbols is not None:
            rows = rows.filter(pc.is_in(rows["symbol"], pa.array(sorted(symbols), pa.string())))
        before = old if old is not None else lake_session(state.lake, state.window, position, symbols)
        changes = compared(before, rows)
        gone: Any = pc.equal(changes["change"], WITHDRAWN)
        # A row that is kept makes no file anew, and is told once.
        differs = changes.filter(pc.invert(gone))
        changes = changes.filter(pc.invert(pc.and_(gone, pc.is_in(changes["symbol"], told))))
        as_it_was = why == "again" or (file is not None and file.whole == over and file.symbols == symbols)
        written = bool(len(differs)) or not as_it_was
        if written:
            # Where the lake has a row that is in no file, it keeps it by itself.
            whole = rows if old is None else with_kept(old, rows)
            state.folder.write_session(day, whole, asked, over, symbols)
        tells = why in ("again", "many holes") and bool(self._was_held[position])
        with state.lock:
            see_rows(state.presence, state.window, rows)
            if written:
                state.files[day] = SessionFile(over, symbols, len(rows), asked)
            if why == "many holes" and not len(changes):
                self.confirmed.add(position)
            report = state.report
            report.files += written
            report.strays += strays
            if why == "again":
                report.rechecked += 1
            else:
                report.fetched.setdefault(day, (why, len(rows)))
            if not over:
                report.open.append(day)
            if tells:
                report.changes = pa.concat_tables([report.changes, changes])
        if tells:
            lost = changes.filter(pc.equal(changes["change"], WITHDRAWN))["symbol"].to_pylist()
            state.remember([(str(symbol), position, position) for symbol in lost])

    def _rows(self, position: int, day: date, old: pa.Table | None) -> tuple[pa.Table, int]:
        """Ask for a session's rows, SESSION_ROWS, once more where there cannot be so few.

        Returns:
            The rows by symbol, each once, and how many were of another session.
        """
        late = self.state.since(position) > LATE_US
        rows, strays = SESSION_ROWS.empty_table(), 0
        for attempt in range(1 + DOUBTS):
            try:
                bars = self.state.vendor.grouped_daily(day)
            except NoAccess:
                # Some plans have a day only when it is over for a while.
                if late:
                    raise
                bars = BARS.empty_table()
            came = self.state.rows_of(bars)
            wanted: Any = pa.scalar(day, pa.date32())
            mine = came.filter(pc.equal(came["session"], wanted))
            strays = len(came) - len(mine)
            rows = with_kept(rows, each_once(mine, "symbol"))
            if not len(rows) and (attempt or not late):
                break
            if len(rows) and (old is None or len(with_kept(old, rows)) == len(rows)):
                break
        return rows, strays

    def _kept_symbols(self, file: SessionFile | None) -> frozenset[str] | None:
        """Return the symbols that a session's file is to hold: those it was of stay."""
        chosen = self.state.request.symbols
        if chosen is None or (file is not None and file.symbols is None):
            return None
        return chosen | (file.symbols if file is not None and file.symbols else frozenset())
