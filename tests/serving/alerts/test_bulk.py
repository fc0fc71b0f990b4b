"""Many alerts in one call: all of them, or none and which are wrong."""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from fastapi.testclient import TestClient

from fibflow.serving.alerts import desk
from fibflow.serving.alerts.bodies import MOST_BULK, MOST_TOLD
from fibflow.serving.app import create_app
from fibflow.serving.limits import LARGER
from fibflow.tests.serving.alerts.conftest import CROSSES, make, problem
from fibflow.tests.serving.conftest import now

BULK = "/v1/alerts/bulk"
_JSON = {"Content-Type": "application/json"}


def test_as_many_as_may_be_are_made_in_their_order(client):
    alerts = [{**CROSSES, "value": 1.0 + place} for place in range(MOST_BULK)]
    answer = client.post(BULK, json={"alerts": alerts}, headers={"Idempotency-Key": "import"})
    assert answer.status_code == 201, answer.text
    ids = answer.json()["ids"]
    assert answer.json()["count"] == len(set(ids)) == MOST_BULK
    assert client.get(f"/v1/alerts/{ids[17]}").json()["value"] == 18.0
    again = client.post(BULK, json={"alerts": alerts}, headers={"Idempotency-Key": "import"})
    assert again.json() == answer.json()
    # As many once more: the owner may have them.
    assert client.post(BULK, json={"alerts": alerts}).status_code == 201
    problem(client.post(BULK, json={"alerts": alerts}), 403, "too_many")


def test_none_is_made_where_some_are_wrong_and_each_is_named(client):
    wrong = {
        3: ({**CROSSES, "value": -1}, "value"),
        5: ({**CROSSES, "symbol": "NOSUCH"}, "symbol"),
        6: ([1], ""),
        8: ({**CROSSES, "destinations": ["77"]}, "destinations"),
        9: ({"symbol": "AAPL"}, "operator"),
    }
    alerts = [wrong.get(place, (CROSSES, ""))[0] for place in range(12)]
    told = problem(client.post(BULK, json={"alerts": alerts}), 422, "bad_alert")
    assert [(one["index"], one["field"]) for one in told["errors"]] == [
        (place, field) for place, (_, field) in wrong.items()
    ]
    assert all(one["reason"] for one in told["errors"])
    assert (told["field"], told["wrong"]) == ("alerts[3].value", 5)
    assert told["detail"].startswith("none was made. alerts[3].value: ")
    assert client.get("/v1/alerts").json()["count"] == 0


def test_of_very_many_wrong_ones_some_are_named(client):
    told = problem(client.post(BULK, json={"alerts": [{}] * 5_000}), 422, "bad_alert")
    assert (told["wrong"], len(told["errors"])) == (5_000, MOST_TOLD)


def test_prices_at_creation_are_filled_in(client):
    percent = {"symbol": "AAPL", "operator": "percent", "value": 5.0, "reference": "creation_price"}
    alerts = [percent, {**percent, "symbol": "MSFT"}, CROSSES]
    ids = client.post(BULK, json={"alerts": alerts}).json()["ids"]
    found = [client.get(f"/v1/alerts/{one}").json()["reference_price"] for one in ids]
    assert found[0] != found[1]
    assert None not in found[:2]
    assert found[2] is None


def test_prices_of_very_many_symbols_are_not_looked_up(client):
    alerts = [{**CROSSES, "symbol": f"NO{place}"} for place in range(3_000)]
    told = problem(client.post(BULK, json={"alerts": alerts}), 422, "bad_alert")
    assert told["wrong"] == 3_000
    assert Counter("fewer at once" in one["reason"] for one in told["errors"])[False] > 0


def test_a_million_in_one_call_are_refused_before_they_are_read(asking):
    head = dict(_JSON)
    body = json.dumps({"alerts": [CROSSES] * 1_000_000}).encode()
    assert len(body) > LARGER[BULK]
    told = problem(asking.post(BULK, content=body, headers=head), 413)
    assert "bytes" in told["detail"]
    # Also where nothing says beforehand how long it is.
    told = problem(asking.post(BULK, content=iter([body]), headers=head), 413)
    # A million of nothing is short enough to be read.
    short = b'{"alerts":[' + b"0," * 999_999 + b"0]}"
    told = problem(asking.post(BULK, content=short, headers=head), 413, "too_many_at_once")
    assert "10,000" in told["detail"]


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"null", b"[]", b"\xff\xfe\x00", b"[" * 50_000, b'{"alerts": {}}', b'{"alerts": []}'),
        *(b'{"alerts": [NaN]}', b'{"alerts": [{"value": 1e999}]}', b'{"alerts": ["a"], "more": 1}'),
    ],
    ids=range(11),
)
def test_bodies_that_are_none_are_refused(asking, body):
    problem(asking.post(BULK, content=body, headers=_JSON), 422)


def test_a_larger_body_is_for_many_alerts_only(asking):
    body = json.dumps({**CROSSES, "note": "x" * (1 << 20)})
    problem(asking.post("/v1/alerts", content=body, headers=_JSON), 413)


def test_very_many_calls_at_once_are_told_to_wait(asking, monkeypatch):
    monkeypatch.setattr(desk, "_BULKS", 0)
    told = asking.post(BULK, json={"alerts": [CROSSES]})
    problem(told, 429, "too_busy")
    assert told.headers["retry-after"] == "2"


def test_calls_that_come_together_are_all_made(client):
    with ThreadPoolExecutor(8) as pool:
        body = {"alerts": [CROSSES] * 500}
        done = list(pool.map(lambda _: client.post(BULK, json=body).status_code, range(12)))
    assert done == [201] * 12
    assert (
        len({one["id"] for one in client.get("/v1/alerts", params={"limit": "1000"}).json()["alerts"]})
        == 1_000
    )


def test_destinations_are_the_owners(keyed, owners):
    ada, bob = owners.headers("ada"), owners.headers("bob")
    hook = {"kind": "webhook", "target": "https://93.184.215.14/hook"}
    mine = keyed.post("/v1/alert-destinations", json=hook, headers=ada).json()["id"]
    alerts = {"alerts": [{**CROSSES, "destinations": [mine]}]}
    told = problem(keyed.post(BULK, json=alerts, headers=bob), 422, "bad_alert")
    assert told["errors"][0]["field"] == "destinations"
    assert keyed.post(BULK, json=alerts, headers=ada).status_code == 201
    problem(keyed.post("/v1/alerts", json=alerts["alerts"][0], headers=bob), 422, "bad_alert")
    assert make(keyed, ada, destinations=[int(mine)])["destinations"] == [mine]


def test_a_lake_that_is_away_holds_no_alert_up(settings, tmp_path):
    (tmp_path / "empty").mkdir()
    with TestClient(create_app(replace(settings, lake=str(tmp_path / "empty")), now)) as client:
        assert client.post(BULK, json={"alerts": [CROSSES] * 10}).status_code == 201
        percent = {"symbol": "AAPL", "operator": "percent", "value": 5.0, "reference": "creation_price"}
        told = problem(client.post("/v1/alerts", json=percent), 422)
        assert told["field"] == "reference_price"
        assert "no store has a price" in told["detail"]
