"""Errors that a client is told, as ``application/problem+json`` (RFC 9457)."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import orjson

CONTENT_TYPE = "application/problem+json"


class Problem(Exception):
    """What is wrong with a request, in one line that says what to do.

    Attributes:
        status: of HTTP.
        detail: the line.
        code: names the kind of problem for programs, such as ``unknown_symbol``.
        headers: of the answer, such as ``Retry-After``.
        extra: more members of the document.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        code: str | None = None,
        headers: dict[str, str] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.code = code or HTTPStatus(status).phrase.lower().replace(" ", "_")
        self.headers = headers or {}
        self.extra = extra

    def document(self, request_id: str) -> bytes:
        """Return the JSON document."""
        members = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "request_id": request_id,
            **self.extra,
        }
        return orjson.dumps(members)


def bad_request(detail: str, code: str = "bad_request") -> Problem:
    """Return what a request that cannot be understood is told."""
    return Problem(400, detail, code)


def not_found(detail: str, code: str = "not_found") -> Problem:
    """Return what a request for something that is not there is told."""
    return Problem(404, detail, code)
