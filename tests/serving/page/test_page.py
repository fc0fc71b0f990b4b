"""The page in a real browser, over history."""

import json
import re
from urllib.parse import parse_qs, urlsplit

import pyarrow.parquet as pq
import pytest
from playwright.sync_api import expect

from fibflow.serving.app import create_app
from fibflow.serving.settings import Settings
from fibflow.tests.serving.page.browsers import (
    PHONE,
    Site,
    opened,
    shown,
    wait_background,
    wait_detail,
    wait_feed,
    wait_loaded,
    wait_painted,
)
from fibflow.tests.serving.page.lakes import now


def query(page):
    """What the page's address asks for."""
    return {name: values[0] for name, values in parse_qs(urlsplit(page.url).query).items()}


def box_of(page, name):
    """Where an element is: x, y, width, height."""
    box = page.locator(name).bounding_box()
    assert box is not None, name
    return box


def wait_query(page, **asked):
    for name, value in asked.items():
        page.wait_for_function(
            "([name, value]) => new URLSearchParams(location.search).get(name) === value", arg=[name, value]
        )


def choose(page, timeframe):
    page.locator(f"#timeframes label:has(input[value='{timeframe}'])").click()
    wait_query(page, tf=timeframe)
    wait_loaded(page)


def test_it_shows_the_first_symbol_in_the_shortest_fibonacci_timeframe(tab, site):
    tab.goto(site.url)
    wait_loaded(tab)
    assert query(tab) == {"symbol": "AAPL", "tf": "3d", "adjusted": "0"}
    expect(tab.locator("#symbol")).to_have_text("AAPL")
    expect(tab.locator("#company")).to_have_text("Apple Inc. · XNAS")
    expect(tab).to_have_title(re.compile("^AAPL"))
    # The last bar, as it is when nothing is pointed at.
    bar = shown(tab)
    assert bar["Window"].endswith("2013-03-01") or "2013-03-0" in bar["Window"]
    assert bar["C"] == "430.47"
    assert bar["Revision"] == "0"
    # Candles of both sides are on the canvas.
    wait_painted(tab, "up", 500)
    wait_painted(tab, "down", 500)


def test_the_last_price_stands_beside_the_day_before(tab, site):
    tab.goto(site.url)
    expect(tab.locator("#price")).to_have_text("430.47")
    expect(tab.locator("#change")).to_have_text("−10.93 (−2.48 %)")
    expect(tab.locator("#change")).to_have_class("down")
    expect(tab.locator("#source")).to_contain_text("lake")


def test_fibonacci_timeframes_come_first(tab, site):
    tab.goto(site.url)
    wait_loaded(tab)
    names = tab.eval_on_selector_all("#timeframes input", "inputs => inputs.map(input => input.value)")
    assert names[:6] == ["3d", "5d", "8d", "13d", "21d", "34d"]
    assert [name for name in names if name[-1] in "mh"] == ["1m", "5m", "1h"]
    choose(tab, "13d")
    assert shown(tab)["Sessions"] in {str(count) for count in range(1, 14)}
    choose(tab, "5m")
    bar = shown(tab)
    assert bar["Window"] == "2013-03-01 15:55–16:00"
    assert "Sessions" not in bar
    assert bar["C"] == "430.47"


def test_a_symbol_is_found_by_the_keyboard_alone(tab, site):
    tab.goto(site.url)
    wait_loaded(tab)
    tab.keyboard.press("/")
    tab.keyboard.type("micro")
    expect(tab.locator("#matches li")).to_have_count(1)
    expect(tab.locator("#matches li")).to_contain_text("Microsoft Corporation")
    expect(tab.locator("#query")).to_have_attribute("aria-activedescendant", "match-0")
    tab.keyboard.press("Enter")
    wait_query(tab, symbol="MSFT")
    wait_detail(tab, "C", "27.95")
    expect(tab.locator("#query")).to_have_value("MSFT")
    expect(tab.locator("#matches")).to_be_hidden()


def test_arrows_choose_among_what_is_found(tab, site):
    tab.goto(site.url)
    wait_loaded(tab)
    tab.locator("#query").click()
    expect(tab.locator("#matches li")).to_have_count(5)
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("ArrowDown")
    expect(tab.locator("#matches li[aria-selected=true] b")).to_have_text("GOOG")
    tab.keyboard.press("ArrowUp")
    tab.locator("#matches li", has_text="FB").click()
    wait_query(tab, symbol="FB")
    wait_loaded(tab)


