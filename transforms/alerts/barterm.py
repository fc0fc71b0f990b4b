"""Terms of alerts on bars: two operands and how they are held against each other."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from fibflow.transforms.alerts.errors import DefinitionError
from fibflow.transforms.timeframe import Timeframe, TimeframeError

MOST_BARS = 500
MOST_BACK = 500
#: Of a field that is not known, as far as it is told.
_LONGEST_NAME = 64
#: Fields of a bar, in the order in which the kernel keeps them.
FIELDS = ("open", "high", "low", "close", "volume", "vwap", "trade_count")


class Kind(IntEnum):
    """What an operand is."""

    VALUE = 0
    FIELD = 1
    AVERAGE = 2
    HIGHEST = 3
    LOWEST = 4


class Compare(IntEnum):
    """How a term holds its left operand against its right one."""

    ABOVE = 0
    BELOW = 1
    AT_LEAST = 2
    AT_MOST = 3
    CROSSES_UP = 4
    CROSSES_DOWN = 5


class Unit(IntEnum):
    """What a number is of, which says what a split makes of it."""

    PRICE = 0
    VOLUME = 1
    COUNT = 2


KINDS = {kind.name.lower(): kind for kind in Kind}
COMPARES = {each.name.lower(): each for each in Compare}
CROSSINGS = (Compare.CROSSES_UP, Compare.CROSSES_DOWN)


@dataclass(frozen=True)
class Operand:
    """A number, a field of a bar, or what a field of some bars adds up to.

    Attributes:
        kind: name, of ``KINDS``.
        value: of ``value``.
        field: of the others: name, of ``FIELDS``.
        timeframe: of their bars, its canonical name; empty for ``value``.
        back: of ``field``: how many bars before the one that has just closed; of another timeframe than the
            trigger's 1 is the last that had closed.
        bars: of the others: how many, the last of them the one before the bar that has just closed.
        times: a factor.
    """

    kind: str
    value: float = 0.0
    field: str = ""
    timeframe: str = ""
    back: int = 0
    bars: int = 0
    times: float = 1.0

    @property
    def unit(self) -> Unit | None:
        """What it is of; None for a number, which is of what it is held against."""
        if self.kind == "value":
            return None
        return {"volume": Unit.VOLUME, "trade_count": Unit.COUNT}.get(self.field, Unit.PRICE)

    @classmethod
    def from_json(cls, told: Any, trigger: str, field: str) -> Operand:
        """Read one; ``trigger`` is the timeframe where it names none.

        Raises:
            DefinitionError: what it is cannot be told.
        """
        check_object(told, field)
        kinds = [name for name in KINDS if name in told]
        if len(kinds) != 1:
            raise DefinitionError(field, f"give one of {', '.join(KINDS)}")
        kind = kinds[0]
        if kind == "value":
            check_known(told, ("value", "times"), field)
            value = _number(told["value"], f"{field}.value")
            return cls(kind, value=value, times=_times(told, field))
        count = "back" if kind == "field" else "bars"
        check_known(told, (kind, "timeframe", count, "times"), field)
        timeframe = read_timeframe(told.get("timeframe", trigger), f"{field}.timeframe")
        if told[kind] not in FIELDS:
            raise DefinitionError(f"{field}.{kind}", f"choose one of {', '.join(FIELDS)}")
        if kind == "field":
            back = _whole(told.get("back", int(timeframe != trigger)), f"{field}.back")
            return cls(kind, field=told[kind], timeframe=timeframe, back=back, times=_times(told, field))
        if "bars" not in told:
            raise DefinitionError(f"{field}.bars", f"say of how many, 1 to {MOST_BARS}")
        bars = _whole(told["bars"], f"{field}.bars")
        return cls(kind, field=told[kind], timeframe=timeframe, bars=bars, times=_times(told, field))

    def __str__(self) -> str:
        """Return it in words."""
        times = "" if self.times == 1.0 else f"{self.times:g} x "
        if self.kind == "value":
            return f"{times}{self.value:g}"
        if self.kind == "field":
            back = f" ({self.back} back)" if self.back else ""
            return f"{times}{self.timeframe} {self.field}{back}"
        return f"{times}{self.kind} {self.timeframe} {self.field} of {self.bars} bars"

    def as_json(self, trigger: str) -> dict[str, Any]:
        """Return it as JSON values, without what goes without saying."""
        found: dict[str, Any] = {self.kind: self.value if self.kind == "value" else self.field}
        if self.bars:
            found["bars"] = self.bars
        if self.timeframe not in ("", trigger):
            found["timeframe"] = self.timeframe
        if self.back != int(self.timeframe not in ("", trigger)) and self.kind == "field":
            found["back"] = self.back
        if self.times != 1.0:
            found["times"] = self.times
        return found

    def check(self, trigger: str, field: str) -> None:
        """Refuse what cannot be.

        Raises:
            DefinitionError: the first thing that is wrong.
        """
        if self.kind == "value":
            _number(self.value, f"{field}.value")
        elif self.kind == "field":
            least = int(self.timeframe != trigger)
            if not least <= self.back <= MOST_BACK:
                why = ": 1 is the last that had closed" if least else ""
                raise DefinitionError(f"{field}.back", f"give {least} to {MOST_BACK}{why}")
        elif not 1 <= self.bars <= MOST_BARS:
            raise DefinitionError(f"{field}.bars", f"give 1 to {MOST_BARS}")
        if not (math.isfinite(self.times) and self.times > 0):
            raise DefinitionError(f"{field}.times", "give a finite factor above 0")


@dataclass(frozen=True)
class Term:
    """One comparison; ``operator`` is a name of ``COMPARES``.

    ``crosses_up``: at the bar of the trigger's timeframe before, left was less than right, and now is not;
    ``crosses_down``: it was more, and now is not.
    """

    left: Operand
    operator: str
    right: Operand

    @property
    def unit(self) -> Unit:
        """What both sides are of."""
        unit = self.left.unit if self.left.unit is not None else self.right.unit
        assert unit is not None
        return unit

    def __str__(self) -> str:
        """Return it in words."""
        return f"{self.left} {self.operator.replace('_', ' ')} {self.right}"

    @property
    def is_crossing(self) -> bool:
        """Whether it looks at the bar before, too."""
        return COMPARES[self.operator] in CROSSINGS

    @classmethod
    def from_json(cls, told: Any, trigger: str, field: str) -> Term:
        """Read one.

        Raises:
            DefinitionError: what it is cannot be told.
        """
        check_object(told, field)
        check_known(told, ("left", "operator", "right"), field)
        for name in ("left", "operator", "right"):
            if name not in told:
                raise DefinitionError(f"{field}.{name}", "it is missing: a term has left, operator and right")
        if not isinstance(told["operator"], str) or told["operator"] not in COMPARES:
            raise DefinitionError(f"{field}.operator", f"choose one of {', '.join(COMPARES)}")
        left, right = (
            Operand.from_json(told[side], trigger, f"{field}.{side}") for side in ("left", "right")
        )
        return cls(left, told["operator"], right)

    def as_json(self, trigger: str) -> dict[str, Any]:
        """Return it as JSON values."""
        left, right = self.left.as_json(trigger), self.right.as_json(trigger)
        return {"left": left, "operator": self.operator, "right": right}

    def check(self, trigger: str, field: str) -> None:
        """Refuse what cannot be.

        Raises:
            DefinitionError: the first thing that is wrong.
        """
        for side in ("left", "right"):
            getattr(self, side).check(trigger, f"{field}.{side}")
        units = {side.unit for side in (self.left, self.right)} - {None}
        if not units:
            raise DefinitionError(field, "two numbers are held against each other: name a bar's field")
        if len(units) > 1:
            names = " and ".join(side.field for side in (self.left, self.right))
            raise DefinitionError(field, f"{names} are not of one kind: prices, volume, and counts of trades")
        if self.left == self.right:
            raise DefinitionError(field, "left and right are the same")
        if self.is_crossing:
            length = Timeframe.parse(trigger)
            for side in ("left", "right"):
                other = getattr(self, side).timeframe
                if other and Timeframe.parse(other) < length:
                    why = f"a crossing looks at bars of the trigger's timeframe {trigger} or a longer one"
                    raise DefinitionError(f"{field}.{side}.timeframe", why)


def read_timeframe(told: Any, field: str) -> str:
    """Return the canonical name of a timeframe."""
    try:
        return Timeframe.parse(told if isinstance(told, str) else "").name
    except TimeframeError:
        raise DefinitionError(field, "write <N>m, <N>h or <N>d, such as 5m, 4h or 13d") from None


def check_object(told: Any, field: str) -> None:
    """Refuse what is no JSON object."""
    if not isinstance(told, dict):
        raise DefinitionError(field, "give an object with named fields")


def check_known(told: dict[str, Any], names: Iterable[str], field: str) -> None:
    """Refuse a field that is not among ``names``."""
    names = tuple(names)
    for name in told:
        if name not in names:
            shown = name if name.isidentifier() else ascii(name)
            why = f"it is not known here: there are {', '.join(names)}"
            raise DefinitionError(f"{field}.{shown[:_LONGEST_NAME]}", why)


def _number(told: Any, field: str) -> float:
    if isinstance(told, bool) or not isinstance(told, int | float) or not _is_finite(told):
        raise DefinitionError(field, "give a finite number")
    return float(told)


def _is_finite(told: int | float) -> bool:
    try:
        return math.isfinite(told)
    except OverflowError:
        return False


def _whole(told: Any, field: str) -> int:
    if isinstance(told, bool) or not isinstance(told, int):
        raise DefinitionError(field, "give a whole number")
    return told


def _times(told: dict[str, Any], field: str) -> float:
    return _number(told.get("times", 1.0), f"{field}.times")
