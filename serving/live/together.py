"""Questions for last prices that come at the same time: one to the live store, for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from fibflow.serving.live.prices import Found, Price

#: So many symbols at once.
_MOST = 1_000


class Together:
    """Asks the live store for all symbols that somebody waits for, one question at a time.

    Each answer is of a question that was put after it was asked for. What the live store lacks is asked for
    by itself, of all stores: who waits for the lake holds up nobody's price. For one event loop.

    Args:
        live: asks the live store, blocks; None where there is none. What fails there is asked for by itself.
        alone: asks all stores for one symbol.
    """

    def __init__(
        self,
        live: Callable[[Sequence[str]], Mapping[str, Price]] | None,
        alone: Callable[[str], Awaitable[Found]],
    ) -> None:
        self._live = live
        self._alone = alone
        # Of its own: other readers' threads may all be waiting for the lake.
        self._pool = ThreadPoolExecutor(1, "prices")
        self._waiting: dict[str, asyncio.Future[Price | None]] = {}
        self._asking: asyncio.Task[None] | None = None

    async def find(self, symbol: str) -> Found:
        """Return what the stores say of a symbol."""
        if self._live is not None:
            price = await self._together(symbol)
            if price is not None:
                return Found({symbol: price}, (price.source,), {})
        return await self._alone(symbol)

    async def _together(self, symbol: str) -> Price | None:
        loop = asyncio.get_running_loop()
        waiting = self._waiting.get(symbol)
        if waiting is None:
            waiting = self._waiting[symbol] = loop.create_future()
        if self._asking is None:
            self._asking = loop.create_task(self._ask())
        return await asyncio.shield(waiting)

    async def _ask(self) -> None:
        assert self._live is not None
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                some = {name: self._waiting.pop(name) for name in list(islice(self._waiting, _MOST))}
                found: Mapping[str, Price] = {}
                try:
                    found = await loop.run_in_executor(self._pool, self._live, list(some))
                except Exception:
                    # Each is told by itself what is wrong.
                    found = {}
                finally:
                    for name, waiting in some.items():
                        waiting.set_result(found.get(name))
        finally:
            self._asking = None

    def close(self) -> None:
        """End the thread; what it reads is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)
