"""``EvaluateInTime``: ``EvaluateAlerts``, with prices that wait for the changes in force for them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam import coders as beam_coders
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec

from fibflow.transforms.alerts.dofn import EvaluateAlertsFn
from fibflow.transforms.alerts.hold import HELD, KNOWN, Hold, HoldPolicy, split_told
from fibflow.transforms.alerts.live import Plan
from fibflow.transforms.calendar import TradingCalendar
from fibflow.transforms.livedofn import BeamCells
from fibflow.transforms.timeframe import IntradayAnchor

_MICROS = 1_000_000


class EvaluateInTimeFn(EvaluateAlertsFn):
    """Evaluates (bucket, table) when its turn has come; ``hold`` says when that is.

    Args:
        plan: what all buckets share.
        policy: how long prices wait.
        clock: seconds since 1970.
    """

    #: Prices that wait, as ``hold`` has them; cleared when they are let out.
    _HELD = beam.DoFn.StateParam(BagStateSpec(HELD, beam_coders.BytesCoder()))
    #: As old as the key.
    _KNOWN = beam.DoFn.StateParam(ReadModifyWriteStateSpec(KNOWN, beam_coders.BytesCoder()))

    def __init__(self, plan: Plan, policy: HoldPolicy, clock: Callable[[], float] = time.time) -> None:
        super().__init__(plan)
        self._policy, self._clock = policy, clock

    def process(
        self,
        element: tuple[int, pa.Table],
        head: Any = EvaluateAlertsFn._HEAD,
        names: Any = EvaluateAlertsFn._NAMES,
        last: Any = EvaluateAlertsFn._LAST,
        facts: Any = EvaluateAlertsFn._FACTS,
        alerts: Any = EvaluateAlertsFn._ALERTS,
        moves: Any = EvaluateAlertsFn._MOVES,
        held: Any = _HELD,
        known: Any = _KNOWN,
    ) -> Iterator[pa.Table]:
        """Yield tables of what fired."""
        key, table = element
        hold = Hold(self._policy, BeamCells({HELD: held, KNOWN: known}), int(self._clock() * _MICROS))
        for each in hold.take(table):
            yield from super().process((key, each), head, names, last, facts, alerts, moves)


@dataclass
class EvaluateInTime(beam.PTransform):
    """Hold prices against the alerts that are in force for them.

    Input and output as of ``EvaluateAlerts``. Tables of changes and facts say, now and then, up to which
    instant all is told (``hold.with_through``): before they have, prices wait.

    Attributes:
        calendar: the exchange's.
        intraday_anchor: as of the job's bars.
        buckets: into how many keys symbols are hashed; fixed for the life of a job.
        policy: how long prices wait.
        clock: seconds since 1970; a named function, for it is pickled.
    """

    calendar: TradingCalendar
    intraday_anchor: IntradayAnchor = IntradayAnchor.MIDNIGHT
    buckets: int = 16
    policy: HoldPolicy = field(default_factory=HoldPolicy)
    clock: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, inputs: tuple[beam.PCollection, ...]) -> beam.PCollection:
        """Split all inputs by bucket, and evaluate them in one place."""
        split = [
            tables
            | f"ByBucket{number}"
            >> beam.FlatMap(split_told, self.buckets).with_output_types(tuple[int, pa.Table])
            for number, tables in enumerate(inputs)
        ]
        plan = Plan(self.calendar, self.intraday_anchor, self.buckets)
        evaluate = beam.ParDo(EvaluateInTimeFn(plan, self.policy, self.clock))
        keyed = split | "Together" >> beam.Flatten()
        return keyed | "Evaluate" >> evaluate.with_output_types(pa.Table)
