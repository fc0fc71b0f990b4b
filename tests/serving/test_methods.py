"""HEAD and OPTIONS."""

from __future__ import annotations

import pytest
from fastapi import APIRouter
from fastapi.testclient import TestClient
from starlette.responses import StreamingResponse

router = APIRouter()
MADE: list[int] = []


@router.get("/test/long")
async def long() -> StreamingResponse:
    async def body():
        for number in range(1_000):
            MADE.append(number)
            yield b"x" * 1_000

    return StreamingResponse(body(), media_type="application/octet-stream", headers={"ETag": '"long"'})


@pytest.fixture
def asking(open_app):
    MADE.clear()
    open_app.router.routes[:0] = router.routes
    with TestClient(open_app) as client:
        yield client


@pytest.mark.parametrize("path", ["/healthz", "/openapi.json", "/no/such/path", "/metrics"])
def test_head_is_get_without_the_body(asking, path):
    got, head = asking.get(path), asking.head(path)
    assert head.status_code == got.status_code
    assert head.content == b""
    for name in ("content-type", "vary", "etag"):
        assert head.headers.get(name) == got.headers.get(name)


def test_head_of_a_stream_does_not_make_it(asking):
    answer = asking.head("/test/long")
    assert answer.status_code == 200
    assert answer.headers["etag"] == '"long"'
    assert answer.content == b""
    assert len(MADE) < 10
    assert len(asking.get("/test/long").content) == 1_000_000


def test_options_says_what_a_path_takes(asking):
    answer = asking.options("/healthz")
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["allow"] == "GET, HEAD, OPTIONS"
    assert asking.options("/no/such/path").status_code == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_other_methods_are_refused_with_those_that_work(asking, method):
    answer = asking.request(method, "/healthz")
    assert answer.status_code == 405
    assert "GET" in answer.headers["allow"]
    assert answer.json()["code"] == "method_not_allowed"
