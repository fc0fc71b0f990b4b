"""``pipelines.doctor`` and the stores: Redis and PostgreSQL as they are, and as they should not be."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from fibflow.io import submissions
from fibflow.io.postgresql import migrate
from fibflow.io.storage import Storage
from fibflow.tests.io.alerts.outboxes import Box
from fibflow.tests.io.postgresql.databases import GUARDED, databases, execute
from fibflow.tests.pipelines.doctoring import NAMES, looked


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    for name in (*NAMES, "PGPASSWORD"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def postgresql(tmp_path_factory):
    with databases(tmp_path_factory.mktemp("postgresql")) as made:
        yield made


@pytest.fixture
def configured(server):
    """Sets Redis, and sets it back."""
    before: dict[str, str] = {}

    def configure(name, value):
        before.setdefault(name, server.client.config_get(name)[name])
        server.client.config_set(name, value)

    yield configure
    for name, value in before.items():
        server.client.config_set(name, value)


# Redis -----------------------------------------------------------------------------------------------------


def test_a_live_store_that_is_well(server, store):
    argv = "--redis", server.url, "--prefix", "test"
    empty = looked(*argv)
    assert empty.code == 0
    assert empty["live store"][0] == "warning"
    marker = store.marker()
    assert looked(*argv)["live store"][0] == "warning"
    assert store.claim_fill("test", 60)
    assert store.mark_filled("test", marker)
    found = looked(*argv)
    assert found.states() == {"ok"}
    assert found["redis memory"][1].endswith("policy noeviction")
    assert found["clock: Redis"][0] == "ok"


def test_a_redis_that_would_lose_prices(server, configured):
    configured("maxmemory-policy", "allkeys-lru")
    state, reason, advice = looked("--redis", server.url)["redis memory"]
    assert state == "failed"
    assert "allkeys-lru" in reason
    assert "noeviction" in advice
    configured("maxmemory-policy", "noeviction")
    configured("maxmemory", server.client.info("memory")["used_memory"] + 100_000)
    assert looked("--redis", server.url)["redis memory"][0] == "warning"


def test_a_wrong_password_and_another_layout(server, store):
    wrong = looked("--redis", server.url.replace("redis://", "redis://nobody:hush-hush@"))
    assert wrong["redis"][0] == "failed"
    assert "refuses the user or password" in wrong["redis"][1]
    assert "hush-hush" not in wrong.text
    store.marker()
    server.client.hset(store.key("meta"), "layout", "99")
    state, reason, _ = looked("--redis", server.url, "--prefix", "test")["live store"]
    assert state == "failed"
    assert "layout 99" in reason


@pytest.mark.parametrize(("skew", "state"), [(3.0, "warning"), (-3.0, "warning"), (9.0, "failed")])
def test_clocks_that_differ(server, skew, state):
    got, reason, advice = looked("--redis", server.url, now=lambda: time.time() + skew)["clock: Redis"]
    assert got == state
    assert ("behind ours" if skew > 0 else "ahead of ours") in reason
    assert "NTP" in advice


# PostgreSQL ------------------------------------------------------------------------------------------------


def test_a_database_that_is_well(postgresql):
    found = looked("--postgres", postgresql.make("migrated"))
    assert found.code == 0
    assert found.states() == {"ok"}
    assert {each["check"] for each in found.found} >= {"postgresql schema", "alerts outbox", "alerts job"}
    assert found["clock: PostgreSQL"][0] == "ok"


def test_a_database_that_is_not_migrated(postgresql):
    url = postgresql.make()
    found = looked("--postgres", url)
    assert found["postgresql"][0] == "ok"
    assert found["postgresql schema"][0] == found["alerts"][0] == "failed"
    assert "pipelines.database upgrade" in found["postgresql schema"][2]
    migrate.upgrade(url, "r0001")
    assert "revision r0001" in looked("--postgres", url)["postgresql schema"][1]


def test_a_wrong_password_and_a_database_that_is_not_there(postgresql):
    wrong = looked("--postgres", postgresql.url("migrated", GUARDED, "not-this-one"))
    assert wrong["postgresql"][0] == "failed"
    assert "refuses the password" in wrong["postgresql"][1]
    assert "not-this-one" not in wrong.text
    assert "does not exist" in looked("--postgres", postgresql.url("nowhere"))["postgresql"][1]


@pytest.mark.parametrize(("minutes", "state"), [(0, "ok"), (3, "warning"), (60, "failed")])
def test_deliveries_that_nobody_makes(postgresql, minutes, state):
    url = postgresql.make("migrated")
    box = Box(url)
    box.event("e1", box.destination(), due=datetime.now(UTC) - timedelta(minutes=minutes))
    got, reason, advice = looked("--postgres", url)["alerts outbox"]
    assert got == state
    assert "1 deliveries wait" in reason
    assert ("pipelines.notify" in advice) is (state != "ok")


def test_deliveries_that_were_given_up(postgresql):
    url = postgresql.make("migrated")
    box = Box(url)
    box.event("e1", box.destination())
    execute(url, "UPDATE alert_deliveries SET state = 'dead'")
    state, _, advice = looked("--postgres", url)["alerts outbox"]
    assert state == "warning"
    assert "pipelines.notify dead" in advice


def test_alerts_that_no_job_knows(postgresql, tmp_path):
    url = postgresql.make("migrated")
    execute(
        url,
        "INSERT INTO alerts (owner, revision, symbol, operator, value, basis, since) "
        "VALUES ('ann', 1, 'AAPL', 'above', 10, '2024-01-02', 0)",
    )
    assert looked("--postgres", url)["alerts job"][0] == "ok"
    argv = "--postgres", url, "--lake", str(tmp_path)
    assert looked(*argv)["alerts job"][0] == "warning"
    lake = Storage(str(tmp_path))
    submissions.submitted(lake, "live", ["--lake", str(tmp_path)], "file:///x", "0" * 32, 1)
    state, reason, advice = looked(*argv)["alerts job"]
    assert state == "failed"
    assert "nothing fires" in reason
    assert "resume live --alerts" in advice
    submissions.submitted(lake, "live", ["--alerts", "postgresql://db/x"], "file:///x", "0" * 32, 1)
    assert looked(*argv)["alerts job"][0] == "ok"
