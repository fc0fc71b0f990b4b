"""What requests say of alerts and destinations, read strictly: what is wrong is told with its field."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import orjson
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
)

from fibflow.serving.alerts.conditions import BARS_SCHEMA, EXAMPLE
from fibflow.serving.problems import Problem
from fibflow.transforms.alerts.barcondition import BarCondition
from fibflow.transforms.alerts.definition import (
    FREQUENCIES,
    HOURS,
    LONGEST_COOLDOWN_S,
    LONGEST_NOTE,
    MOST_DESTINATIONS,
    OPERATORS,
    REFERENCES,
    Definition,
    DefinitionError,
)

#: Alerts of one call of ``/v1/alerts/bulk``, and of how many it is told what is wrong with them.
MOST_BULK, MOST_TOLD = 10_000, 100
#: Of identifiers: PostgreSQL's bigint.
LARGEST_ID = (1 << 63) - 1
LONGEST_SYMBOL = 64
_LONGEST_TARGET = 2_048
#: Levels of a condition on bars, and one.
_DEEPEST = 8
# Beyond these, sums with zones and spans would leave the calendar.
_FIRST, _LAST = datetime(1970, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)


def _text_of(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError("give an instant as text, such as 2026-01-02T15:00:00Z")
    return value


def _within(value: datetime) -> datetime:
    if not _FIRST <= value < _LAST:
        raise ValueError("give an instant of the years 1970 to 8999")
    return value.astimezone(UTC)


def _id_of(value: Any) -> Any:
    text = str(value) if type(value) is int else value
    if not (isinstance(text, str) and re.fullmatch("[0-9]{1,19}", text)):
        raise ValueError("give the id of a destination, such as 12: /v1/alert-destinations lists yours")
    return text


def _shallow(value: Any) -> Any:
    """Return a value that no serializer is afraid of."""
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return value
    raise ValueError("give terms, and lists of terms, no deeper")


Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Instant = Annotated[AwareDatetime, BeforeValidator(_text_of), AfterValidator(_within)]
Id = Annotated[str, Field(pattern="^[0-9]{1,19}$"), BeforeValidator(_id_of)]
Whole = Annotated[int, Field(strict=True, ge=0)]
# What is wrong within is told by ``BarCondition``, with its place.
Bars = Annotated[Any, AfterValidator(_shallow), WithJsonSchema(BARS_SCHEMA)]


def _one_of(names: Any) -> dict[str, Any]:
    return {"enum": list(names)}


_SYMBOL = "as its trades name it"
_OPERATOR = (
    "above, below: a state, strictly beyond value. crosses_up, crosses_down, crosses: an edge, it needs an "
    "earlier price. percent_up, percent_down, percent: value percent from the reference"
)
_VALUE = "a price above 0, or a percentage above 0"
_BARS = (
    "what is to hold when a bar closes, in the place of operator and value; reference, reference_price, "
    "timeframe and rearm are left out then, and frequency is once, bar or daily"
)
_OPERATORS = [*OPERATORS, None]
_REFERENCE, _NAMED = "of percentages", [*REFERENCES, None]
_REFERENCE_PRICE = "of creation_price; the last price that is known where it is left out"
_HOURS = "prices that count: of regular hours, or of extended ones too"
_FREQUENCY = (
    "once; bar: once in each bar of timeframe; daily: once a session; every_time: each time it comes true "
    "after having been undone"
)
_TIMEFRAME = "of the frequency bar: minutes or hours, such as 5m"
_COOLDOWN = f"seconds after firing in which it does not fire again, up to {LONGEST_COOLDOWN_S:,}"
_REARM = "of every_time: by how much of price it must come back before it can fire again"
_EXPIRES = "after which it fires no more"
_ACTIVE_FROM = "before which it does not fire"
_NOTE = "your own words, sent with each event"
_DESTINATIONS = f"ids of /v1/alert-destinations, {MOST_DESTINATIONS} at most"
_EXAMPLE: dict[str, Any] = {"symbol": "AAPL", "operator": "crosses_up", "value": 200.0, "note": "take profit"}


class AlertBody(BaseModel):
    """What an alert waits for. docs/alerts.md says exactly when it fires."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                _EXAMPLE,
                {
                    "symbol": "MSFT",
                    "operator": "percent_down",
                    "value": 3.0,
                    "reference": "previous_close",
                    "hours": "extended",
                    "frequency": "daily",
                    "destinations": ["12"],
                },
                {
                    "symbol": "SPY",
                    "operator": "crosses",
                    "value": 500.0,
                    "frequency": "every_time",
                    "rearm": 0.5,
                    "cooldown_s": 300,
                    "expires": "2027-01-01T00:00:00Z",
                },
                EXAMPLE,
            ]
        },
    )

    symbol: str = Field(description=_SYMBOL, max_length=LONGEST_SYMBOL)
    operator: str | None = Field(None, description=_OPERATOR, json_schema_extra=_one_of(_OPERATORS))
    value: Number | None = Field(None, description=_VALUE)
    reference: str | None = Field(None, description=_REFERENCE, json_schema_extra=_one_of(_NAMED))
    reference_price: Number | None = Field(None, description=_REFERENCE_PRICE)
    hours: str = Field("regular", description=_HOURS, json_schema_extra=_one_of(HOURS))
    frequency: str = Field("once", description=_FREQUENCY, json_schema_extra=_one_of(FREQUENCIES))
    timeframe: str | None = Field(None, description=_TIMEFRAME, max_length=40)
    cooldown_s: Whole = Field(0, description=_COOLDOWN)
    rearm: Number = Field(0.0, description=_REARM)
    expires: Instant | None = Field(None, description=_EXPIRES)
    active_from: Instant | None = Field(None, description=_ACTIVE_FROM)
    note: str = Field("", description=_NOTE, max_length=LONGEST_NOTE)
    destinations: list[Id] = Field([], description=_DESTINATIONS, max_length=MOST_DESTINATIONS)
    bars: Bars = Field(None, description=_BARS)

    def same(self) -> bytes:
        """Return what is the same for all that ask for the same, in whatever order they say it."""
        return json.dumps(self.model_dump(), sort_keys=True, default=str).encode()

    def definition(self) -> Definition:
        """Return it as alerts are kept.

        Raises:
            DefinitionError: a destination's id is beyond all ids, or what is said of bars cannot be.
        """
        given = {name: getattr(self, name) for name in type(self).model_fields}
        return Definition(**_kept(given))


