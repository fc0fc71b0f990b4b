"""Alerts over HTTP: made, read, changed, paused, armed again, deleted; each owner's own."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from fastapi.testclient import TestClient

from fibflow.serving.alerts import desk
from fibflow.serving.app import create_app
from fibflow.tests.serving.alerts.conftest import CROSSES, Document, fire, make, problem
from fibflow.tests.serving.conftest import now

LAST = "/v1/prices/AAPL"


def test_an_alert_is_made_read_and_listed(client):
    answer = client.post("/v1/alerts", json={**CROSSES, "note": "take profit", "hours": "extended"})
    assert answer.status_code == 201
    made = answer.json()
    assert answer.headers["location"] == f"/v1/alerts/{made['id']}"
    assert answer.headers["cache-control"] == "no-store"
    assert made == {
        "id": made["id"],
        "version": 1,
        "state": "active",
        **{"symbol": "AAPL", "operator": "crosses_up", "value": 200.0, "hours": "extended"},
        **{"reference": None, "reference_price": None, "frequency": "once", "timeframe": None},
        **{"cooldown_s": 0, "rearm": 0.0, "expires": None, "active_from": None},
        **{"note": "take profit", "destinations": [], "basis": "2024-01-24", "levels": [200.0]},
        **{"bars": None, "bars_text": None, "warning": None},
        **{"since": "2024-01-24T18:00:02Z", "fired": None, "firings": 0},
        **{"created": "2024-01-24T18:00:00Z", "updated": "2024-01-24T18:00:00Z"},
    }
    assert client.get(answer.headers["location"]).json() == made
    assert client.get("/v1/alerts").json() == {"count": 1, "alerts": [made]}


def test_the_list_is_filtered_and_goes_on_behind_a_cursor(client):
    made = [make(client, symbol=symbol) for symbol in ("AAPL", "MSFT", "AAPL", "AAPL")]
    client.post(f"/v1/alerts/{made[2]['id']}/pause")

    def ids(**asked):
        found, cursor = [], None
        while True:
            page = client.get("/v1/alerts", params={**asked, **({"cursor": cursor} if cursor else {})}).json()
            found += [one["id"] for one in page["alerts"]]
            assert page["count"] == len(page["alerts"]) <= int(asked.get("limit", 100))
            cursor = page.get("next_cursor")
            if cursor is None:
                return found

    every = [one["id"] for one in made]
    assert ids() == every
    assert ids(limit="1") == every
    assert ids(symbol="AAPL", limit="2") == [every[0], every[2], every[3]]
    assert ids(symbol="AAPL", state="active") == [every[0], every[3]]
    assert ids(state="paused") == [every[2]]
    assert ids(symbol="NONE") == []
    page = client.get("/v1/alerts", params={"limit": "2"}).json()
    other = client.get("/v1/alerts", params={"cursor": page["next_cursor"], "symbol": "AAPL"})
    problem(other, 400, "bad_cursor")
    problem(client.get("/v1/alerts", params={"state": "asleep"}), 400, "bad_state")


def test_a_change_is_a_new_version_and_keeps_what_is_not_named(client):
    made = make(client, note="first", cooldown_s=60)
    answer = client.patch(f"/v1/alerts/{made['id']}", json={"value": 210.5, "note": ""})
    assert answer.status_code == 200
    changed = answer.json()
    assert (changed["version"], changed["value"], changed["note"], changed["cooldown_s"]) == (
        2,
        210.5,
        "",
        60,
    )
    assert changed["since"] == "2024-01-24T18:00:02Z" or changed["since"] > made["since"]
    problem(client.patch(f"/v1/alerts/{made['id']}", json={"value": 1, "if_version": 1}), 409, "conflict")
    again = client.patch(f"/v1/alerts/{made['id']}", json={"value": 220.0, "if_version": 2})
    assert again.json()["version"] == 3
    told = problem(client.patch(f"/v1/alerts/{made['id']}", json={"frequency": "bar"}), 422)
    assert told["field"] == "timeframe"
    assert client.get(f"/v1/alerts/{made['id']}").json() == again.json()


def test_an_alert_keeps_its_symbol(client):
    path = f"/v1/alerts/{make(client)['id']}"
    told = problem(client.patch(path, json={"symbol": "MSFT"}), 422, "bad_alert")
    assert told["field"] == "symbol"
    assert client.patch(path, json={"symbol": "AAPL", "note": "mine"}).json()["note"] == "mine"


def test_pause_resume_rearm_and_delete(client, url):
    made = make(client)
    path = f"/v1/alerts/{made['id']}"
    assert client.post(f"{path}/pause").json()["state"] == "paused"
    assert client.post(f"{path}/pause").json()["state"] == "paused"
    problem(client.post(f"{path}/rearm"), 409, "conflict")
    resumed = client.post(f"{path}/resume").json()
    assert resumed["state"] == "active"
    fire(url, resumed)
    fired = client.get(path).json()
    assert (fired["state"], fired["firings"], fired["fired"]) == ("fired", 1, "2024-01-24T18:00:00Z")
    problem(client.post(f"{path}/pause"), 409, "conflict")
    armed = client.post(f"{path}/rearm").json()
    assert (armed["state"], armed["version"], armed["firings"]) == ("active", resumed["version"] + 1, 1)
    assert client.delete(path).status_code == 204
    problem(client.get(path), 404, "not_found")
    problem(client.delete(path), 404, "not_found")
    assert client.get("/v1/alerts").json()["alerts"] == []
    assert client.get(f"{path}/events").json()["count"] == 1


def test_the_price_at_creation_is_filled_in(client):
    percent: Document = {"operator": "percent_up", "value": 5.0, "reference": "creation_price"}
    made = make(client, **percent)
    assert made["reference_price"] == client.get(LAST).json()["price"]
    assert made["levels"] == [pytest.approx(made["reference_price"] * 1.05)]
    told = problem(client.post("/v1/alerts", json={**CROSSES, **percent, "reference_price": -1}), 422)
    assert told["field"] == "reference_price"
    assert make(client, **percent, reference_price=150.0)["levels"] == [157.5]
    # Another value keeps it; who wants the one of now says so.
    path = f"/v1/alerts/{made['id']}"
    assert client.patch(path, json={"value": 6.0}).json()["reference_price"] == made["reference_price"]
    assert client.patch(path, json={"reference_price": 5.0}).json()["levels"] == [pytest.approx(5.3)]
    anew = client.patch(path, json={"reference_price": None}).json()
    assert anew["reference_price"] == made["reference_price"]
    close = client.patch(path, json={"reference": "previous_close"}).json()
    assert (close["reference_price"], close["levels"]) == (None, [])
    both = make(client, operator="percent", value=10.0, reference="creation_price", reference_price=100.0)
    # To the bit: what the job holds prices against.
    assert both["levels"] == [110.0, 90.0]
    assert make(client, operator="percent_up", value=3.0, reference="previous_close")["levels"] == []
    assert make(client, **{**percent, "value": 1e308}, reference_price=1e5)["levels"] == []


def test_a_symbol_that_nobody_knows_is_refused_with_the_reason(client):
    told = problem(client.post("/v1/alerts", json={**CROSSES, "symbol": "NOSUCH"}), 422, "bad_alert")
    assert told["field"] == "symbol"
    assert "/v1/symbols" in told["detail"]


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"operator": "equals"}, "operator"),
        ({"value": 0}, "value"),
        ({"value": -5.0}, "value"),
        ({"value": "200"}, "value"),
        ({"value": True}, "value"),
        ({"value": None}, "value"),
        ({"symbol": ""}, "symbol"),
        ({"symbol": "A B"}, "symbol"),
        ({"symbol": "A" * 65}, "symbol"),
        ({"symbol": "\ud800"}, "symbol"),
        ({"note": "x" * 129}, "note"),
        ({"note": "a\0b"}, "note"),
        ({"hours": "always"}, "hours"),
        ({"frequency": "often"}, "frequency"),
        ({"frequency": "bar"}, "timeframe"),
        ({"frequency": "bar", "timeframe": "13d"}, "timeframe"),
        ({"frequency": "bar", "timeframe": "7x"}, "timeframe"),
        ({"timeframe": "5m"}, "timeframe"),
        ({"rearm": 1.0}, "rearm"),
        ({"rearm": -1.0, "frequency": "every_time"}, "rearm"),
        ({"cooldown_s": -1}, "cooldown_s"),
        ({"cooldown_s": 10**30}, "cooldown_s"),
        ({"cooldown_s": 1.5}, "cooldown_s"),
        ({"expires": "2024-01-24T17:59:59Z"}, "expires"),
        ({"expires": "tomorrow"}, "expires"),
        ({"expires": 1_800_000_000}, "expires"),
        ({"expires": "2025-01-01T00:00:00"}, "expires"),
        ({"expires": "9999-12-31T23:59:59-12:00"}, "expires"),
        ({"active_from": "2025-01-02T00:00:00Z", "expires": "2025-01-01T00:00:00Z"}, "expires"),
        ({"operator": "percent_up"}, "reference"),
        ({"operator": "percent_down", "value": 100.0, "reference": "previous_close"}, "value"),
        ({"reference": "previous_close"}, "reference"),
        ({"destinations": ["1"]}, "destinations"),
        ({"destinations": ["9" * 19]}, "destinations"),
        ({"destinations": ["x"]}, "destinations.0"),
        ({"destinations": ["1"] * 11}, "destinations"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_what_cannot_be_is_refused_with_its_field(asking, given, field):
    body = {**CROSSES, **given}
    # By hand: half a character is no JSON of the client's own.
    answer = asking.post("/v1/alerts", content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert problem(answer, 422)["field"] == field
    assert asking.get("/v1/alerts").json()["count"] == 0


@pytest.mark.parametrize("number", ["Infinity", "NaN", "1e999", "9" * 400])
def test_numbers_that_are_none_are_refused(asking, number):
    text = '{"symbol": "AAPL", "operator": "above", "value": ' + number + "}"
    answer = asking.post("/v1/alerts", content=text, headers={"Content-Type": "application/json"})
    assert problem(answer, 422)["field"] == "value"


# Whose ----------------------------------------------------------------------------------------------------


def test_alerts_are_the_owners_whichever_key_made_them(keyed, owners):
    ada, ada2, bob = (owners.headers(name) for name in ("ada", "ada2", "bob"))
    made = make(keyed, ada)
    path = f"/v1/alerts/{made['id']}"
    assert keyed.get(path, headers=ada2).json() == made
    assert keyed.get("/v1/alerts", headers=bob).json()["alerts"] == []
    for method, where, body in (
        ("GET", path, None),
        ("PATCH", path, {"value": 1.0}),
        ("DELETE", path, None),
        *(("POST", f"{path}/{what}", None) for what in ("pause", "resume", "rearm", "test")),
        *(("GET", f"{path}/{what}", None) for what in ("events", "deliveries")),
    ):
        strange = keyed.request(method, where, json=body, headers=bob)
        none = keyed.request(method, where.replace(made["id"], "999999"), json=body, headers=bob)
        assert (strange.status_code, none.status_code) in ((404, 404), (200, 200)), where
        if strange.status_code == 200:
            assert strange.json()["count"] == 0
    assert keyed.get(path, headers=ada).json() == made


def test_a_key_without_the_scope_is_told_so(keyed, owners):
    for method, path in (("GET", "/v1/alerts"), ("POST", "/v1/alerts"), ("GET", "/v1/alert-destinations")):
        told = problem(keyed.request(method, path, headers=owners.headers("lacks")), 403, "missing_scope")
        assert "alerts" in told["detail"]


def test_an_owner_may_have_so_many(settings):
    with TestClient(create_app(replace(settings, most_alerts=2), now)) as client:
        first = make(client)
        make(client)
        problem(client.post("/v1/alerts", json=CROSSES), 403, "too_many")
        client.delete(f"/v1/alerts/{first['id']}")
        make(client)
        problem(client.post("/v1/alerts/bulk", json={"alerts": [CROSSES]}), 403, "too_many")


@pytest.mark.parametrize("number", ["0", "-1", "x", "9" * 30, str(2**63), "1.0", "٣", "%00", "' OR 1=1"])
def test_ids_that_are_none_are_not_found(asking, number):
    answer = asking.get(f"/v1/alerts/{number}")
    assert answer.status_code in (400, 404)
    answer = asking.get(f"/v1/alert-destinations/{number}")
    assert answer.status_code in (400, 404)


def test_many_at_once_are_all_made_and_changed_one_after_the_other(client):
    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(lambda place: make(client, value=100.0 + place), range(64)))
        path = f"/v1/alerts/{made[0]['id']}"
        done = list(pool.map(lambda place: client.patch(path, json={"value": 1.0 + place}), range(16)))
    assert len({one["id"] for one in made}) == 64
    right = [answer for answer in done if answer.status_code == 200]
    assert {answer.status_code for answer in done} <= {200, 409}
    assert client.get(path).json()["version"] == 1 + len(right) > 1


# No PostgreSQL --------------------------------------------------------------------------------------------


def test_without_postgresql_it_says_how_to_start(open_settings):
    with TestClient(create_app(open_settings, now)) as client:
        for method, path, body in (
            ("GET", "/v1/alerts", None),
            ("POST", "/v1/alerts", CROSSES),
            ("POST", "/v1/alerts/bulk", {"alerts": [CROSSES]}),
            ("GET", "/v1/alert-events", None),
            ("GET", "/v1/alert-destinations", None),
        ):
            told = problem(client.request(method, path, json=body), 503, "no_alert_store")
            assert "--postgres" in told["detail"]
        assert "alerts" not in client.get("/readyz").json()["stores"]


def test_a_database_that_is_not_migrated_is_told_and_all_else_goes_on(open_settings, postgresql):
    settings = replace(open_settings, postgres=postgresql.make())
    with TestClient(create_app(settings, now)) as client:
        problem(client.get("/v1/alerts"), 503, "alerts_unavailable")
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["stores"]["alerts"]) == (200, "down")
        assert client.get(LAST).status_code == 200


def test_where_too_many_wait_others_are_told_to_come_again(asking, monkeypatch):
    monkeypatch.setattr(desk, "_WAITING", 0)
    problem(asking.get("/v1/alerts"), 503, "alerts_unavailable")


def test_a_database_that_answers_is_up(client):
    assert client.get("/readyz").json() == {
        "status": "ok",
        "stores": {"lake": "up", "postgres": "up", "alerts": "up"},
    }
