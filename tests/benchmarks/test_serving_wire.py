"""HTTP and WebSocket bytes, cut anywhere."""

from __future__ import annotations

from itertools import pairwise

import pytest
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

from fibflow.benchmarks.serving import frames
from fibflow.benchmarks.serving.wire import Reader, WireError, request_of

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\nContent-Encoding: gzip\r\n\r\nhello world"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6;x=y\r\nhello \r\n5\r\nworld\r\n0\r\n\r\n"
TRAILED = CHUNKED[:-2] + b"X-Sum: 1\r\n\r\n"


def read(answer: bytes, cuts: list[int], keep: bool = True) -> tuple[Reader, list[bool]]:
    reader = Reader()
    reader.begin(keep)
    edges = [0, *cuts, len(answer)]
    return reader, [reader.feed(answer[a:b]) for a, b in pairwise(edges)]


@pytest.mark.parametrize("answer", [PLAIN, CHUNKED, TRAILED], ids=["plain", "chunked", "trailed"])
def test_an_answer_is_read_wherever_it_is_cut(answer):
    for cut in range(1, len(answer)):
        reader, whole = read(answer, [cut])
        assert whole == [False, True]
        assert (reader.status, reader.size, reader.body) == (200, 11, b"hello world")


@pytest.mark.parametrize("answer", [PLAIN, CHUNKED], ids=["plain", "chunked"])
def test_an_answer_is_read_byte_by_byte(answer):
    reader, whole = read(answer, list(range(1, len(answer))))
    assert whole == [*[False] * (len(answer) - 1), True]
    assert reader.body == b"hello world"


def test_bodies_are_counted_and_not_kept_unless_they_tell_of_an_error():
    reader, _ = read(PLAIN, [], keep=False)
    assert (reader.size, reader.kept, reader.coding) == (11, None, "gzip")
    reader, _ = read(PLAIN.replace(b"200 OK", b"429 Slow"), [], keep=False)
    assert (reader.status, reader.body) == (429, b"hello world")


def test_a_reader_reads_one_answer_after_another():
    reader = Reader()
    assert reader.feed(CHUNKED)
    reader.begin()
    assert reader.feed(PLAIN.replace(b"gzip", b"zstd"))
    assert (reader.size, reader.coding) == (11, "zstd")


@pytest.mark.parametrize("head", [b"Connection: close", b"connection:  Close"])
def test_a_connection_that_closes_says_so(head):
    reader, whole = read(PLAIN.replace(b"Content-Encoding: gzip", head), [])
    assert whole == [True]
    assert reader.closes


def test_an_answer_without_a_body_is_whole_with_its_head():
    reader, whole = read(b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n", [])
    assert (whole, reader.status, reader.size) == ([True], 304, 0)
    assert read(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", [])[1] == [True]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (PLAIN + b"!", "more came"),
        (CHUNKED + b"!", "more came"),
        (b"SSH-2.0-x\r\n\r\n", "no answer"),
        (b"HTTP/1.1 200 OK\r\n\r\nhello", "without a length"),
        (CHUNKED.replace(b"6;x=y", b"zz"), "no length"),
        (b"x" * 70_000, "without an end"),
        (CHUNKED.split(b"6;")[0] + b"1" * 300, "without a length"),
    ],
)
def test_what_is_no_answer_is_refused(answer, says):
    with pytest.raises(WireError, match=says):
        read(answer, [])


def test_a_request_names_its_host_and_coding():
    head = request_of("127.0.0.1:80", "/v1/bars?symbols=A", "gzip").decode()
    assert head.startswith(
        "GET /v1/bars?symbols=A HTTP/1.1\r\nHost: 127.0.0.1:80\r\nAccept-Encoding: gzip\r\n"
    )
    assert head.endswith("\r\n\r\n")


# WebSockets ------------------------------------------------------------------------------------------------

SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"


def sent(code: int, payload: bytes) -> bytes:
    """A server's frame."""
    masked = frames.frame(code, payload)
    start = len(masked) - len(payload)
    return bytes((masked[0], masked[1] & 0x7F)) + masked[2 : start - 4] + payload


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536])
def test_frames_of_every_length_are_read_wherever_they_are_cut(size):
    payload = b"x" * size
    stream = SWITCHED + sent(frames.TEXT, payload) + sent(frames.PING, b"p")
    for cut in {1, len(SWITCHED), len(SWITCHED) + 1, len(SWITCHED) + 3, len(stream) - 2}:
        made = frames.Frames()
        found = made.feed(stream[:cut]) + made.feed(stream[cut:])
        assert found == [(frames.TEXT, payload), (frames.PING, b"p")]
        assert made.is_open


def test_a_refused_handshake_and_fragments_are_said():
    with pytest.raises(WireError, match="no WebSocket"):
        frames.Frames().feed(b"HTTP/1.1 403 Forbidden\r\n\r\n")
    made = frames.Frames()
    made.feed(SWITCHED)
    with pytest.raises(WireError, match="fragments"):
        made.feed(b"\x01\x01x")


def test_a_servers_library_reads_a_clients_frames():
    server = ServerProtocol()
    server.receive_data(frames.handshake("127.0.0.1:80", "/stocks"))
    (request,) = server.events_received()
    assert isinstance(request, Request)
    assert request.path == "/stocks"
    server.send_response(server.accept(request))
    client = frames.Frames()
    client.feed(b"".join(server.data_to_send()))
    assert client.is_open
    for payload in (b"short", b"l" * 200, b"x" * 70_000):
        server.receive_data(frames.frame(frames.TEXT, payload))
        (event,) = server.events_received()
        assert isinstance(event, Frame)
        assert (event.opcode, event.data) == (Opcode.TEXT, payload)
        server.send_text(payload)
        assert client.feed(b"".join(server.data_to_send())) == [(frames.TEXT, payload)]
