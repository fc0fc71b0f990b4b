"""Both stores of keys, against the real thing, and what a key is."""

from __future__ import annotations

import random
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from fibflow.runners.services.postgres import Postgres
from fibflow.runners.services.process import Leash, Process, free_ports
from fibflow.serving.keys.postgres import PostgresKeys
from fibflow.serving.keys.scope import Scope
from fibflow.serving.keys.sqlite import SqliteKeys
from fibflow.serving.keys.store import KeysDown, KeysError, KeyStore, digest, id_of, issue

NOW = datetime(2024, 1, 24, 18, tzinfo=UTC)
BOTH = frozenset([Scope.HISTORY, Scope.LIVE])


class Server:
    """A PostgreSQL that can be killed and started again."""

    def __init__(self, folder, leash):
        self.service = Postgres(folder / "postgres", free_ports(["postgres"])["postgres"])
        self.process = Process("postgres", folder, leash)
        self.service.prepare()
        self.start()

    @property
    def url(self):
        return self.service.exports()["DATABASE_URL"]

    def start(self):
        start = self.process.starts + 1
        self.process.start(self.service.command(start), {})
        self.process.wait_until(lambda: self.service.answers(start), self.service.start_seconds)

    def kill(self):
        self.process.kill()


@pytest.fixture(scope="module")
def postgres(tmp_path_factory) -> Iterator[Server]:
    leash = Leash()
    try:
        running = Server(tmp_path_factory.mktemp("keys"), leash)
        yield running
        running.kill()
    finally:
        leash.close()


@pytest.fixture(params=["sqlite", "postgres"])
def store(request, tmp_path) -> Iterator[KeyStore]:
    if request.param == "sqlite":
        made: KeyStore = SqliteKeys(tmp_path / "folder" / "keys.sqlite")
    else:
        url = request.getfixturevalue("postgres").url
        made = PostgresKeys(url)
        made._ask(lambda cursor: cursor.execute("DROP TABLE IF EXISTS api_keys, api_keys_version"), None)
    yield made
    made.close()


def key(seed: int = 1, **more):
    return issue("Ada", BOTH, NOW, random.Random(seed).randbytes, **more)


# What a key is ---------------------------------------------------------------------------------------------


def test_a_key_holds_32_random_bytes_and_an_id_that_may_be_shown():
    asked = []

    def randbytes(count: int) -> bytes:
        asked.append(count)
        return bytes(range(count))

    made = issue("Ada", BOTH, NOW, randbytes)
    assert sorted(asked) == [8, 32]
    assert made.text == "fib_0001020304050607_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
    assert made.record.id == id_of(made.text) == "0001020304050607"


def test_no_secret_shows_in_what_is_printed():
    made = key()
    secret = made.text.rpartition("_")[2]
    for shown in (repr(made), repr(made.record), str(made)):
        assert secret not in shown
        assert made.record.digest.hex() not in shown


def test_what_is_kept_depends_on_the_pepper_and_is_not_the_key():
    made, peppered = key(), key(pepper="black")
    assert made.text == peppered.text
    assert made.record.digest == digest(made.text, "")
    assert peppered.record.digest == digest(made.text, "black") != made.record.digest
    assert len(made.record.digest) == 32


@pytest.mark.parametrize(
    "text",
    ["", "fib_", "fib_0_a", "fib_0001020304050607_", "key", "fib_0001020304050607_" + "a" * 44, "x" * 10_000],
)
def test_what_is_no_key_has_no_id(text):
    assert id_of(text) is None


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"scopes": []}, "needs a scope"),
        ({"owner": "  "}, "owner"),
        ({"owner": "a\nb"}, "owner"),
        ({"rate": 0.0}, "rate of 0"),
        ({"rate": float("nan")}, "rate of nan"),
        ({"rate": float("inf")}, "rate of inf"),
        ({"burst": 0}, "burst of 0"),
    ],
)
def test_a_key_that_cannot_be_is_refused_in_a_line(values, says):
    asked = {"owner": "Ada", "scopes": BOTH, "now": NOW, "randbytes": random.Random(1).randbytes, **values}
    with pytest.raises(KeysError, match=says):
        issue(**asked)


# The stores ------------------------------------------------------------------------------------------------


