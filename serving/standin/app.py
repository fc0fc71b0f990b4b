"""The stand-in as an ASGI application: the server's own one over a lake, with what a vendor adds.

It knows one key, has a plan, counts calls, lets them go wrong as they are ordered to, and takes orders under
``/standin``. It is for tests on one machine: who reaches it may order anything.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import date
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import orjson
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fibflow.io.lake import Lake, LakeError
from fibflow.serving.standin.connections import ABORT
from fibflow.serving.standin.faults import OTHER, Fault, Kind, Orders, name_of, parse
from fibflow.serving.standin.feed import Feed
from fibflow.serving.standin.lakes import Editor
from fibflow.serving.standin.paces import FeedFault, Pace
from fibflow.serving.standin.plans import UNKNOWN_KEY, Plan, Rate, StandInGate
from fibflow.serving.standin.script import Script, ScriptError, Session, Tape

_LOG = logging.getLogger("fibflow.serving")

#: Where orders are taken.
CONTROL = "/standin"
_JSON = (b"content-type", b"application/json")
_CAPTURED = (Kind.CUT, Kind.NONSENSE, Kind.PARTIAL, Kind.EMPTY)
_LISTS = ("results", "tickers")


class StandIn:
    """The application.

    Args:
        app: answers what goes well.
        lake: what it answers from.
        orders: what is to go wrong.
        feed: what the WebSocket tells.
        editor: changes the lake; None where that may not be.
        key: the only one that is known; None lets everybody in.
        plan: what the key may ask for.
        clock: seconds that only grow.
        today: the date.
        played: what is played from the beginning on, as ``/standin/play`` takes it; None for nothing.
        facts: what ``/standin`` tells besides.
    """

    def __init__(
        self,
        app: FastAPI,
        lake: Lake,
        orders: Orders,
        feed: Feed,
        editor: Editor | None = None,
        key: str | None = None,
        plan: Plan | None = None,
        clock: Callable[[], float] = time.monotonic,
        today: Callable[[], date] = lambda: date.max,
        played: Mapping[str, Any] | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self._app = app
        self.state = app.state
        self._lake = lake
        self._orders = orders
        self._feed = feed
        self._editor = editor
        self._key = key
        self._plan = plan or Plan()
        self._rate = Rate(self._plan.calls_a_minute, clock)
        self._today = today
        self._played = played
        self._facts = facts or {}
        self._numbers = count(1)
        self._editing = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, self._begun(send))
        elif scope["type"] == "websocket":
            await self._follow(scope, receive, send)
        elif scope["path"] == CONTROL or scope["path"].startswith(f"{CONTROL}/"):
            await self._control(scope, receive, send)
        elif name_of(scope["path"]) == OTHER:
            await self._app(scope, receive, send)
        else:
            await self._call(scope, receive, send)

    def _begun(self, send: Send) -> Send:
        """Put the feed and the key in the places of what the server has, once it has begun."""

        async def sending(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                services: Any = self.state.services
                services.hub = self._feed
                services.gate = StandInGate(self._key, self._plan)
                self._feed.on_close(self.state.sockets.restart)
                if self._played is not None:
                    try:
                        await self._play(self._played)
                    except ScriptError as error:
                        _LOG.warning("the feed plays nothing: %s", error)
            await send(message)

        return sending

    async def _follow(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a connection of the feed, which can be broken."""
        abort = scope["extensions"][ABORT]
        if not self._feed.connected(abort):
            abort()
            while (await receive())["type"] != "websocket.disconnect":
                pass
            return
        try:
            await self._app(scope, receive, send)
        finally:
            self._feed.disconnected(abort)

    # Calls ------------------------------------------------------------------------------------------------

    async def _call(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, query = scope["path"], scope["query_string"].decode("latin-1")
        refusal = self._refusal(scope, path)
        fault = self._orders.call(path, query, disturbed=refusal is None)
        refusal = refusal or _ordered_refusal(fault)
        if refusal is not None:
            status, message, headers = refusal
            self._orders.answered(str(status))
            await self._tell(send, status, message, headers)
            return
        assert fault is None or fault.kind in (Kind.SLOW, *_CAPTURED)
        self._orders.answered("200" if fault is None else str(fault.kind))
        if fault is not None and fault.kind is Kind.SLOW:
            await self._slowly(fault.seconds)
        if fault is not None and fault.kind in _CAPTURED:
            await self._disturbed(fault, scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _slowly(self, seconds: float) -> None:
        """Wait, but not while the server is told to stop."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.state.services.closing.wait()

    def _refusal(self, scope: Scope, path: str) -> tuple[int, str, dict[str, str]] | None:
        if self._key is not None and _key_of(scope) != self._key:
            return 401, UNKNOWN_KEY, {}
        if (why := self._plan.refuses(path, self._today())) is not None:
            return 403, why, {}
        if (wait := self._rate.take()) > 0:
            return 429, "You've exceeded the maximum requests per minute", {"Retry-After": str(wait)}
        return None

    async def _disturbed(self, fault: Fault, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with what was made of the right answer."""
        plain = {**scope, "headers": [pair for pair in scope["headers"] if pair[0] != b"accept-encoding"]}
        start, body = await _captured(self._app, plain, receive)
        headers = [pair for pair in start["headers"] if pair[0] not in (b"content-length", b"etag")]
        half = body[: max(1, len(body) // 2)]
        if fault.kind is Kind.PARTIAL or fault.kind is Kind.EMPTY:
            share = 1.0 if fault.kind is Kind.EMPTY else fault.percent / 100
            body = _thinned(body, share)
        elif fault.kind is Kind.NONSENSE:
            body = half
        length = (b"content-length", str(len(body)).encode())
        await send({**start, "headers": [*headers, length]})
        if fault.kind is Kind.CUT:
            await send({"type": "http.response.body", "body": half, "more_body": True})
            scope["extensions"][ABORT]()
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        await send({"type": "http.response.body", "body": body})

    async def _tell(self, send: Send, status: int, message: str, headers: Mapping[str, str]) -> None:
        """Answer with a refusal in the vendor's envelope."""
        kind = {403: "NOT_AUTHORIZED", 404: "NOT_FOUND"}.get(status, "ERROR")
        member = "error" if kind == "ERROR" else "message"
        body = {"status": kind, "request_id": self._request_id(), member: message}
        more = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await _send(send, status, orjson.dumps(body), [_JSON, *more])

    def _request_id(self) -> str:
        return f"{next(self._numbers):032x}"

    # Orders -----------------------------------------------------------------------------------------------

    async def _control(self, scope: Scope, receive: Receive, send: Send) -> None:
        what = scope["path"].removeprefix(CONTROL).strip("/")
        try:
            told = await self._obey(scope["method"], what, await _body(receive))
        except KeyError as error:
            await self._tell(send, 400, f"the order lacks {error}", {})
        except (ValueError, TypeError, LakeError) as error:
            await self._tell(send, 400, str(error) or "this cannot be read", {})
            return
        if told is None:
            await self._tell(send, 404, f"there is no order {what}", {})
        else:
            await _send(send, 200, orjson.dumps(told), [_JSON])

    async def _obey(self, method: str, what: str, order: Any) -> dict[str, Any] | None:
        if (method, what) == ("GET", ""):
            return {**self._orders.told(), "feed": self._feed.told(), **self._facts}
        if method != "POST":
            return None
        if what == "faults":
            faults = parse(order) if isinstance(order, str) else [Fault.of(one) for one in order]
            self._orders.order(*faults)
        elif what == "clear":
            self._orders.clear()
            self._feed.clear()
        elif what == "play":
            await self._play(order or {})
        elif what == "end":
            await self._feed.end()
        elif what == "feed":
            self._feed.order(*map(FeedFault.of, order))
        elif what == "forget":
            self._orders.forget()
        elif what in ("correct", "hide", "heal", "news"):
            return {"rows": await self._edit(what, order or {})}
        else:
            return None
        return {}

    async def _play(self, order: Mapping[str, Any]) -> None:
        script = await asyncio.to_thread(self._script, order)
        rate, speed = order.get("rate"), order.get("speed")
        pace = Pace(None if speed is None else float(speed), None if rate is None else float(rate))
        await self._feed.play(script, pace, int(order.get("followers", 1)))

    def _script(self, order: Mapping[str, Any]) -> Script:
        if order.get("tape"):
            return Tape(Path(str(order["tape"])))
        session = order.get("session")
        return Session.of(
            self._lake,
            None if session is None else date.fromisoformat(session),
            int(order.get("trades", 0)),
            bool(order.get("minutes", True)),
        )

    async def _edit(self, what: str, order: dict[str, Any]) -> int:
        editor = self._editor
        if editor is None:
            raise ValueError("this stand-in changes no data: it serves a lake that is not in a folder")
        async with self._editing:
            if what == "heal":
                await asyncio.to_thread(editor.heal)
                return 0
            if what == "news":
                return await asyncio.to_thread(editor.publish, list(order["articles"]))
            if what == "correct":
                day = date.fromisoformat(order["session"])
                return await asyncio.to_thread(
                    editor.correct, str(order["symbol"]), day, dict(order["values"])
                )
            first, last = (
                date.fromisoformat(order[name]) if order.get(name) else None for name in ("first", "last")
            )
            share, seed = float(order.get("share", 1)), int(order.get("seed", 0))
            return await asyncio.to_thread(editor.hide, order.get("symbols"), first, last, share, seed)


def _ordered_refusal(fault: Fault | None) -> tuple[int, str, dict[str, str]] | None:
    if fault is None:
        return None
    told: dict[Kind, tuple[int, str, dict[str, str]]] = {
        Kind.RATE: (
            429,
            "You've exceeded the maximum requests per minute",
            {"Retry-After": f"{fault.seconds:g}"},
        ),
        Kind.ERROR: (500, "something went wrong", {}),
        Kind.NO_KEY: (401, UNKNOWN_KEY, {}),
        Kind.NO_PLAN: (403, "You are not entitled to this data. Please upgrade your plan", {}),
    }
    return told.get(fault.kind)


def _key_of(scope: Scope) -> str | None:
    headers = dict(scope["headers"])
    kind, _, key = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    if kind.lower() == "bearer" and key:
        return key.strip()
    return parse_qs(scope["query_string"].decode("latin-1")).get("apiKey", [None])[0]


async def _captured(app: ASGIApp, scope: Scope, receive: Receive) -> tuple[Message, bytes]:
    start: Message = {}
    parts: list[bytes] = []

    async def keep(message: Message) -> None:
        nonlocal start
        if message["type"] == "http.response.start":
            start = message
        elif message["type"] == "http.response.body":
            parts.append(message.get("body", b""))

    await app(scope, receive, keep)
    return start, b"".join(parts)


def _thinned(body: bytes, share: float) -> bytes:
    """Return a body with such a part of its results left out, the last ones."""
    try:
        found: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body
    if not isinstance(found, dict):
        return body
    for name in _LISTS:
        if isinstance(found.get(name), list):
            kept = found[name][: len(found[name]) - round(len(found[name]) * share)]
            found |= {name: kept} | {key: len(kept) for key in ("count", "resultsCount") if key in found}
            if not kept:
                del found[name]
    return orjson.dumps(found)


async def _body(receive: Receive) -> Any:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return orjson.loads(body) if body else None


async def _send(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})
