"""Dividends, and the names of companies, through the vendor's own clients."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import Any

import massive
import pyarrow as pa
import pytest

from fibflow.io.lake import Lake
from fibflow.io.reference import DIVIDENDS, RENAMES, SYMBOLS, upsert
from fibflow.serving.app import create_app
from fibflow.serving.settings import Settings
from fibflow.tests.serving.compat.answers import get, refused
from fibflow.tests.serving.compat.lakes import clock
from fibflow.tests.serving.servers import running

#: (symbol, ex-dividend date, cash amount, type, frequency, pay date, id)
PAID = [
    ("META", date(2024, 2, 21), 0.5, "CD", 4, date(2024, 3, 26), "m1"),
    ("META", date(2024, 6, 14), 0.5, "CD", 4, date(2024, 6, 26), "m2"),
    ("MSFT", date(2024, 2, 14), 0.75, "CD", 4, None, "CD"),
    ("MSFT", date(2024, 2, 14), 3.0, "SC", 0, None, "SC"),
    ("OLD", date(2019, 2, 14), 0.1, None, None, None, ""),
]
#: From the date on what was the second is the first; FB had been THE before.
NAMES = [("META", "FB", date(2022, 6, 9)), ("FB", "THE", date(2012, 5, 18))]


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> Iterator[str]:
    lake = Lake(str(tmp_path_factory.mktemp("dividends") / "lake"))
    symbols: list[dict[str, Any]] = [
        {"symbol": "META", "name": "Meta", "composite_figi": "BBG1", "share_class_figi": "BBG2", "cik": "7"},
        {"symbol": "FB", "composite_figi": "BBG1", "active": False, "delisted": date(2022, 6, 9)},
        {"symbol": "MSFT", "name": "Microsoft", "listed": date(1986, 3, 13), "active": True},
        {"symbol": "BARE"},
    ]
    upsert(lake.table(SYMBOLS), pa.Table.from_pylist(symbols, SYMBOLS.schema), "symbols")
    names = ("symbol", "ex_dividend_date", "cash_amount", "dividend_type", "frequency", "pay_date", "id")
    paid = [dict(zip(names, row, strict=True)) for row in PAID]
    upsert(lake.table(DIVIDENDS), pa.Table.from_pylist(paid, DIVIDENDS.schema), "dividends")
    renames = [dict(zip(("symbol", "old_symbol", "date"), row, strict=True)) for row in NAMES]
    upsert(lake.table(RENAMES), pa.Table.from_pylist(renames, RENAMES.schema), "renames")
    settings = Settings(lake.uri, open_access=True, threads=2, log_requests=False)
    with running(create_app(settings, clock)) as address:
        yield address


@pytest.fixture
def client(make_client, url):
    return make_client(url)


def of(found):
    return [(one.ticker, one.ex_dividend_date, one.cash_amount) for one in found]


def rows(*places):
    return [(PAID[at][0], str(PAID[at][1]), PAID[at][2]) for at in places]


@pytest.mark.parametrize(
    ("conditions", "places"),
    [
        ({}, [1, 0, 3, 2, 4]),
        ({"order": "asc"}, [4, 2, 3, 0, 1]),
        ({"ticker": "META"}, [1, 0]),
        ({"ticker": "NOSUCH"}, []),
        ({"ticker_gt": "META"}, [3, 2, 4]),
        ({"ex_dividend_date": date(2024, 2, 14)}, [3, 2]),
        ({"ex_dividend_date_gte": "2024-02-21"}, [1, 0]),
        ({"ex_dividend_date_lt": "2024-02-14"}, [4]),
        ({"pay_date_gt": "2024-03-26"}, [1]),
        ({"record_date_gt": "1999-01-01"}, []),
        ({"cash_amount_gt": 0.5}, [3, 2]),
        ({"cash_amount_gte": 0.5, "cash_amount_lt": 0.75}, [1, 0]),
        ({"cash_amount": 0.1}, [4]),
        ({"frequency": 4, "limit": 1}, [1, 0, 2]),
        ({"dividend_type": "SC"}, [3]),
        ({"sort": "ticker", "order": "asc", "limit": 2}, [0, 1, 2, 3, 4]),
        ({"sort": "pay_date", "order": "desc", "frequency": 4}, [1, 0, 2]),
    ],
)
def test_conditions_on_dividends(client, conditions, places):
    assert of(client.list_dividends(**conditions)) == rows(*places)


def test_what_a_dividend_says(client):
    [found] = client.list_dividends("META", ex_dividend_date="2024-02-21")
    assert (found.id, found.dividend_type, found.frequency, found.pay_date) == ("m1", "CD", 4, "2024-03-26")
    assert found.record_date is None
    ids = [one.id for one in client.list_dividends()]
    assert len(set(ids)) == len(PAID)
    assert all(ids)


def test_massives_own_call(url):
    client = massive.RESTClient(api_key="none", base=url)
    assert of(client.list_stocks_dividends(sort="ex_dividend_date.asc", limit=2)) == rows(4, 2, 3, 0, 1)
    assert of(client.list_stocks_dividends(ticker_any_of="META,OLD")) == rows(1, 0, 4)
    [special] = client.list_stocks_dividends(distribution_type="special")
    assert (special.ticker, special.distribution_type, special.frequency) == ("MSFT", "special", 0)
    assert of(client.list_stocks_dividends(frequency_lt=4)) == rows(3)


@pytest.mark.parametrize("name", ["META", "FB", "BBG1", "BBG2"])
def test_the_names_of_a_company(client, name):
    found = client.get_ticker_events(name)
    assert (found.name, found.composite_figi, found.cik) == ("Meta", "BBG1", "7")
    assert [(event["type"], event["date"], event["ticker_change"]["ticker"]) for event in found.events] == [
        ("ticker_change", "2003-09-10", "THE"),
        ("ticker_change", "2012-05-18", "FB"),
        ("ticker_change", "2022-06-09", "META"),
    ]


def test_who_was_never_renamed_has_one_name(client):
    for name, since in (("MSFT", "1986-03-13"), ("BARE", "2003-09-10")):
        found = client.get_ticker_events(name)
        assert [(event["date"], event["ticker_change"]) for event in found.events] == [
            (since, {"ticker": name})
        ]
    assert client.get_ticker_events("MSFT", types="listing").events == []


def test_a_name_that_nobody_has_and_what_cannot_be(url):
    assert refused(url, "/vX/reference/tickers/NOSUCH/events")[0] == 404
    for query in (
        "cash_amount=much",
        "pay_date.gt=soon",
        "limit=0",
        "sort=cash",
        "order=up",
        "cursor=eyJhIjoxfQ",
    ):
        assert refused(url, f"/v3/reference/dividends?{query}")[0] == 400


def test_names_that_go_round_end(tmp_path):
    lake = Lake(str(tmp_path / "lake"))
    known = pa.Table.from_pylist([{"symbol": "A"}, {"symbol": "B"}], SYMBOLS.schema)
    upsert(lake.table(SYMBOLS), known, "symbols")
    pairs = [("A", "B", date(2020, 1, 2)), ("B", "A", date(2021, 1, 4))]
    renames = [dict(zip(("symbol", "old_symbol", "date"), row, strict=True)) for row in pairs]
    upsert(lake.table(RENAMES), pa.Table.from_pylist(renames, RENAMES.schema), "renames")
    with running(create_app(Settings(lake.uri, open_access=True, log_requests=False), clock)) as url:
        found = get(url, "/vX/reference/tickers/A/events")["results"]["events"]
    assert {event["ticker_change"]["ticker"] for event in found} == {"A", "B"}
