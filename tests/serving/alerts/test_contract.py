"""Each operation of alerts, asked right, answers as its document says."""

from __future__ import annotations

from typing import Any

import pytest
import requests
import schemathesis

from fibflow.serving.alerts.conditions import EXAMPLE
from fibflow.serving.app import create_app
from fibflow.serving.settings import Settings
from fibflow.tests.serving.alerts.conftest import CROSSES, fire
from fibflow.tests.serving.conftest import now
from fibflow.tests.serving.servers import running
from fibflow.tests.serving.test_contract import CHECKED, LABELS

HOOK = {"kind": "webhook", "target": "https://93.184.215.14/hook"}
A, D = "/v1/alerts/{alert}", "/v1/alert-destinations/{destination}"
#: In an order in which there is always what the next one needs: the operation, its body, the status.
ASKED = (
    ("POST /v1/alert-destinations", HOOK, 201),
    ("GET /v1/alert-destinations", None, 200),
    (f"GET {D}", None, 200),
    (f"PATCH {D}", {"enabled": False}, 200),
    (f"POST {D}/enable", None, 200),
    (f"POST {D}/test", None, 202),
    ("POST /v1/alerts", {**CROSSES, "destinations": ["1"], "expires": "2030-01-01T00:00:00Z"}, 201),
    ("POST /v1/alerts/bulk", {"alerts": [*[CROSSES] * 3, EXAMPLE]}, 201),
    ("POST /v1/alerts", EXAMPLE, 201),
    ("GET /v1/alerts", None, 200),
    (f"GET {A}", None, 200),
    (f"PATCH {A}", {"value": 205.0}, 200),
    (f"POST {A}/pause", None, 200),
    (f"POST {A}/resume", None, 200),
    (f"POST {A}/test", None, 202),
    ("fire", None, 0),
    (f"POST {A}/pause", None, 409),
    (f"GET {A}", None, 200),
    (f"GET {A}/events", None, 200),
    ("GET /v1/alert-events", None, 200),
    (f"GET {A}/deliveries", None, 200),
    (f"POST {A}/rearm", None, 200),
    (f"DELETE {A}", None, 204),
    (f"DELETE {A}", None, 404),
    (f"DELETE {D}", None, 204),
)


def test_every_operation_is_asked():
    assert {label for label, _, _ in ASKED} - {"fire"} == {label for label in LABELS if "/v1/alert" in label}


def test_each_answers_as_documented(app, url):
    with running(app) as served, requests.Session() as session:
        schema = schemathesis.openapi.from_url(f"{served}/openapi.json")
        for label, body, status in ASKED:
            if label == "fire":
                fire(url, {"id": "1", "version": 4, "symbol": "AAPL", "value": 205.0})
                continue
            operation = schema.find_operation_by_label(label)
            assert operation is not None
            places = {name: "1" for name in ("alert", "destination") if "{" + name + "}" in label}
            given: dict[str, Any] = {"path_parameters": places}
            if body is not None:
                given |= {"body": body, "media_type": "application/json"}
            case = operation.Case(**given)
            answer = case.call(session=session)
            assert answer.status_code == status, f"{label}: {answer.text[:300]}"
            case.validate_response(answer, checks=CHECKED)


@pytest.mark.parametrize("label", sorted({label for label, body, _ in ASKED if body is not None}))
def test_every_body_has_an_example(label):
    method, path = label.split()
    document = create_app(Settings(".", open_access=True), now).openapi()
    schema = document["paths"][path][method.lower()]["requestBody"]["content"]["application/json"]["schema"]
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    assert schema["examples"]