def _as_change(schema: dict[str, Any]) -> None:
    # What is left out stays as it is: there are no defaults.
    for told in schema["properties"].values():
        told.pop("default", None)
    schema["examples"] = [{"value": 205.0}, {"note": "", "if_version": 3}]


class AlertChange(BaseModel):
    """What is to be another: fields that are left out stay, null takes away what may be away."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_as_change)

    symbol: str = Field("", description="that of the alert: it stays", max_length=LONGEST_SYMBOL)
    operator: str = Field("", description=_OPERATOR, json_schema_extra=_one_of(OPERATORS))
    value: Number = Field(0.0, description=_VALUE)
    bars: Bars = Field(None, description="of an alert on bars: the whole condition")
    reference: str | None = Field(None, description=_REFERENCE, json_schema_extra=_one_of(_NAMED))
    reference_price: Number | None = Field(None, description=_REFERENCE_PRICE)
    hours: str = Field("", description=_HOURS, json_schema_extra=_one_of(HOURS))
    frequency: str = Field("", description=_FREQUENCY, json_schema_extra=_one_of(FREQUENCIES))
    timeframe: str | None = Field(None, description=_TIMEFRAME, max_length=40)
    cooldown_s: Whole = Field(0, description=_COOLDOWN)
    rearm: Number = Field(0.0, description=_REARM)
    expires: Instant | None = Field(None, description=_EXPIRES)
    active_from: Instant | None = Field(None, description=_ACTIVE_FROM)
    note: str = Field("", description=_NOTE, max_length=LONGEST_NOTE)
    destinations: list[Id] = Field([], description=_DESTINATIONS, max_length=MOST_DESTINATIONS)
    if_version: Annotated[int, Field(strict=True, ge=1, le=2**31 - 1)] | None = Field(
        None, description="the version that you know: 409 where there is another one meanwhile"
    )

    def given(self) -> dict[str, Any]:
        """Return the fields that were given, as alerts keep them. Raises as ``AlertBody.definition``."""
        found = {name: getattr(self, name) for name in self.model_fields_set if name != "if_version"}
        return _kept(found)


class BulkBody(BaseModel):
    """Alerts that are all made, or none."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"alerts": [_EXAMPLE]}]})

    alerts: list[AlertBody] = Field(min_length=1, max_length=MOST_BULK)


