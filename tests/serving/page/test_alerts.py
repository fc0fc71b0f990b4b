"""The panel of alerts in a real browser: set by a click or the keyboard, seen to fire, paused, deleted."""

from __future__ import annotations

import random
import re
from dataclasses import replace

from playwright.sync_api import expect

from fibflow.serving.access import Scope
from fibflow.serving.app import create_app
from fibflow.serving.keys.store import issue
from fibflow.tests.serving.alerts.conftest import fire
from fibflow.tests.serving.conftest import make_keyed
from fibflow.tests.serving.page.browsers import (
    PHONE,
    Site,
    opened,
    wait_frames,
    wait_loaded,
    wait_painted,
    wait_unpainted,
)
from fibflow.tests.serving.page.lakes import now
from fibflow.tests.serving.page.panels import go, kept, submit
from fibflow.tests.serving.page.test_page import box_of


def test_an_alert_is_set_by_a_click_on_the_chart(tab, alerting, url):
    go(tab, alerting)
    expect(tab.locator("#alerts-list")).to_have_text("None yet.")
    box = box_of(tab, "#chart")
    tab.mouse.click(box["x"] + box["width"] * 0.4, box["y"] + box["height"] * 0.3)
    expect(tab.locator("#alert-price")).to_have_value(re.compile(r"^\d+(\.\d+)?$"))
    wanted = float(tab.locator("#alert-price").input_value())
    assert 50 < wanted < 1_000
    # What comes is drawn before it is set; the button is at hand.
    wait_painted(tab, "gold", 100)
    expect(tab.get_by_role("button", name="Set alert")).to_be_focused()
    tab.keyboard.press("Enter")
    expect(tab.locator("#alerts-list li")).to_have_attribute("data-state", "active")
    expect(tab.locator("#alerts-list li b")).to_have_text(f"crosses {wanted:.2f}")
    expect(tab.locator("#alerts-open")).to_have_text("Alerts 1")
    (made,) = kept(url)
    assert made == {
        **{"id": made["id"], "version": 1, "symbol": "AAPL", "operator": "crosses", "value": wanted},
        **{"frequency": "once", "hours": "regular", "note": "", "state": "active"},
    }
    wait_painted(tab, "gold", 100)


def test_a_click_with_the_panel_closed_sets_nothing(tab, alerting, url):
    tab.goto(f"{alerting.url}/?symbol=AAPL&tf=13d")
    wait_loaded(tab)
    tab.locator("#chart").click()
    wait_frames(tab)
    assert tab.locator("#alert-price").input_value() == ""
    assert kept(url) == []


def test_an_alert_is_set_by_the_keyboard_alone(tab, alerting, url):
    tab.goto(f"{alerting.url}/?symbol=MSFT&tf=13d")
    wait_loaded(tab)
    # What is hidden yet takes no focus.
    expect(tab.locator("#alerts-open")).to_be_visible()
    tab.locator("#alerts-open").focus()
    tab.keyboard.press("Enter")
    expect(tab.locator("#alert-price")).to_be_focused()
    tab.keyboard.type("31.5")
    tab.keyboard.press("Tab")
    tab.keyboard.type("every")
    tab.keyboard.press("Tab")
    tab.keyboard.type("mine")
    tab.keyboard.press("Tab")
    tab.keyboard.press("Space")
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    expect(tab.locator("#alerts-list li small")).to_have_text("every time · extended hours · mine")
    (made,) = kept(url)
    assert (made["symbol"], made["value"], made["frequency"]) == ("MSFT", 31.5, "every_time")
    assert (made["hours"], made["note"]) == ("extended", "mine")
    tab.keyboard.press("Escape")
    expect(tab.locator("#alerts")).to_be_hidden()
    expect(tab.locator("#alerts-open")).to_be_focused()
    expect(tab.locator("#alerts-open")).to_have_attribute("aria-expanded", "false")


