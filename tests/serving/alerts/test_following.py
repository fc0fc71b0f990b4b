"""What fires, over the WebSocket: each owner's own, once, also after PostgreSQL was away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from fastapi.testclient import TestClient

from fibflow.io.livestore import LiveStore
from fibflow.io.postgresql import migrate
from fibflow.runners.services.process import Leash
from fibflow.serving.alerts import following
from fibflow.serving.app import create_app
from fibflow.serving.keys.store import id_of
from fibflow.serving.live import sockets
from fibflow.tests.io.livestores import price, prices
from fibflow.tests.serving.alerts.conftest import CROSSES, fire, make
from fibflow.tests.serving.conftest import NOW, now
from fibflow.tests.serving.keys.test_stores import Server
from fibflow.tests.serving.live.wires import listening, wait_for, wire
from fibflow.tests.serving.servers import running


@pytest.fixture
def served(app) -> Iterator[str]:
    with running(app) as url:
        yield url


def events(found):
    return [one for one in found if one["ev"] == "ALERT"]


def test_what_fires_is_told_at_once_as_the_history_tells_it(served, app, url):
    client = TestClient(app)
    one, other = make(client, frequency="every_time"), make(client, symbol="MSFT")
    with listening(served, "ALERT.AAPL") as some, listening(served, "ALERT.*") as every:
        fire(url, one, other)
        (told,) = some.take(1)
        both = every.take(2)
        history = client.get("/v1/alert-events", params={"after": "0"}).json()["events"]
        assert [{"ev": "ALERT", **event} for event in history] == both
        assert told == both[0]
        fire(url, one, generation="1")
        assert [found["id"] for found in some.take(1)] == [f"{one['id']}-1-1"]


def test_what_fired_before_is_not_told(served, app, url):
    client = TestClient(app)
    made = make(client, frequency="every_time")
    fire(url, made)
    with listening(served, "ALERT.*") as listener:
        fire(url, made, generation="1")
        assert [one["id"] for one in listener.take(1)] == [f"{made['id']}-1-1"]


def test_a_test_is_told_too(served, app):
    client = TestClient(app)
    made = make(client)
    with listening(served, "ALERT.AAPL") as listener:
        client.post(f"/v1/alerts/{made['id']}/test")
        (told,) = listener.take(1)
        assert (told["test"], told["alert"]) == (True, made["id"])


def test_each_owner_is_told_of_its_own(owners, url):
    client = TestClient(owners.app)
    with running(owners.app) as served:
        mine, his = (make(client, owners.headers(name), frequency="every_time") for name in ("ada", "bob"))
        with (
            listening(served, "ALERT.*", key=owners.keys["ada2"]) as ada,
            listening(served, "ALERT.*", key=owners.keys["bob"]) as bob,
        ):
            fire(url, his, mine)
            fire(url, his, generation="1")
            fire(url, mine, generation="1")
            assert [one["alert"] for one in ada.take(2)] == [mine["id"]] * 2
            assert [one["alert"] for one in bob.take(2)] == [his["id"]] * 2


def test_a_key_without_the_scope_is_told_so_by_topic(owners):
    with running(owners.app) as served, wire(served) as client:
        client.auth(owners.keys["lacks"])
        (told,) = client.subscribe("ALERT.*")
        assert told.startswith("error: ALERT.*: this API key lacks the scope alerts")


def test_a_revoked_key_is_told_no_more(owners, url, monkeypatch):
    monkeypatch.setattr(sockets, "LOOK_S", 0.05)
    asking = TestClient(owners.app)
    with running(owners.app) as served, listening(served, "ALERT.*", key=owners.keys["ada2"]) as client:
        made = make(asking, owners.headers("ada"), frequency="every_time")
        owners.store.revoke(id_of(owners.keys["ada2"]), NOW)
        assert client.closed() == 1008
        fire(url, made)
        desk = owners.app.state.services.alerts
        wait_for(lambda: not desk.following.is_following)


def test_the_outbox_is_followed_only_while_somebody_listens(served, app):
    desk = app.state.services.alerts.following
    assert not desk.is_following
    with listening(served, "ALERT.AAPL") as one:
        with listening(served, "ALERT.*"):
            assert desk.is_following
        one.say("unsubscribe", "ALERT.AAPL")
        assert one.status() == ("success", "unsubscribed to: ALERT.AAPL")
        wait_for(lambda: not desk.is_following)
        assert one.subscribe("ALERT.AAPL") == ["success: subscribed to: ALERT.AAPL"]
        assert desk.is_following
    wait_for(lambda: not desk.is_following)


def test_without_postgresql_topics_are_refused_and_others_are_not(open_settings, server, store: LiveStore):
    store.marker()
    settings = replace(open_settings, redis=server.url, prefix=store.prefix)
    with running(create_app(settings, now)) as served, wire(served) as client:
        client.auth()
        alerts, prices_of = client.subscribe("ALERT.*", "P.A")
        assert alerts.startswith("error: ALERT.*: there are no alerts here: start the server with --postgres")
        assert prices_of == "success: subscribed to: P.A"
        store.write_prices(prices(price("A")))
        assert [one["ev"] for one in client.take(1)] == ["P"]


def test_alerts_and_prices_come_on_one_connection(settings, url, server, store: LiveStore):
    store.marker()
    app = create_app(replace(settings, redis=server.url, prefix=store.prefix), now)
    with running(app) as served:
        made = make(TestClient(app))
        with listening(served, "ALERT.*", "P.A") as client:
            store.write_prices(prices(price("A")))
            assert [one["ev"] for one in client.take(1)] == ["P"]
            fire(url, made)
            assert [one["ev"] for one in client.take(1)] == ["ALERT"]


def test_several_processes_tell_the_same_once(settings, url):
    apps = [create_app(settings, now) for _ in range(2)]
    with running(apps[0]) as first, running(apps[1]) as second:
        made = make(TestClient(apps[0]), frequency="every_time")
        with listening(first, "ALERT.*") as one, listening(second, "ALERT.*") as two:
            for generation in range(3):
                fire(url, made, generation=f"{generation}")
            wanted = [f"{made['id']}-1-{generation}" for generation in range(3)]
            assert [told["id"] for told in one.take(3)] == wanted
            assert [told["id"] for told in two.take(3)] == wanted


@contextmanager
def restartable(folder):
    """A PostgreSQL that can be killed and started again, migrated."""
    leash = Leash()
    try:
        running_server = Server(folder, leash)
        migrate.upgrade(running_server.url)
        yield running_server
        running_server.kill()
    finally:
        leash.close()


def test_it_survives_that_postgresql_restarts_and_misses_nothing(open_settings, tmp_path, monkeypatch):
    monkeypatch.setattr(following, "AGAIN_S", 0.05)
    with restartable(tmp_path) as database:
        app = create_app(replace(open_settings, postgres=database.url), now)
        client = TestClient(app)
        with running(app) as served:
            made = make(client, frequency="every_time")
            with listening(served, "ALERT.*") as listener:
                fire(database.url, made)
                assert len(listener.take(1)) == 1
                database.kill()
                assert listener.status()[0] == "alerts_stale"
                # All else goes on, and who comes meanwhile is told.
                assert client.get("/v1/prices/AAPL").status_code == 200
                assert client.get("/v1/alerts").status_code == 503
                with listening(served, "ALERT.AAPL") as late:
                    assert late.status()[0] == "alerts_stale"
                    database.start()
                    # In the moment before it is followed again.
                    fire(database.url, made, generation="1")
                    for one in (listener, late):
                        told = one.until(lambda found: {"status", "ALERT"} <= {each["ev"] for each in found})
                        assert [each["id"] for each in events(told)] == [f"{made['id']}-1-1"]
                        assert [each["status"] for each in told if "status" in each] == ["alerts_live"]
                assert client.post("/v1/alerts", json=CROSSES).status_code == 201
