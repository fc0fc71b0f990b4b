"""Answers of the surface as JSON, and instants as the vendor gives them."""

from __future__ import annotations

import json
from datetime import date, datetime, time
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen
from zoneinfo import ZoneInfo

NEW_YORK = ZoneInfo("America/New_York")


def ask(url: str, path: str, key: str | None = None) -> tuple[int, Any, dict[str, str]]:
    """Status, document and headers (lower case) of an answer."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        with urlopen(Request(url + path, headers=headers)) as answer:
            return answer.status, json.loads(answer.read()), _lower(answer.headers)
    except HTTPError as error:
        with error:
            return error.code, json.loads(error.read()), _lower(error.headers)


def get(url: str, path: str) -> Any:
    """The document of an answer that is none of an error."""
    status, document, _ = ask(url, path)
    assert status == 200, document
    return document


def refused(url: str, path: str) -> tuple[int, str]:
    """Status and line of an error, in the vendor's envelope."""
    status, document, headers = ask(url, path)
    assert headers["content-type"] == "application/json", document
    assert document["status"] == {404: "NOT_FOUND", 403: "NOT_AUTHORIZED"}.get(status, "ERROR")
    assert document["request_id"]
    return status, document.get("error") or document["message"]


def _lower(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def ms(day: date, at: time = time(0)) -> int:
    """An instant on New York's clock, UTC milliseconds."""
    return round(datetime.combine(day, at, NEW_YORK).timestamp() * 1000)


def nulls(value: Any, path: str = "") -> list[str]:
    """Where a document holds null."""
    if value is None:
        return [path]
    if isinstance(value, dict):
        return [found for key, part in value.items() for found in nulls(part, f"{path}.{key}")]
    if isinstance(value, list):
        return [found for number, part in enumerate(value) for found in nulls(part, f"{path}[{number}]")]
    return []
