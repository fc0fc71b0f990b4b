from __future__ import annotations

import gzip
import json
import logging
import random
import threading
from datetime import UTC, date, datetime

import pytest

from fibflow.io.vendor.calls import ATTEMPTS, ATTEMPTS_TO_REACH
from fibflow.io.vendor.errors import NoAccess, Unreachable, VendorAway, VendorError, WrongKey
from fibflow.io.vendor.rest import Vendor
from fibflow.tests.io.vendor.scripted import Answer, scripted
from fibflow.tests.vendors import standin

KEY = "a-secret-key"
DAY = date(2024, 3, 4)
BAR = {"T": "A", "o": 1, "h": 2.5, "l": 0.5, "c": 2, "v": 10.25, "vw": 1.5, "t": 1709586000000, "n": 3}
NONE = {"status": "OK", "resultsCount": 0}


class Waits:
    """Time that passes where somebody waits for it."""

    def __init__(self):
        self.now, self.slept, self.lock = 0.0, [], threading.Lock()

    def clock(self):
        return self.now

    def sleep(self, seconds):
        with self.lock:
            self.now += seconds
            self.slept.append(seconds)


def vendor_at(url, waits=None, rate=1e6):
    waits = waits or Waits()
    clock = datetime(2024, 3, 5, tzinfo=UTC)
    return Vendor(
        url, KEY, rate, waits.clock, waits.sleep, now=lambda: clock, dice=random.Random(0), timeout=5.0
    )


def ok(*bars, **more):
    return {"status": "OK", "resultsCount": len(bars), "adjusted": False, "results": list(bars), **more}


def test_bars_keep_their_fractions_and_lack_what_is_not_given():
    bare = {"T": "B", "o": 1.0, "h": 1.0, "l": 1.0, "c": 1.0, "v": 7, "t": 1709586000000, "otc": True}
    with scripted([Answer(body=ok(BAR, bare))]) as server:
        vendor = vendor_at(server.url)
        rows = vendor.grouped_daily(DAY).to_pylist()
    assert rows[0]["volume"] == 10.25
    assert rows[0]["ts"] == datetime(2024, 3, 4, 21, tzinfo=UTC)
    assert (rows[1]["vwap"], rows[1]["trade_count"], rows[1]["volume"]) == (None, None, 7.0)
    assert server.keys == [f"Bearer {KEY}"]
    assert "/2024-03-04?" in server.paths[0]
    assert "adjusted=false" in server.paths[0]
    assert KEY not in server.paths[0]
    assert vendor.calls == 1


def test_a_range_is_read_over_all_its_pages_and_kept_to_its_bounds():
    def minute(number):
        return {**{k: v for k, v in BAR.items() if k != "T"}, "t": 1709586000000 + number * 60_000}

    pages = [
        Answer(
            body={
                **ok(minute(1), minute(0)),
                "ticker": "BRK/A",
                "next_url": "https://elsewhere/v2/next?cursor=2",
            }
        ),
        Answer(503),
        Answer(body={**ok(minute(2)), "ticker": "BRK/A", "next_url": "https://elsewhere/v2/next?cursor=3"}),
        Answer(body={**ok(minute(3)), "ticker": "BRK/A"}),
    ]
    start = 1709586000000 * 1000
    with scripted(pages) as server:
        rows = vendor_at(server.url).minutes("BRK/A", start, start + 3 * 60_000_000)
    assert [stamp.minute for stamp in rows["ts"].to_pylist()] == [0, 1, 2]
    assert set(rows["symbol"].to_pylist()) == {"BRK/A"}
    assert server.paths[0].startswith("/v2/aggs/ticker/BRK%2FA/range/1/minute/1709586000000/1709586179999?")
    # A page that failed is asked for alone.
    assert server.paths[1:] == ["/v2/next?cursor=2", "/v2/next?cursor=2", "/v2/next?cursor=3"]


def test_pages_that_lead_in_a_circle_end():
    page = Answer(body={**ok(), "next_url": "https://elsewhere/again"})
    with scripted([page]) as server, pytest.raises(VendorError, match="circle"):
        vendor_at(server.url).daily("A", DAY, DAY)


WRONG = {
    "no JSON": b"<html>",
    "half of it": json.dumps(ok(BAR)).encode()[:-20],
    "another form": [1, 2],
    "another status": {"status": "ERROR", "error": "no"},
    "results of another form": {"status": "OK", "results": {"a": 1}},
    "results that are none": {"status": "OK", "results": [3]},
    "fewer than it says": {**ok(BAR), "resultsCount": 2},
    "none of what it says": {"status": "OK", "resultsCount": 2},
    "text for a number": ok({**BAR, "c": "2"}),
    "no symbol": ok({k: v for k, v in BAR.items() if k != "T"}),
    "no time": ok({**BAR, "t": None}),
    "a time beyond all": ok({**BAR, "t": 2**62}),
    "adjusted prices": {**ok(BAR), "adjusted": True},
    "a next page that is none": {**ok(BAR), "next_url": 3},
    "a next page elsewhere": {**ok(BAR), "next_url": "@127.0.0.1:1/"},
}


