"""What there is already: rows of the lake, and those of raw files that were not landed yet."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fibflow.io import tables
from fibflow.io.files import InputError, RawFile, filesystem_for
from fibflow.io.lake import Lake
from fibflow.io.ledger import changes_of, read_ledger
from fibflow.io.raw import RawReader
from fibflow.io.rowfilter import Filter
from fibflow.io.snapshot import Snapshot, read_files
from fibflow.io.vendor.files import DAILY, SESSION_ROWS, RawFolder
from fibflow.io.vendor.presence import Presence
from fibflow.transforms.calendar import NO_SESSION, TradingCalendar

_NO_TIME: Any = pa.scalar(0, pa.int64())
_COLUMNS = ["symbol", "session", "trade_count"]


class Window:
    """Consecutive sessions of a calendar, ``[first, last]`` in positions of the calendar.

    Attributes:
        calendar: the calendar.
        first: position of the first session.
        days: their dates in days since 1970, shape (sessions,).
    """

    def __init__(self, calendar: TradingCalendar, first: int, last: int) -> None:
        self.calendar, self.first = calendar, first
        self.days = calendar.days[first : last + 1]
        self.dates: list[Any] = self.days.astype("datetime64[D]").tolist()

    def __len__(self) -> int:
        return len(self.days)

    def positions(self, days: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """Return the place of each date (days since 1970) in the window, -1 outside it; shape (n,)."""
        found = self.calendar.positions(days).astype(np.int64)
        inside = (found >= self.first) & (found < self.first + len(self))
        return np.where((found != NO_SESSION) & inside, found - self.first, -1)

    def positions_of(self, sessions: Any) -> npt.NDArray[np.int64]:
        """Return the place of each session of a column of dates."""
        return self.positions(_days(sessions))

    @property
    def closes(self) -> npt.NDArray[np.int64]:
        """When each regular session ends, UTC microseconds."""
        return self.calendar.closes[self.first : self.first + len(self)]

    @property
    def ends(self) -> npt.NDArray[np.int64]:
        """When each session's day ends."""
        return self.calendar.day_ends[self.first : self.first + len(self)]

    @property
    def starts(self) -> npt.NDArray[np.int64]:
        """When each session's day begins."""
        return self.calendar.day_starts[self.first : self.first + len(self)]


def see_lake(presence: Presence, window: Window, lake: Lake) -> None:
    """Take in the rows that ``bronze.daily`` holds, file by file.

    Raises:
        LakeError: the lake cannot be read.
    """
    table = lake.table(tables.DAILY)
    if not table.exists or not len(window):
        return
    snapshot = table.snapshot()
    condition = _within(window, snapshot)
    for file in snapshot.located(condition):
        rows, _ = read_files(table.storage, table.spec, [file], _COLUMNS, condition, ["symbol"])
        presence.see(rows["symbol"], window.positions_of(rows["session"]), rows["trade_count"])


def first_session(lake: Lake) -> int | None:
    """Return the first session of ``bronze.daily``, days since 1970; None where it has no row.

    Raises:
        LakeError: the lake cannot be read.
    """
    table = lake.table(tables.DAILY)
    if not table.exists:
        return None
    snapshot = table.snapshot()
    for file, _ in snapshot.by_time(Filter.of(table.spec), first=True):
        rows, _ = read_files(table.storage, table.spec, [file], ["session"])
        if len(rows):
            return int(_days(rows["session"]).min())
    return None


def lake_session(
    lake: Lake, window: Window, position: int, symbols: Collection[str] | None = None
) -> pa.Table:
    """Return the rows of one session in ``bronze.daily``, SESSION_ROWS, by symbol; of some symbols, or all.

    Raises:
        LakeError: the lake cannot be read.
    """
    table = lake.table(tables.DAILY)
    if not table.exists:
        return SESSION_ROWS.empty_table()
    day = int(window.days[position])
    rows, _ = table.snapshot().read(SESSION_ROWS.names, symbols, ts_from=day, ts_to=day + 1)
    return rows.sort_by("symbol")


def see_files(presence: Presence, window: Window, lake: Lake, folder: RawFolder) -> None:
    """Take in the rows of daily raw files that the lake does not know in this version.

    A file that cannot be read has none: a session's is fetched anew, others are the load's to refuse.

    Raises:
        LakeError, InputError: the lake, or the folder, cannot be read.
    """
    files = folder.raw_files(DAILY)
    if not files or not len(window):
        return
    entries = read_ledger(lake.table(tables.LEDGER), tables.DAILY.name)
    fresh = _inside(changes_of(files, entries).to_land, window)
    reader = RawReader(filesystem_for(folder.uri(DAILY), folder.storage.aws)[0])
    for file in fresh:
        try:
            rows = reader.read(file, "daily", ["symbol", "ts", "trade_count"])
        except InputError:
            continue
        stamps = np.asarray(rows["ts"].cast(pa.int64()).fill_null(_NO_TIME))
        positions = window.positions(window.calendar.session_days(stamps))
        presence.see(rows["symbol"], positions, rows["trade_count"])


def see_rows(presence: Presence, window: Window, rows: pa.Table) -> None:
    """Take in SESSION_ROWS."""
    presence.see(rows["symbol"], window.positions_of(rows["session"]), rows["trade_count"])


def minute_sessions(lake: Lake, window: Window, symbols: Sequence[str]) -> dict[str, set[int]]:
    """Return the sessions of the window in which ``bronze.minutes`` has rows of each symbol.

    Raises:
        LakeError: the lake cannot be read.
    """
    table = lake.table(tables.MINUTES)
    found: dict[str, set[int]] = {symbol: set() for symbol in symbols}
    if not table.exists or not len(window):
        return found
    snapshot = table.snapshot()
    condition = Filter.of(table.spec, list(symbols), int(window.starts[0]), int(window.ends[-1]))
    for file in snapshot.located(condition):
        rows, _ = read_files(table.storage, table.spec, [file], ["symbol", "ts"], condition, ["symbol"])
        if not len(rows):
            continue
        column: Any = rows["symbol"].unify_dictionaries().combine_chunks()
        stamps = rows["ts"].cast(pa.int64()).to_numpy()
        places = window.calendar.positions_at(stamps).astype(np.int64) - window.first
        codes = column.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        names = column.dictionary.to_pylist()
        for key in np.unique(codes * len(window) + places).tolist():
            code, place = divmod(key, len(window))
            found[names[code]].add(place)
    return found


def _within(window: Window, snapshot: Snapshot) -> Filter:
    return Filter.of(snapshot.spec, None, int(window.days[0]), int(window.days[-1]) + 1)


def _inside(files: Sequence[RawFile], window: Window) -> list[RawFile]:
    """Return the files that may hold sessions of the window; the name of a session's says which it is."""
    names = {f"date={day}.parquet" for day in window.dates}
    return [file for file in files if not file.is_daily_file or file.path.rpartition("/")[2] in names]


def _days(sessions: Any) -> npt.NDArray[Any]:
    column = sessions.combine_chunks() if isinstance(sessions, pa.ChunkedArray) else sessions
    if isinstance(column, pa.ChunkedArray):
        return np.zeros(0, np.int32)
    return column.view(pa.int32()).to_numpy(zero_copy_only=False)
