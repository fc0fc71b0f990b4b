"""What may be asked of the close of bars, and what is refused, with the field and the reason."""

from __future__ import annotations

from typing import Any

import pytest

from fibflow.transforms.alerts.barcondition import BarCondition
from fibflow.transforms.alerts.barterm import Operand
from fibflow.transforms.alerts.definition import DefinitionError
from fibflow.transforms.timeframe import FIBONACCI, Anchor, parse_timeframes

CLOSE: dict[str, Any] = {"field": "close"}
ABOVE: dict[str, Any] = {"left": CLOSE, "operator": "above", "right": {"value": 430.0}}


def one(term: Any, timeframe: Any = "5m") -> dict[str, Any]:
    return {"timeframe": timeframe, "all": [term]}


def held_against(operand: Any, operator: str = "above") -> dict[str, Any]:
    return one({**ABOVE, "operator": operator, "right": operand})


EXAMPLE = {
    "timeframe": "5m",
    "all": [
        {"left": CLOSE, "operator": "above", "right": {"field": "high", "timeframe": "13d"}},
        {
            "any": [
                {
                    "left": {"field": "volume"},
                    "operator": "at_least",
                    "right": {"average": "volume", "bars": 20, "times": 2.0},
                },
                {"left": {"field": "close", "back": 3}, "operator": "crosses_up", "right": {"value": 430.0}},
                {
                    "left": CLOSE,
                    "operator": "at_most",
                    "right": {"lowest": "low", "bars": 5, "timeframe": "1d"},
                },
            ]
        },
    ],
}


@pytest.mark.parametrize("told", [EXAMPLE, {"timeframe": "13d", "any": [{"all": [ABOVE, ABOVE]}, ABOVE]}])
def test_a_condition_comes_back_as_it_was_told(told):
    condition = BarCondition.from_json(told)
    assert condition.as_json() == told
    assert BarCondition.from_json(condition.as_json()) == condition


def test_what_goes_without_saying_is_filled_in():
    condition = BarCondition.from_json(
        one({"left": {"field": "close", "back": 0, "times": 1}, "operator": "above",
             "right": {"field": "high", "timeframe": "60m"}}, "5m")
    )  # fmt: skip
    (term,) = condition.terms
    assert term.left == Operand("field", field="close", timeframe="5m", back=0)
    assert term.right == Operand("field", field="high", timeframe="1h", back=1)
    assert condition.as_json()["all"][0]["right"] == {"field": "high", "timeframe": "1h"}


def test_the_jobs_timeframes():
    condition = BarCondition.from_json(EXAMPLE)
    condition.check(("5m", "1d", "13d"))
    condition.check([*parse_timeframes("intraday,1d"), *FIBONACCI], Anchor.LISTING)
    with pytest.raises(DefinitionError) as refused:
        condition.check(("1d", "5m", "3d"))
    assert (refused.value.field, refused.value.reason) == (
        "bars.all[0].right.timeframe",
        "no bars of 13d are made: choose one of 5m, 1d, 3d",
    )
    with pytest.raises(DefinitionError, match=r"^bars\.timeframe: no bars of 5m are made"):
        condition.check(parse_timeframes("13d,1d"))
    with pytest.raises(DefinitionError, match=r"^bars\.all\[0\]\.right\.timeframe: bars of 13d are counted"):
        condition.check(anchor=Anchor.ROWS)