def test_it_is_seen_to_fire(tab, alerting, url):
    go(tab, alerting)
    submit(tab, "433")
    expect(tab.locator("#alerts-list li")).to_have_attribute("data-state", "active")
    (made,) = kept(url)
    fire(url, made, price=433.25, at=now())
    expect(tab.locator("#fired p span")).to_have_text("AAPL crossed 433.00: 433.25")
    expect(tab.locator("#alerts-list li")).to_have_attribute("data-state", "fired")
    expect(tab.locator("#alerts-list li small")).to_contain_text("fired once")
    expect(tab.locator("#alerts-open")).to_have_text("Alerts")
    tab.get_by_role("button", name="Dismiss").click()
    expect(tab.locator("#fired p")).to_have_count(0)
    tab.get_by_role("button", name="Arm again: crosses 433.00").click()
    expect(tab.locator("#alerts-list li")).to_have_attribute("data-state", "active")


def test_another_symbols_alert_is_told_too(tab, alerting, url):
    go(tab, alerting, "MSFT")
    submit(tab, "30")
    expect(tab.locator("#alerts-list li")).to_have_count(1)
    expect(tab.locator("#alerts-list li")).to_have_attribute("data-state", "active")
    tab.locator("#query").fill("AAPL")
    tab.keyboard.press("Enter")
    expect(tab.locator("#alerts-title")).to_have_text("Alerts of AAPL")
    expect(tab.locator("#alerts-list")).to_have_text("None yet.")
    fire(url, *kept(url), price=30.5, at=now())
    expect(tab.locator("#fired p span")).to_have_text("MSFT crossed 30.00: 30.50")
    expect(tab.locator("#alerts-list")).to_have_text("None yet.")


def test_an_alert_is_paused_resumed_and_deleted(tab, alerting, url):
    go(tab, alerting)
    submit(tab, "433")
    row = tab.locator("#alerts-list li")
    tab.get_by_role("button", name="Pause: crosses 433.00").click()
    expect(row).to_have_attribute("data-state", "paused")
    assert kept(url)[0]["state"] == "paused"
    tab.get_by_role("button", name="Resume: crosses 433.00").click()
    expect(row).to_have_attribute("data-state", "active")
    tab.get_by_role("button", name="Delete: crosses 433.00").click()
    expect(tab.locator("#alerts-list")).to_have_text("None yet.")
    expect(tab.locator("#alert-price")).to_be_focused()
    assert kept(url)[0]["state"] == "deleted"


def test_what_is_wrong_is_said_in_the_form(tab, alerting, url, watch):
    watch.expected.append("404")
    go(tab, alerting)
    submit(tab, "cheap")
    expect(tab.locator("#alert-bad")).to_have_text("Give a price above 0, such as 123.45.")
    price = tab.locator("#alert-price")
    expect(price).to_be_focused()
    expect(price).to_have_attribute("aria-invalid", "true")
    expect(price).to_have_accessible_description(re.compile("Click the chart.* Give a price above 0"))
    submit(tab, "433")
    expect(tab.locator("#alerts-list li")).to_have_attribute("data-state", "active")
    expect(tab.locator("#alert-bad")).to_be_hidden()
    expect(price).not_to_have_attribute("aria-invalid", "true")
    # It is gone meanwhile, elsewhere.
    made = kept(url)[0]["id"]
    tab.request.delete(f"{alerting.url}/v1/alerts/{made}")
    tab.get_by_role("button", name="Pause: crosses 433.00").click()
    expect(tab.locator("#alert-bad")).to_have_text(f"there is no alert {made}")


def test_what_the_server_refuses_is_said_in_the_form(tab, told, watch):
    watch.expected.append("403")
    with Site(lambda: create_app(replace(told, most_alerts=0), now)) as site:
        go(tab, site)
        submit(tab, "433")
        expect(tab.locator("#alert-bad")).to_contain_text("0")
        expect(tab.get_by_role("button", name="Set alert")).to_be_enabled()


def test_lines_follow_the_theme(tab, alerting):
    go(tab, alerting)
    submit(tab, "433")
    expect(tab.locator("#alerts-list li")).to_have_attribute("data-state", "active")
    for scheme in ("dark", "light"):
        tab.emulate_media(color_scheme=scheme)
        wait_painted(tab, "gold", 100)
    tab.get_by_role("button", name="Delete: crosses 433.00").click()
    expect(tab.locator("#alerts-list")).to_have_text("None yet.")
    wait_unpainted(tab, "gold", 100)


