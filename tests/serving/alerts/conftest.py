"""What the tests of alerts share: an app over the small lake and a database, and keys of two owners."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import httpx2
import psycopg2
import pyarrow as pa
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from fibflow.io.alerts.outbox import write_events
from fibflow.serving.access import Scope
from fibflow.serving.app import create_app
from fibflow.serving.keys.sqlite import SqliteKeys
from fibflow.serving.keys.store import issue
from fibflow.serving.settings import Settings
from fibflow.tests.io.postgresql.databases import Databases
from fibflow.tests.serving.conftest import NOW, now
from fibflow.transforms.alerts.schema import EVENTS

#: Crosses up 200.
CROSSES = {"symbol": "AAPL", "operator": "crosses_up", "value": 200.0}
Document = dict[str, Any]


@pytest.fixture
def url(postgresql: Databases) -> str:
    """The URL of a database without alerts."""
    return postgresql.make("migrated")


@pytest.fixture
def settings(open_settings: Settings, url: str) -> Settings:
    """Of a server with alerts that asks for no keys."""
    return replace(open_settings, postgres=url, most_alerts=20_000)


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    return create_app(settings, now)


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app) as asking:
        yield asking


@pytest.fixture(scope="module")
def asking(open_settings: Settings, database: str) -> Iterator[TestClient]:
    """Asks an app that all tests of a module share: for what makes nothing."""
    with TestClient(create_app(replace(open_settings, postgres=database), now)) as client:
        yield client


@dataclass(frozen=True)
class Owners:
    """An app that asks for keys, and keys: of ``ada`` two, one of ``bob``, one of ada's without the scope."""

    app: FastAPI
    store: SqliteKeys
    keys: Mapping[str, str]

    def headers(self, name: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.keys[name]}"}


@pytest.fixture
def owners(settings: Settings, tmp_path) -> Iterator[Owners]:
    path = tmp_path / "keys.sqlite"
    store, randbytes = SqliteKeys(path), random.Random(1).randbytes
    without = frozenset(Scope) - {Scope.ALERTS}
    made = {
        "ada": issue("Ada", frozenset(Scope), NOW, randbytes, rate=10_000, burst=100_000),
        "ada2": issue("Ada", frozenset(Scope), NOW, randbytes),
        "bob": issue("Bob", frozenset(Scope), NOW, randbytes),
        "lacks": issue("Ada", without, NOW, randbytes),
    }
    for key in made.values():
        store.add(key.record)
    told = replace(settings, open_access=False, keys=str(path))
    yield Owners(create_app(told, now), store, {name: key.text for name, key in made.items()})
    store.close()


@pytest.fixture
def keyed(owners: Owners) -> Iterator[TestClient]:
    """Asks the app with keys."""
    with TestClient(owners.app) as asking:
        yield asking


def make(client: TestClient, headers: Mapping[str, str] | None = None, **more: Any) -> Document:
    """Make an alert, and return what is told of it."""
    answer = client.post("/v1/alerts", json={**CROSSES, **more}, headers=dict(headers or {}))
    assert answer.status_code == 201, answer.text
    found: Document = answer.json()
    return found


def problem(answer: httpx2.Response, status: int, code: str | None = None) -> Document:
    """What a refusal says, which must be a problem in one line."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told: Document = answer.json()
    assert "\n" not in told["detail"]
    assert code in (None, told["code"])
    return told


def fire(
    url: str, *alerts: Document, price: float = 201.5, generation: str = "0", at: datetime = NOW
) -> None:
    """Write to the outbox that alerts fired, as the job does."""
    rows = [
        {
            "id": f"{alert['id']}-{alert['version']}-{generation}",
            "alert": int(alert["id"]),
            "version": alert["version"],
            "symbol": alert["symbol"],
            "ts": int(at.timestamp()) * 1_000_000 + place,
            "seq": place,
            "price": price,
            "previous": 199.0,
            "level": alert["value"],
        }
        for place, alert in enumerate(alerts)
    ]
    connection = psycopg2.connect(url)
    try:
        assert write_events(connection, pa.Table.from_pylist(rows, EVENTS)) == len(rows)
    finally:
        connection.close()
