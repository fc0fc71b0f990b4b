"""The last trade, and archived ones in pages, as the vendor's own clients read them."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from fibflow.tests.serving.compat.answers import ask, get, refused
from fibflow.tests.serving.compat.lakes import TRADED, TRADES

BEGIN = round(TRADED.timestamp()) * 1_000_000


def told(trades):
    return [(t.sip_timestamp, t.sequence_number, t.price, t.size, t.correction) for t in trades]


def written(trades=TRADES):
    return [
        ((BEGIN + at) * 1000, seq, price, size, correction) for at, seq, price, size, _, correction in trades
    ]


@pytest.mark.parametrize("limit", [1, 9, 20, 61, 100])
def test_pages_hold_each_trade_once(client, limit):
    assert told(client.list_trades("AAPL", limit=limit)) == written()[::-1]
    assert told(client.list_trades("AAPL", limit=limit, order="asc")) == written()


def test_what_a_trade_says(client):
    first, second = list(client.list_trades("AAPL", order="asc"))[:2]
    assert (first.conditions, second.conditions) == ([12, 37], None)
    assert (first.exchange, first.id, first.tape) == (4, "0", 3)


def test_a_cancel_or_correction_is_listed_as_it_came(client):
    assert [t.sequence_number for t in client.list_trades("AAPL") if t.correction == 12] == [40]


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({"timestamp_gte": TRADED + timedelta(seconds=3, microseconds=7)}, lambda at: at >= 3_000_007),
        ({"timestamp_gt": TRADED + timedelta(seconds=3, microseconds=7)}, lambda at: at > 3_000_007),
        ({"timestamp_lt": TRADED + timedelta(seconds=3, microseconds=7)}, lambda at: at < 3_000_007),
        ({"timestamp_lte": TRADED + timedelta(seconds=3, microseconds=7)}, lambda at: at <= 3_000_007),
        ({"timestamp": TRADED + timedelta(seconds=3, microseconds=7)}, lambda at: at == 3_000_007),
        ({"timestamp": date(2024, 4, 5)}, lambda at: at >= 86_400_000_000),
        ({"timestamp": "2024-04-04"}, lambda at: at < 86_400_000_000),
        ({"timestamp_gt": "2024-04-04"}, lambda at: at >= 86_400_000_000),
        ({"timestamp_gte": "2024-04-05"}, lambda at: at >= 86_400_000_000),
        ({"timestamp_lt": "2024-04-05"}, lambda at: at < 86_400_000_000),
        ({"timestamp_lte": "2024-04-04"}, lambda at: at < 86_400_000_000),
        ({"timestamp_gte": (BEGIN + 3_000_006) * 1000 + 1}, lambda at: at >= 3_000_007),
        # Clients make instants of doubles: nanoseconds are rounded to whole microseconds.
        ({"timestamp_gte": (BEGIN + 3_000_007) * 1000 + 400}, lambda at: at >= 3_000_007),
        ({"timestamp_gte": (BEGIN + 3_000_007) * 1000 + 600}, lambda at: at > 3_000_007),
    ],
)
def test_conditions_on_the_time(client, conditions, expected):
    found = client.list_trades("AAPL", order="asc", limit=7, **conditions)
    assert told(found) == written([trade for trade in TRADES if expected(trade[0])])


def test_a_ticker_without_trades_has_none(client):
    assert list(client.list_trades("MSFT")) == []


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=50001", "order=up", "sort=price", "timestamp=soon", "cursor=x"]
)
def test_what_cannot_be_is_refused_with_a_reason(raw_url, query):
    status, says = refused(raw_url, f"/v3/trades/AAPL?{query}")
    assert status == 400
    assert query.partition("=")[0] in says


def test_a_lake_without_ticks_says_so(served):
    status, says = refused(served, "/v3/trades/AAPL")
    assert (status, "pipelines.stream" in says) == (404, True)


def test_the_last_trade_is_the_last_price_with_its_source(raw, raw_url, client):
    [row] = raw.rows("SELECT close FROM minutes WHERE symbol = 'AAPL' ORDER BY ts DESC LIMIT 1")
    found = client.get_last_trade("AAPL")
    end = datetime(2024, 4, 5, 21, 30, tzinfo=UTC)
    assert (found.ticker, found.price, found.sip_timestamp) == (
        "AAPL",
        row["close"],
        round(end.timestamp()) * 10**9,
    )
    document = get(raw_url, "/v2/last/trade/AAPL")["results"]
    assert (document["source"], document["kind"]) == ("lake", "bar")
    assert refused(raw_url, "/v2/last/trade/NOSUCH")[0] == 404


def test_there_are_no_quotes_and_that_is_said(raw_url):
    status, document, _ = ask(raw_url, "/v2/last/nbbo/AAPL")
    assert (status, document["status"]) == (404, "NOT_FOUND")
    assert "quotes are not kept" in document["message"]
