"""Whether the server lives, what it can serve, and its metrics. No key is asked, and nothing secret told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel

from fibflow.serving import metrics
from fibflow.serving.keys.store import KeysDown
from fibflow.serving.services import Services

LAKE = "lake"
KEYS = "keys"
#: How long an answer about the stores counts, and how long a store may take for its own.
_FRESH_S, _ANSWER_S = 1.0, 3.0

router = APIRouter(tags=["health"])


@dataclass(frozen=True)
class Probe:
    """What asks stores of some names: blocking, raises where none of them answers."""

    names: tuple[str, ...]
    ask: Callable[[], Mapping[str, bool]]


class Health:
    """Asks all stores, at most once a second, whoever wants to know.

    Args:
        probes: what asks them.
        monotonic: seconds that only grow.
    """

    def __init__(self, probes: Sequence[Probe], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._probes = probes
        self._monotonic = monotonic
        # One that hangs holds its own thread up, and no other's answer.
        self._pool = ThreadPoolExecutor(max(1, len(probes)), "health")
        self._asking: dict[Probe, asyncio.Future[Mapping[str, bool]]] = {}
        self._known: dict[str, bool] = {}
        self._asked_at = -float("inf")
        self._lock = asyncio.Lock()

    async def states(self) -> dict[str, bool]:
        """Return which stores answer."""
        async with self._lock:
            if self._monotonic() - self._asked_at >= _FRESH_S:
                found = await asyncio.gather(*map(self._ask, self._probes))
                self._known = {name: up for part in found for name, up in part.items()}
                self._asked_at = self._monotonic()
                for store, up in self._known.items():
                    metrics.STORE_UP.labels(store).set(up)
            return self._known

    async def _ask(self, probe: Probe) -> dict[str, bool]:
        asked = self._asking.get(probe)
        if asked is None:
            asked = asyncio.get_running_loop().run_in_executor(self._pool, probe.ask)
            self._asking[probe] = asked
        done, _ = await asyncio.wait([asked], timeout=_ANSWER_S)
        if not done:
            return dict.fromkeys(probe.names, False)
        del self._asking[probe]
        found = {} if asked.exception() is not None else asked.result()
        return {name: found.get(name, False) for name in probe.names}

    def close(self) -> None:
        """Let go of what still waits."""
        self._pool.shutdown(wait=False, cancel_futures=True)


async def stores_of(services: Services) -> dict[str, str]:
    """Return of each store that the server was given whether it is ``up`` or ``down``."""
    found = {name: "up" if up else "down" for name, up in (await services.health.states()).items()}
    if services.gate.book is not None:
        try:
            await services.gate.book.check()
            found[KEYS] = "up"
        except KeysDown:
            found[KEYS] = "down"
        metrics.STORE_UP.labels(KEYS).set(found[KEYS] == "up")
    return found


class Alive(BaseModel):
    """The server lives."""

    status: Literal["ok"]


class Ready(BaseModel):
    """What can be served, and which stores answer."""

    status: Literal["ok", "degraded", "down", "stopping"]
    stores: dict[str, Literal["up", "down"]]


_READY: dict[int | str, dict[str, Any]] = {
    503: {"description": "The lake cannot be read, or the server stops.", "model": Ready}
}
_TEXT: dict[int | str, dict[str, Any]] = {
    200: {"description": "Prometheus' text format", "content": {"text/plain": {"schema": {"type": "string"}}}}
}


@router.get("/healthz", summary="Whether the server lives", response_model=Alive)
async def healthz() -> Response:
    """Answer."""
    return _json(200, {"status": "ok"})


@router.get("/readyz", summary="Which stores answer", response_model=Ready, responses=_READY)
async def readyz(request: Request) -> Response:
    """Answer 200 while history can be served, also where other stores are down; 503 where it cannot."""
    services: Services = request.app.state.services
    if services.closing.is_set():
        return _json(503, {"status": "stopping", "stores": {}})
    stores = await stores_of(services)
    if stores.get(LAKE) != "up":
        return _json(503, {"status": "down", "stores": stores})
    return _json(200, {"status": "ok" if set(stores.values()) == {"up"} else "degraded", "stores": stores})


@router.get("/metrics", summary="Metrics for Prometheus", response_class=Response, responses=_TEXT)
async def exposition(request: Request) -> Response:
    """Answer in Prometheus' text format."""
    services: Services = request.app.state.services
    await stores_of(services)
    return Response(await run_in_threadpool(metrics.exposition), media_type=metrics.CONTENT_TYPE)


def _json(status: int, document: dict[str, Any]) -> Response:
    return Response(orjson.dumps(document), status, {"Cache-Control": "no-store"}, "application/json")
