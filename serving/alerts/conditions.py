"""How the document tells a condition on bars."""

from __future__ import annotations

from typing import Any

from fibflow.transforms.alerts.barcondition import MOST_TERMS
from fibflow.transforms.alerts.barterm import COMPARES, FIELDS, MOST_BACK, MOST_BARS

_TIMEFRAME = {"type": "string", "pattern": "^[0-9]{1,5}[mhd]$", "maxLength": 40}
_TIMES = {
    "type": "number",
    "exclusiveMinimum": 0,
    "default": 1.0,
    "description": "what it is multiplied by",
}
_FIELD = {"type": "string", "enum": list(FIELDS)}


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _of_bars(kind: str) -> dict[str, Any]:
    bars = {
        "type": "integer",
        "minimum": 1,
        "maximum": MOST_BARS,
        "description": "of how many bars before the one that has just closed",
    }
    timeframe = {**_TIMEFRAME, "description": "that of the condition where it is left out"}
    return _object([kind, "bars"], **{kind: _FIELD}, bars=bars, timeframe=timeframe, times=_TIMES)


_OPERAND = {
    "oneOf": [
        _object(["value"], value={"type": "number"}, times=_TIMES),
        _object(
            ["field"],
            field=_FIELD,
            timeframe={**_TIMEFRAME, "description": "that of the condition where it is left out"},
            back={
                "type": "integer",
                "minimum": 0,
                "maximum": MOST_BACK,
                "description": "bars back: 0 has just closed, of the condition's timeframe only; of another "
                "1 is the last that had closed",
            },
            times=_TIMES,
        ),
        *map(_of_bars, ("average", "highest", "lowest")),
    ]
}
_TERM = _object(
    ["left", "operator", "right"],
    left=_OPERAND,
    operator={"type": "string", "enum": list(COMPARES)},
    right=_OPERAND,
)


def _list_of(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "minItems": 1, "maxItems": MOST_TERMS, "items": items}


def _condition(join: str, other: str) -> dict[str, Any]:
    timeframe = {**_TIMEFRAME, "description": "of the bars at whose close it is judged"}
    either = {"oneOf": [_TERM, _object([other], **{other: _list_of(_TERM)})]}
    return _object(["timeframe", join], timeframe=timeframe, **{join: _list_of(either)})


#: A condition, or none.
BARS_SCHEMA: dict[str, Any] = {
    "anyOf": [_condition("all", "any"), _condition("any", "all"), {"type": "null"}],
    "title": "Bars",
}
EXAMPLE: dict[str, Any] = {
    "symbol": "AAPL",
    "frequency": "bar",
    "bars": {
        "timeframe": "5m",
        "all": [
            {
                "left": {"field": "close"},
                "operator": "above",
                "right": {"field": "high", "timeframe": "13d", "back": 1},
            },
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
    },
}
