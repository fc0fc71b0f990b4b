"""A server of PostgreSQL and an authority for each process of the tests."""

from __future__ import annotations

from contextlib import closing

import pytest

from fibflow.io.notify.webhook import Webhooks
from fibflow.tests.io.alerts.outboxes import Box
from fibflow.tests.io.notify.hooks import Authority, hooks
from fibflow.tests.io.notify.sending import AT
from fibflow.tests.io.postgresql.conftest import empty, server, url

__all__ = ["authority", "box", "empty", "plain", "server", "url"]


@pytest.fixture(scope="session")
def authority(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def box(url) -> Box:
    return Box(url)


@pytest.fixture
def plain():
    """Webhooks without TLS."""
    with hooks() as server:
        yield server


@pytest.fixture
def secure(authority):
    """A webhook with a name of the internet."""
    with hooks(authority.context("hook.example.com", "other.example.com")) as server:
        yield server


@pytest.fixture
def webhooks():
    """Sends to this machine too."""
    with closing(Webhooks(allow_http_loopback=True, wall=lambda: AT, timeout_s=30)) as made:
        yield made
