"""The exchange calendar as arrays: sessions, their days, opens and closes, and lookups over whole columns."""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass, field, fields
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

SECOND_US = 1_000_000
DAY_US = 86_400 * SECOND_US
#: The session that has number 0, in every calendar: the first one on or after this date.
EPOCH = np.datetime64("2000-01-03", "D")
#: Calendars begin here, or where the library's own begin.
FIRST_DATE = "1900-01-01"
NO_SESSION = -1


class CalendarError(ValueError):
    """The calendar is unknown, or does not reach far enough."""


@dataclass(frozen=True, eq=False)
class TradingCalendar:
    """The sessions of one exchange, oldest first. All arrays have shape (sessions,).

    Attributes:
        name: as ``exchange_calendars`` knows it, such as ``XNYS`` or ``24/7``.
        zone: IANA name of the exchange's time zone.
        days: the session's date, in days since 1970.
        opens, closes: the regular session, UTC microseconds; ``[open, close)``.
        day_starts, day_ends: the session's day with its extended hours, UTC microseconds; ``[start, end)``.
        transitions, offsets: the zone's offset from UTC (microseconds) from each transition (UTC
            microseconds) on.
        through_year: as given to ``load_calendar``; None for a calendar that cannot be loaded again.
    """

    name: str
    zone: str
    days: Int32
    opens: Int64
    closes: Int64
    day_starts: Int64
    day_ends: Int64
    transitions: Int64 = field(repr=False)
    offsets: Int64 = field(repr=False)
    through_year: int | None = None

    def __reduce__(self) -> Any:
        """Pickle by name where that loads it again: the arrays are some megabytes, and go to every worker."""
        if self.through_year is not None:
            return _reload, (self.name, self.through_year, self.digest)
        return TradingCalendar, tuple(getattr(self, item.name) for item in fields(self))

    @cached_property
    def digest(self) -> str:
        """A hash of all sessions."""
        return _digest(self, slice(None))

    def __len__(self) -> int:
        return len(self.days)

    @cached_property
    def origin(self) -> int:
        """Position of the session that has number 0."""
        return int(np.searchsorted(self.days, EPOCH.astype(np.int32)))

    @cached_property
    def _position_of_day(self) -> tuple[int, Int32]:
        first, last = int(self.days[0]), int(self.days[-1])
        table = np.full(last - first + 3, NO_SESSION, np.int32)
        table[self.days - first + 1] = np.arange(len(self.days), dtype=np.int32)
        return first - 1, table

    def positions(self, days: npt.NDArray[Any]) -> Int32:
        """Return the position of each date (days since 1970, shape (n,)), or ``NO_SESSION``."""
        base, table = self._position_of_day
        return table.take(days - base, mode="clip")

    def local_days(self, ts: Int64) -> Int64:
        """Return the date on the exchange's clock (days since 1970) of UTC microseconds, shape (n,)."""
        offset, _, _ = self.clock(ts)
        return np.floor_divide(ts + offset, DAY_US)

    def session_days(self, stamps: Int64) -> Int64:
        """Return the date that a daily row's stamp names: UTC's at UTC midnight, else the exchange's."""
        days = np.floor_divide(stamps, DAY_US)
        inexact = stamps != days * DAY_US
        if inexact.any():
            days[inexact] = self.local_days(stamps[inexact])
        return days

    def positions_at(self, ts: Int64) -> Int32:
        """Return the position of the session in whose day each instant falls; ``NO_SESSION`` outside all."""
        positions = (np.searchsorted(self.day_starts, ts, side="right") - 1).astype(np.int32)
        outside = (positions < 0) | (ts >= self.day_ends[np.maximum(positions, 0)])
        positions[outside] = NO_SESSION
        return positions

    def clock(self, ts: Int64) -> tuple[Int64, Int64, Int64]:
        """Return the zone's offset at each instant, and since and until when it holds (UTC microseconds)."""
        return _clock(ts, self.transitions, self.offsets)

    def hashes(self, through_year: int) -> dict[str, str]:
        """Return a short hash of each year's sessions up to ``through_year``: what a table remembers."""
        years = self.days.astype("datetime64[D]").astype("datetime64[Y]").astype(np.int64) + 1970
        found, starts = np.unique(years, return_index=True)
        bounds = np.append(starts, len(years))
        return {
            str(year): _digest(self, slice(lo, hi))
            for year, lo, hi in zip(found.tolist(), bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)
            if year <= through_year
        }

    def position_on_or_before(self, day: int) -> int:
        """Return the position of the last session up to a date (days since 1970), or ``NO_SESSION``."""
        return int(np.searchsorted(self.days, day, side="right")) - 1

    def midnight(self, day: int) -> int:
        """Return when a date (days since 1970) begins on the exchange's clock, UTC microseconds."""
        return int(_midnights(np.array([day], np.int64), self.transitions, self.offsets)[0])

    def without(self, *dates: str) -> TradingCalendar:
        """Return the calendar with sessions closed that were planned: an unscheduled closure."""
        closed = np.array(dates, "datetime64[D]").astype(np.int32)
        kept = ~np.isin(self.days, closed)
        return TradingCalendar(
            self.name,
            self.zone,
            self.days[kept],
            self.opens[kept],
            self.closes[kept],
            self.day_starts[kept],
            self.day_ends[kept],
            self.transitions,
            self.offsets,
        )


