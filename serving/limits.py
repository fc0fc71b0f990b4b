"""What a request may look like: its size, its path, its parameters. All else gets a 4xx at once."""

from __future__ import annotations

import re
from collections.abc import Collection

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fibflow.serving.errors import internal, problem_of, request_id_of, response
from fibflow.serving.problems import Problem, bad_request

#: Bytes of path and query; a thousand symbols fit.
URL = 16_384
#: Bytes of all header lines, and how many there may be.
HEADERS, HEADER_LINES = 32_768, 100
#: Bytes of a body, and of paths that take more.
BODY = 1 << 20
LARGER = {"/v1/alerts/bulk": 8 << 20}
#: How many parameters a query may have.
PARAMETERS = 100
_READING = ("GET", "HEAD", "OPTIONS")
_HIDDEN = re.compile(rb"[\x00-\x20\x7f]|%(?:[01][0-9a-f]|7f)", re.IGNORECASE)
_HIDDEN_TEXT = re.compile(r"[\x00-\x1f\x7f]")
_UPWARDS = re.compile(r"(?:^|[/\\])\.\.?(?:[/\\]|$)")
_BROKEN = re.compile(rb"%(?![0-9a-f]{2})", re.IGNORECASE)


class BodyTooLarge(HTTPException):
    """A body over the limit. No ``Problem``: FastAPI would take it for a body that cannot be read."""

    def __init__(self, most: int = BODY) -> None:
        super().__init__(413, f"the body is larger than {most} bytes: ask for less at once")


class Limits:
    """Turns requests away that are too large or play tricks.

    Args:
        app: what answers the others.
        hosts: names under which the server may be asked, without ports; empty for any.
        origins: of other sites whose pages may open WebSockets, and change things; ``*`` for all.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] = (), origins: Collection[str] = ()) -> None:
        self._app = app
        self._hosts = frozenset(hosts)
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        kind = scope["type"]
        if kind not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        try:
            self._check(scope)
        except (Problem, HTTPException) as error:
            problem = problem_of(error) or internal()
            if kind == "websocket":
                await receive()
                await send({"type": "websocket.close", "code": 1008, "reason": problem.detail[:120]})
            else:
                await response(problem, request_id_of(scope))(scope, receive, send)
            return
        if kind == "websocket" or scope["method"] in _READING:
            await self._app(scope, receive, send)
            return
        await self._app(scope, _counted(receive, most_of(scope)), send)

    def _check(self, scope: Scope) -> None:
        raw, query = scope.get("raw_path") or scope["path"].encode(), scope["query_string"]
        if len(raw) + len(query) > URL:
            raise Problem(
                414, f"the URL is longer than {URL} bytes: name fewer symbols at once", "url_too_long"
            )
        headers = scope["headers"]
        size = sum(len(name) + len(value) for name, value in headers)
        if len(headers) > HEADER_LINES or size > HEADERS:
            raise Problem(
                431,
                f"the headers have more than {HEADERS} bytes or {HEADER_LINES} lines",
                "headers_too_large",
            )
        if query.count(b"&") >= PARAMETERS:
            raise bad_request(f"the query has more than {PARAMETERS} parameters", "too_many_parameters")
        if _HIDDEN.search(query) or _BROKEN.search(query):
            raise bad_request("the query holds a control character or a % that encodes nothing", "bad_query")
        path = scope["path"]
        if _HIDDEN_TEXT.search(path) or _UPWARDS.search(path) or "\ufffd" in path or _BROKEN.search(raw):
            raise bad_request("the path holds '..', a control character or what is no UTF-8", "bad_path")
        self._check_headers(scope)

    def _check_headers(self, scope: Scope) -> None:
        host = origin = b""
        for name, value in scope["headers"]:
            if name == b"host":
                host = value
            elif name == b"origin":
                origin = value
            elif name == b"content-length" and (not value.isdigit() or int(value) > most_of(scope)):
                raise BodyTooLarge(most_of(scope))
        if self._hosts and _name(host) not in self._hosts:
            raise Problem(421, "this server answers to its own name only: use localhost", "wrong_host")
        # A browser asks nobody before it sends some of these, to an open server of this machine too.
        changes = scope["type"] == "websocket" or scope["method"] not in _READING
        if changes and origin and not self._same(origin.decode("latin-1"), host):
            what = "open a WebSocket" if scope["type"] == "websocket" else "change anything"
            raise Problem(403, f"pages of this origin may not {what} here", "wrong_origin")

    def _same(self, origin: str, host: bytes) -> bool:
        if "*" in self._origins or origin in self._origins:
            return True
        return origin.lower().partition("://")[2] == host.decode("latin-1").lower()


def _name(host: bytes) -> str:
    """Return a Host header without its port."""
    text = host.decode("latin-1").lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.rpartition(":")[0] if ":" in text else text


def most_of(scope: Scope) -> int:
    """Return how many bytes a body may have."""
    return LARGER.get(scope["path"], BODY)


def _counted(receive: Receive, most: int) -> Receive:
    """Return a ``receive`` that raises where a body grows too large."""
    size = 0

    async def receiving() -> Message:
        nonlocal size
        message = await receive()
        if message["type"] == "http.request":
            size += len(message.get("body", b""))
            if size > most:
                raise BodyTooLarge(most)
        return message

    return receiving
