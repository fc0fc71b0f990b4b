"""Requests that are too large or play tricks."""

from __future__ import annotations

import socket
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
from fastapi import APIRouter, Request
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from fibflow.serving import limits
from fibflow.serving.app import create_app
from fibflow.tests.serving.conftest import now
from fibflow.tests.serving.servers import raw, running

router = APIRouter()


@router.post("/test/body")
async def body(request: Request) -> dict[str, int]:
    return {"size": len(await request.body())}


@router.post("/test/json")
async def parsed(document: dict) -> dict[str, int]:
    return {"size": len(document)}


@pytest.fixture
def asking(open_app):
    open_app.router.routes[:0] = router.routes
    with TestClient(open_app) as client:
        yield client


def code_of(answer) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"] == answer.json()["request_id"]
    return answer.status_code, answer.json()["code"]


def test_a_url_may_be_long_and_no_longer(asking):
    room = limits.URL - len("/healthz") - len("symbols=")
    assert asking.get("/healthz?symbols=" + "A" * room).status_code == 200
    assert code_of(asking.get("/healthz?symbols=" + "A" * (room + 1))) == (414, "url_too_long")


def test_a_thousand_symbols_fit_also_with_encoded_commas(asking):
    symbols = "%2C".join(f"SYM{number:03d}" for number in range(1_000))
    assert asking.get(f"/healthz?symbols={symbols}").status_code == 200


def test_headers_may_be_many_and_no_more(asking):
    assert asking.get("/healthz", headers={f"X-{n}": "1" for n in range(80)}).status_code == 200
    assert code_of(asking.get("/healthz", headers={f"X-{n}": "1" for n in range(101)})) == (
        431,
        "headers_too_large",
    )
    assert code_of(asking.get("/healthz", headers={"X-Long": "1" * limits.HEADERS})) == (
        431,
        "headers_too_large",
    )


def test_a_query_may_have_many_parameters_and_no_more(asking):
    assert asking.get("/healthz?" + "&".join(f"a{n}=1" for n in range(100))).status_code == 200
    query = "&".join(f"a{n}=1" for n in range(101))
    assert code_of(asking.get(f"/healthz?{query}")) == (400, "too_many_parameters")


@pytest.mark.parametrize("path", ["/test/body", "/test/json"])
@pytest.mark.parametrize("length", ["told", "untold"])
def test_a_body_over_the_limit_is_refused_however_it_comes(asking, path, length):
    large = b'{"a": "' + b"x" * limits.BODY + b'"}'
    content = large if length == "told" else iter([large[:700_000], large[700_000:]])
    answer = asking.post(path, content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_body_within_the_limit_is_read(asking):
    assert asking.post("/test/body", content=b"x" * limits.BODY).json() == {"size": limits.BODY}


@pytest.mark.parametrize(
    "path",
    [
        "/v1/../healthz",
        "/v1/%2e%2e/healthz",
        "/v1/%2E%2e%2fhealthz",
        "/v1/..%5chealthz",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/v1/./bars",
        "/v1/prices/A%00PL",
        "/v1/prices/A%0d%0aSet-Cookie:x",
        "/v1/prices/A%7fB",
        "/v1/prices/%ff%fe",
        "/v1/prices/%zz",
        "/v1/prices/100%",
    ],
)
def test_tricks_with_paths_are_refused(served, path):
    told = raw(served, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    head, _, document = told.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 "), head
    assert b"bad_path" in document
    assert b"set-cookie" not in head.lower()


@pytest.mark.parametrize(
    "query", ["symbols=A%00", "symbols=A%0d%0aX: y", "symbols=%7f", "a=%zz", "a=%", "%09=1", "a=%1b[31m"]
)
def test_tricks_with_queries_are_refused(served, query):
    query = query.replace(" ", "%20")
    told = raw(
        served, f"GET /healthz?{query} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    )
    assert told.startswith(b"HTTP/1.1 400 "), told
    assert b"bad_query" in told


@pytest.mark.parametrize(
    "path", ["/v1/prices/BRK.B", "/v1/prices/X:BTCUSD", "/v1/prices/BRK%20A", "/v1/prices/%C3%84"]
)
def test_symbols_as_they_are_written_pass(asking, path):
    assert asking.get(path).status_code in (200, 404)


@pytest.mark.parametrize("header", [b"X-A: " + b"a" * 60_000 + b"\r\n", b"X-A: " + b"a" * 4_000_000])
def test_a_head_without_end_is_cut_off(served, header):
    told = raw(served, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + header * 50)
    assert told.startswith(b"HTTP/1.1 431 ")


def test_a_head_that_does_not_come_is_waited_for_in_vain(open_app, monkeypatch):
    monkeypatch.setattr("fibflow.serving.protocol.HEAD_S", 0.2)
    with running(open_app) as url:
        at = urlsplit(url)
        for begun in (b"", b"GET /hea", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /hea"):
            with socket.create_connection((at.hostname, at.port), timeout=30) as connection:
                connection.sendall(begun)
                told = b""
                while piece := connection.recv(65_536):
                    told += piece
            assert told.count(b"HTTP/1.1 200") == begun.count(b"\r\n\r\n")


def test_an_open_server_answers_to_its_own_names_only(open_settings):
    app = create_app(replace(open_settings, hosts=("localhost", "127.0.0.1", "::1")), now)
    with TestClient(app) as client:
        for host in ("localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST"):
            assert client.get("/healthz", headers={"Host": host}).status_code == 200, host
        for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", ""):
            assert code_of(client.get("/healthz", headers={"Host": host})) == (421, "wrong_host"), host


def test_a_page_of_another_origin_opens_no_websocket(open_settings):
    app = create_app(replace(open_settings, origins=("https://friend.example",)), now)
    with (
        TestClient(app) as client,
        pytest.raises(WebSocketDisconnect) as refused,
        client.websocket_connect("/stocks", headers={"Origin": "https://evil.example"}),
    ):
        raise AssertionError("it was let in")
    assert refused.value.code == 1008


def test_pages_of_origins_that_are_named_may_ask(open_settings):
    app = create_app(replace(open_settings, origins=("https://friend.example",)), now)
    with TestClient(app) as client:
        friend = client.get("/healthz", headers={"Origin": "https://friend.example"})
        assert friend.headers["access-control-allow-origin"] == "https://friend.example"
        assert (
            "access-control-allow-origin"
            not in client.get("/healthz", headers={"Origin": "https://x.example"}).headers
        )
        asked = {
            "Origin": "https://friend.example",
            "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Headers": "authorization",
        }
        answer = client.options("/v1/prices/AAPL", headers=asked)
        assert answer.status_code == 200
        assert "authorization" in answer.headers["access-control-allow-headers"].lower()


def test_by_default_no_page_of_another_origin_may_ask(client):
    answer = client.get("/healthz", headers={"Origin": "https://friend.example"})
    assert not [name for name in answer.headers if name.startswith("access-control")]
