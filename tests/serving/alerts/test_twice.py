"""Calls that are sent twice with an Idempotency-Key: done once, and answered as before."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from fibflow.tests.serving.alerts.conftest import CROSSES, problem


def test_the_same_call_with_a_key_makes_one(client):
    headers = {"Idempotency-Key": "one"}
    first = client.post("/v1/alerts", json=CROSSES, headers=headers)
    again = client.post("/v1/alerts", json=dict(reversed(CROSSES.items())), headers=headers)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == first.json()
    assert again.headers["location"] == first.headers["location"]
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert client.get("/v1/alerts").json()["count"] == 1


def test_the_same_condition_on_bars_in_another_order_is_the_same_call(client):
    headers = {"Idempotency-Key": "one"}
    term = {"left": {"field": "close"}, "operator": "above", "right": {"value": 1.0}}
    first = {"symbol": "AAPL", "bars": {"timeframe": "1d", "all": [term]}}
    again = {"bars": {"all": [dict(reversed(term.items()))], "timeframe": "1d"}, "symbol": "AAPL"}
    made = [client.post("/v1/alerts", json=body, headers=headers).json()["id"] for body in (first, again)]
    assert made[0] == made[1]


def test_a_key_with_another_body_is_refused(client):
    headers = {"Idempotency-Key": "one"}
    client.post("/v1/alerts", json=CROSSES, headers=headers)
    other = client.post("/v1/alerts", json={**CROSSES, "value": 201.0}, headers=headers)
    assert "Idempotency-Key" in problem(other, 422, "idempotency_key_reused")["detail"]
    bulk = client.post("/v1/alerts/bulk", json={"alerts": [CROSSES]}, headers=headers)
    problem(bulk, 422, "idempotency_key_reused")
    for key in ("", "x" * 256, "\u00e9".encode("latin-1")):
        answer = client.post("/v1/alerts", json=CROSSES, headers={"Idempotency-Key": key})
        problem(answer, 400, "bad_idempotency_key")


def test_a_refused_call_keeps_no_answer(client):
    headers = {"Idempotency-Key": "one"}
    problem(
        client.post("/v1/alerts", json={**CROSSES, "symbol": "NOSUCH"}, headers=headers), 422, "bad_alert"
    )
    assert client.post("/v1/alerts", json=CROSSES, headers=headers).status_code == 201


def test_many_at_once_with_one_key_make_one(client):
    headers = {"Idempotency-Key": "one"}
    with ThreadPoolExecutor(16) as pool:
        answers = list(
            pool.map(lambda _: client.post("/v1/alerts", json=CROSSES, headers=headers), range(32))
        )
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert client.get("/v1/alerts").json()["count"] == 1
