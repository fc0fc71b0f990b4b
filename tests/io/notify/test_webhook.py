"""A webhook gets a signed POST, at an address that was checked, within one deadline for all of it."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import re
import socket
import ssl
import threading
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fibflow.io.alerts.claims import End
from fibflow.io.alerts.model import Event
from fibflow.io.notify.addresses import parsed
from fibflow.io.notify.line import Lines
from fibflow.io.notify.webhook import Webhooks
from fibflow.tests.io.notify.hooks import Answer, Authority, Routed, hooks

AT = 1_704_214_800.75
WORLD = ["93.184.215.14"]
EVENT = Event(
    id="7-1-0",
    position=1,
    alert=7,
    owner="ann",
    version=1,
    symbol="BRK.B",
    ts=datetime(2024, 1, 2, 17, 0, 0, 250_000, UTC),
    seq=5,
    price=361.5,
    previous=None,
    level=float("nan"),
    operator="crosses_up",
    note="résumé ✓",
    test=False,
    created=datetime(2024, 1, 2, 17, 0, 1, tzinfo=UTC),
)


@pytest.fixture
def webhooks():
    with closing(Webhooks(allow_http_loopback=True, wall=lambda: AT, timeout_s=30)) as made:
        yield made


@pytest.fixture
def secure(authority):
    """A webhook with a name of the internet."""
    with hooks(authority.context("hook.example.com", "other.example.com")) as server:
        yield server


@contextmanager
def world(authority, lookup=lambda host, limit_s: WORLD):
    """Webhooks anywhere, and the way there."""
    lines = Routed(itertools.repeat(0.0).__next__, authority.client())
    with closing(Webhooks(lookup=lookup, lines=lines, wall=lambda: AT)) as made:
        yield made, lines


def send(webhooks, url, secret=None, event=EVENT):
    outcome = webhooks.send(url, secret, event)
    return outcome.end, outcome.error


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


def test_a_connection_is_used_again_and_made_anew_once_it_was_closed(plain, webhooks):
    for _ in range(3):
        assert send(webhooks, plain.url())[0] is End.DELIVERED
    assert plain.connections == 1
    plain.answer = lambda _: Answer(200, (("Connection", "close"),))
    send(webhooks, plain.url())
    send(webhooks, plain.url())
    assert (plain.connections, len(plain.requests)) == (2, 5)


def test_a_connection_that_was_cut_in_silence_is_no_failure(webhooks):
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        cut = threading.Event()

        def serve():
            for _ in range(2):
                with closing(listening.accept()[0]) as one:
                    # The second request finds nobody: closed when it was written already, or before.
                    _read(one)
                    one.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                    cut.wait()

        thread = threading.Thread(target=serve)
        thread.start()
        assert send(webhooks, url)[0] is End.DELIVERED
        cut.set()
        assert send(webhooks, url)[0] is End.DELIVERED
        thread.join()


@contextmanager
def scripted(*answers):
    """A webhook that says these, one for each request, on one connection: its URL, and whether that ended."""
    ended = threading.Event()
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        client = []

        def serve():
            with closing(listening.accept()[0]) as one, suppress(OSError):
                client.append(one)
                for said in answers:
                    _read(one)
                    one.sendall(said)
                if not one.recv(1):
                    ended.set()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/", ended
        finally:
            with suppress(OSError):
                client[0].shutdown(socket.SHUT_RDWR)
            thread.join()


EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
OK, BROKEN = (b"HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n" % said for said in (b"200 OK", b"500 No"))


def test_what_only_announces_an_answer_is_none(webhooks):
    first = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + EARLY + BROKEN
    with scripted(first, EARLY + OK, BROKEN) as (url, _):
        # Each event has its own answer, also on the same connection.
        found = [send(webhooks, url) for _ in range(3)]
    assert found == [(End.FAILED, "answered 500"), (End.DELIVERED, None), (End.FAILED, "answered 500")]


def test_who_wants_another_protocol_is_no_receiver_and_its_connection_is_not_kept(webhooks):
    with scripted(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n") as (url, ended):
        assert send(webhooks, url) == (End.FAILED, "answered 101")
        assert ended.wait(10)


def _read(sock):
    held = b""
    while b"\r\n\r\n" not in held:
        held += _some(sock)
    head, _, body = held.partition(b"\r\n\r\n")
    (length,) = [
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length")
    ]
    while len(body) < length:
        body += _some(sock)


def _some(sock):
    found = sock.recv(65_536)
    if not found:
        raise ConnectionError
    return found


@pytest.mark.parametrize(
    ("said", "repeated", "end", "error"),
    [
        (b"", b"H", End.FAILED, "no answer within 3 s"),
        (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n", End.FAILED, "no answer within 3 s"),
        (b"HTTP/1.1 200 OK\r\nX: ", b"y", End.FAILED, "no answer within 3 s"),
    ],
)
def test_bytes_that_drip_are_cut_off_at_the_deadline(said, repeated, end, error):
    ticks = itertools.count()
    now = [0.0]
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:

        def drip():
            with closing(listening.accept()[0]) as one:
                _read(one)
                one.sendall(said)
                try:
                    for tick in ticks:
                        # A byte a tenth of a second, by the clock of who waits.
                        one.sendall(repeated)
                        now[0] = tick / 10
                except OSError:
                    return

        thread = threading.Thread(target=drip)
        thread.start()
        with closing(Webhooks(allow_http_loopback=True, clock=lambda: now[0])) as webhooks:
            found = send(webhooks, f"http://127.0.0.1:{listening.getsockname()[1]}/")
        thread.join()
    assert found == (end, error)


def test_whoever_says_200_has_taken_it_though_the_rest_never_comes():
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:

        def serve():
            with closing(listening.accept()[0]) as one:
                _read(one)
                one.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nz")
                one.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        with closing(Webhooks(allow_http_loopback=True, timeout_s=2)) as webhooks:
            found = send(webhooks, f"http://127.0.0.1:{listening.getsockname()[1]}/")
        thread.join()
    assert found == (End.DELIVERED, None)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n", "answered what is no HTTP"),
        (b"HTTP/1.1 abc OK\r\n\r\n", "answered what is no HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n", "answered what is no HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000, "answered what is no HTTP"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 5_000, "answered what is no HTTP"),
        (b"", "cut the connection"),
        (b"HTTP/1.1 ", "answered what is no HTTP"),
    ],
)
def test_an_answer_that_is_none_or_has_no_end_is_a_failure(webhooks, said, error):
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:

        def serve():
            with closing(listening.accept()[0]) as one:
                _read(one)
                try:
                    one.sendall(said)
                except OSError:
                    return

        thread = threading.Thread(target=serve)
        thread.start()
        found = send(webhooks, f"http://127.0.0.1:{listening.getsockname()[1]}/")
        thread.join()
    assert found == (End.FAILED, error)


def test_a_webhook_that_never_answers_is_left_at_the_deadline(plain):
    plain.answer = lambda _: None
    with closing(Webhooks(allow_http_loopback=True, timeout_s=0.2)) as webhooks:
        assert send(webhooks, plain.url()) == (End.FAILED, "no answer within 0.2 s")


def test_nobody_there_is_told_without_the_address(webhooks):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        assert send(webhooks, url) == (End.FAILED, "takes no connection")


# TLS, names and redirects ---------------------------------------------------------------------------------


def test_the_name_is_asked_once_and_exactly_what_was_checked_is_connected_to(secure, authority):
    names = []

    def lookup(host, limit_s):
        # The first answer is for the check, and a later one would lead inside.
        names.append(host)
        return WORLD if len(names) == 1 else ["127.0.0.1"]

    with world(authority, lookup) as (webhooks, lines):
        url = secure.url("/x", "hook.example.com")
        assert send(webhooks, url) == (End.DELIVERED, None)
        assert (names, lines.asked) == (["hook.example.com"], [WORLD])
        (request,) = secure.requests
        assert request.sni == "hook.example.com"
        assert request.headers["Host"] == f"hook.example.com:{secure.port}"
        # The same connection: it goes to the address that was checked.
        assert send(webhooks, url)[0] is End.DELIVERED
        assert len(names) == secure.connections == 1
        lines.close()
        inside = "the host's name does not lead to an address on the internet"
        assert send(webhooks, url) == (End.FAILED, inside)
        assert (len(names), len(lines.asked), len(secure.requests)) == (2, 1, 2)


def test_a_certificate_of_another_name_or_authority_is_refused(secure, authority, tmp_path):
    with world(authority) as (webhooks, _):
        end, error = send(webhooks, secure.url("/", "third.example.com"))
    assert (end, "its certificate is not trusted" in str(error)) == (End.FAILED, True)
    with world(Authority(tmp_path)) as (webhooks, _):
        end, error = send(webhooks, secure.url("/", "hook.example.com"))
    assert (end, "its certificate is not trusted" in str(error)) == (End.FAILED, True)
    assert secure.requests == []


def test_an_address_as_host_needs_a_certificate_of_the_address(authority):
    with (
        hooks(authority.context("127.0.0.1")) as server,
        closing(Webhooks(allow_http_loopback=True, lines=Lines(context=authority.client()))) as webhooks,
    ):
        assert send(webhooks, server.url()) == (End.DELIVERED, None)


def test_who_speaks_no_tls_is_told(plain, authority):
    with world(authority) as (webhooks, _):
        url = plain.url("/", "hook.example.com").replace("http:", "https:")
        assert send(webhooks, url) == (End.FAILED, "no TLS connection can be made")


def test_of_several_addresses_the_next_is_taken_where_one_takes_no_connection(plain):
    place = parsed(plain.url(), allow_http_loopback=True)
    lines = Lines(lambda: 0.0)
    with closing(lines.connect(place, ["127.0.0.2", "127.0.0.1"], 3.0)) as line:
        assert line.is_fit()
    with closing(lines):
        assert lines.take(place) is None


def test_of_several_addresses_none_has_more_than_its_part_of_the_time(authority):
    given = []

    class Noting(ssl.SSLContext):
        def wrap_socket(self, sock: Any, *args: Any, **more: Any) -> Any:
            given.append(sock.gettimeout())
            return super().wrap_socket(sock, *args, **more)

    context = Noting(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority.file)
    with hooks(authority.context("127.0.0.1")) as server:
        addresses = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
        Lines(lambda: 0.0, context).connect(
            parsed(server.url(), allow_http_loopback=True), addresses, 30.0
        ).close()
    assert given == [10.0]


def test_a_redirect_keeps_the_request_and_is_checked_like_the_first_address(secure, authority):
    with hooks(authority.context("other.example.com")) as other, world(authority) as (webhooks, lines):
        target = other.url("/to", "other.example.com")
        secure.answer = lambda _: Answer(308, (("Location", target),))
        assert send(webhooks, secure.url("/from", "hook.example.com"), "hush") == (End.DELIVERED, None)
        first, second = secure.requests + other.requests
        assert first.body == second.body
        assert second.path == "/to"
        assert first.headers["Fibflow-Signature"] == second.headers["Fibflow-Signature"]
        assert len(lines.asked) == 2


@pytest.mark.parametrize(
    "location",
    [
        "https://127.0.0.1/",
        "https://169.254.169.254/latest/meta-data",
        "https://[::ffff:10.0.0.1]/",
        "https://2130706433/",
        "https://localhost/",
        "http://other.example.com/",
        "http://127.0.0.1/",
        "//10.0.0.1/x",
        "file:///etc/passwd",
        "https://user@other.example.com/",
        "https://[/",
    ],
)
def test_a_redirect_inside_is_not_followed(secure, authority, location):
    with world(authority) as (webhooks, lines):
        secure.answer = lambda _: Answer(307, (("Location", location),))
        end, error = send(webhooks, secure.url("/", "hook.example.com"))
        assert end is End.FAILED
        assert str(error).startswith("redirects to where no webhook may be: ")
        assert len(lines.asked) == 1


def test_what_a_redirect_says_is_not_repeated(secure, authority):
    with world(authority) as (webhooks, _):
        secure.answer = lambda _: Answer(307, (("Location", f"https://[{'x' * 50_000}]/"),))
        found = send(webhooks, secure.url("/", "hook.example.com"))
    assert found == (End.FAILED, "redirects to where no webhook may be: that is no URL")


def test_a_redirect_to_a_name_that_leads_inside_is_not_followed(secure, authority):
    def lookup(host, limit_s):
        return WORLD if host == "hook.example.com" else ["10.0.0.1"]

    with world(authority, lookup) as (webhooks, lines):
        secure.answer = lambda _: Answer(307, (("Location", "https://other.example.com/"),))
        end, error = send(webhooks, secure.url("/", "hook.example.com"))
        assert (end, error) == (End.FAILED, "the host's name does not lead to an address on the internet")
        assert len(lines.asked) == 1


def test_a_redirect_from_https_to_http_is_not_followed_in_tests_either(authority, plain):
    with (
        hooks(authority.context("127.0.0.1")) as server,
        closing(Webhooks(allow_http_loopback=True, lines=Lines(context=authority.client()))) as webhooks,
    ):
        server.answer = lambda _: Answer(307, (("Location", plain.url()),))
        assert send(webhooks, server.url()) == (End.FAILED, "redirects from https to http")
    assert plain.requests == []


def test_redirects_in_a_circle_end(secure, authority):
    with world(authority) as (webhooks, _):
        secure.answer = lambda _: Answer(307, (("Location", "/again"),))
        found = send(webhooks, secure.url("/", "hook.example.com"))
        assert found == (End.FAILED, "redirects more than 3 times")
        assert [each.path for each in secure.requests] == ["/", "/again", "/again", "/again"]


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
