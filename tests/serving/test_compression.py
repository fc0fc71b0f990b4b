"""What goes compressed, and what its entity tags are."""

from __future__ import annotations

import gzip

import pytest
import zstandard
from fastapi import APIRouter, Request, Response
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import StreamingResponse

from fibflow.serving.compression import SMALLEST, coding_of

router = APIRouter()
TEXT = b"".join(b'{"close":%d},' % number for number in range(5_000))
PIECES = [TEXT[at : at + 7_000] for at in range(0, len(TEXT), 7_000)]


@router.get("/test/text")
async def text(
    request: Request, size: int = len(TEXT), kind: str = "application/json", tag: str = '"abc"'
) -> Response:
    headers = {"ETag": tag, "Vary": "Authorization"}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(TEXT[:size], media_type=kind, headers=headers)


@router.get("/test/stream")
async def stream(kind: str = "text/csv") -> StreamingResponse:
    async def body():
        for piece in PIECES:
            yield piece

    return StreamingResponse(body(), media_type=kind)


@router.get("/test/encoded")
async def encoded() -> Response:
    return Response(gzip.compress(TEXT), media_type="text/css", headers={"Content-Encoding": "gzip"})


@pytest.fixture
def asking(open_app):
    open_app.router.routes[:0] = router.routes
    with TestClient(open_app) as client:
        yield client


def plain(coding: str, body: bytes) -> bytes:
    return (
        gzip.decompress(body)
        if coding == "gzip"
        else zstandard.ZstdDecompressor().decompressobj().decompress(body)
    )


def raw(client: TestClient, path: str, accepted: str, **headers: str):
    """The answer and its bytes as they went over the wire."""
    asked = {
        "Accept-Encoding": accepted,
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    with client.stream("GET", path, headers=asked) as answer:
        return answer, b"".join(answer.iter_raw())


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
@pytest.mark.parametrize("path", ["/test/text", "/test/stream", "/test/text?size=200000"])
def test_a_body_comes_compressed_and_whole(asking, coding, path):
    answer, body = raw(asking, path, coding)
    assert answer.headers["content-encoding"] == coding
    assert plain(coding, body) == TEXT
    assert len(body) < len(TEXT) / 4
    assert "Accept-Encoding" in answer.headers["vary"]
    if path != "/test/stream":
        assert int(answer.headers["content-length"]) == len(body)


def test_vary_keeps_what_was_there(asking):
    for accepted in ("gzip", "identity"):
        assert raw(asking, "/test/text", accepted)[0].headers["vary"] == "Authorization, Accept-Encoding"


@pytest.mark.parametrize("accepted", ["", "identity", "br", "gzip;q=0, zstd;q=0", "gzip;q=nonsense"])
def test_who_wants_it_plain_gets_it_plain(asking, accepted):
    answer, body = raw(asking, "/test/text", accepted)
    assert "content-encoding" not in answer.headers
    assert body == TEXT
    assert answer.headers["etag"] == '"abc"'


@pytest.mark.parametrize(
    "kind",
    [
        "application/vnd.apache.parquet",
        "application/octet-stream",
        "image/png",
        "font/woff2",
        "text/event-stream",
    ],
)
def test_what_is_compressed_already_or_no_text_goes_as_it_is(asking, kind):
    answer, body = raw(asking, f"/test/text?kind={kind}", "gzip, zstd")
    assert "content-encoding" not in answer.headers
    assert body == TEXT
    answer, body = raw(asking, f"/test/stream?kind={kind}", "gzip, zstd")
    assert body == TEXT


def test_what_is_encoded_already_is_not_encoded_again(asking):
    answer, body = raw(asking, "/test/encoded", "gzip, zstd")
    assert answer.headers["content-encoding"] == "gzip"
    assert gzip.decompress(body) == TEXT


def test_what_is_small_goes_as_it_is(asking):
    assert "content-encoding" not in raw(asking, f"/test/text?size={SMALLEST - 1}", "gzip")[0].headers
    assert raw(asking, f"/test/text?size={SMALLEST}", "gzip")[0].headers["content-encoding"] == "gzip"


def test_each_coding_has_an_entity_tag_of_its_own(asking):
    tags = {
        accepted: raw(asking, "/test/text", accepted)[0].headers["etag"]
        for accepted in ("identity", "gzip", "zstd")
    }
    assert tags == {"identity": '"abc"', "gzip": '"abc+gzip"', "zstd": '"abc+zstd"'}


def test_a_weak_entity_tag_stays(asking):
    assert raw(asking, '/test/text?tag=W/"abc"', "gzip")[0].headers["etag"] == 'W/"abc"'


@pytest.mark.parametrize("accepted", ["identity", "gzip", "zstd"])
@pytest.mark.parametrize("held", ['"abc"', '"abc+gzip"', '"abc+zstd"', '"other", "abc+gzip"', 'W/"abc+gzip"'])
def test_whoever_holds_any_coding_of_what_is_there_is_told_so(asking, accepted, held):
    answer, body = raw(asking, "/test/text", accepted, If_None_Match=held)
    assert (answer.status_code, body) == (304, b"")
    assert answer.headers["etag"] in held
    assert "Accept-Encoding" in answer.headers["vary"]


def test_whoever_holds_something_else_gets_it(asking):
    assert raw(asking, "/test/text", "gzip", If_None_Match='"xyz+gzip"')[0].status_code == 200


def test_what_was_compressed_once_is_the_same_again(asking):
    assert raw(asking, "/test/text", "gzip")[1] == raw(asking, "/test/text", "gzip")[1]


def test_two_bodies_of_one_tag_and_different_codings_do_not_mix(asking):
    for coding in ("gzip", "zstd", "gzip", "zstd"):
        assert plain(coding, raw(asking, "/test/text", coding)[1]) == TEXT


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip, deflate, br, zstd", "zstd"),
        ("gzip", "gzip"),
        ("GZIP", "gzip"),
        ("x-gzip", "gzip"),
        ("zstd;q=0.5, gzip;q=0.8", "gzip"),
        ("*", "zstd"),
        ("*;q=0.1, zstd;q=0", "gzip"),
        ("gzip;q=0", None),
        ("identity", None),
        ("", None),
        ("zstd;q=0, *;q=0", None),
    ],
)
def test_the_coding_that_is_liked_best_is_taken(accepted, coding):
    assert coding_of(accepted) == coding


@given(st.text())
def test_no_header_breaks_the_choice(accepted):
    assert coding_of(accepted) in (None, "gzip", "zstd")
