"""The vendor's own WebSocket clients, of both packages, unmodified, against a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import massive
import polygon
import pytest
from fastapi import FastAPI

from fibflow.runners.services.process import free_ports
from fibflow.serving.app import create_app
from fibflow.tests.io.livestores import MINUTE, T0, bar, closed, price, prices, table
from fibflow.tests.serving.conftest import make_keyed, now
from fibflow.tests.serving.live.opened import write_open
from fibflow.tests.serving.live.wires import wait_for
from fibflow.tests.serving.servers import running

NOW = 1_800_000_000_000_000
#: A client waits up to five seconds before it comes again, more where the server is not back by then.
_BOUND_S = 60.0


@pytest.fixture(params=[polygon, massive], ids=["polygon", "massive"])
def package(request) -> Any:
    return request.param


@pytest.fixture
def settings(open_settings, server, store):
    store.marker()
    return replace(open_settings, redis=server.url, prefix=store.prefix)


@pytest.fixture
def app(settings) -> FastAPI:
    return create_app(settings, now)


def client_of(package: Any, url: str, *topics: str, key: str = "any") -> Any:
    feed = url.removeprefix("http://")
    return package.WebSocketClient(key, feed=feed, market="stocks", secure=False, subscriptions=list(topics))


class Followed:
    """What a client has been given."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self._came = asyncio.Event()

    async def take(self, messages: list[Any]) -> None:
        self.messages += messages
        self._came.set()

    async def until(self, enough: Callable[[list[Any]], bool]) -> list[Any]:
        async with asyncio.timeout(_BOUND_S):
            while not enough(self.messages):
                self._came.clear()
                await self._came.wait()
        return self.messages


def follows(app: FastAPI, topics: int) -> bool:
    """Whether an app's clients follow so many topics."""
    services = getattr(app.state, "services", None)
    return services is not None and services.hub.topics == topics


def ends_with(start: int, messages: list[Any]) -> bool:
    return bool(messages) and messages[-1].start_timestamp == start // 1_000


@asynccontextmanager
async def followed(client: Any, app: FastAPI, topics: int):
    """Run a client that follows so many topics; yields what it is given."""
    found = Followed()
    running_client = asyncio.create_task(client.connect(found.take))
    await asyncio.to_thread(wait_for, partial(follows, app, topics))
    try:
        yield found
    finally:
        await client.close()
        async with asyncio.timeout(_BOUND_S):
            await running_client


def test_a_key_that_is_not_known_raises_their_auth_error(package, settings, tmp_path):
    keyed = make_keyed(settings, tmp_path / "keys.sqlite")

    async def refused(url: str, key: str) -> None:
        async with asyncio.timeout(_BOUND_S):
            await client_of(package, url, "AM.*", key=key).connect(Followed().take)

    async def taken(url: str) -> None:
        async with followed(client_of(package, url, "AM.*", key=keyed.keys["live"]), keyed.app, 1):
            pass

    with running(keyed.app) as url:
        for key in ("nonsense", keyed.keys["revoked"], keyed.keys["history"]):
            with pytest.raises(package.exceptions.AuthError):
                asyncio.run(refused(url, key))
        asyncio.run(taken(url))
    keyed.store.close()


def test_minutes_and_trades_are_read_into_their_models(package, app, store):
    async def follow(url: str) -> list[Any]:
        client = client_of(package, url, "AM.AAPL", "T.AAPL", "A.AAPL")
        async with followed(client, app, 2) as found:
            day = bar("AAPL", "1d", T0 - MINUTE, end=T0 + 600 * MINUTE, open=7.5, volume=9_000.0, vwap=8.5)
            write_open(store, day)
            store.write_closed(table(closed("AAPL", close=3.25), closed("MSFT")), NOW)
            store.write_prices(prices(price("AAPL", 2.5, T0, 3), price("MSFT")))
            return await found.until(lambda messages: len(messages) == 2)

    with running(app) as url:
        minute, trade = asyncio.run(follow(url))
    assert (minute.event_type, minute.symbol) == ("AM", "AAPL")
    assert (minute.open, minute.high, minute.low, minute.close) == (1.5, 9.25, 0.5, 3.25)
    assert (minute.volume, minute.vwap, minute.average_size) == (100, 1.25, 14)
    assert (minute.accumulated_volume, minute.official_open_price, minute.aggregate_vwap) == (9000, 7.5, 8.5)
    assert (minute.start_timestamp, minute.end_timestamp) == (T0 // 1_000, T0 // 1_000 + 60_000)
    assert (trade.event_type, trade.symbol, trade.price, trade.size) == ("T", "AAPL", 2.5, 100)
    assert (trade.timestamp, trade.sequence_number) == (T0 // 1_000, 3)


def test_all_symbols_at_once_come_through_their_limits(package, app, store):
    many = [closed(f"SYMBOL{place:05}") for place in range(5_350)]

    async def follow(url: str) -> list[Any]:
        async with followed(client_of(package, url, "AM.*"), app, 1) as found:
            store.write_closed(table(*many), NOW)
            return await found.until(lambda messages: len(messages) == len(many))

    with running(app) as url:
        messages = asyncio.run(follow(url))
    assert {message.symbol for message in messages} == {row["symbol"] for row in many}


def test_what_is_not_known_does_not_crash_them(package, app, store):
    async def follow(url: str) -> list[Any]:
        async with followed(client_of(package, url, "AM.*", "T.*", "B.1m.*", "O.1m.*"), app, 4) as found:
            write_open(store, bar("A", vwap=None, trade_count=None))
            store.write_closed(table(closed("A", vwap=None, trade_count=None)), NOW)
            store.write_prices(prices({**price("A"), "size": None}))
            return await found.until(lambda messages: len(messages) == 2)

    with running(app) as url:
        messages = asyncio.run(follow(url))
    assert [message.event_type for message in messages] == ["AM", "T"]


def test_after_a_restart_they_come_again_and_follow_what_they_did(package, settings, store):
    port = free_ports(["http"])["http"]
    first, second = create_app(settings, now), create_app(settings, now)

    async def follow() -> list[Any]:
        found = Followed()
        client = client_of(package, f"http://127.0.0.1:{port}", "AM.A", "T.*")
        followed_by = asyncio.create_task(client.connect(found.take))
        for place, app in enumerate((first, second)):
            with running(app, port):
                there = partial(follows, app, 2)
                await asyncio.to_thread(wait_for, there, _BOUND_S)
                store.write_closed(table(closed("A", ts=T0 + place * MINUTE)), NOW)
                await found.until(partial(ends_with, T0 + place * MINUTE))
                if app is second:
                    await client.close()
                    async with asyncio.timeout(_BOUND_S):
                        await followed_by
        return found.messages

    messages = asyncio.run(follow())
    # Who comes before a server has begun is sent the last minute again.
    told = dict.fromkeys((one.event_type, one.start_timestamp) for one in messages)
    assert list(told) == [("AM", (T0 + place * MINUTE) // 1_000) for place in range(2)]
