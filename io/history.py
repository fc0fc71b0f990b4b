"""``TailHistory``: official days of ``bronze.daily`` for live bars, at the start and as they are landed.

One element, whose restriction is the version of the table up to which everything was sent. Until the first
rows are sent the watermark stands at the beginning: no window closes without its history. Then it stands at
the end: history holds nothing back, and time comes from the ticks.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam import coders as beam_coders
from apache_beam import pvalue
from apache_beam.io.iobase import RestrictionProgress, RestrictionTracker
from apache_beam.metrics import Metrics
from apache_beam.transforms.core import RestrictionProvider, WatermarkEstimatorProvider
from apache_beam.transforms.window import GlobalWindow, TimestampedValue
from apache_beam.utils.timestamp import MIN_TIMESTAMP, Duration

from fibflow.io import tables
from fibflow.io.lake import Lake
from fibflow.io.landed import landed_rows
from fibflow.io.live import LiveReader
from fibflow.io.storage import LakeError
from fibflow.io.watermark import SteppedWatermark
from fibflow.transforms.calendar import TradingCalendar
from fibflow.transforms.history import Note, with_note
from fibflow.transforms.partials import as_arrow, numbers
from fibflow.transforms.schemas import DAILY_ROWS

CHECK_S = 5.0
#: In the place of a version: nothing was sent yet, and nobody will look any more.
_BEFORE, _OVER = -1, 1 << 62
#: The version up to which everything was sent. In a tuple: Beam drops what is left of a restriction that is
#: false, and a table begins with version 0.
Reached = tuple[int]
_DONE = int(GlobalWindow().max_timestamp().micros)
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class HistoryStart:
    """What a live job knows of history when it starts; dates are days since 1970.

    Attributes:
        version: of ``bronze.daily``.
        since: the first session of the windows that are open.
        through: the last session that ticks do not make.
        filled: version of ``silver.live``, and the first session whose ``1d`` bars of it stand for official
            days, up to ``through``; None where official history goes so far.
    """

    version: int
    since: int
    through: int
    filled: tuple[int, int] | None = None


class _Tracker(RestrictionTracker):
    """Tracks the version up to which all was sent."""

    def __init__(self, reached: Reached) -> None:
        self._reached = reached
        self._deferred = False

    def current_restriction(self) -> Reached:
        """Return the version."""
        return self._reached

    def current_progress(self) -> RestrictionProgress:
        """Return that there is as much to do as ever."""
        return RestrictionProgress(completed=1.0, remaining=1.0)

    def check_done(self) -> bool:
        """Raise a ValueError where nobody will look on."""
        if not self._deferred and self._reached != (_OVER,):
            raise ValueError("history is neither deferred nor at its end")
        return True

    def try_split(self, fraction_of_remainder: float) -> tuple[Reached, Reached] | None:
        """Defer everything; refuse any other split, and a second one."""
        if fraction_of_remainder or self._deferred or self._reached == (_OVER,):
            return None
        self._deferred = True
        return self._reached, self._reached

    def try_claim(self, position: Reached) -> bool:
        """Claim all up to a version, or ``_OVER``; False where the rest was deferred meanwhile."""
        if self._deferred:
            return False
        self._reached = position
        return True

    def is_bounded(self) -> bool:
        """Return False."""
        return False


class _Restrictions(RestrictionProvider):
    """Makes the restriction."""

    def initial_restriction(self, element: HistoryStart) -> Reached:
        """Return that nothing was sent."""
        return (_BEFORE,)

    def create_tracker(self, restriction: Reached) -> _Tracker:
        """Return a tracker."""
        return _Tracker(restriction)

    def restriction_coder(self) -> beam_coders.Coder:
        """Return a coder of one integer."""
        return beam_coders.TupleCoder((beam_coders.VarIntCoder(),))

    def restriction_size(self, element: HistoryStart, restriction: Reached) -> int:
        """Return one."""
        return 1

    def truncate(self, element: HistoryStart, restriction: Reached) -> None:
        """Return None: a job that drains stops looking."""


class _Watermarks(WatermarkEstimatorProvider):
    """Makes the watermark."""

    def initial_estimator_state(self, element: HistoryStart, restriction: Reached) -> int:
        """Return the beginning of time."""
        return int(MIN_TIMESTAMP.micros)

    def create_watermark_estimator(self, estimator_state: int) -> SteppedWatermark:
        """Return one that goes on from its state."""
        return SteppedWatermark(estimator_state)

    def estimator_state_coder(self) -> beam_coders.Coder:
        """Return a coder of integers."""
        return beam_coders.VarIntCoder()


_RESTRICTION: Any = beam.DoFn.RestrictionParam(_Restrictions())
_WATERMARK: Any = beam.DoFn.WatermarkEstimatorParam(_Watermarks())


@beam.typehints.with_input_types(HistoryStart)
@beam.typehints.with_output_types(pa.Table)
class ReadHistory(beam.DoFn):
    """Sends the days of open windows, then looks now and then for what was landed since.

    A lake that does not answer is asked again at the next look.

    Args:
        lake: with ``bronze.daily``.
        calendar: of the bars.
        check_s: from one look to the next.
        stop_at_end: look no more after the first rows; for tests and tools.
    """

    def __init__(self, lake: Lake, calendar: TradingCalendar, check_s: float, stop_at_end: bool) -> None:
        self._lake, self._calendar = lake, calendar
        self._every, self._stop = check_s, stop_at_end

    @beam.DoFn.unbounded_per_element()
    def process(
        self, element: HistoryStart, tracker: Any = _RESTRICTION, watermark: Any = _WATERMARK
    ) -> Iterator[TimestampedValue]:
        """Yield elements of ``transforms.history``."""
        (version,) = tracker.current_restriction()
        try:
            reached, made = self.look(element, version)
        except LakeError as error:
            Metrics.counter("history", "errors").inc()
            _LOG.warning("history was not read, another try follows: %s", error)
            reached, made = version, []
        is_over = self._stop and reached > _BEFORE
        if tracker.try_claim((_OVER if is_over else reached,)):
            if reached > _BEFORE:
                watermark.advance(_DONE)
            for rows in made:
                Metrics.counter("history", "rows").inc(len(rows))
                yield TimestampedValue(rows, watermark.current_watermark())
            if not is_over:
                tracker.defer_remainder(Duration(self._every))

    def look(self, start: HistoryStart, version: int) -> tuple[int, list[pa.Table]]:
        """Return up to which version was looked, and what is new after ``version``.

        Raises:
            LakeError: the lake cannot be read.
        """
        table = self._lake.table(tables.DAILY)
        whole = Note(start.version, start.through, start.since)
        if version == _BEFORE:
            return start.version, [*self._filled(start), self._all(whole)]
        head = table.version
        if head <= version:
            return version, []
        note = Note(head, start.through)
        try:
            found = landed_rows(table, version, head, DAILY_ROWS.names, start.since)
        except LakeError:
            # The log may not reach back so far; if the lake is gone, so is this.
            found = None
        if found is None:
            return head, [self._all(Note(head, start.through, start.since))]
        rows, _ = found
        return head, [with_note(rows, note)] if len(rows) else []

    def _all(self, note: Note) -> pa.Table:
        snapshot = self._lake.table(tables.DAILY).snapshot(note.version)
        rows, _ = snapshot.read(DAILY_ROWS.names, None, note.since, dictionary=["symbol"])
        return with_note(rows, note)

    def _filled(self, start: HistoryStart) -> Iterator[pa.Table]:
        """Yield the days that an earlier job made of ticks."""
        if start.filled is None:
            return
        version, since = start.filled
        days = filled_days(self._lake, self._calendar, version, since, start.through)
        yield with_note(days, Note(0, start.through, official=False))


def filled_days(lake: Lake, calendar: TradingCalendar, version: int, since: int, through: int) -> pa.Table:
    """Return the final ``1d`` bars of ``silver.live``, of sessions ``since`` to ``through``, as DAILY_ROWS.

    Raises:
        LakeError: they cannot be read.
    """
    first, last = calendar.positions(np.array([since, through])).tolist()
    bounds = int(calendar.day_starts[first]), int(calendar.day_ends[last])
    bars = LiveReader(lake).bars(None, "1d", *bounds, as_of=version)
    bars = bars.filter(pc.field("final"))
    session = calendar.days[calendar.positions_at(numbers(bars, "ts"))]
    columns: dict[str, Any] = {name: bars[name] for name in bars.column_names}
    columns |= {"session": as_arrow(session).view(pa.date32()), "symbol": bars["symbol"].dictionary_encode()}
    return pa.table([columns[name] for name in DAILY_ROWS.names], schema=DAILY_ROWS)


@dataclass
class TailHistory(beam.PTransform):
    """Read official history, and go on reading what is landed.

    Input: the pipeline's beginning. Output: an unbounded PCollection of tables, elements of
    ``transforms.history``, in the global window.

    Attributes:
        lake: with ``bronze.daily``.
        start: what is known when the job starts.
        calendar: of the bars.
        check_s: from one look to the next.
        stop_at_end: look no more after the first rows.
    """

    lake: Lake
    start: HistoryStart
    calendar: TradingCalendar
    check_s: float = CHECK_S
    stop_at_end: bool = False

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, begin: pvalue.PBegin) -> pvalue.PCollection:
        """Create the one element, and read it."""
        read = ReadHistory(self.lake, self.calendar, self.check_s, self.stop_at_end)
        start = begin | "Start" >> beam.Create([self.start], reshuffle=False)
        return start | "Read" >> beam.ParDo(read)
