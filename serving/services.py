"""What all requests of a server process share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from fastapi import Request, WebSocket

from fibflow.serving.history.bars import History
from fibflow.serving.settings import Settings

if TYPE_CHECKING:
    from fibflow.serving.access import Gate
    from fibflow.serving.alerts.desk import AlertDesk
    from fibflow.serving.health import Health
    from fibflow.serving.live.hub import Hub
    from fibflow.serving.live.prices import Prices
    from fibflow.serving.live.together import Together
    from fibflow.serving.reference import Reference

P = ParamSpec("P")
T = TypeVar("T")


@dataclass
class Services:
    """What all requests of a process share; ``app.state.services``.

    Attributes:
        settings: what the process was started with.
        clock: now, UTC.
        pool: where what blocks runs.
        history: bars of the lake.
        reference: symbols, splits, the calendar.
        prices: last prices, from the first store that answers.
        together: the same for who asks for one.
        hub: what the live store tells, for WebSockets; None without a live store.
        alerts: what asks the store of alerts.
        gate: who may ask for what, and how often.
        closing: set when the server is told to stop, before it closes its connections.
        health: which stores answer.
    """

    settings: Settings
    clock: Callable[[], datetime]
    pool: ThreadPoolExecutor
    history: History
    reference: Reference
    prices: Prices
    together: Together
    hub: Hub | None
    alerts: AlertDesk
    gate: Gate
    health: Health
    closing: asyncio.Event = field(default_factory=asyncio.Event)

    async def close(self) -> None:
        """Close all stores; what still reads is not waited for."""
        await self.gate.close()
        await self.alerts.close()
        self.together.close()
        self.prices.close()
        self.health.close()
        self.pool.shutdown(wait=False, cancel_futures=True)

    async def run(self, question: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return the answer of something that blocks, without blocking the loop."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.pool, lambda: question(*args, **kwargs))


async def services(request: Request) -> Services:
    """Return the services, for ``Depends``: what is not async there goes through a thread."""
    found: Services = request.app.state.services
    return found


def services_of_socket(socket: WebSocket) -> Services:
    """Return the services of a WebSocket."""
    found: Services = socket.app.state.services
    return found
