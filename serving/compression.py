"""gzip and zstd for what is worth it, streamed answers too."""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Protocol

import zstandard
from isal import isal_zlib
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: What is smaller goes as it is.
SMALLEST = 1_024
#: What is larger is compressed in a thread: the event loop has others to answer.
_LARGE = 262_144
_TYPES = re.compile(
    r"text/(?!event-stream)|application/(?:[\w.+-]+\+)?(?:json|xml|javascript|x-ndjson|wasm)\b"
    r"|application/vnd\.apache\.arrow\.stream\b|image/svg\+xml",
    re.IGNORECASE,
)
_SUFFIX = re.compile(r'\+(?:gzip|zstd)"$')
# The lowest: of 500 bars they leave a quarter and a sixth, and each step more takes longer than it saves.
_GZIP_LEVEL, _ZSTD_LEVEL = 1, 1


_Name = tuple[bytes, bytes, str]


class _Encoder(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


def _encoder(coding: str) -> _Encoder:
    if coding == "gzip":
        made: _Encoder = isal_zlib.compressobj(_GZIP_LEVEL, wbits=31)
        return made
    return zstandard.ZstdCompressor(_ZSTD_LEVEL).compressobj()


@lru_cache(256)
def coding_of(accepted: str) -> str | None:
    """Return ``zstd`` or ``gzip``, the one that an ``Accept-Encoding`` likes better; None for neither."""
    weights = {"zstd": 0.0, "gzip": 0.0}
    others = 0.0
    named = set()
    for part in accepted.lower().split(","):
        name, _, parameters = part.strip().partition(";")
        name, weight = {"x-gzip": "gzip"}.get(name.strip(), name.strip()), _weight(parameters)
        if name == "*":
            others = weight
        elif name in weights:
            weights[name] = weight
            named.add(name)
    weights |= dict.fromkeys(weights.keys() - named, others)
    best = max(weights, key=lambda name: weights[name])
    return best if weights[best] > 0 else None


def _weight(parameters: str) -> float:
    name, _, value = parameters.strip().partition("=")
    if name.strip() != "q":
        return 1.0
    try:
        return min(max(float(value), 0.0), 1.0)
    except ValueError:
        return 0.0


class Compression:
    """Compresses answers.

    A strong entity tag gets the coding behind it (``"abc+zstd"``), as RFC 9110 wants for other bytes, and
    loses it again in ``If-None-Match``: whoever holds any coding of what is there is told 304.

    Args:
        app: what answers.
        kept: how many bytes of compressed answers are kept, by their entity tags.
    """

    def __init__(self, app: ASGIApp, kept: int = 16 << 20) -> None:
        self._app = app
        self._kept = _Kept(kept)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, asked = _without_suffixes(scope["headers"])
        accepted = ",".join(value.decode("latin-1") for name, value in headers if name == b"accept-encoding")
        place = scope.get("raw_path", b"") + b"?" + scope["query_string"]
        answer = _Answer(send, coding_of(accepted), asked, self._kept, place)
        inner = {**scope, "headers": headers}
        try:
            await self._app(inner, receive, answer.send)
        finally:
            if "route" in inner:
                scope["route"] = inner["route"]


class _Kept:
    """Compressed bodies by URL, entity tag and coding, those that were used last."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._size = 0
        self._bodies: OrderedDict[_Name, bytes] = OrderedDict()

    def get(self, name: _Name) -> bytes | None:
        found = self._bodies.get(name)
        if found is not None:
            self._bodies.move_to_end(name)
        return found

    def put(self, name: _Name, body: bytes) -> None:
        if len(body) * 8 > self._most or name in self._bodies:
            return
        self._bodies[name] = body
        self._size += len(body)
        while self._size > self._most:
            _, dropped = self._bodies.popitem(last=False)
            self._size -= len(dropped)


class _Answer:
    """One answer on its way."""

    def __init__(
        self, send: Send, coding: str | None, asked: dict[bytes, bytes], kept: _Kept, place: bytes
    ) -> None:
        self._send = send
        self._coding = coding
        self._asked = asked
        self._kept = kept
        self._place = place
        self._start: Message | None = None
        self._encoder: _Encoder | None = None
        self._plain = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
        elif message["type"] == "http.response.body":
            await self._body(message)
        else:
            await self._send(message)

    async def _body(self, message: Message) -> None:
        body, more = message.get("body", b""), message.get("more_body", False)
        if self._plain:
            await self._send(message)
        elif self._encoder is not None:
            await self._piece(body, more)
        else:
            assert self._start is not None
            await self._first(self._start, bytes(body), more)

    async def _first(self, start: Message, body: bytes, more: bool) -> None:
        headers = {name.lower(): value for name, value in start["headers"]}
        suited = self._suits(start["status"], headers)
        if suited or start["status"] == 304:
            start = {**start, "headers": _varied(start["headers"])}
        if start["status"] == 304:
            tagged = ((n, self._asked.get(v, v) if n.lower() == b"etag" else v) for n, v in start["headers"])
            start = {**start, "headers": list(tagged)}
        if not suited or self._coding is None or (not more and len(body) < SMALLEST):
            self._plain = True
            await self._send(start)
            await self._send({"type": "http.response.body", "body": body, "more_body": more})
            return
        name = (self._place, headers.get(b"etag", b""), self._coding)
        told = _encoded(start["headers"], self._coding)
        if more:
            self._encoder = _encoder(self._coding)
            await self._send({**start, "headers": told})
            await self._piece(body, more)
            return
        done = self._kept.get(name) if name[1] else None
        if done is None:
            encoder = _encoder(self._coding)
            done = await _run(len(body), lambda: encoder.compress(body) + encoder.flush())
            if name[1]:
                self._kept.put(name, done)
        told.append((b"content-length", str(len(done)).encode()))
        await self._send({**start, "headers": told})
        await self._send({"type": "http.response.body", "body": done})

    async def _piece(self, body: bytes, more: bool) -> None:
        encoder = self._encoder
        assert encoder is not None
        done = await _run(
            len(body), lambda: encoder.compress(bytes(body)) + (b"" if more else encoder.flush())
        )
        if done or not more:
            await self._send({"type": "http.response.body", "body": done, "more_body": more})

    def _suits(self, status: int, headers: dict[bytes, bytes]) -> bool:
        if status < 200 or status in (204, 206, 304) or b"content-encoding" in headers:
            return False
        if b"no-transform" in headers.get(b"cache-control", b""):
            return False
        return _TYPES.match(headers.get(b"content-type", b"").decode("latin-1")) is not None


async def _run(size: int, work: Callable[[], bytes]) -> bytes:
    return work() if size < _LARGE else await asyncio.to_thread(work)


def _encoded(headers: Iterable[tuple[bytes, bytes]], coding: str) -> list[tuple[bytes, bytes]]:
    """Return the headers of a compressed body."""
    told = []
    for name, value in headers:
        lower = name.lower()
        if lower in (b"content-length", b"accept-ranges"):
            continue
        if lower == b"etag" and value.startswith(b'"') and value.endswith(b'"'):
            value = value[:-1] + b"+" + coding.encode() + b'"'
        told.append((name, value))
    told.append((b"content-encoding", coding.encode()))
    return told


def _varied(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return headers whose ``Vary`` names ``Accept-Encoding``."""
    names: list[str] = []
    told = []
    for name, value in headers:
        if name.lower() == b"vary":
            names += [part.strip() for part in value.decode("latin-1").split(",") if part.strip()]
        else:
            told.append((name, value))
    if "accept-encoding" not in (name.lower() for name in names) and "*" not in names:
        names.append("Accept-Encoding")
    return [*told, (b"vary", ", ".join(names).encode("latin-1"))]


def _without_suffixes(
    headers: Iterable[tuple[bytes, bytes]],
) -> tuple[list[tuple[bytes, bytes]], dict[bytes, bytes]]:
    """Return a request's headers without codings in ``If-None-Match``, and each such tag as it was sent."""
    told, sent = [], {}
    for name, value in headers:
        if name == b"if-none-match":
            plain = []
            for tag in value.decode("latin-1").split(","):
                bare = _SUFFIX.sub('"', tag.strip())
                plain.append(bare)
                sent[bare.removeprefix("W/").encode("latin-1")] = (
                    tag.strip().removeprefix("W/").encode("latin-1")
                )
            value = ", ".join(plain).encode("latin-1")
        told.append((name, value))
    return told, sent
