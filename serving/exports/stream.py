"""Exports on their way to clients: a bounded number at once, one block in memory of each."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pyarrow as pa
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from fibflow.serving.exports.writers import Writer
from fibflow.serving.problems import Problem

#: A client that takes nothing for so long, seconds, has gone.
STALLED_S = 60.0
#: Bytes that are sent at once.
_PIECE = 1 << 18
_RETRY_S = 5


class Slots:
    """Room for some exports at once, and their threads; others wait in a line.

    ``place`` is for the event loop, the rest for any thread.

    Args:
        at_once: how many run.
        line: how many may wait.
        wait_s: how long each, seconds.
    """

    def __init__(self, at_once: int, line: int = 32, wait_s: float = 10.0) -> None:
        self._at_once = max(1, at_once)
        self._longest = line
        self._wait_s = wait_s
        self._taken = 0
        self._line: deque[asyncio.Future[None]] = deque()
        self._lock = threading.Lock()
        self.pool = ThreadPoolExecutor(self._at_once, "export")

    @property
    def taken(self) -> int:
        """How many exports run."""
        return self._taken

    async def place(self) -> None:
        """Take a place, or wait for one.

        Raises:
            Problem: 429, the line is too long, or does not move.
        """
        loop = asyncio.get_running_loop()
        with self._lock:
            if self._taken < self._at_once:
                self._taken += 1
                return
            if len(self._line) >= self._longest:
                raise self._full()
            turn: asyncio.Future[None] = loop.create_future()
            self._line.append(turn)
        try:
            await asyncio.wait_for(asyncio.shield(turn), self._wait_s)
        except BaseException as error:
            with self._lock:
                missed = turn not in self._line
                if not missed:
                    self._line.remove(turn)
            if missed:
                # Its turn came at the same time.
                self.give_back()
            if isinstance(error, TimeoutError):
                raise self._full() from None
            raise

    def _full(self) -> Problem:
        return Problem(
            429,
            f"{self._at_once} exports run already, as many as may at once: come again in a few seconds",
            "too_many_exports",
            {"Retry-After": str(_RETRY_S)},
        )

    def give_back(self) -> None:
        """Give a place back: to who waits first."""
        with self._lock:
            while self._line:
                turn = self._line.popleft()
                # Where its loop has closed there is nobody.
                with suppress(RuntimeError):
                    turn.get_loop().call_soon_threadsafe(_come, turn)
                    return
            self._taken -= 1

    def close(self) -> None:
        """End the threads when they have nothing to do."""
        self.pool.shutdown(wait=False)


def _come(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)


class Export:
    """One export: the bytes of a file, made in a thread, a block at a time.

    Args:
        slots: of which it holds a place that was taken for it, until it is closed.
        tables: the blocks; it runs in the thread.
        writer: makes bytes of them.
        cancel: ends what the thread waits for; called from another.
        close: gives back what ``tables`` holds; called in the thread.
    """

    def __init__(
        self,
        slots: Slots,
        tables: Iterator[pa.Table],
        writer: Writer,
        cancel: Callable[[], None],
        close: Callable[[], None],
    ) -> None:
        self._slots = slots
        self._pieces = _pieces(tables, writer)
        self._cancel, self._release = cancel, close
        self._running: Future[bytes | None] | None = None
        self._closed = False
        self.content_type, self.suffix = writer.content_type, writer.suffix

    async def next(self) -> bytes | None:
        """Return the next bytes; None at the end.

        Raises:
            Problem, LakeError: it cannot be read.
        """
        self._running = self._slots.pool.submit(next, self._pieces, None)
        return await asyncio.wrap_future(self._running)

    def close(self) -> None:
        """End it, and give its place back as soon as its thread is free."""
        if self._closed:
            return
        self._closed = True
        if self._running is not None and not self._running.done():
            self._cancel()
        try:
            self._slots.pool.submit(self._end)
        except RuntimeError:
            # The threads have ended with the application.
            self._end()

    def _end(self) -> None:
        try:
            # A pool's free thread may come here before the one that was cancelled is through.
            if self._running is not None and not self._running.cancelled():
                self._running.exception()
            self._pieces.close()
            self._release()
        finally:
            self._slots.give_back()


def _pieces(tables: Iterator[pa.Table], writer: Writer) -> Any:
    """Yield the bytes of a file; a generator."""
    try:
        for table in tables:
            if data := writer.write(table):
                yield data
        data = writer.close()
    except BaseException:
        # Nobody gets the end of it, but what the writer has open is closed.
        with suppress(Exception):
            writer.close()
        raise
    if data:
        yield data


class ExportResponse(StreamingResponse):
    """Sends an export. When it breaks off, so does the connection: no client takes a part for the whole.

    Args:
        export: of which the first bytes are there already.
        first: these bytes; None where there are none.
        headers: of the answer.
    """

    def __init__(self, export: Export, first: bytes | None, headers: dict[str, str]) -> None:
        super().__init__(_body(export, first), headers=headers, media_type=export.content_type)
        self._export = export

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, and close the export whatever happens."""

        async def sending(message: Message) -> None:
            try:
                async with asyncio.timeout(STALLED_S):
                    await send(message)
            except TimeoutError:
                # As where the client has closed the connection.
                raise OSError("the client takes nothing any more") from None

        try:
            await super().__call__(scope, receive, sending)
        finally:
            self._export.close()


async def _body(export: Export, first: bytes | None) -> AsyncIterator[memoryview]:
    data = first
    while data is not None:
        view = memoryview(data)
        for start in range(0, len(view), _PIECE):
            yield view[start : start + _PIECE]
        data = None
        del view
        data = await export.next()
