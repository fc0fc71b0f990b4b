"""What happens to clients when Redis goes, comes back or is emptied; slow clients; several servers."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

import pytest
from fastapi import FastAPI

from fibflow.serving.app import create_app
from fibflow.serving.live import sockets
from fibflow.serving.live.hub import Hub
from fibflow.tests.io.livestores import MINUTE, T0, again, bar, closed, fresh, price, prices, table
from fibflow.tests.serving.conftest import now
from fibflow.tests.serving.live.conftest import away
from fibflow.tests.serving.live.opened import write_open
from fibflow.tests.serving.live.wires import deaf, listening, wait_for, wire
from fibflow.tests.serving.servers import running

NOW = 1_800_000_000_000_000


@pytest.fixture
def app(open_settings, server, store) -> FastAPI:
    store.marker()
    return create_app(replace(open_settings, redis=server.url, prefix=store.prefix), now)


def statuses(found: list[dict]) -> list[str]:
    return [one["status"] for one in found if one["ev"] == "status"]


def has(kind: str):
    return lambda found: kind in statuses(found)


def test_clients_stay_while_redis_is_away_and_are_told_to_read_anew(url, server, store):
    store.write_closed(table(closed("A")), NOW)
    with listening(url, "AM.A", "O.1m.A", "P.*", "B.1m.A") as client:
        client.take(1)
        with away(server):
            client.until(has("stale"))
            with wire(url) as later:
                assert later.auth()[0] == "auth_success"
                taken = later.subscribe("AM.A", "P.A")
                assert taken == ["success: subscribed to: AM.A", "success: subscribed to: P.A"]
                assert later.status()[0] == "stale"
        client.until(has("reset"))
        back = again(store)
        back.write_closed(table(closed("A", ts=T0 + MINUTE)), NOW)
        write_open(back, bar("A", ts=T0 + 2 * MINUTE))
        back.write_prices(prices(price("A", 7.0)))
        kinds = {"AM", "B", "O", "P"}
        told = client.until(lambda found: kinds <= {one["ev"] for one in found})
        assert [one["s"] for one in told if one["ev"] == "AM"] == [(T0 + MINUTE) // 1_000]


def test_after_a_gap_open_bars_and_prices_are_sent_again(url, server, store):
    with listening(url, "O.1m.*", "O.5m.A", "P.A", "B.1m.A") as client:
        server.client.flushall()
        other = fresh(server)
        client.until(has("reset"))
        other.write_closed(table(closed("A"), closed("C")), NOW)
        write_open(other, bar("A"), bar("A", "5m"), bar("A", "1h"))
        other.write_prices(prices(price("A"), price("B")))
        # What every server that fell behind sees.
        client.until(lambda found: {"O", "P", "B"} <= {one["ev"] for one in found})
        server.client.xtrim(other.key("push"), maxlen=0)
        told = client.until(has("reset"))
        told = client.take(4)
        assert sorted((one["ev"], one["symbol"], one.get("timeframe")) for one in told) == [
            ("B", "A", "1m"),
            ("O", "A", "1m"),
            ("O", "A", "5m"),
            ("P", "A", None),
        ]


def test_a_job_with_other_buckets_is_followed_after_the_store_was_emptied(url, server):
    with listening(url, "O.1m.A") as client:
        server.client.flushall()
        other = fresh(server, buckets=5)
        write_open(other, bar("A", close=4.5))
        told = client.until(lambda found: any(one["ev"] == "O" for one in found))
        assert [one["close"] for one in told if one["ev"] == "O"] == [4.5]


def test_a_server_comes_up_without_redis_and_finds_it_later(app, server, store):
    with away(server), ExitStack() as connections:
        url = connections.enter_context(running(app))
        client = connections.enter_context(wire(url))
        client.auth()
        assert client.subscribe("AM.A", "O.1m.A") == [
            "success: subscribed to: AM.A",
            "success: subscribed to: O.1m.A",
        ]
        client.until(has("stale"))
        server.start()
        client.until(has("live"))
        again(store).write_closed(table(closed("A")), NOW)
        assert [
            one["sym"]
            for one in client.until(lambda found: any("sym" in one for one in found))
            if "sym" in one
        ] == ["A"]
        server.kill()


def test_two_servers_follow_one_stream(serve, store):
    store.marker()
    first, second = serve(), serve()
    with listening(first, "AM.*") as one, listening(second, "AM.*") as two:
        for place in range(5):
            store.write_closed(
                table(closed("A", ts=T0 + place * MINUTE), closed("B", ts=T0 + place * MINUTE)), NOW
            )
        told = [[(found["sym"], found["s"]) for found in client.take(10)] for client in (one, two)]
        assert sorted(told[0]) == sorted(told[1])
        assert len(set(told[0])) == 10


def test_the_last_clients_leaving_leaves_nothing_behind(app, store):
    with running(app) as url:
        hub: Hub = app.state.services.hub
        with listening(url, "AM.*", "B.5m.A") as one, listening(url, "P.A") as two:
            assert hub.topics == 3
            assert len(app.state.sockets) == 2
            one.socket.close()
            wait_for(lambda: hub.topics == 1)
            two.socket.close()
        wait_for(lambda: len(app.state.sockets) == 0)
        assert (hub.topics, hub._rooms, hub._clients) == (0, {}, {})


def much(store, times: int) -> None:
    """Some megabytes to whoever follows all."""
    for place in range(times):
        store.write_closed(
            table(*(closed(f"SYMBOL{at:05}", ts=T0 + place * MINUTE) for at in range(4_000))), NOW
        )


def test_a_slow_client_is_told_and_closed_and_others_are_not_held_up(serve, store, monkeypatch):
    monkeypatch.setattr(sockets, "LAST_S", 60.0)
    store.marker()
    url = serve(queue=8)
    with deaf(url, "AM.*", "B.1m.*") as slow, listening(url, "AM.SYMBOL00007") as quick:
        much(store, 8)
        assert [one["s"] for one in quick.take(8)] == [(T0 + place * MINUTE) // 1_000 for place in range(8)]
        last = slow.until(has("slow_consumer"))[-1]
        assert last["message"]
        assert slow.closed() == 1008


def test_a_client_that_never_reads_is_let_go(open_settings, server, store, monkeypatch):
    monkeypatch.setattr(sockets, "LAST_S", 0.05)
    store.marker()
    app = create_app(replace(open_settings, redis=server.url, prefix=store.prefix, queue=8), now)
    with running(app) as url, deaf(url, "AM.*", "B.1m.*"):
        much(store, 8)
        wait_for(lambda: len(app.state.sockets) == 0)
        assert app.state.services.hub.topics == 0


def test_what_the_hub_says_is_wrong(app, server):
    with running(app):
        hub: Hub = app.state.services.hub
        with away(server):
            wait_for(lambda: hub.wrong is not None)
            assert "\n" not in str(hub.wrong)
        wait_for(lambda: hub.wrong is None)


def test_an_entry_that_cannot_be_read_is_passed_over(url, server, store):
    with listening(url, "AM.A") as client:
        server.client.xadd(store.key("push"), {"k": "closed", "s": b"\1", "n": b"x", "r": b"y"})
        client.until(has("reset"))
        store.write_closed(table(closed("A")), NOW)
        told = client.until(lambda found: any("sym" in one for one in found))
        assert [one["sym"] for one in told if "sym" in one] == ["A"]


def test_a_hub_needs_a_store(open_settings):
    with pytest.raises(ValueError, match="live store"):
        Hub(open_settings)
