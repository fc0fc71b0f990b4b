"""Reference data as the vendor's own clients read it."""

from __future__ import annotations

from datetime import date

import massive
import pytest

from fibflow.tests.serving.compat.answers import get, refused

ACTIVE = ["AAPL", "BRK A", "BRK.B", "MSFT", "NOBARS", "SPLT"]


def tickers(client, **conditions):
    return [one.ticker for one in client.list_tickers(**conditions)]


@pytest.mark.parametrize("limit", [1, 2, 3, 6, 1000])
def test_pages_of_tickers(client, limit):
    assert tickers(client, limit=limit) == ACTIVE
    assert tickers(client, limit=limit, order="desc") == ACTIVE[::-1]


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({"active": True}, ACTIVE),
        ({"active": False}, ["GONE"]),
        ({"ticker": "AAPL"}, ["AAPL"]),
        ({"ticker": "NOSUCH"}, []),
        ({"ticker_gte": "BRK.B", "ticker_lt": "NOBARS"}, ["BRK.B", "MSFT"]),
        ({"ticker_gt": "BRK.B", "ticker_lte": "NOBARS"}, ["MSFT", "NOBARS"]),
        ({"type": "ETF"}, ["NOBARS"]),
        ({"market": "stocks"}, ACTIVE),
        ({"market": "crypto"}, []),
        ({"exchange": "XNAS"}, ["AAPL", "SPLT"]),
        ({"search": "berk"}, ["BRK.B"]),
        ({"search": "aap"}, ["AAPL"]),
        ({"cik": "320193"}, ["AAPL"]),
        ({"cusip": "037833100"}, []),
        ({"date": "2024-02-29"}, ["AAPL", "BRK A", "BRK.B", "GONE", "MSFT", "NOBARS", "SPLT"]),
        ({"date": "2024-03-01"}, ACTIVE),
        ({"date": "1980-12-11", "exchange": "XNAS"}, ["SPLT"]),
    ],
)
def test_conditions(client, conditions, expected):
    assert tickers(client, limit=2, **conditions) == expected


def test_tickers_by_name(client):
    named = [one for one in tickers(client, sort="name", limit=2) if one not in ("BRK A", "MSFT")]
    assert named == ["NOBARS", "AAPL", "BRK.B", "SPLT"]
    assert sorted(tickers(client, sort="name", limit=2)) == ACTIVE


def test_what_is_known_of_a_ticker(client):
    found = client.get_ticker_details("AAPL")
    assert (found.ticker, found.name, found.type, found.primary_exchange) == (
        "AAPL",
        "Apple Inc.",
        "CS",
        "XNAS",
    )
    assert (found.market, found.locale, found.currency_name) == ("stocks", "us", "usd")
    assert (found.cik, found.list_date, found.active) == ("0000320193", "1980-12-12", True)
    gone = client.get_ticker_details("GONE", date="2024-02-29")
    assert (gone.active, gone.delisted_utc) == (False, "2024-03-01T00:00:00Z")


def test_a_ticker_of_which_only_bars_are_known(raw_url, client):
    assert client.get_ticker_details("MSFT").ticker == "MSFT"
    assert set(get(raw_url, "/v3/reference/tickers/MSFT")["results"]) == {
        "ticker",
        "market",
        "locale",
        "active",
    }


@pytest.mark.parametrize("path", ["NOSUCH", "aapl", "AAPL?date=1970-01-01", "GONE?date=2024-03-01"])
def test_an_unknown_ticker_is_not_found(raw_url, path):
    assert refused(raw_url, f"/v3/reference/tickers/{path}")[0] == 404


def test_types_are_not_taken_for_a_ticker(client):
    found = client.get_ticker_types()
    assert {"CS", "ETF", "ADRC"} <= {one.code for one in found}
    assert client.get_ticker_types(asset_class="crypto") == []


def splits(client, **conditions):
    return [(one.ticker, one.execution_date) for one in client.list_splits(**conditions)]


GONE = [("GONE", "2022-05-02"), ("GONE", "2019-05-02")]
SPLT = [("SPLT", "2024-03-13")]


@pytest.mark.parametrize("limit", [1, 2, 3, 1000])
def test_splits_in_pages_the_latest_first(client, limit):
    assert splits(client, limit=limit) == SPLT + GONE
    assert splits(client, limit=limit, order="asc", sort="execution_date") == (SPLT + GONE)[::-1]


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({"ticker": "GONE"}, GONE),
        ({"ticker": "AAPL"}, []),
        ({"ticker_gt": "GONE"}, SPLT),
        ({"execution_date": "2019-05-02"}, GONE[1:]),
        ({"execution_date": date(2019, 5, 2)}, GONE[1:]),
        ({"execution_date_gt": "2019-05-02"}, SPLT + GONE[:1]),
        ({"execution_date_gte": "2022-05-02", "execution_date_lt": "2024-03-13"}, GONE[:1]),
        ({"reverse_split": True}, GONE[:1]),
        ({"reverse_split": False}, SPLT + GONE[1:]),
    ],
)
def test_conditions_on_splits(client, conditions, expected):
    assert splits(client, **conditions) == expected


def test_what_a_split_says(client):
    [found] = client.list_splits("SPLT")
    assert (found.id, found.split_from, found.split_to) == ("a1", 1, 4)


def test_massives_own_splits_and_dividends(raw_url):
    found = get(raw_url, "/stocks/v1/splits?ticker=GONE&limit=1&sort=execution_date.asc")
    assert [one["execution_date"] for one in found["results"]] == ["2019-05-02"]
    more = get(raw_url, found["next_url"].removeprefix(raw_url))
    assert [one["adjustment_type"] for one in more["results"]] == ["reverse_split"]
    assert "next_url" not in more
    assert get(raw_url, "/stocks/v1/dividends?ticker=GONE")["results"] == []


def test_massives_own_call(raw_url):
    client = massive.RESTClient(api_key="none", base=raw_url)
    found = [
        (one.ticker, one.execution_date, one.adjustment_type) for one in client.list_stocks_splits(limit=1)
    ]
    assert found == [(*SPLT[0], "forward_split"), (*GONE[0], "reverse_split"), (*GONE[1], "forward_split")]
    reverse = client.list_stocks_splits(adjustment_type="reverse_split", sort="execution_date.asc")
    assert [(one.ticker, one.execution_date) for one in reverse] == GONE[:1]
    assert list(client.list_stocks_dividends(ticker="AAPL")) == []


def test_a_lake_without_dividends(client):
    assert list(client.list_dividends("AAPL")) == []


@pytest.mark.parametrize(
    "path",
    [
        "tickers?limit=1001",
        "tickers?limit=-1",
        "tickers?sort=price",
        "tickers?order=up",
        "tickers?active=2",
        "tickers?date=today",
        "tickers?cursor=eyJhIjoxfQ",
        "tickers/AAPL?date=20240101",
        "splits?execution_date.gte=2024-1-1",
        "splits?reverse_split=perhaps",
    ],
)
def test_what_cannot_be_is_refused_with_a_reason(raw_url, path):
    assert refused(raw_url, f"/v3/reference/{path}")[0] == 400
