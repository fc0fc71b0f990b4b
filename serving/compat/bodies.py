"""Answers in the vendor's envelope: the rows are JSON already, and the envelope is glued around them.

``request_id`` of an answer is a hash of it: the same answer has the same bytes, and so the same ETag. That of
a refusal is the request's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import orjson
import pyarrow as pa
from fastapi import Request, Response

from fibflow.serving.caching import Page, respond_page
from fibflow.serving.formats import json_rows

#: What the vendor calls the columns of a bar; ``final`` and ``rev`` are ours.
BAR = {
    "open": "o",
    "high": "h",
    "low": "l",
    "close": "c",
    "volume": "v",
    "vwap": "vw",
    "ts": "t",
    "trade_count": "n",
    "final": "final",
    "revision": "rev",
}
#: Likewise, with the ticker.
NAMED_BAR = {"symbol": "T", **BAR}
JSON = "application/json"


def bar_rows(bars: pa.Table, names: Mapping[str, str] = BAR) -> bytes:
    """Return bars as the vendor's JSON array; what is not known of a bar is left out of it."""
    return json_rows(bars.select(list(names)), names, drop_nulls=True)


def glued(members: Mapping[str, Any], key: str, rows: bytes) -> bytes:
    """Return a JSON object with members (at least one), one more that is JSON already, and ``request_id``."""
    body = orjson.dumps(dict(members))[:-1] + b',"' + key.encode() + b'":' + rows
    return _signed(body)


def alone(members: Mapping[str, Any]) -> bytes:
    """Return a JSON object with members (at least one) and ``request_id``."""
    return _signed(orjson.dumps(dict(members))[:-1])


def _signed(body: bytes) -> bytes:
    return body + b',"request_id":"' + hashlib.blake2b(body, digest_size=16).hexdigest().encode() + b'"}'


def without_nulls(value: Any) -> Any:
    """Return a value of JSON without members that are None: they crash the vendor's clients."""
    if isinstance(value, dict):
        return {key: without_nulls(part) for key, part in value.items() if part is not None}
    return [without_nulls(part) for part in value] if isinstance(value, list) else value


def listed(
    request: Request,
    rows: list[dict[str, Any]] | bytes,
    count: int,
    following: str | None,
    settled: bool = False,
    key: str = "results",
) -> Response:
    """Return a page of a list: the rows under ``key``, ``count``, and ``next_url`` where more follow."""
    held = rows if isinstance(rows, bytes) else orjson.dumps(without_nulls(rows))
    members = {"status": "OK", "count": count, **({"next_url": following} if following else {})}
    return answered(request, members, key, held, settled)


def single(request: Request, result: dict[str, Any], key: str = "results", settled: bool = False) -> Response:
    """Return one object under a key."""
    return answered(request, {"status": "OK"}, key, orjson.dumps(without_nulls(result)), settled)


def answered(
    request: Request, members: Mapping[str, Any], key: str, rows: bytes, settled: bool = False
) -> Response:
    """Return members, and the JSON of one more, with what caches have to know."""
    body = glued(members, key, rows)
    # What ``request_id`` is a hash of is all of it.
    return respond_page(request, Page(body, JSON, settled, etag=f'"{body[-34:-2].decode()}"'))


def ns(us: int) -> int:
    """Return UTC nanoseconds of UTC microseconds."""
    return us * 1_000
