"""What tests do with the panel of alerts, and what is kept of them."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Locator, Page, expect

from fibflow.tests.io.postgresql.databases import select
from fibflow.tests.serving.page.browsers import Site, wait_loaded

_NAMES = ("id", "version", "symbol", "operator", "value", "frequency", "hours", "note", "state")


def kept(url: str) -> list[dict[str, Any]]:
    """The alerts of a database, by id."""
    rows = select(url, f"SELECT {', '.join(_NAMES)} FROM alerts ORDER BY id")
    return [dict(zip(_NAMES, row, strict=True)) for row in rows]


def go(tab: Page, site: Site, symbol: str = "AAPL") -> None:
    """Open the page, and the panel."""
    tab.goto(f"{site.url}/?symbol={symbol}&tf=13d")
    wait_loaded(tab)
    tab.locator("#alerts-open").click()
    expect(tab.locator("#alert-form")).to_be_visible()


def submit(tab: Page, price: str) -> None:
    """Write a price, and set the alert."""
    tab.locator("#alert-price").fill(price)
    tab.keyboard.press("Enter")


def rows(tab: Page) -> Locator:
    """The alerts that are listed."""
    return tab.locator("#alerts-list li")


def lines(tab: Page) -> Locator:
    """What is said of what fired, a line each."""
    return tab.locator("#fired p span")
