"""What an alert on the close of bars waits for, as its owner states it: terms on bars, joined by all or any.

As JSON::

    {"timeframe": "5m", "all": [
        {"left": {"field": "close"}, "operator": "above",
         "right": {"field": "high", "timeframe": "13d"}},
        {"any": [
            {"left": {"field": "volume"}, "operator": "at_least",
             "right": {"average": "volume", "bars": 20, "times": 2.0}},
            {"left": {"field": "close"}, "operator": "crosses_up", "right": {"value": 430.0}}]}]}

It is judged whenever a bar of ``timeframe`` closes. An operand that is not there, such as the vwap of a bar
without one or an average of more bars than there have been, makes its term untrue.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fibflow.transforms.alerts.barterm import Term, check_known, check_object, read_timeframe
from fibflow.transforms.alerts.errors import DefinitionError
from fibflow.transforms.timeframe import Anchor, Timeframe

MOST_TERMS = 20
#: How often an alert on bars may fire.
BAR_FREQUENCIES = ("once", "bar", "daily")
_JOINS = {"all": "any", "any": "all"}


@dataclass(frozen=True)
class BarCondition:
    """What is to hold when a bar closes.

    Attributes:
        timeframe: of the bars at whose close it is judged, its canonical name.
        join: ``all`` or ``any`` of the lists must hold.
        lists: of terms; a list of several holds by the other of the two words.
    """

    timeframe: str
    join: str
    lists: tuple[tuple[Term, ...], ...]

    @property
    def terms(self) -> tuple[Term, ...]:
        """All terms, in order."""
        return tuple(term for terms in self.lists for term in terms)

    @classmethod
    def from_json(cls, told: Any, field: str = "bars") -> BarCondition:
        """Read one, and check all but what depends on the job.

        Args:
            told: as ``json.loads`` gives it.
            field: where it stands, for what is refused.

        Raises:
            DefinitionError: the first thing that is wrong.
        """
        check_object(told, field)
        joins = [name for name in _JOINS if name in told]
        if len(joins) != 1:
            raise DefinitionError(field, "give a list of terms: all or any")
        join = joins[0]
        check_known(told, ("timeframe", join), field)
        if "timeframe" not in told:
            raise DefinitionError(f"{field}.timeframe", "it is missing: such as 5m or 13d")
        trigger = read_timeframe(told["timeframe"], f"{field}.timeframe")
        lists = tuple(
            _read_list(each, trigger, join, f"{field}.{join}[{n}]")
            for n, each in enumerate(_list(told[join], f"{field}.{join}"))
        )
        found = cls(trigger, join, lists)
        found.check(field=field)
        return found

    def __str__(self) -> str:
        """Return it in words, such as ``1d close above 13d high (1 back)``."""
        outer, inner = ("and", "or") if self.join == "all" else ("or", "and")
        lists = [f" {inner} ".join(map(str, terms)) for terms in self.lists]
        brackets = len(lists) > 1
        told = [
            f"({words})" if brackets and len(terms) > 1 else words
            for words, terms in zip(lists, self.lists, strict=True)
        ]
        return f" {outer} ".join(told)

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values; ``from_json`` gives it back."""
        other = _JOINS[self.join]
        lists = []
        for terms in self.lists:
            told = [term.as_json(self.timeframe) for term in terms]
            lists.append(told[0] if len(told) == 1 else {other: told})
        return {"timeframe": self.timeframe, self.join: lists}

    def check(
        self,
        timeframes: Iterable[str | Timeframe] | None = None,
        anchor: Anchor = Anchor.EXCHANGE,
        field: str = "bars",
    ) -> None:
        """Refuse what cannot be.

        Args:
            timeframes: that the job makes bars of; None: any.
            anchor: how the job counts sessions.
            field: where it stands, for what is refused.

        Raises:
            DefinitionError: the first thing that is wrong.
        """
        if len(self.terms) > MOST_TERMS:
            raise DefinitionError(field, f"{len(self.terms)} terms: give at most {MOST_TERMS}")
        made = None if timeframes is None else {str(each) for each in timeframes}
        _check_timeframe(self.timeframe, made, anchor, f"{field}.timeframe")
        for n, terms in enumerate(self.lists):
            for m, term in enumerate(terms):
                inner = f".{_JOINS[self.join]}[{m}]" if len(terms) > 1 else ""
                path = f"{field}.{self.join}[{n}]{inner}"
                term.check(self.timeframe, path)
                for side in ("left", "right"):
                    timeframe = getattr(term, side).timeframe
                    if timeframe:
                        _check_timeframe(timeframe, made, anchor, f"{path}.{side}.timeframe")


def _read_list(told: Any, trigger: str, join: str, field: str) -> tuple[Term, ...]:
    """Return a term as a list of one, or the terms of a list within a list."""
    check_object(told, field)
    other = _JOINS[join]
    if join in told:
        raise DefinitionError(field, f"{join} within {join}: put its terms into the outer list")
    if other not in told:
        return (Term.from_json(told, trigger, field),)
    check_known(told, (other,), field)
    return tuple(
        Term.from_json(each, trigger, f"{field}.{other}[{n}]")
        for n, each in enumerate(_list(told[other], f"{field}.{other}"))
    )


def _check_timeframe(name: str, made: set[str] | None, anchor: Anchor, field: str) -> None:
    if made is not None and name not in made:
        known = ", ".join(each.name for each in sorted(map(Timeframe.parse, made)))
        raise DefinitionError(field, f"no bars of {name} are made: choose one of {known}")
    if anchor is Anchor.ROWS and Timeframe.parse(name).sessions > 1:
        raise DefinitionError(field, f"bars of {name} are counted in rows: none closes while prices come")


def _list(told: Any, field: str) -> list[Any]:
    if not isinstance(told, list) or not told:
        raise DefinitionError(field, "give a list of at least one term")
    if len(told) > MOST_TERMS:
        raise DefinitionError(field, f"{len(told)} terms: give at most {MOST_TERMS}")
    return told
