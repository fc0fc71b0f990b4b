"""Alerts as their owners state them: on prices, or on bars, and what cannot be said of both."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from fibflow.tests.io.alerts.bars import CONDITION, WORDS, beyond, on_bars
from fibflow.transforms.alerts.barcondition import BarCondition
from fibflow.transforms.alerts.definition import Definition, DefinitionError
from fibflow.transforms.timeframe import parse_timeframes


def refused(definition: Definition, **given) -> tuple[str, str]:
    with pytest.raises(DefinitionError) as raised:
        definition.check(**given)
    assert "\n" not in str(raised.value)
    return raised.value.field, raised.value.reason


@pytest.mark.parametrize("frequency", ["once", "bar", "daily"])
def test_bars_take_the_place_of_prices(frequency):
    asked = on_bars("AAPL", CONDITION, frequency=frequency, cooldown_s=60, note="up", destinations=(1,))
    asked.check(datetime(2026, 1, 5, tzinfo=UTC), parse_timeframes("5m,13d"))
    assert not asked.is_percentage
    told = asked.as_json()
    assert told["bars"] == CONDITION
    assert BarCondition.from_json(told["bars"]) == asked.bars
    assert (told["operator"], told["value"], told["timeframe"]) == (None, None, None)
    assert Definition("AAPL", "above", 1.0).as_json()["bars"] is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("operator", "above"),
        ("value", 10.0),
        ("reference", "previous_close"),
        ("reference_price", 10.0),
        ("hours", "extended"),
        ("timeframe", "5m"),
        ("rearm", 0.5),
    ],
)
def test_what_is_of_prices_is_refused_beside_bars(field, value):
    told = refused(replace(on_bars(), **{field: value}))
    assert told == (field, "it is of alerts on prices: leave it out, or bars")


def test_every_time_is_of_prices():
    assert refused(on_bars(frequency="every_time")) == ("frequency", "choose one of once, bar, daily")


def test_what_the_job_does_not_make_is_refused_where_it_is_known():
    assert refused(on_bars(condition=CONDITION), timeframes=("1m", "5m", "1d")) == (
        "bars.all[0].right.timeframe",
        "no bars of 13d are made: choose one of 1m, 5m, 1d",
    )


def test_neither_is_refused():
    field, reason = refused(Definition("A"))
    assert field == "operator"
    assert reason.endswith("or give bars")
    assert refused(Definition("A", "above"))[0] == "value"


def test_a_condition_in_words():
    assert str(BarCondition.from_json(CONDITION)) == WORDS
    assert str(on_bars().bars) == "1d close above 10"
    assert str(BarCondition.from_json(beyond(1.0, "13d", "crosses_down"))) == "13d close crosses down 1"
    back = {"left": {"field": "low", "back": 1}, "operator": "at_most", "right": {"lowest": "low", "bars": 3}}
    either = BarCondition.from_json({"timeframe": "1d", "any": [{"all": [back, *beyond(2.5)["all"]]}]})
    assert str(either) == "1d low (1 back) at most lowest 1d low of 3 bars and 1d close above 2.5"
