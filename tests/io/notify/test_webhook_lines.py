"""Connections to webhooks: used again, cut, dripped through; within one deadline for all of it."""

from __future__ import annotations

import itertools
import socket
import threading
from contextlib import closing, contextmanager, suppress

import pytest

from fibflow.io.alerts.claims import End
from fibflow.io.notify.webhook import Webhooks
from fibflow.tests.io.notify.hooks import Answer
from fibflow.tests.io.notify.sending import send


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
