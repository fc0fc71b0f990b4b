"""HEAD wherever there is GET, and OPTIONS on every path."""

from __future__ import annotations

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Methods:
    """Answers HEAD as GET without its body, and OPTIONS with the methods that a path takes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        method = scope.get("method") if scope["type"] == "http" else None
        if method == "HEAD":
            await self._head(scope, receive, send)
        elif method == "OPTIONS":
            await self._options(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _head(self, scope: Scope, receive: Receive, send: Send) -> None:
        ended = False

        async def sending(message: Message) -> None:
            nonlocal ended
            if message["type"] == "http.response.start":
                await send(message)
            elif message["type"] == "http.response.body":
                if not ended:
                    ended = True
                    await send({"type": "http.response.body", "body": b""})
                elif message.get("more_body"):
                    # What would be streamed need not be made.
                    raise OSError("a HEAD has no body")

        # What routes see is the GET; the request's own scope keeps its method.
        inner = {**scope, "method": "GET"}
        try:
            await self._app(inner, receive, sending)
        except (ClientDisconnect, OSError):
            if not ended:
                raise
        finally:
            if "route" in inner:
                scope["route"] = inner["route"]

    async def _options(self, scope: Scope, receive: Receive, send: Send) -> None:
        allowed: list[bytes] = []
        refused = False

        async def sending(message: Message) -> None:
            nonlocal refused
            if message["type"] == "http.response.start" and message["status"] == 405:
                refused = True
                allowed.extend(value for name, value in message["headers"] if name.lower() == b"allow")
                methods = {part.strip() for value in allowed for part in value.split(b",")} | {b"OPTIONS"}
                if b"GET" in methods:
                    methods.add(b"HEAD")
                told = [(b"allow", b", ".join(sorted(methods)))]
                await send({"type": "http.response.start", "status": 204, "headers": told})
            elif refused and message["type"] == "http.response.body":
                if not message.get("more_body"):
                    await send({"type": "http.response.body", "body": b""})
            else:
                await send(message)

        await self._app(scope, receive, sending)