def test_an_empty_store_has_no_keys_and_a_version(store):
    assert store.all() == []
    assert store.version() == -1
    assert not store.revoke("0001020304050607", NOW)
    store.touch({"0001020304050607": NOW})


def test_a_key_comes_back_as_it_was_put_in(store):
    made = [key(1), key(2, rate=0.5, burst=3, expires=NOW + timedelta(days=90))]
    for one in made:
        store.add(one.record)
    assert store.all() == sorted((one.record for one in made), key=lambda r: r.id)


def test_a_key_of_the_same_id_is_refused(store):
    store.add(key().record)
    with pytest.raises(KeysError, match="already"):
        store.add(key().record)
    assert len(store.all()) == 1


def test_the_version_moves_with_keys_and_revocations_but_not_with_use(store):
    made = key().record
    store.add(made)
    first = store.version()
    store.touch({made.id: NOW})
    assert store.version() == first
    assert store.revoke(made.id, NOW)
    second = store.version()
    assert second > first
    assert not store.revoke(made.id, NOW)
    assert store.version() == second


def test_a_revocation_that_lies_ahead_can_be_brought_forward(store):
    made = key().record
    store.add(made)
    assert store.revoke(made.id, NOW + timedelta(hours=1))
    assert store.all()[0].state(NOW) == "active"
    assert store.all()[0].state(NOW + timedelta(hours=1)) == "revoked"
    assert store.revoke(made.id, NOW)
    assert store.all()[0].state(NOW) == "revoked"


def test_last_use_only_moves_forward(store):
    made = key().record
    store.add(made)
    for at in (NOW, NOW - timedelta(hours=1)):
        store.touch({made.id: at})
    assert store.all()[0].last_used == NOW


def test_text_that_looks_like_sql_is_kept_as_text(store):
    made = issue("'; DROP TABLE api_keys; --", BOTH, NOW, random.Random(1).randbytes)
    store.add(made.record)
    assert not store.revoke("' OR 1=1 --", NOW)
    assert store.all()[0].owner == "'; DROP TABLE api_keys; --"
    assert store.all()[0].state(NOW) == "active"


def test_many_threads_may_use_a_store_at_once(store):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda seed: store.add(key(seed).record), range(24)))
    assert len(store.all()) == 24


def test_a_scope_of_a_later_release_grants_nothing(store):
    store.add(key().record)
    if isinstance(store, PostgresKeys):
        store._ask(lambda cursor: cursor.execute("UPDATE api_keys SET scopes = 'history,teleport'"), None)
    else:
        store._write(lambda db: db.execute("UPDATE api_keys SET scopes = 'history,teleport'"))
    assert store.all()[0].scopes == {Scope.HISTORY}


def test_the_file_of_keys_is_its_owners_alone(tmp_path):
    store = SqliteKeys(tmp_path / "keys.sqlite")
    store.add(key().record)
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600


def test_a_file_that_is_no_database_is_said_in_a_line(tmp_path):
    path = tmp_path / "keys.sqlite"
    path.write_text("not a database, but long enough to look like one" * 100)
    for ask in (SqliteKeys(path).version, SqliteKeys(path).all, lambda: SqliteKeys(path).add(key().record)):
        with pytest.raises(KeysDown, match=r"keys\.sqlite cannot be used"):
            ask()


def test_a_database_that_is_away_is_said_in_a_line_and_found_again(postgres):
    store = PostgresKeys(postgres.url)
    store._ask(lambda cursor: cursor.execute("DROP TABLE IF EXISTS api_keys, api_keys_version"), None)
    store.add(key().record)
    postgres.kill()
    for _ in range(2):
        with pytest.raises(KeysDown, match="PostgreSQL does not answer"):
            store.all()
    postgres.start()
    assert len(store.all()) == 1
    store.close()


def test_two_servers_may_make_the_tables_at_the_same_time(postgres):
    stores = [PostgresKeys(postgres.url) for _ in range(6)]
    stores[0]._ask(lambda cursor: cursor.execute("DROP TABLE IF EXISTS api_keys, api_keys_version"), None)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda pair: pair[1].add(key(pair[0]).record), enumerate(stores)))
    assert len(stores[0].all()) == 6
    for store in stores:
        store.close()
