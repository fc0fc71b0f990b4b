from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from fibflow.serving.live.circuit import StoreDown
from fibflow.serving.live.store import Live
from fibflow.tests.io.livestores import bar, fresh, price, prices, rows
from fibflow.tests.serving.live.opened import write_open


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def live_of(server, clock=None) -> Live:
    return Live(server.url, "test", buckets=256, **({} if clock is None else {"clock": clock}))


def names(live: Live) -> list[tuple]:
    return rows(live.ask(lambda store: store.open_bars(["A"])), "symbol", "close")


def test_the_buckets_are_those_of_the_store(server):
    store = fresh(server, buckets=16)
    write_open(store, bar("A", close=2.5))
    assert names(live_of(server)) == [("A", 2.5)]


def test_a_store_that_was_made_anew_may_have_others(server):
    clock = Clock()
    live = live_of(server, clock)
    fresh(server, buckets=16).marker()
    assert names(live) == []
    store = fresh(server, buckets=7)
    write_open(store, bar("A", close=2.5))
    clock.now = 2.0
    assert names(live) == [("A", 2.5)]


def test_an_empty_store_has_nothing(server):
    fresh(server)
    assert names(live_of(server)) == []


def test_a_store_of_another_layout_is_refused(server):
    fresh(server)
    server.client.hset("{test}:meta", mapping={"generation": "1", "layout": "99", "buckets": "16"})
    with pytest.raises(StoreDown, match="layout 99"):
        names(live_of(server))


def test_redis_that_is_away_is_passed_over_and_found_again(server):
    clock = Clock()
    live = live_of(server, clock)
    store = fresh(server)
    store.write_prices(prices(price("A")))
    assert len(live.ask(lambda store: store.last_prices())) == 1
    server.kill()
    try:
        with pytest.raises(StoreDown, match="does not answer"):
            live.ask(lambda store: store.last_prices())
    finally:
        server.start()
    with pytest.raises(StoreDown, match="does not answer"):
        live.ask(lambda store: store.last_prices())
    clock.now = 2.0
    assert len(live.ask(lambda store: store.last_prices())) == 0


def test_threads_read_at_once(server):
    store = fresh(server)
    store.write_prices(prices(*(price(f"S{place}", float(place)) for place in range(50))))
    live = live_of(server)

    def read(place: int) -> list[tuple]:
        return rows(live.ask(lambda store: store.last_prices([f"S{place}"])), "price")

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, range(50))) == [[(float(place),)] for place in range(50)]


def test_no_secret_shows(server):
    assert "hush" not in repr(Live("redis://:hush@localhost", "test", 16))
