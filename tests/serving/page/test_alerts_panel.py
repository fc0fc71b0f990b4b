"""The panel of alerts where things come together, are many, or change hands."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

import httpx2
import pytest
from playwright.sync_api import Page, Route, expect

from fibflow.serving.access import Scope
from fibflow.serving.keys.store import issue
from fibflow.tests.io.alerts.bars import CONDITION, beyond
from fibflow.tests.io.postgresql.databases import execute
from fibflow.tests.serving.alerts.conftest import fire
from fibflow.tests.serving.conftest import make_keyed
from fibflow.tests.serving.page.browsers import Site, wait_feed, wait_painted, wait_unpainted
from fibflow.tests.serving.page.lakes import now
from fibflow.tests.serving.page.panels import go, kept, lines, rows, submit
from fibflow.tests.serving.page.test_live import AWAY

#: What the page makes of the condition of tests.
CLOSED = (
    "close above the last 13d high and "
    "(volume at least 2 × average volume of 20 bars or close crosses above 430.00)"
)


def make(site: Site, **more: object) -> dict:
    """Make an alert by the API."""
    asked = {"symbol": "AAPL", "operator": "crosses", "value": 433.0, **more}
    found: dict = httpx2.post(f"{site.url}/v1/alerts", json=asked).raise_for_status().json()
    return found


def test_a_price_that_was_set_is_no_line_any_more_where_the_list_cannot_be_read(tab, alerting, watch):
    watch.expected.append("503")
    go(tab, alerting)
    tab.route(re.compile(r"/v1/alerts\?"), lambda route: route.fulfill(status=503, json={"detail": "away"}))
    tab.locator("#alert-price").fill("433")
    wait_painted(tab, "gold", 100)
    tab.keyboard.press("Enter")
    expect(tab.locator("#alerts-why")).to_have_text("away")
    wait_unpainted(tab, "gold", 100)


def test_what_fires_while_the_history_is_asked_does_not_hide_what_fired_before(tab, alerting, url, watch):
    watch.expected += AWAY
    go(tab, alerting)
    made = make(alerting, frequency="every_time")
    alerting.stop()
    wait_feed(tab, "waiting")
    fire(url, made, price=433.25, generation="0", at=now())
    held: list[Route] = []
    holds = True

    def hold(route: Route) -> None:
        if holds:
            held.append(route)
        else:
            route.continue_()

    tab.route(re.compile(r"/v1/alert-events\?after="), hold)
    with tab.expect_request(re.compile(r"/v1/alert-events\?after=")):
        alerting.start()
    fire(url, made, price=434.5, generation="1", at=now())
    expect(lines(tab)).to_have_text(["AAPL crossed 433.00: 434.50"])
    holds = False
    for route in held:
        route.continue_()
    expect(lines(tab)).to_have_text(["AAPL crossed 433.00: 434.50", "AAPL crossed 433.00: 433.25"])


def test_a_burst_is_counted_and_told_with_the_newest_ones(tab, alerting, url):
    go(tab, alerting)
    made = make(alerting, frequency="every_time")
    for generation in range(6):
        fire(url, made, price=430.0 + generation, generation=f"{generation}", at=now())
    expect(lines(tab)).to_have_count(4)
    last = [f"AAPL crossed 433.00: {price}.00" for price in (433, 434, 435)]
    expect(lines(tab)).to_have_text(["3 more fired before.", *last])
    # By the keyboard one after the other, and then back to where one came from.
    tab.get_by_role("button", name=f"Dismiss: {last[0]}").focus()
    for left in (3, 2, 1, 0):
        tab.keyboard.press("Enter")
        expect(lines(tab)).to_have_count(left)
    expect(tab.locator("#alerts-open")).to_be_focused()


def test_one_on_bars_is_told_in_words(tab, alerting, url):
    made = make(alerting, operator=None, value=None, frequency="bar", bars=CONDITION)
    go(tab, alerting)
    expect(rows(tab).locator("b")).to_have_text(f"5m bar: {CLOSED}")
    # No job of this lake is known.
    expect(rows(tab).locator("small")).to_have_text(
        re.compile(r"^at each 5m bar · whether bars of 5m, 13d are")
    )
    fire(url, {**made, "value": 200.0}, price=433.25, at=now())
    expect(lines(tab)).to_have_text([f"AAPL closed a 5m bar at 433.25: {CLOSED}"])
    expect(rows(tab).locator("small")).to_contain_text("fired once")
    rows(tab).get_by_role("button", name="Pause").click()
    expect(rows(tab)).to_have_attribute("data-state", "paused")


def test_all_that_bars_can_say_is_said(tab, alerting):
    operands = (
        {"field": "close", "back": 1},
        {"field": "low", "timeframe": "1d", "back": 2, "times": 1.5},
        {"lowest": "vwap", "bars": 1, "timeframe": "1h"},
    )
    high = {"field": "high"}
    terms = [{"left": high, "operator": "at_most", "right": right} for right in operands]
    counted = {"left": {"field": "trade_count"}, "operator": "below", "right": {"value": 1200}}
    make(
        alerting,
        operator=None,
        value=None,
        bars={"timeframe": "5m", "any": [*terms, {"all": [counted, counted]}]},
    )
    make(alerting, operator=None, value=None, bars=beyond(0.5, operator="crosses_down"))
    go(tab, alerting)
    expect(rows(tab).locator("b")).to_have_text(
        [
            "1d bar: close crosses below 0.5000",
            "5m bar: high at most close 1 bar back or high at most 1.5 × 1d low 2 bars back or "
            "high at most lowest 1h VWAP of 1 bar or (trades below 1,200 and trades below 1,200)",
        ]
    )


def test_tests_are_told_as_such(tab, alerting):
    where = {"kind": "webhook", "target": "https://93.184.215.14/hook"}
    hook = httpx2.post(f"{alerting.url}/v1/alert-destinations", json=where).json()["id"]
    on_bars = make(alerting, operator=None, value=None, bars=beyond(1.0), symbol="MSFT", note="mine")
    go(tab, alerting)
    for path in (f"alert-destinations/{hook}", f"alerts/{on_bars['id']}", f"alerts/{make(alerting)['id']}"):
        tab.request.post(f"{alerting.url}/v1/{path}/test")
    expect(lines(tab)).to_have_text(
        [
            "Test of a destination · a test of this destination",
            "Test: MSFT closed a bar as you asked · mine",
            "Test: AAPL crossed 433.00: 433.00",
        ]
    )


def test_the_focus_stays_with_the_alert(tab, alerting, url):
    other, made = make(alerting, value=400.0, frequency="every_time"), make(alerting)
    go(tab, alerting)
    tab.get_by_role("button", name="Pause: crosses 433.00").focus()
    tab.keyboard.press("Enter")
    expect(rows(tab).first).to_have_attribute("data-state", "paused")
    expect(tab.get_by_role("button", name="Resume: crosses 433.00")).to_be_focused()
    # Also where another one fires, and the list is made anew.
    tab.keyboard.press("Tab")
    fire(url, other, price=401.0, at=now())
    expect(rows(tab).last.locator("small")).to_contain_text("fired once")
    expect(tab.get_by_role("button", name="Delete: crosses 433.00")).to_be_focused()
    tab.keyboard.press("Enter")
    expect(rows(tab)).to_have_count(1)
    expect(tab.locator("#alert-price")).to_be_focused()
    assert kept(url)[-1]["id"] == int(made["id"])


def test_one_that_has_expired_waits_for_nothing(tab, alerting, url):
    make(alerting, expires="2030-01-01T00:00:00Z")
    execute(url, "UPDATE alerts SET expires = '2013-03-01T00:00:00Z'")
    go(tab, alerting)
    expect(rows(tab).locator(".state")).to_have_text("expired")
    expect(tab.locator("#alerts-open")).to_have_text("Alerts")
    expect(rows(tab).get_by_role("button")).to_have_text(["Delete"])
    wait_unpainted(tab, "gold", 100)


def test_the_newest_of_very_many_are_listed(tab, alerting):
    many = [{"symbol": "AAPL", "operator": "above", "value": 1000.0 + place} for place in range(1_005)]
    httpx2.post(f"{alerting.url}/v1/alerts/bulk", json={"alerts": many}).raise_for_status()
    go(tab, alerting)
    expect(tab.locator("#alerts-open")).to_have_text("Alerts 1,005")
    expect(rows(tab).first.locator("b")).to_have_text("is above 2,004.00")
    expect(rows(tab)).to_have_count(201)
    expect(rows(tab).last).to_have_text("and 805 older ones.")


# Keys ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Keyed:
    """A server that asks for keys, with some: ``ada``, ``bob``, ``lacks`` the scope of alerts."""

    site: Site
    keys: dict[str, str]


@pytest.fixture
def keyed(told, tmp_path) -> Iterator[Keyed]:
    made = make_keyed(told, tmp_path / "keys.sqlite")
    randbytes, scopes = random.Random(2).randbytes, {Scope.HISTORY, Scope.LIVE}
    keys = {
        "ada": issue("Ada", {*scopes, Scope.ALERTS}, now(), randbytes),
        "bob": issue("Bob", {*scopes, Scope.ALERTS}, now(), randbytes),
        "lacks": issue("Bob", scopes, now(), randbytes),
    }
    for key in keys.values():
        made.store.add(key.record)
    with Site(lambda: made.app) as running:
        yield Keyed(running, {name: key.text for name, key in keys.items()})
    made.store.close()


def change_key(tab: Page, key: str) -> None:
    tab.locator("#key").click()
    tab.locator("#keys-field").fill(key)
    tab.locator("#keys-field").press("Enter")


def test_another_owner_sees_nothing_of_the_one_before(tab, keyed, url, watch):
    watch.expected.append("401")
    tab.goto(f"{keyed.site.url}/?symbol=AAPL&tf=13d")
    tab.locator("#keys-field").fill(keyed.keys["ada"])
    tab.locator("#keys-field").press("Enter")
    tab.locator("#alerts-open").click()
    submit(tab, "433")
    expect(rows(tab)).to_have_attribute("data-state", "active")
    fire(url, {**kept(url)[0], "value": 433.0}, price=433.5, at=now())
    expect(lines(tab)).to_have_count(1)
    tab.locator("#alert-note").fill("hers")
    change_key(tab, keyed.keys["lacks"])
    expect(tab.locator("#alerts-why")).to_contain_text("lacks the scope alerts")
    expect(lines(tab)).to_have_count(0)
    expect(rows(tab).locator("b")).to_have_count(0)
    expect(tab.locator("#alert-note")).to_have_value("")
    change_key(tab, keyed.keys["bob"])
    expect(tab.locator("#alerts-list")).to_have_text("None yet.")
    expect(tab.locator("#alert-form")).to_be_visible()
    # Hers has a place in the history before his: none of hers is told.
    expect(lines(tab)).to_have_count(0)


def test_a_key_that_is_not_known_is_said_in_the_panel(tab, keyed, watch):
    watch.expected.append("401")
    tab.goto(f"{keyed.site.url}/?symbol=AAPL&tf=13d")
    tab.locator("#keys-field").fill(keyed.keys["ada"])
    tab.locator("#keys-field").press("Enter")
    tab.locator("#alerts-open").click()
    expect(tab.locator("#alert-form")).to_be_visible()
    change_key(tab, "fib_wrong")
    wait_feed(tab, "refused")
    expect(tab.locator("#alerts-why")).to_contain_text("not known")
    expect(tab.locator("#alert-form")).to_be_hidden()
