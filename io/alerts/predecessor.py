"""The predecessor's alerts, items of DynamoDB, as ours: what attributes and words are taken for.

Names count in any case and with or without underscores: ``alertId`` is ``alert_id``. Of several attributes
that may hold something, the first one does that an item has.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from fibflow.io.alerts.model import ACTIVE, FIRED, PAUSED, Imported, Past
from fibflow.io.alerts.predecessorwords import (
    ALIASES,
    BY_SENSE,
    ENDED,
    FREQUENCY_WORDS,
    OPERATOR_WORDS,
    PERCENTISH,
    PERCENTS,
    PRICES,
    SENSES,
    STATE_WORDS,
    STATES,
    TELLING,
)
from fibflow.io.alerts.rows import check, keepable, storable
from fibflow.transforms.alerts.definition import Definition, DefinitionError

#: The longest id or name of an owner, in bytes: more does not go into an index.
_LONGEST_ID = 1_024
#: More often than this nothing has fired.
_MOST_FIRINGS = 10**12
#: By how many digits they have, dates and times in one number: as seconds they lie decades away.
_DATES = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
#: Ours that several attributes may tell together.
_SEVERAL = ("operator", "state")
#: Of an item, by ours: attributes with what they hold, the first one first.
Parts = Mapping[str, list[tuple[str, Any]]]


class Refused(ValueError):
    """An item that cannot be taken; why."""


@dataclass
class Reading:
    """How a table's items are understood, and what they hold that is not.

    Attributes:
        table: ``CONFIG`` or ``HISTORY``.
        named: by ours, the attribute that is to be taken, whatever ``ALIASES`` say.
        operators: more words for ours, by theirs.
        owner: whose the items are that name nobody; None to refuse them.
        taken: items by (ours, attribute) that was taken for it.
        aside: items by attribute that none of ours takes.
    """

    table: str
    named: Mapping[str, str] = field(default_factory=dict)
    operators: Mapping[str, str] = field(default_factory=dict)
    owner: str | None = None
    taken: Counter[tuple[str, str]] = field(default_factory=Counter)
    aside: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._words = {**OPERATOR_WORDS, **{_word(theirs): ours for theirs, ours in self.operators.items()}}
        self._aliases = {
            ours: (self.named[ours],) if ours in self.named else tuple(map(_folded, names))
            for ours, names in ALIASES[self.table].items()
        }

    def alert(self, item: Mapping[str, Any], now: datetime) -> Imported:
        """Return the alert in an item of the configuration.

        Raises:
            Refused: why it is none that can be taken.
        """
        parts = self._parts(item)
        origin, owner = self._id(parts), self._owner(parts)
        operator = self._operator(parts)
        value = _number(parts, "value")
        if value is None:
            raise Refused("it has no threshold")
        if operator.startswith("percent"):
            if operator == "percent" and value < 0:
                operator, value = "percent_down", -value
            elif value < 0:
                raise Refused(f"its condition is {operator}, and its threshold is below 0")
        fired, frequency = _instant(parts, "fired"), _frequency(parts)
        state = _state(parts, frequency == "once", fired is not None)
        definition = Definition(
            symbol=_text(parts, "symbol"),
            operator=operator,
            value=value,
            **_reference(operator, _number(parts, "reference_price")),
            frequency=frequency,
            cooldown_s=int(_number(parts, "cooldown") or 0),
            expires=_instant(parts, "expires"),
            note=_text(parts, "note"),
        )
        try:
            check(definition, now if state == ACTIVE else None)
        except DefinitionError as error:
            raise Refused(str(error)) from None
        firings = max(0.0, _number(parts, "firings") or 0.0)
        if firings > _MOST_FIRINGS:
            raise Refused(f"it says that it fired more than {_MOST_FIRINGS:,} times")
        return Imported(owner, origin, definition, state, _instant(parts, "created"), fired, int(firings))

    def event(self, item: Mapping[str, Any]) -> Past:
        """Return the event in an item of the history.

        Raises:
            Refused: why it is none that can be taken.
        """
        parts = self._parts(item)
        alert, ts, price = _text(parts, "alert"), _instant(parts, "ts"), _number(parts, "price")
        if not alert:
            raise Refused("it names no alert")
        if ts is None:
            raise Refused("it does not say when it fired")
        if price is None:
            raise Refused("it does not say at which price it fired")
        given = self._id(parts, f"{alert}-{ts.isoformat()}")
        known = any(_word(each) in self._words for _, each in parts.get("operator", []))
        operator = self._operator(parts) if known else None
        note = _text(parts, "note") or None
        symbol, level = _text(parts, "symbol") or None, _number(parts, "level")
        owner = _name(parts, "owner") or self.owner
        return Past(owner, given, alert, ts, price, symbol, level, operator, note)

    def name(self, item: Mapping[str, Any]) -> str:
        """Return what tells an item from others, for messages."""
        folded = {_folded(name): item[name] for name in item}
        names = (self.named["id"],) if "id" in self.named else self._aliases["id"]
        held = [item.get(name) if "id" in self.named else folded.get(name) for name in names]
        found = [str(value) for value in held if value not in (None, "")]
        return found[0][:80] if found else f"an item with {', '.join(sorted(item))}"[:80]

    def _parts(self, item: Mapping[str, Any]) -> Parts:
        """Return what an item has for each of ours: the attributes' names and values, the first one first."""
        folded = {_folded(name): name for name in item}
        used: set[str] = set()
        found: dict[str, list[tuple[str, Any]]] = {}
        reserved = set(self.named.values())
        for ours, names in self._aliases.items():
            by_name = ours in self.named
            there = [
                name if by_name else folded[name] for name in names if name in (item if by_name else folded)
            ]
            held = [
                (name, item[name])
                for name in there
                if item[name] is not None and item[name] != "" and (by_name or name not in reserved)
            ]
            if ours == "operator":
                held = [each for each in held if self._tells(*each)] or held[:1]
            elif ours == "value" and not by_name:
                held = _values(held, self._is_percent(found))
            if held:
                found[ours] = held if ours in _SEVERAL else held[:1]
                names_taken = [name for name, _ in found[ours]]
                used.update(names_taken)
                self.taken.update((ours, name) for name in names_taken)
        self.aside.update(name for name in item if name not in used)
        return found

    def _id(self, parts: Parts, default: str = "") -> str:
        found = _name(parts, "id") or default
        if not found:
            raise Refused("it has no id")
        return found

    def _owner(self, parts: Parts) -> str:
        owner = _name(parts, "owner") or self.owner
        if not owner:
            raise Refused("it names no owner: say whose such are with --owner")
        return owner

    def _tells(self, name: str, value: Any) -> bool:
        """Return whether a word says, or is to say, what an alert waits for."""
        word = _word(value)
        return word in self._words or _folded(name) in TELLING or PERCENTISH.search(word) is not None

    def _is_percent(self, parts: Parts) -> bool:
        words = (self._words.get(_word(value), "") for _, value in parts.get("operator", []))
        return any(word.startswith("percent") for word in words)

    def _operator(self, parts: Parts) -> str:
        told = parts.get("operator", [])
        if not told:
            raise Refused("it has no condition")
        if strange := [str(value)[:60] for _, value in told if _word(value) not in self._words]:
            shown = f"its condition {strange[0]!r} is not known"
            raise Refused(f"{shown}: say what it is with --condition OURS=THEIRS")
        senses = [SENSES[self._words[_word(value)]] for _, value in told]
        kinds, ways = ({sense[part] for sense in senses if sense[part]} for part in (0, 1))
        if len(kinds) > 1 or len(ways) > 1:
            names = " and ".join(name for name, _ in told)
            raise Refused(f"its {names} contradict each other: name the right one with --column operator=")
        return BY_SENSE[max(kinds, default=""), max(ways, default="")]


