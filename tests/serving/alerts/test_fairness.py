"""One owner, or a server of names that does not answer, holds nobody else up."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

from fastapi.testclient import TestClient

from fibflow.serving.alerts import desk, destinations
from fibflow.serving.app import create_app
from fibflow.tests.serving.alerts.conftest import CROSSES, make, problem
from fibflow.tests.serving.conftest import NOW, now

HOOK = {"kind": "webhook", "target": "https://93.184.215.14/hook"}
WHERE = "/v1/alert-destinations"
BULK = "/v1/alerts/bulk"


def test_of_many_that_come_together_an_owner_has_so_many(settings):
    with (
        TestClient(create_app(replace(settings, most_alerts=5), now)) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        asked = [pool.submit(client.post, "/v1/alerts", json=CROSSES) for _ in range(8)]
        many = [pool.submit(client.post, BULK, json={"alerts": [CROSSES] * 2}) for _ in range(8)]
        done = [each.result().status_code for each in (*asked, *many)]
        assert set(done) <= {201, 403}
        assert client.get("/v1/alerts").json()["count"] == 5


def test_names_that_nobody_answers_for_hold_up_destinations_only(client, monkeypatch):
    made = client.post(WHERE, json=HOOK).json()
    begun, goes_on = threading.Semaphore(0), threading.Event()

    def slow(target: str) -> None:
        begun.release()
        assert goes_on.wait(60)

    monkeypatch.setattr(destinations, "check_url", slow)
    with ThreadPoolExecutor(9) as pool:
        try:
            asked = [pool.submit(client.post, WHERE, json=HOOK) for _ in range(4)]
            path = f"{WHERE}/{made['id']}"
            changed = [pool.submit(client.patch, path, json={"target": HOOK["target"]}) for _ in range(4)]
            for _ in range(4):
                assert begun.acquire(timeout=30)
            assert pool.submit(client.get, "/v1/alerts").result(timeout=30).status_code == 200
        finally:
            goes_on.set()
        assert {each.result().status_code for each in asked} == {201}
        assert {each.result().status_code for each in changed} == {200}


def test_where_too_many_addresses_are_looked_up_others_are_told_to_come_again(asking, monkeypatch):
    monkeypatch.setattr(desk, "_NAMES_WAITING", 0)
    problem(asking.post(WHERE, json=HOOK), 503, "alerts_unavailable")
    assert asking.get(WHERE).json()["count"] == 0


def test_an_owner_has_not_all_places_for_calls_of_many(keyed, owners, monkeypatch):
    monkeypatch.setattr(desk, "_BULKS_OF_ONE", 1)
    body = {"alerts": [CROSSES]}
    with owners.app.state.services.alerts.bulk("Ada"):
        told = keyed.post(BULK, json=body, headers=owners.headers("ada"))
        assert "yours" in problem(told, 429, "too_busy")["detail"]
        assert keyed.post(BULK, json=body, headers=owners.headers("bob")).status_code == 201
    assert keyed.post(BULK, json=body, headers=owners.headers("ada")).status_code == 201


def test_an_owner_fires_so_many_tests_a_minute(settings, monkeypatch):
    monkeypatch.setattr(desk, "_TESTS", 3)
    times = [NOW]
    with TestClient(create_app(settings, lambda: times[0])) as client:
        alert = f"/v1/alerts/{make(client)['id']}/test"
        hook = f"{WHERE}/{client.post(WHERE, json=HOOK).json()['id']}/test"
        assert [client.post(path).status_code for path in (alert, hook, alert)] == [202] * 3
        times[0] = NOW + timedelta(seconds=20)
        told = client.post(hook)
        assert "wait 40 s" in problem(told, 429, "too_many_tests")["detail"]
        assert told.headers["retry-after"] == "40"
        times[0] = NOW + timedelta(minutes=1)
        assert client.post(alert).status_code == 202


def test_tests_of_one_owner_are_not_anothers(keyed, owners, monkeypatch):
    monkeypatch.setattr(desk, "_TESTS", 1)
    ada, bob = owners.headers("ada"), owners.headers("bob")
    mine, his = (f"/v1/alerts/{make(keyed, who)['id']}/test" for who in (ada, bob))
    assert keyed.post(mine, headers=ada).status_code == 202
    problem(keyed.post(mine, headers=owners.headers("ada2")), 429, "too_many_tests")
    assert keyed.post(his, headers=bob).status_code == 202
