"""Splits between an alert's day and today: what its prices are now, and what a change makes of the others."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pyarrow as pa
import pytest
from fastapi.testclient import TestClient

from fibflow.io.reference import SPLITS, upsert
from fibflow.serving.app import create_app
from fibflow.tests.io.postgresql.databases import execute
from fibflow.tests.serving.alerts.conftest import make, problem
from fibflow.tests.serving.conftest import now, small_lake

#: Four shares for one on the day, and one that is to come.
_SPLITS = {
    "symbol": ["AAPL", "AAPL"],
    "execution_date": [date(2024, 1, 24), date(2024, 2, 1)],
    "split_from": [1.0, 1.0],
    "split_to": [4.0, 2.0],
    "id": ["four", "two"],
}


@pytest.fixture
def client(settings, tmp_path):
    lake = small_lake(tmp_path / "lake")
    upsert(lake.table(SPLITS), pa.table(_SPLITS), "test")
    with TestClient(create_app(replace(settings, lake=lake.uri), now)) as asking:
        yield asking


def aged(url: str, alert: dict) -> str:
    """Let an alert be of the shares of before the split, and return its path."""
    execute(url, f"UPDATE alerts SET basis = '2024-01-23' WHERE id = {alert['id']}")
    return f"/v1/alerts/{alert['id']}"


def test_levels_are_in_todays_shares(client, url):
    today = make(client, value=200.0)
    assert today["levels"] == [200.0]
    told = client.get(aged(url, today)).json()
    assert (told["value"], told["basis"], told["levels"]) == (200.0, "2024-01-23", [50.0])
    percent = make(
        client, operator="percent_up", value=10.0, reference="creation_price", reference_price=100.0
    )
    assert client.get(aged(url, percent)).json()["levels"] == [pytest.approx(27.5)]


def test_a_change_of_one_price_takes_the_others_along(client, url):
    path = aged(url, make(client, value=200.0, frequency="every_time", rearm=8.0))
    changed = client.patch(path, json={"value": 60.0}).json()
    assert (changed["value"], changed["rearm"], changed["basis"]) == (60.0, 2.0, "2024-01-24")
    assert changed["levels"] == [60.0]


def test_a_change_of_no_price_leaves_them(client, url):
    path = aged(url, make(client, value=200.0))
    changed = client.patch(path, json={"note": "mine"}).json()
    assert (changed["value"], changed["basis"], changed["levels"]) == (200.0, "2024-01-23", [50.0])


def test_the_same_price_given_anew_is_of_today(client, url):
    path = aged(url, make(client, value=200.0))
    changed = client.patch(path, json={"value": 200.0}).json()
    assert (changed["value"], changed["basis"], changed["levels"]) == (200.0, "2024-01-24", [200.0])


def test_a_percentage_is_of_no_shares(client, url):
    made = make(client, operator="percent_up", value=10.0, reference="creation_price", reference_price=100.0)
    changed = client.patch(aged(url, made), json={"value": 20.0}).json()
    assert (changed["value"], changed["reference_price"]) == (20.0, 25.0)
    assert changed["levels"] == [pytest.approx(30.0)]


def test_what_a_change_makes_impossible_is_refused(client, url):
    path = aged(url, make(client, value=200.0))
    told = problem(client.patch(path, json={"operator": "percent_up"}), 422)
    assert told["field"] == "reference"
