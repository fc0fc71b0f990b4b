"""What the parts of a backfill share: what is held, what was asked for, and the report."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from fibflow.io.lake import Lake
from fibflow.io.vendor.asking import ask_all
from fibflow.io.vendor.files import NO_TRADE, SESSION_ROWS, RawFolder, SessionFile
from fibflow.io.vendor.held import Window, see_files, see_lake
from fibflow.io.vendor.presence import Presence
from fibflow.io.vendor.rest import Vendor
from fibflow.pipelines.backfilling.request import BackfillReport, BackfillRequest

# The stubs know too few types of columns.
pc: Any = pyarrow.compute

T = TypeVar("T")
Bool = npt.NDArray[np.bool_]

#: How often an answer that cannot be all is asked for again before it is believed.
DOUBTS = 2
#: So long after its day the vendor may have nothing of a session yet, or not for every plan.
LATE_US = 12 * 3_600_000_000
_WEEK_US = 7 * 86_400_000_000


@dataclass
class State:
    """One run over the sessions of a window.

    Attributes:
        lake: what is held.
        vendor: is asked.
        folder: where answers go.
        request: what is wanted.
        window: the sessions, all of which have closed.
        report: takes what was done; under ``lock``, as everything that answers change.
    """

    lake: Lake
    vendor: Vendor
    folder: RawFolder
    request: BackfillRequest
    window: Window
    report: BackfillReport
    lock: threading.Lock = field(default_factory=threading.Lock)

    @cached_property
    def now_us(self) -> int:
        """When the run began, UTC microseconds."""
        return int(self.request.now().timestamp() * 1_000_000)

    @cached_property
    def over(self) -> Bool:
        """Which sessions' days are over, shape (sessions,)."""
        return self.window.ends <= self.now_us

    def since(self, position: int) -> int:
        """Return for how long a session's day has been over, microseconds; below 0 where it is not."""
        return self.now_us - int(self.window.ends[position])

    @cached_property
    def files(self) -> dict[date, SessionFile]:
        """What the files of sessions say; kept up to date as they are written."""
        return self.folder.sessions(self.window.dates[0], self.window.dates[-1])

    @cached_property
    def presence(self) -> Presence:
        """Which symbols have which sessions, in the lake or in a file; kept up to date likewise."""
        seen = Presence(len(self.window), self.request.symbols)
        see_lake(seen, self.window, self.lake)
        see_files(seen, self.window, self.lake, self.folder)
        return seen

    def vouched(self) -> Bool:
        """Return which sessions the vendor gave whole, with all wanted symbols, shape (sessions,)."""
        found = (self.files.get(day) for day in self.window.dates)
        return np.array([file is not None and file.covers(self.request.symbols) for file in found], np.bool_)

    def fresh(self) -> Bool:
        """Return which sessions were asked for within a week of their day, shape (sessions,)."""
        found = (self.files.get(day) for day in self.window.dates)
        asked = [np.inf if file is None else file.asked.timestamp() * 1e6 for file in found]
        return np.array(asked) - self.window.ends < _WEEK_US

    @cached_property
    def _no_trade(self) -> pa.Table:
        if self.request.ask_again and not self.request.dry_run:
            self.folder.forget_no_trade()
        return NO_TRADE.empty_table() if self.request.ask_again else self.folder.no_trade()

    def settled(self) -> Bool:
        """Return where the vendor said that a symbol did not trade, shape (symbols, sessions)."""
        places = {name: row for row, name in enumerate(self.presence.names)}
        settled = np.zeros(self.presence.cells.shape, np.bool_)
        days = self.window.days
        rows = self._no_trade
        firsts = np.searchsorted(days, _days(rows["first"])).tolist()
        lasts = np.searchsorted(days, _days(rows["last"]), side="right").tolist()
        for symbol, first, last in zip(rows["symbol"].to_pylist(), firsts, lasts, strict=True):
            if (row := places.get(str(symbol))) is not None:
                settled[row, first:last] = True
        return settled

    def without_trade(self, position: int) -> list[str]:
        """Return of which symbols the vendor said that it has no row of a session."""
        day: Any = pa.scalar(self.window.dates[position], pa.date32())
        rows = self._no_trade
        inside = pc.and_(pc.less_equal(rows["first"], day), pc.greater_equal(rows["last"], day))
        return [str(symbol) for symbol in rows.filter(inside)["symbol"].to_pylist()]

    def confirmed(self) -> set[int]:
        """Return the positions of sessions that the vendor gave twice as they are held."""
        rows = self._no_trade.filter(pc.equal(self._no_trade["symbol"], ""))
        return {place for place in self.window.positions_of(rows["first"]).tolist() if place >= 0}

    def remember(self, stretches: Sequence[tuple[str, int, int]]) -> None:
        """Keep that symbols did not trade from one position to another, both included."""
        if stretches:
            dates = self.window.dates
            named = [(symbol, dates[first], dates[last]) for symbol, first, last in stretches]
            columns = [pa.array(column) for column in zip(*named, strict=True)]
            self.folder.add_no_trade(pa.table(columns, schema=NO_TRADE))

    def rows_of(self, bars: pa.Table) -> pa.Table:
        """Return bars of the vendor as SESSION_ROWS."""
        stamps = bars["ts"].cast(pa.int64()).to_numpy()
        days = self.window.calendar.session_days(stamps)
        sessions: Any = pa.array(days.astype(np.int32)).view(pa.date32())
        named = bars.set_column(1, "session", sessions)
        return named.select(SESSION_ROWS.names).cast(SESSION_ROWS)

    def ask_all(self, what: str, questions: Sequence[T], ask: Callable[[T], None]) -> None:
        """Ask questions in threads; what fails goes to the report."""
        done, of = 0, len(questions)

        def tick() -> None:
            nonlocal done
            done += 1
            self.request.tick(what, done, of)

        if questions:
            self.request.tick(what, 0, of)
        self.report.failed += ask_all(questions, ask, self.request.at_once, tick, self.vendor.close)


def each_once(rows: pa.Table, key: str) -> pa.Table:
    """Return of rows with one key the last one, as within a raw file; sorted by the key."""
    if not len(rows):
        return rows
    column: Any = rows[key].combine_chunks()
    codes = pc.dictionary_encode(column).indices.to_numpy(zero_copy_only=False)
    _, last = np.unique(codes[::-1], return_index=True)
    return rows.take(pa.array(len(rows) - 1 - last)).sort_by(key)


def _days(column: Any) -> npt.NDArray[Any]:
    return column.cast(pa.int32()).to_numpy()
