"""HTTP/1.1 as a client speaks it that costs little: keep-alive, and bodies that are counted, not kept."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Any

from fibflow.benchmarks.serving.errors import BenchmarkError

OK = 200
_HEAD_END, _LINE_END = b"\r\n\r\n", b"\r\n"
#: No server here sends a head, or the length of a chunk, as long as that.
_LONGEST_HEAD, _LONGEST_LINE = 65_536, 256
_TAKES_AT_ONCE = 1 << 18


class WireError(BenchmarkError):
    """What came is no answer, or breaks off."""


def request_of(host: str, target: str, coding: str) -> bytes:
    """Return a GET.

    Args:
        host: and port, as the header has it.
        target: path and query, encoded.
        coding: for ``Accept-Encoding``.
    """
    return (
        f"GET {target} HTTP/1.1\r\nHost: {host}\r\nAccept-Encoding: {coding}\r\n"
        "Accept: */*\r\nUser-Agent: fibflow-bench\r\n\r\n"
    ).encode("ascii")


class Reader:
    """Reads the answers of one connection, one after another.

    Attributes:
        status: of the answer; 0 until its head has come.
        size: bytes of its body, as they came, without what frames chunks.
        coding: of its body: empty, ``gzip`` or whatever it says.
        closes: the server closes the connection behind it.
        kept: the pieces of its body; None where it is not kept. What an error says always is.
    """

    __slots__ = (
        "_head",
        "_is_chunked",
        "_last",
        "_left",
        "_rest",
        "closes",
        "coding",
        "kept",
        "size",
        "status",
    )

    def __init__(self) -> None:
        self.begin()

    def begin(self, keep: bool = False) -> None:
        """Make ready for the next answer."""
        self.status, self.size, self.coding, self.closes = 0, 0, "", False
        self.kept: list[bytes] | None = [] if keep else None
        self._head, self._rest = b"", b""
        self._left, self._is_chunked, self._last = 0, False, False

    @property
    def body(self) -> bytes:
        """What was kept."""
        return b"".join(self.kept or ())

    def feed(self, data: bytes) -> bool:
        """Take bytes; True when the answer is whole.

        Raises:
            WireError: they are no answer, or more than one.
        """
        if not self.status:
            data = self._head + data if self._head else data
            end = data.find(_HEAD_END)
            if end < 0:
                if len(data) > _LONGEST_HEAD:
                    raise WireError("a head without an end")
                self._head = data
                return False
            self._read_head(data[:end])
            data = data[end + len(_HEAD_END) :]
        if self._is_chunked:
            return self._feed_chunks(data)
        self._take(data)
        self._left -= len(data)
        if self._left < 0:
            raise WireError("more came than the answer's length says")
        return self._left == 0

    def _read_head(self, head: bytes) -> None:
        first, *lines = head.split(_LINE_END)
        if not first.startswith(b"HTTP/1.1 ") or not first[9:12].isdigit():
            raise WireError(f"no answer: {first[:40]!r}")
        self.status, length = int(first[9:12]), None
        for line in lines:
            name, _, value = line.partition(b":")
            name = name.lower()
            if name == b"content-length":
                length = int(value)
            elif name == b"transfer-encoding":
                self._is_chunked = value.strip().lower() == b"chunked"
            elif name == b"content-encoding":
                self.coding = value.strip().decode("ascii")
            elif name == b"connection":
                self.closes = value.strip().lower() == b"close"
        if length is None and not self._is_chunked:
            if self.status not in (204, 304):
                raise WireError("an answer without a length")
            length = 0
        self._left = length or 0
        if self.status != OK and self.kept is None:
            self.kept = []

    def _take(self, data: bytes) -> None:
        self.size += len(data)
        if self.kept is not None and data:
            self.kept.append(data)

    def _feed_chunks(self, data: bytes) -> bool:
        data = self._rest + data if self._rest else data
        self._rest, at = b"", 0
        while at < len(data):
            if self._left:
                # The line end behind a chunk is counted with it.
                piece = min(self._left, len(data) - at)
                own = max(0, min(piece, self._left - len(_LINE_END)))
                self._take(data[at : at + own])
                self._left -= piece
                at += piece
                continue
            end = data.find(_LINE_END, at)
            if end < 0:
                if len(data) - at > _LONGEST_LINE:
                    raise WireError("a chunk without a length")
                self._rest = data[at:]
                return False
            line, at = data[at:end], end + len(_LINE_END)
            if self._last:
                if line:
                    continue  # a trailer
                if at < len(data):
                    raise WireError("more came than the answer")
                return True
            try:
                length = int(line.split(b";")[0], 16)
            except ValueError:
                raise WireError(f"no length of a chunk: {line[:20]!r}") from None
            self._last = length == 0
            self._left = length + len(_LINE_END) if length else 0
        return False


class Connection(asyncio.Protocol):
    """One connection of a user.

    Args:
        ended: told when an answer is whole, or will not be: the connection, and what is wrong or None.

    Attributes:
        ticket: the number of the question that is asked; None while none is.
        reader: has the answer.
        is_open: a question can be sent.
    """

    def __init__(self, ended: Callable[[Connection, str | None], None]) -> None:
        self._ended = ended
        self._transport: Any = None
        self.ticket: int | None = None
        self.user = 0
        self.reader = Reader()
        self.is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self.is_open = transport, True

    def ask(self, request: bytes, ticket: int, keep: bool) -> None:
        """Send a question."""
        self.ticket = ticket
        self.reader.begin(keep)
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        try:
            if self.ticket is None:
                raise WireError("the server spoke unasked")
            if not self.reader.feed(data):
                return
        except WireError as error:
            self._fail(str(error))
            return
        if self.reader.closes:
            self.close()
        self._ended(self, None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        if self.ticket is not None:
            self._ended(self, "the server closed the connection")

    def close(self) -> None:
        """Close it."""
        self.is_open = False
        if self._transport is not None:
            self._transport.close()

    def _fail(self, reason: str) -> None:
        ticket = self.ticket
        self.close()
        if ticket is not None:
            self._ended(self, reason)


class Caller:
    """A connection that asks one question at a time and waits: for single reads.

    Args:
        host, port: of the server.
        timeout_s: of one answer.
    """

    def __init__(self, host: str, port: int, timeout_s: float = 30.0) -> None:
        self._socket = socket.create_connection((host, port), timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reader = Reader()

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, request: bytes) -> float:
        """Ask, and return the seconds until the answer is whole; ``reader`` has it.

        Raises:
            WireError: there is none.
        """
        self.reader.begin(keep=True)
        began = time.perf_counter()
        self._socket.sendall(request)
        while True:
            data = self._socket.recv(_TAKES_AT_ONCE)
            if not data:
                raise WireError("the server closed the connection")
            if self.reader.feed(data):
                return time.perf_counter() - began
