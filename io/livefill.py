"""Filling the closed bars of the live store from the lake, after Redis has lost them, while a job runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam import coders
from apache_beam.metrics import Metrics
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.utils.timestamp import Timestamp

from fibflow.io import tables
from fibflow.io.lake import Lake
from fibflow.io.live import LiveReader
from fibflow.io.liveredis import LiveStoreError
from fibflow.io.livestore import LiveStore, refill_closed
from fibflow.io.storage import LakeError
from fibflow.transforms.calendar import TradingCalendar
from fibflow.transforms.schemas import TIMESTAMP
from fibflow.transforms.timeframe import Timeframe

CHECK_S = 5.0

_MICROS = 1_000_000
_SESSION_MINUTES = 390
#: Bars of a symbol that one table holds at most: of 5,350 symbols some millions of rows.
_BARS_AT_ONCE = 400
_LOG = logging.getLogger(__name__)


def last_bars(
    lake: Lake, timeframes: Sequence[Timeframe], calendar: TradingCalendar, keep: int
) -> Iterator[pa.Table]:
    """Yield the last bars of ``silver.live``, some sessions of one timeframe a table.

    They are those of as many sessions as hold ``keep`` bars of a symbol that trades every minute of regular
    hours; of one that rarely trades there are fewer.

    Args:
        lake: that a stream writes; nothing is yielded where it has not begun.
        timeframes: of the bars.
        calendar: of the bars.
        keep: how many bars of a symbol and timeframe are wanted.

    Raises:
        LakeError: the lake cannot be read.
    """
    reader = LiveReader(lake)
    if not lake.table(tables.LIVE).exists:
        return
    for timeframe in timeframes:
        files = reader.snapshot().files
        newest = files.filter(pc.field("partition.timeframe") == timeframe.name)["max.ts"]
        instant = pc.max(newest.cast(TIMESTAMP)).cast(pa.int64()).as_py()
        if instant is None:
            continue
        last = int(np.searchsorted(calendar.day_starts, instant, side="right")) - 1
        a_session = max(1, _SESSION_MINUTES // timeframe.minutes) if timeframe.is_intraday else 1
        length = max(1, timeframe.sessions)
        # One more: the last session may have just begun.
        first = max(0, last - -(-keep // a_session) * length)
        step = max(1, _BARS_AT_ONCE // a_session) * length
        for begin in range(first, last + 1, step):
            stop = min(begin + step, last + 1) - 1
            within = int(calendar.day_starts[begin]), int(calendar.day_ends[stop])
            yield reader.bars(None, timeframe.name, *within)


@beam.typehints.with_input_types(tuple[str, bytes])
class FillClosed(beam.DoFn):
    """Looks at the live store every few seconds, and fills its closed bars where it lacks them.

    Input: (name, anything), of one name: the first begins it. The filling goes on beside the bundles. A
    store that lacks bars is left alone for ``settle_s``: the lake gets a bar some seconds after the store
    does, and what the store got last before it was lost is to be in the lake first.

    Args:
        store: not opened yet.
        bars: gives tables of bars to fill it with.
        owner: names the job's run.
        settle_s: as long as a bar may take from its close into the lake.
        check_s: from one look to the next.
        clock: seconds since 1970.
    """

    #: When the timer is set for, UTC microseconds; as old as the job.
    DUE_AT = beam.DoFn.StateParam(ReadModifyWriteStateSpec("due_at", coders.VarIntCoder()))
    DUE = TimerSpec("due", TimeDomain.REAL_TIME)
    _DUE = beam.DoFn.TimerParam(DUE)

    def __init__(
        self,
        store: LiveStore,
        bars: Callable[[], Iterator[pa.Table]],
        owner: str,
        settle_s: float = 30.0,
        check_s: float = CHECK_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._bars, self._owner = store, bars, owner
        self._settle, self._every, self._clock = settle_s, check_s, clock

    def setup(self) -> None:
        """Make a store and a thread of this instance's own."""
        self._store = replace(self._store)
        self._pool = ThreadPoolExecutor(1, "fill-closed")
        self._filling: Future[int | None] | None = None
        self._lacking: tuple[str, float] | None = None

    def teardown(self) -> None:
        """Wait for what is under way, and close the store."""
        self._pool.shutdown(cancel_futures=True)
        self._store.close()

    def process(self, element: tuple[str, bytes], due_at: Any = DUE_AT, due: Any = _DUE) -> None:
        """Set the timer where it is not set."""
        if due_at.read() is None:
            self._set(due_at, due)

    @on_timer(DUE)
    def on_due(self, due_at: Any = DUE_AT, due: Any = _DUE) -> None:
        """Look, and set the timer again."""
        at, now = due_at.read(), self._clock()
        self.look(now)
        # A runner whose input has ended does not wait for its timers: one set again would never end.
        if at is not None and now >= at / _MICROS - self._every / 2:
            self._set(due_at, due)

    def _set(self, due_at: Any, due: Any) -> None:
        at = int((self._clock() + self._every) * _MICROS)
        due_at.write(at)
        due.set(Timestamp(micros=at))

    def look(self, now: float) -> None:
        """Begin to fill where the store has lacked bars for long enough; count what was filled.

        A store or a lake that does not answer is asked again at the next look.
        """
        if self._filling is not None:
            if not self._filling.done():
                return
            self._tell(self._filling)
            self._filling = None
        try:
            status = self._store.status()
        except LiveStoreError:
            return
        if status.filled:
            self._lacking = None
            return
        if self._lacking is None or self._lacking[0] != status.marker:
            self._lacking = status.marker, now
        if now >= self._lacking[1] + self._settle:
            self._filling = self._pool.submit(self._fill)

    def _fill(self) -> int | None:
        return refill_closed(self._store, self._bars(), owner=self._owner)

    def _tell(self, done: Future[int | None]) -> None:
        try:
            written = done.result()
        except (LiveStoreError, LakeError) as error:
            Metrics.counter("live", "fill_errors").inc()
            _LOG.warning("closed bars were not filled, another try follows: %s", error)
            return
        if written is not None:
            Metrics.counter("live", "closed_filled").inc(written)
