"""The stand-in over REST, as both of the vendor's clients see it: data, faults, keys, plans, orders."""

from __future__ import annotations

import http.client
import json
import time
from collections import Counter
from datetime import date

import massive
import pytest
import urllib3

from fibflow.tests.serving.standin.conftest import FIRST, LAST, now
from fibflow.tests.vendors import standin

GROUPED = "/v2/aggs/grouped/locale/us/market/stocks/2024-03-04"
#: A session within the market.
DAY = date(2024, 3, 4)


def grouped(client, day=DAY):
    return client.get_grouped_daily_aggs(day.isoformat(), adjusted=False)


def ask(vendor, path=GROUPED, key=None):
    """Status, headers and body of one call: no client of anybody's asks again."""
    at = http.client.HTTPConnection(vendor.feed, timeout=30)
    try:
        at.request("GET", path, headers={} if key is None else {"Authorization": f"Bearer {key}"})
        answer = at.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        at.close()


def day_of(vendor, day=DAY):
    return {row["symbol"]: row for row in vendor.days().to_pylist() if row["session"] == day}


VALUES = ("open", "high", "low", "close", "volume", "vwap")


def test_a_session_of_all_symbols(client, vendor, market):
    found = {bar.ticker: bar for bar in grouped(client)}
    expected = {row["symbol"]: row for row in market.daily.to_pylist() if row["session"] == DAY}
    assert set(found) == set(expected)
    for symbol, bar in found.items():
        assert [getattr(bar, name) for name in VALUES] == [expected[symbol][name] for name in VALUES]
        assert bar.transactions == expected[symbol]["trade_count"]
    assert grouped(client, date(2024, 3, 29)) == []  # Good Friday
    assert vendor.names == {"grouped": 2}
    assert vendor.calls[GROUPED] == 1


def test_ranges_of_days_and_minutes(client, vendor, market):
    split = market.splits.to_pylist()[0]
    symbol = split["symbol"]
    for adjusted in (False, True):
        bars = list(client.list_aggs(symbol, 1, "day", FIRST, LAST, adjusted=adjusted, limit=7))
        rows = [row for row in market.daily.to_pylist() if row["symbol"] == symbol]
        assert len(bars) == len(rows) > 30
        ratio = split["split_from"] / split["split_to"]
        for bar, row in zip(bars, rows, strict=True):
            scale = ratio if adjusted and row["session"] < split["execution_date"] else 1
            assert bar.close == pytest.approx(row["close"] * scale)
    session = market.sessions[-1]
    minutes = [row for row in market.minutes(session).to_pylist() if row["symbol"] == symbol]
    bars = list(client.list_aggs(symbol, 1, "minute", session, session, adjusted=False, limit=50_000))
    assert [(bar.timestamp, bar.close, bar.volume) for bar in bars] == [
        (round(row["ts"].timestamp() * 1000), row["close"], row["volume"]) for row in minutes
    ]
    assert vendor.names["minutes"] == 1
    assert vendor.names["days"] > 8


def test_reference_data(client, vendor, market):
    known = {row["symbol"]: row for row in market.symbols.to_pylist()}
    found = [one for active in (True, False) for one in client.list_tickers(active=active, limit=1000)]
    assert {one.ticker: one.active for one in found} == {name: row["active"] for name, row in known.items()}
    gone = next(one for one in found if not one.active)
    assert gone.delisted_utc[:10] == str(known[gone.ticker]["delisted"])
    assert client.get_ticker_details(found[0].ticker).list_date == str(known[found[0].ticker]["listed"])
    assert Counter(one.id for one in client.list_splits()) == Counter(market.splits["id"].to_pylist())
    paid = {row["id"]: row for row in market.dividends.to_pylist()}
    dividends = list(client.list_dividends(limit=3))
    assert sorted(one.id for one in dividends) == sorted(paid)
    assert all(one.cash_amount == paid[one.id]["cash_amount"] for one in dividends)
    rename = market.renames.to_pylist()[0]
    for name in (rename["symbol"], rename["old_symbol"], rename["composite_figi"]):
        told = client.get_ticker_events(name)
        assert [event["ticker_change"]["ticker"] for event in told.events] == [
            rename["old_symbol"],
            rename["symbol"],
        ]
        assert told.events[1]["date"] == str(rename["date"])


def test_a_correction_and_what_is_hidden_show_everywhere(client, vendor, market):
    symbol = sorted(day_of(vendor))[0]
    assert vendor.correct(symbol, DAY, close=1.5, low=1.25) == 1
    bar = next(bar for bar in grouped(client) if bar.ticker == symbol)
    assert (bar.close, bar.low) == (1.5, 1.25)
    [bar] = client.list_aggs(symbol, 1, "day", DAY, DAY, adjusted=False)
    assert bar.close == 1.5
    assert day_of(vendor)[symbol]["close"] == 1.5
    vendor.hide([symbol], DAY, DAY)
    assert symbol not in {bar.ticker for bar in grouped(client)}
    vendor.hide(None, DAY, DAY)
    assert grouped(client) == []
    vendor.heal()
    assert {bar.ticker: bar.close for bar in grouped(client)} == {
        row["symbol"]: row["close"] for row in market.daily.to_pylist() if row["session"] == DAY
    }


