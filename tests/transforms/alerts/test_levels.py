"""The screen lets through whatever an exact look would find."""

from __future__ import annotations

import numpy as np
import pytest

from fibflow.tests.transforms.alerts.oracle import reached, undone
from fibflow.tests.transforms.tables import calendar
from fibflow.transforms.alerts import levels
from fibflow.transforms.alerts.rows import ROW, State
from fibflow.transforms.alerts.schema import ALWAYS, NEVER, Frequency, Operator, Reference
from fibflow.transforms.timeframe import IntradayAnchor

OPERATORS = [each for each in Operator if each is not Operator.ENDED]
NOTHING = np.zeros(1)


def rows(**values: object) -> np.ndarray:
    made = np.zeros(1, ROW)
    for name, value in {"end": ALWAYS, "fired": NEVER, "frequency": Frequency.EVERY_TIME, **values}.items():
        made[name] = value
    return made


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda each: each.name.lower())
@pytest.mark.parametrize("state", [State.ARMED, State.DISARMED], ids=lambda each: each.name.lower())
def test_what_moves_a_row_passes_its_screen(operator, state):
    reference = Reference.CREATION_PRICE if "PERCENT" in operator.name else Reference.NONE
    value = 4.0 if reference else 100.0
    own = rows(
        operator=operator, state=state, value=value, reference=reference, reference_price=100.0, rearm=2
    )
    found = levels.of_rows(own, NOTHING, None)
    held = levels.Held(1)
    held.put(np.zeros(1, np.int64), found)
    held.aim(np.zeros(1, np.int64), own, calendar("XNYS"), IntradayAnchor.MIDNIGHT)
    ((reach, fall, beyond),) = held.screen.tolist()
    up, down = (104.0, 96.0) if reference else (100.0, 100.0)
    passed, moved = set(), set()
    for before in range(90, 111):
        for price in range(90, 111):
            most, least = max(before, price), min(before, price)
            if (most >= reach and least <= fall) or most >= beyond:
                passed.add((before, price))
            if state is State.ARMED and reached(operator, price, before, up, down) is not None:
                moved.add((before, price))
            if state is State.DISARMED and undone(operator, price, up, down, 2.0):
                moved.add((before, price))
    assert moved
    assert moved <= passed
    assert len(passed) < 21 * 21


def test_what_is_not_known_passes_no_screen():
    own = rows(operator=Operator.PERCENT, value=1.0, reference=Reference.PREVIOUS_CLOSE)
    held = levels.Held(1)
    held.put(np.zeros(1, np.int64), levels.of_rows(own, np.full(1, np.nan), None))
    held.aim(np.zeros(1, np.int64), own, calendar("XNYS"), IntradayAnchor.MIDNIGHT)
    ((_, fall, beyond),) = held.screen.tolist()
    assert np.isnan([fall, beyond]).all()


def test_ten_percent_above_a_hundred_are_a_hundred_and_ten():
    own = rows(operator=Operator.PERCENT, value=10.0, reference=Reference.PREVIOUS_CLOSE)
    found = levels.of_rows(own, np.full(1, 100.0), None)
    assert (found.up.tolist(), found.down.tolist()) == ([110.0], [90.0])
