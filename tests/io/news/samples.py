"""Articles by hand and at random, and the plain answers that a list of them gives."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from fibflow.io.news.articles import rows_of

NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
PUBLISHER = {
    "name": "The Post",
    "homepage_url": "https://post.example.com/",
    "logo_url": "https://post.example.com/logo.svg",
    "favicon_url": "https://post.example.com/favicon.ico",
}


def article(number: int, published: str = "2024-05-31T10:00:00Z", **members: Any) -> dict[str, Any]:
    """An article with a little of all; a member that is None is left out."""
    made = {
        "id": f"{number:064x}",
        "publisher": PUBLISHER,
        "title": f"Title {number}",
        "author": "Somebody",
        "published_utc": published,
        "article_url": f"https://post.example.com/{number}",
        "tickers": ["AAPL"],
        "description": "What it says.",
        "keywords": ["earnings", "guidance, raised"],
        **members,
    }
    return {member: value for member, value in made.items() if value is not None}


def rows(*articles: dict[str, Any]) -> pa.Table:
    """Articles as rows, none of which is refused."""
    found, refused = rows_of(articles, NOW)
    assert not refused
    return found


def drawn(dice: random.Random, number: int) -> dict[str, Any]:
    """An article of a few instants, of which several share each, over three months."""
    day = datetime(2024, 3, 1, tzinfo=UTC) + timedelta(days=dice.randrange(90), hours=dice.choice((0, 9, 10)))
    tickers = dice.sample(["A", "AA", "B", "BRK.B", "C", "Z"], dice.choice((0, 1, 1, 2, 3)))
    return article(number, f"{day:%Y-%m-%dT%H:%M:%SZ}", title=f"Title {dice.randrange(3)}", tickers=tickers)


class Source:
    """Gives pages of what it has, as the vendor does."""

    def __init__(self, *articles: dict[str, Any], page: int = 1_000) -> None:
        self.articles = list(articles)
        self.page = page
        self.asked: list[datetime] = []

    def news(self, since: datetime) -> Iterator[list[Any]]:
        self.asked.append(since)
        found = [one for one in self.articles if one["published_utc"] >= f"{since:%Y-%m-%dT%H:%M:%SZ}"]
        found.sort(key=lambda one: (one["published_utc"], str(one.get("id"))))
        for start in range(0, max(1, len(found)), self.page):
            yield found[start : start + self.page]


def by_id(articles: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {one["id"]: one for one in articles}
