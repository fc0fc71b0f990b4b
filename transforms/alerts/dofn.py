"""``EvaluateAlerts``: prices and changes of alerts in, what fired out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam import coders as beam_coders
from apache_beam.metrics import Metrics
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec
from apache_beam.utils.shared import Shared

from fibflow.transforms import beamstate, coders
from fibflow.transforms.alerts.cells import ALERTS, FACTS, HEAD, LAST, MOVES, NAMES
from fibflow.transforms.alerts.live import LiveAlerts, Memo, Plan
from fibflow.transforms.alerts.paths import split_alerts
from fibflow.transforms.alerts.schema import kind_of
from fibflow.transforms.calendar import TradingCalendar
from fibflow.transforms.livedofn import BeamCells
from fibflow.transforms.timeframe import IntradayAnchor

beamstate.install()
coders.register()


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


def _value(name: str) -> Any:
    return beam.DoFn.StateParam(ReadModifyWriteStateSpec(name, beam_coders.BytesCoder()))


def _bag(name: str) -> Any:
    return beam.DoFn.StateParam(BagStateSpec(name, beam_coders.BytesCoder()))


class EvaluateAlertsFn(beam.DoFn):
    """Evaluates (bucket, table of changes, facts or prices); ``cells`` says what the state holds.

    Args:
        plan: what all buckets share.
    """

    _HEAD, _NAMES, _LAST, _FACTS = map(_value, (HEAD, NAMES, LAST, FACTS))
    _ALERTS, _MOVES = map(_bag, (ALERTS, MOVES))

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._shared = Shared()
        self._count = {
            name: Metrics.counter("fibflow", f"alert_{name}")
            for name in ("prices_in", "changes_in", "facts_in", "events_out")
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
        last: Any = _LAST,
        facts: Any = _FACTS,
        alerts: Any = _ALERTS,
        moves: Any = _MOVES,
    ) -> Iterator[pa.Table]:
        """Yield a table of what fired."""
        key, table = element
        self._count[f"{kind_of(table)}_in"].inc(len(table))
        states = {HEAD: head, NAMES: names, LAST: last, FACTS: facts, ALERTS: alerts, MOVES: moves}
        memo = self._memos.take(key)
        fired = LiveAlerts(self._plan, BeamCells(states), memo).take(table)
        self._memos.give_back(key, memo)
        if fired is not None:
            self._count["events_out"].inc(len(fired))
            yield fired


@dataclass
class EvaluateAlerts(beam.PTransform):
    """Hold prices against alerts.

    Input: a tuple of PCollections of tables of ``schema.PRICES``, ``schema.CHANGES`` and ``schema.FACTS``, as
    many of each as there are; a savepoint tells them by their number. Prices of a symbol are to come in
    order, as far as they can: those that are late are passed over. Of each alert all changes name the same
    symbol.
    Output: tables of ``schema.EVENTS``. An event may come again, with the same id, after a restore.

    Attributes:
        calendar: the exchange's.
        intraday_anchor: where bars of the frequency ``bar`` are counted from: as for the job's bars.
        buckets: into how many keys symbols are hashed; fixed for the life of a job.
    """

    calendar: TradingCalendar
    intraday_anchor: IntradayAnchor = IntradayAnchor.MIDNIGHT
    buckets: int = 16

    def __post_init__(self) -> None:
        super().__init__()
        self._plan = Plan(self.calendar, self.intraday_anchor, self.buckets)

    def expand(self, inputs: tuple[beam.PCollection, ...]) -> beam.PCollection:
        """Split all inputs by bucket, and evaluate them in one place."""
        split = [
            tables
            | f"ByBucket{number}"
            >> beam.FlatMap(split_alerts, self.buckets).with_output_types(tuple[int, pa.Table])
            for number, tables in enumerate(inputs)
        ]
        keyed = split | "Together" >> beam.Flatten()
        return keyed | "Evaluate" >> beam.ParDo(EvaluateAlertsFn(self._plan)).with_output_types(pa.Table)
