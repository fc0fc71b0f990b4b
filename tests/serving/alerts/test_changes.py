"""What a change of an alert leaves as it is, what it takes away, and what it must name."""

from __future__ import annotations

from typing import Any

import pytest

from fibflow.tests.serving.alerts.conftest import fire, make, problem

_PERCENT: dict[str, Any] = {
    "operator": "percent_up",
    "value": 5.0,
    "reference": "creation_price",
    "reference_price": 150.0,
}


@pytest.mark.parametrize("given", [{}, {"if_version": 1}])
def test_a_change_of_nothing_is_none(client, url, given):
    made = make(client)
    fire(url, made)
    path = f"/v1/alerts/{made['id']}"
    before = client.get(path).json()
    assert before["state"] == "fired"
    answer = client.patch(path, json=given)
    assert (answer.status_code, answer.json()) == (200, before)
    problem(client.patch(path, json={"if_version": 2}), 409, "conflict")


def test_what_does_not_go_with_another_frequency_is_taken_away(client):
    path = f"/v1/alerts/{make(client, frequency='bar', timeframe='5m')['id']}"
    changed = client.patch(path, json={"frequency": "every_time", "rearm": 2.0}).json()
    assert (changed["frequency"], changed["timeframe"], changed["rearm"]) == ("every_time", None, 2.0)
    changed = client.patch(path, json={"frequency": "daily"}).json()
    assert (changed["frequency"], changed["rearm"], changed["value"]) == ("daily", 0.0, 200.0)
    # What is named is not taken away in silence.
    told = problem(client.patch(path, json={"frequency": "once", "rearm": 1.0}), 422)
    assert told["field"] == "rearm"


def test_a_percentage_becomes_a_price_and_back_with_its_value_only(client):
    path = f"/v1/alerts/{make(client, **_PERCENT)['id']}"
    told = problem(client.patch(path, json={"operator": "above"}), 422)
    assert (told["field"], told["detail"]) == (
        "value",
        "value: it was a percentage, and is to be a price: give it anew",
    )
    changed = client.patch(path, json={"operator": "above", "value": 210.0}).json()
    assert (changed["reference"], changed["reference_price"], changed["levels"]) == (None, None, [210.0])
    back = {"operator": "percent_up", "reference": "previous_close"}
    assert problem(client.patch(path, json=back), 422)["field"] == "value"
    assert client.patch(path, json={**back, "value": 5.0}).json()["reference"] == "previous_close"


def test_another_percentage_keeps_its_reference(client):
    path = f"/v1/alerts/{make(client, **_PERCENT)['id']}"
    changed = client.patch(path, json={"operator": "percent_down"}).json()
    assert (changed["reference_price"], changed["levels"]) == (150.0, [142.5])
