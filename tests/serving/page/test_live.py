"""The page in a real browser, over a real live store: bars grow, close, and come back after a restart."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta

import pytest
from playwright.sync_api import expect

from fibflow.serving.app import create_app
from fibflow.tests.io.livestores import bar, closed, price, prices, table
from fibflow.tests.serving.conftest import make_keyed
from fibflow.tests.serving.page.browsers import (
    Site,
    painted,
    shown,
    wait_caught_up,
    wait_detail,
    wait_feed,
    wait_loaded,
    wait_painted,
)
from fibflow.tests.serving.page.lakes import MINUTE, NOW, now
from fibflow.transforms.buckets import bucket_of
from fibflow.transforms.openbars import Flush

#: 10:30 in New York on the Monday after the lake's last session.
T0 = int((NOW - timedelta(minutes=2)).timestamp()) * 1_000_000
FIVE = 5 * MINUTE
#: What a browser's console says of a server that is away.
AWAY = ["ERR_CONNECTION_REFUSED", "ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE", "WebSocket connection"]


class Writer:
    """What a live job writes of AAPL's 5-minute bars."""

    def __init__(self, store):
        self.store = store
        self.stamp = T0

    def values(self, number, close, **more):
        ts = T0 + number * FIVE
        low, high = min(431.0, close), max(431.0, close)
        prices = {"open": 431.0, "high": high, "low": low, "close": close, "vwap": 431.0}
        return {"ts": ts, "end": ts + FIVE, **prices, **more}

    def open(self, number, close, **more):
        self.stamp += 1
        rows = table(bar("AAPL", "5m", **self.values(number, close, **more)))
        self.store.write_open([Flush(bucket_of("AAPL", self.store.buckets), self.stamp, False, False, rows)])

    def close(self, number, close, **more):
        written = T0 + (number + 1) * FIVE
        self.store.write_closed(table(closed("AAPL", "5m", **self.values(number, close, **more))), written)

    def price(self, value, number=0):
        self.store.write_prices(prices(price("AAPL", value, T0 + number * MINUTE, seq=number)))


def prices_of(symbol, value):
    return prices(price(symbol, value, T0))


@pytest.fixture
def writer(live):
    return Writer(live)


def test_the_open_bar_moves_and_closes(tab, live_site, writer):
    writer.open(0, 431.0)
    tab.goto(f"{live_site.url}/?symbol=AAPL&tf=5m")
    wait_feed(tab, "live")
    wait_detail(tab, "C", "431.00")
    assert "open" in shown(tab).values()
    before = painted(tab, "up")
    for close in (431.5, 432.25, 433.75):
        writer.open(0, close)
        wait_detail(tab, "C", f"{close:.2f}")
    bar = shown(tab)
    assert bar["Window"] == "2013-03-04 10:30–10:35"
    assert (bar["O"], bar["H"], bar["L"]) == ("431.00", "433.75", "431.00")
    writer.close(0, 434.0, final=True)
    wait_detail(tab, "C", "434.00")
    assert {"complete", "final"} <= set(shown(tab).values())
    # What was an outline is a candle now.
    wait_painted(tab, "up", 1, but=before)
    writer.open(1, 434.5)
    wait_detail(tab, "Window", "2013-03-04 10:35–10:40")


def test_a_revision_of_an_older_bar_is_taken(tab, live_site, writer):
    writer.close(0, 432.0)
    writer.open(1, 433.0)
    tab.goto(f"{live_site.url}/?symbol=AAPL&tf=5m")
    wait_caught_up(tab)
    wait_detail(tab, "C", "433.00")
    writer.close(0, 432.5, revision=1)
    tab.locator("#chart").focus()
    tab.keyboard.press("ArrowLeft")
    tab.keyboard.press("ArrowLeft")
    wait_detail(tab, "C", "432.50")
    assert shown(tab)["Revision"] == "1"


def test_an_open_bar_that_has_closed_meanwhile_does_not_come_back(tab, live_site, writer):
    tab.goto(f"{live_site.url}/?symbol=AAPL&tf=5m")
    wait_feed(tab, "live")
    writer.close(0, 432.0)
    wait_detail(tab, "C", "432.00")
    writer.open(0, 499.0)
    writer.price(432.1)
    expect(tab.locator("#price")).to_have_text("432.10")
    assert shown(tab)["C"] == "432.00"


def test_the_last_price_moves(tab, live_site, writer):
    writer.price(431.0)
    tab.goto(f"{live_site.url}/?symbol=AAPL&tf=13d")
    wait_feed(tab, "live")
    expect(tab.locator("#price")).to_have_text("431.00")
    writer.price(432.47, 1)
    expect(tab.locator("#price")).to_have_text("432.47")
    # Against the close of the last session.
    expect(tab.locator("#change")).to_have_text("+2.00 (+0.46 %)")
    expect(tab).to_have_title("AAPL 432.47 · 13d · Fibflow")


