"""Tricks, huge ranges, bad cursors, SQL, no key: a 4xx with a reason, and no data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from urllib.parse import quote

import httpx2
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from fastapi.testclient import TestClient

from fibflow.serving.app import create_app
from fibflow.serving.openapi import routes_of
from fibflow.serving.settings import Settings
from fibflow.tests.serving.conftest import now
from fibflow.tests.serving.samples import SAMPLES
from fibflow.tests.serving.servers import raw

_JSON = {"Content-Type": "application/json"}
#: What the vendor's surface reads without saying so in the document: comparisons.
UNSAID = ("ticker.any_of", "ticker.gte", "timestamp.gte", "execution_date.gte")
SQL = (
    "' OR '1'='1",
    "'; DROP TABLE bars; --",
    "\" UNION SELECT * FROM read_csv('/etc/passwd') --",
    "1); COPY (SELECT 1) TO '/tmp/owned'; --",
    "read_parquet('/etc/passwd')",
    "$$||pg_sleep(9)||$$",
)
OTHER = (
    "../../../../etc/passwd",
    "file:///etc/passwd",
    "s3://somebody/else",
    "{{7*7}}",
    "<script>alert(1)</script>",
    "NaN",
    "Infinity",
    "-1",
    "9" * 400,
    "1e308",
    "0x10",
    "٣",
    "\U0001f4c8",
    "a" * 3_000,
    ",",
    ",".join(["A"] * 2_000),
)


@dataclass(frozen=True)
class Operation:
    """An operation of the document: its parameters in the path and the query, and of these the required."""

    method: str
    path: str
    places: tuple[str, ...]
    query: tuple[str, ...]
    required: frozenset[str]
    has_body: bool

    def ask(self, client: TestClient, **values: str) -> httpx2.Response:
        """Ask with samples, but for some values."""
        path = self.path
        for name in self.places:
            path = path.replace("{" + name + "}", quote(values.get(name, SAMPLES.get(name, "x")), safe=""))
        query = {name: SAMPLES.get(name, "1") for name in self.required}
        query |= {name: value for name, value in values.items() if name in self.query}
        return client.request(self.method, path, params=query)

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def operations(app: FastAPI) -> Iterator[Operation]:
    for path, methods in app.openapi()["paths"].items():
        for method, told in methods.items():
            parameters = told.get("parameters", [])
            query = [p["name"] for p in parameters if p["in"] == "query"]
            if "compatible" in told.get("tags", ()):
                query += [name for name in UNSAID if name not in query]
            yield Operation(
                method.upper(),
                path,
                tuple(p["name"] for p in parameters if p["in"] == "path"),
                tuple(query),
                frozenset(p["name"] for p in parameters if p["in"] == "query" and p.get("required")),
                "requestBody" in told,
            )


def is_reason(answer: httpx2.Response) -> bool:
    """Whether an answer says in one line why not, as a problem or in the vendor's envelope."""
    document = answer.json()
    line = document.get("detail") or document.get("error") or document.get("message")
    return bool(line) and "\n" not in line and len(line) < 1_000 and "Traceback" not in answer.text


def check(answer: httpx2.Response, what: str) -> None:
    """A reason, or a small answer that holds nothing of what was tried."""
    assert answer.status_code < 500, f"{what}: {answer.status_code} {answer.text[:300]}"
    if answer.status_code >= 400:
        assert is_reason(answer), f"{what}: {answer.text[:300]}"
    assert "root:" not in answer.text, what


@pytest.fixture(scope="module")
def app(live_settings: Settings, database: str) -> FastAPI:
    return create_app(replace(live_settings, postgres=database), now)


@pytest.fixture(scope="module")
def asking(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app) as client:
        yield client


# No key, no data -------------------------------------------------------------------------------------------


def test_without_a_key_no_operation_of_data_answers(keyed):
    free = {"/healthz", "/readyz", "/metrics"}
    asked = 0
    with TestClient(keyed.app) as client:
        for operation in operations(keyed.app):
            if operation.path in free:
                continue
            for headers in ({}, {"Authorization": "Bearer nonsense"}, {"Authorization": "Basic YTpi"}):
                path = operation.path
                for name in operation.places:
                    path = path.replace("{" + name + "}", SAMPLES.get(name, "x"))
                query = {name: SAMPLES.get(name, "1") for name in operation.required}
                answer = client.request(operation.method, path, params=query, headers=headers)
                assert answer.status_code == 401, f"{operation}: {answer.status_code}"
                assert is_reason(answer)
                asked += 1
    assert asked > 60


