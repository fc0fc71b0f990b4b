"""``/v1/alerts``: what an owner waits for; made, changed, paused, armed again, deleted, many at once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from fibflow.io.alerts.model import DELETED, STATES, Alert, Answer
from fibflow.serving.alerts import destinations, events
from fibflow.serving.alerts.answers import (
    CONFLICT,
    DEFAULT,
    MOST,
    AlertId,
    Cursor,
    Key,
    Limit,
    Shared,
    Who,
    after_of,
    answer,
    cursor_of,
    made,
    nothing,
    number_of,
    of,
    once,
    problem_of,
    symbol_of,
)
from fibflow.serving.alerts.bodies import (
    MOST_BULK,
    AlertBody,
    AlertChange,
    BulkBody,
    read_bulk,
    refused_bulk,
    wrong,
)
from fibflow.serving.alerts.checking import Checks
from fibflow.serving.alerts.documents import (
    AlertDocument,
    AlertsDocument,
    BulkDocument,
    Factor,
    alert_document,
)
from fibflow.serving.history.query import limit_of
from fibflow.serving.problems import Problem, bad_request
from fibflow.serving.services import Services
from fibflow.transforms.alerts.definition import Definition

if TYPE_CHECKING:
    from fibflow.io.alerts.store import AlertStore

router = APIRouter(prefix="/v1", tags=["alerts"])

_TAKEN: dict[int | str, Any] = {
    403: problem_of("The key lacks the scope, or its owner has as many alerts as he may have.")
}
_SHOWN = [state for state in STATES if state != DELETED]


def _bulk_body() -> dict[str, Any]:
    """Return how the document tells a body that the route reads by itself."""
    schema = BulkBody.model_json_schema(ref_template="#/components/schemas/{model}")
    # What it names is there by the route that makes one alert.
    del schema["$defs"]
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


@router.post(
    "/alerts",
    status_code=201,
    response_model=AlertDocument,
    responses={**made("The alert.", AlertDocument), **CONFLICT, **_TAKEN},
)
async def create_alert(
    request: Request, who: Who, shared: Shared, body: AlertBody, key: Key = None
) -> Response:
    """Make an alert. It is in force 2 seconds later, for prices from then on."""

    def work(store: AlertStore) -> Answer:
        now = shared.clock()
        definition = _checks(shared).one(body.definition(), now)
        (alert,) = store.create(who.owner, [definition], now, most=shared.settings.most_alerts)
        return Answer(201, _document(shared, alert))

    found = await once(request, shared, who.owner, key, body.same(), work)
    return of(found, location=f"/v1/alerts/{found.body['id']}")


@router.post(
    "/alerts/bulk",
    status_code=201,
    response_model=BulkDocument,
    responses={
        201: {"model": BulkDocument, "description": "All were made."},
        413: problem_of(f"More than {MOST_BULK:,} alerts, or 8 MiB."),
        415: problem_of("Not sent as JSON."),
        422: problem_of("None was made; errors says what is wrong with which."),
        **CONFLICT,
        **_TAKEN,
    },
    openapi_extra=_bulk_body(),
)
async def create_alerts(request: Request, who: Who, shared: Shared, key: Key = None) -> Response:
    """Make many alerts, up to 10,000: all of them, or none."""

    def work(store: AlertStore) -> Answer:
        now = shared.clock()
        own = frozenset(one.id for one in store.destinations(who.owner))
        definitions = _all_of(read_bulk(body), _checks(shared), now, own)
        alerts = store.create(who.owner, definitions, now, most=shared.settings.most_alerts)
        return Answer(201, {"count": len(alerts), "ids": [str(alert.id) for alert in alerts]})

    # Another site's page may send any text without asking, but no JSON.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Problem(415, "send JSON, with Content-Type: application/json", "bad_content_type")
    with shared.alerts.bulk(who.owner) as reading:
        body = await request.body()
        async with reading:
            return of(await once(request, shared, who.owner, key, body, work))


@router.get("/alerts", response_model=AlertsDocument)
async def get_alerts(
    who: Who,
    shared: Shared,
    symbol: Annotated[str | None, Query(description="of the alerts; all by default")] = None,
    state: Annotated[
        str | None,
        Query(description="all but deleted ones by default", json_schema_extra={"enum": list(_SHOWN)}),
    ] = None,
    limit: Limit = None,
    cursor: Cursor = None,
) -> Response:
    """Your alerts, the oldest first."""
    name, most = symbol_of(symbol), limit_of(limit, MOST, DEFAULT)
    wanted = state.strip().lower() if state else None
    if wanted and wanted not in _SHOWN:
        raise bad_request(f"state={state!r:.30}: choose one of {', '.join(_SHOWN)}", "bad_state")
    asked = ["alerts", name, wanted]
    after = after_of(cursor, asked) or 0

    def page(store: AlertStore) -> dict[str, Any]:
        found = store.find(who.owner, symbol=name, state=wanted or None, after=after, limit=most + 1)
        factor, warn = _factor(shared), shared.alerts.made.warning
        told = [alert_document(alert, factor, warn) for alert in found[:most]]
        document: dict[str, Any] = {"count": len(told), "alerts": told}
        if len(found) > most:
            document["next_cursor"] = cursor_of(found[most - 1].id, asked)
        return document

    return answer(await shared.alerts.ask(page))


@router.get("/alerts/{alert}", response_model=AlertDocument)
async def get_alert(who: Who, shared: Shared, alert: AlertId) -> Response:
    """One of your alerts."""
    number = number_of(alert, "alert")
    return answer(await shared.alerts.ask(lambda store: _document(shared, store.get(who.owner, number))))


@router.patch("/alerts/{alert}", response_model=AlertDocument, responses=CONFLICT)
async def change_alert(who: Who, shared: Shared, alert: AlertId, body: AlertChange) -> Response:
    """Change an alert: a new version, armed anew, in force 2 seconds later; up to then the old one is."""
    number = number_of(alert, "alert")

    def change(store: AlertStore) -> dict[str, Any]:
        now, given = shared.clock(), body.given()
        before = store.get(who.owner, number)
        if not given and body.if_version in (None, before.version):
            # No change is no new version: it would be armed anew.
            return _document(shared, before)
        definition = _checks(shared).changed(before, given, now)
        prices = ("value", "rearm", "reference_price", "bars")
        found = store.update(
            who.owner,
            number,
            definition,
            now,
            # What was read must be what is changed, whether the client cares or not.
            version=body.if_version or before.version,
            restated=any(getattr(definition, name) != getattr(before.definition, name) for name in prices)
            or not given.keys().isdisjoint(prices),
        )
        return _document(shared, found)

    return answer(await shared.alerts.ask(change))


@router.delete("/alerts/{alert}", status_code=204, response_class=Response)
async def delete_alert(who: Who, shared: Shared, alert: AlertId) -> Response:
    """Delete an alert; what it has fired stays in the history."""
    number = number_of(alert, "alert")
    await shared.alerts.ask(lambda store: store.delete(who.owner, number, shared.clock()))
    return nothing()


@router.post("/alerts/{alert}/pause", response_model=AlertDocument, responses=CONFLICT)
async def pause_alert(who: Who, shared: Shared, alert: AlertId) -> Response:
    """Let an alert rest until it is resumed."""
    return await _act(shared, alert, lambda store, number: store.pause(who.owner, number, shared.clock()))


@router.post("/alerts/{alert}/resume", response_model=AlertDocument, responses=CONFLICT)
async def resume_alert(who: Who, shared: Shared, alert: AlertId) -> Response:
    """Let a paused alert go on, armed anew."""
    return await _act(shared, alert, lambda store, number: store.resume(who.owner, number, shared.clock()))


@router.post("/alerts/{alert}/rearm", response_model=AlertDocument, responses=CONFLICT)
async def rearm_alert(who: Who, shared: Shared, alert: AlertId) -> Response:
    """Arm an alert that has fired once more: a new version of the same."""
    return await _act(shared, alert, lambda store, number: store.rearm(who.owner, number, shared.clock()))


async def _act(shared: Services, alert: str, act: Callable[[AlertStore, int], Alert]) -> Response:
    number = number_of(alert, "alert")
    return answer(await shared.alerts.ask(lambda store: _document(shared, act(store, number))))


def _checks(shared: Services) -> Checks:
    return Checks(shared.reference, shared.prices, shared.alerts.made.timeframes)


def _document(shared: Services, alert: Alert) -> dict[str, Any]:
    return alert_document(alert, _factor(shared), shared.alerts.made.warning)


def _factor(shared: Services) -> Factor:
    """Return what splits make of prices, each symbol and day looked at once."""
    checks, now = _checks(shared), shared.clock()

    @cache
    def factor(symbol: str, since: date) -> float:
        return checks.factor(symbol, since, now)

    return factor


def _all_of(read: list[Any], checks: Checks, now: datetime, own: frozenset[int]) -> list[Definition]:
    """Return all definitions. Raises ``Problem`` where one of them cannot be."""
    errors = [one for one in read if isinstance(one, dict)]
    right = [(index, one) for index, one in enumerate(read) if not isinstance(one, dict)]
    definitions: list[Definition] = []
    for (index, _), found in zip(right, checks.completed([one for _, one in right], now, own), strict=True):
        if isinstance(found, Definition):
            definitions.append(found)
        else:
            errors.append(wrong(index, found.field, found.reason))
    if errors:
        raise refused_bulk(sorted(errors, key=lambda one: one["index"]))
    return definitions


router.routes.extend(events.router.routes)
router.routes.extend(destinations.router.routes)