def test_the_change_is_shown_when_a_price_came_before_the_close_it_is_measured_against(
    tab, live_site, writer
):
    held = []
    tab.route(re.compile(r"/v1/bars\?.*timeframe=1d\b"), lambda request: held.append(request))
    tab.goto(f"{live_site.url}/?symbol=AAPL&tf=13d")
    wait_feed(tab, "live")
    writer.price(432.47)
    expect(tab.locator("#price")).to_have_text("432.47")
    expect(tab.locator("#change")).to_be_empty()
    [request] = held
    request.continue_()
    expect(tab.locator("#change")).to_have_text("+2.00 (+0.46 %)")
    expect(tab.locator("#price")).to_have_text("432.47")


def test_another_symbols_bars_are_not_mixed_in(tab, live_site, writer, live):
    tab.goto(f"{live_site.url}/?symbol=AAPL&tf=5m")
    wait_feed(tab, "live")
    live.write_closed(table(closed("MSFT", "5m", **writer.values(0, 77.0))), T0)
    writer.close(0, 432.0)
    wait_detail(tab, "C", "432.00")
    tab.locator("#timeframes label:has(input[value='13d'])").click()
    wait_detail(tab, "C", "430.47")
    writer.close(1, 439.0)
    writer.price(440.0, 2)
    expect(tab.locator("#price")).to_have_text("440.00")
    assert shown(tab)["C"] == "430.47"


def test_closed_bars_that_the_lake_does_not_have_yet_are_shown(tab, live_site, writer):
    for number in range(4):
        writer.close(number, 432.0 + number)
    writer.open(4, 440.0)
    tab.goto(f"{live_site.url}/?symbol=AAPL&tf=5m")
    wait_caught_up(tab)
    wait_detail(tab, "C", "440.00")
    tab.locator("#chart").focus()
    tab.keyboard.press("End")
    for close in ("435.00", "434.00", "433.00", "432.00", "430.47"):
        tab.keyboard.press("ArrowLeft")
        wait_detail(tab, "C", close)


@pytest.mark.parametrize("adjusted", [False, True])
def test_a_pushed_bar_that_holds_a_split_is_not_taken_for_an_adjusted_one(tab, live_site, live, adjusted):
    """A bar that straddles a split cannot be scaled: then the adjusted one of the lake stays."""
    window = {"ts": 1_361_336_400_000_000, "end": 1_362_805_200_000_000}
    prices = {"open": 28.0, "high": 30.0, "low": 13.0, "close": 13.5}

    def push(stamp, symbol, **more):
        rows = table(bar(symbol, "13d", **{**window, **prices, **more}))
        live.write_open([Flush(bucket_of(symbol, live.buckets), stamp, True, False, rows)])

    tab.goto(f"{live_site.url}/?symbol=FB&tf=13d&adjusted={int(adjusted)}")
    wait_feed(tab, "live")
    wait_detail(tab, "C", "13.89" if adjusted else "27.78")
    expect(tab.locator("#company")).to_contain_text("Facebook")
    push(T0, "FB")
    live.write_prices(prices_of("FB", 13.6))
    expect(tab.locator("#price")).to_have_text("13.60")
    wait_detail(tab, "C", "13.89" if adjusted else "13.50")


def test_it_survives_a_restart_and_has_no_gap(tab, settings, server, live, writer, watch):
    watch.expected = AWAY
    told = replace(settings, redis=server.url, prefix=live.prefix)
    site = Site(lambda: create_app(told, now))
    with site:
        writer.open(0, 431.5)
        tab.goto(f"{site.url}/?symbol=AAPL&tf=5m")
        wait_feed(tab, "live")
        wait_detail(tab, "C", "431.50")
        site.stop()
        wait_feed(tab, "waiting")
        # Between two tries.
        told_so = re.compile(r"^No live bars: .+\. Press to try now\.$")
        expect(tab.locator("#feed")).to_have_attribute("title", told_so)
        # The chart stays, and what comes meanwhile is there afterwards.
        assert shown(tab)["C"] == "431.50"
        assert tab.locator("#notice").is_hidden()
        writer.close(0, 432.0, final=True)
        writer.close(1, 433.0, final=True)
        writer.open(2, 434.0)
        site.start()
        wait_caught_up(tab)
        wait_detail(tab, "C", "434.00")
        tab.locator("#chart").focus()
        tab.keyboard.press("End")
        for close in ("433.00", "432.00", "430.47"):
            tab.keyboard.press("ArrowLeft")
            wait_detail(tab, "C", close)
        tab.keyboard.press("Escape")
        writer.open(2, 435.0)
        wait_detail(tab, "C", "435.00")


