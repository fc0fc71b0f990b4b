"""The outbox: each event once, whoever writes it, with what it changes and where it is to go."""

from __future__ import annotations

import dataclasses
import select as ready
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pyarrow as pa
import pytest

from fibflow.io.alerts import outbox
from fibflow.io.alerts.outbox import CHANNEL, write_events
from fibflow.io.alerts.store import AlertStore
from fibflow.io.postgresql.session import PostgresError, Unmigrated
from fibflow.tests.io.alerts.alerts import NOW, above, connected, fired, write
from fibflow.tests.io.postgresql.databases import execute, select, waits
from fibflow.transforms.alerts.schema import EVENTS

LATER = NOW + timedelta(minutes=5)
KILL = """
SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


@pytest.fixture
def store(url) -> Iterator[AlertStore]:
    made = AlertStore(url, clock=lambda: NOW)
    yield made
    made.close()


def counts(url: str) -> tuple[int, int]:
    """How many events and deliveries there are."""
    events, deliveries = (
        select(url, f"SELECT count(*) FROM {table}")[0][0] for table in ("alert_events", "alert_deliveries")
    )
    return events, deliveries


def test_an_event_is_kept_with_what_its_alert_says(store, url):
    alert = store.create("Ada", [above(note="watch", frequency="daily")], NOW)[0]
    events = fired(alert, alert, nth=1)
    events = events.set_column(0, "id", pa.array(["a", "b"])).set_column(
        7, EVENTS.field("previous"), pa.array([float("nan"), 9.75])
    )
    assert write(url, events) == 2
    first, second = store.events("Ada")
    assert (first.id, first.alert, first.owner, first.version, first.symbol) == ("a", alert.id, "Ada", 1, "A")
    assert (first.ts, first.seq, first.price, first.level) == (NOW + timedelta(seconds=3), 7, 10.5, 10.0)
    assert (first.operator, first.note, first.test) == ("above", "watch", False)
    assert (first.previous, second.previous) == (None, 9.75)
    assert second.position == first.position + 1
    held = store.get("Ada", alert.id)
    assert (held.state, held.firings, held.version, held.revision) == ("active", 2, 1, alert.revision)
    assert held.fired == second.ts == first.ts + timedelta(microseconds=1)


def test_an_event_that_is_written_again_changes_nothing(store, url):
    goes = store.add_destination("Ada", "webhook", "https://example.org/", NOW)
    made = store.create("Ada", [above(destinations=(goes.id,)), above()], NOW)
    assert write(url, fired(made[0])) == 1
    assert write(url, fired(*made)) == 1
    assert write(url, fired(*made, at=9)) == 0
    assert write(url, pa.concat_tables([fired(made[1], nth=1)] * 2)) == 1
    assert write(url, EVENTS.empty_table()) == 0
    assert counts(url) == (3, 1)
    assert [(each.state, each.firings) for each in store.find("Ada")] == [("fired", 1), ("fired", 2)]


def test_only_what_is_to_fire_once_has_fired(store, url):
    often = [above(frequency=name) for name in ("daily", "every_time")]
    made = store.create("Ada", [above(), above(frequency="bar", timeframe="5m"), *often], NOW)
    write(url, fired(*made))
    assert [each.state for each in store.find("Ada")] == ["fired", "active", "active", "active"]


def test_an_earlier_event_that_comes_late_is_not_the_last_one(store, url):
    alert = store.create("Ada", [above(frequency="daily")], NOW)[0]
    write(url, fired(alert, at=9))
    write(url, fired(alert, at=5, nth=1))
    held = store.get("Ada", alert.id)
    assert (held.fired, held.firings) == (NOW + timedelta(seconds=9), 2)


def test_a_version_that_was_replaced_keeps_its_event_which_counts_and_changes_nothing_else(store, url):
    first, second = [store.add_destination("Ada", "webhook", f"https://{n}/", NOW).id for n in "ab"]
    alert = store.create("Ada", [above(note="old", destinations=(first,))], NOW)[0]
    changed = store.update("Ada", alert.id, above("B", 11.0, note="new", destinations=(second,)), NOW)
    other = store.create("Ada", [above()], NOW)[0]
    store.delete("Ada", other.id, NOW)
    assert write(url, fired(alert, other)) == 2
    assert store.get("Ada", alert.id) == dataclasses.replace(changed, firings=1)
    event, _ = store.events("Ada")
    assert (event.version, event.note, event.symbol) == (1, "old", "A")
    assert [each.destination for each in store.deliveries("Ada")] == [first]


def test_firings_of_several_versions_at_once_all_count(store, url):
    first = store.create("Ada", [above(frequency="daily")], NOW)[0]
    second = store.update("Ada", first.id, above(), NOW)
    events = [fired(first, at=9), fired(second, at=3), fired(first, at=8, nth=1)]
    assert write(url, pa.concat_tables(events)) == 3
    held = store.get("Ada", first.id)
    assert (held.state, held.firings, held.fired) == ("fired", 3, NOW + timedelta(seconds=3))


def test_an_event_goes_to_each_destination_that_is_in_use(store, url):
    goes = [store.add_destination("Ada", "webhook", f"https://{n}/", NOW).id for n in range(4)]
    foreign = store.add_destination("Bob", "webhook", "https://b/", NOW).id
    alert = store.create("Ada", [above(destinations=(*goes, goes[0]))], NOW)[0]
    store.update_destination("Ada", goes[1], NOW, enabled=False)
    store.remove_destination("Ada", goes[2], NOW)
    execute(url, f"UPDATE alerts SET destinations = destinations || {foreign}::bigint")
    write(url, fired(alert))
    found = store.deliveries("Ada")
    assert [each.destination for each in found] == [goes[0], goes[3]]
    assert {(each.state, each.attempts, each.event, each.tries) for each in found} == {
        ("pending", 0, f"{alert.id}-1-0", ())
    }
    assert select(url, "SELECT bool_and(due <= clock_timestamp()) FROM alert_deliveries") == [(True,)]


def test_an_event_of_an_alert_that_is_not_known_is_kept(url, store):
    alert = store.create("Ada", [above()], NOW)[0]
    execute(url, "DELETE FROM alerts")
    assert write(url, fired(alert)) == 1
    assert select(url, "SELECT owner, operator, note FROM alert_events") == [("", "", "")]
    assert counts(url) == (1, 0)


def test_who_listens_is_told_of_new_ones_only(store, url):
    alert = store.create("Ada", [above()], NOW)[0]
    with connected(url) as listener:
        listener.autocommit = True
        listener.cursor().execute(f"LISTEN {CHANNEL}")
        write(url, fired(alert))
        assert ready.select([listener], [], [], 60)[0]
        listener.poll()
        assert [told.channel for told in listener.notifies] == [CHANNEL]
        listener.notifies.clear()
        write(url, fired(alert))
        # What is told is told in its order, so that nothing was told of the second one.
        listener.cursor().execute("NOTIFY fibflow_alert_events, 'end'")
        listener.poll()
        assert [told.payload for told in listener.notifies] == ["end"]


def test_more_than_one_statement_takes_is_one_transaction(store, url, monkeypatch):
    monkeypatch.setattr(outbox, "_ROWS", 2)
    made = store.create("Ada", [above(frequency="daily")] * 5, NOW)
    with connected(url) as connection:
        broken = fired(*made).set_column(0, "id", pa.array(["a", "b", "c", "d", "e\0"]))
        with pytest.raises((PostgresError, ValueError)):
            write_events(connection, broken)
        assert counts(url) == (0, 0)
        assert write_events(connection, fired(*made)) == 5
    assert [each.id for each in store.events("Ada")] == [f"{each.id}-1-0" for each in made]
    assert [each.firings for each in store.find("Ada")] == [1] * 5


def test_a_writer_that_is_killed_leaves_nothing(store, url):
    goes = store.add_destination("Ada", "webhook", "https://example.org/", NOW)
    alert, other = store.create("Ada", [above(destinations=(goes.id,))] * 2, NOW)
    with connected(url) as holder, ThreadPoolExecutor(1) as pool:
        holder.cursor().execute("LOCK TABLE alert_deliveries")
        writer = pool.submit(write, url, fired(alert, other))
        while not waits(url):
            assert not writer.done()
        execute(url, KILL)
        with pytest.raises(PostgresError):
            writer.result(timeout=60)
    assert counts(url) == (0, 0)
    assert [(each.state, each.firings) for each in store.find("Ada")] == [("active", 0)] * 2
    assert write(url, fired(alert, other)) == 2
    assert counts(url) == (2, 2)


def test_events_of_several_writers_at_once_are_there_once_and_in_the_order_of_their_commits(store, url):
    goes = store.add_destination("Ada", "webhook", "https://example.org/", NOW)
    made = store.create("Ada", [above(frequency="daily", destinations=(goes.id,))] * 40, NOW)
    writers, rounds = 5, 8

    def work(place: int) -> int:
        """Write what the others write too, in an order of one's own."""
        new = 0
        with connected(url) as connection:
            for turn in range(rounds):
                events = fired(*made, nth=turn)
                order = [(7 * n + place) % len(made) for n in range(len(made))]
                new += write_events(connection, events.take(order))
        return new

    def follow() -> list[int]:
        """Read on and on, as a server does."""
        found: list[int] = []
        reader = AlertStore(url)
        while len(found) < len(made) * rounds:
            found += [each.position for each in reader.follow(found[-1] if found else 0, 11)]
        reader.close()
        return found

    with ThreadPoolExecutor(writers + 1) as pool:
        following = pool.submit(follow)
        assert sum(pool.map(work, range(writers))) == len(made) * rounds
        positions = following.result(timeout=300)
    assert positions == [row for (row,) in select(url, "SELECT position FROM alert_events ORDER BY position")]
    assert counts(url) == (len(made) * rounds,) * 2
    assert {each.firings for each in store.find("Ada")} == {rounds}


def test_owners_change_alerts_while_events_are_written(store, url):
    """Nobody waits in a circle for anybody."""
    goes = [store.add_destination("Ada", "webhook", "https://example.org/", NOW).id for _ in range(6)]
    made = store.create("Ada", [above(frequency="daily", destinations=tuple(goes))] * 30, NOW)

    def change(place: int) -> None:
        mine = AlertStore(url)
        for alert in made[place::3]:
            mine.update("Ada", alert.id, above(value=11.0 + place, frequency="daily"), LATER)
        mine.remove_destination("Ada", goes[place], LATER)
        mine.close()

    with ThreadPoolExecutor(6) as pool:
        changes = [pool.submit(change, place) for place in range(3)]
        writes = [pool.submit(write, url, fired(*made[::-1], nth=n)) for n in range(3)]
        for one in changes:
            one.result(timeout=300)
        assert sum(one.result(timeout=300) for one in writes) == 90
    assert {each.version for each in store.find("Ada")} == {2}


def test_a_database_that_cannot_be_written_is_one_line(empty, store):
    alert = store.create("Ada", [above()], NOW)[0]
    with connected(empty) as connection, pytest.raises(Unmigrated, match="upgrade first"):
        write_events(connection, fired(alert))