def _digest(calendar: TradingCalendar, part: slice) -> str:
    days = calendar.days.astype(np.int64)
    columns = (days, calendar.opens, calendar.closes, calendar.day_starts, calendar.day_ends)
    return hashlib.sha256(b"".join(column[part].tobytes() for column in columns)).hexdigest()[:12]


def _reload(name: str, through_year: int, digest: str) -> TradingCalendar:
    calendar = load_calendar(name, through_year)
    if calendar.digest != digest:
        raise CalendarError(
            f"this worker has another calendar {name} than the process that sent the work: install the same "
            "release of exchange_calendars on both"
        )
    return calendar


#: Goes up when the same library would be read into other arrays.
_FORMAT = 1
_ARRAYS = ("days", "opens", "closes", "day_starts", "day_ends", "transitions", "offsets")


def load_calendar(name: str = "XNYS", through_year: int = 2030, cache: Path | None = None) -> TradingCalendar:
    """Return the calendar ``name`` with all sessions through the end of ``through_year``.

    It ends earlier where the library does not know holidays that far ahead. ``exchange_calendars`` makes it;
    its arrays are kept in ``cache`` (default: the user's cache directory) under the library's version,
    because importing the library takes longer than a day's run.

    Raises:
        CalendarError: for an unknown name, or a calendar that the library cannot make.
    """
    folder = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fibflow"
    versions = "-".join(metadata.version(package) for package in ("exchange_calendars", "tzdata"))
    path = folder / f"calendar-{_FORMAT}-{name.replace('/', '_')}-{through_year}-{versions}.npz"
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {array: stored[array] for array in _ARRAYS}
            return TradingCalendar(name, str(stored["zone"]), **arrays, through_year=through_year)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        pass
    calendar = _from_library(name, through_year)
    _store(calendar, path)
    return calendar


