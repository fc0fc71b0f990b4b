"""Every exception as a problem."""

from __future__ import annotations

from typing import Annotated

import pytest
from fastapi import APIRouter, HTTPException, Query
from fastapi.testclient import TestClient
from pydantic import BaseModel

from fibflow.io.aws import AwsError
from fibflow.io.liveredis import LiveStoreError
from fibflow.io.storage import LakeError
from fibflow.serving.keys.store import KeysDown
from fibflow.serving.problems import Problem

router = APIRouter()
RAISED = {
    "problem": Problem(
        410, "it was here: ask for a newer one", "version_gone", {"Retry-After": "7"}, newest=3
    ),
    "http": HTTPException(418, "I am one"),
    "lake": LakeError("s3://secret-bucket/lake: access is denied"),
    "aws": AwsError("no credentials in /home/ada/.aws"),
    "live": LiveStoreError("Redis does not answer (10.0.0.7:6379)"),
    "keys": KeysDown("PostgreSQL does not answer (10.0.0.8)"),
}


@router.get("/test/raises/{what}")
async def raises(what: str) -> None:
    raise RAISED[what]


@router.get("/test/reads")
async def reads(
    limit: Annotated[int, Query(ge=1, le=10)], apiKey: Annotated[str, Query(max_length=3)] = ""
) -> int:
    return limit


class Order(BaseModel):
    symbols: list[str]
    limit: int


@router.post("/test/order")
async def order(wanted: Order) -> int:
    return wanted.limit


@pytest.fixture
def asking(open_app):
    open_app.router.routes[:0] = router.routes
    with TestClient(open_app) as client:
        yield client


def problem(answer) -> dict:
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert document["status"] == answer.status_code
    assert document["request_id"] == answer.headers["x-request-id"]
    assert answer.headers["cache-control"] == "no-store"
    assert "\n" not in document["detail"]
    return document


def test_a_problem_is_told_as_it_is(asking):
    answer = asking.get("/test/raises/problem")
    told = problem(answer)
    assert (told["status"], told["code"], told["newest"]) == (410, "version_gone", 3)
    assert (told["type"], told["title"], told["detail"]) == (
        "about:blank",
        "Gone",
        "it was here: ask for a newer one",
    )
    assert answer.headers["retry-after"] == "7"


def test_an_exception_of_http_is_told(asking):
    told = problem(asking.get("/test/raises/http"))
    assert (told["status"], told["detail"]) == (418, "I am one")


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("lake", "lake_unavailable"),
        ("aws", "lake_unavailable"),
        ("live", "live_store_unavailable"),
        ("keys", "keys_unavailable"),
    ],
)
def test_a_store_that_is_away_is_a_503_that_names_no_place(asking, what, code):
    answer = asking.get(f"/test/raises/{what}")
    told = problem(answer)
    assert (told["status"], told["code"]) == (503, code)
    assert answer.headers["retry-after"]
    for place in ("secret-bucket", "ada", "10.0.0"):
        assert place not in answer.text


@pytest.mark.parametrize(
    ("query", "code", "says"),
    [
        ("", "bad_limit", "limit: field required"),
        ("limit=many", "bad_limit", "limit='many'"),
        ("limit=11", "bad_limit", "less than or equal to 10"),
        ("limit=" + "9" * 500, "bad_limit", "..."),
        ("limit=1&limit=x", "bad_limit", "limit='x'"),
    ],
)
def test_a_parameter_that_cannot_be_read_is_a_400_in_one_line(asking, query, code, says):
    told = problem(asking.get(f"/test/reads?{query}"))
    assert (told["status"], told["code"]) == (400, code)
    assert says in told["detail"]
    assert len(told["detail"]) < 300


def test_the_value_of_a_key_is_never_shown(asking):
    answer = asking.get("/test/reads?limit=1&apiKey=hunter2hunter2")
    assert problem(answer)["code"] == "bad_apiKey"
    assert "hunter2" not in answer.text


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"symbols": "A", "limit": 1}', b'{"symbols": []}', b"\xff\xfe"]
)
def test_a_body_that_cannot_be_read_is_a_422_in_one_line(asking, body):
    told = problem(asking.post("/test/order", content=body, headers={"Content-Type": "application/json"}))
    assert told["status"] in (400, 422)
    assert told["detail"]


def test_a_path_that_is_not_there_is_a_404(asking):
    assert problem(asking.get("/no/such/path"))["code"] == "no_such_path"
    assert problem(asking.get("/healthz/"))["code"] == "no_such_path"


def test_a_method_that_is_not_there_is_a_405(asking):
    answer = asking.delete("/healthz")
    assert problem(answer)["code"] == "method_not_allowed"
    assert answer.headers["allow"] == "GET"