@pytest.mark.parametrize("body", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_answer_is_asked_for_again_and_never_taken_for_none(body):
    call = "daily" if isinstance(body, dict) and "next_url" in body else "grouped"
    answers = [Answer(body=body), Answer(body=body), Answer(body=ok(BAR))]
    with scripted(answers) as server:
        vendor = vendor_at(server.url)
        rows = vendor.grouped_daily(DAY) if call == "grouped" else vendor.daily("A", DAY, DAY)
    assert len(rows) == 1
    assert vendor.calls == len(server.paths) == 3


@pytest.mark.parametrize(
    "fault",
    [
        Answer(500),
        Answer(502, b"<html>"),
        Answer(429),
        Answer(body=ok(BAR), cut=10),
        Answer(body=gzip.compress(b"{}" * 99)[:-9], headers={"Content-Encoding": "gzip"}),
    ],
    ids=["500", "502", "429", "cut", "half a gzip"],
)
def test_a_fault_passes(fault):
    with scripted([fault, fault, Answer(body=NONE)]) as server:
        vendor = vendor_at(server.url)
        assert len(vendor.grouped_daily(DAY)) == 0
        assert vendor.calls == 3


def test_it_waits_as_long_as_it_is_told_and_all_wait():
    waits = Waits()
    answers = [Answer(429, headers={"Retry-After": "7"}), Answer(body=NONE)]
    with scripted(answers) as server:
        vendor = vendor_at(server.url, waits)
        vendor.grouped_daily(DAY)
    assert waits.now >= 7.0
    dated = Answer(503, headers={"Retry-After": "Tue, 05 Mar 2024 00:00:40 GMT"})
    waits = Waits()
    with scripted([dated, Answer(body=NONE)]) as server:
        vendor_at(server.url, waits).grouped_daily(DAY)
    assert waits.now >= 40.0


def test_it_does_not_wait_for_hours():
    with scripted([Answer(429, headers={"Retry-After": "7200"})]) as server:
        with pytest.raises(VendorAway, match=r"asks to wait 7200 s: run again later"):
            vendor_at(server.url).grouped_daily(DAY)
        assert len(server.paths) == 1


def test_a_vendor_that_never_answers_right_is_away():
    with scripted([Answer(500, {"error": "out of order"})]) as server:
        with pytest.raises(VendorAway, match=r"answered 500 \(out of order\), the last of 8 attempts"):
            vendor_at(server.url).grouped_daily(DAY)
        assert len(server.paths) == ATTEMPTS


def test_the_rate_holds_for_attempts_too():
    waits = Waits()
    with scripted([*[Answer(500)] * 3, Answer(body=NONE)]) as server:
        vendor_at(server.url, waits, rate=0.1).grouped_daily(DAY)
    assert waits.now >= 30.0


REFUSALS = {
    WrongKey: (Answer(401, {"status": "ERROR", "error": f"Unknown API Key {KEY}"}), "refuses the key"),
    NoAccess: (Answer(403, {"status": "NOT_AUTHORIZED", "message": f"{KEY}: upgrade\nplease"}), "plan"),
    VendorError: (Answer(400, {"error": f"bad {KEY}"}), "answered 400"),
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_refusal_is_one_line_without_the_key_and_is_not_repeated(kind, caplog):
    answer, said = REFUSALS[kind]
    caplog.set_level(logging.DEBUG)
    with scripted([answer]) as server:
        vendor = vendor_at(server.url)
        with pytest.raises(kind, match=said) as error:
            vendor.grouped_daily(DAY)
        assert len(server.paths) == 1
    text = str(error.value)
    assert "\n" not in text
    assert KEY not in text + repr(error.value) + repr(vendor) + caplog.text
    assert error.value.__cause__ is None


def test_a_refusal_may_come_as_a_success():
    answers = [Answer(body={"status": "NOT_AUTHORIZED", "message": "upgrade"})]
    with scripted(answers) as server, pytest.raises(NoAccess, match="upgrade"):
        vendor_at(server.url).grouped_daily(DAY)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(400, {"error": "x" * 195 + f" {KEY} and more"}),
        Answer(403, {"message": "x" * 195 + f" {KEY} and more"}),
        Answer(500, {"error": "x" * 195 + f" {KEY} and more"}),
        Answer(body={"status": "NOT_AUTHORIZED", "message": "x" * 195 + f" {KEY} and more"}),
        Answer(body={"status": "x" * 35 + KEY}),
    ],
)
def test_what_is_cut_holds_no_part_of_the_key(answer):
    with scripted([answer]) as server, pytest.raises(VendorError) as error:
        vendor_at(server.url).grouped_daily(DAY)
    assert KEY[:4] not in str(error.value).removeprefix("daily bars of")
    assert "x***" in str(error.value).replace(" ", "")
    with scripted([Answer(400, {"error": "y" * 5_000})]) as server, pytest.raises(VendorError) as long:
        vendor_at(server.url).grouped_daily(DAY)
    assert len(str(long.value)) < 400


