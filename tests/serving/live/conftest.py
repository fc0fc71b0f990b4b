from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import pytest

from fibflow.io.livestore import LiveStore
from fibflow.serving.app import create_app
from fibflow.serving.settings import Settings
from fibflow.tests.io.livestores import Server
from fibflow.tests.serving.conftest import now
from fibflow.tests.serving.servers import running

#: Starts a server over the lake and the live store, with other settings where they are named.
Serve = Callable[..., str]


@pytest.fixture
def serve(open_settings: Settings, server: Server, store: LiveStore) -> Iterator[Serve]:
    with ExitStack() as open_servers:

        def start(**settings: Any) -> str:
            live = {"redis": server.url, "prefix": store.prefix}
            app = create_app(replace(open_settings, **{**live, **settings}), now)
            return open_servers.enter_context(running(app))

        yield start


@pytest.fixture
def url(serve: Serve, store: LiveStore) -> str:
    """A server that follows the live store, which is there."""
    store.marker()
    return serve()


@contextmanager
def away(server: Server) -> Iterator[None]:
    """Take Redis away for a while; it comes back empty."""
    server.kill()
    try:
        yield
    finally:
        server.start()
