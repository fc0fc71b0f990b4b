"""What only the server can say of an alert: whether there is such a symbol, and what its price is now."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from fibflow.io.alerts.model import ZONE, Alert
from fibflow.io.storage import LakeError
from fibflow.serving.live.prices import Prices
from fibflow.serving.reference import Reference
from fibflow.transforms.alerts.definition import OPERATORS, PERCENTAGES, Definition, DefinitionError
from fibflow.transforms.timeframe import Timeframe

#: Of how many symbols prices are looked up for one call.
MOST_PRICES = 1_000
_PRICES = ("value", "rearm", "reference_price")


@dataclass(frozen=True)
class Checks:
    """Holds alerts against what the lake and the stores of prices know. Blocks; safe for threads.

    Attributes:
        reference: symbols and splits.
        prices: last prices.
        made: gives the timeframes of which bars are made; None where that is not known.
    """

    reference: Reference
    prices: Prices
    made: Callable[[], Sequence[Timeframe] | None]

    def completed(
        self, definitions: Sequence[Definition], now: datetime, own: frozenset[int] | None = None
    ) -> list[Definition | DefinitionError]:
        """Return each definition with its reference price, or what is wrong with it.

        Args:
            definitions: as their owner states them.
            now: UTC.
            own: ids of the owner's destinations; None: they are not looked at.
        """
        made = self.made() if any(one.bars is not None for one in definitions) else None
        found = [_checked(one, now, own, made) for one in definitions]
        right = [one for one in found if isinstance(one, Definition)]
        asked = dict.fromkeys(one.symbol for one in right if _lacks_price(one))
        unknown = self._unknown({one.symbol for one in right})
        # Those that have a price are symbols, whatever the lake knows.
        wanted = [*asked, *sorted(unknown - asked.keys())]
        known = self.prices.find(wanted[:MOST_PRICES]).prices if wanted else {}
        prices = {symbol: price.price for symbol, price in known.items() if price.price > 0}
        beyond = set(wanted[MOST_PRICES:])
        return [
            one if isinstance(one, DefinitionError) else _priced(one, prices, unknown, beyond)
            for one in found
        ]

    def one(self, definition: Definition, now: datetime) -> Definition:
        """Return a definition with its reference price.

        Raises:
            DefinitionError: it cannot be.
        """
        (found,) = self.completed([definition], now)
        if isinstance(found, DefinitionError):
            raise found
        return found

    def changed(self, alert: Alert, given: dict[str, Any], now: datetime) -> Definition:
        """Return what an alert is to be after a change, all its prices in today's shares.

        Args:
            alert: as it is.
            given: fields that are to be others.
            now: UTC.

        Raises:
            DefinitionError: it cannot be.
        """
        before = alert.definition
        if given.get("symbol", before.symbol) != before.symbol:
            raise DefinitionError("symbol", "it stays as it is: delete this alert, and make another")
        given = {**_left_over(before, given), **given}
        if any(given.get(name) is not None for name in _PRICES):
            # Those that were not given are of the shares of then, and the others of today's.
            scale = self.factor(before.symbol, alert.basis, now)
            same = {name: getattr(before, name) for name in _PRICES if getattr(before, name) is not None}
            if before.is_percentage:
                del same["value"]
            before = replace(before, **{name: value * scale for name, value in same.items()})
        merged = replace(before, **given)
        if (merged.bars is None) != (before.bars is None):
            raise DefinitionError("bars", "an alert stays on prices, or on bars: delete it, and make another")
        if "reference_price" not in given and merged.reference != before.reference:
            merged = replace(merged, reference_price=None)
        # Bars that are made no more are no reason to refuse another note.
        merged.check(now, self.made() if given.get("bars") is not None else None)
        if merged.is_percentage != before.is_percentage and "value" not in given:
            kinds = ("a percentage", "a price") if before.is_percentage else ("a price", "a percentage")
            raise DefinitionError("value", f"it was {kinds[0]}, and is to be {kinds[1]}: give it anew")
        # A symbol that nobody knows any more is no reason to refuse another note.
        return self.one(merged, now) if _lacks_price(merged) else merged

    def factor(self, symbol: str, since: date, now: datetime) -> float:
        """Return by what splits have multiplied a symbol's prices after a day, up to today.

        1 where the lake cannot be read.
        """
        try:
            splits = self.reference.splits(symbol)
        except LakeError:
            return 1.0
        today, found = now.astimezone(ZoneInfo(ZONE)).date(), 1.0
        if not len(splits):
            return found
        for split in splits.to_pylist():
            if since < split["execution_date"] <= today:
                found *= split["split_from"] / split["split_to"]
        return found

    def _unknown(self, symbols: set[str]) -> set[str]:
        """Return the symbols that the lake does not know, where it knows which there are."""
        try:
            known = self.reference.listing().by_name
        except LakeError:
            return set()
        return symbols - known.keys() if known else set()


def _left_over(before: Definition, given: dict[str, Any]) -> dict[str, Any]:
    """Return what is taken away as it does not go with what is given, where nothing is said of it."""
    gone: dict[str, Any] = {}
    operator, frequency = given.get("operator"), given.get("frequency")
    if operator in OPERATORS and OPERATORS[operator] not in PERCENTAGES:
        gone |= {"reference": None, "reference_price": None}
    if frequency is not None and frequency != "bar":
        gone["timeframe"] = None
    if frequency is not None and frequency != "every_time":
        gone["rearm"] = 0.0
    return {name: value for name, value in gone.items() if getattr(before, name) != value}


def _checked(
    definition: Definition,
    now: datetime,
    own: frozenset[int] | None,
    made: Sequence[Timeframe] | None,
) -> Definition | DefinitionError:
    try:
        definition.check(now, made)
    except DefinitionError as error:
        return error
    if own is not None and (strange := [one for one in definition.destinations if one not in own]):
        return DefinitionError(
            "destinations", f"there is no destination {strange[0]}: /v1/alert-destinations lists yours"
        )
    return definition


def _lacks_price(definition: Definition) -> bool:
    return definition.reference == "creation_price" and definition.reference_price is None


def _priced(
    definition: Definition, prices: dict[str, float], unknown: set[str], beyond: set[str]
) -> Definition | DefinitionError:
    symbol = definition.symbol
    if symbol in beyond:
        return DefinitionError(
            "symbol", f"prices are looked up for {MOST_PRICES:,} symbols in one call: send fewer at once"
        )
    if symbol not in prices and symbol in unknown:
        return DefinitionError(
            "symbol",
            f"{symbol} is not known here and has no price: /v1/symbols?search= finds those that are",
        )
    if not _lacks_price(definition):
        return definition
    if symbol not in prices:
        return DefinitionError(
            "reference_price",
            f"no store has a price of {symbol} now: give one, or take previous_close as reference",
        )
    return replace(definition, reference_price=prices[symbol])
