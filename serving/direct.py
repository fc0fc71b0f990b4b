"""The routes that are asked most, past what a framework does for each request: it takes longer than they do.

They are routes of the application as all others: its document has them, and every other middleware is around
them. What is left out is looking through all routes for the one, and resolving dependencies that are always
the same two.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, get_type_hints

from fastapi import Request
from fastapi.params import Depends, Path
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as Asked

from fibflow.serving.access import Scope, require, scope_of
from fibflow.serving.compat.route import CompatRoute, refusal
from fibflow.serving.errors import problem_of, request_id_of, response
from fibflow.serving.services import services


@dataclass(frozen=True)
class _Direct:
    """A route that can be answered directly.

    Attributes:
        route: of the application.
        scope: that a key needs.
        request, shared: what the endpoint calls the request and the services; None for what it does not take.
        parts: of the path: what the path calls them, and what the endpoint does.
    """

    route: APIRoute
    scope: Scope
    request: str | None
    shared: str | None
    parts: dict[str, str]

    @classmethod
    def of(cls, route: APIRoute) -> _Direct:
        """Read a route.

        Raises:
            ValueError: its endpoint takes something else, so that it cannot be answered directly.
        """
        scopes = [scope for given in route.dependencies if (scope := scope_of(given.dependency))]
        if len(scopes) != 1 or len(route.dependencies) != 1 or route.methods != {"GET"}:
            raise ValueError(f"{route.path}: a direct route is a GET that needs one scope")
        request = shared = None
        parts: dict[str, str] = {}
        hints = get_type_hints(route.endpoint, include_extras=True)
        in_path = set(route.param_convertors)
        for name, parameter in inspect.signature(route.endpoint).parameters.items():
            told = getattr(hints[name], "__metadata__", ())
            alias = next((one.alias for one in told if isinstance(one, Path) and one.alias), name)
            if hints[name] is Request:
                request = name
            elif any(isinstance(one, Depends) and one.dependency is services for one in told):
                shared = name
            elif alias in in_path:
                parts[alias] = name
            elif parameter.default is not None:
                raise ValueError(f"{route.path}: a direct route reads {name} from the request itself")
        return cls(route, scopes[0], request, shared, parts)

    async def answer(self, asked: Asked, receive: Receive, send: Send, found: dict[str, str]) -> None:
        """Answer a request whose path has these parts."""
        asked["route"], asked["path_params"] = self.route, found
        request = Request(asked, receive)
        given: dict[str, Any] = {self.parts[name]: value for name, value in found.items()}
        if self.request is not None:
            given[self.request] = request
        if self.shared is not None:
            given[self.shared] = request.app.state.services
        try:
            await require(self.scope)(request)
            told = await self.route.endpoint(**given)
        except Exception as error:
            problem = problem_of(error)
            if problem is None:
                raise
            if isinstance(self.route, CompatRoute):
                told = refusal(request, problem)
            else:
                told = response(problem, request_id_of(asked), request.method)
        await told(asked, receive, send)


class Direct:
    """Answers some routes directly, and leaves all else to the application.

    Args:
        app: the application's own routing.
        routes: all routes of the application.
        endpoints: those of the routes that are answered directly. Each returns a response, and reads what a
            query says from the request itself.

    Raises:
        ValueError: one of them cannot be.
    """

    def __init__(
        self, app: ASGIApp, routes: Iterable[Any], endpoints: Collection[Callable[..., Any]]
    ) -> None:
        self._app = app
        chosen = [one for one in routes if isinstance(one, APIRoute) and one.endpoint in endpoints]
        self._direct = [(one.path_regex.match, _Direct.of(one)) for one in chosen]

    async def __call__(self, scope: Asked, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "http" and scope["method"] == "GET":
            path = scope["path"]
            for match, direct in self._direct:
                found = match(path)
                if found is not None:
                    await direct.answer(scope, receive, send, found.groupdict())
                    return
        await self._app(scope, receive, send)
