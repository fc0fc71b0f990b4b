"""What a client is still to be sent: a bounded queue, which says when the client is too slow."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from fibflow.serving.live.fragments import FRAME_BYTES, FRAME_ROWS

#: How many bytes may wait for one client, however few messages they are.
MOST_BYTES = 32 << 20


class Outbox:
    """The frames that wait for one client. Only for the loop's thread.

    Objects that come one by one are gathered to frames while the client's last frame is on its way. Frames
    that many clients get are one text, shared.

    Args:
        most: how many frames may wait; with one more the client is slow, and gets none of them.
        too_slow: called when the client is slow.
    """

    def __init__(self, most: int, too_slow: Callable[[], object] | None = None) -> None:
        self.slow = False
        self._too_slow = too_slow
        self._most = most
        self._queue: deque[str | list[str]] = deque()
        self._gathered: list[str] | None = None
        self._room = 0
        self._bytes = 0
        self._ready = asyncio.Event()
        self._held: int | None = None
        self._ended = False
        self._finishing = False

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, frame: str) -> None:
        """Queue a frame."""
        self._gathered = None
        self._append(frame, len(frame))

    def add(self, text: str) -> None:
        """Queue an object, into a frame with those before it."""
        size = len(text) + 1
        gathered = self._gathered
        if gathered is None or size > self._room or len(gathered) >= FRAME_ROWS:
            gathered = [text]
            self._append(gathered, size)
            self._gathered, self._room = gathered, FRAME_BYTES - 2 - size
            return
        gathered.append(text)
        self._room -= size
        self._bytes += size

    def _append(self, item: str | list[str], size: int) -> None:
        if self._ended or self._finishing:
            return
        if len(self._queue) >= self._most or self._bytes + size > MOST_BYTES:
            self.slow = True
            self.end()
            if self._too_slow is not None:
                self._too_slow()
            return
        self._queue.append(item)
        self._bytes += size
        if self._held is None:
            self._ready.set()

    def hold(self) -> None:
        """Send nothing until ``release``."""
        self._gathered = None
        self._held = len(self._queue)
        self._ready.clear()

    def release(self, frames: Sequence[str]) -> None:
        """Go on, with some frames before all that came since ``hold``."""
        before, self._held = self._held or 0, None
        if self._ended:
            return
        self._queue.rotate(-before)
        self._queue.extendleft(reversed(frames))
        self._queue.rotate(before)
        self._bytes += sum(map(len, frames))
        if self._queue:
            self._ready.set()

    def finish(self, frame: str) -> None:
        """Take a last frame: ``next`` says that there is no more after it."""
        self._held = None
        self.put(frame)
        self._finishing = True
        self._ready.set()

    def end(self) -> None:
        """Throw away what waits: ``next`` says that there is no more."""
        self._ended, self._held, self._gathered = True, None, None
        self._queue.clear()
        self._bytes = 0
        self._ready.set()

    async def next(self) -> str | None:
        """Wait for the next frame; None where there is no more."""
        while not self._ended:
            if self._queue and self._held is None:
                item = self._queue.popleft()
                if item is self._gathered:
                    self._gathered = None
                frame = item if isinstance(item, str) else "[" + ",".join(item) + "]"
                self._bytes -= len(frame) if isinstance(item, str) else len(frame) - 1
                return frame
            if self._finishing and not self._queue:
                break
            self._ready.clear()
            await self._ready.wait()
        return None
