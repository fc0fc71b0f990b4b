"""A proxy that passes requests on, says 503 while told to, and can be gone."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, EndpointConnectionError

from fibflow.benchmarks.faults.proxy import Mode, Proxy


class Echo(BaseHTTPRequestHandler):
    """Answers with what it was asked."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        answer = b" ".join([self.command.encode(), self.path.encode(), self.headers["X-Word"].encode(), body])
        self.send_response(201)
        self.send_header("X-Word", "back")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer)

    do_GET = do_HEAD = do_PUT

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        with Proxy(f"http://127.0.0.1:{server.server_port}") as made:
            yield made
        server.shutdown()
        thread.join()


def connect(proxy: Proxy) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(proxy.url.removeprefix("http://"), timeout=10)


def ask(connection: http.client.HTTPConnection, method: str, body: Any = None) -> tuple[int, bytes]:
    connection.request(
        method, "/a?b=1", body, {"X-Word": "there"}, encode_chunked=not isinstance(body, bytes)
    )
    response = connection.getresponse()
    return response.status, response.read()


def test_requests_and_answers_pass_whole(proxy):
    connection = connect(proxy)
    assert ask(connection, "GET") == (201, b"GET /a?b=1 there ")
    assert ask(connection, "PUT", b"x" * 100_000) == (201, b"PUT /a?b=1 there " + b"x" * 100_000)
    assert ask(connection, "PUT", iter([b"in ", b"parts"])) == (201, b"PUT /a?b=1 there in parts")
    connection.request("HEAD", "/a", headers={"X-Word": "there"})
    response = connection.getresponse()
    assert (response.status, response.read()) == (201, b"")
    assert (response.headers["X-Word"], response.headers["Content-Length"]) == ("back", "14")
    assert ask(connection, "GET")[0] == 201
    assert proxy.answered == 0
    connection.close()


def test_503_while_told_to_on_connections_that_stay(proxy):
    connection = connect(proxy)
    assert ask(connection, "GET")[0] == 201
    proxy.set(Mode.REFUSED)
    status, body = ask(connection, "PUT", b"x" * 100_000)
    assert status == 503
    assert b"SlowDown" in body
    assert ask(connection, "GET")[0] == 503
    proxy.set(Mode.PASSES)
    assert ask(connection, "GET")[0] == 201
    assert proxy.answered == 2
    connection.close()


def test_a_service_that_is_gone_refuses_and_cuts_and_comes_back_where_it_was(proxy):
    connection, url = connect(proxy), proxy.url
    assert ask(connection, "GET")[0] == 201
    proxy.set(Mode.GONE)
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        ask(connection, "GET")
    connection.close()
    with pytest.raises(ConnectionRefusedError):
        ask(connect(proxy), "GET")
    proxy.set(Mode.PASSES)
    assert proxy.url == url
    again = connect(proxy)
    assert ask(again, "GET")[0] == 201
    again.close()


def test_a_service_that_cannot_be_reached_looks_like_a_connection_that_ends(proxy):
    proxy.upstream = "127.0.0.1:1"
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        ask(connect(proxy), "GET")


def client_of(s3: Any, url: str, config: Config) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=url,
        config=config,
        region_name=s3.aws.region,
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )


def test_s3_clients_see_what_s3_would_say(s3):
    once = Config(retries={"total_max_attempts": 1})
    with Proxy(str(s3.aws.endpoint_url)) as proxy:
        client = client_of(s3, proxy.url, once)
        client.put_object(Bucket=s3.bucket, Key="a/b", Body=b"content")
        proxy.set(Mode.REFUSED)
        with pytest.raises(ClientError, match="SlowDown"):
            client.put_object(Bucket=s3.bucket, Key="a/c", Body=b"content")
        proxy.set(Mode.GONE)
        with pytest.raises(EndpointConnectionError):
            client.get_object(Bucket=s3.bucket, Key="a/b")
        proxy.set(Mode.PASSES)
        assert client.get_object(Bucket=s3.bucket, Key="a/b")["Body"].read() == b"content"
        assert [item["Key"] for item in client.list_objects_v2(Bucket=s3.bucket)["Contents"]] == ["a/b"]
