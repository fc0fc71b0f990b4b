"""How often a key may ask: a bucket of requests for each, which fills evenly.

The buckets of one machine's workers lie in one file that all of them map, so a key has one budget whichever
worker answers. Servers on other machines count for themselves: Redis is not asked, so that history needs none
and a request waits for nobody. No lock is held: two workers that let the same key in within the same
microsecond may count one request for the two.
"""

from __future__ import annotations

import math
import mmap
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_SLOTS = 16_384
_PROBES = 16
SIZE = _SLOTS * 16


@dataclass(frozen=True)
class Standing:
    """How a key stands after a request.

    Attributes:
        limit: how many requests it may make at once.
        remaining: how many it may make now.
        reset_s: in how many seconds it may make ``limit`` again.
        retry_s: in how many seconds the next one is let in; 0 where this one was.
    """

    limit: int
    remaining: int
    reset_s: float
    retry_s: float

    @property
    def allowed(self) -> bool:
        """Whether the request is let in."""
        return self.retry_s <= 0

    def headers(self) -> dict[str, str]:
        """Return the headers that say it (IETF draft "RateLimit header fields for HTTP")."""
        told = {
            "RateLimit-Limit": str(self.limit),
            "RateLimit-Remaining": str(self.remaining),
            "RateLimit-Reset": str(math.ceil(self.reset_s)),
        }
        return told if self.allowed else {**told, "Retry-After": str(max(1, math.ceil(self.retry_s)))}


class Rates:
    """The buckets of all keys: of each the instant at which it will be full again.

    Args:
        path: the file that workers share, of ``SIZE`` zero bytes at first; None for this process alone.
        monotonic: seconds that only grow, the same in all processes of the machine.
    """

    def __init__(self, path: str | None = None, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._memory: mmap.mmap | bytearray
        if path is None:
            self._memory = bytearray(SIZE)
        else:
            with Path(path).open("r+b") as file:
                self._memory = mmap.mmap(file.fileno(), SIZE)
        whole = memoryview(self._memory)
        self._ids = whole[: SIZE // 2].cast("Q")
        self._full = whole[SIZE // 2 :].cast("d")

    def take(self, key_id: str, rate: float, burst: int) -> Standing:
        """Count a request of a key.

        Args:
            key_id: 16 hexadecimal digits.
            rate: requests a second.
            burst: requests at once.
        """
        now = self._monotonic()
        slot = self._slot(int(key_id, 16) or 1)
        each, room = 1 / rate, burst / rate
        before = max(self._full[slot], now)
        after = before + each
        # Sums of floats: a bucket that is full to the last digit still gives its last request.
        late = after - now - room
        if late > each * 1e-6:
            return Standing(burst, 0, before - now, late)
        self._full[slot] = after
        return Standing(burst, max(0, int((room - (after - now)) * rate + 1e-6)), after - now, 0)

    def close(self) -> None:
        """Let go of the file."""
        self._ids.release()
        self._full.release()
        if isinstance(self._memory, mmap.mmap):
            self._memory.close()

    def _slot(self, number: int) -> int:
        """Return the place of a key: its own, a free one, or that of the key whose last request is oldest."""
        first = number % _SLOTS
        oldest = first
        for place in range(first, first + _PROBES):
            slot = place % _SLOTS
            found = self._ids[slot]
            if found == number:
                return slot
            if found == 0:
                oldest = slot
                break
            if self._full[slot] < self._full[oldest]:
                oldest = slot
        self._full[oldest] = 0.0
        self._ids[oldest] = number
        return oldest
