"""What follows from a row: how it begins, when it is quiet, when it is over."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fibflow.tests.transforms.tables import calendar, ny
from fibflow.transforms.alerts.rows import ROW, State, begin, is_dead, quiet_until
from fibflow.transforms.alerts.schema import ALWAYS, NEVER, Frequency, Operator
from fibflow.transforms.timeframe import IntradayAnchor

FIRED = ny("2024-07-02T10:07")
PLAIN = {"operator": Operator.ABOVE, "frequency": Frequency.ONCE, "end": ALWAYS, "fired": NEVER}


def row(**values: Any) -> np.ndarray:
    made = np.zeros(1, ROW)
    for name, value in {**PLAIN, **values}.items():
        made[name] = value
    return made


@pytest.mark.parametrize(
    ("values", "state"),
    [
        ({"frequency": Frequency.ONCE}, State.DONE),
        ({"frequency": Frequency.BAR}, State.ARMED),
        ({"frequency": Frequency.DAILY}, State.ARMED),
        ({"frequency": Frequency.EVERY_TIME}, State.DISARMED),
        ({"frequency": Frequency.EVERY_TIME, "operator": Operator.CROSSES}, State.ARMED),
        ({"frequency": Frequency.EVERY_TIME, "operator": Operator.CROSSES, "rearm": 1.0}, State.DISARMED),
    ],
)
def test_a_version_that_has_fired_goes_on_from_there(values, state):
    own = row(fired=FIRED, since=5, **values)
    begin(own)
    assert (own["state"].item(), own["floor"].item()) == (state, FIRED)
    own = row(since=5, **values)
    begin(own)
    assert (own["state"].item(), own["floor"].item()) == (State.ARMED, 5)


@pytest.mark.parametrize(
    ("values", "until"),
    [
        ({"fired": NEVER, "floor": 8}, 9),
        ({"frequency": Frequency.BAR, "span": 5}, ny("2024-07-02T10:10")),
        ({"frequency": Frequency.BAR, "span": 5, "cooldown": 600_000_000}, FIRED + 600_000_000),
        ({"frequency": Frequency.DAILY}, ny("2024-07-03T00:00")),
        ({"frequency": Frequency.DAILY, "fired": ny("2024-07-06T12:00")}, ny("2024-07-06T12:00")),
        ({"frequency": Frequency.EVERY_TIME, "cooldown": 5}, FIRED + 5),
        ({"frequency": Frequency.EVERY_TIME, "cooldown": 5, "state": State.DISARMED, "floor": 3}, 4),
        ({"state": State.DONE}, ALWAYS),
        ({"operator": Operator.ENDED}, ALWAYS),
    ],
)
def test_when_a_row_may_move_again(values, until):
    own = row(**{"fired": FIRED, **values})
    assert quiet_until(own, calendar("XNYS"), IntradayAnchor.MIDNIGHT).tolist() == [until]


@pytest.mark.parametrize(
    ("values", "dead"),
    [
        ({}, False),
        ({"end": 99}, True),
        ({"end": 100}, False),
        ({"state": State.DONE}, True),
        ({"operator": Operator.ENDED, "since": 99}, True),
        ({"operator": Operator.ENDED, "since": 100}, False),
    ],
)
def test_a_row_is_over_when_no_price_can_touch_it(values, dead):
    assert is_dead(row(**values), np.full(1, 100)).tolist() == [dead]