def test_what_fired_while_the_server_was_away_is_told_when_it_is_back(tab, alerting, url, watch):
    watch.expected += [
        "ERR_CONNECTION_REFUSED",
        "ERR_CONNECTION_RESET",
        "ERR_EMPTY_RESPONSE",
        "WebSocket connection",
    ]
    go(tab, alerting)
    submit(tab, "433")
    expect(tab.locator("#alerts-list li")).to_have_attribute("data-state", "active")
    alerting.stop()
    tab.wait_for_selector("#feed[data-state=waiting]")
    fire(url, *kept(url), price=433.25, at=now())
    alerting.start()
    expect(tab.locator("#fired p span")).to_have_text("AAPL crossed 433.00: 433.25")
    expect(tab.locator("#alerts-list li")).to_have_attribute("data-state", "fired")
    expect(tab.locator("#fired p")).to_have_count(1)


def test_without_postgresql_the_panel_says_why(tab, site):
    tab.goto(f"{site.url}/?symbol=AAPL&tf=13d")
    wait_loaded(tab)
    tab.locator("#alerts-open").click()
    expect(tab.locator("#alerts-why")).to_contain_text("--postgres")
    expect(tab.locator("#alert-form")).to_be_hidden()
    expect(tab.locator("#alerts-list")).to_be_hidden()


def test_a_key_without_the_scope_is_told_in_the_panel(context, watch, told, tmp_path):
    keyed = make_keyed(told, tmp_path / "keys.sqlite")
    key = issue("Ada", {Scope.HISTORY, Scope.LIVE}, now(), random.Random(2).randbytes)
    keyed.store.add(key.record)
    with Site(lambda: keyed.app) as site:
        tab = opened(context, watch)
        tab.add_init_script(f"sessionStorage.setItem('fibflow.key', '{key.text}')")
        tab.goto(f"{site.url}/?symbol=AAPL&tf=13d")
        tab.locator("#alerts-open").click()
        expect(tab.locator("#alerts-why")).to_contain_text("lacks the scope alerts")
        watch.check()
    keyed.store.close()


def test_notes_are_text_and_nothing_else(tab, alerting, url):
    go(tab, alerting)
    tab.locator("#alert-note").fill("<img src=x onerror=alert(1)>")
    submit(tab, "433")
    expect(tab.locator("#alerts-list li small")).to_contain_text("<img src=x")
    fire(url, *kept(url), price=433.25, at=now())
    expect(tab.locator("#fired p span")).to_contain_text("<img src=x")


def test_on_a_phone_panel_and_chart_fit(browser, watch, alerting):
    context = browser.new_context(viewport=PHONE, has_touch=True, color_scheme="dark")
    tab = opened(context, watch)
    go(tab, alerting)
    assert tab.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    chart, panel = (box_of(tab, name) for name in ("#chart", "#alerts"))
    assert chart["height"] > 80
    assert panel["y"] >= chart["y"] + chart["height"] - 1
    tab.touchscreen.tap(chart["x"] + 120, chart["y"] + chart["height"] * 0.4)
    expect(tab.locator("#alert-price")).not_to_have_value("")
    tab.get_by_role("button", name="Set alert").click()
    expect(tab.locator("#alerts-list li")).to_have_attribute("data-state", "active")
    watch.check()
    context.close()


def test_everything_in_the_panel_has_a_name(tab, alerting):
    go(tab, alerting)
    submit(tab, "433")
    expect(tab.locator("#alerts-list li")).to_have_attribute("data-state", "active")
    for name in ("When the price", "Price", "How often", "Note", "Extended hours too"):
        expect(tab.get_by_label(name, exact=True)).to_have_count(1)
    expect(tab.get_by_role("complementary", name="Alerts of AAPL")).to_be_visible()
    expect(tab.get_by_role("list", name="Alerts of this symbol")).to_be_visible()
    for button in tab.locator("#alerts button").all():
        assert button.get_attribute("aria-label") or button.inner_text()