def test_refusals_that_are_asked_again(client, vendor):
    vendor.order("429", path="grouped", times=1, seconds=0)
    vendor.order("500", path="grouped", times=2)
    assert len(grouped(client)) > 5
    assert vendor.answers == {"429": 1, "500": 2, "200": 1}
    vendor.order("500", path="grouped")
    with pytest.raises(urllib3.exceptions.MaxRetryError):
        grouped(client)
    assert list(client.list_splits())


def test_refusals_that_are_final(package, client, vendor):
    for kind, told in (("401", "Unknown API Key"), ("403", "not entitled")):
        vendor.order(kind, times=1)
        with pytest.raises(package.exceptions.BadResponse, match=told):
            grouped(client)


def test_what_a_refusal_says(vendor):
    vendor.order("429", seconds=7)
    status, headers, body = ask(vendor)
    assert (status, headers["Retry-After"]) == (429, "7")
    assert json.loads(body).keys() == {"status", "request_id", "error"}


def test_an_answer_that_breaks_off(client, vendor):
    vendor.order("cut", times=1)
    with pytest.raises(http.client.IncompleteRead) as caught:
        ask(vendor)
    assert caught.value.partial.startswith(b'{"status":"OK"')
    assert caught.value.expected
    vendor.order("cut", times=2)
    assert len(grouped(client)) > 5
    assert vendor.answers["cut"] == 3


def test_nonsense_with_200(client, vendor):
    vendor.order("nonsense", times=2)
    status, _, body = ask(vendor)
    assert status == 200
    with pytest.raises(json.JSONDecodeError):
        json.loads(body)
    assert grouped(client) == []  # the clients say so in the log only
    assert len(grouped(client)) > 5


def test_answers_that_lack_something(client, vendor):
    every = len(grouped(client))
    vendor.order("partial", times=1, percent=25)
    assert len(grouped(client)) == every - round(every / 4)
    vendor.order("empty", times=1)
    assert grouped(client) == []
    assert len(grouped(client)) == every


def test_a_slow_answer(vendor):
    ask(vendor)
    vendor.order("slow", times=1, seconds=0.3)
    began = time.monotonic()
    assert ask(vendor)[0] == 200
    assert time.monotonic() - began >= 0.3
    vendor.order("slow", seconds=3_600)
    client = massive.RESTClient("any", base=vendor.url, read_timeout=0.2, retries=0)
    with pytest.raises(urllib3.exceptions.MaxRetryError):
        grouped(client)


def test_faults_as_the_command_line_names_them_and_what_cannot_be_ordered(vendor):
    vendor.faults("500:path=grouped:times=1")
    assert [ask(vendor)[0] for _ in range(2)] == [500, 200]
    for order in (
        lambda: vendor.order("501"),
        lambda: vendor.faults("500:often"),
        lambda: vendor.correct("A", DAY, clothes=1.0),
        lambda: vendor.feed_fault("flood", at=1),
        lambda: vendor.play(rate=-1),
        lambda: vendor.play(trades=2),
        lambda: vendor.play(date(2024, 2, 1)),
        lambda: vendor.play(tape="/nowhere"),
        lambda: vendor._ask("POST", "nonsense"),
    ):
        with pytest.raises(ValueError, match=r"\w"):
            order()


def test_keys_and_plans(package):
    with standin(
        symbols=5, first=FIRST, last=LAST, minutes=0, key="secret", plan="basic", clock=now
    ) as vendor:
        assert ask(vendor)[0] == ask(vendor, key="other")[0] == 401
        assert ask(vendor, f"{GROUPED}?apiKey=secret")[0] == 200
        client = package.RESTClient("secret", base=vendor.url, retries=0)
        assert len(grouped(client)) > 2
        for call in (
            lambda: client.get_last_trade("A"),
            lambda: client.get_snapshot_all("stocks"),
            lambda: grouped(client, date(2021, 3, 1)),
        ):
            with pytest.raises(package.exceptions.BadResponse, match="plan"):
                call()
        # The basic plan has five good calls a minute.
        statuses = [ask(vendor, key="secret")[0] for _ in range(4)]
        assert statuses == [200, 200, 200, 429]
        status, headers, _ = ask(vendor, key="secret")
        assert status == 429
        assert 1 <= int(headers["Retry-After"]) <= 60


def test_another_lake_is_served_and_left_alone(vendor):
    uri, before = vendor.lake.uri, vendor.days()
    with standin(lake=uri, clock=now) as other:
        symbol = sorted(day_of(other))[0]
        other.correct(symbol, DAY, close=2.5)
        assert day_of(other)[symbol]["close"] == 2.5
        assert other.market is None
    assert vendor.days().equals(before)
