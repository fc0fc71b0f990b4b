"""The lakes of the compatible surface, servers over them, and the vendor's own clients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import massive
import polygon
import pytest

from fibflow.serving.app import create_app
from fibflow.serving.settings import Settings
from fibflow.tests.serving.compat.lakes import Made, clock, make
from fibflow.tests.serving.servers import running

CLIENTS = {"polygon": polygon.RESTClient, "massive": massive.RESTClient}


def settings_of(made: Made) -> Settings:
    return Settings(made.lake.uri, open_access=True, threads=2, log_requests=False)


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A lake of raw prices with a split inside. Do not write to it."""
    return make(Path(tmp_path_factory.mktemp("compat")) / "raw", "raw")


@pytest.fixture(scope="session")
def adjusted(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The same rows, declared as split-adjusted. Do not write to it."""
    return make(Path(tmp_path_factory.mktemp("compat")) / "adjusted", "split-adjusted")


@pytest.fixture(scope="session")
def raw_url(raw: Made) -> Iterator[str]:
    with running(create_app(settings_of(raw), clock)) as url:
        yield url


@pytest.fixture(scope="session")
def adjusted_url(adjusted: Made) -> Iterator[str]:
    with running(create_app(settings_of(adjusted), clock)) as url:
        yield url


@pytest.fixture(params=sorted(CLIENTS))
def make_client(request: pytest.FixtureRequest) -> Any:
    """Makes a client of a server, of one vendor's package and then of the other's."""
    kind = CLIENTS[request.param]
    return lambda url, key="none": kind(api_key=key, base=url)


@pytest.fixture
def client(make_client: Any, raw_url: str) -> Any:
    """A client of the raw lake."""
    return make_client(raw_url)
