"""Whether the server lives, and what it can serve."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import pytest
from fastapi.testclient import TestClient

from fibflow.runners.services.process import free_ports
from fibflow.serving.app import create_app
from fibflow.serving.health import Health, Probe
from fibflow.tests.serving.conftest import now


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_a_server_that_answers_lives(client):
    answer = client.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    assert answer.headers["cache-control"] == "no-store"


def test_a_server_of_history_alone_is_ready(client):
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok", "stores": {"lake": "up"}})


def test_stores_that_are_down_are_named_and_history_is_served(open_settings):
    port = free_ports(["redis"])["redis"]
    settings = replace(
        open_settings,
        redis=f"redis://:hunter2@127.0.0.1:{port}/0",
        postgres=f"postgresql://ada:hunter2@127.0.0.1:{port}/x",
    )
    with TestClient(create_app(settings, now)) as client:
        answer = client.get("/readyz")
        assert answer.status_code == 200
        assert answer.json() == {
            "status": "degraded",
            "stores": {"lake": "up", "redis": "down", "postgres": "down", "alerts": "down"},
        }
        metrics = client.get("/metrics").text
    assert 'fibflow_store_up{store="redis"} 0.0' in metrics
    for text in (answer.text, metrics):
        assert "hunter2" not in text


def test_redis_is_named_and_found_again_when_it_comes_back(open_settings, server):
    server.client.flushall()
    with TestClient(create_app(replace(open_settings, redis=server.url), now)) as client:
        assert client.get("/readyz").json()["stores"]["redis"] == "up"
        server.kill()
        try:
            wait_for(lambda: client.get("/readyz"), lambda answer: answer.json()["stores"]["redis"] == "down")
            assert client.get("/readyz").status_code == 200
        finally:
            server.start()
        wait_for(lambda: client.get("/readyz"), lambda answer: answer.json()["stores"]["redis"] == "up")


def wait_for(ask, is_right) -> None:
    """Ask until it is right, for half a minute at most."""
    pause = threading.Event()
    for _ in range(300):
        if is_right(ask()):
            return
        pause.wait(0.1)
    raise AssertionError(f"it stayed {ask()}")


def test_a_lake_that_cannot_be_read_is_a_503(open_settings, tmp_path):
    empty = tmp_path / "nothing"
    empty.mkdir()
    with TestClient(create_app(replace(open_settings, lake=str(empty)), now)) as client:
        answer = client.get("/readyz")
        assert (answer.status_code, answer.json()) == (503, {"status": "down", "stores": {"lake": "down"}})
        assert client.get("/healthz").status_code == 200


def test_a_server_that_stops_is_not_ready(open_app):
    with TestClient(open_app) as client:
        assert client.portal is not None
        client.portal.call(open_app.state.services.closing.set)
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200


def test_keys_are_a_store_too(keyed_client):
    assert keyed_client.get("/readyz").json() == {"status": "ok", "stores": {"lake": "up", "keys": "up"}}


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_no_key_is_needed(keyed_client, path):
    assert keyed_client.get(path).status_code == 200


def test_stores_are_asked_once_a_second_whoever_asks():
    asked = []

    def question() -> dict[str, bool]:
        asked.append(1)
        return {"a": True}

    async def asking():
        clock = Clock()
        health = Health([Probe(("a",), question)], clock)
        for _ in range(10):
            assert await asyncio.gather(*(health.states() for _ in range(5))) == [{"a": True}] * 5
        assert len(asked) == 1
        clock.now += 1
        await health.states()
        assert len(asked) == 2
        health.close()

    asyncio.run(asking())


def test_a_store_that_hangs_is_down_and_holds_no_other_up(monkeypatch):
    monkeypatch.setattr("fibflow.serving.health._ANSWER_S", 0.2)
    free = threading.Event()
    probes = [Probe(("stuck",), lambda: {"stuck": free.wait(30)}), Probe(("fine",), lambda: {"fine": True})]

    async def asking():
        clock = Clock()
        health = Health(probes, clock)
        for _ in range(3):
            assert await health.states() == {"stuck": False, "fine": True}
            clock.now += 1
        free.set()
        for _ in range(100):
            clock.now += 1
            if await health.states() == {"stuck": True, "fine": True}:
                break
        else:
            raise AssertionError("it stayed down")
        health.close()

    asyncio.run(asking())
