"""An alert as its owner states it: what may be asked for, and what is refused with a reason."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fibflow.transforms.alerts.barcondition import BAR_FREQUENCIES, BarCondition
from fibflow.transforms.alerts.errors import DefinitionError as DefinitionError
from fibflow.transforms.alerts.schema import Frequency, Operator, Reference
from fibflow.transforms.timeframe import Timeframe, TimeframeError

#: By name, what a price can be held against.
OPERATORS = {
    "above": Operator.ABOVE,
    "below": Operator.BELOW,
    "crosses_up": Operator.CROSSES_UP,
    "crosses_down": Operator.CROSSES_DOWN,
    "crosses": Operator.CROSSES,
    "percent_up": Operator.PERCENT_UP,
    "percent_down": Operator.PERCENT_DOWN,
    "percent": Operator.PERCENT,
}
REFERENCES = {"previous_close": Reference.PREVIOUS_CLOSE, "creation_price": Reference.CREATION_PRICE}
FREQUENCIES = {
    "once": Frequency.ONCE,
    "bar": Frequency.BAR,
    "daily": Frequency.DAILY,
    "every_time": Frequency.EVERY_TIME,
}
PERCENTAGES = (Operator.PERCENT_UP, Operator.PERCENT_DOWN, Operator.PERCENT)
HOURS = ("regular", "extended")
LONGEST_NOTE = 128
LONGEST_COOLDOWN_S = 366 * 86_400
MOST_DESTINATIONS = 10
#: In the place of an operator's name in the events of alerts on bars.
BARS = "bars"
_LONGEST_SYMBOL = 64
#: What alerts on bars are without, and what these are then.
_OF_PRICES = {
    "operator": None,
    "value": None,
    "reference": None,
    "reference_price": None,
    "hours": "regular",
    "timeframe": None,
    "rearm": 0.0,
}


@dataclass(frozen=True)
class Definition:
    """What an alert waits for: a price, by ``operator`` and ``value``; or what ``bars`` says.

    Attributes:
        symbol: of the instrument, as its trades name it.
        operator: name, of ``OPERATORS``. ``above``/``below``: a state, strictly beyond ``value``; true at
            creation fires at the next price. ``crosses_up``: from below ``value`` to it or above;
            ``crosses_down``: from above to it or below; ``crosses``: either. They need an earlier price.
            ``percent_up``: at least ``value`` percent above the reference; ``percent_down``: below it;
            ``percent``: either.
        value: a price above 0, or a percentage above 0.
        reference: of percentages: name, of ``REFERENCES``.
        reference_price: of ``creation_price``; filled in when the alert is made.
        hours: ``regular``, or ``extended`` for all.
        frequency: name, of ``FREQUENCIES``. ``once``; ``bar``: once in each bar of ``timeframe``; ``daily``:
            once a session; ``every_time``: each time it comes true after having been undone. With ``bars``,
            of ``BAR_FREQUENCIES``; ``bar``: at each bar of its own timeframe.
        timeframe: of ``bar``: minutes or hours.
        cooldown_s: seconds after firing in which it does not fire again.
        rearm: of ``every_time``: by how much of price it must come back before it can fire again.
        expires: after which it fires no more, UTC.
        active_from: before which it does not fire, UTC; None for as soon as it is made.
        note: the owner's own words.
        destinations: ids of where events go, beside the owner's own feed.
        bars: what is to hold when a bar closes; nothing is said of prices then.
    """

    symbol: str
    operator: str | None = None
    value: float | None = None
    reference: str | None = None
    reference_price: float | None = None
    hours: str = "regular"
    frequency: str = "once"
    timeframe: str | None = None
    cooldown_s: int = 0
    rearm: float = 0.0
    expires: datetime | None = None
    active_from: datetime | None = None
    note: str = ""
    destinations: tuple[int, ...] = ()
    bars: BarCondition | None = None

    @property
    def is_percentage(self) -> bool:
        """Whether ``value`` is a percentage."""
        return self.operator is not None and OPERATORS[self.operator] in PERCENTAGES

    @property
    def span(self) -> int:
        """Minutes of a bar, for the frequency ``bar``; else 0."""
        return Timeframe.parse(self.timeframe).minutes if self.timeframe else 0

    def check(self, now: datetime | None = None, timeframes: Iterable[str | Timeframe] | None = None) -> None:
        """Refuse what cannot be.

        Args:
            now: UTC; expiry before it is refused. None: it may have passed.
            timeframes: that the job makes bars of; None: any.

        Raises:
            DefinitionError: the first thing that is wrong.
        """
        symbol = self.symbol
        if (
            not symbol
            or len(symbol) > _LONGEST_SYMBOL
            or not symbol.isprintable()
            or re.search(r"\s", symbol)
        ):
            raise DefinitionError(
                "symbol", f"give one of 1 to {_LONGEST_SYMBOL} characters without white space"
            )
        if self.bars is None:
            self._check_price()
        else:
            self._check_bars(self.bars, timeframes)
        if not 0 <= self.cooldown_s <= LONGEST_COOLDOWN_S:
            raise DefinitionError("cooldown_s", f"give 0 to {LONGEST_COOLDOWN_S} seconds")
        for name in ("expires", "active_from"):
            instant = getattr(self, name)
            if instant is not None and instant.tzinfo is None:
                raise DefinitionError(name, "give an instant with its zone, such as 2026-01-02T15:00:00Z")
        if self.expires is not None:
            if now is not None and self.expires <= now:
                raise DefinitionError("expires", "it has passed: give a later instant, or none")
            if self.active_from is not None and self.expires <= self.active_from:
                raise DefinitionError("expires", "it is not after active_from")
        if len(self.note) > LONGEST_NOTE or "\0" in self.note:
            raise DefinitionError("note", f"give at most {LONGEST_NOTE} characters, none of them NUL")
        if len(self.destinations) > MOST_DESTINATIONS:
            raise DefinitionError("destinations", f"give at most {MOST_DESTINATIONS}")

    def _check_price(self) -> None:
        if self.operator is None:
            raise DefinitionError("operator", f"choose one of {', '.join(OPERATORS)}; or give bars")
        _one_of("operator", self.operator, OPERATORS)
        _positive("value", math.nan if self.value is None else self.value)
        self._check_reference()
        _one_of("hours", self.hours, HOURS)
        _one_of("frequency", self.frequency, FREQUENCIES)
        self._check_frequency()

    def _check_bars(self, bars: BarCondition, timeframes: Iterable[str | Timeframe] | None) -> None:
        for name, absent in _OF_PRICES.items():
            if getattr(self, name) != absent:
                raise DefinitionError(name, "it is of alerts on prices: leave it out, or bars")
        _one_of("frequency", self.frequency, BAR_FREQUENCIES)
        bars.check(timeframes)

    def _check_reference(self) -> None:
        if not self.is_percentage:
            if self.reference is not None or self.reference_price is not None:
                raise DefinitionError("reference", f"{self.operator} is of a price: leave the reference out")
            return
        if self.reference is None:
            raise DefinitionError("reference", f"a percentage needs one: {' or '.join(REFERENCES)}")
        _one_of("reference", self.reference, REFERENCES)
        assert self.operator is not None
        assert self.value is not None
        if OPERATORS[self.operator] is Operator.PERCENT_DOWN and self.value >= 100:
            raise DefinitionError("value", "no price falls by 100 percent or more: give less")
        if self.reference == "creation_price":
            if self.reference_price is not None:
                _positive("reference_price", self.reference_price)
        elif self.reference_price is not None:
            raise DefinitionError("reference_price", "it is of creation_price only")

    def _check_frequency(self) -> None:
        if self.frequency == "bar":
            if self.timeframe is None:
                raise DefinitionError("timeframe", "the frequency bar needs one, such as 5m")
            try:
                is_intraday = Timeframe.parse(self.timeframe).is_intraday
            except TimeframeError as error:
                raise DefinitionError("timeframe", str(error)) from None
            if not is_intraday:
                raise DefinitionError("timeframe", "give minutes or hours; for days use the frequency daily")
        elif self.timeframe is not None:
            raise DefinitionError("timeframe", "it is for the frequency bar only")
        if not (math.isfinite(self.rearm) and self.rearm >= 0):
            raise DefinitionError("rearm", "give a distance in price, 0 or more")
        if self.rearm and self.frequency != "every_time":
            raise DefinitionError("rearm", "it is for the frequency every_time only")

    def as_json(self) -> dict[str, Any]:
        """Return the fields as JSON values; instants in UTC, as ISO 8601."""
        found = dict(vars(self))
        for name in ("expires", "active_from"):
            instant = found[name]
            found[name] = (
                None if instant is None else instant.astimezone(UTC).isoformat().replace("+00:00", "Z")
            )
        found["destinations"] = [str(each) for each in self.destinations]
        found["bars"] = None if self.bars is None else self.bars.as_json()
        return found


def _one_of(field: str, value: str, known: Any) -> None:
    if value not in known:
        raise DefinitionError(field, f"choose one of {', '.join(known)}")


def _positive(field: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise DefinitionError(field, "give a finite number above 0")
