"""Destinations, events and deliveries as owners see them; requests sent twice; what is forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from fibflow.io.alerts import events
from fibflow.io.alerts.model import Answer, Conflict, Imported, LimitError, NotFound, Past, Try
from fibflow.io.alerts.past import Brought
from fibflow.io.alerts.retention import Purged
from fibflow.io.alerts.store import AlertStore
from fibflow.io.postgresql.session import PostgresError
from fibflow.tests.io.alerts.alerts import NOW, above, connected, fired, randbytes, write
from fibflow.tests.io.postgresql.databases import execute, select, waits
from fibflow.transforms.alerts.definition import Definition, DefinitionError

LATER = NOW + timedelta(minutes=5)
DAY = timedelta(days=1)
URL = "https://example.org/"


@pytest.fixture
def store(url) -> Iterator[AlertStore]:
    made = AlertStore(url)
    yield made
    made.close()


# Destinations ----------------------------------------------------------------------------------------------


def test_a_destination_from_its_making_to_its_end(store):
    made = store.add_destination("Ada", "webhook", URL, NOW, secret="hush")
    topic = store.add_destination("Ada", "sns", "arn:aws:sns:us-east-1:1:t", NOW)
    assert (made.kind, made.target, made.secret, made.created, made.disabled) == (
        "webhook",
        URL,
        "hush",
        NOW,
        None,
    )
    assert "hush" not in repr(made)
    assert store.destinations("Ada") == [made, topic]
    changed = store.update_destination("Ada", made.id, LATER, target=f"{URL}x", secret="hush-hush")
    assert (changed.target, changed.secret, changed.disabled) == (f"{URL}x", "hush-hush", None)
    off = store.update_destination("Ada", made.id, LATER, enabled=False)
    assert (off.disabled, off.reason, off.target) == (LATER, "disabled by its owner", f"{URL}x")
    assert store.update_destination("Ada", made.id, LATER + DAY, enabled=False) == off
    assert store.update_destination("Ada", made.id, LATER, enabled=True) == changed
    with pytest.raises(Conflict, match="only a webhook has a secret"):
        store.update_destination("Ada", topic.id, LATER, secret="x")
    with pytest.raises(DefinitionError, match="kind: choose one of webhook, sns"):
        store.add_destination("Ada", "pigeon", URL, NOW)
    store.remove_destination("Ada", made.id, LATER)
    assert store.destinations("Ada") == [topic]


def test_a_destination_that_is_removed_leaves_alerts_and_what_waits_for_it(store, url):
    goes, stays = [store.add_destination("Ada", "webhook", URL, NOW).id for _ in range(2)]
    alert = store.create("Ada", [above(destinations=(goes, stays), frequency="daily")], NOW)[0]
    write(url, fired(alert))
    store.remove_destination("Ada", goes, LATER)
    held = store.get("Ada", alert.id)
    # No price is held against it, so it is the same version.
    assert (held.definition.destinations, held.version) == ((stays,), 1)
    given_up, waiting = store.deliveries("Ada")
    assert (given_up.state, given_up.last_error, given_up.finished) == (
        "dead",
        "the destination was removed",
        LATER,
    )
    assert (waiting.state, waiting.destination) == ("pending", stays)


def test_an_owner_has_so_many_destinations_also_where_they_come_at_once(store):
    def add(_: int) -> int:
        try:
            return store.add_destination("Ada", "webhook", URL, NOW, most=5).id
        except LimitError:
            return 0

    with ThreadPoolExecutor(8) as pool:
        assert sum(1 for made in pool.map(add, range(16)) if made) == 5
    with pytest.raises(LimitError, match="5 destinations are there, and 5 may be"):
        store.add_destination("Ada", "webhook", URL, NOW, most=5)
    store.add_destination("Bob", "webhook", URL, NOW, most=5)


# Events ----------------------------------------------------------------------------------------------------


def test_events_are_read_page_by_page_from_either_end(store, url):
    ada = store.create("Ada", [above(frequency="daily")] * 2, NOW)
    bob = store.create("Bob", [above()], NOW)
    write(url, fired(*ada, *bob))
    write(url, fired(*ada, nth=1))
    every = store.events("Ada")
    assert [each.alert for each in every] == [ada[0].id, ada[1].id] * 2
    assert store.events("Ada", limit=2) == every[:2]
    assert store.events("Ada", after=every[1].position) == every[2:]
    assert store.events("Ada", newest=True) == every[::-1]
    assert store.events("Ada", newest=True, after=every[2].position, limit=1) == [every[1]]
    assert store.events("Ada", alert=ada[1].id) == every[1::2]
    assert store.event("Ada", every[0].id) == every[0]
    assert [each.owner for each in store.follow(0)] == ["Ada", "Ada", "Bob", "Ada", "Ada"]
    assert store.follow(every[1].position, 1)[0].owner == "Bob"
    assert store.last_position() == every[-1].position


def test_deliveries_come_with_their_tries(store, url):
    goes = store.add_destination("Ada", "webhook", URL, NOW)
    first, second = store.create("Ada", [above(destinations=(goes.id,))] * 2, NOW)
    write(url, fired(first))
    write(url, fired(second))
    newest, oldest = store.deliveries("Ada")
    assert [newest.event, oldest.event] == [f"{second.id}-1-0", f"{first.id}-1-0"]
    execute(
        url,
        "INSERT INTO alert_tries (delivery, at, status, error, took_ms) VALUES "
        f"({oldest.id}, '{NOW}', 500, 'it said 500', 12), ({oldest.id}, '{LATER}', 200, NULL, 9)",
        f"UPDATE alert_deliveries SET state = 'delivered', finished = '{LATER}' WHERE id = {oldest.id}",
    )
    found = store.deliveries("Ada", alert=first.id)
    assert found == store.deliveries("Ada", event=oldest.event)
    assert (found[0].state, found[0].finished) == ("delivered", LATER)
    assert found[0].tries == (Try(NOW, 500, "it said 500", 12), Try(LATER, 200, None, 9))
    assert store.deliveries("Ada", limit=1) == [newest]


def test_a_test_goes_where_events_of_the_alert_would(store, url):
    goes, off = [store.add_destination("Ada", "webhook", URL, NOW).id for _ in range(2)]
    store.update_destination("Ada", off, NOW, enabled=False)
    alert = store.create("Ada", [above(value=12.5, note="watch", destinations=(goes, off))], NOW)[0]
    event = store.test_fire("Ada", LATER, randbytes(1), alert=alert.id)
    assert event.id == "test-010101010101010101010101"
    assert (event.test, event.ts, event.price, event.level, event.note) == (True, LATER, 12.5, 12.5, "watch")
    assert store.events("Ada") == store.follow(0) == [event]
    assert [each.destination for each in store.deliveries("Ada")] == [goes]
    assert store.get("Ada", alert.id) == alert
    only = store.test_fire("Ada", LATER, randbytes(2), destination=goes)
    assert (only.alert, only.symbol, only.level, only.test) == (0, "TEST", None, True)
    assert len(store.deliveries("Ada", event=only.id)) == 1
    with pytest.raises(Conflict, match=f"destination {off} is disabled"):
        store.test_fire("Ada", LATER, randbytes(3), destination=off)
    with pytest.raises(ValueError, match="an alert or a destination"):
        store.test_fire("Ada", LATER, randbytes(3))
    percentage = Definition("A", "percent", 5.0, reference="previous_close")
    other = store.create("Ada", [percentage], NOW)[0]
    assert store.test_fire("Ada", LATER, randbytes(4), alert=other.id).level is None


# Requests that are sent twice ------------------------------------------------------------------------------


def create(store: AlertStore) -> Answer:
    made = store.create("Ada", [above()], NOW)
    return Answer(201, {"id": str(made[0].id), "note": "ünï"})


def test_a_request_that_comes_again_is_answered_as_before(store):
    first = store.once("Ada", "k", b"1", NOW, create)
    again = store.once("Ada", "k", b"1", LATER, create)
    assert (again.status, again.body, first.repeated, again.repeated) == (201, first.body, False, True)
    with pytest.raises(Conflict, match="another request had this Idempotency-Key"):
        store.once("Ada", "k", b"2", LATER, create)
    assert store.once("Bob", "k", b"2", LATER, lambda bound: Answer(204, None)).body is None
    assert store.once("Bob", "k", b"2", LATER, create).status == 204
    assert len(store.find("Ada")) == 1


def test_what_fails_is_not_kept_and_done_again(store):
    def fail(bound: AlertStore) -> Answer:
        create(bound)
        return create(bound) if bound.find("Bob") else bound.get("Ada", 0)  # type: ignore[return-value]

    with pytest.raises(NotFound):
        store.once("Ada", "k", b"1", NOW, fail)
    assert store.find("Ada") == []
    assert store.once("Ada", "k", b"2", NOW, create).repeated is False


def test_an_answer_is_kept_for_a_day(store, url):
    for key in ("k", "l", "m"):
        store.once("Ada", key, b"1", NOW, create)
    soon = NOW + DAY - timedelta(seconds=1)
    assert store.once("Ada", "k", b"1", soon, create).repeated
    assert not store.once("Ada", "k", b"2", NOW + DAY, create).repeated
    # And forgotten, whoever asks next.
    assert select(url, "SELECT key FROM alert_requests") == [("k",)]


def test_the_same_request_at_once_is_done_once(store, url):
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: store.once("Ada", "k", b"1", NOW, create), range(16)))
    assert len({answer.body["id"] for answer in answers}) == 1
    assert sorted(answer.repeated for answer in answers) == [False] + [True] * 15
    assert len(store.find("Ada")) == 1


def test_the_second_takes_over_where_the_first_fails(store, url):
    with ThreadPoolExecutor(1) as pool:
        later = None

        def fail(bound: AlertStore) -> Answer:
            nonlocal later
            create(bound)
            later = pool.submit(store.once, "Ada", "k", b"1", NOW, create)
            while not waits(url):
                assert not later.done()
            raise NotFound("nothing")

        with pytest.raises(NotFound):
            store.once("Ada", "k", b"1", NOW, fail)
        assert later is not None
        assert not later.result(timeout=60).repeated
    assert len(store.find("Ada")) == 1


def test_what_postgresql_refuses_within_a_request_undoes_it(store, url):
    execute(url, "ALTER TABLE alerts ADD CONSTRAINT small CHECK (value < 100)")

    def work(bound: AlertStore) -> Answer:
        create(bound)
        bound.create("Ada", [above(value=100.0)], NOW)
        raise AssertionError

    with pytest.raises(PostgresError, match="violates check constraint"):
        store.once("Ada", "k", b"1", NOW, work)
    assert store.find("Ada") == []


# Another system's events -----------------------------------------------------------------------------------


def test_events_of_another_system_are_kept_once_and_told_nobody(store, url):
    old = datetime(2019, 5, 1, tzinfo=UTC)
    goes = store.add_destination("Ada", "webhook", URL, NOW)
    note = above(note="watch", destinations=(goes.id,))
    alerts = [Imported("Ada", "x1", note), Imported("Ada", "x2", above()), Imported("Bob", "x2", above())]
    store.import_many(alerts, NOW)
    given = [
        Past("Ada", "h1", "x1", old, 10.5),
        Past(None, "h2", "x1", old, 10.5, "AA", 10.0, "below", "then"),
        Past(None, "h3", "x2", old, 10.5),
        Past("Bob", "h4", "x2", old, 10.5),
        Past("Eve", "h5", "x1", old, 10.5),
    ]
    assert store.import_events(given) == Brought(3, 0, ("h3", "h5"))
    assert store.import_events(given) == Brought(0, 3, ("h3", "h5"))
    assert store.import_events(given[2:3]) == Brought(strays=("h3",))
    first, second = store.events("Ada")
    assert (first.id, first.symbol, first.level, first.operator, first.note) == (
        "import-h1",
        "A",
        None,
        "above",
        "watch",
    )
    assert (second.symbol, second.level, second.operator, second.note) == ("AA", 10.0, "below", "then")
    assert store.deliveries("Ada") == []
    assert store.follow(0) == []
    held = store.get("Ada", first.alert)
    assert (held.firings, held.fired, held.version) == (2, None, 1)


# What is forgotten -----------------------------------------------------------------------------------------


def test_what_is_old_is_forgotten_with_all_that_belongs_to_it(store, url):
    goes = store.add_destination("Ada", "webhook", URL, NOW)
    done, waits_, quiet, kept = store.create("Ada", [above(destinations=(goes.id,))] * 4, NOW)
    write(url, fired(done, waits_))
    old = store.deliveries("Ada", alert=done.id)[0]
    execute(
        url,
        f"UPDATE alert_deliveries SET state = 'delivered' WHERE id = {old.id}",
        f"INSERT INTO alert_tries (delivery, at) VALUES ({old.id}, now()), ({old.id}, now())",
    )
    for each in (done, waits_, quiet):
        store.delete("Ada", each.id, NOW)
    write(url, fired(kept, at=3_600))
    assert store.purge(NOW) == Purged()
    assert store.purge(NOW + timedelta(seconds=60)) == Purged(1, 1, 2, 2, 2)
    assert [each.alert for each in store.events("Ada")] == [waits_.id, kept.id]
    assert [each.id for each in store.find("Ada", state="deleted")] == [waits_.id]
    assert [each.version for each in store.versions("Ada", waits_.id)] == [1, 2]
    with pytest.raises(NotFound):
        store.versions("Ada", done.id)


def test_what_is_replayed_while_others_are_forgotten_is_kept(store, url):
    goes = store.add_destination("Ada", "webhook", URL, NOW)
    done, again = store.create("Ada", [above(destinations=(goes.id,))] * 2, NOW)
    write(url, fired(done, again))
    execute(url, "UPDATE alert_deliveries SET state = 'dead'")
    (letter,) = store.deliveries("Ada", alert=again.id)
    with connected(url) as connection, ThreadPoolExecutor(1) as pool:
        # A replay that has not committed yet.
        statement = "UPDATE alert_deliveries SET state = 'pending' WHERE id = %s"
        connection.cursor().execute(statement, (letter.id,))
        purged = pool.submit(store.purge, LATER)
        while not waits(url):
            assert not purged.done()
        connection.commit()
        assert purged.result(60) == Purged(events=1, deliveries=1)
    assert [each.event for each in store.deliveries("Ada")] == [letter.event]


def test_the_past_of_an_imported_alert_is_kept_as_long_as_the_alert(store):
    past = [Past("Ada", "h1", "x1", datetime(2019, 5, 1, tzinfo=UTC), 10.5)]
    store.import_many([Imported("Ada", "x1", above())], NOW)
    store.import_events(past)
    assert store.purge(NOW) == Purged()
    # So it is known when it comes again, and counted once.
    assert store.import_events(past) == Brought(known=1)
    (alert,) = store.find("Ada")
    assert alert.firings == 1
    store.delete("Ada", alert.id, NOW)
    assert store.purge(LATER) == Purged(events=1, alerts=1, versions=1)


def test_followers_pass_over_another_systems_past_by_an_index(store, url):
    statement = """
        INSERT INTO alert_events (id, alert, version, symbol, ts, price)
        SELECT 'import-' || n, 1, 1, 'A', now(), 1 FROM generate_series(1, 5000) AS n
    """
    execute(url, statement, "ANALYZE alert_events")
    plan = select(url, f"EXPLAIN {events._FOLLOW}", 0, 100)
    assert any("alert_events_told" in line for (line,) in plan)


def test_an_owners_alerts_are_counted_without_those_that_were_deleted(url):
    statement = """
        INSERT INTO alerts (owner, revision, state, symbol, operator, value, basis, since)
        SELECT 'Ada', n, 'deleted', 'A', 'above', 1, '2026-01-05', 0 FROM generate_series(1, 5000) AS n
    """
    execute(url, statement, "ANALYZE alerts")
    plan = select(url, "EXPLAIN SELECT count(*) FROM alerts WHERE owner = 'Ada' AND state <> 'deleted'")
    assert any("alerts_kept" in line for (line,) in plan)