class DestinationBody(BaseModel):
    """Where events are to go."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"kind": "webhook", "target": "https://hooks.example.com/alerts"},
                {"kind": "sns", "target": "arn:aws:sns:us-east-1:123456789012:alerts"},
            ]
        },
    )

    kind: Literal["webhook", "sns"]
    target: str = Field(
        description="an https address on the internet, or the ARN of an SNS topic", max_length=_LONGEST_TARGET
    )


class DestinationChange(BaseModel):
    """What of a destination is to be another."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"enabled": False}]})

    target: str | None = Field(None, description="of the same kind", max_length=_LONGEST_TARGET)
    enabled: bool | None = Field(None, strict=True, description="whether events are sent there")
    new_secret: bool = Field(
        False, strict=True, description="of a webhook: sign with another, which is shown this once"
    )


def _kept(given: dict[str, Any]) -> dict[str, Any]:
    """Return fields as alerts keep them. Raises ``DefinitionError``."""
    if "destinations" in given:
        given["destinations"] = ids_of(given["destinations"])
    if given.get("bars") is not None:
        given["bars"] = BarCondition.from_json(given["bars"])
    return given


def ids_of(texts: list[str]) -> tuple[int, ...]:
    """Return the ids of destinations, each once. Raises ``DefinitionError``."""
    found = tuple(dict.fromkeys(map(int, texts)))
    if any(one > LARGEST_ID for one in found):
        raise DefinitionError(
            "destinations", "there is no such destination: /v1/alert-destinations lists yours"
        )
    return found


def read_bulk(body: bytes) -> list[Definition | dict[str, Any]]:
    """Read the alerts of a call.

    Returns:
        Of each what it is to be, or what is wrong with it: ``index``, ``field``, ``reason``.

    Raises:
        Problem: 413 where they are too many, 422 where that is no list of alerts.
    """
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise Problem(422, 'the body is no JSON: send {"alerts": [...]}', "bad_body") from None
    alerts = found.get("alerts") if isinstance(found, dict) and found.keys() == {"alerts"} else None
    if not isinstance(alerts, list) or not alerts:
        raise Problem(422, 'send {"alerts": [...]}, with one alert at least', "bad_body", field="alerts")
    if len(alerts) > MOST_BULK:
        raise Problem(
            413,
            f"{len(alerts):,} alerts in one call: send {MOST_BULK:,} at most, and more in further calls",
            "too_many_at_once",
        )
    return [_read(index, one) for index, one in enumerate(alerts)]


def _read(index: int, given: Any) -> Definition | dict[str, Any]:
    try:
        return AlertBody.model_validate(given).definition()
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        return wrong(index, name[:LONGEST_SYMBOL], str(first["msg"]))
    except DefinitionError as error:
        return wrong(index, error.field, error.reason)


def wrong(index: int, field: str, reason: str) -> dict[str, Any]:
    """Return what is wrong with an alert of a call of many."""
    return {"index": index, "field": field, "reason": reason}


def refused_bulk(errors: list[dict[str, Any]]) -> Problem:
    """Return what a call of many is told: none of them was made, and why."""
    first = errors[0]
    place = f"alerts[{first['index']}].{first['field']}".rstrip(".")
    more = f" ({len(errors) - 1} more are wrong)" if len(errors) > 1 else ""
    return Problem(
        422,
        f"none was made. {place}: {first['reason']}{more}",
        "bad_alert",
        field=place,
        wrong=len(errors),
        errors=errors[:MOST_TOLD],
    )
