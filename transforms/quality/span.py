"""The sessions that a quality report looks at, and the symbols in them: what all of its matrices share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fibflow.transforms.calendar import Int32, Int64, TradingCalendar

Bool = npt.NDArray[np.bool_]

MINUTE_US = 60_000_000


@dataclass(frozen=True)
class Span:
    """Consecutive sessions of a calendar: some that show what is usual, then the window that is judged.

    Attributes:
        calendar: the calendar.
        first, last: positions in the calendar, both included.
        window: how many of the last sessions are judged.
    """

    calendar: TradingCalendar
    first: int
    last: int
    window: int

    @classmethod
    def until(cls, calendar: TradingCalendar, last: int, window: int, before: int) -> Span:
        """The span that ends with the session at a position, as long as the calendar reaches back."""
        first = max(0, last + 1 - window - before)
        return cls(calendar, first, last, min(window, last + 1 - first))

    def __len__(self) -> int:
        return self.last + 1 - self.first

    @property
    def judged(self) -> int:
        """The place of the first session of the window."""
        return len(self) - self.window

    @property
    def _slice(self) -> slice:
        return slice(self.first, self.last + 1)

    @property
    def days(self) -> Int32:
        """The sessions' dates, days since 1970."""
        return self.calendar.days[self._slice]

    @property
    def opens(self) -> Int64:
        """When each regular session begins, UTC microseconds."""
        return self.calendar.opens[self._slice]

    @property
    def minutes(self) -> Int64:
        """How many minutes each regular session has."""
        return (self.calendar.closes[self._slice] - self.opens) // MINUTE_US

    def start(self, place: int) -> int:
        """When the day of the session at a place begins, UTC microseconds."""
        return int(self.calendar.day_starts[self.first + place])

    @property
    def stop(self) -> int:
        """When the day of the last session ends, UTC microseconds."""
        return int(self.calendar.day_ends[self.last])

    def tail(self, before: int) -> Span:
        """The same window with fewer sessions before it."""
        return Span.until(self.calendar, self.last, self.window, min(before, self.judged))

    def places_of(self, days: npt.NDArray[Any]) -> Int64:
        """The place of each date (days since 1970), -1 outside the span; shape (n,)."""
        return self._inside(self.calendar.positions(days))

    def places_at(self, ts: Int64) -> Int64:
        """The place of the session in whose day each instant falls, -1 outside the span; shape (n,)."""
        return self._inside(self.calendar.positions_at(ts))

    def _inside(self, positions: Int32) -> Int64:
        found = positions.astype(np.int64)
        return np.where((found >= self.first) & (found <= self.last), found - self.first, -1)


class Roster:
    """Symbols in the order in which they were seen: each has a row in every matrix."""

    def __init__(self) -> None:
        self._names = pa.array([], pa.string())

    def __len__(self) -> int:
        return len(self._names)

    @property
    def names(self) -> list[str]:
        """The symbols by row."""
        found: list[Any] = self._names.to_pylist()
        return found

    def rows(self, symbols: Any) -> Int64:
        """The row of each symbol of a column, new ones added, -1 for null; shape (n,)."""
        column = symbols if pa.types.is_dictionary(symbols.type) else pc.dictionary_encode(symbols)
        if isinstance(column, pa.ChunkedArray):
            column = column.unify_dictionaries().combine_chunks()
        if isinstance(column, pa.ChunkedArray):
            return np.zeros(0, np.int64)
        words: Any = column.dictionary.cast(pa.string())
        places = self._places(words)
        if (places < 0).any():
            fresh: Any = words.filter(pa.array(places < 0))
            self._names = pa.concat_arrays([self._names, fresh])
            places = self._places(words)
        codes = column.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        return np.where(codes < 0, -1, places[codes]) if len(places) else np.full(len(codes), -1)

    def find(self, symbols: Any) -> Int64:
        """The row of each symbol of a column, -1 for one that was not seen; shape (n,)."""
        return self._places(symbols.cast(pa.string()))

    def _places(self, words: Any) -> Int64:
        found: Any = pc.index_in(words, value_set=self._names).fill_null(-1)
        return np.asarray(found).astype(np.int64)


def grown(matrix: npt.NDArray[Any], rows: int, fill: float = 0) -> npt.NDArray[Any]:
    """A matrix with at least so many rows; new ones hold ``fill``."""
    if rows <= len(matrix):
        return matrix
    made = np.full((max(rows, 2 * len(matrix)), *matrix.shape[1:]), fill, matrix.dtype)
    made[: len(matrix)] = matrix
    return made
