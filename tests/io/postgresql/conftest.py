"""A server for each process of the tests, and databases in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fibflow.tests.io.postgresql.databases import Databases, databases


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Iterator[Databases]:
    with databases(tmp_path_factory.mktemp("postgresql")) as made:
        yield made


@pytest.fixture
def empty(server) -> str:
    return server.make()


@pytest.fixture
def url(server) -> str:
    return server.make("migrated")
