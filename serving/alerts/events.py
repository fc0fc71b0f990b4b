"""``/v1/alert-events``: what has fired, its deliveries, and events that are made to see that they arrive."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query, Response

from fibflow.io.alerts.model import Event
from fibflow.serving.alerts.answers import (
    CONFLICT,
    DEFAULT,
    MOST,
    TOO_MANY_TESTS,
    AlertId,
    Cursor,
    Limit,
    Shared,
    Who,
    after_of,
    answer,
    cursor_of,
    number_of,
)
from fibflow.serving.alerts.bodies import LARGEST_ID
from fibflow.serving.alerts.documents import (
    DeliveriesDocument,
    EventDocument,
    EventsDocument,
    delivery_document,
    event_document,
)
from fibflow.serving.history.query import limit_of
from fibflow.serving.problems import bad_request
from fibflow.serving.services import Services

if TYPE_CHECKING:
    from fibflow.io.alerts.store import AlertStore

router = APIRouter(prefix="/v1", tags=["alerts"])

After = Annotated[
    str | None,
    Query(description="position of the last event that you know, or 0: those behind it, the oldest first"),
]


@router.get("/alert-events", response_model=EventsDocument)
async def get_events(
    who: Who, shared: Shared, after: After = None, limit: Limit = None, cursor: Cursor = None
) -> Response:
    """What has fired of all your alerts: the newest first; with ``after`` what came since."""
    return await _events(shared, who.owner, None, after, limit, cursor)


@router.get("/alerts/{alert}/events", response_model=EventsDocument)
async def get_events_of_alert(
    who: Who,
    shared: Shared,
    alert: AlertId,
    after: After = None,
    limit: Limit = None,
    cursor: Cursor = None,
) -> Response:
    """What has fired of one alert: the newest first; with ``after`` what came since."""
    return await _events(shared, who.owner, number_of(alert, "alert"), after, limit, cursor)


@router.get("/alerts/{alert}/deliveries", response_model=DeliveriesDocument)
async def get_deliveries(
    who: Who, shared: Shared, alert: AlertId, limit: Limit = None, cursor: Cursor = None
) -> Response:
    """Where the events of an alert went: each delivery, the newest first, with its tries."""
    number, most = number_of(alert, "alert"), limit_of(limit, MOST, DEFAULT)
    asked = ["deliveries", number]
    behind = after_of(cursor, asked)

    def page(store: AlertStore) -> dict[str, Any]:
        found = store.deliveries(who.owner, alert=number, behind=behind, limit=most + 1)
        told = [delivery_document(one) for one in found[:most]]
        document: dict[str, Any] = {"count": len(told), "deliveries": told}
        if len(found) > most:
            document["next_cursor"] = cursor_of(found[most - 1].id, asked)
        return document

    return answer(await shared.alerts.ask(page))


@router.post(
    "/alerts/{alert}/test",
    status_code=202,
    response_model=EventDocument,
    responses={**CONFLICT, **TOO_MANY_TESTS},
)
async def test_alert(who: Who, shared: Shared, alert: AlertId) -> Response:
    """Fire a test: an event with ``test: true`` goes wherever those of the alert go; it counts as none."""
    number = number_of(alert, "alert")
    shared.alerts.test(who.owner)
    found = await shared.alerts.ask(
        lambda store: store.test_fire(who.owner, shared.clock(), secrets.token_bytes, alert=number)
    )
    return answer(event_document(found), 202)


async def _events(
    shared: Services, owner: str, alert: int | None, after: str | None, limit: str | None, cursor: str | None
) -> Response:
    most, asked = limit_of(limit, MOST, DEFAULT), ["events", alert]
    if after is None or not after.strip():
        below = after_of(cursor, asked)

        def newest(store: AlertStore) -> dict[str, Any]:
            found = store.events(owner, alert=alert, after=below, limit=most + 1, newest=True)
            document = _document(found[:most])
            if len(found) > most:
                document["next_cursor"] = cursor_of(found[most - 1].position, asked)
            return document

        return answer(await shared.alerts.ask(newest))
    if cursor is not None and cursor.strip():
        raise bad_request("give after or cursor: the one goes up, the other down", "bad_cursor")
    digits = after.strip()
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 20 and int(digits) <= LARGEST_ID):
        raise bad_request(f"after={digits[:20]!r}: give the position of an event, or 0", "bad_after")
    known = int(digits)

    def since(store: AlertStore) -> dict[str, Any]:
        found = store.events(owner, alert=alert, after=known, limit=most)
        return {**_document(found), "next_after": found[-1].position if found else known}

    return answer(await shared.alerts.ask(since))


def _document(events: list[Event]) -> dict[str, Any]:
    return {"count": len(events), "events": [event_document(one) for one in events]}
