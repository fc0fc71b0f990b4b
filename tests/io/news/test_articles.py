from __future__ import annotations

import json

import pytest

from fibflow.io.news.articles import (
    BAD_TICKERS,
    BAD_VALUES,
    NO_ID,
    NO_TIME,
    OF_THE_FUTURE,
    json_of,
    rows_of,
)
from fibflow.tests.io.news.samples import NOW, article, rows
from fibflow.transforms.schemas import ARTICLES

FULL = article(
    1,
    image_url="https://post.example.com/1.jpg",
    amp_url="https://post.example.com/amp/1",
    tickers=["AAPL", "BRK.B"],
    insights=[{"ticker": "AAPL", "sentiment": "positive", "sentiment_reasoning": 'It "grew", ünd so on.'}],
)


def told(found):
    return json.loads(json_of(found))


def test_an_article_comes_back_as_it_was():
    found = rows(FULL)
    assert found.schema == ARTICLES
    assert told(found) == [FULL]
    assert found.drop_columns(["published", "article"]).to_pylist() == [
        {"id": FULL["id"], "title": "Title 1", "publisher": "The Post", "tickers": "AAPL,BRK.B"}
    ]


def test_what_is_not_told_is_left_out_and_nothing_is_null():
    bare = {"id": "1", "published_utc": "2024-05-31T10:00:00Z"}
    nulls = dict.fromkeys(FULL, None) | bare
    insights = [{"ticker": "A", "sentiment": None}]
    found, refused = rows_of([nulls, {**bare, "id": "2", "insights": insights, "publisher": {}}], NOW)
    assert refused == []
    assert told(found) == [
        {**bare, "tickers": []},
        {**bare, "id": "2", "tickers": [], "insights": [{"ticker": "A"}]},
    ]


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("2024-05-31T10:00:00Z", "2024-05-31T10:00:00Z"),
        ("2024-05-31T10:00:00+02:00", "2024-05-31T08:00:00Z"),
        ("2024-05-31 10:00:00", "2024-05-31T10:00:00Z"),
        ("2024-05-31T10:00:00.25Z", "2024-05-31T10:00:00.250000Z"),
        ("2024-05-31", "2024-05-31T00:00:00Z"),
    ],
)
def test_times_are_instants(given, shown):
    assert told(rows(article(1, given)))[0]["published_utc"] == shown


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (article(1, id=None), NO_ID),
        (article(1, id=""), NO_ID),
        (article(1, id=7), NO_ID),
        (article(1, id="x" * 300), NO_ID),
        (article(1, published_utc=None), NO_TIME),
        (article(1, "soon"), NO_TIME),
        (article(1, "0001-01-01T00:00:00+10:00"), NO_TIME),
        (article(1, published_utc=1717149600), NO_TIME),
        (article(1, "2024-06-02T12:00:01Z"), OF_THE_FUTURE),
        (article(1, tickers="AAPL"), BAD_TICKERS),
        (article(1, tickers=["AAPL", None]), BAD_TICKERS),
        (article(1, tickers=["A,B"]), BAD_TICKERS),
        (article(1, tickers=["A B"]), BAD_TICKERS),
        (article(1, title=5), BAD_VALUES),
        (article(1, publisher="The Post"), BAD_VALUES),
        (article(1, publisher={"name": ["The Post"]}), BAD_VALUES),
        (article(1, keywords=[1]), BAD_VALUES),
        (article(1, insights={"ticker": "A"}), BAD_VALUES),
        (article(1, insights=["A"]), BAD_VALUES),
        (["no article"], BAD_VALUES),
        (None, BAD_VALUES),
    ],
)
def test_one_that_is_wrong_is_refused_with_a_reason_and_the_others_are_taken(wrong, reason):
    found, refused = rows_of([article(2), wrong, article(3)], NOW)
    assert [(one.reason, one.article) for one in refused] == [(reason, wrong)]
    assert len(found) == 2


def test_clocks_may_differ_by_a_day():
    assert len(rows(article(1, "2024-06-02T12:00:00Z"))) == 1


def test_of_one_id_the_last_counts_and_a_ticker_counts_once():
    found = rows(article(1, title="first"), article(2), article(1, title="last", tickers=["A", "B", "A"]))
    assert found["title"].to_pylist() == ["last", "Title 2"]
    assert found["tickers"].to_pylist() == ["A,B", "AAPL"]
