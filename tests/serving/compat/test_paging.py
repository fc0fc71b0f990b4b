"""Cursors: they fit one question, hold no key, and cannot be made up."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from fastapi import Request

from fibflow.serving.compat.paging import asked, next_url
from fibflow.serving.problems import Problem


def request(query: str, path: str = "/v3/trades/A%20B") -> Request:
    scope: dict[str, Any] = {
        "type": "http",
        "method": "GET",
        "scheme": "http",
        "path": "/v3/trades/A B" if path.endswith("A%20B") else path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(b"host", b"bars.example:8080")],
    }
    return Request(scope)


def cursor_of(url: str) -> str:
    return url.partition("?cursor=")[2]


def test_a_cursor_carries_what_was_asked_and_no_key():
    first = asked(request("limit=3&order=asc&apiKey=sesame&other=1"), ("limit", "order"))
    assert (first.params, first.place(int)) == ({"limit": "3", "order": "asc"}, None)
    url = next_url(request(""), first.params, [7])
    assert url.startswith("http://bars.example:8080/v3/trades/A%20B?cursor=")
    assert "sesame" not in url
    second = asked(request(f"cursor={cursor_of(url)}&limit=9"), ("limit", "order"))
    assert (second.params, second.place(int)) == (first.params, (7,))


def test_a_cursor_is_refused_on_another_path():
    url = next_url(request(""), {}, [7])
    with pytest.raises(Problem, match="follow next_url"):
        asked(request(f"cursor={cursor_of(url)}", "/v3/trades/B"), ())


def encoded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        5,
        None,
        [1, 2, 3],
        [1, 2, 3, 4],
        [1, 2, {}, 4],
        [1, 2, {"a": 1}, []],
        [[1], {}, {}, []],
        "x" * 30_000,
    ],
)
def test_what_is_no_cursor_is_refused(value):
    with pytest.raises(Problem) as refused:
        asked(request(f"cursor={encoded(value)}"), ("limit",))
    assert (refused.value.status, refused.value.code) == (400, "bad_cursor")


@pytest.mark.parametrize("place", [[], ["1"], [1, 2], [1.0], [True], [1 << 62], [1 << 63], [None], [[1]]])
def test_a_place_of_other_values_is_refused(place):
    if place == [1 << 62]:
        place = [(1 << 62) + 1]
    found = asked(request(f"cursor={cursor_of(next_url(request(''), {}, place))}"), ())
    with pytest.raises(Problem, match="follow next_url"):
        found.place(int)