def _store(calendar: TradingCalendar, path: Path) -> None:
    """Keep the arrays; a cache that cannot be written is no failure."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".npz")
        with os.fdopen(handle, "wb") as file:
            np.savez(
                file,
                allow_pickle=False,
                zone=np.array(calendar.zone),
                **{array: getattr(calendar, array) for array in _ARRAYS},
            )
        Path(temporary).replace(path)
    except OSError:
        return


def _from_library(name: str, through_year: int) -> TradingCalendar:
    import exchange_calendars
    from exchange_calendars.errors import InvalidCalendarName

    try:
        dispatcher = exchange_calendars.calendar_utils.global_calendar_dispatcher
        factory = dispatcher._calendar_factories.get(dispatcher.resolve_alias(name))
        earliest, latest = (factory.bound_min(), factory.bound_max()) if factory else (None, None)
        start = max(FIRST_DATE, f"{earliest:%Y-%m-%d}") if earliest is not None else FIRST_DATE
        end = f"{through_year}-12-31"
        end = min(end, f"{latest:%Y-%m-%d}") if latest is not None else end
        found = exchange_calendars.get_calendar(name, start=start, end=end)
    except InvalidCalendarName:
        raise CalendarError(
            f"unknown calendar {name!r}: name one that exchange_calendars has, such as XNYS, XLON or 24/7"
        ) from None
    except (ValueError, NotImplementedError) as error:
        why = str(error).partition("\n")[0][:200]
        raise CalendarError(f"exchange_calendars cannot make {name} through {through_year}: {why}") from None
    zone = str(found.tz)
    held = np.ones(len(found.sessions), np.bool_)
    if found.regular_holidays is not None:
        # The library leaves them to pandas, which knows none before 1970 unless it is asked for the years.
        held = ~found.sessions.isin(found.regular_holidays.holidays(found.sessions[0], found.sessions[-1]))
    days = found.sessions[held].to_numpy().astype("datetime64[D]").astype(np.int64)
    transitions, offsets = _zone_offsets(zone, int(days[0] - 3) * DAY_US, int(days[-1] + 4) * DAY_US)
    opens, closes = _micros(found.opens[held]), _micros(found.closes[held])
    day_starts = np.minimum(_midnights(days, transitions, offsets), opens)
    day_ends = np.maximum(_midnights(days + 1, transitions, offsets), closes)
    day_ends[:-1] = np.minimum(day_ends[:-1], day_starts[1:])
    days = days.astype(np.int32)
    return TradingCalendar(
        name, zone, days, opens, closes, day_starts, day_ends, transitions, offsets, through_year
    )


def _clock(ts: Int64, transitions: Int64, offsets: Int64) -> tuple[Int64, Int64, Int64]:
    index = np.searchsorted(transitions, ts, side="right")
    until = np.append(transitions, np.iinfo(np.int64).max)[index]
    return offsets[index - 1], transitions[index - 1], until


def _midnights(days: Int64, transitions: Int64, offsets: Int64) -> Int64:
    """Return when dates begin: at the first of two midnights, or where the clock was put past midnight."""
    midnight = days * DAY_US
    offset, _, change = _clock(midnight - DAY_US, transitions, offsets)
    early = midnight - offset
    after, _, _ = _clock(change, transitions, offsets)
    return np.where(early < change, early, np.maximum(midnight - after, change))


def _micros(instants: Any) -> Int64:
    """Return UTC microseconds of a pandas index or series of zoned instants."""
    import pandas as pd

    index = pd.DatetimeIndex(instants).tz_convert("UTC").tz_localize(None)
    return index.to_numpy().astype("datetime64[us]").astype(np.int64)


def _zone_offsets(zone: str, start: int, end: int) -> tuple[Int64, Int64]:
    """Return when the zone's offset changes within ``[start, end)``, and the offsets, all microseconds."""
    days = np.arange(start, end, DAY_US)
    offset = _offsets_at(days, zone)
    change = np.flatnonzero(np.diff(offset))
    before, after = days[change], days[change + 1]
    # Each change is halved down to its second: old ones are on no quarter of an hour.
    while (after - before > SECOND_US).any():
        middle = (before + after) // (2 * SECOND_US) * SECOND_US
        old = _offsets_at(middle, zone) == offset[change]
        before, after = np.where(old, middle, before), np.where(old, after, middle)
    return np.concatenate(([np.iinfo(np.int64).min // 2], after)), offset[np.concatenate(([0], change + 1))]


def _offsets_at(ts: Int64, zone: str) -> Int64:
    import pandas as pd

    zoned = pd.DatetimeIndex(ts.astype("datetime64[us]"), tz="UTC").tz_convert(zone)
    return zoned.tz_localize(None).to_numpy().astype("datetime64[us]").astype(np.int64) - ts
