"""The OpenAPI document: what FastAPI finds, and what holds for all operations: keys, errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute, RouteContext, iter_route_contexts

from fibflow.serving.access import Scope, scope_of
from fibflow.serving.problems import CONTENT_TYPE

_PROBLEM = {
    "type": "object",
    "description": "What is wrong with a request (RFC 9457).",
    "required": ["type", "title", "status", "detail", "code", "request_id"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "one line that says what to do"},
        "code": {"type": "string", "description": "the kind of problem, for programs"},
        "request_id": {"type": "string"},
    },
}
_VENDOR = {
    "type": "object",
    "description": "What is wrong with a request, as the vendor's clients know it.",
    "required": ["status", "request_id"],
    "properties": {
        "status": {"type": "string", "enum": ["ERROR", "NOT_FOUND", "NOT_AUTHORIZED"]},
        "request_id": {"type": "string"},
        "error": {"type": "string"},
        "message": {"type": "string"},
    },
}
_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "Authorization: Bearer KEY; goes first"},
    "apiKey": {"type": "apiKey", "in": "query", "name": "apiKey"},
}
_EVERYWHERE = {
    400: "The request cannot be understood; detail says why.",
    404: "There is no such thing.",
    413: "The body is too large.",
    414: "The URL is too long.",
    431: "The headers are too large.",
}
_WITH_KEY = {
    401: "No key, or one that is not known any more.",
    403: "The key lacks the scope.",
    410: "The version that was asked for is gone.",
    429: "The key asks too often, or the server is at too much of this; Retry-After says when to come again.",
    503: "A store does not answer; Retry-After says when to come again.",
}
_NO_CHANGE = "What If-None-Match names is what is there."


def install(app: FastAPI) -> None:
    """Let an application give the document."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign] # how FastAPI is told


def _document(app: FastAPI) -> dict[str, Any]:
    found = get_openapi(
        title=app.title, version=app.version, summary=app.summary, routes=app.routes, openapi_version="3.1.0"
    )
    components = found.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    # FastAPI's own form of a validation error, which nobody is told.
    schemas.pop("HTTPValidationError", None)
    schemas.pop("ValidationError", None)
    schemas |= {"Problem": _PROBLEM, "VendorError": _VENDOR}
    components["securitySchemes"] = _SCHEMES
    for route, method, operation in _operations(app, found):
        _complete(route, method, operation)
    return found


def routes_of(app: FastAPI) -> Iterator[RouteContext]:
    """Yield the routes that the document describes."""
    for context in iter_route_contexts(app.routes):
        if isinstance(context.original_route, APIRoute) and context.include_in_schema:
            yield context


def _operations(app: FastAPI, found: dict[str, Any]) -> Iterator[tuple[RouteContext, str, dict[str, Any]]]:
    for route in routes_of(app):
        for method in sorted(route.methods or ()):
            operation = found["paths"].get(route.path_format, {}).get(method.lower())
            if operation is not None:
                yield route, method, operation


def _complete(route: RouteContext, method: str, operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    responses.pop("422", None)
    told = dict(_EVERYWHERE)
    if operation.get("requestBody"):
        told[422] = "The body cannot be understood; detail says why."
    if required := scopes_of(route):
        names = ", ".join(required)
        operation["security"] = [{"bearer": []}, {"apiKey": []}]
        operation["description"] = f"{operation.get('description', '')}\n\nScope of the key: {names}.".strip()
        told |= _WITH_KEY
        if method == "GET":
            responses.setdefault("304", {"description": _NO_CHANGE})
    for status, description in told.items():
        responses.setdefault(
            str(status), _error(description, is_compatible(route) and status not in (413, 414, 431))
        )


def _error(description: str, vendor: bool) -> dict[str, Any]:
    problem = {CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    theirs = {"application/json": {"schema": {"$ref": "#/components/schemas/VendorError"}}}
    # Tricks with paths and parameters are turned away before any route is asked.
    return {"description": description, "content": {**theirs, **problem} if vendor else problem}


def is_compatible(route: RouteContext) -> bool:
    """Return whether a route belongs to the vendor's surface."""
    return "compatible" in route.tags


def scopes_of(route: RouteContext) -> list[Scope]:
    """Return the scopes that a route asks for; none where it needs no key."""
    waiting, found = [route.dependant], []
    while waiting:
        dependant = waiting.pop()
        scope = scope_of(dependant.call)
        if scope is not None and scope not in found:
            found.append(scope)
        waiting.extend(dependant.dependencies)
    return found
