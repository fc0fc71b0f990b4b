"""A webhook gets a signed POST, and what it answers says what became of it."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from pathlib import Path
from typing import Any

import pytest

from fibflow.io.alerts.claims import End
from fibflow.tests.io.notify.hooks import Answer
from fibflow.tests.io.notify.sending import AT, EVENT, send


def test_a_delivery_is_json_with_its_id_and_a_signature_that_can_be_checked(plain, webhooks):
    outcome = webhooks.send(plain.url("/hook?key=1"), "hush", EVENT)
    assert (outcome.end, outcome.error, outcome.status, outcome.wait) == (End.DELIVERED, None, 200, None)
    (request,) = plain.requests
    assert request.path == "/hook?key=1"
    assert json.loads(request.body) == {
        "id": "7-1-0",
        "alert": "7",
        "version": 1,
        "symbol": "BRK.B",
        "price": 361.5,
        "level": None,
        "operator": "crosses_up",
        "note": "résumé ✓",
        "ts": "2024-01-02T17:00:00.250000Z",
        "test": False,
    }
    headers = request.headers
    assert headers["Host"] == f"127.0.0.1:{plain.port}"
    assert headers["Content-Type"] == "application/json"
    assert headers["Fibflow-Event-Id"] == "7-1-0"
    assert headers["Fibflow-Timestamp"] == "1704214800"
    signed = hmac.new(b"hush", b"1704214800." + request.body, hashlib.sha256).hexdigest()
    assert headers["Fibflow-Signature"] == f"v1={signed}"
    send(webhooks, plain.url())
    assert "Fibflow-Signature" not in plain.requests[1].headers


@pytest.mark.parametrize(
    ("status", "end", "error"),
    [
        (200, End.DELIVERED, None),
        (204, End.DELIVERED, None),
        (299, End.DELIVERED, None),
        (410, End.GONE, "answered 410 Gone"),
        (301, End.FAILED, "answered 301: give the address it moved to, or answer 308"),
        (303, End.FAILED, "answered 303: give the address it moved to, or answer 308"),
        (304, End.FAILED, "answered 304"),
        (307, End.FAILED, "answered 307"),
        (400, End.FAILED, "answered 400"),
        (404, End.FAILED, "answered 404"),
        (429, End.FAILED, "answered 429"),
        (500, End.FAILED, "answered 500"),
        (504, End.FAILED, "answered 504"),
    ],
)
def test_an_answers_status_says_what_became_of_it(plain, webhooks, status, end, error):
    plain.answer = lambda _: Answer(status, body=b"")
    outcome = webhooks.send(plain.url(), None, EVENT)
    assert (outcome.end, outcome.error, outcome.status) == (end, error, status)


@pytest.mark.parametrize(
    ("header", "wait"),
    [
        ("120", 120.0),
        ("Tue, 02 Jan 2024 17:01:00 GMT", 59.25),
        ("Tue, 02 Jan 99999999999999999999 17:01:00 GMT", None),
        ("soon", None),
        ("-5", None),
    ],
)
def test_who_asks_for_time_is_heard(plain, webhooks, header, wait):
    plain.answer = lambda _: Answer(429, (("Retry-After", header),))
    assert webhooks.send(plain.url(), None, EVENT).wait == wait


def test_a_url_that_can_never_be_is_not_tried(webhooks):
    assert send(webhooks, "http://10.0.0.1/") == (End.REFUSED, "the URL must begin with https://")


def test_the_documented_check_of_a_signature_holds(plain, webhooks):
    text = (Path(__file__).parents[3] / "docs" / "notify.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    made: dict[str, Any] = {}
    exec(code, made)
    send(webhooks, plain.url(), "hush")
    (request,) = plain.requests
    is_ours = made["is_ours"]
    assert is_ours("hush", request.headers, request.body, AT + 299)
    assert not is_ours("hush", request.headers, request.body, AT + 302)
    assert not is_ours("other", request.headers, request.body, AT)
    assert not is_ours("hush", request.headers, request.body + b" ", AT)
