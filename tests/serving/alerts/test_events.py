"""What has fired, where it went, and tests of it."""

from __future__ import annotations

import pytest

from fibflow.tests.io.postgresql.databases import execute
from fibflow.tests.serving.alerts.conftest import fire, make, problem

HOOK = {"kind": "webhook", "target": "https://93.184.215.14/hook"}
SNS = {"kind": "sns", "target": "arn:aws:sns:us-east-1:123456789012:alerts"}
WHERE = "/v1/alert-destinations"


def test_what_fired_is_told_newest_first_and_goes_on(client, url):
    made = [make(client, frequency="every_time", note=f"n{place}") for place in range(2)]
    for generation in range(3):
        fire(url, *made, generation=f"{generation}")
    page = client.get("/v1/alert-events", params={"limit": "4"}).json()
    assert (page["count"], len(page["events"])) == (4, 4)
    newest = page["events"][0]
    assert newest == {
        **{
            "id": f"{made[1]['id']}-1-2",
            "position": newest["position"],
            "alert": made[1]["id"],
            "version": 1,
        },
        **{"symbol": "AAPL", "ts": "2024-01-24T18:00:00.000001Z", "price": 201.5, "previous": 199.0},
        **{"level": 200.0, "operator": "crosses_up", "note": "n1", "test": False},
        "created": newest["created"],
    }
    rest = client.get("/v1/alert-events", params={"limit": "4", "cursor": page["next_cursor"]}).json()
    places = [one["position"] for one in [*page["events"], *rest["events"]]]
    assert places == sorted(places, reverse=True)
    assert len(places) == 6
    assert "next_cursor" not in rest
    of_one = client.get(f"/v1/alerts/{made[0]['id']}/events").json()
    assert [one["alert"] for one in of_one["events"]] == [made[0]["id"]] * 3
    other = client.get(f"/v1/alerts/{made[0]['id']}/events", params={"cursor": page["next_cursor"]})
    problem(other, 400, "bad_cursor")


def test_who_was_away_catches_up_behind_what_it_knows(client, url):
    made = make(client, frequency="every_time")
    known, found = 0, []
    for generation in range(5):
        fire(url, made, generation=f"{generation}")
        if generation % 2:
            while (page := client.get("/v1/alert-events", params={"after": known, "limit": 1}).json())[
                "count"
            ]:
                found += [one["id"] for one in page["events"]]
                known = page["next_after"]
    page = client.get("/v1/alert-events", params={"after": known}).json()
    found += [one["id"] for one in page["events"]]
    assert found == [f"{made['id']}-1-{generation}" for generation in range(5)]
    page = client.get("/v1/alert-events", params={"after": page["next_after"]}).json()
    assert (page["events"], page["next_after"]) == ([], page["next_after"])


@pytest.mark.parametrize("after", ["x", "-1", "1.5", "9" * 30, str(2**63)])
def test_a_place_that_is_none_is_refused(client, after):
    problem(client.get("/v1/alert-events", params={"after": after}), 400, "bad_after")


def test_after_and_cursor_do_not_go_together(client):
    problem(client.get("/v1/alert-events", params={"after": "1", "cursor": "x"}), 400, "bad_cursor")


def test_events_are_the_owners(keyed, owners, url):
    ada, bob = owners.headers("ada"), owners.headers("bob")
    mine, his = make(keyed, ada), make(keyed, bob)
    fire(url, mine, his)
    for headers, alert in ((ada, mine), (bob, his)):
        told = keyed.get("/v1/alert-events", headers=headers).json()["events"]
        assert [one["alert"] for one in told] == [alert["id"]]
        told = keyed.get("/v1/alert-events", headers=headers, params={"after": "0"}).json()["events"]
        assert [one["alert"] for one in told] == [alert["id"]]


def test_a_destination_shows_its_secret_once(client):
    answer = client.post(WHERE, json=HOOK)
    made = answer.json()
    assert answer.status_code == 201
    assert answer.headers["location"] == f"{WHERE}/{made['id']}"
    secret = made.pop("secret")
    assert secret.startswith("whsec_")
    assert len(secret) > 40
    assert client.get(f"{WHERE}/{made['id']}").json() == made
    assert client.get(WHERE).json() == {"count": 1, "destinations": [made]}
    changed = client.patch(f"{WHERE}/{made['id']}", json={"new_secret": True}).json()
    assert changed["secret"].startswith("whsec_")
    assert changed["secret"] != secret
    assert client.patch(f"{WHERE}/{made['id']}", json={"enabled": True}).json()["secret"] is None


def test_topics_have_no_secret(client):
    made = client.post(WHERE, json=SNS).json()
    assert (made["kind"], made["secret"]) == ("sns", None)
    told = problem(client.patch(f"{WHERE}/{made['id']}", json={"new_secret": True}), 422)
    assert told["field"] == "new_secret"


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        ("webhook", "http://example.com/x"),
        ("webhook", "https://127.0.0.1/x"),
        ("webhook", "https://169.254.169.254/latest/meta-data"),
        ("webhook", "https://[::1]/x"),
        ("webhook", "https://0x7f.1/x"),
        ("webhook", "https://localhost/x"),
        ("webhook", "https://metadata.google.internal/x"),
        ("webhook", "https://user:hunter2@example.com/x"),
        ("webhook", "ftp://example.com/x"),
        ("webhook", "arn:aws:sns:us-east-1:123456789012:alerts"),
        ("webhook", ""),
        ("webhook", "https://exa mple.com"),
        ("webhook", "https://example.com/\0"),
        ("sns", "https://93.184.215.14/hook"),
        ("sns", "arn:aws:sqs:us-east-1:123456789012:alerts"),
        ("sns", "arn:aws:sns:us-east-1:12345:alerts"),
        ("sns", "arn:aws:sns:us-east-1:123456789012:"),
        ("mail", "ada@example.com"),
    ],
)
def test_targets_that_may_not_be_are_refused_with_the_reason(asking, kind, target):
    answer = asking.post(WHERE, json={"kind": kind, "target": target})
    told = problem(answer, 422)
    assert told["field"] == ("kind" if kind == "mail" else "target")
    assert "hunter2" not in answer.text
    assert asking.get(WHERE).json()["count"] == 0