@pytest.mark.parametrize(
    ("told", "field", "reason"),
    [
        (None, "bars", "give an object"),
        ([], "bars", "give an object"),
        ({}, "bars", "all or any"),
        ({"timeframe": "5m"}, "bars", "all or any"),
        ({"timeframe": "5m", "all": [ABOVE], "any": [ABOVE]}, "bars", "all or any"),
        ({"all": [ABOVE]}, "bars.timeframe", "it is missing"),
        ({"timeframe": "5m", "all": [ABOVE], "when": 1}, "bars.when", "not known here"),
        (one(ABOVE, "7m"), "bars.timeframe", "such as 5m"),
        (one(ABOVE, 5), "bars.timeframe", "such as 5m"),
        ({"timeframe": "5m", "all": []}, "bars.all", "at least one"),
        ({"timeframe": "5m", "all": ABOVE}, "bars.all", "give a list"),
        ({"timeframe": "5m", "all": [ABOVE] * 21}, "bars.all", "21 terms: give at most 20"),
        ({"timeframe": "5m", "any": [{"all": [ABOVE] * 7}] * 3}, "bars", "21 terms: give at most 20"),
        ({"timeframe": "5m", "any": [{"all": []}]}, "bars.any[0].all", "at least one"),
        ({"timeframe": "5m", "any": [{"any": [ABOVE]}]}, "bars.any[0]", "any within any"),
        ({"timeframe": "5m", "any": [{"all": [ABOVE], "x": 1}]}, "bars.any[0].x", "not known here"),
        (
            {"timeframe": "5m", "any": [{"all": [{"any": [ABOVE]}]}]},
            "bars.any[0].all[0].any",
            "not known here",
        ),
        (
            {"timeframe": "5m", "any": [{"all": [ABOVE, {**ABOVE, "right": CLOSE}]}]},
            "bars.any[0].all[1]",
            "left and right are the same",
        ),
        (one(7), "bars.all[0]", "give an object"),
        (one({"left": CLOSE, "operator": "above"}), "bars.all[0].right", "it is missing"),
        (one({**ABOVE, "operator": "crosses"}), "bars.all[0].operator", "choose one of above, below"),
        (one({**ABOVE, "operator": ["above"]}), "bars.all[0].operator", "choose one of"),
        (one({**ABOVE, "also": 1}), "bars.all[0].also", "not known here"),
        (one({**ABOVE, "left": {"value": 1.0}}), "bars.all[0]", "two numbers"),
        (held_against({"field": "volume"}), "bars.all[0]", "close and volume are not of one kind"),
        (held_against(3), "bars.all[0].right", "give an object"),
        (held_against({}), "bars.all[0].right", "give one of value, field"),
        (held_against({"value": 1.0, "field": "low"}), "bars.all[0].right", "give one of"),
        (held_against({"value": True}), "bars.all[0].right.value", "finite number"),
        (held_against({"value": "430"}), "bars.all[0].right.value", "finite number"),
        (held_against({"value": float("nan")}), "bars.all[0].right.value", "finite number"),
        (held_against({"value": 10**400}), "bars.all[0].right.value", "finite number"),
        (held_against({"value": 1.0, "back": 1}), "bars.all[0].right.back", "not known here"),
        (held_against({"value": 1.0, "times": 0}), "bars.all[0].right.times", "above 0"),
        (held_against({"field": "low", "times": -1.0}), "bars.all[0].right.times", "above 0"),
        (held_against({"field": "low", "times": None}), "bars.all[0].right.times", "finite number"),
        (held_against({"field": "price"}), "bars.all[0].right.field", "choose one of open, high"),
        (held_against({"field": ["low"]}), "bars.all[0].right.field", "choose one of open, high"),
        (held_against({"field": "low", "bars": 3}), "bars.all[0].right.bars", "not known here"),
        (held_against({"field": "low", "back": -1}), "bars.all[0].right.back", "give 0 to 500"),
        (held_against({"field": "low", "back": 501}), "bars.all[0].right.back", "give 0 to 500"),
        (held_against({"field": "low", "back": 1.5}), "bars.all[0].right.back", "whole number"),
        (held_against({"field": "low", "back": True}), "bars.all[0].right.back", "whole number"),
        (
            held_against({"field": "low", "timeframe": "1d", "back": 0}),
            "bars.all[0].right.back",
            "give 1 to 500: 1 is the last that had closed",
        ),
        (held_against({"average": "low"}), "bars.all[0].right.bars", "say of how many, 1 to 500"),
        (held_against({"highest": "low", "bars": 0}), "bars.all[0].right.bars", "give 1 to 500"),
        (held_against({"lowest": "low", "bars": 501}), "bars.all[0].right.bars", "give 1 to 500"),
        (held_against({"lowest": "low", "bars": 5, "back": 1}), "bars.all[0].right.back", "not known here"),
        (held_against({"lowest": "low", "bars": 5, "timeframe": "x"}), "bars.all[0].right.timeframe", "5m"),
        (
            held_against({"field": "low", "timeframe": "1m"}, "crosses_up"),
            "bars.all[0].right.timeframe",
            "a crossing looks at bars of the trigger's timeframe 5m or a longer one",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_the_field_and_the_reason(told, field, reason):
    with pytest.raises(DefinitionError) as refused:
        BarCondition.from_json(told)
    assert refused.value.field == field
    assert reason in refused.value.reason
    assert "\n" not in str(refused.value)


def test_numbers_made_in_code_are_checked_too():
    condition = BarCondition.from_json(held_against({"value": 1.0}))
    (term,) = condition.terms
    bad = type(term)(term.left, term.operator, Operand("value", value=float("inf")))
    with pytest.raises(DefinitionError, match=r"^bars\.all\[0\]\.right\.value: give a finite number"):
        BarCondition("5m", "all", ((bad,),)).check()
