"""The stand-in's news: made by a seed, served as the vendor does, changed to order."""

from __future__ import annotations

import json

import pytest

from fibflow.serving.standin.news import make_news
from fibflow.tests.serving.standin.conftest import FIRST, LAST
from fibflow.tests.vendors import standin


@pytest.fixture(scope="module")
def teller():
    with standin(symbols=12, first=FIRST, last=LAST, minutes=0, news=9, seed=3) as vendor:
        yield vendor


def test_a_seed_makes_the_same_articles_of_companies_that_are_listed(market):
    made = make_news(market, 9)
    assert made == make_news(market, 9)
    assert len(made) == 9 * len(market.sessions) == len({one["id"] for one in made})
    assert [one["published_utc"] for one in made] == sorted(one["published_utc"] for one in made)
    names = {name for names in market.names for name in names}
    assert {ticker for one in made for ticker in one["tickers"]} <= names
    assert {len(one["tickers"]) for one in made} >= {0, 1, 2, 3}
    assert any("insights" not in one for one in made)


def test_clients_read_them(package, teller, market):
    client = package.RESTClient("any", base=teller.url)
    made = make_news(market, 9)
    found = list(client.list_ticker_news(order="asc", sort="published_utc", limit=100))
    assert [(one.id, one.title, one.published_utc) for one in found] == [
        (one["id"], one["title"], one["published_utc"]) for one in made
    ]
    assert teller.names["news"] > 3


def test_articles_come_and_change_to_order(teller):
    known = json.loads(teller.news()["article"][-1].as_py())
    late = {**known, "id": "late", "published_utc": "2024-02-02T00:00:00Z"}
    assert teller.publish({**known, "title": "Corrected"}, late, known | {"title": "Again"}) == 2
    rows = {row["id"]: row["title"] for row in teller.news().to_pylist()}
    assert (rows["late"], rows[known["id"]]) == (known["title"], "Again")
    assert teller.publish(late) == 0
    with pytest.raises(ValueError, match="an article without time"):
        teller.publish({**known, "published_utc": "soon"})


def test_a_market_may_have_none():
    with standin(symbols=2, first=FIRST, last=LAST, minutes=0) as vendor:
        assert len(vendor.news()) == 0
