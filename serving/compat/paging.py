"""Pages: what a question asks for, on its first page or by a cursor, and the address of the next page.

A cursor holds the question's parameters and where to go on. It names no key, and it fits one path only.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import orjson
from fastapi import Request

from fibflow.serving.problems import Problem, bad_request

CURSOR = "cursor"
#: Of the layout of cursors.
_VERSION = 1
#: Of the numbers in a cursor: instants are far below.
_LARGEST = 1 << 62
#: A cursor holds a list of 250 tickers at most.
_LONGEST = 24_000


@dataclass(frozen=True)
class Asked:
    """A question.

    Attributes:
        params: its parameters, of the first page.
        after: go on behind this; None on the first page.
    """

    params: Mapping[str, str]
    after: tuple[Any, ...] | None = None

    def place(self, *kinds: type) -> Any:
        """Return ``after``, checked to have values of such types; None on the first page.

        Raises:
            Problem: a cursor that was tampered with.
        """
        if self.after is None:
            return None
        if len(self.after) != len(kinds) or any(
            type(value) is not kind or (isinstance(value, int) and abs(value) > _LARGEST)
            for value, kind in zip(self.after, kinds, strict=True)
        ):
            raise _bad_cursor()
        return self.after


def asked(request: Request, names: Sequence[str]) -> Asked:
    """Return what a request asks for: of its query, or of its cursor, the parameters with these names.

    Raises:
        Problem: a cursor that cannot be read, or of another question.
    """
    query = request.query_params
    text = query.get(CURSOR)
    if not text:
        return Asked({name: query[name] for name in names if name in query})
    if len(text) > _LONGEST:
        raise _bad_cursor()
    try:
        found = orjson.loads(base64.urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4)))
        version, of, params, after = found
    except (ValueError, TypeError, binascii.Error):
        raise _bad_cursor() from None
    known = isinstance(params, dict) and all(type(value) is str for value in params.values())
    if not known or version != _VERSION or of != _path_code(request) or not isinstance(after, list):
        raise _bad_cursor()
    return Asked({name: params[name] for name in names if name in params}, tuple(after))


def next_url(request: Request, params: Mapping[str, str], after: Sequence[Any]) -> str:
    """Return the address of the page behind ``after``, on the host that was asked."""
    held = orjson.dumps([_VERSION, _path_code(request), dict(params), list(after)])
    cursor = base64.urlsafe_b64encode(held).rstrip(b"=").decode()
    return address(request, None, {CURSOR: cursor})


def address(request: Request, path: str | None, query: Mapping[str, str]) -> str:
    """Return an address on the host that was asked: of an encoded path, or of the request's own."""
    raw = request.scope.get("raw_path")
    own = bytes(raw).decode("ascii", "ignore") if raw else request.url.path
    return f"{request.url.scheme}://{request.url.netloc}{path or own}?{urlencode(query)}"


def _path_code(request: Request) -> int:
    return zlib.crc32(str(request.scope["path"]).encode("utf-8", "surrogatepass"))


def _bad_cursor() -> Problem:
    return bad_request(
        "the cursor is none of this question's: follow next_url as it is, or ask for the first page again",
        "bad_cursor",
    )
