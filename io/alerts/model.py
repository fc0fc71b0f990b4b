"""What is kept of alerts: the alert, where its events go, an event, its deliveries; and what is refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

from fibflow.transforms.alerts.definition import Definition

#: So long after it is asked for a change is in force: more than it takes to reach the job.
IN_FORCE_AFTER = timedelta(seconds=2)
#: Instants from the first one on, and before the second one, can be kept and read again in any zone.
KEPT_FROM, KEPT_BEFORE = datetime(1970, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)
#: By default the most alerts, and the most destinations, of an owner; deleted ones do not count.
MOST_ALERTS, MOST_DESTINATIONS = 100_000, 100
#: The zone of the exchange, in which ``basis`` is a day.
ZONE = "America/New_York"

ACTIVE, PAUSED, FIRED, DELETED = STATES = ("active", "paused", "fired", "deleted")
WEBHOOK, SNS = KINDS = ("webhook", "sns")
PENDING, DELIVERED, DEAD = DELIVERY_STATES = ("pending", "delivered", "dead")


class NotFound(LookupError):
    """There is no such thing of this owner; one line."""


class LimitError(ValueError):
    """An owner would have more than he may; one line that says what to do."""


class Conflict(ValueError):
    """What is asked for does not go with what is there; one line that says what to do."""


@dataclass(frozen=True)
class Alert:
    """One version of an alert; all instants are UTC.

    Attributes:
        id: its number, for ever.
        owner: whose it is.
        version: counts its changes, from 1.
        revision: of this version, in the feed of changes.
        state: ``active``; ``paused``; ``fired``: it was to fire once, and did; ``deleted``.
        definition: what it waits for.
        since: in force for prices later than this.
        basis: day of the exchange whose shares its prices are of; later splits rescale them.
        fired: the last price at which this version fired; None for none.
        firings: of all versions, so far.
        created: when it was made.
        updated: when this version was asked for.
        origin: its id where it was imported from.
    """

    id: int
    owner: str
    version: int
    revision: int
    state: str
    definition: Definition
    since: datetime
    basis: date
    fired: datetime | None
    firings: int
    created: datetime
    updated: datetime
    origin: str | None = None


@dataclass(frozen=True)
class Destination:
    """Where events go.

    Attributes:
        id: its number.
        owner: whose it is.
        kind: ``webhook`` or ``sns``.
        target: an https address, which may hold a secret of its owner's; or a topic's ARN.
        created: when, UTC.
        secret: with which a webhook's calls are signed.
        disabled: since when nothing is sent there, UTC; None: it is in use.
        reason: why it was disabled.
    """

    id: int
    owner: str
    kind: str
    target: str = field(repr=False)
    created: datetime
    secret: str | None = field(default=None, repr=False)
    disabled: datetime | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Event:
    """What fired.

    Attributes:
        id: the same whenever the same firing is computed again; see ``transforms.alerts.schema.EVENTS``.
        position: place among all events, in the order in which they were committed.
        alert: id of the alert; 0 for the test of a destination.
        owner: whose; empty where the alert is not known.
        version: of the alert.
        symbol: of the instrument.
        ts, seq, price: of the price that fired it; ``ts`` UTC.
        previous: the price before it; None for none.
        level: what it was held against; None where that is not known.
        operator, note: of that version of the alert.
        test: nothing fired: the owner asked for it, to see that it arrives.
        created: when it was written, UTC.
    """

    id: str
    position: int
    alert: int
    owner: str
    version: int
    symbol: str
    ts: datetime
    seq: int
    price: float
    previous: float | None
    level: float | None
    operator: str
    note: str
    test: bool
    created: datetime


@dataclass(frozen=True)
class Try:
    """One try to deliver.

    Attributes:
        at: when it ended, UTC.
        status: of HTTP; None where there was no answer.
        error: what went wrong; None for nothing.
        took_ms: how long it took.
    """

    at: datetime
    status: int | None
    error: str | None
    took_ms: int | None


@dataclass(frozen=True)
class Delivery:
    """An event on its way to a destination.

    Attributes:
        id: its number.
        event: id of the event.
        destination: id of the destination.
        state: ``pending``, ``delivered`` or ``dead`` (given up).
        attempts: so far.
        due: of the next try, UTC.
        last_error: of the last try that failed.
        finished: when it was delivered or given up, UTC.
        tries: the oldest first.
    """

    id: int
    event: str
    destination: int
    state: str
    attempts: int
    due: datetime
    last_error: str | None
    finished: datetime | None
    tries: tuple[Try, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What a request was answered.

    Attributes:
        status: of HTTP.
        body: of JSON values.
        repeated: it is the answer that was given before.
    """

    status: int
    body: Any
    repeated: bool = False


@dataclass(frozen=True)
class Imported:
    """An alert from elsewhere.

    Attributes:
        owner: whose.
        origin: its id there; one an owner.
        definition: what it waits for.
        state: ``active``, ``paused`` or ``fired``.
        created: when it was made there, UTC; None for not known.
        fired: when it fired last, UTC.
        firings: how often it has fired.
    """

    owner: str
    origin: str
    definition: Definition
    state: str = ACTIVE
    created: datetime | None = None
    fired: datetime | None = None
    firings: int = 0


@dataclass(frozen=True)
class Past:
    """An event from elsewhere, of an alert that is imported too; it is delivered nowhere.

    Attributes:
        owner: whose; None for the owner of the alert with this origin, where one owner alone has it.
        id: its id there.
        origin: id of the alert there.
        ts: when it fired, UTC.
        price: that it fired at.
        symbol, level, operator, note: where they are told; else those of the alert.
    """

    owner: str | None
    id: str
    origin: str
    ts: datetime
    price: float
    symbol: str | None = None
    level: float | None = None
    operator: str | None = None
    note: str | None = None