def test_a_change_of_target_is_checked_too(client):
    made = client.post(WHERE, json=HOOK).json()
    problem(client.patch(f"{WHERE}/{made['id']}", json={"target": "https://10.0.0.1/"}), 422)
    problem(client.patch(f"{WHERE}/{made['id']}", json={"target": SNS["target"]}), 422)
    other = "https://93.184.215.15/hook"
    assert client.patch(f"{WHERE}/{made['id']}", json={"target": other}).json()["target"] == other


def test_a_destination_is_disabled_enabled_and_removed(client, url):
    made = client.post(WHERE, json=HOOK).json()
    path = f"{WHERE}/{made['id']}"
    off = client.patch(path, json={"enabled": False}).json()
    assert off["disabled"] is not None
    assert off["reason"]
    on = client.post(f"{path}/enable").json()
    assert (on["disabled"], on["reason"]) == (None, None)
    alert = make(client, destinations=[made["id"]])
    assert client.delete(path).status_code == 204
    problem(client.get(path), 404, "not_found")
    assert client.get(f"/v1/alerts/{alert['id']}").json()["destinations"] == []


def test_destinations_are_the_owners(keyed, owners):
    ada, bob = owners.headers("ada"), owners.headers("bob")
    made = keyed.post(WHERE, json=HOOK, headers=ada).json()
    path = f"{WHERE}/{made['id']}"
    assert keyed.get(WHERE, headers=bob).json()["destinations"] == []
    for method, where, body in (
        ("GET", path, None),
        ("PATCH", path, {"enabled": False}),
        ("DELETE", path, None),
        ("POST", f"{path}/enable", None),
        ("POST", f"{path}/test", None),
    ):
        problem(keyed.request(method, where, json=body, headers=bob), 404, "not_found")
    assert keyed.get(path, headers=ada).json()["disabled"] is None


def test_a_test_of_an_alert_goes_where_its_events_go(client):
    where = [client.post(WHERE, json=one).json()["id"] for one in (HOOK, SNS)]
    alert = make(client, destinations=where, note="mine")
    answer = client.post(f"/v1/alerts/{alert['id']}/test")
    assert answer.status_code == 202
    event = answer.json()
    assert (event["test"], event["alert"], event["note"]) == (True, alert["id"], "mine")
    told = client.get(f"/v1/alerts/{alert['id']}/deliveries").json()["deliveries"]
    assert {(one["event"], one["destination"], one["state"]) for one in told} == {
        (event["id"], one, "pending") for one in where
    }
    assert client.get(f"/v1/alerts/{alert['id']}").json()["firings"] == 0
    assert client.get("/v1/alert-events").json()["events"][0]["id"] == event["id"]


def test_a_test_of_a_destination_is_of_no_alert(client):
    made = client.post(WHERE, json=HOOK).json()
    event = client.post(f"{WHERE}/{made['id']}/test").json()
    assert (event["test"], event["alert"]) == (True, None)


def test_deliveries_are_told_with_their_tries(client, url):
    where = client.post(WHERE, json=HOOK).json()["id"]
    alert = make(client, destinations=[where])
    fire(url, alert)
    (waiting,) = client.get(f"/v1/alerts/{alert['id']}/deliveries").json()["deliveries"]
    assert (waiting["state"], waiting["attempts"], waiting["tries"]) == ("pending", 0, [])
    execute(
        url,
        f"INSERT INTO alert_tries (delivery, at, status, error, took_ms) VALUES "
        f"({waiting['id']}, '2024-01-24T18:00:01Z', 500, 'the server answered 500', 12)",
        f"UPDATE alert_deliveries SET attempts = 1, last_error = 'the server answered 500' "
        f"WHERE id = {waiting['id']}",
    )
    (told,) = client.get(f"/v1/alerts/{alert['id']}/deliveries").json()["deliveries"]
    assert told["tries"] == [
        {"at": "2024-01-24T18:00:01Z", "status": 500, "error": "the server answered 500", "took_ms": 12}
    ]
    assert (told["attempts"], told["last_error"]) == (1, "the server answered 500")


def test_deliveries_go_on_behind_a_cursor(client, url):
    where = [client.post(WHERE, json=one).json()["id"] for one in (HOOK, SNS)]
    alert = make(client, frequency="every_time", destinations=where)
    for generation in range(3):
        fire(url, alert, generation=f"{generation}")
    path = f"/v1/alerts/{alert['id']}/deliveries"
    every = client.get(path).json()
    assert (every["count"], "next_cursor" in every) == (6, False)
    found, asked = [], {"limit": "2"}
    while True:
        page = client.get(path, params=asked).json()
        found += page["deliveries"]
        if "next_cursor" not in page:
            break
        asked["cursor"] = page["next_cursor"]
    assert found == every["deliveries"]
    other = make(client)
    problem(client.get(f"/v1/alerts/{other['id']}/deliveries", params=asked), 400, "bad_cursor")
