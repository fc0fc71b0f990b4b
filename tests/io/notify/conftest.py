"""A server of PostgreSQL and an authority for each process of the tests."""

from __future__ import annotations

import pytest

from fibflow.tests.io.alerts.outboxes import Box
from fibflow.tests.io.notify.hooks import Authority, hooks
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
