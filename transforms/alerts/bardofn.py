"""``EvaluateBarAlerts``: bars and changes of alerts on them in, what fired out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam import coders as beam_coders
from apache_beam.metrics import Metrics
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.utils.shared import Shared
from apache_beam.utils.timestamp import Timestamp

from fibflow.transforms import beamstate, coders
from fibflow.transforms.alerts.barcells import BAGS, VALUES
from fibflow.transforms.alerts.barkernel import BarAlerts, Memo, Plan, Reader, Taken
from fibflow.transforms.alerts.paths import split_alerts
from fibflow.transforms.alerts.schema import KIND
from fibflow.transforms.calendar import TradingCalendar
from fibflow.transforms.livedofn import BeamCells
from fibflow.transforms.timeframe import MINUTE_US, Timeframe

beamstate.install()
coders.register()

#: By default, so long after the first time bars are asked for again: more than a bar takes into the lake.
SETTLE_S = 30.0
_MICROS = 1_000_000
_INPUTS = ("Bars", "Changes", "Facts")


class _Memos:
    """The memos of a process, which outlive bundles: a bucket may come to another instance of the DoFn.

    Who uses one has it alone; what an instance of an abandoned history gives back is told by its cells.
    """

    def __init__(self) -> None:
        self._idle: dict[int, Memo] = {}

    def take(self, bucket: int) -> Memo:
        """Return a bucket's memo, or a new one."""
        return self._idle.pop(bucket, None) or Memo()

    def give_back(self, bucket: int, memo: Memo) -> None:
        """Keep a memo for the bucket's next call."""
        self._idle[bucket] = memo

    def clear(self) -> None:
        """Keep none of them."""
        self._idle.clear()


def _value(name: str, coder: Any = None) -> Any:
    return beam.DoFn.StateParam(ReadModifyWriteStateSpec(name, coder or beam_coders.BytesCoder()))


def _bag(name: str) -> Any:
    return beam.DoFn.StateParam(BagStateSpec(name, beam_coders.BytesCoder()))


