"""What prices are held against: the levels of rows in one session's units, and the screen before them.

A level counts upward (``up``) or downward (``down``): above, crosses_up and percent_up have the one,
below, crosses_down and percent_down the other, crosses and percent both; what a row lacks is infinite, a
level that is not known is NaN, and no price reaches either. ``back`` is how far a price must come back to
arm again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fibflow.transforms.alerts.rows import Rows, State, quiet_until
from fibflow.transforms.alerts.schema import ALWAYS, Operator, Reference
from fibflow.transforms.calendar import TradingCalendar
from fibflow.transforms.timeframe import IntradayAnchor

Bool = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

_UPWARD = (
    Operator.ABOVE,
    Operator.CROSSES_UP,
    Operator.CROSSES,
    Operator.PERCENT_UP,
    Operator.PERCENT,
)
_DOWNWARD = (
    Operator.BELOW,
    Operator.CROSSES_DOWN,
    Operator.CROSSES,
    Operator.PERCENT_DOWN,
    Operator.PERCENT,
)


def _which(*operators: Operator) -> Bool:
    """Return for each operator's number whether it is among some."""
    return np.isin(np.arange(len(Operator)), [int(each) for each in operators])


#: By operator: whether it has a level upward, and downward; whether the price before must be on the other
#: side; whether a price must go beyond the level, not just reach it; whether its value is a percentage.
HAS_UP, HAS_DOWN = _which(*_UPWARD), _which(*_DOWNWARD)
IS_EDGE = _which(Operator.CROSSES_UP, Operator.CROSSES_DOWN, Operator.CROSSES)
IS_STRICT = _which(Operator.ABOVE, Operator.BELOW)
_IS_PERCENTAGE = _which(Operator.PERCENT_UP, Operator.PERCENT_DOWN, Operator.PERCENT)


@dataclass(frozen=True)
class Levels:
    """Levels of rows, in the units of one session; shape (n,) each."""

    up: Float64
    down: Float64
    back: Float64


def of_rows(rows: Rows, closes: Float64, factors: Float64 | None) -> Levels:
    """Return the levels of rows.

    Args:
        rows: of ``ROW``, shape (n,).
        closes: the previous close of each row's symbol, NaN for none.
        factors: by how much splits since each row's ``basis`` rescale it; None for not at all.
    """
    operator = rows["operator"]
    value, reference, back = rows["value"], rows["reference_price"], rows["rearm"]
    if factors is not None:
        scaled, reference, back = value * factors, reference * factors, back * factors
    else:
        scaled = value
    reference = np.where(rows["reference"] == Reference.PREVIOUS_CLOSE, closes, reference)
    # In this order 10 percent above 100 is 110, to the bit.
    percentage = _IS_PERCENTAGE[operator]
    up = np.where(percentage, reference * (100 + value) / 100, scaled)
    down = np.where(percentage, reference * (100 - value) / 100, scaled)
    return Levels(np.where(HAS_UP[operator], up, np.inf), np.where(HAS_DOWN[operator], down, -np.inf), back)


class Held:
    """Levels and screens of a bucket's rows; arrays of shape (n,), a row each.

    A batch of prices of a row's path, the one before them included, may move the row only where its greatest
    is at least ``reach`` and its least at most ``fall``, or its greatest at least ``beyond``; and its last is
    not before ``quiet``.
    """

    def __init__(self, count: int) -> None:
        self.up, self.down, self.back = (np.full(count, np.nan) for _ in range(3))
        #: ``reach``, ``fall`` and ``beyond`` of a row stand together: they are asked for together.
        self.screen = np.full((count, 3), np.nan)
        self.quiet = np.full(count, ALWAYS)

    def insert(self, at: Int64) -> None:
        """Make room for rows before others; nothing moves them yet."""
        for name, value in vars(self).items():
            nothing = ALWAYS if name == "quiet" else np.nan
            setattr(self, name, np.insert(value, at, nothing, axis=0))

    def keep(self, which: Bool) -> None:
        """Forget the other rows."""
        for name, value in vars(self).items():
            setattr(self, name, value[which])

    def put(self, where: Int64, found: Levels) -> None:
        """Set levels of rows."""
        self.up[where], self.down[where], self.back[where] = found.up, found.down, found.back

    def aim(self, where: Int64, rows: Rows, calendar: TradingCalendar, anchor: IntradayAnchor) -> None:
        """Set the screen of rows by their levels and their state."""
        up, down, back = self.up[where], self.down[where], self.back[where]
        has_up, has_down = HAS_UP[rows["operator"]], HAS_DOWN[rows["operator"]]
        edge, both = IS_EDGE[rows["operator"]], has_up & has_down
        armed = rows["state"] == State.ARMED
        # Armed: a crossing needs prices on both sides. Of two levels, either will do.
        reach = np.where(has_up & ~(both & ~edge), up, np.where(edge, down, -np.inf))
        fall = np.where(has_down, down, np.where(edge, up, np.inf))
        beyond = np.where(both & ~edge, up, np.inf)
        # Disarmed: back on the other side of the level; of a crossing of both sides, away from it on either.
        away = both & edge
        reach = np.where(armed, reach, np.where(has_down & ~away, down + back, -np.inf))
        fall = np.where(armed, fall, np.where(has_up, up - back, np.inf))
        beyond = np.where(armed, beyond, np.where(away, up + back, np.inf))
        self.screen[where] = np.column_stack((reach, fall, beyond))
        self.quiet[where] = quiet_until(rows, calendar, anchor)