def test_nothing_else_is_served_than_the_page_and_the_document(keyed):
    described = {route.path for route in routes_of(keyed.app)}
    others = {route.path for route in iter_route_contexts(keyed.app.routes)} - described
    assert {path for path in others if path and not path.startswith("/page/")} == {
        "/",
        "/openapi.json",
        "/stocks",
    }


def test_a_websocket_without_a_key_gets_no_data(keyed):
    with TestClient(keyed.app) as client, client.websocket_connect("/stocks") as socket:
        assert socket.receive_json()[0]["status"] == "connected"
        socket.send_json({"action": "subscribe", "params": "AM.*"})
        assert {message["ev"] for message in socket.receive_json()} == {"status"}
        socket.send_json({"action": "auth", "params": "' OR 1=1 --"})
        assert socket.receive_json()[0]["status"] == "auth_failed"


# Values ----------------------------------------------------------------------------------------------------


def everywhere(app: FastAPI) -> Iterator[tuple[int, Operation, str]]:
    """Each parameter of each operation, and its number."""
    pairs = (
        (operation, name) for operation in operations(app) for name in (*operation.places, *operation.query)
    )
    for number, (operation, name) in enumerate(pairs):
        yield number, operation, name


def found(answer: httpx2.Response) -> int:
    """How many things an answer holds."""
    if answer.headers["content-type"] != "application/json":
        return len(answer.content)
    document = answer.json()
    if isinstance(document, list):
        return len(document)
    return sum(len(value) for value in document.values() if isinstance(value, list))


@pytest.mark.parametrize("part", range(4))
def test_no_value_of_any_parameter_breaks_an_operation(app, asking, part):
    for number, operation, name in everywhere(app):
        text = OTHER[(number + part * 4 + number // len(OTHER)) % len(OTHER)]
        check(operation.ask(asking, **{name: text}), f"{operation} {name}={text[:60]!r}")


@pytest.mark.parametrize("part", range(3))
def test_sql_in_any_parameter_is_refused_or_finds_nothing_and_changes_nothing(app, asking, part):
    bars = {"symbols": "AAPL", "timeframe": "5d"}
    before = asking.get("/v1/bars", params=bars).content
    plain: dict[str, int] = {}
    for number, operation, name in everywhere(app):
        text = SQL[(number + part * 2 + number // len(SQL)) % len(SQL)]
        answer = operation.ask(asking, **{name: text})
        check(answer, f"{operation} {name}={text!r}")
        if answer.status_code == 200:
            if str(operation) not in plain:
                plain[str(operation)] = found(operation.ask(asking))
            most = 0 if name in operation.places else plain[str(operation)]
            assert found(answer) <= most, f"{operation} {name}={text!r}"
    assert asking.get("/v1/bars", params=bars).content == before
    assert before.count(b'"ts"') > 10


def test_a_million_symbols_at_once_are_refused(app, asking, served):
    asked = 0
    for operation in operations(app):
        for name in {"symbols", "tickers", "ticker.any_of"}.intersection(operation.query):
            answer = operation.ask(asking, **{name: ",".join(["A"] * 10_000)})
            assert answer.status_code == 414, operation
            assert is_reason(answer)
            asked += 1
        if operation.has_body:
            body = json.dumps({"symbols": [f"S{number}" for number in range(1_000_000)], "timeframe": "5d"})
            answer = asking.request(operation.method, operation.path, content=body, headers=_JSON)
            assert answer.status_code == 413, operation
            assert is_reason(answer)
            asked += 1
    assert asked > 4
    head = b"GET /v1/bars?timeframe=5d&symbols=" + b"A," * 1_000_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert raw(served, head).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("0001-01-01", "9999-12-31"),
        ("-9223372036854775808", "9223372036854775807"),
        ("1970-01-01", "1970-01-01"),
        ("2024-01-01", "2020-01-01"),
        ("99999999999999999999", "0"),
        ("9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z"),
        ("0000-00-00", "2024-13-45"),
    ],
)
def test_ranges_beyond_all_bounds_are_answered_or_refused(app, asking, start, end):
    for operation in operations(app):
        for first, last in (("start", "end"), ("from", "to"), ("timestamp.gte", "timestamp.lt")):
            if {first, last} <= {*operation.places, *operation.query}:
                check(operation.ask(asking, **{first: start, last: end}), f"{operation} {start}..{end}")


@pytest.mark.parametrize("limit", ["0", "-1", "50001", "1e6", "99999999999999999999", "10.5", "", "ten"])
def test_limits_that_are_none_are_refused_or_cut(app, asking, limit):
    for operation in operations(app):
        if "limit" in operation.query:
            check(operation.ask(asking, limit=limit), f"{operation} limit={limit}")


@pytest.mark.parametrize(
    "timeframe", ["0d", "-5d", "999999999d", "1s", "5 d", "d", "5D", "1e3m", "99999999999999999999m"]
)
def test_timeframes_that_are_none_are_refused(app, asking, timeframe):
    for operation in operations(app):
        for name in {"timeframe", "timeframes"}.intersection(operation.query):
            answer = operation.ask(asking, **{name: timeframe})
            check(answer, f"{operation} {name}={timeframe}")


@pytest.mark.parametrize(
    "cursor",
    [
        "x",
        "AAAA",
        "e30",
        "e30=",
        "%",
        "....",
        "-" * 2_000,
        "eyJhIjoxfQ==",
        "bnVsbA",
        "W10",
        "MTIz",
        "InN0cmluZyI",
        "//8=",
    ],
)
def test_a_cursor_that_was_not_given_is_refused(app, asking, cursor):
    asked = 0
    for operation in operations(app):
        if "cursor" in operation.query:
            answer = operation.ask(asking, cursor=cursor)
            check(answer, f"{operation} cursor={cursor[:20]}")
            asked += answer.status_code == 400
    assert asked


def test_a_cursor_of_one_operation_does_not_open_another(app, asking):
    page = asking.get("/v1/bars", params={"symbols": "AAPL", "timeframe": "1d", "limit": "2"})
    cursor = next((value for name, value in page.json().items() if "cursor" in name and value), None)
    assert cursor
    for operation in operations(app):
        if "cursor" in operation.query:
            check(operation.ask(asking, cursor=cursor), f"{operation}")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"[" * 50_000,
        b'{"symbols": {"a": 1}}',
        b'{"symbols": ["A"], "timeframe": 5}',
        b'{"symbols": null}',
        b"\xff\xfe\x00",
        b'{"symbols": "' + b"A," * 200_000 + b'"}',
    ],
    ids=range(10),
)
def test_bodies_that_cannot_be_read_are_refused(app, asking, body):
    for operation in operations(app):
        if operation.has_body:
            answer = asking.request(
                operation.method, operation.path, content=body, headers={"Content-Type": "application/json"}
            )
            assert 400 <= answer.status_code < 500, f"{operation}: {answer.status_code}"
            assert is_reason(answer)


