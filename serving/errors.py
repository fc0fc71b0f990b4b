"""Every exception as a problem: what handlers of the application answer, and what others may ask."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from fibflow.io.aws import AwsError
from fibflow.io.liveredis import LiveStoreError
from fibflow.io.storage import LakeError
from fibflow.serving.keys.store import KeysDown
from fibflow.serving.problems import CONTENT_TYPE, Problem

_LOG = logging.getLogger("fibflow.serving")
_SHOWN = 60
#: Of parameters whose values are never shown.
_SECRET = frozenset({"apikey", "authorization"})


def install(app: FastAPI) -> None:
    """Let an application answer exceptions with problems; what is not known here is left to ``Observe``."""
    for kind in (
        Problem,
        HTTPException,
        RequestValidationError,
        LakeError,
        AwsError,
        LiveStoreError,
        KeysDown,
    ):
        app.add_exception_handler(kind, _answer)


async def _answer(request: Request, error: Exception) -> Response:
    problem = problem_of(error) or internal()
    return response(problem, request_id_of(request.scope), request.method)


def response(problem: Problem, request_id: str, method: str = "GET") -> Response:
    """Return the answer that tells a problem."""
    headers = {"Cache-Control": "no-store", **problem.headers}
    return Response(problem.document(request_id), problem.status, headers, CONTENT_TYPE)


def request_id_of(scope: Mapping[str, Any]) -> str:
    """Return the id of a request."""
    found: str = scope.get("state", {}).get("request_id", "")
    return found


def problem_of(error: Exception) -> Problem | None:
    """Return the problem that an exception is; None for one that nobody expected.

    What a store said is logged, and not told: it may name places that are not the client's.
    """
    if isinstance(error, Problem):
        return error
    if isinstance(error, HTTPException):
        return _of_http(error)
    if isinstance(error, RequestValidationError):
        return of_validation(error)
    if isinstance(error, LakeError | AwsError):
        _LOG.error("the lake cannot be read: %s", error)
        return _away("the lake cannot be read at the moment: try again", "lake_unavailable")
    if isinstance(error, LiveStoreError):
        _LOG.error("the live store cannot be read: %s", error)
        return _away("the live store does not answer at the moment: try again", "live_store_unavailable")
    if isinstance(error, KeysDown):
        _LOG.error("the store of keys cannot be read: %s", error)
        return _away("the store of API keys does not answer: try again", "keys_unavailable")
    return None


def internal() -> Problem:
    """Return what is told where the fault is the server's own."""
    return Problem(
        500, "the server failed at this request; its log says why under the request_id", "internal"
    )


def of_validation(error: RequestValidationError) -> Problem:
    """Return one line about the first value that cannot be read: 422 for a body, else 400."""
    found = error.errors()
    first = found[0] if found else {"loc": ("request",), "msg": "cannot be read", "type": ""}
    place, *rest = [str(part) for part in first["loc"]] or ["request"]
    message = str(first["msg"])
    if first["type"] == "model_attributes_type" and place == "body" and not rest:
        message = "send a JSON object, with Content-Type: application/json"
    name = ".".join(rest) or place
    missing = first["type"] == "missing"
    value = first.get("input")
    told = ""
    if not missing and name.lower() not in _SECRET and isinstance(value, str | int | float):
        shown = value if not isinstance(value, str) or len(value) <= _SHOWN else value[:_SHOWN] + "..."
        told = f"={shown!r}"
    line = f"{name}{told}: {message[:1].lower()}{message[1:]}"
    more = f" ({len(found) - 1} more)" if len(found) > 1 else ""
    if place == "body":
        found_in: dict[str, Any] = {"field": name} if rest else {}
        return Problem(422, line + more, "bad_body", **found_in)
    return Problem(400, line + more, f"bad_{name}")


def _of_http(error: HTTPException) -> Problem:
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.NOT_FOUND:
        return Problem(
            404, "there is nothing at this path: /openapi.json lists what there is", "no_such_path", headers
        )
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = headers.get("allow") or headers.get("Allow") or "GET"
        return Problem(405, f"this path takes {allowed} only", "method_not_allowed", headers)
    return Problem(error.status_code, str(error.detail), headers=headers)


def _away(detail: str, code: str) -> Problem:
    return Problem(503, detail, code, {"Retry-After": "2"})
