"""What is seen of each request: its id, a log line, metrics; and the answer to what nobody expected."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fibflow.serving import logs, metrics
from fibflow.serving.errors import internal, problem_of, response

_LOG = logging.getLogger("fibflow.serving")
_WELL_FORMED = re.compile(rb"[A-Za-z0-9._-]{8,64}")
#: The route of a request that none is for: the path itself would be a new series each time.
UNMATCHED = "unmatched"
_ALWAYS = {"X-Content-Type-Options": "nosniff"}


def _new_id() -> str:
    return os.urandom(16).hex()


class Observe:
    """Gives each request an id, logs it, counts it. Sets ``request.state.request_id``.

    The id is the client's ``X-Request-Id`` where that is 8 to 64 letters, digits, ``.``, ``-`` and ``_``.
    An exception that no handler knows is logged and answered with 500; where the answer has begun it is
    raised, so that the connection breaks and no client takes a part for the whole.

    Args:
        app: what answers.
        log: where a line a request goes; None for nowhere.
        clock: seconds that only grow.
        new_id: of a request.
    """

    def __init__(
        self,
        app: ASGIApp,
        log: Callable[[dict[str, Any]], None] | None = logs.write,
        clock: Callable[[], float] = time.perf_counter,
        new_id: Callable[[], str] = _new_id,
    ) -> None:
        self._app = app
        self._log = log
        self._clock = clock
        self._new_id = new_id
        self._requests: dict[tuple[str, str, int], Any] = {}
        self._routes: dict[str, tuple[Any, Any]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "websocket":
            await self._socket(scope, receive, send)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        request_id = self._id_of(scope)
        state["request_id"] = request_id
        began, status, size = self._clock(), 0, 0

        async def sending(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": _told(message.get("headers", ()), request_id, state)}
            elif message["type"] == "http.response.body":
                size += len(message.get("body", b""))
            await send(message)

        metrics.IN_FLIGHT.inc()
        try:
            await self._app(scope, receive, sending)
        except ClientDisconnect:
            # Who asked has gone.
            pass
        except Exception as error:
            if status:
                raise
            problem = problem_of(error)
            if problem is None:
                _LOG.error("a request failed", exc_info=error, extra={"request_id": request_id})
                problem = internal()
            await response(problem, request_id)(scope, receive, sending)
        finally:
            metrics.IN_FLIGHT.dec()
            self._ended(scope, status or 499, size, self._clock() - began)

    def _id_of(self, scope: Scope) -> str:
        for name, value in scope["headers"]:
            if name == b"x-request-id" and _WELL_FORMED.fullmatch(value):
                return str(value, "ascii")
        return self._new_id()

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = scope.setdefault("state", {})
        state["request_id"] = self._id_of(scope)
        began = self._clock()
        metrics.WEBSOCKETS.inc()
        try:
            await self._app(scope, receive, send)
        finally:
            metrics.WEBSOCKETS.dec()
            if self._log is not None:
                self._log(self._line(scope, "WEBSOCKET", 101, 0, self._clock() - began))

    def _ended(self, scope: Scope, status: int, size: int, seconds: float) -> None:
        route, method = route_of(scope), scope["method"]
        if method not in _METHODS:
            method = "OTHER"
        counted = self._requests.get((method, route, status))
        if counted is None:
            counted = metrics.REQUESTS.labels(method, route, str(status))
            self._requests[method, route, status] = counted
        counted.inc()
        measured = self._routes.get(route)
        if measured is None:
            measured = metrics.SECONDS.labels(route), metrics.BYTES.labels(route)
            self._routes[route] = measured
        measured[0].observe(seconds)
        if size:
            measured[1].inc(size)
        if self._log is not None:
            self._log(self._line(scope, method, status, size, seconds))

    def _line(self, scope: Scope, method: str, status: int, size: int, seconds: float) -> dict[str, Any]:
        state = scope["state"]
        return {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "level": "info" if status < 500 else "error",
            "method": method,
            "route": route_of(scope),
            "status": status,
            "ms": round(seconds * 1_000, 2),
            "bytes": size,
            "key": state.get("key_id"),
            "request_id": state["request_id"],
        }


def _told(
    headers: Iterable[tuple[bytes, bytes]], request_id: str, state: Mapping[str, Any]
) -> list[tuple[bytes, bytes]]:
    """Return the headers of an answer with the request's id, and what the gate has to say."""
    more = state.get("headers") or {}
    told = [*headers, (b"x-request-id", request_id.encode())]
    known = {name for name, _ in told}
    lines = ((name.lower().encode(), value.encode()) for name, value in {**_ALWAYS, **more}.items())
    return [*told, *(line for line in lines if line[0] not in known)]


_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})


def route_of(scope: Scope) -> str:
    """Return the template of the route that a request went to, such as ``/v1/bars/{symbol}``."""
    route = scope.get("route")
    path = getattr(route, "path_format", None) or getattr(route, "path", None)
    return str(path) if path else UNMATCHED
