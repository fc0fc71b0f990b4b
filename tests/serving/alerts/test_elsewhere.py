"""What another site's page may do with a server that asks for no key: nothing that changes something."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from fastapi.testclient import TestClient

from fibflow.serving.app import create_app
from fibflow.tests.serving.alerts.conftest import CROSSES, make, problem
from fibflow.tests.serving.conftest import now

OTHER = {"Origin": "https://other.example.com"}


@pytest.mark.parametrize("what", ["pause", "test"])
def test_it_cannot_act_on_an_alert(client, what):
    path = f"/v1/alerts/{make(client)['id']}"
    problem(client.post(f"{path}/{what}", headers=OTHER), 403, "wrong_origin")
    problem(client.delete(path, headers=OTHER), 403, "wrong_origin")
    assert client.get(path, headers=OTHER).json()["state"] == "active"
    assert client.get("/v1/alert-events").json()["count"] == 0


def test_the_servers_own_page_and_sites_that_are_named_can(client, settings):
    path = f"/v1/alerts/{make(client)['id']}/pause"
    assert client.post(path, headers={"Origin": "http://testserver"}).status_code == 200
    with TestClient(create_app(replace(settings, origins=(OTHER["Origin"],)), now)) as named:
        assert named.post(path, headers=OTHER).status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_body_that_is_not_sent_as_json_is_refused_with_what_to_send(asking, kind):
    headers = {"Content-Type": kind} if kind else {}
    body = b'{"alerts": [{"symbol": "AAPL", "operator": "above", "value": 1.0}]}'
    told = problem(asking.post("/v1/alerts/bulk", content=body, headers=headers), 415, "bad_content_type")
    assert "application/json" in told["detail"]
    told = problem(asking.post("/v1/alerts", content=body, headers=headers), 422, "bad_body")
    assert told["detail"] == "body: send a JSON object, with Content-Type: application/json"
    assert asking.get("/v1/alerts").json()["count"] == 0


def test_json_with_its_charset_is_json(client):
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    body = json.dumps({"alerts": [CROSSES]})
    answer = client.post("/v1/alerts/bulk", content=body, headers=headers)
    assert answer.status_code == 201