def test_nothing_found_is_said(tab, site):
    tab.goto(site.url)
    wait_loaded(tab)
    tab.locator("#query").fill("zzz")
    expect(tab.locator("#matches")).to_have_text("No symbol matches “zzz”.")
    tab.keyboard.press("Escape")
    tab.keyboard.press("Escape")
    expect(tab.locator("#query")).to_have_value("AAPL")


def test_an_address_shows_the_same_again(tab, site):
    tab.goto(f"{site.url}/?symbol=GOOG&tf=13d&adjusted=1")
    wait_loaded(tab)
    expect(tab.locator("#symbol")).to_have_text("GOOG")
    expect(tab.locator("#timeframes input:checked")).to_have_value("13d")
    expect(tab.locator("#adjusted")).to_be_checked()
    before = shown(tab)
    tab.reload()
    wait_loaded(tab)
    assert shown(tab) == before
    assert query(tab) == {"symbol": "GOOG", "tf": "13d", "adjusted": "1"}


def test_back_and_forward_go_through_what_was_shown(tab, site):
    tab.goto(f"{site.url}/?symbol=IBM&tf=5d&adjusted=0")
    wait_loaded(tab)
    choose(tab, "8d")
    tab.go_back()
    wait_query(tab, tf="5d")
    expect(tab.locator("#timeframes input:checked")).to_have_value("5d")
    tab.go_forward()
    expect(tab.locator("#timeframes input:checked")).to_have_value("8d")


def test_a_timeframe_that_is_not_stored_is_shown_too(tab, site):
    tab.goto(f"{site.url}/?symbol=AAPL&tf=7d")
    wait_loaded(tab)
    expect(tab.locator("#timeframes input:checked")).to_have_value("7d")
    assert shown(tab)["C"] == "430.47"


# Adjusted ------------------------------------------------------------------------------------------------


def first_close(page):
    """The close of the first bar there is."""
    page.locator("#chart").focus()
    before = None
    while before != (window := shown(page)["Window"]):
        before = window
        page.keyboard.press("Home")
        page.wait_for_selector("#stage[data-older=false]")
    return float(shown(page)["C"])


def test_the_switch_scales_prices_to_the_splits(tab, site):
    tab.goto(f"{site.url}/?symbol=AAPL&tf=13d")
    wait_loaded(tab)
    last = shown(tab)["C"]
    raw = first_close(tab)
    tab.locator("#adjusting").click()
    wait_query(tab, adjusted="1")
    wait_loaded(tab)
    assert shown(tab)["C"] == last
    assert first_close(tab) == pytest.approx(raw / 4, rel=0.001)


def test_the_switch_says_why_it_cannot_be_used(tab, adjusted_settings):
    with Site(lambda: create_app(adjusted_settings, now)) as running:
        tab.goto(running.url)
        wait_loaded(tab)
        switch = tab.locator("#adjusted")
        expect(switch).to_be_disabled()
        expect(switch).to_be_checked()
        expect(tab.locator("#adjusting")).to_have_attribute(
            "title", re.compile("adjusted for splits as they are")
        )
        assert "adjusted" not in query(tab)


# Older bars ----------------------------------------------------------------------------------------------


def test_older_bars_come_when_one_goes_left(tab, site):
    tab.goto(f"{site.url}/?symbol=AAPL&tf=3d")
    wait_loaded(tab)
    count = tab.locator("#count")
    expect(count).to_contain_text("scroll left for older ones")
    before = count.text_content()
    tab.locator("#chart").focus()
    tab.keyboard.press("Home")
    expect(count).not_to_have_text(before)
    expect(count).to_contain_text("bars since 2000-0")
    expect(count).not_to_contain_text("scroll left")
    # What was in view stays there.
    assert shown(tab)["Window"] < "2003"


def test_a_drag_brings_older_bars_too(tab, site):
    tab.goto(f"{site.url}/?symbol=AAPL&tf=3d")
    wait_loaded(tab)
    box = box_of(tab, "#chart")
    middle = box["y"] + box["height"] / 3
    # Half of the width is so many bars that twenty drags go past all that were loaded.
    for _ in range(20):
        tab.mouse.move(box["x"] + 60, middle)
        tab.mouse.down()
        tab.mouse.move(box["x"] + box["width"] - 120, middle, steps=4)
        tab.mouse.up()
    expect(tab.locator("#count")).to_contain_text("bars since 2000-0")


