"""A real Chromium, Debian's, driven by Playwright, and what tests do with the page in it."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from fibflow.runners.services.process import free_ports

#: How long a condition may take, milliseconds: the machine may be shared.
WITHIN_MS = 30_000
DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}
expect.set_options(timeout=WITHIN_MS)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Yield the system's Chromium, without a window.

    Raises:
        RuntimeError: there is none.
    """
    path = shutil.which("chromium")
    if path is None:
        raise RuntimeError("the page's tests need Chromium: sudo apt-get install chromium")
    with sync_playwright() as playwright:
        # Root has no sandbox; the only pages that are opened are our own.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield browser
        finally:
            browser.close()


class Site:
    """A server that can be stopped, and started again on its port."""

    def __init__(self, make: Callable[[], FastAPI]) -> None:
        self._make = make
        self.port = free_ports(["site"])["site"]
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start, and return when it answers."""
        config = uvicorn.Config(
            self._make(), host="127.0.0.1", port=self.port, log_level="error", ws="websockets-sansio"
        )
        server, ready = uvicorn.Server(config), threading.Event()
        startup = server.startup

        async def started(sockets: Any = None) -> None:
            await startup(sockets)
            ready.set()

        server.startup = started  # type: ignore[method-assign]
        self._server, self._thread = server, threading.Thread(target=server.run)
        self._thread.start()
        while not ready.wait(0.1):
            if not self._thread.is_alive():
                raise RuntimeError("the server did not start")

    def stop(self) -> None:
        """Stop, and return when it has."""
        if self._server is None or self._thread is None:
            return
        self._server.should_exit = True
        self._thread.join()
        self._server = None

    def __enter__(self) -> Site:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


@dataclass
class Watch:
    """What a page must not do: write errors to its console, or ask another host.

    Attributes:
        errors: of the console, and what nobody caught.
        requests: addresses that were asked for.
        expected: errors with one of these texts are the test's own doing.
    """

    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)

    def over(self, page: Page) -> None:
        """Begin to watch a page."""
        page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("websocket", lambda socket: self.requests.append(socket.url))

    def check(self) -> None:
        """Fail where the page did so."""
        left = [error for error in self.errors if not any(text in error for text in self.expected)]
        assert left == []
        hosts = {urlsplit(url).hostname for url in self.requests if not url.startswith(("blob:", "data:"))}
        assert hosts <= {"127.0.0.1"}


def opened(context: BrowserContext, watch: Watch) -> Page:
    """Return a new tab that is watched."""
    page = context.new_page()
    page.set_default_timeout(WITHIN_MS)
    watch.over(page)
    return page


# What a page shows ---------------------------------------------------------------------------------------


def shown(page: Page) -> dict[str, str]:
    """The details of the bar that the page describes, by name; what has no name is under its place."""
    rows: list[list[str]] = page.eval_on_selector_all(
        "#details > div",
        "rows => rows.map(row => ['dt', 'dd'].map(tag => row.querySelector(tag)?.textContent ?? ''))",
    )
    return {name or f"tag{place}": value for place, (name, value) in enumerate(rows)}


def wait_loaded(page: Page) -> None:
    """Wait until bars are shown."""
    page.wait_for_selector("#stage[aria-busy=false]")
    page.wait_for_selector("#details > div")


def wait_detail(page: Page, name: str, value: str) -> None:
    """Wait until the bar that the page describes has a value."""
    page.wait_for_function(
        """([name, value]) => [...document.querySelectorAll("#details > div")].some(
            (row) => (row.querySelector("dt")?.textContent ?? "") === name
              && row.querySelector("dd").textContent === value)""",
        arg=[name, value],
    )


def wait_feed(page: Page, state: str) -> None:
    """Wait until the feed of live bars is in a state."""
    page.wait_for_selector(f"#feed[data-state={state}]")


def wait_caught_up(page: Page) -> None:
    """Wait until bars are pushed, and those that the lake does not have yet are there."""
    wait_feed(page, "live")
    page.wait_for_selector("#stage[aria-busy=false][data-again=false]")


def wait_background(page: Page, color: str) -> None:
    """Wait until the page has a background, as ``rgb(...)``."""
    expect(page.locator("body")).to_have_css("background-color", color)


# What was asked of the chart is painted with the next frame.
_FRAMES = "await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));"
_PIXELS = """(name) => {
    const probe = document.body.appendChild(document.createElement("i"));
    probe.style.color = `var(--${name})`;
    const wanted = getComputedStyle(probe).color.match(/[0-9]+/g).map(Number);
    probe.remove();
    let count = 0;
    for (const canvas of document.querySelectorAll("#chart canvas")) {
        if (!canvas.width || !canvas.height) continue;
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        for (let at = 0; at < data.length; at += 4) {
            const near = wanted.every((part, place) => Math.abs(part - data[at + place]) < 6);
            if (near && data[at + 3] > 200) count += 1;
        }
    }
    return count;
}"""


def wait_frames(page: Page) -> None:
    """Wait until all is painted that was asked for before."""
    page.evaluate(f"async () => {{ {_FRAMES} }}")


def painted(page: Page, color: str) -> int:
    """How many pixels of the chart have a colour of the palette, nearly, when it has been painted."""
    found: int = page.evaluate(f"async (name) => {{ {_FRAMES} return ({_PIXELS})(name); }}", color)
    return found


def wait_unpainted(page: Page, color: str, below: int) -> None:
    """Wait until fewer pixels of the chart than this have a colour of the palette."""
    page.wait_for_function(
        f"([name, below]) => (({_PIXELS})(name)) < below", arg=[color, below], polling="raf"
    )


def wait_painted(page: Page, color: str, least: int, but: int = -1) -> None:
    """Wait until so many pixels of the chart have a colour of the palette, and not a number of them."""
    page.wait_for_function(
        f"([name, least, but]) => (count => count >= least && count !== but)(({_PIXELS})(name))",
        arg=[color, least, but],
    )