def test_a_next_page_or_a_rename_that_cannot_be_is_a_failed_attempt():
    pages = [Answer(body={**ok(BAR), "next_url": url}) for url in ("http://[x", 7, "?cursor=2")]
    with scripted([*pages, Answer(body=ok(BAR))]) as server:
        assert len(vendor_at(server.url).daily("A", DAY, DAY)) == 1
        assert len(server.paths) == 4

    def events(change):
        item = {"type": "ticker_change", "date": "2022-06-09", "ticker_change": change}
        return Answer(body={"status": "OK", "results": {"events": [item]}})

    with scripted([events("META"), events(["META"]), events({"ticker": "META"})]) as server:
        assert vendor_at(server.url).events("META")["symbol"].to_pylist() == ["META"]
        assert len(server.paths) == 3


def test_it_follows_nobody_to_another_server():
    answers = [Answer(302, headers={"Location": "http://127.0.0.1:1/"})]
    with scripted(answers) as server, pytest.raises(VendorError, match="answered 302"):
        vendor_at(server.url).grouped_daily(DAY)


def test_no_network_is_one_line():
    with scripted([Answer()]) as server:
        url = server.url
    waits = Waits()
    vendor = vendor_at(url, waits)
    with pytest.raises(Unreachable, match=r"takes no connection, 3 times: check the network") as error:
        vendor.grouped_daily(DAY)
    assert vendor.calls == ATTEMPTS_TO_REACH
    assert KEY not in str(error.value)
    with pytest.raises(VendorAway, match="name that is not known"):
        vendor_at("http://nowhere.invalid").grouped_daily(DAY)


def test_closing_ends_those_who_wait():
    with scripted([Answer(500)]) as server:
        vendor = Vendor(server.url, KEY, rate=1e6, dice=random.Random(0))
        vendor.close()
        with pytest.raises(VendorError, match="stopped"):
            vendor.grouped_daily(DAY)


def test_symbols_and_their_changes_as_they_are_given():
    with standin(symbols=12, minutes=0) as vendor_:
        vendor = vendor_at(vendor_.url)
        listed = vendor.tickers()
        assert len(listed) >= 10
        assert listed["active"].to_pylist() == [True] * len(listed)
        some = listed["symbol"][0].as_py()
        (row,) = vendor.ticker(some).to_pylist()
        assert (row["symbol"], row["listed"] is not None) == (some, True)
        assert len(vendor.ticker("NOSUCH")) == 0
        assert len(vendor.events("NOSUCH")) == 0
        assert set(vendor.tickers(active=False)["active"].to_pylist()) <= {False}
        splits = vendor.splits()
        assert splits["split_to"].null_count == 0
        assert len(vendor.splits(since=date(2100, 1, 1))) == 0
        assert vendor.dividends()["cash_amount"].null_count == 0


def test_what_is_asked_for_is_what_is_there():
    with standin(symbols=8, minutes=1) as vendor_:
        vendor = vendor_at(vendor_.url)
        days = vendor_.days()
        day = days["session"][5].as_py()
        there = sorted(row["symbol"] for row in days.to_pylist() if row["session"] == day)
        assert sorted(vendor.grouped_daily(day)["symbol"].to_pylist()) == there
        symbol = there[0]
        closes = [row["close"] for row in days.to_pylist() if row["symbol"] == symbol]
        assert vendor.daily(symbol, date(2020, 1, 1), date(2026, 1, 1))["close"].to_pylist() == closes
        minutes = [row for row in vendor_.minutes().to_pylist() if row["symbol"] == symbol]
        first, last = (int(minutes[i]["ts"].timestamp()) * 1_000_000 for i in (0, -1))
        got = vendor.minutes(symbol, first, last + 1)
        assert got["ts"].to_pylist() == [row["ts"] for row in minutes]
        assert len(vendor.minutes(symbol, first, last)) == len(minutes) - 1
        assert len(vendor.minutes(symbol, first, first)) == 0
