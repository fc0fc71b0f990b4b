"""Minutes of some symbols: a call for each month of a symbol of which sessions are missing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute

from fibflow.io.vendor.files import SYMBOL_MINUTES
from fibflow.io.vendor.held import Window, minute_sessions
from fibflow.io.vendor.presence import BUSY
from fibflow.pipelines.backfilling.state import DOUBTS, LATE_US, State

# The stubs know too few types of columns.
pc: Any = pyarrow.compute

_SYMBOLS_AT_ONCE = 200


class _Month(NamedTuple):
    """A month of a symbol: the positions of the sessions to ask for, and the dates of those held whole."""

    symbol: str
    month: str
    wanted: tuple[int, ...]
    held: frozenset[date]

    def __str__(self) -> str:
        return f"{self.symbol} {self.month}"


@dataclass
class Minutes:
    """Asks for months of minutes.

    Attributes:
        state: of the run.
    """

    state: State

    def fill(self) -> None:
        """Ask for what is missing.

        Raises:
            WrongKey, NoAccess: the vendor refuses.
            LakeError: the lake cannot be read, or a file not be written.
        """
        wanted = list(self._wanted())
        if self.state.request.dry_run:
            self.state.report.months += [(month.symbol, month.month) for month in wanted]
            return
        self.state.ask_all("months of minutes", wanted, self._ask)

    def _wanted(self) -> Iterator[_Month]:
        """Yield the months to ask for; symbol by symbol, oldest first."""
        state, window = self.state, self.state.window
        again = set(range(len(window) - state.request.recheck, len(window)))
        months = np.datetime_as_string(window.days.astype("datetime64[D]").astype("datetime64[M]"))
        symbols = sorted(state.request.symbols or ())
        for start in range(0, len(symbols), _SYMBOLS_AT_ONCE):
            some = symbols[start : start + _SYMBOLS_AT_ONCE]
            files = {symbol: state.folder.months(symbol) for symbol in some}
            landed = minute_sessions(state.lake, window, some)
            for symbol in some:
                for month in np.unique(months).tolist():
                    whole = files[symbol].get(month, frozenset())
                    # Once a month has a file, that says which sessions are whole: an open one was landed too.
                    others = set() if month in files[symbol] else landed[symbol]
                    wanted = tuple(
                        place
                        for place in np.flatnonzero(months == month).tolist()
                        if place in again
                        or not state.over[place]
                        or not (window.dates[place] in whole or place in others)
                    )
                    if wanted:
                        yield _Month(symbol, month, wanted, whole)

    def _ask(self, month: _Month) -> None:
        """Ask for the stretch that holds what is missing, and write the month with it."""
        state, window, asked = self.state, self.state.window, self.state.request.now()
        old = state.folder.read_month(month.symbol, month.month).combine_chunks()
        inside = range(month.wanted[0], month.wanted[-1] + 1)
        busy = self._busy(month)
        rows = self._rows(month, old, busy)
        came = set(_places(window, rows))
        # Rows that the vendor gives no more are kept.
        kept = old.filter(_absent(old, rows))
        merged = pa.concat_tables([kept, rows]).sort_by("ts").combine_chunks()
        late = {place for place in inside if state.since(place) <= LATE_US}
        doubtful = (late | busy) - came
        dates = {window.dates[place] for place in inside if state.over[place] and place not in doubtful}
        whole = month.held | dates
        written = not merged.equals(old) or whole != month.held
        if written:
            state.folder.write_month(month.symbol, month.month, merged, asked, whole)
        with state.lock:
            state.report.months.append((month.symbol, month.month))
            state.report.minutes += len(rows)
            state.report.lost_minutes += len(_inside(kept, *_stretch(window, month)))
            state.report.files += written

    def _busy(self, month: _Month) -> set[int]:
        """Return the sessions to ask for of which a day's row tells that there are minutes."""
        presence = self.state.presence
        row = presence.cells[presence.names.index(month.symbol)]
        return {place for place in month.wanted if row[place] == BUSY}

    def _rows(self, month: _Month, old: pa.Table, busy: set[int]) -> pa.Table:
        """Ask for a month's stretch, SYMBOL_MINUTES, once more where there have to be others."""
        window = self.state.window
        start, end = _stretch(window, month)
        expected = _inside(old, start, end)
        rows = SYMBOL_MINUTES.empty_table()
        for attempt in range(1 + DOUBTS):
            before = len(rows)
            bars = self.state.vendor.minutes(month.symbol, start, end)
            came = bars.select(SYMBOL_MINUTES.names).cast(SYMBOL_MINUTES)
            rows = pa.concat_tables([rows.filter(_absent(rows, came)), came]).combine_chunks()
            lacking = pc.any(_absent(expected, rows)).as_py() or busy - set(_places(window, rows))
            if not lacking or (attempt and len(came) == len(rows) == before > 0):
                break
        return rows


def _stretch(window: Window, month: _Month) -> tuple[int, int]:
    """Return from when to when a month is asked for, UTC microseconds."""
    return int(window.starts[month.wanted[0]]), int(window.ends[month.wanted[-1]])


def _inside(rows: pa.Table, start: int, end: int) -> pa.Table:
    stamps: Any = rows["ts"].cast(pa.int64()).to_numpy()
    return rows.filter(pa.array((stamps >= start) & (stamps < end)))


def _absent(rows: pa.Table, others: pa.Table) -> Any:
    """Return which rows' minutes others lack."""
    return pc.invert(pc.is_in(rows["ts"], others["ts"].combine_chunks()))


def _places(window: Window, rows: pa.Table) -> list[int]:
    """Return the positions of the sessions that minutes are of."""
    stamps = rows["ts"].cast(pa.int64()).to_numpy()
    return np.unique(window.calendar.positions_at(stamps).astype(np.int64) - window.first).tolist()
