"""What the tests of serving share: a small lake, apps with and without keys, a server that answers."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from fibflow.io.lake import Lake
from fibflow.serving.access import Scope
from fibflow.serving.app import create_app
from fibflow.serving.keys.sqlite import SqliteKeys
from fibflow.serving.keys.store import issue
from fibflow.serving.settings import Settings
from fibflow.tests.io.barlakes import commit_bars, daily_rows, make_bars, minute_rows
from fibflow.tests.io.livestores import MINUTE, Server, bar, closed, fresh, price, prices, table
from fibflow.tests.io.postgresql.databases import Databases, databases
from fibflow.tests.serving.servers import running
from fibflow.transforms.buckets import bucket_of
from fibflow.transforms.openbars import Flush

#: A Wednesday, 13:00 in New York; the lake's newest session is the day before.
NOW = datetime(2024, 1, 24, 18, tzinfo=UTC)
DAILY = "1d,2d,3d,5d,8d,13d,21d"
INTRADAY = "1m,5m,15m,1h"
#: Of the small lake. B's history begins later, Z's ends earlier.
SYMBOLS = ("AAPL", "BRK.B", "MSFT", "Z")


def now() -> datetime:
    """The tests' clock."""
    return NOW


def small_lake(folder: Path) -> Lake:
    """A lake of 70 sessions of days, and of two of minutes of AAPL and MSFT, made by the kernels."""
    lake = Lake(str(folder), clock=lambda: NOW - timedelta(hours=12))
    days = daily_rows(
        {
            "AAPL": ("2023-10-12", "2024-01-23"),
            "BRK.B": ("2023-10-25", "2024-01-23"),
            "MSFT": ("2023-10-12", "2024-01-23"),
            "Z": ("2023-10-12", "2023-12-20"),
        }
    )
    opens = ["2024-01-22T14:30", "2024-01-23T14:30"]
    minutes = [minute_rows(symbol, opens, 390, seed) for seed, symbol in enumerate(("AAPL", "MSFT"), 1)]
    commit_bars(lake, [*make_bars(days, DAILY), *make_bars(pa.concat_tables(minutes), INTRADAY)])
    return lake


@pytest.fixture(scope="session")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Shared by all tests: do not write to it (``small_lake`` makes another)."""
    return small_lake(tmp_path_factory.mktemp("serving") / "lake")


@pytest.fixture(scope="session")
def open_settings(lake: Lake) -> Settings:
    """History only, no keys asked."""
    return Settings(lake.uri, open_access=True, threads=2, log_requests=False)


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Databases]:
    """A PostgreSQL for all tests: take a database of one's own of it."""
    with databases(tmp_path_factory.mktemp("postgresql")) as made:
        yield made


@pytest.fixture(scope="module")
def database(postgresql: Databases) -> str:
    """The URL of a migrated database, for the tests of one module."""
    return postgresql.make("migrated")


@pytest.fixture
def open_app(open_settings: Settings) -> FastAPI:
    """An app over the small lake that asks for no keys. It starts with its client or server."""
    return create_app(open_settings, now)


@pytest.fixture
def client(open_app: FastAPI) -> Iterator[TestClient]:
    """Asks the open app, in this process."""
    with TestClient(open_app) as asking:
        yield asking


@pytest.fixture(scope="module")
def served(open_settings: Settings) -> Iterator[str]:
    """The URL of a real server over the small lake that asks for no keys."""
    with running(create_app(open_settings, now)) as url:
        yield url


@pytest.fixture(scope="module")
def live_settings(open_settings: Settings, server: Server) -> Settings:
    """History, and a live store with a price, closed bars and an open one of AAPL and MSFT. No keys asked."""
    minute = round(NOW.timestamp()) * 1_000_000
    with fresh(server) as store:
        for number, symbol in enumerate(("AAPL", "MSFT")):
            store.write_prices(prices(price(symbol, 15.5 + number, minute + 1_000_000, number + 1)))
            ended = [closed(symbol, ts=minute - back * MINUTE, close=15.0, final=True) for back in (3, 2, 1)]
            store.write_closed(table(*ended), minute)
            opened = table(bar(symbol, ts=minute))
            bucket = bucket_of(symbol, store.buckets)
            store.write_open([Flush(bucket, minute, of_days=False, whole=False, bars=opened)])
    return replace(open_settings, redis=server.url, prefix="test")


@dataclass(frozen=True)
class Keyed:
    """An app that asks for keys.

    Attributes:
        app: the app.
        store: where its keys are.
        keys: by name: ``all`` (all scopes), one for each scope, ``revoked``, ``expired``, and ``slow``, which
            may ask twice at once and once in 100 s.
    """

    app: FastAPI
    store: SqliteKeys
    keys: Mapping[str, str]

    def headers(self, name: str = "all") -> dict[str, str]:
        return {"Authorization": f"Bearer {self.keys[name]}"}


def make_keyed(settings: Settings, path: Path) -> Keyed:
    """An app of some settings that asks for keys, which lie in a file."""
    settings = replace(settings, open_access=False, keys=str(path))
    store = SqliteKeys(path)
    randbytes = random.Random(1).randbytes
    scopes = frozenset(Scope)
    made = {"all": issue("tests", scopes, NOW, randbytes)}
    made |= {str(scope): issue("tests", frozenset([scope]), NOW, randbytes) for scope in Scope}
    made["revoked"] = issue("tests", scopes, NOW, randbytes)
    made["expired"] = issue("tests", scopes, NOW, randbytes, expires=NOW - timedelta(days=1))
    made["slow"] = issue("tests", scopes, NOW, randbytes, rate=0.01, burst=2)
    for key in made.values():
        store.add(key.record)
    store.revoke(made["revoked"].record.id, NOW)
    return Keyed(create_app(settings, now), store, {name: key.text for name, key in made.items()})


@pytest.fixture
def keyed(open_settings: Settings, tmp_path: Path) -> Iterator[Keyed]:
    """An app over the small lake that asks for keys."""
    made = make_keyed(open_settings, tmp_path / "keys.sqlite")
    yield made
    made.store.close()


@pytest.fixture
def keyed_client(keyed: Keyed) -> Iterator[TestClient]:
    """Asks the app with keys, in this process; name a key: ``get(path, headers=keyed.headers())``."""
    with TestClient(keyed.app) as asking:
        yield asking