def _values(held: list[tuple[str, Any]], is_percent: bool) -> list[tuple[str, Any]]:
    """Return of attributes with values those that can be of a percentage, or of a price."""
    others = {_folded(name) for name in (PRICES if is_percent else PERCENTS)}
    return [each for each in held if _folded(each[0]) not in others]


def _folded(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).lower()


def _word(value: Any) -> str:
    return re.sub(r"[\s_-]+", "_", str(value).strip()).lower()


def _text(parts: Parts, ours: str) -> str:
    text = str(parts[ours][0][1]).strip() if ours in parts else ""
    if not storable(text):
        raise Refused(f"its {ours} holds what no text may")
    return text


def _name(parts: Parts, ours: str) -> str:
    text = _text(parts, ours)
    if len(text.encode()) > _LONGEST_ID:
        raise Refused(f"its {ours} is longer than {_LONGEST_ID:,} bytes")
    return text


def _number(parts: Parts, ours: str) -> float | None:
    if ours not in parts:
        return None
    name, value = parts[ours][0]
    try:
        found = float(_digits(value) if isinstance(value, str) else value)
    except (TypeError, ValueError, ArithmeticError):
        found = math.nan
    if not math.isfinite(found) or isinstance(value, bool):
        raise Refused(f"its {name} is no number: {str(value)[:60]!r}")
    return found


