"""The application: its routes, and what its requests share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

import fibflow
from fibflow.io.lake import Lake
from fibflow.io.storage import Storage
from fibflow.serving import cli, errors, health, openapi, probes
from fibflow.serving.access import Gate
from fibflow.serving.alerts import routes as alerts
from fibflow.serving.alerts.desk import AlertDesk
from fibflow.serving.compat import aggregates, dividends, indicators, news, snapshots, tickers, trades
from fibflow.serving.compat import market as compat_market
from fibflow.serving.compression import Compression
from fibflow.serving.direct import Direct
from fibflow.serving.health import Health
from fibflow.serving.history.bars import History
from fibflow.serving.keys.book import KeyBook
from fibflow.serving.limits import Limits
from fibflow.serving.live import sockets
from fibflow.serving.live.hub import Hub
from fibflow.serving.live.prices import Found, Prices
from fibflow.serving.live.together import Together
from fibflow.serving.logs import write
from fibflow.serving.methods import Methods
from fibflow.serving.observe import Observe
from fibflow.serving.page import routes as page
from fibflow.serving.problems import Problem
from fibflow.serving.rates import Rates
from fibflow.serving.reference import Reference
from fibflow.serving.services import Services
from fibflow.serving.settings import Settings
from fibflow.serving.v1 import bars, exports, market, symbols
from fibflow.serving.v1 import prices as v1_prices

#: So long the first look at the lake may hold the start up, seconds.
_WARM_S = 5.0
_OWN = (bars, v1_prices, symbols, exports, market, alerts)
_COMPATIBLE = (aggregates, snapshots, trades, tickers, dividends, news, compat_market, indicators)
_MODULES = (health, *_OWN, *_COMPATIBLE, sockets, page)
#: What is asked most.
_DIRECT = (bars.get_bars, aggregates.range_aggregates, v1_prices.last_price, trades.last_trade)
#: What a page of another origin may send and read.
_SENT = ["Authorization", "Content-Type", "Idempotency-Key", "If-None-Match", "X-Request-Id"]
_READ = [
    "Content-Disposition",
    "ETag",
    "Idempotent-Replayed",
    "Link",
    "Location",
    "RateLimit-Limit",
    "RateLimit-Remaining",
    "RateLimit-Reset",
    "Retry-After",
    "X-Lake-Versions",
    "X-Next-Cursor",
    "X-Request-Id",
]


def _utc_now() -> datetime:
    return datetime.now(UTC)


def create_app(settings: Settings, clock: Callable[[], datetime] = _utc_now) -> FastAPI:
    """Return the application; its stores are opened when it starts. A store that is down does not stop it."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        services = make_services(settings, clock)
        app.state.services = services
        try:
            async with AsyncExitStack() as begun:
                for module in _MODULES:
                    await begun.enter_async_context(module.router.lifespan_context(app))
                # A lake that is away, or empty, is told to who asks for it.
                with suppress(Problem, TimeoutError):
                    await asyncio.wait_for(services.run(services.history.warm), _WARM_S)
                yield
                services.closing.set()
        finally:
            await services.close()

    app = FastAPI(
        title="Fibflow",
        version=fibflow.__version__,
        summary="OHLCV bars over intraday and Fibonacci windows, the same in a backtest as live",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    for module in _MODULES:
        # One list of routes: routers within routers are looked through twice by each request.
        app.router.routes.extend(module.router.routes)
    errors.install(app)
    openapi.install(app)
    # The last one added is asked first.
    app.add_middleware(Direct, routes=list(app.router.routes), endpoints=_DIRECT)
    app.add_middleware(Compression)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.origins),
            allow_methods=["GET", "HEAD", "POST", "PATCH", "DELETE"],
            allow_headers=_SENT,
            expose_headers=_READ,
            max_age=600,
        )
    app.add_middleware(Methods)
    app.add_middleware(Limits, hosts=settings.hosts, origins=settings.origins)
    app.add_middleware(Observe, log=write if settings.log_requests else None)
    return app


def make_services(settings: Settings, clock: Callable[[], datetime]) -> Services:
    """Return what requests share."""
    lake = Lake(settings.lake, settings.aws)
    reference = Reference(lake, settings.refresh_s)
    history = History(lake, settings.refresh_s, reference.splits, settings.cache_mb, clock)
    prices = Prices(settings, history, clock)
    desk = AlertDesk(settings.postgres, clock, Storage(settings.lake, settings.aws))
    pool = ThreadPoolExecutor(settings.threads, "read")

    async def alone(symbol: str) -> Found:
        return await asyncio.get_running_loop().run_in_executor(pool, prices.find, [symbol])

    return Services(
        settings=settings,
        clock=clock,
        pool=pool,
        history=history,
        reference=reference,
        prices=prices,
        together=Together(prices.of_live if settings.redis else None, alone),
        hub=Hub(settings) if settings.redis else None,
        alerts=desk,
        gate=make_gate(settings, clock),
        health=Health(probes.of(settings, lake, prices, desk.store)),
    )


def make_gate(settings: Settings, clock: Callable[[], datetime]) -> Gate:
    """Return who is let in."""
    if settings.open_access:
        return Gate(True, clock=clock)
    store = cli.store_of(settings.postgres, settings.keys, settings.lake)
    return Gate(False, KeyBook(store, settings.pepper, clock), Rates(settings.shared), clock)
