"""What caches are told, and what a process keeps."""

from __future__ import annotations

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from fibflow.serving.caching import OTHER_S, SETTLED_S, Page, PageCache, respond


def asked(etag: str | None = None) -> Request:
    headers = [] if etag is None else [(b"if-none-match", etag.encode())]
    return Request({"type": "http", "method": "GET", "path": "/", "headers": headers, "query_string": b""})


def test_the_tag_is_that_of_the_content():
    one, again = (respond(asked(), b"[1]", "application/json", False) for _ in range(2))
    assert one.headers["etag"] == again.headers["etag"]
    assert one.headers["etag"].startswith('"')
    others = [
        respond(asked(), b"[2]", "application/json", False),
        respond(asked(), b"[1]", "text/csv", False),
    ]
    assert len({one.headers["etag"], *(other.headers["etag"] for other in others)}) == 3
    assert (one.status_code, one.body, one.headers["content-type"]) == (200, b"[1]", "application/json")


@pytest.mark.parametrize("told", ["{}", "W/{}", '"x", {}', '"x",W/{} , "y"', "*"])
def test_who_has_it_is_told_so(told):
    etag = respond(asked(), b"[1]", "application/json", True).headers["etag"]
    answer = respond(asked(told.format(etag)), b"[1]", "application/json", True, {"x-more": "1"})
    assert (answer.status_code, answer.body) == (304, b"")
    assert (answer.headers["etag"], answer.headers["x-more"]) == (etag, "1")
    assert "cache-control" in answer.headers
    assert respond(asked(told.format('"z"')), b"[1]", "application/json", True).status_code == (
        304 if told == "*" else 200
    )


def test_settled_answers_are_kept_for_hours_and_others_for_seconds():
    settled, other = (respond(asked(), b"[]", "application/json", flag) for flag in (True, False))
    assert settled.headers["cache-control"] == f"public, max-age={SETTLED_S}"
    assert other.headers["cache-control"] == f"public, max-age={OTHER_S}"
    assert SETTLED_S >= 3600 > 10 >= OTHER_S
    # What one key was told, a shared cache gives to no other.
    assert "Authorization" in settled.headers["vary"]


def page(size: int) -> Page:
    return Page(b"x" * size, "text/plain", True)


def test_answers_are_kept_up_to_a_number_of_bytes():
    cache = PageCache(10_000)
    for key in "abcde":
        cache.put(key, page(1_000))
    assert cache.get("a") is not None
    for key in "fgh":
        cache.put(key, page(1_000))
    assert cache.bytes <= 10_000
    # The one that was asked for lately stays.
    assert cache.get("a") is not None
    assert cache.get("b") is None
    cache.put("a", page(10))
    cache.put("big", page(5_000))
    assert cache.get("big") is None
    assert len(cache) * 600 < cache.bytes <= 10_000


def test_a_cache_of_nothing_keeps_nothing():
    cache = PageCache(0)
    cache.put("a", page(1))
    assert (cache.get("a"), len(cache), cache.bytes) == (None, 0, 0)


def bodies(*keys: int) -> dict[int, Page]:
    sizes = {key: 900 + 7 * key for key in keys}
    return {key: Page(bytes([key]) * size, "text/plain", key % 2 == 0) for key, size in sizes.items()}


@given(st.lists(st.integers(0, 40), max_size=200), st.integers(2_000, 30_000), st.integers(4_000, 60_000))
def test_what_left_memory_is_on_the_disk(asked, memory, disk):
    """What is kept is what was put, wherever it is; and what was put last is kept."""
    pages, cache = bodies(*range(41)), PageCache(memory, disk)
    for key in asked:
        found = cache.get(key)
        assert found is None or found == pages[key]
        if found is None:
            cache.put(key, pages[key])
            assert memory < 4 * pages[key].size or cache.get(key) == pages[key]
    assert cache.bytes <= memory


def test_more_is_kept_on_the_disk_than_in_memory():
    pages, cache = bodies(*range(41)), PageCache(8_000, 1_000_000)
    for key, page in pages.items():
        cache.put(key, page)
    assert all(cache.get(key) == page for key, page in pages.items())


def test_the_disk_is_written_round_and_round():
    pages, cache = bodies(*range(41)), PageCache(8_000, 20_000)
    for _ in range(3):
        for key, page in pages.items():
            cache.put(key, page)
    kept = [key for key in pages if cache.get(key) is not None]
    # The last ones, without a gap.
    assert kept == list(range(kept[0], 41))
    assert 15 < len(kept) < 35


def test_without_room_on_the_disk_memory_has_to_do(monkeypatch):
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    pages, cache = bodies(*range(41)), PageCache(8_000, 1_000_000)
    for key, page in pages.items():
        cache.put(key, page)
    assert cache.get(40) == pages[40]
    assert cache.get(0) is None
