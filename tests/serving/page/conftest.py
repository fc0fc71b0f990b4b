"""What the tests of the page share: one Chromium, watched tabs, a server with a lake and a live store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from fibflow.io.livestore import LiveStore
from fibflow.serving.app import create_app
from fibflow.serving.settings import Settings
from fibflow.tests.io.livestores import Server, fresh
from fibflow.tests.io.postgresql.databases import Databases
from fibflow.tests.serving.page.browsers import DESKTOP, Site, Watch, chromium, opened
from fibflow.tests.serving.page.lakes import adjusted_lake, now, page_lake


# Not of the session: while Playwright is there, a loop runs in this thread, and no other can.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Of a server of history, without keys."""
    lake = page_lake(tmp_path_factory.mktemp("page") / "lake")
    return Settings(lake.uri, open_access=True, threads=2, log_requests=False)


@pytest.fixture(scope="session")
def adjusted_settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Of a server over prices that are split-adjusted."""
    lake = adjusted_lake(tmp_path_factory.mktemp("adjusted") / "lake")
    return Settings(lake.uri, open_access=True, threads=2, log_requests=False)


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A browser that remembers nothing."""
    made = browser.new_context(viewport=DESKTOP, color_scheme="light")  # type: ignore[arg-type]
    yield made
    made.close()


@pytest.fixture
def watch() -> Watch:
    """Of the tab: name in ``expected`` what a test does to it."""
    return Watch()


@pytest.fixture
def tab(context: BrowserContext, watch: Watch) -> Iterator[Page]:
    """A tab; at the end its console has no error, and no other host was asked."""
    page = opened(context, watch)
    yield page
    watch.check()


@pytest.fixture(scope="session")
def site(settings: Settings) -> Iterator[Site]:
    """A server of history."""
    with Site(lambda: create_app(settings, now)) as running:
        yield running


@pytest.fixture
def live(server: Server) -> Iterator[LiveStore]:
    """An empty live store, to write to."""
    with fresh(server) as made:
        yield made


@pytest.fixture
def live_site(settings: Settings, server: Server, live: LiveStore) -> Iterator[Site]:
    """A server of history and of the live store."""
    told = replace(settings, redis=server.url, prefix=live.prefix)
    with Site(lambda: create_app(told, now)) as running:
        yield running


@pytest.fixture
def url(postgresql: Databases) -> str:
    """The URL of a database without alerts."""
    return postgresql.make("migrated")


@pytest.fixture
def told(settings: Settings, url: str) -> Settings:
    """Of a server of history with alerts."""
    return replace(settings, postgres=url)


@pytest.fixture
def alerting(told: Settings) -> Iterator[Site]:
    """A server of history with alerts."""
    with Site(lambda: create_app(told, now)) as running:
        yield running
