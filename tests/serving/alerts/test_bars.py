"""Alerts on the close of bars over HTTP."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from typing import Any

import jsonschema
import pyarrow as pa
import pytest
from fastapi.testclient import TestClient

from fibflow.io.reference import SPLITS, upsert
from fibflow.serving.alerts.bodies import AlertBody
from fibflow.serving.alerts.conditions import BARS_SCHEMA, EXAMPLE
from fibflow.serving.app import create_app
from fibflow.tests.io.alerts.bars import CONDITION, WORDS, beyond
from fibflow.tests.io.postgresql.databases import execute
from fibflow.tests.serving.alerts.conftest import CROSSES, fire, make, problem
from fibflow.tests.serving.conftest import now, small_lake
from fibflow.transforms.alerts.barcondition import BarCondition

ASKED: dict[str, Any] = {"symbol": "AAPL", "frequency": "daily", "bars": CONDITION}


def post(client: TestClient, **more: Any) -> Any:
    answer = client.post("/v1/alerts", json={**ASKED, **more})
    assert answer.status_code == 201, answer.text
    return answer.json()


def test_one_is_made_shown_listed_and_fires(client, url):
    made = post(client, note="n", cooldown_s=60)
    assert made["bars"] == CONDITION
    assert made["bars_text"] == WORDS
    assert (made["operator"], made["value"], made["levels"], made["frequency"]) == (None, None, [], "daily")
    assert client.get(f"/v1/alerts/{made['id']}").json() == made
    other = make(client)
    assert client.get("/v1/alerts").json()["alerts"] == [made, other]
    assert other["bars"] is None
    fire(url, {**made, "value": 200.0})
    (event,) = client.get(f"/v1/alerts/{made['id']}/events").json()["events"]
    assert (event["operator"], event["note"], event["level"]) == ("bars", "n", 200.0)
    told = client.post(f"/v1/alerts/{made['id']}/test")
    assert told.status_code == 202


def test_a_change_gives_the_whole_condition_and_keeps_the_rest(client):
    made = post(client)
    path = f"/v1/alerts/{made['id']}"
    changed = client.patch(path, json={"bars": beyond(5.0)}).json()
    assert (changed["bars"], changed["frequency"], changed["version"]) == (beyond(5.0), "daily", 2)
    assert client.patch(path, json={"note": "x"}).json()["bars"] == beyond(5.0)
    assert problem(client.patch(path, json={"bars": {"timeframe": "1d"}}), 422)["field"] == "bars"
    assert problem(client.patch(path, json={"value": 3.0}), 422)["field"] == "value"
    assert problem(client.patch(path, json={"frequency": "every_time"}), 422)["field"] == "frequency"
    assert problem(client.patch(path, json={"bars": None}), 422)["field"] == "bars"
    other = f"/v1/alerts/{make(client)['id']}"
    assert problem(client.patch(other, json={"bars": CONDITION}), 422)["field"] == "bars"


def test_many_are_made_or_none(client):
    good = {"alerts": [ASKED, CROSSES, {**ASKED, "bars": beyond(1.0)}]}
    assert client.post("/v1/alerts/bulk", json=good).json()["count"] == 3
    bad = {"alerts": [CROSSES, {**ASKED, "bars": {"timeframe": "1d", "all": []}}]}
    told = problem(client.post("/v1/alerts/bulk", json=bad), 422)
    assert told["field"] == "alerts[1].bars.all"
    assert len(client.get("/v1/alerts").json()["alerts"]) == 3


def deep(levels: int) -> Any:
    found: Any = 1
    for _ in range(levels):
        found = [found]
    return found


@pytest.mark.parametrize(
    ("bars", "field"),
    [
        (3, "bars"),
        ([], "bars"),
        ({}, "bars"),
        (deep(300), "bars"),
        ({"timeframe": "1d", "all": [deep(4)]}, "bars.all[0]"),
        ({"timeframe": "1d", "all": [{"left": {"field": "close"}}]}, "bars.all[0].operator"),
        (beyond(1.0, "9x"), "bars.timeframe"),
        (beyond(1.0, operator="is"), "bars.all[0].operator"),
        (beyond(10**400), "bars.all[0].right.value"),
        ({**beyond(1.0), "a\nb": 1}, "bars.'a\\nb'"),
        ({**beyond(1.0), "\ud800": 1}, "bars.'\\ud800'"),
        ({**beyond(1.0), "x" * 5_000: 1}, "bars." + "x" * 64),
    ],
    ids=range(12),
)
def test_what_is_wrong_is_told_with_its_place(asking, bars, field):
    body, headers = json.dumps({**ASKED, "bars": bars}), {"Content-Type": "application/json"}
    for more in ({}, {"Idempotency-Key": "k"}):
        told = problem(asking.post("/v1/alerts", content=body, headers=headers | more), 422)
        assert told["field"] == field
    assert len(told["detail"]) < 500


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"operator": "above"}, "operator"),
        ({"value": 1.0}, "value"),
        ({"hours": "extended"}, "hours"),
        ({"timeframe": "5m"}, "timeframe"),
        ({"bars": None}, "operator"),
        ({"symbol": "NOBODY"}, "symbol"),
    ],
)
def test_what_does_not_go_with_bars_is_refused(asking, more, field):
    assert problem(asking.post("/v1/alerts", json={**ASKED, **more}), 422)["field"] == field


def test_a_condition_given_anew_is_of_todays_shares(settings, url, tmp_path):
    lake = small_lake(tmp_path / "lake")
    split = {"symbol": ["AAPL"], "execution_date": [date(2024, 1, 24)], "split_from": [1.0]}
    upsert(lake.table(SPLITS), pa.table({**split, "split_to": [4.0], "id": ["four"]}), "test")
    with TestClient(create_app(replace(settings, lake=lake.uri), now)) as client:
        made = post(client, bars=beyond(200.0))
        execute(url, f"UPDATE alerts SET basis = '2024-01-23' WHERE id = {made['id']}")
        path = f"/v1/alerts/{made['id']}"
        assert client.patch(path, json={"note": "mine"}).json()["basis"] == "2024-01-23"
        changed = client.patch(path, json={"bars": beyond(200.0)}).json()
        assert (changed["basis"], changed["bars"]) == ("2024-01-24", beyond(200.0))


def test_the_document_tells_the_whole_condition(asking):
    schemas = asking.get("/openapi.json").json()["components"]["schemas"]
    for name in ("AlertBody", "AlertChange", "AlertDocument"):
        told = schemas[name]["properties"]["bars"]
        assert told["anyOf"] == BARS_SCHEMA["anyOf"], name
    AlertBody.model_validate(EXAMPLE).definition().check()
    assert EXAMPLE in schemas["AlertBody"]["examples"]
    for good in (CONDITION, EXAMPLE["bars"], beyond(1.0), None):
        jsonschema.validate(good, BARS_SCHEMA)
    jsonschema.validate(BarCondition.from_json(CONDITION).as_json(), BARS_SCHEMA)
    for bad in ({"timeframe": "1d"}, {**beyond(1.0), "x": 1}, beyond(1.0, "9x"), beyond(1.0, operator="is")):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, BARS_SCHEMA)
