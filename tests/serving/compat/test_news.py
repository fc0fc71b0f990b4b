"""News through the vendor's own clients, against what DuckDB finds in the lake's files."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import duckdb
import pytest

from fibflow.io.lake import Lake
from fibflow.io.news.table import NewsTable
from fibflow.io.tables import NEWS
from fibflow.serving.app import create_app
from fibflow.serving.settings import Settings
from fibflow.tests.io.news.samples import PUBLISHER, article, by_id, drawn, rows
from fibflow.tests.serving.compat.answers import ask, get, nulls, refused
from fibflow.tests.serving.compat.lakes import clock
from fibflow.tests.serving.servers import running

PATH = "/v2/reference/news"
FULL = article(
    9_999,
    "2024-05-31T10:00:00Z",
    tickers=["FULL", "BRK.B"],
    image_url="https://post.example.com/1.jpg",
    amp_url="https://post.example.com/amp",
    insights=[{"ticker": "FULL", "sentiment": "positive", "sentiment_reasoning": "It grew."}],
)
BARE = {"id": "bare", "published_utc": "2024-05-30T10:00:00Z", "tickers": ["BARE"]}


@pytest.fixture(scope="module")
def lake(tmp_path_factory) -> Lake:
    """500 articles that came, and were changed, in 25 polls."""
    made = Lake(str(tmp_path_factory.mktemp("news") / "lake"))
    dice = random.Random(2)
    for step in range(25):
        told = by_id(drawn(dice, dice.randrange(500)) for _ in range(40))
        NewsTable(made).write(rows(*told.values()), f"run{step}")
    NewsTable(made).write(rows(FULL, BARE), "last")
    return made


@pytest.fixture(scope="module")
def url(lake: Lake) -> Iterator[str]:
    settings = Settings(lake.uri, open_access=True, threads=2, log_requests=False)
    with running(create_app(settings, clock)) as address:
        yield address


@pytest.fixture
def client(make_client, url):
    return make_client(url)


def by_duckdb(lake: Lake, where: str, order: str) -> list[str]:
    """The ids of articles, by SQL over the files that the table's version names."""
    table = lake.table(NEWS)
    files = [str(Path(table.storage.path(file.path))) for file in table.snapshot().select()]
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        found = connection.execute(
            f"SELECT id FROM read_parquet({files!r}) WHERE {where} ORDER BY published {order}, id {order}"
        ).fetchall()
    return [row[0] for row in found]


def has(condition: str) -> str:
    """SQL: one of the tickers meets a condition on ``t``."""
    return f"len(list_filter(string_split(tickers, ','), lambda t: t <> '' AND {condition})) > 0"


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize(
    ("conditions", "where"),
    [
        ({}, "true"),
        ({"ticker": "A"}, has("t = 'A'")),
        ({"ticker": "BRK.B"}, has("t = 'BRK.B'")),
        ({"ticker": "NOSUCH"}, "false"),
        ({"ticker_gt": "A", "ticker_lte": "B"}, has("t > 'A' AND t <= 'B'")),
        ({"ticker_gte": "BRK.B"}, has("t >= 'BRK.B'")),
        ({"ticker_lt": "AA"}, has("t < 'AA'")),
        ({"published_utc": "2024-03-09"}, "published >= '2024-03-09' AND published < '2024-03-10'"),
        ({"published_utc": "2024-03-09T10:00:00Z"}, "published = '2024-03-09 10:00:00+00'"),
        ({"published_utc_gt": "2024-03-09"}, "published >= '2024-03-10'"),
        ({"published_utc_gte": date(2024, 3, 9)}, "published >= '2024-03-09'"),
        ({"published_utc_lt": "2024-03-09"}, "published < '2024-03-09'"),
        ({"published_utc_lte": "2024-03-09"}, "published < '2024-03-10'"),
        (
            {"published_utc_gt": "2024-03-09T09:00:00Z", "published_utc_lte": "2024-04-09T09:00:00Z"},
            "published > '2024-03-09 09:00:00+00' AND published <= '2024-04-09 09:00:00+00'",
        ),
        ({"published_utc_gte": datetime(2024, 4, 9, 9, tzinfo=UTC)}, "published >= '2024-04-09 09:00:00+00'"),
        (
            {"ticker": "Z", "published_utc_gte": "2024-04-01", "published_utc_lt": "2024-05-01"},
            has("t = 'Z'") + " AND published >= '2024-04-01' AND published < '2024-05-01'",
        ),
    ],
)
def test_conditions_on_articles(client, lake, conditions, where, order):
    found = client.list_ticker_news(**conditions, order=order, sort="published_utc", limit=37)
    assert [one.id for one in found] == by_duckdb(lake, where, order)


