"""Routes of the compatible surface: what is wrong is told in the vendor's envelope."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

from fibflow.serving.errors import problem_of, request_id_of
from fibflow.serving.problems import Problem

Handler = Callable[[Request], Coroutine[Any, Any, Response]]

_FORBIDDEN, _NOT_FOUND = 403, 404


class CompatRoute(APIRoute):
    """A route whose refusals have the vendor's envelope."""

    def get_route_handler(self) -> Handler:
        """Return the handler, with its problems told the vendor's way."""
        handler = super().get_route_handler()

        async def answered(request: Request) -> Response:
            try:
                return await handler(request)
            except Exception as error:
                problem = problem_of(error)
                if problem is None:
                    raise
                return refusal(request, problem)

        return answered


def compat_router() -> APIRouter:
    """Return a router for routes of the compatible surface."""
    return APIRouter(route_class=CompatRoute, tags=["compatible"])


def refusal(request: Request, problem: Problem) -> Response:
    """Return a problem in the vendor's envelope."""
    status = {_FORBIDDEN: "NOT_AUTHORIZED", _NOT_FOUND: "NOT_FOUND"}.get(problem.status, "ERROR")
    body = {
        "status": status,
        "request_id": request_id_of(request.scope),
        "error" if status == "ERROR" else "message": problem.detail,
    }
    headers = {"Cache-Control": "no-store", **problem.headers}
    return Response(orjson.dumps(body), problem.status, headers, "application/json")
