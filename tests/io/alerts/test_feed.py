"""The feed of changes: what a job reads, and that nothing is lost or twice while others write."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fibflow.io.alerts.feed import last_revision, read_changes
from fibflow.io.alerts.model import Imported
from fibflow.io.alerts.store import AlertStore
from fibflow.io.postgresql.session import PostgresError, Unmigrated
from fibflow.tests.io.alerts.alerts import NOW, SINCE, T0, above, connected, fired, write
from fibflow.tests.io.postgresql.databases import execute, waits
from fibflow.transforms.alerts.barbook import BAR_CHANGES
from fibflow.transforms.alerts.definition import Definition
from fibflow.transforms.alerts.schema import ALWAYS, CHANGES, NEVER, Frequency, Operator, Reference

LATER = NOW + timedelta(minutes=5)
LATER_SINCE = SINCE + 300_000_000


@pytest.fixture
def store(url) -> Iterator[AlertStore]:
    made = AlertStore(url, clock=lambda: NOW)
    yield made
    made.close()


def read(url: str, after: int = 0, **more: Any) -> tuple[list[dict[str, Any]], int]:
    """A page as rows."""
    with connected(url) as connection:
        page = read_changes(connection, after, **more)
    assert page.prices.schema.equals(CHANGES, check_metadata=True)
    assert page.bars.schema.equals(BAR_CHANGES, check_metadata=True)
    assert not len(page.bars)
    return page.prices.to_pylist(), page.last


def brief(rows: list[dict[str, Any]]) -> list[tuple[int, int, int]]:
    """Alert, version and operator of each row."""
    return [(row["alert"], row["version"], row["operator"]) for row in rows]


def test_a_change_says_all_that_the_job_needs(store, url):
    full = Definition(
        "BRK,B",
        "percent_down",
        5.25,
        reference="creation_price",
        reference_price=0.1 + 0.2,
        hours="extended",
        frequency="bar",
        timeframe="4h",
        cooldown_s=90,
        expires=datetime(2027, 1, 1, 0, 0, 0, 123_456, UTC),
    )
    other = Definition("A", "percent", 1.0, reference="previous_close", frequency="every_time", rearm=1e-300)
    made = store.create("Ada", [full, other, above()], NOW)
    rows, last = read(url)
    days = (NOW.date() - datetime(1970, 1, 1, tzinfo=UTC).date()).days
    shared = {"version": 1, "since": SINCE, "basis": days, "fired": NEVER}
    assert rows[0] == shared | {
        "symbol": "BRK,B",
        "alert": made[0].id,
        "revision": 1,
        "operator": Operator.PERCENT_DOWN,
        "value": 5.25,
        "reference": Reference.CREATION_PRICE,
        "reference_price": 0.1 + 0.2,
        "extended": True,
        "frequency": Frequency.BAR,
        "span": 240,
        "cooldown": 90_000_000,
        "rearm": 0.0,
        "until": int(datetime(2027, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000 + 123_456,
    }
    assert (rows[1]["reference"], rows[1]["rearm"], rows[1]["until"]) == (
        Reference.PREVIOUS_CLOSE,
        1e-300,
        ALWAYS,
    )
    assert math.isnan(rows[1]["reference_price"])
    assert (rows[2]["operator"], rows[2]["reference"], rows[2]["span"]) == (Operator.ABOVE, 0, 0)
    assert (last, rows[2]["revision"]) == (3, 3)


def test_where_there_is_nothing_there_is_nothing(url):
    assert read(url) == ([], 0)
    assert read(url, 7) == ([], 7)
    with connected(url) as connection:
        assert last_revision(connection) == 0


def test_every_version_is_a_change_also_one_that_was_replaced(store, url):
    first, second = store.create("Ada", [above(), above()], NOW)
    _, last = read(url)
    store.update("Ada", first.id, above(value=11.0), LATER)
    store.update("Ada", first.id, above(value=12.0), LATER + timedelta(seconds=1))
    store.pause("Ada", second.id, LATER)
    store.delete("Ada", first.id, LATER + timedelta(seconds=2))
    rows, end = read(url, last)
    assert brief(rows) == [
        (first.id, 2, Operator.ABOVE),
        (first.id, 3, Operator.ABOVE),
        (second.id, 2, Operator.ENDED),
        (first.id, 4, Operator.ENDED),
    ]
    assert [row["value"] for row in rows[:2]] == [11.0, 12.0]
    assert [row["since"] - LATER_SINCE for row in rows] == [0, 1_000_000, 0, 2_000_000]
    assert end == 6
    assert read(url, end) == ([], 6)


def test_who_begins_is_told_what_is_in_force_only(store, url):
    made = store.create("Ada", [above(frequency="daily"), *[above()] * 3], NOW)
    write(url, fired(made[0], made[1]))
    store.pause("Ada", made[2].id, LATER)
    store.delete("Ada", made[3].id, LATER)
    rows, last = read(url)
    assert brief(rows) == [(made[0].id, 1, Operator.ABOVE)]
    assert rows[0]["fired"] == T0 + 3_000_000
    assert last == 6
    # Who goes on is told of those that ended.
    assert brief(read(url, 1)[0]) == [
        (made[1].id, 1, Operator.ENDED),
        (made[2].id, 1, Operator.ABOVE),
        (made[3].id, 1, Operator.ABOVE),
        (made[2].id, 2, Operator.ENDED),
        (made[3].id, 2, Operator.ENDED),
    ]


def test_a_load_of_several_pages_is_as_of_its_beginning_and_then_all_that_came(store, url):
    made = store.create("Ada", [above()] * 6, NOW)
    store.update("Ada", made[0].id, above(value=11.0), NOW)
    with connected(url) as connection:
        connection.autocommit = True
        top = last_revision(connection)
        rows, _, after, _ = read_changes(connection, 0, 2, top)
        assert brief(rows.to_pylist()) == [(made[n].id, 1, Operator.ABOVE) for n in (1, 2)]
        # One that was told, one that was not yet, and one that was replaced already.
        store.delete("Ada", made[1].id, LATER)
        store.update("Ada", made[4].id, above(value=12.0), LATER)
        store.pause("Ada", made[0].id, LATER)
        found = []
        while True:
            rows, _, after, more = read_changes(connection, after, 2, top)
            found += brief(rows.to_pylist())
            if not more:
                break
    assert found == [
        (made[3].id, 1, Operator.ABOVE),
        (made[4].id, 1, Operator.ABOVE),
        (made[5].id, 1, Operator.ABOVE),
        (made[0].id, 2, Operator.ABOVE),
        (made[1].id, 2, Operator.ENDED),
        (made[4].id, 2, Operator.ABOVE),
        (made[0].id, 3, Operator.ENDED),
    ]
    assert after == 10


def test_a_page_ends_behind_what_it_leaves_out(store, url):
    made = store.create("Ada", [above()] * 4, NOW)
    for each in made:
        store.delete("Ada", each.id, LATER)
    assert read(url) == ([], 8)
    assert read(url, 0, most=2, top=8) == ([], 8)


def test_a_change_that_is_not_committed_keeps_later_ones_back(store, url):
    """Whoever comes later waits for it, so that none can be overtaken and lost."""
    store.create("Ada", [above()], NOW)
    holder = AlertStore(url)
    with ThreadPoolExecutor(1) as pool:
        with holder._transaction() as cursor:
            cursor.execute("SELECT FROM alert_feed FOR UPDATE")
            later = pool.submit(store.create, "Ada", [above()], NOW)
            while not waits(url):
                assert not later.done()
            assert read(url)[1] == 1
        later.result(timeout=60)
    assert read(url)[1] == 2
    holder.close()


def test_pages_read_while_many_write_give_every_change_once_and_in_order(url):
    writers, rounds = 6, 12
    stores = [AlertStore(url) for _ in range(writers)]
    over = threading.Event()

    def work(place: int) -> list[tuple[int, int, int]]:
        """Make, change and end alerts, and return their (revision, alert, version)."""
        store, owner, told = stores[place], f"o{place}", []
        for turn in range(rounds):
            made = store.create(owner, [above()] * (1 + turn % 3), NOW)
            for alert in made:
                edited = store.update(owner, alert.id, above(value=11.0), NOW)
                store.pause(owner, edited.id, NOW)
            store.import_many([Imported(owner, str(turn), above())], NOW)
            store.delete(owner, made[0].id, NOW)
        for alert in [*store.find(owner, limit=1_000), *store.find(owner, state="deleted", limit=1_000)]:
            told += [(one.revision, one.id, one.version) for one in store.versions(owner, alert.id)]
        return told

    def follow() -> list[tuple[int, int, int]]:
        found: list[tuple[int, int, int]] = []
        after, last_look = 0, False
        with connected(url) as connection:
            connection.autocommit = True
            while True:
                rows, _, after, more = read_changes(connection, after, 7, 0)
                found += zip(
                    *(rows[name].to_pylist() for name in ("revision", "alert", "version")), strict=True
                )
                if not more:
                    if last_look:
                        return found
                    last_look = over.is_set()

    with ThreadPoolExecutor(writers + 2) as pool:
        readers = [pool.submit(follow) for _ in range(2)]
        asked = [pool.submit(work, place) for place in range(writers)]
        told = sorted(change for one in asked for change in one.result(timeout=300))
        over.set()
        for reader in readers:
            assert reader.result(timeout=300) == told
    assert [revision for revision, _, _ in told] == list(range(1, len(told) + 1))
    for store in stores:
        store.close()


def test_a_database_that_cannot_be_read_is_one_line(empty, url):
    with connected(empty) as connection:
        with pytest.raises(Unmigrated, match=r"run pipelines\.database upgrade first"):
            read_changes(connection, 0)
        connection.rollback()
        with pytest.raises(Unmigrated):
            last_revision(connection)
    with connected(url) as connection:
        execute(
            url,
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        with pytest.raises(PostgresError):
            read_changes(connection, 0)


def test_many_symbols_and_words_come_as_they_are(store, url):
    symbols = [f'S{n},"{n}' for n in range(3_000)]
    store.create("Ada", [above(symbol, frequency="daily") for symbol in symbols], NOW)
    rows, _ = read(url)
    assert [row["symbol"] for row in rows] == symbols
    assert {row["frequency"] for row in rows} == {Frequency.DAILY}
