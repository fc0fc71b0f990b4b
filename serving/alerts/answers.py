"""What the routes of alerts share: reading ids and pages, and answering."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import orjson
from fastapi import Depends, Header, Path, Query, Request, Response

from fibflow.io.alerts.model import Answer, Conflict
from fibflow.serving.access import Principal, Scope, require
from fibflow.serving.alerts.bodies import LARGEST_ID, LONGEST_SYMBOL
from fibflow.serving.history.query import bad_cursor, pack, unpack
from fibflow.serving.problems import CONTENT_TYPE, Problem, bad_request, not_found
from fibflow.serving.services import Services, services

if TYPE_CHECKING:
    from fibflow.io.alerts.store import AlertStore

#: How many of a list a page has at most, and by default.
MOST, DEFAULT = 1_000, 100
_JSON = "application/json"
_HEADERS = {"Cache-Control": "no-store"}
_LONGEST_KEY = 255

Who = Annotated[Principal, Depends(require(Scope.ALERTS))]
Shared = Annotated[Services, Depends(services)]
AlertId = Annotated[str, Path(description="of the alert")]
DestinationId = Annotated[str, Path(description="of the destination")]
Limit = Annotated[str | None, Query(description=f"1 to {MOST:,}; {DEFAULT} by default")]
Cursor = Annotated[str | None, Query(description="next_cursor of the page before")]
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="any text of your own, up to 255 characters: a call that is sent again with it, within "
        "24 hours, does nothing more and is answered as before (with Idempotent-Replayed)",
    ),
]


def problem_of(description: str) -> dict[str, Any]:
    """Return how the document tells an error."""
    return {
        "description": description,
        "content": {CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }


#: Of what changes something.
CONFLICT: dict[int | str, Any] = {409: problem_of("It does not go with what is there; detail says why.")}
TOO_MANY_TESTS: dict[int | str, Any] = {
    429: problem_of("The key is asked too often, or fired too many tests within a minute.")
}


def made(description: str, model: type) -> dict[int | str, Any]:
    """Return how the document tells that something was made."""
    header = {"description": "where it is", "schema": {"type": "string"}}
    return {201: {"model": model, "description": description, "headers": {"Location": header}}}


def number_of(text: str, what: str) -> int:
    """Read an id of a path.

    Raises:
        Problem: 404, it can be none.
    """
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and 0 < int(text) <= LARGEST_ID):
        raise not_found(f"there is no {what} {text[:20]!r} of yours", "not_found")
    return int(text)


def symbol_of(text: str | None) -> str | None:
    """Read a symbol to look for; None for all. Raises ``Problem``."""
    name = (text or "").strip()
    if len(name) > LONGEST_SYMBOL:
        raise bad_request(f"a symbol has 1 to {LONGEST_SYMBOL} characters", "bad_symbol")
    return name or None


def after_of(cursor: str | None, asked: list[Any]) -> int | None:
    """Return behind which id or place a page goes on; None for the first.

    Raises:
        Problem: 400, the cursor is of another question.
    """
    if cursor is None or not cursor.strip():
        return None
    found = unpack(cursor.strip())
    if not (isinstance(found, list) and len(found) == 2 and found[1] == asked):
        raise bad_cursor()
    if type(found[0]) is not int or not 0 < found[0] <= LARGEST_ID:
        raise bad_cursor()
    return int(found[0])


def cursor_of(place: int, asked: list[Any]) -> str:
    """Return the cursor of the next page."""
    return pack([place, asked])


def answer(document: Any, status: int = 200, **headers: str) -> Response:
    """Return an answer, which nobody keeps."""
    named = {name.replace("_", "-").title(): value for name, value in headers.items()}
    return Response(orjson.dumps(document), status, {**_HEADERS, **named}, _JSON)


def nothing() -> Response:
    """Return the answer that something is gone."""
    return Response(status_code=204, headers=_HEADERS)


async def once(
    request: Request,
    shared: Services,
    owner: str,
    key: str | None,
    body: bytes,
    work: Callable[[AlertStore], Answer],
) -> Answer:
    """Return what a call does, or what it did when it came with this key before.

    Args:
        request: says what is asked.
        shared: of the process.
        owner: who asks.
        key: ``Idempotency-Key``; None: each call is another.
        body: of the request, in any form that is the same for the same.
        work: does it.

    Raises:
        Problem: 400 where the key can be none; 422 where it came with another body; as ``AlertDesk.ask``.
    """
    if key is None:
        return await shared.alerts.ask(work)
    if not 1 <= len(key) <= _LONGEST_KEY or not key.isascii() or not key.isprintable():
        raise bad_request(
            f"Idempotency-Key has 1 to {_LONGEST_KEY} printable ASCII characters", "bad_idempotency_key"
        )
    digest = hashlib.sha256(request.url.path.encode() + b"\n" + body).digest()
    begun = False

    def begin(store: AlertStore) -> Answer:
        nonlocal begun
        begun = True
        return work(store)

    def ask(store: AlertStore) -> Answer:
        try:
            return store.once(owner, key, digest, shared.clock(), begin)
        except Conflict as error:
            if begun:
                raise
            raise Problem(422, f"Idempotency-Key: {error}", "idempotency_key_reused") from None

    return await shared.alerts.ask(ask)


def of(found: Answer, **headers: str) -> Response:
    """Return what ``once`` found as a response."""
    if found.repeated:
        headers["Idempotent_Replayed"] = "true"
    return answer(found.body, found.status, **headers)
