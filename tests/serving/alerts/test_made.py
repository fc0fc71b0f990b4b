"""Alerts on bars that no job makes: refused where that is known, else with a warning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from fastapi.testclient import TestClient

from fibflow.io import submissions
from fibflow.io.storage import Storage
from fibflow.serving.alerts import made
from fibflow.serving.app import create_app
from fibflow.tests.io.alerts.bars import CONDITION, beyond
from fibflow.tests.serving.alerts.conftest import CROSSES, make, problem
from fibflow.tests.serving.conftest import now

ASKED = {"symbol": "AAPL", "bars": CONDITION}


@pytest.fixture
def place(tmp_path) -> Storage:
    """Of a lake that has nothing but jobs."""
    return Storage(str(tmp_path / "lake"))


@pytest.fixture
def client(settings, place, monkeypatch) -> Iterator[TestClient]:
    monkeypatch.setattr(made, "KEPT_S", 0.0)
    with TestClient(create_app(replace(settings, lake=place.uri), now)) as asking:
        yield asking


def submit(place: Storage, timeframes: str, at: int = 1) -> None:
    argv = ["--alerts", "postgresql://db/market", "--timeframes", timeframes]
    submissions.submitted(place, "live", argv, "file:///c", f"{at:032x}", at)


def post(client: TestClient, bars: dict) -> dict:
    answer = client.post("/v1/alerts", json={**ASKED, "bars": bars})
    assert answer.status_code == 201, answer.text
    found: dict = answer.json()
    return found


def test_bars_that_are_not_made_are_refused_with_those_that_are(client, place):
    submit(place, "5m,1d")
    told = problem(client.post("/v1/alerts", json=ASKED), 422, "bad_alert")
    assert told["field"] == "bars.all[0].right.timeframe"
    assert told["detail"].endswith("no bars of 13d are made: choose one of 5m, 1d")
    told = problem(client.post("/v1/alerts/bulk", json={"alerts": [CROSSES, ASKED]}), 422, "bad_alert")
    assert told["field"] == "alerts[1].bars.all[0].right.timeframe"
    assert client.get("/v1/alerts").json()["count"] == 0


def test_bars_that_are_made_are_taken_without_a_warning(client, place):
    submit(place, "5m,fibonacci")
    assert post(client, CONDITION)["warning"] is None
    assert make(client)["warning"] is None


def test_a_change_to_bars_that_are_not_made_is_refused_and_another_note_is_not(client, place):
    submit(place, "1d")
    path = f"/v1/alerts/{post(client, beyond(1.0))['id']}"
    told = problem(client.patch(path, json={"bars": beyond(1.0, "1h")}), 422, "bad_alert")
    assert told["field"] == "bars.timeframe"
    submit(place, "5m", at=2)
    changed = client.patch(path, json={"note": "mine"}).json()
    assert changed["warning"] == "it cannot fire: no bars of 1d are made now"
    assert client.get("/v1/alerts").json()["alerts"] == [changed]


def test_where_no_job_is_known_they_are_taken_with_a_warning(client):
    warning = post(client, CONDITION)["warning"]
    assert warning.startswith("whether bars of 5m, 13d are made is not known")
    assert "--alerts" in warning


def test_the_lake_is_not_asked_each_time(settings, place, monkeypatch):
    asked = []
    monkeypatch.setattr(made, "bars_made", lambda found: asked.append(found))
    with TestClient(create_app(replace(settings, lake=place.uri), now)) as client:
        make(client)
        assert asked == []
        for _ in range(3):
            post(client, CONDITION)
        assert asked == [place]