# Paths -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/static/%2e%2e/%2e%2e/pyproject.toml",
        "/static/..%2f..%2fpyproject.toml",
        "/assets/%2e%2e%2fapp.py",
        "/%252e%252e/%252e%252e/etc/passwd",
        "/v1/symbols/..%2f..%2fetc%2fpasswd",
        "/v1/symbols/%252e%252e",
        "//etc/passwd",
        "/v1//bars",
        "/%5c%5cserver%5cshare",
        "/static/c:%5cwindows%5cwin.ini",
        "/.git/config",
        "/.env",
        "/pyproject.toml",
    ],
)
def test_no_path_leads_out_of_what_is_served(asking, path):
    answer = asking.get(path)
    assert 400 <= answer.status_code < 500, answer.status_code
    assert is_reason(answer)


def test_no_header_of_a_request_gets_into_the_headers_of_an_answer(served):
    head = (
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: abcdefgh%0d%0aSet-Cookie: a=b\r\n"
        b"Connection: close\r\n\r\n"
    )
    told = raw(served, head)
    assert told.startswith(b"HTTP/1.1 200")
    assert b"set-cookie" not in told.lower()


@pytest.mark.parametrize(
    "head",
    [
        b"GET /healthz HTTP/1.1\r\n\r\n\x00\x00",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET  HTTP/9.9\r\n\r\n",
        b"POST /v1/exports HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/exports HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET http://evil.example/healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    ],
    ids=range(6),
)
def test_what_is_no_http_does_not_hurt_the_server(served, head):
    told = raw(served, head + b"\r\n")
    assert not told.startswith(b"HTTP/1.1 5")
    assert httpx2.get(f"{served}/healthz").status_code == 200