def test_the_bar_under_the_pointer_is_described(tab, site):
    tab.goto(f"{site.url}/?symbol=AAPL&tf=13d")
    wait_loaded(tab)
    last = shown(tab)
    box = box_of(tab, "#chart")
    tab.mouse.move(box["x"] + box["width"] / 3, box["y"] + box["height"] / 3)
    tab.wait_for_function(
        "text => document.querySelector('#details dd').textContent !== text", arg=last["Window"]
    )
    bar = shown(tab)
    assert bar["Window"] < last["Window"]
    assert bar["Sessions"] == "13"
    assert {"complete", "final"} <= set(bar.values())
    assert float(bar["L"]) <= float(bar["O"]) <= float(bar["H"])
    tab.mouse.move(box["x"] + box["width"] / 3, 5)
    wait_detail(tab, "Window", last["Window"])


def test_arrow_keys_go_from_bar_to_bar_and_say_them(tab, site):
    tab.goto(f"{site.url}/?symbol=AAPL&tf=13d")
    wait_loaded(tab)
    last = shown(tab)["Window"]
    tab.locator("#chart").focus()
    tab.keyboard.press("ArrowLeft")
    expect(tab.locator("#spoken")).to_contain_text("close")
    tab.keyboard.press("ArrowLeft")
    before = shown(tab)["Window"]
    assert before < last
    expect(tab.locator("#spoken")).to_contain_text(before)
    tab.keyboard.press("End")
    wait_detail(tab, "Window", last)
    tab.keyboard.press("Escape")


# Exports -------------------------------------------------------------------------------------------------


def test_what_is_shown_can_be_had_as_a_file(tab, site, tmp_path):
    tab.goto(f"{site.url}/?symbol=AAPL&tf=13d&adjusted=0")
    wait_loaded(tab)
    tab.locator("#export summary").click()
    expect(tab.locator("#exported")).to_have_text("All 13d bars of AAPL:")
    with tab.expect_download() as download:
        tab.locator("#formats a", has_text="Parquet").click()
    assert download.value.suggested_filename.endswith(".parquet")
    download.value.save_as(tmp_path / "bars.parquet")
    table = pq.read_table(tmp_path / "bars.parquet")
    assert set(table["symbol"].to_pylist()) == {"AAPL"}
    assert table["close"].to_pylist()[-1] == 430.47
    assert len(table) > 250
    tab.keyboard.press("Escape")
    expect(tab.locator("#formats")).to_be_hidden()


def test_the_export_follows_what_is_shown(tab, site):
    tab.goto(f"{site.url}/?symbol=AAPL&tf=13d&adjusted=1")
    wait_loaded(tab)
    choose(tab, "8d")
    link = tab.locator("#formats a", has_text="CSV").first.get_attribute("href")
    asked = parse_qs(urlsplit(link).query)
    assert (asked["timeframe"], asked["adjusted"], asked["format"]) == (["8d"], ["true"], ["csv"])
    assert "AAPL" in json.dumps(asked)


# How it looks --------------------------------------------------------------------------------------------


DARK, LIGHT = "rgb(14, 17, 20)", "rgb(255, 255, 255)"


def test_the_theme_is_the_systems_until_one_is_chosen(tab, site):
    tab.emulate_media(color_scheme="dark")
    tab.goto(site.url)
    wait_loaded(tab)
    wait_background(tab, DARK)
    tab.emulate_media(color_scheme="light")
    wait_background(tab, LIGHT)
    wait_painted(tab, "ground", 10_000)
    button = tab.locator("#theme")
    expect(button).to_have_attribute("title", "Theme: as the system has it")
    button.click()
    button.click()
    expect(button).to_have_attribute("title", "Theme: dark")
    wait_background(tab, DARK)
    # The canvas too, and after the page is loaded again.
    wait_painted(tab, "ground", 10_000)
    tab.reload()
    wait_loaded(tab)
    wait_background(tab, DARK)


def test_it_fits_a_phone(browser, site, watch):
    context = browser.new_context(viewport=PHONE, device_scale_factor=2, is_mobile=True, has_touch=True)
    try:
        page = opened(context, watch)
        page.goto(f"{site.url}/?symbol=AAPL&tf=34d")
        wait_loaded(page)
        # What comes later takes room too.
        wait_feed(page, "none")
        expect(page.locator("#source")).not_to_be_empty()
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        assert page.evaluate("document.documentElement.scrollHeight") <= PHONE["height"]
        for name in ("#query", "#timeframes", "#adjusting", "#export", "#theme", "#feed", ".credit"):
            box = box_of(page, name)
            assert box["x"] >= 0, name
            assert box["x"] + box["width"] <= PHONE["width"], name
        chart = box_of(page, "#chart")
        assert chart["height"] > PHONE["height"] / 2
        # The chosen timeframe is in sight, and a finger hits it.
        label = box_of(page, "#timeframes label:has(input:checked)")
        assert 0 <= label["x"] <= PHONE["width"] - label["width"]
        assert min(label["width"], label["height"]) >= 36
        page.locator("#timeframes label:has(input[value='21d'])").tap()
        wait_query(page, tf="21d")
        wait_loaded(page)
        page.locator("#query").tap()
        page.locator("#matches li", has_text="IBM").tap()
        wait_query(page, symbol="IBM")
    finally:
        context.close()
    watch.check()


