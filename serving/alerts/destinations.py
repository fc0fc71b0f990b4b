"""``/v1/alert-destinations``: where the events of alerts go."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Response

from fibflow.io.alerts.model import WEBHOOK, Destination
from fibflow.io.notify.addresses import Refused, check_url
from fibflow.io.notify.sns import check_topic
from fibflow.serving.alerts.answers import (
    CONFLICT,
    TOO_MANY_TESTS,
    DestinationId,
    Shared,
    Who,
    answer,
    made,
    nothing,
    number_of,
    problem_of,
)
from fibflow.serving.alerts.bodies import DestinationBody, DestinationChange
from fibflow.serving.alerts.desk import refused
from fibflow.serving.alerts.documents import (
    DestinationDocument,
    DestinationsDocument,
    EventDocument,
    NewDestinationDocument,
    destination_document,
    event_document,
)

if TYPE_CHECKING:
    from fibflow.io.alerts.store import AlertStore

router = APIRouter(prefix="/v1", tags=["alerts"])

_TAKEN: dict[int | str, Any] = {
    403: problem_of("The key lacks the scope, or its owner has as many destinations as he may have.")
}


@router.post(
    "/alert-destinations",
    status_code=201,
    response_model=NewDestinationDocument,
    responses={**made("The destination.", NewDestinationDocument), **CONFLICT, **_TAKEN},
)
async def create_destination(who: Who, shared: Shared, body: DestinationBody) -> Response:
    """Make a destination. The secret of a webhook, which signs each call, is shown this once."""

    def make(store: AlertStore) -> Destination:
        secret = _secret() if body.kind == WEBHOOK else None
        return store.add_destination(who.owner, body.kind, body.target, shared.clock(), secret=secret)

    await shared.alerts.look(lambda: _check(body.kind, body.target))
    found = await shared.alerts.ask(make)
    return answer(_with_secret(found), 201, location=f"/v1/alert-destinations/{found.id}")


@router.get("/alert-destinations", response_model=DestinationsDocument)
async def get_destinations(who: Who, shared: Shared) -> Response:
    """Your destinations."""
    found = await shared.alerts.ask(lambda store: store.destinations(who.owner))
    return answer({"count": len(found), "destinations": [destination_document(one) for one in found]})


@router.get("/alert-destinations/{destination}", response_model=DestinationDocument)
async def get_destination(who: Who, shared: Shared, destination: DestinationId) -> Response:
    """One of your destinations."""
    number = number_of(destination, "destination")
    found = await shared.alerts.ask(lambda store: store.destination(who.owner, number))
    return answer(destination_document(found))


@router.patch("/alert-destinations/{destination}", response_model=NewDestinationDocument, responses=CONFLICT)
async def change_destination(
    who: Who, shared: Shared, destination: DestinationId, body: DestinationChange
) -> Response:
    """Change a destination: its target, whether it is in use, or its secret."""
    number = number_of(destination, "destination")

    # Its kind stays what it is.
    kind = (await shared.alerts.ask(lambda store: store.destination(who.owner, number))).kind
    target = body.target
    if target is not None:
        await shared.alerts.look(lambda: _check(kind, target))

    def change(store: AlertStore) -> dict[str, Any]:
        if body.new_secret and kind != WEBHOOK:
            raise refused("new_secret", "only calls of webhooks are signed")
        found = store.update_destination(
            who.owner,
            number,
            shared.clock(),
            target=target,
            secret=_secret() if body.new_secret else None,
            enabled=body.enabled,
        )
        return _with_secret(found) if body.new_secret else {**destination_document(found), "secret": None}

    return answer(await shared.alerts.ask(change))


@router.delete("/alert-destinations/{destination}", status_code=204, response_class=Response)
async def delete_destination(who: Who, shared: Shared, destination: DestinationId) -> Response:
    """Delete a destination; alerts that name it send no more there."""
    number = number_of(destination, "destination")
    await shared.alerts.ask(lambda store: store.remove_destination(who.owner, number, shared.clock()))
    return nothing()


@router.post(
    "/alert-destinations/{destination}/enable", response_model=DestinationDocument, responses=CONFLICT
)
async def enable_destination(who: Who, shared: Shared, destination: DestinationId) -> Response:
    """Use a destination again that was disabled, such as a webhook that answered 410."""
    number = number_of(destination, "destination")
    found = await shared.alerts.ask(
        lambda store: store.update_destination(who.owner, number, shared.clock(), enabled=True)
    )
    return answer(destination_document(found))


@router.post(
    "/alert-destinations/{destination}/test",
    status_code=202,
    response_model=EventDocument,
    responses={**CONFLICT, **TOO_MANY_TESTS},
)
async def test_destination(who: Who, shared: Shared, destination: DestinationId) -> Response:
    """Send a test there: an event with ``test: true``."""
    number = number_of(destination, "destination")
    shared.alerts.test(who.owner)
    found = await shared.alerts.ask(
        lambda store: store.test_fire(who.owner, shared.clock(), secrets.token_bytes, destination=number)
    )
    return answer(event_document(found), 202)


def _check(kind: str, target: str) -> None:
    """Refuse what is no target. It may wait for names' servers. Raises ``Problem``."""
    try:
        if kind == WEBHOOK:
            check_url(target)
        else:
            check_topic(target)
    except (Refused, ValueError) as error:
        raise refused("target", str(error)) from None


def _secret() -> str:
    return f"whsec_{secrets.token_urlsafe(32)}"


def _with_secret(destination: Destination) -> dict[str, Any]:
    return {**destination_document(destination), "secret": destination.secret}
