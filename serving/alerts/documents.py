"""What answers say of alerts, events, deliveries and destinations: their documents, and how they are made."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, WithJsonSchema

from fibflow.io.alerts.model import Alert, Delivery, Destination, Event
from fibflow.serving.alerts.conditions import BARS_SCHEMA
from fibflow.transforms.alerts.barcondition import BarCondition
from fibflow.transforms.alerts.definition import OPERATORS
from fibflow.transforms.alerts.schema import Operator

#: Of a symbol: by what its prices were multiplied from the session after a day on, up to today.
Factor = Callable[[str, date], float]
#: Of a condition on bars: why it may never hold as things are; None for nothing.
Warn = Callable[[BarCondition], str | None]


class AlertDocument(BaseModel):
    """An alert. Instants are ISO 8601, UTC."""

    id: str
    version: int = Field(description="counts its changes")
    state: Literal["active", "paused", "fired", "deleted"]
    symbol: str
    operator: str | None = Field(description="null for one on bars")
    value: float | None
    reference: str | None
    reference_price: float | None
    hours: str
    frequency: str
    timeframe: str | None
    cooldown_s: int
    rearm: float
    expires: datetime | None
    active_from: datetime | None
    note: str
    destinations: list[str]
    bars: Annotated[Any, WithJsonSchema(BARS_SCHEMA)] = Field(description="what is to hold when a bar closes")
    bars_text: str | None = Field(description="the same in words: 1d close above 13d high (1 back)")
    warning: str | None = Field(
        description="of one on bars: why it may never fire as things are; null for nothing"
    )
    basis: date = Field(
        description="the day of whose shares value, rearm, reference_price and numbers of bars are"
    )
    levels: list[float] = Field(
        description="the prices that it is held against, in today's shares; none for previous_close or bars"
    )
    since: datetime = Field(description="this version counts for prices later than this")
    fired: datetime | None = Field(description="the last price at which this version fired")
    firings: int = Field(description="of all versions, tests left out")
    created: datetime
    updated: datetime


class AlertsDocument(BaseModel):
    """A page of alerts. ``next_cursor`` is there where there are more."""

    count: int
    alerts: list[AlertDocument]
    next_cursor: str | None = None


class BulkDocument(BaseModel):
    """The ids of alerts that were made, in the order in which they were sent."""

    count: int
    ids: list[str]


class EventDocument(BaseModel):
    """What fired, once, whatever crashes: its id is the same wherever it is told."""

    id: str
    position: int = Field(description="place in the owner's history: give it as after, to go on from here")
    alert: str | None = Field(description="id of the alert; null for the test of a destination")
    version: int
    symbol: str
    ts: datetime = Field(description="of the price that fired it")
    price: float | None
    previous: float | None = Field(description="the price before it")
    level: float | None = Field(description="the price that it was held against, after splits")
    operator: str = Field(description="bars for an alert on bars")
    note: str
    test: bool = Field(description="nothing fired: its owner asked for it")
    created: datetime


class EventsDocument(BaseModel):
    """A page of events.

    Newest first, with ``next_cursor`` where there are more; with ``after`` oldest first, with ``next_after``.
    """

    count: int
    events: list[EventDocument]
    next_cursor: str | None = None
    next_after: int | None = None


class TryDocument(BaseModel):
    """A try to deliver: what was answered, or why there was no answer."""

    at: datetime
    status: int | None
    error: str | None
    took_ms: int | None


class DeliveryDocument(BaseModel):
    """An event on its way to a destination."""

    id: str
    event: str
    destination: str
    state: Literal["pending", "delivered", "dead"]
    attempts: int
    due: datetime = Field(description="of the next try, while it is pending")
    last_error: str | None
    finished: datetime | None
    tries: list[TryDocument]


class DeliveriesDocument(BaseModel):
    """A page of deliveries, newest first. ``next_cursor`` is there where there are more."""

    count: int
    deliveries: list[DeliveryDocument]
    next_cursor: str | None = None


class DestinationDocument(BaseModel):
    """Where events go; a secret is never in it."""

    id: str
    kind: Literal["webhook", "sns"]
    target: str
    created: datetime
    disabled: datetime | None = Field(description="since when nothing is sent there")
    reason: str | None = Field(description="why it was disabled")


class NewDestinationDocument(DestinationDocument):
    """A destination that was just made. The secret is shown this once."""

    secret: str | None = Field(description="of a webhook: signs each call; null for SNS")


class DestinationsDocument(BaseModel):
    """All destinations of an owner."""

    count: int
    destinations: list[DestinationDocument]


def alert_document(alert: Alert, factor: Factor, warn: Warn) -> dict[str, Any]:
    """Return what is told of an alert.

    Args:
        alert: any.
        factor: of splits since its basis.
        warn: of bars that are not made.
    """
    bars = alert.definition.bars
    return {
        "id": str(alert.id),
        "version": alert.version,
        "state": alert.state,
        **alert.definition.as_json(),
        "bars_text": None if bars is None else str(bars),
        "warning": None if bars is None else warn(bars),
        "basis": alert.basis.isoformat(),
        "levels": levels_of(alert, factor),
        "since": instant(alert.since),
        "fired": instant(alert.fired),
        "firings": alert.firings,
        "created": instant(alert.created),
        "updated": instant(alert.updated),
    }


def levels_of(alert: Alert, factor: Factor) -> list[float]:
    """Return the prices that an alert is held against, in today's shares, as far as they are known."""
    asked = alert.definition
    if asked.operator is None or asked.value is None:
        return []
    scale = factor(asked.symbol, alert.basis)
    if not asked.is_percentage:
        return _finite(asked.value * scale)
    if asked.reference_price is None:
        return []
    price, operator = asked.reference_price * scale, OPERATORS[asked.operator]
    # As the job reckons, to the bit: 10 percent above 100 is 110.
    up = [price * (100 + asked.value) / 100] if operator is not Operator.PERCENT_DOWN else []
    fall = asked.value < 100 and operator is not Operator.PERCENT_UP
    return _finite(*up, price * (100 - asked.value) / 100) if fall else _finite(*up)


