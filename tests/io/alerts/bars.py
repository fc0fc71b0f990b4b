"""Alerts on the close of bars for tests of what is kept of them."""

from __future__ import annotations

from typing import Any

from fibflow.transforms.alerts.barcondition import BarCondition
from fibflow.transforms.alerts.definition import Definition

#: Above the high of the last ``13d`` bar, with volume or through a price.
CONDITION: dict[str, Any] = {
    "timeframe": "5m",
    "all": [
        {"left": {"field": "close"}, "operator": "above", "right": {"field": "high", "timeframe": "13d"}},
        {
            "any": [
                {
                    "left": {"field": "volume"},
                    "operator": "at_least",
                    "right": {"average": "volume", "bars": 20, "times": 2.0},
                },
                {"left": {"field": "close"}, "operator": "crosses_up", "right": {"value": 430.0}},
            ]
        },
    ],
}
WORDS = (
    "5m close above 13d high (1 back) and "
    "(5m volume at least 2 x average 5m volume of 20 bars or 5m close crosses up 430)"
)


def beyond(value: float, timeframe: str = "1d", operator: str = "above") -> dict[str, Any]:
    """A condition on the close of a bar."""
    term = {"left": {"field": "close"}, "operator": operator, "right": {"value": value}}
    return {"timeframe": timeframe, "all": [term]}


def on_bars(symbol: str = "A", condition: dict[str, Any] | None = None, **more: Any) -> Definition:
    """An alert on bars."""
    return Definition(symbol, bars=BarCondition.from_json(condition or beyond(10.0)), **more)
