"""Ids, logs and metrics of requests, and what happens to an exception that nobody expected."""

from __future__ import annotations

import json
import logging
import re

import pytest
from fastapi import APIRouter, Response
from fastapi.testclient import TestClient
from starlette.responses import StreamingResponse

from fibflow.serving import metrics
from fibflow.serving.app import create_app
from fibflow.serving.logs import JsonLines, scrubbed
from fibflow.serving.observe import Observe
from fibflow.tests.serving.conftest import Keyed, now
from fibflow.tests.serving.servers import running

KEY = "fib_0001020304050607_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"

router = APIRouter()


@router.get("/test/fails")
async def fails() -> None:
    raise RuntimeError(f"the secret is {KEY}")


@router.get("/test/things/{name}")
async def thing(name: str) -> Response:
    return Response(b"x" * 100, media_type="application/octet-stream")


@router.get("/test/breaks")
async def breaks() -> StreamingResponse:
    async def body():
        yield b"a" * 10
        raise RuntimeError("in the middle")

    return StreamingResponse(body(), media_type="application/octet-stream")


class Watched:
    """An app whose lines are kept."""

    def __init__(self, app) -> None:
        self.lines: list[dict] = []
        app.router.routes[:0] = router.routes
        for middleware in app.user_middleware:
            if middleware.cls is Observe:
                middleware.kwargs["log"] = self.lines.append
        self.app = app


@pytest.fixture
def watched(open_settings) -> Watched:
    return Watched(create_app(open_settings, now))


@pytest.fixture
def asking(watched):
    with TestClient(watched.app, raise_server_exceptions=False) as client:
        yield client


def test_a_request_gets_an_id_and_keeps_a_well_formed_one(asking):
    first, second = (asking.get("/healthz").headers["x-request-id"] for _ in range(2))
    assert re.fullmatch("[0-9a-f]{32}", first)
    assert first != second
    assert (
        asking.get("/healthz", headers={"X-Request-Id": "trace-0001"}).headers["x-request-id"] == "trace-0001"
    )


@pytest.mark.parametrize("told", ["short", "x" * 65, "with space 1", 'quote"12345', "<script>alert</script>"])
def test_an_id_that_is_not_well_formed_is_replaced(asking, told):
    assert re.fullmatch(
        "[0-9a-f]{32}", asking.get("/healthz", headers={"X-Request-Id": told}).headers["x-request-id"]
    )


@pytest.mark.parametrize("path", ["/healthz", "/", "/no/such/path", "/test/fails"])
def test_no_browser_is_to_guess_what_an_answer_is(asking, path):
    assert asking.get(path).headers["x-content-type-options"] == "nosniff"


def test_a_line_a_request_with_the_route_and_not_the_path(asking, watched):
    asking.get("/test/things/apple?color=red", headers={"X-Request-Id": "trace-0001"})
    (line,) = watched.lines
    assert line.pop("ms") >= 0
    assert line.pop("time")
    assert line == {
        "level": "info",
        "method": "GET",
        "route": "/test/things/{name}",
        "status": 200,
        "bytes": 100,
        "key": None,
        "request_id": "trace-0001",
    }
    assert json.dumps(line)


def test_a_path_that_is_not_there_makes_no_new_series(asking, watched):
    asking.get("/no/such/place/1")
    asking.get("/no/such/place/2")
    assert {line["route"] for line in watched.lines} == {"unmatched"}


def test_the_log_names_the_key_by_its_id_and_never_holds_it(open_settings, keyed: Keyed):
    watched = Watched(keyed.app)
    key = keyed.keys["all"]
    with TestClient(keyed.app) as client:
        client.get(f"/v1/prices/AAPL?apiKey={key}")
        client.get("/v1/prices/AAPL", headers=keyed.headers())
        client.get("/v1/prices/AAPL", headers=keyed.headers("history"))
    ids = [line["key"] for line in watched.lines]
    assert ids == [key.split("_")[1], key.split("_")[1], keyed.keys["history"].split("_")[1]]
    assert key.rpartition("_")[2] not in json.dumps(watched.lines)


def test_a_failure_is_a_500_that_says_nothing_and_a_log_that_says_why(asking, watched, caplog):
    with caplog.at_level(logging.ERROR):
        answer = asking.get("/test/fails", headers={"X-Request-Id": "trace-0001"})
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["request_id"] == "trace-0001"
    assert "secret" not in answer.text
    assert watched.lines[0]["status"] == 500
    (record,) = (record for record in caplog.records if record.name == "fibflow.serving")
    line = json.loads(JsonLines().format(record))
    assert line["request_id"] == "trace-0001"
    assert "RuntimeError" in line["error"]
    assert KEY not in line["error"]


def test_an_answer_that_breaks_off_breaks_the_connection(watched):
    import httpx2

    with running(watched.app) as url:
        with pytest.raises(httpx2.RemoteProtocolError):
            httpx2.get(f"{url}/test/breaks")
        assert httpx2.get(f"{url}/healthz").status_code == 200


def test_metrics_count_requests_by_route_and_status(asking):
    def counted() -> float:
        text = asking.get("/metrics").text
        found = re.search(
            r'fibflow_requests_total\{method="GET",route="/test/things/\{name\}",status="200"\} ([0-9.]+)',
            text,
        )
        return float(found[1]) if found else 0.0

    before = counted()
    for name in ("a", "b", "c"):
        asking.get(f"/test/things/{name}")
    assert counted() == before + 3


def test_metrics_have_what_an_operator_looks_for(asking):
    asking.get("/test/things/a")
    text = asking.get("/metrics").text
    for name in (
        "fibflow_request_seconds_bucket",
        "fibflow_requests_in_flight",
        "fibflow_response_bytes_total",
        "fibflow_websocket_clients",
        'fibflow_store_up{store="lake"} 1.0',
        'fibflow_lake_version{table="silver.bars"}',
        'fibflow_lake_age_seconds{table="silver.bars"}',
    ):
        assert name in text, name


def test_a_method_that_is_none_makes_no_new_series(asking):
    asking.request("BREW", "/healthz")
    assert 'method="OTHER"' in metrics.exposition().decode()
    assert "BREW" not in metrics.exposition().decode()


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f"key {KEY} is", "key fib_0001020304050607_... is"),
        ("GET /v1/bars?apiKey=abc&x=1", "GET /v1/bars?apiKey=...&x=1"),
        ("postgresql://ada:hunter2@db:5432/x", "postgresql://ada:...@db:5432/x"),
        ("redis://:hunter2@cache:6379/0", "redis://:...@cache:6379/0"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ..."),
        ("host=db password=hunter2 user=ada", "host=db password=... user=ada"),
        ("nothing to hide", "nothing to hide"),
    ],
)
def test_secrets_are_taken_out_of_log_lines(text, left):
    assert scrubbed(text) == left