def test_it_reconnects_at_once_when_asked_to(tab, settings, server, live, watch):
    watch.expected = AWAY
    told = replace(settings, redis=server.url, prefix=live.prefix)
    site = Site(lambda: create_app(told, now))
    with site:
        tab.goto(f"{site.url}/?symbol=AAPL&tf=5m")
        wait_feed(tab, "live")
        site.stop()
        wait_feed(tab, "waiting")
        # The waits grow.
        tab.wait_for_function(
            "() => parseInt(document.querySelector('#feed span').textContent.match(/\\d+/)?.[0]) > 2"
        )
        site.start()
        tab.locator("#feed").click()
        wait_feed(tab, "live")


def test_a_live_store_that_goes_away_is_said_and_comes_back(tab, live_site, server, writer):
    writer.open(0, 431.5)
    tab.goto(f"{live_site.url}/?symbol=AAPL&tf=5m")
    wait_feed(tab, "live")
    wait_detail(tab, "C", "431.50")
    server.kill()
    wait_feed(tab, "stale")
    expect(tab.locator("#feed")).to_have_text("Stale")
    # History is served all the while.
    tab.locator("#timeframes label:has(input[value='13d'])").click()
    wait_detail(tab, "C", "430.47")
    tab.locator("#timeframes label:has(input[value='5m'])").click()
    server.start()
    wait_feed(tab, "live")
    writer.open(0, 432.5)
    wait_detail(tab, "C", "432.50")


def test_without_a_live_store_the_page_says_that_it_shows_history(tab, site):
    tab.goto(f"{site.url}/?symbol=AAPL&tf=5m")
    wait_feed(tab, "none")
    expect(tab.locator("#feed")).to_have_text("History")
    expect(tab.locator("#feed")).to_have_attribute("title", re.compile("no live store"))


# Keys ----------------------------------------------------------------------------------------------------


@pytest.fixture
def keyed_site(settings, server, live, tmp_path):
    made = make_keyed(replace(settings, redis=server.url, prefix=live.prefix), tmp_path / "keys.sqlite")
    with Site(lambda: made.app) as running:
        yield running, made.keys
    made.store.close()


def test_a_server_that_wants_a_key_asks_for_it_and_the_tab_keeps_it(tab, keyed_site, watch, writer):
    site, keys = keyed_site
    watch.expected = ["401"]
    tab.goto(f"{site.url}/?symbol=AAPL&tf=5m")
    expect(tab.locator("#keys")).to_be_visible()
    tab.locator("#keys-field").fill("wrong")
    tab.locator("#keys-field").press("Enter")
    expect(tab.locator("#keys-why")).to_contain_text("not known")
    tab.locator("#keys-field").fill(keys["all"])
    tab.locator("#keys-field").press("Enter")
    wait_loaded(tab)
    expect(tab.locator("#keys")).to_be_hidden()
    wait_feed(tab, "live")
    writer.open(0, 431.5)
    wait_detail(tab, "C", "431.50")
    tab.reload()
    wait_loaded(tab)
    wait_feed(tab, "live")
    # It is in no address: not in the page's, not in one that was asked.
    assert not [url for url in (*watch.requests, tab.url) if keys["all"] in url]
    assert tab.evaluate("JSON.stringify(localStorage)").find(keys["all"]) < 0


def test_exports_are_sent_the_key_too(tab, keyed_site, watch, tmp_path):
    site, keys = keyed_site
    watch.expected = ["401"]
    tab.goto(f"{site.url}/?symbol=AAPL&tf=13d")
    tab.locator("#keys-field").fill(keys["all"])
    tab.locator("#keys-field").press("Enter")
    wait_loaded(tab)
    tab.locator("#export summary").click()
    with tab.expect_download() as download:
        tab.locator("#formats a", has_text="CSV").first.click()
    download.value.save_as(tmp_path / "bars.csv")
    assert (tmp_path / "bars.csv").read_text().count("\n") > 250


def test_a_key_without_live_data_shows_history(tab, keyed_site, watch):
    site, keys = keyed_site
    watch.expected = ["401", "403"]
    tab.goto(f"{site.url}/?symbol=AAPL&tf=13d")
    tab.locator("#keys-field").fill(keys["history"])
    tab.locator("#keys-field").press("Enter")
    wait_loaded(tab)
    wait_feed(tab, "refused")
    expect(tab.locator("#feed")).to_have_attribute("title", re.compile("scope live"))
    wait_detail(tab, "C", "430.47")
    # Of alerts it is said there what is wrong.
    tab.locator("#alerts-open").click()
    expect(tab.locator("#alerts-why")).to_contain_text("scope live")
