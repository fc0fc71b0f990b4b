"""Snapshots of a lake alone, as the vendor's own clients read them; with a live store in test_sights."""

from __future__ import annotations

from datetime import UTC, date, datetime, time

import pytest

from fibflow.tests.serving.compat.answers import get, ms, refused

HOME = "/v2/snapshot/locale/us/markets/stocks"


def last_days(made, symbol, count=2):
    return made.rows(f"SELECT * FROM adjusted WHERE symbol = '{symbol}' ORDER BY session DESC LIMIT {count}")


def last_minute(made, symbol):
    return made.rows(f"SELECT * FROM minutes WHERE symbol = '{symbol}' ORDER BY ts DESC LIMIT 1")[0]


def values(bar):
    return bar.open, bar.high, bar.low, bar.close, bar.volume, bar.vwap


def row_of(row):
    return tuple(row[name] for name in ("open", "high", "low", "close", "volume", "vwap"))


def test_one_ticker(raw, client):
    found = client.get_snapshot_ticker("stocks", "AAPL")
    (today, before), minute = last_days(raw, "AAPL"), last_minute(raw, "AAPL")
    assert (values(found.day), values(found.prev_day)) == (row_of(today), row_of(before))
    assert values(found.min) == row_of(minute)
    assert found.min.accumulated_volume == today["volume"]
    # After hours the last price is that of the last minute.
    assert found.last_trade.price == minute["close"]
    assert found.todays_change == minute["close"] - before["close"]
    assert found.todays_change_percent == pytest.approx((minute["close"] / before["close"] - 1) * 100)
    assert found.updated == round(datetime(2024, 4, 5, 21, 30, tzinfo=UTC).timestamp()) * 10**9
    assert found.last_quote is None


def test_what_is_not_known_of_a_ticker_is_left_out(raw_url, client):
    found = client.get_snapshot_ticker("stocks", "MSFT")
    assert (found.min, found.last_quote) == (None, None)
    assert not {"min", "lastQuote"} & get(raw_url, f"{HOME}/tickers/MSFT")["ticker"].keys()


def test_the_minute_is_labelled_in_milliseconds(raw_url):
    found = get(raw_url, f"{HOME}/tickers/AAPL")["ticker"]["min"]
    assert (found["t"], type(found["n"])) == (ms(date(2024, 4, 5), time(17, 29)), int)


def test_all_tickers_are_those_that_traded_lately(client):
    found = client.get_snapshot_all("stocks")
    assert [one.ticker for one in found] == ["AAPL", "BRK A", "BRK.B", "MSFT", "SPLT"]


def test_all_tickers_say_what_each_says(client):
    every = {one.ticker: one for one in client.get_snapshot_all("stocks")}
    for ticker in every:
        one = client.get_snapshot_ticker("stocks", ticker)
        assert (one.day, one.prev_day, one.last_trade) == (
            every[ticker].day,
            every[ticker].prev_day,
            every[ticker].last_trade,
        )


def test_some_tickers_in_the_order_asked_for_without_unknown_ones(client):
    found = client.get_snapshot_all("stocks", ["MSFT", "NOSUCH", "AAPL", "GONE"])
    assert [one.ticker for one in found] == ["MSFT", "AAPL", "GONE"]


def test_many_tickers_are_as_few(client):
    few = client.get_snapshot_all("stocks", ["AAPL", "GONE", "MSFT"])
    many = client.get_snapshot_all("stocks", ["AAPL", "GONE", "MSFT", *(f"X{n}" for n in range(40))])
    assert many == few


@pytest.mark.parametrize(("direction", "sign"), [("gainers", 1), ("losers", -1)])
def test_those_that_moved_most(raw, client, direction, sign):
    moved = []
    for symbol in ("AAPL", "BRK A", "BRK.B", "MSFT", "SPLT"):
        today, before = last_days(raw, symbol)
        price = last_minute(raw, symbol)["close"] if symbol in ("AAPL", "SPLT") else today["close"]
        change = price / before["close"] - 1
        if change * sign > 0 and today["volume"] >= 10_000:
            moved.append((-change * sign, symbol))
    found = client.get_snapshot_direction("stocks", direction)
    assert [one.ticker for one in found] == [symbol for _, symbol in sorted(moved)]
    assert moved


def test_an_unknown_ticker_is_not_found(raw_url):
    assert refused(raw_url, f"{HOME}/tickers/NOSUCH")[0] == 404


def test_too_many_tickers_are_refused(raw_url):
    many = ",".join(f"X{n}" for n in range(251))
    assert refused(raw_url, f"{HOME}/tickers?tickers={many}")[0] == 400
    assert refused(raw_url, f"/v3/snapshot?ticker.any_of={many}")[0] == 400


def test_universal_snapshots_tell_of_unknown_tickers_in_their_place(raw, client):
    found = list(client.list_universal_snapshots(ticker_any_of=["SPLT", "NOSUCH", "AAPL"]))
    assert [(one.ticker, one.error) for one in found] == [
        ("AAPL", None),
        ("NOSUCH", "NOT_FOUND"),
        ("SPLT", None),
    ]
    apple, nobody = found[:2]
    today, before = last_days(raw, "AAPL")
    minute = last_minute(raw, "AAPL")
    assert (apple.name, apple.type, apple.market_status, nobody.session) == (
        "Apple Inc.",
        "stocks",
        "open",
        None,
    )
    assert (apple.session.open, apple.session.close, apple.session.volume) == (
        today["open"],
        today["close"],
        today["volume"],
    )
    assert (apple.session.previous_close, apple.session.price) == (before["close"], minute["close"])
    assert apple.session.change == minute["close"] - before["close"]
    assert apple.last_trade.price == minute["close"]


@pytest.mark.parametrize("limit", [1, 2, 4, 250])
def test_universal_snapshots_of_all_tickers_in_pages(client, limit):
    everyone = ["AAPL", "BRK A", "BRK.B", "GONE", "MSFT", "SPLT"]
    assert [one.ticker for one in client.list_universal_snapshots(limit=limit)] == everyone
    found = client.list_universal_snapshots(limit=limit, order="desc", ticker_gt="AAPL", ticker_lte="MSFT")
    assert [one.ticker for one in found] == everyone[1:5][::-1]


def test_of_other_markets_there_are_none(client):
    assert list(client.list_universal_snapshots(type="crypto")) == []