def test_without_a_word_the_newest_ten_are_a_page(client, url, lake):
    document = get(url, PATH)
    newest = by_duckdb(lake, "true", "DESC")
    assert document["count"] == 10
    assert [one["id"] for one in document["results"]] == newest[:10]
    assert [one.id for one in client.list_ticker_news(limit=1_000)] == newest


def test_what_an_article_says(client, url):
    [found] = client.list_ticker_news("FULL")
    for member in set(FULL) - {"publisher", "insights"}:
        assert getattr(found, member) == FULL[member]
    assert vars(found.publisher) == PUBLISHER
    assert [vars(insight) for insight in found.insights] == FULL["insights"]
    [bare] = client.list_ticker_news("BARE")
    assert (bare.id, bare.tickers) == ("bare", ["BARE"])
    assert bare.title is bare.publisher is bare.insights is bare.keywords is None
    document = get(url, f"{PATH}?ticker=BARE")
    assert document["results"] == [BARE]
    assert "next_url" not in document
    assert nulls(get(url, f"{PATH}?limit=1000")) == []


def test_pages_end_and_hold_what_was_asked(url):
    asked = {"ticker.gte": "B", "order": "asc", "limit": "50"}
    path: Any = f"{PATH}?{urlencode(asked)}"
    seen: list[str] = []
    while path is not None:
        document = get(url, path)
        assert document["status"] == "OK"
        assert document["count"] == len(document["results"]) <= 50
        seen += [one["id"] for one in document["results"]]
        following = document.get("next_url")
        assert following is None or following.startswith(f"{url}{PATH}?cursor=")
        path = None if following is None else following.removeprefix(url)
    assert len(seen) == len(set(seen)) > 100


def test_several_tickers_may_be_named(url, lake):
    found = get(url, f"{PATH}?ticker.any_of=A,Z&limit=1000")
    assert [one["id"] for one in found["results"]] == by_duckdb(lake, has("t IN ('A', 'Z')"), "DESC")


def test_caches_are_told(url):
    _, first, headers = ask(url, f"{PATH}?ticker=A")
    assert headers["cache-control"] == "public, max-age=2"
    assert headers["vary"]
    _, again, same = ask(url, f"{PATH}?ticker=A")
    assert (again, same["etag"]) == (first, headers["etag"])
    assert ask(url, f"{PATH}?ticker=Z")[2]["etag"] != headers["etag"]
    told = Request(f"{url}{PATH}?ticker=A", headers={"If-None-Match": headers["etag"]})
    with pytest.raises(OSError, match="304"), urlopen(told):
        pass


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=1001",
        "sort=title",
        "order=up",
        "published_utc=soon",
        "published_utc.gte=2024-13-01",
        "cursor=eyJhIjoxfQ",
    ],
)
def test_what_cannot_be_asked_is_refused(url, query):
    status, line = refused(url, f"{PATH}?{query}")
    assert status == 400
    assert line


def test_what_is_not_known_here_is_passed_over(url):
    assert get(url, f"{PATH}?search=x&limit=3")["count"] == 3


def test_what_comes_later_is_served_and_a_lake_without_news_has_none(make_client, tmp_path):
    lake = Lake(str(tmp_path / "lake"))
    settings = Settings(lake.uri, open_access=True, log_requests=False, refresh_s=0.0)
    with running(create_app(settings, clock)) as url:
        client = make_client(url)
        assert list(client.list_ticker_news("AAPL")) == []
        for title in ("first", "second"):
            NewsTable(lake).write(rows(article(1, title=title)), title)
            assert [one.title for one in client.list_ticker_news("AAPL")] == [title]


def test_it_is_in_the_document(url):
    document = json.loads(urlopen(f"{url}/openapi.json").read())
    operation: dict[str, Any] = document["paths"][PATH]["get"]
    names = {parameter["name"] for parameter in operation["parameters"]}
    assert {"ticker", "published_utc", "sort", "order", "limit", "cursor"} <= names