def _digits(value: str) -> str:
    """Return a number without what is written around and between its digits."""
    text = value.strip(" $%")
    # Elsewhere a comma comes before the decimals.
    if "," in text and not re.fullmatch(r"[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d*)?", text):
        raise ValueError
    return text.replace(",", "")


def _instant(parts: Parts, ours: str) -> datetime | None:
    """Return an instant: ISO 8601, without a zone UTC; or seconds, ms, us or ns since 1970, by size."""
    if ours not in parts:
        return None
    name, value = parts[ours][0]
    with suppress(ValueError, OverflowError, OSError, ArithmeticError):
        if (found := _read_instant(value)) is None or keepable(found):
            return found
    raise Refused(f"its {name} is no time: {str(value)[:60]!r}")


def _read_instant(value: Any) -> datetime | None:
    text = str(value).strip()
    if isinstance(value, Decimal) or re.fullmatch(r"\d+(\.\d+)?", text):
        if text.isdecimal() and len(text) in _DATES:
            return datetime.strptime(text, _DATES[len(text)]).replace(tzinfo=UTC)
        number = Decimal(value)
        if number == 0:
            return None
        scale = next((power for power in (0, 3, 6, 9) if abs(number) < Decimal(10) ** (11 + power)), 9)
        return datetime.fromtimestamp(float(number.scaleb(-scale)), UTC)
    found = datetime.fromisoformat(text)
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)


def _state(parts: Parts, once: bool, has_fired: bool) -> str:
    told = []
    for name, value in parts.get("state", []):
        if (state := STATE_WORDS.get(_word(value))) is None:
            raise Refused(f"its {name} is not known: {str(value)[:60]!r}")
        # One that fires again and again waits on.
        told.append(ACTIVE if state == FIRED and not once else state)
    found = min(told, key=STATES.index, default=ACTIVE)
    if found == ENDED:
        raise Refused("it was deleted, or has expired")
    return FIRED if found == PAUSED and once and has_fired else found


def _frequency(parts: Parts) -> str:
    if "frequency" not in parts:
        return "once"
    name, value = parts["frequency"][0]
    if (found := FREQUENCY_WORDS.get(_word(value))) is None:
        raise Refused(f"its {name} is not known: {str(value)[:60]!r}")
    return found


def _reference(operator: str, price: float | None) -> dict[str, Any]:
    """Return what a percentage is of: of the price that an item tells, else of the previous close."""
    if not operator.startswith("percent"):
        return {}
    if price is None:
        return {"reference": "previous_close"}
    return {"reference": "creation_price", "reference_price": price}


def understood(reading: Reading) -> Iterator[tuple[str, str]]:
    """Yield each of ours with the attributes that were taken for it, and those that were left aside."""
    by_ours: dict[str, list[str]] = {}
    for (ours, name), items in reading.taken.items():
        by_ours.setdefault(ours, []).append(f"{name} ({items:,})")
    for ours in ALIASES[reading.table]:
        yield ours, ", ".join(by_ours.get(ours, ["none"]))
    yield (
        "left aside",
        ", ".join(f"{name} ({items:,})" for name, items in sorted(reading.aside.items())) or "none",
    )