def luminance(color):
    parts = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_words_stand_out_from_what_is_behind_them(tab, site, theme):
    tab.emulate_media(color_scheme=theme)
    tab.goto(site.url)
    wait_loaded(tab)
    colors = tab.evaluate(
        """async () => {
            const script = document.querySelector("script[type=module]").src;
            const { color } = await import(script.replace("app.js", "theme-switch.js"));
            const names = ["ground", "raised", "pressed", "gold-wash", "text", "muted", "gold", "up", "down"];
            return Object.fromEntries(names.map((name) => [name, color(name)]));
        }"""
    )
    pairs = [(front, "ground") for front in ("text", "muted", "gold", "up", "down")]
    pairs += [
        ("text", "raised"),
        ("muted", "raised"),
        ("text", "pressed"),
        ("muted", "pressed"),
        ("gold", "gold-wash"),
        ("text", "gold-wash"),
        ("muted", "gold-wash"),
    ]
    for front, behind in pairs:
        one, other = sorted((luminance(colors[front]), luminance(colors[behind])), reverse=True)
        assert (one + 0.05) / (other + 0.05) >= 4.5, (front, behind)


def test_everything_that_can_be_used_has_a_name_and_shows_the_focus(tab, site):
    tab.goto(site.url)
    wait_loaded(tab)
    seen = []
    for _ in range(40):
        tab.keyboard.press("Tab")
        name, visible = tab.evaluate(
            """() => {
                const at = document.activeElement;
                if (at === document.body) return ["", true];
                const named = at.labels?.[0] ?? at;
                const name = at.getAttribute("aria-label") ?? at.title ?? "";
                const outlined = (part) => part && getComputedStyle(part).outlineStyle !== "none";
                const shows = [at, at.nextElementSibling].some(outlined);
                return [`${at.id || at.tagName}: ${name || named.textContent.trim()}`, shows];
            }"""
        )
        if not name:
            break
        assert not name.endswith(": "), name
        assert visible, name
        seen.append(name.split(":")[0])
    assert {"query", "adjusted", "SUMMARY", "theme", "chart", "A"} <= set(seen)


# When something is wrong ---------------------------------------------------------------------------------


def test_an_unknown_symbol_is_said_and_another_can_be_chosen(tab, site, watch):
    watch.expected = ["404"]
    tab.goto(f"{site.url}/?symbol=NOPE&tf=13d")
    notice = tab.locator("#notice")
    expect(notice).to_be_visible()
    expect(notice).to_contain_text("NOPE")
    tab.keyboard.press("/")
    tab.keyboard.type("GOOG")
    tab.keyboard.press("Enter")
    wait_loaded(tab)
    expect(notice).to_be_hidden()


def test_a_timeframe_that_is_none_is_said(tab, site, watch):
    watch.expected = ["400"]
    tab.goto(f"{site.url}/?symbol=AAPL&tf=5x")
    expect(tab.locator("#notice")).to_contain_text("5x")


def test_a_server_that_is_gone_is_said_and_asked_again(tab, settings, watch):
    watch.expected = ["ERR_CONNECTION_REFUSED", "WebSocket connection"]
    site = Site(lambda: create_app(settings, now))
    with site:
        tab.goto(f"{site.url}/?symbol=AAPL&tf=13d")
        wait_loaded(tab)
    tab.locator("#timeframes label:has(input[value='5d'])").click()
    expect(tab.locator("#notice .title")).to_have_text("The server does not answer")
    with site:
        tab.locator("#notice button").click()
        wait_loaded(tab)
        expect(tab.locator("#notice")).to_be_hidden()
        assert query(tab)["tf"] == "5d"


def test_a_lake_without_bars_says_so(tab, tmp_path, watch):
    watch.expected = ["404"]
    told = Settings(str(tmp_path / "lake"), open_access=True, log_requests=False)
    with Site(lambda: create_app(told, now)) as running:
        tab.goto(running.url)
        expect(tab.locator("#notice")).to_contain_text("no bars")
        expect(tab.locator("#stage")).to_have_attribute("aria-busy", "false")