class EvaluateBarAlertsFn(beam.DoFn):
    """Evaluates (bucket, table of bars, changes or facts); ``barcells`` says what the state holds.

    Args:
        plan: what all buckets share.
        reader: of bars that were before the stream's; None: there are none.
        settle_s: how long after the first time bars are asked for again.
        clock: seconds since 1970.
    """

    #: Set where bars are to be asked for again.
    AGAIN = TimerSpec("again", TimeDomain.REAL_TIME)
    _HEAD, _NAMES, _SPLITS, _ASKED = map(_value, VALUES)
    _ALERTS, _TERMS, _MOVES, _BARS = map(_bag, BAGS)
    #: What the timer is set for, UTC microseconds; 0: it is not set.
    _AGAIN_AT = _value("again_at", beam_coders.VarIntCoder())
    _AGAIN = beam.DoFn.TimerParam(AGAIN)

    def __init__(
        self,
        plan: Plan,
        reader: Reader | None = None,
        settle_s: float = SETTLE_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._plan, self._reader = plan, reader
        self._settle, self._clock = int(settle_s * _MICROS), clock
        self._shared = Shared()
        self._count = {
            name: Metrics.counter("fibflow", f"bar_alert_{name}")
            for name in ("changes_in", "facts_in", "bars_in", "events_out", "refused")
        }

    def setup(self) -> None:
        """Find the memos of the process."""
        self._memos = self._shared.acquire(_Memos)
        # Beam makes a new instance after a bundle that failed: what it let out may not have been written.
        self._memos.clear()

    def process(
        self,
        element: tuple[int, pa.Table],
        head: Any = _HEAD,
        names: Any = _NAMES,
        splits: Any = _SPLITS,
        asked: Any = _ASKED,
        alerts: Any = _ALERTS,
        terms: Any = _TERMS,
        moves: Any = _MOVES,
        bars: Any = _BARS,
        again_at: Any = _AGAIN_AT,
        again: Any = _AGAIN,
    ) -> Iterator[pa.Table]:
        """Yield a table of what fired."""
        key, table = element
        kind = (table.schema.metadata or {}).get(KIND, b"bars")
        states = (head, names, splits, asked, alerts, terms, moves, bars)
        memo = self._memos.take(key)
        taken = self._take(kind, table, self._bucket(states, memo))
        self._memos.give_back(key, memo)
        if taken.awaits and not again_at.read():
            self._set(again_at, again)
        self._count["refused"].inc(taken.refused)
        if taken.events is not None:
            self._count["events_out"].inc(len(taken.events))
            yield taken.events

    @on_timer(AGAIN)
    def on_again(
        self,
        key: Any = beam.DoFn.KeyParam,
        head: Any = _HEAD,
        names: Any = _NAMES,
        splits: Any = _SPLITS,
        asked: Any = _ASKED,
        alerts: Any = _ALERTS,
        terms: Any = _TERMS,
        moves: Any = _MOVES,
        bars: Any = _BARS,
        again_at: Any = _AGAIN_AT,
        again: Any = _AGAIN,
    ) -> None:
        """Ask for bars again, and set the timer where they could not be read."""
        due, now = again_at.read() or 0, int(self._clock() * _MICROS)
        memo = self._memos.take(key)
        states = (head, names, splits, asked, alerts, terms, moves, bars)
        taken = self._bucket(states, memo).ask_again()
        self._memos.give_back(key, memo)
        again_at.write(0)
        # A runner that drains, or keeps no time, fires at once what it is given: it would go round for ever.
        if taken.awaits and now >= due - self._settle // 2:
            self._set(again_at, again)

    def _set(self, again_at: Any, again: Any) -> None:
        at = int(self._clock() * _MICROS) + self._settle
        again_at.write(at)
        again.set(Timestamp(micros=at))

    def _bucket(self, states: tuple[Any, ...], memo: Memo) -> BarAlerts:
        cells = BeamCells(dict(zip((*VALUES, *BAGS), states, strict=True)))
        return BarAlerts(self._plan, cells, memo, self._reader)

    def _take(self, kind: bytes, table: pa.Table, bucket: BarAlerts) -> Taken:
        if kind == b"bar_changes":
            self._count["changes_in"].inc(len(table))
            return bucket.take_changes(table)
        if kind == b"facts":
            self._count["facts_in"].inc(len(table))
            return bucket.take_facts(table)
        self._count["bars_in"].inc(len(table))
        return bucket.take_bars(table)


@dataclass
class EvaluateBarAlerts(beam.PTransform):
    """Judge alerts on the close of bars.

    Input: a tuple of PCollections of tables: of ``partials.BAR_BATCH``, the output ``BARS`` of
    ``AggregateBars``; of ``barbook.BAR_CHANGES``; and of ``schema.FACTS`` if there are any, whose splits
    count where bars are raw. Of each alert all changes name the same symbol.
    Output: tables of ``schema.EVENTS``. An event may come again, with the same id, after a restore.

    Attributes:
        calendar: the exchange's.
        timeframes: of the bars.
        buckets: into how many keys symbols are hashed; fixed for the life of a job.
        reader: of bars that were before the stream's; None: alerts see those of the stream only.
        lateness_us: of the bars, as their ``StreamPolicy`` has it, microseconds.
        settle_s: how long after the first time bars are asked for again: as a bar may take into the lake.
        clock: seconds since 1970; a named function, for it is pickled.
    """

    calendar: TradingCalendar
    timeframes: Iterable[Timeframe]
    buckets: int = 16
    reader: Reader | None = None
    lateness_us: int = 15 * MINUTE_US
    settle_s: float = SETTLE_S
    clock: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        super().__init__()
        self._plan = Plan(self.calendar, tuple(self.timeframes), self.buckets, self.lateness_us)

    def expand(self, inputs: tuple[beam.PCollection, ...]) -> beam.PCollection:
        """Split all inputs by bucket, and judge them in one place."""
        split = [
            tables
            | f"{name}ByBucket"
            >> beam.FlatMap(self._split, self.buckets).with_output_types(tuple[int, pa.Table])
            for name, tables in zip(_INPUTS, inputs, strict=False)
        ]
        judge = self._judge(has_facts=len(inputs) == len(_INPUTS))
        keyed = split | "Together" >> beam.Flatten()
        return keyed | "Judge" >> beam.ParDo(judge).with_output_types(pa.Table)

    _split = staticmethod(split_alerts)

    def _judge(self, has_facts: bool) -> EvaluateBarAlertsFn:
        return EvaluateBarAlertsFn(self._plan, self.reader, self.settle_s, self.clock)