def _finite(*levels: float) -> list[float]:
    """Return levels that a price can reach."""
    return [level for level in levels if math.isfinite(level)]


def event_document(event: Event) -> dict[str, Any]:
    """Return what is told of an event."""
    return {
        "id": event.id,
        "position": event.position,
        "alert": str(event.alert) if event.alert else None,
        "version": event.version,
        "symbol": event.symbol,
        "ts": event.ts.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "price": event.price,
        "previous": event.previous,
        "level": event.level,
        "operator": event.operator,
        "note": event.note,
        "test": event.test,
        "created": instant(event.created),
    }


def delivery_document(delivery: Delivery) -> dict[str, Any]:
    """Return what is told of a delivery."""
    return {
        "id": str(delivery.id),
        "event": delivery.event,
        "destination": str(delivery.destination),
        "state": delivery.state,
        "attempts": delivery.attempts,
        "due": instant(delivery.due),
        "last_error": delivery.last_error,
        "finished": instant(delivery.finished),
        "tries": [
            {"at": instant(one.at), "status": one.status, "error": one.error, "took_ms": one.took_ms}
            for one in delivery.tries
        ],
    }


def destination_document(destination: Destination) -> dict[str, Any]:
    """Return what is told of a destination, but for its secret."""
    return {
        "id": str(destination.id),
        "kind": destination.kind,
        "target": destination.target,
        "created": instant(destination.created),
        "disabled": instant(destination.disabled),
        "reason": destination.reason,
    }


def instant(at: datetime | None) -> str | None:
    """Return an instant as answers tell it."""
    return None if at is None else at.astimezone(UTC).isoformat().replace("+00:00", "Z")
