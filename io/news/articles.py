"""Articles as the vendor writes them, JSON objects, and as rows of the lake. Pure.

What is wrong with an article is its own matter: it is refused with a reason, and the others are taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa

from fibflow.transforms.schemas import ARTICLES

#: Why an article is refused.
NO_ID = "article_without_id"
NO_TIME = "article_without_time"
OF_THE_FUTURE = "article_of_the_future"
BAD_TICKERS = "article_with_bad_tickers"
BAD_VALUES = "article_with_bad_values"
REASONS = (NO_ID, NO_TIME, OF_THE_FUTURE, BAD_TICKERS, BAD_VALUES)

#: Clocks differ: an article may be dated so far after now.
AHEAD = timedelta(days=1)

_TEXTS = ("title", "author", "article_url", "image_url", "amp_url", "description")
_OF_PUBLISHER = ("name", "homepage_url", "logo_url", "favicon_url")
_LONGEST_ID, _LONGEST_TICKER = 256, 64
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Refused(NamedTuple):
    """An article that is not taken, as it came, and why."""

    reason: str
    article: Any


class _Wrong(Exception):
    """An article cannot be taken; the message is one of ``REASONS``."""


def rows_of(found: Sequence[Any], now: datetime) -> tuple[pa.Table, list[Refused]]:
    """Return the vendor's articles as rows of ``schemas.ARTICLES``, and those that are refused.

    Args:
        found: the articles. Of those of one id the last counts.
        now: of two days ahead of this there can be no news.
    """
    latest = now + AHEAD
    rows: dict[str, dict[str, Any]] = {}
    refused: list[Refused] = []
    for article in found:
        try:
            row = _row(article, latest)
        except _Wrong as error:
            refused.append(Refused(str(error), article))
        else:
            rows[row["id"]] = row
    return pa.Table.from_pylist(list(rows.values()), ARTICLES), refused


def _row(article: Any, latest: datetime) -> dict[str, Any]:
    if not isinstance(article, dict):
        raise _Wrong(BAD_VALUES)
    name = article.get("id")
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_ID:
        raise _Wrong(NO_ID)
    published = published_of(article.get("published_utc"))
    if published is None:
        raise _Wrong(NO_TIME)
    if published > latest:
        raise _Wrong(OF_THE_FUTURE)
    publisher = article.get("publisher")
    if publisher is not None and not isinstance(publisher, dict):
        raise _Wrong(BAD_VALUES)
    keywords, insights = (_listed(article, member) for member in ("keywords", "insights"))
    if not all(isinstance(word, str) for word in keywords or ()):
        raise _Wrong(BAD_VALUES)
    if not all(isinstance(insight, dict) for insight in insights or ()):
        raise _Wrong(BAD_VALUES)
    tickers = _tickers(article)
    texts = _texts(article, _TEXTS)
    by = _texts(publisher or {}, _OF_PUBLISHER)
    told = {
        "id": name,
        **({"publisher": by} if by else {}),
        "published_utc": _told(published),
        "tickers": tickers,
        **texts,
        **({"keywords": keywords} if keywords else {}),
        **({"insights": _without_nulls(insights)} if insights else {}),
    }
    return {
        "id": name,
        "published": published,
        "title": texts.get("title"),
        "publisher": by.get("name"),
        "tickers": ",".join(tickers),
        "article": orjson.dumps(told).decode(),
    }


def _told(instant: datetime) -> str:
    """Return an instant as the vendor writes it: whole seconds, or microseconds where there are any."""
    unit = "microseconds" if instant.microsecond else "seconds"
    return instant.replace(tzinfo=None).isoformat(timespec=unit) + "Z"


def published_of(text: Any) -> datetime | None:
    """Read ``published_utc``; None where it is no instant. One without a zone is UTC."""
    if not isinstance(text, str):
        return None
    try:
        found = datetime.fromisoformat(text.strip())
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _texts(found: Mapping[str, Any], members: Sequence[str]) -> dict[str, str]:
    """Return the members that are told; an empty one is not."""
    texts = {member: found[member] for member in members if found.get(member) is not None}
    if not all(isinstance(text, str) for text in texts.values()):
        raise _Wrong(BAD_VALUES)
    return {member: text for member, text in texts.items() if text}


def _listed(article: Mapping[str, Any], member: str) -> list[Any] | None:
    found = article.get(member)
    if found is not None and not isinstance(found, list):
        raise _Wrong(BAD_VALUES)
    return found or None


def _tickers(article: Mapping[str, Any]) -> list[str]:
    found = article.get("tickers") or []
    if not isinstance(found, list) or not all(map(_is_ticker, found)):
        raise _Wrong(BAD_TICKERS)
    return list(dict.fromkeys(found))


def _is_ticker(text: Any) -> bool:
    return (
        isinstance(text, str)
        and 0 < len(text) <= _LONGEST_TICKER
        and text.isprintable()
        and not any(mark == "," or mark.isspace() for mark in text)
    )


def _without_nulls(value: Any) -> Any:
    """Return a value of JSON without members that are null: they crash the vendor's clients."""
    if isinstance(value, dict):
        return {key: _without_nulls(part) for key, part in value.items() if part is not None}
    return [_without_nulls(part) for part in value] if isinstance(value, list) else value


def json_of(rows: pa.Table) -> bytes:
    """Return articles as a JSON array of the vendor's objects.

    Args:
        rows: with the column ``article``.
    """
    texts: list[Any] = rows["article"].to_pylist()
    return ("[" + ",".join(texts) + "]").encode()


def micros(instants: Any) -> np.ndarray:
    """Return a column of instants as UTC microseconds, shape (n,)."""
    array: Any = instants.combine_chunks() if isinstance(instants, pa.ChunkedArray) else instants
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    return np.asarray(array.view(pa.int64()).to_numpy(zero_copy_only=False))


def us_of(instant: datetime) -> int:
    """Return an instant as UTC microseconds."""
    return (instant - _EPOCH) // _MICROSECOND
