"""What several tests of io stand on: a Redis server, and a lake on either kind of storage."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fibflow.io.lake import Lake
from fibflow.io.livestore import LiveStore
from fibflow.tests.io.livestores import Server, fresh, serving


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def store(server: Server) -> Iterator[LiveStore]:
    with fresh(server) as made:
        yield made


@pytest.fixture(params=["folder", "s3"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    if request.param == "folder":
        return Lake(str(tmp_path))
    s3 = request.getfixturevalue("s3")
    return Lake(s3.uri("lake"), s3.aws)
