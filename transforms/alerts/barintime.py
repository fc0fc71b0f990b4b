"""``EvaluateBarsInTime``: ``EvaluateBarAlerts``, with bars that wait for the changes in force for them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam import coders as beam_coders
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec

from fibflow.transforms.alerts.bardofn import SETTLE_S, EvaluateBarAlerts, EvaluateBarAlertsFn
from fibflow.transforms.alerts.barkernel import Plan, Reader
from fibflow.transforms.alerts.hold import HELD, KNOWN, BarHold, HoldPolicy, split_told
from fibflow.transforms.livedofn import BeamCells

_MICROS = 1_000_000
#: A bar takes some times the room of a price, and they are fewer.
_MOST = 200_000


class EvaluateBarsInTimeFn(EvaluateBarAlertsFn):
    """Evaluates (bucket, table) when its turn has come; ``hold`` says when that is.

    Args:
        plan, reader, settle_s, clock: as of ``EvaluateBarAlertsFn``.
        policy: how long bars wait.
        has_facts: whether facts are told.
    """

    #: Bars that wait, as ``hold`` has them; cleared when they are let out.
    _HELD = beam.DoFn.StateParam(BagStateSpec(HELD, beam_coders.BytesCoder()))
    #: As old as the key.
    _KNOWN = beam.DoFn.StateParam(ReadModifyWriteStateSpec(KNOWN, beam_coders.BytesCoder()))

    def __init__(
        self,
        plan: Plan,
        policy: HoldPolicy,
        has_facts: bool,
        reader: Reader | None = None,
        settle_s: float = SETTLE_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(plan, reader, settle_s, clock)
        self._policy, self._has_facts = policy, has_facts

    def process(
        self,
        element: tuple[int, pa.Table],
        head: Any = EvaluateBarAlertsFn._HEAD,
        names: Any = EvaluateBarAlertsFn._NAMES,
        splits: Any = EvaluateBarAlertsFn._SPLITS,
        asked: Any = EvaluateBarAlertsFn._ASKED,
        alerts: Any = EvaluateBarAlertsFn._ALERTS,
        terms: Any = EvaluateBarAlertsFn._TERMS,
        moves: Any = EvaluateBarAlertsFn._MOVES,
        bars: Any = EvaluateBarAlertsFn._BARS,
        again_at: Any = EvaluateBarAlertsFn._AGAIN_AT,
        again: Any = EvaluateBarAlertsFn._AGAIN,
        held: Any = _HELD,
        known: Any = _KNOWN,
    ) -> Iterator[pa.Table]:
        """Yield tables of what fired."""
        key, table = element
        cells = BeamCells({HELD: held, KNOWN: known})
        hold = BarHold(self._policy, cells, int(self._clock() * _MICROS), self._has_facts)
        states = (head, names, splits, asked, alerts, terms, moves, bars, again_at, again)
        for each in hold.take(table):
            yield from super().process((key, each), *states)


@dataclass
class EvaluateBarsInTime(EvaluateBarAlerts):
    """Judge alerts on the close of bars by the versions that are in force for them.

    Input and output as of ``EvaluateBarAlerts``. Tables of changes and facts say, now and then, up to which
    instant all is told (``hold.with_through``): before they have, bars wait.

    Attributes:
        policy: how long bars wait.
    """

    policy: HoldPolicy = field(default_factory=lambda: HoldPolicy(most=_MOST))

    _split = staticmethod(split_told)

    def _judge(self, has_facts: bool) -> EvaluateBarAlertsFn:
        return EvaluateBarsInTimeFn(
            self._plan, self.policy, has_facts, self.reader, self.settle_s, self.clock
        )
