"""Alerts of owners: what is kept, what is refused, and what a change makes of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fibflow.io.alerts.model import Conflict, Destination, Imported, LimitError, NotFound
from fibflow.io.alerts.rows import micros
from fibflow.io.alerts.store import AlertStore
from fibflow.io.postgresql import migrate
from fibflow.io.postgresql.session import PostgresError, Unmigrated
from fibflow.runners.services.process import free_ports
from fibflow.runners.services.stack import Stack
from fibflow.tests.io.alerts.alerts import NOW, above, fired, write
from fibflow.tests.io.postgresql.databases import GUARDED, PASSWORD, execute, select, waits
from fibflow.transforms.alerts.definition import Definition, DefinitionError

LATER = NOW + timedelta(minutes=5)
LAST = datetime(9999, 12, 31, 23, 30, tzinfo=UTC)
SOON = timedelta(seconds=2)


@pytest.fixture
def store(url) -> Iterator[AlertStore]:
    made = AlertStore(url, clock=lambda: NOW)
    yield made
    made.close()


FULL = Definition(
    "BRK.B",
    "percent",
    5.25,
    reference="creation_price",
    reference_price=0.1 + 0.2,
    hours="extended",
    frequency="bar",
    timeframe="5m",
    cooldown_s=90,
    expires=datetime(2027, 1, 1, 0, 0, 0, 123_456, UTC),
    active_from=datetime(2026, 2, 1, tzinfo=UTC),
    note='tab\tline\nslash\\ \\N quote" comma, {brace} é 😀',
)


def test_an_alert_is_kept_as_it_was_asked_for(store):
    goes = store.add_destination("Ada", "webhook", "https://example.org/", NOW, secret="hush")
    wanted = dataclasses.replace(FULL, destinations=(goes.id,))
    plain = Definition("A", "above", 3)
    made = store.create("Ada", [wanted, plain], NOW)
    assert [each.definition for each in made] == [wanted, plain]
    first, second = made
    assert (first.version, first.state, first.fired, first.firings) == (1, "active", None, 0)
    assert (first.created, first.updated, first.basis) == (NOW, NOW, date(2026, 1, 5))
    assert (first.since, second.since) == (wanted.active_from, NOW + SOON)
    assert second.revision == first.revision + 1
    assert second.id == first.id + 1
    assert [store.get("Ada", each.id) for each in made] == made
    assert store.find("Ada") == made
    assert store.versions("Ada", first.id) == [first]


notes = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=128)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(notes, st.floats(1e-300, 1e300), st.floats(0, 1e300))
def test_any_words_and_numbers_are_kept_to_the_bit(store, note, value, rearm):
    made = store.create("Ada", [above(value=value, rearm=rearm, frequency="every_time", note=note)], NOW)
    assert store.get("Ada", made[0].id) == made[0]


def test_the_day_of_prices_is_the_exchanges(store, url):
    late = datetime(2026, 1, 6, 3, tzinfo=UTC)
    assert store.create("Ada", [above()], late)[0].basis == date(2026, 1, 5)
    assert AlertStore(url, zone="Asia/Tokyo").create("Ada", [above()], late)[0].basis == date(2026, 1, 6)
    # Prices that are given today are of today's shares, from whenever on they are looked at.
    ahead = above(active_from=datetime(2026, 3, 1, tzinfo=UTC))
    assert store.create("Ada", [ahead], NOW)[0].basis == date(2026, 1, 5)


def test_of_another_owner_nothing_can_be_seen_or_done(store):
    alert = store.create("Ada", [above()], NOW)[0]
    goes = store.add_destination("Ada", "sns", "arn:aws:sns:us-east-1:1:t", NOW)
    event = store.test_fire("Ada", NOW, bytes, alert=alert.id)
    calls = [
        lambda who: store.get(who, alert.id),
        lambda who: store.versions(who, alert.id),
        lambda who: store.update(who, alert.id, above(), NOW),
        lambda who: store.pause(who, alert.id, NOW),
        lambda who: store.resume(who, alert.id, NOW),
        lambda who: store.rearm(who, alert.id, NOW),
        lambda who: store.delete(who, alert.id, NOW),
        lambda who: store.events(who, alert=alert.id),
        lambda who: store.deliveries(who, alert=alert.id),
        lambda who: store.deliveries(who, event=event.id),
        lambda who: store.event(who, event.id),
        lambda who: store.test_fire(who, NOW, bytes, alert=alert.id),
        lambda who: store.test_fire(who, NOW, bytes, destination=goes.id),
        lambda who: store.destination(who, goes.id),
        lambda who: store.update_destination(who, goes.id, NOW, enabled=False),
        lambda who: store.remove_destination(who, goes.id, NOW),
    ]
    for call in calls:
        with pytest.raises(NotFound):
            call("Bob")
    assert (store.find("Bob"), store.events("Bob"), store.destinations("Bob")) == ([], [], [])
    assert store.get("Ada", alert.id) == alert
    with pytest.raises(DefinitionError, match=f"there is no destination {goes.id} of yours"):
        store.create("Bob", [above(destinations=(goes.id,))], NOW)


@pytest.mark.parametrize("number", [0, -1, 99, 2**63, -(2**70)])
def test_ids_that_cannot_be(store, number):
    with pytest.raises(NotFound, match=f"there is no alert {number}"):
        store.get("Ada", number)
    with pytest.raises(NotFound):
        store.destination("Ada", number)
    with pytest.raises(DefinitionError, match="destinations"):
        store.create("Ada", [above(destinations=(number,))], NOW)


def test_texts_that_cannot_be_kept(store):
    assert store.find("Ada", symbol="A\0") == store.find("Ada", symbol="\ud800") == []
    for event in ("\0", "\ud800", "none"):
        with pytest.raises(NotFound):
            store.event("Ada", event)
    with pytest.raises(DefinitionError, match="note: it holds half a character"):
        store.create("Ada", [above(note="\ud800")], NOW)


@pytest.mark.parametrize("name", ["expires", "active_from"])
def test_instants_that_cannot_be_read_again(store, name):
    zone = timezone(timedelta(hours=-12))

    def until(instant: datetime) -> Definition:
        given: dict[str, Any] = {name: instant}
        return dataclasses.replace(above(), **given)

    for year in (1969, 9000, 9999):
        with pytest.raises(DefinitionError, match=f"{name}: give an instant of the years 1970 to 8999"):
            store.import_many([Imported("Ada", "x", until(LAST.replace(year=year)), "paused")], NOW)
    made = store.create("Ada", [until(LAST.replace(year=8999).astimezone(zone))], NOW)
    assert store.find("Ada") == made
    with pytest.raises(DefinitionError, match=name):
        store.update("Ada", made[0].id, until(LAST.replace(tzinfo=zone)), NOW)


def test_all_or_none_are_made(store):
    with pytest.raises(DefinitionError, match="value: give a finite number above 0"):
        store.create("Ada", [above(), above(value=-1.0)], NOW)
    assert store.create("Ada", [], NOW) == []
    assert store.find("Ada") == []


def test_they_are_found_by_symbol_and_state_page_by_page(store):
    made = store.create("Ada", [above("A"), above("B"), above("A"), above("A")], NOW)
    store.create("Bob", [above("A")], NOW)
    assert store.find("Ada", symbol="A") == [made[0], made[2], made[3]]
    assert store.find("Ada", symbol="A", limit=2) == [made[0], made[2]]
    assert store.find("Ada", symbol="A", after=made[2].id, limit=2) == [made[3]]
    paused = store.pause("Ada", made[0].id, NOW)
    store.delete("Ada", made[3].id, NOW)
    assert store.find("Ada", state="paused") == [paused]
    assert store.find("Ada", state="active") == made[1:3]
    assert [each.id for each in store.find("Ada", state="deleted")] == [made[3].id]
    assert store.find("Ada") == [paused, *made[1:3]]
    assert store.find("Ada", state="asleep") == []


def test_an_owner_has_so_many_and_no_more(store):
    first, *_ = store.create("Ada", [above()] * 3, NOW, most=3)
    with pytest.raises(LimitError, match="3 alerts are there, and 1 more would be over the limit of 3"):
        store.create("Ada", [above()], NOW, most=3)
    store.create("Bob", [above()], NOW, most=3)
    store.delete("Ada", first.id, NOW)
    store.create("Ada", [above()], NOW, most=3)
    assert len(store.find("Ada")) == 3


def test_so_many_and_no_more_also_where_many_come_at_once(store):
    def create(_: int) -> int:
        try:
            return len(store.create("Ada", [above()] * 3, NOW, most=20))
        except LimitError:
            return 0

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(create, range(16))) == 18
    revisions = [each.revision for each in store.find("Ada")]
    assert len(revisions) == 18
    assert max(revisions) == 18


def test_who_has_too_many_is_told_without_waiting_for_others(store, url):
    store.create("Ada", [above()], NOW)
    mine = AlertStore(url, timeout_s=2.0)
    with store._transaction() as cursor:
        cursor.execute("SELECT FROM alert_feed FOR UPDATE")
        with pytest.raises(LimitError):
            mine.create("Ada", [above()], NOW, most=1)
    mine.close()


def test_of_what_an_owner_says_of_where_events_go_nothing_is_logged():
    goes = Destination(1, "Ada", "webhook", "https://example.org/hush", NOW, "hush")
    assert "hush" not in repr(goes)


# Changes ---------------------------------------------------------------------------------------------------


CHANGES = {
    "create": lambda store, _: store.create("Ada", [above()], NOW)[0],
    "update": lambda store, alert: store.update("Ada", alert, above(value=11.0), NOW),
    "pause": lambda store, alert: store.pause("Ada", alert, NOW),
    "resume": lambda store, alert: store.resume("Ada", alert, NOW),
    "rearm": lambda store, alert: store.rearm("Ada", alert, NOW),
    "delete": lambda store, alert: store.delete("Ada", alert, NOW),
    "import": lambda store, _: store.import_many([Imported("Ada", "x", above())], NOW),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_had_to_wait_is_in_force_a_little_after_it_waited(url, name):
    instants = [NOW]
    store = AlertStore(url, clock=lambda: instants[-1])
    alert = store.create("Ada", [above()], NOW)[0]
    if name == "resume":
        store.pause("Ada", alert.id, NOW)
    if name == "rearm":
        write(url, fired(alert))
    with ThreadPoolExecutor(1) as pool:
        with store._transaction() as cursor:
            cursor.execute("SELECT FROM alert_feed FOR UPDATE")
            changing = pool.submit(CHANGES[name], store, alert.id)
            while not waits(url):
                assert not changing.done()
            instants.append(LATER)
        changing.result(timeout=60)
    changed = select(url, "SELECT since, updated FROM alerts ORDER BY revision DESC LIMIT 1")
    assert changed == [(micros(LATER + SOON), NOW)]
    store.close()


def test_how_long_it_had_to_wait_postgresql_knows(url):
    store = AlertStore(url)
    with ThreadPoolExecutor(1) as pool:
        with store._transaction() as cursor:
            cursor.execute("SELECT FROM alert_feed FOR UPDATE")
            changing = pool.submit(store.create, "Ada", [above()], NOW)
            while not waits(url):
                assert not changing.done()
            ((until,),) = select(url, "SELECT clock_timestamp()")
        (made,) = changing.result(timeout=60)
    assert made.since >= until + SOON
    assert (made.created, made.basis) == (NOW, NOW.date())
    ahead = until + timedelta(days=1)
    assert store.create("Ada", [above()], ahead)[0].since == ahead + SOON
    store.close()


def test_each_part_of_an_import_is_in_force_after_it_was_its_turn(url, monkeypatch):
    monkeypatch.setattr("fibflow.io.alerts.store._IMPORTED", 1)
    clock = iter([NOW, LATER, LATER + SOON])
    store = AlertStore(url, clock=lambda: next(clock))
    store.import_many((Imported("Ada", str(n), above()) for n in range(3)), NOW)
    assert [each.since - SOON for each in store.find("Ada")] == [NOW, LATER, LATER + SOON]
    store.close()


def test_a_change_is_a_new_version_that_is_in_force_a_little_later(store, url):
    alert = store.create("Ada", [above(frequency="daily")], NOW)[0]
    write(url, fired(alert))
    changed = store.update("Ada", alert.id, above("B", 11.0), LATER)
    assert (changed.version, changed.since, changed.updated) == (2, LATER + SOON, LATER)
    assert (changed.fired, changed.firings, changed.created) == (None, 1, NOW)
    assert changed.definition == above("B", 11.0)
    assert changed.revision > alert.revision
    assert store.get("Ada", alert.id) == changed
    before, after = store.versions("Ada", alert.id)
    assert after == changed
    assert dataclasses.replace(before, fired=None, firings=0) == alert
    assert before.fired == NOW + timedelta(seconds=3)


def test_a_change_of_another_version_than_the_one_read_is_refused(store):
    alert = store.create("Ada", [above()], NOW)[0]
    store.update("Ada", alert.id, above(value=11.0), LATER, version=1)
    with pytest.raises(Conflict, match=r"is at version 2, not 1: read it again"):
        store.update("Ada", alert.id, above(value=12.0), LATER, version=1)
    with pytest.raises(DefinitionError, match="expires"):
        store.update("Ada", alert.id, above(expires=NOW), LATER)
    with pytest.raises(DefinitionError, match="destinations"):
        store.update("Ada", alert.id, above(destinations=(9,)), LATER)
    assert store.get("Ada", alert.id).definition.value == 11.0


def test_a_pause_and_its_end(store):
    alert = store.create("Ada", [above()], NOW)[0]
    paused = store.pause("Ada", alert.id, LATER)
    assert (paused.state, paused.version, paused.since) == ("paused", 2, LATER + SOON)
    assert store.pause("Ada", alert.id, LATER + SOON) == paused
    with pytest.raises(Conflict, match="is paused: resume it"):
        store.rearm("Ada", alert.id, LATER)
    edited = store.update("Ada", alert.id, above(value=12.0), LATER)
    assert (edited.state, edited.version) == ("paused", 3)
    resumed = store.resume("Ada", alert.id, LATER)
    assert (resumed.state, resumed.version, resumed.since) == ("active", 4, LATER + SOON)
    assert store.resume("Ada", alert.id, LATER) == resumed
    assert [each.state for each in store.versions("Ada", alert.id)] == [
        "active",
        "paused",
        "paused",
        "active",
    ]


def test_one_that_has_fired_is_armed_again_or_edited(store, url):
    alert, other = store.create("Ada", [above(), above()], NOW)
    write(url, fired(alert, other))
    held = store.get("Ada", alert.id)
    assert (held.state, held.version, held.firings) == ("fired", 1, 1)
    for call in (store.pause, store.resume):
        with pytest.raises(Conflict, match="has fired"):
            call("Ada", alert.id, LATER)
    armed = store.rearm("Ada", alert.id, LATER)
    assert (armed.state, armed.version, armed.fired, armed.firings) == ("active", 2, None, 1)
    assert store.rearm("Ada", alert.id, LATER) == armed
    assert store.update("Ada", other.id, above(value=12.0), LATER).state == "active"


def test_what_has_expired_is_not_begun_again(store, url):
    alert, other = store.create("Ada", [above(expires=LATER), above(expires=LATER)], NOW)
    store.pause("Ada", alert.id, NOW)
    write(url, fired(other))
    with pytest.raises(DefinitionError, match="expires: it has passed"):
        store.resume("Ada", alert.id, LATER)
    with pytest.raises(DefinitionError, match="expires: it has passed"):
        store.rearm("Ada", other.id, LATER)


def test_what_is_deleted_is_gone_but_its_past_is_not(store, url):
    alert = store.create("Ada", [above()], NOW)[0]
    write(url, fired(alert))
    store.delete("Ada", alert.id, LATER)
    for call in (store.get, lambda who, number: store.delete(who, number, LATER)):
        with pytest.raises(NotFound):
            call("Ada", alert.id)
    assert [(each.state, each.version) for each in store.versions("Ada", alert.id)] == [
        ("fired", 1),
        ("deleted", 2),
    ]
    assert len(store.events("Ada", alert=alert.id)) == 1


def test_prices_stay_those_of_their_day_until_they_are_given_anew(store):
    alert = store.create("Ada", [above(value=400.0)], NOW)[0]
    days_later = NOW + timedelta(days=4)
    store.pause("Ada", alert.id, days_later)
    assert store.resume("Ada", alert.id, days_later).basis == alert.basis
    said = dataclasses.replace(alert.definition, note="watch", operator="crosses_up")
    assert store.update("Ada", alert.id, said, days_later).basis == alert.basis
    assert store.update("Ada", alert.id, said, days_later, restated=True).basis == days_later.date()
    assert store.update("Ada", alert.id, above(value=100.0), days_later).basis == days_later.date()


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({"value": 6.0}, True),
        ({"note": "x"}, True),
        ({"reference_price": 101.0}, False),
        ({"symbol": "B"}, False),
        ({"rearm": 2.0}, False),
        ({"operator": "above", "reference": None, "reference_price": None}, False),
    ],
)
def test_a_percentage_is_of_no_day_but_its_price_is(store, change, kept):
    begun = Definition(
        "A", "percent_up", 5.0, reference="creation_price", reference_price=100.0, frequency="every_time"
    )
    alert = store.create("Ada", [begun], NOW)[0]
    changed = store.update("Ada", alert.id, dataclasses.replace(begun, **change), NOW + timedelta(days=4))
    assert (changed.basis == alert.basis) is kept


# Another system's ------------------------------------------------------------------------------------------


def test_alerts_of_another_system_come_once(store, url):
    old = datetime(2019, 5, 1, tzinfo=UTC)
    given = [
        Imported("Ada", "x1", above("A")),
        Imported("Ada", "x2", above("B", expires=old), state="fired", created=old, fired=old, firings=3),
        Imported("Bob", "x1", above("C"), state="paused"),
        Imported("Ada", "x1", above("D")),
        Imported("Ada", "x3", above("E"), fired=old, firings=1),
        Imported("Ada", "x4", above("F", frequency="daily"), fired=old),
    ]
    assert store.import_many(given, NOW) == 5
    assert store.import_many(reversed(given), LATER) == 0
    first, second, third, fourth = store.find("Ada")
    assert (first.origin, first.definition, first.created, first.state) == ("x1", above("A"), NOW, "active")
    assert (second.state, second.created, second.fired, second.firings) == ("fired", old, old, 3)
    # What was to fire once, and waits, is as good as new.
    assert (third.fired, third.firings, fourth.fired) == (None, 1, old)
    assert store.find("Bob")[0].state == "paused"
    assert select(url, "SELECT revision FROM alert_feed") == [(5,)]
    with pytest.raises(DefinitionError, match="no destination 9 of yours"):
        store.import_many([Imported("Ada", "x9", above(destinations=(9,)))], NOW)
    with pytest.raises(DefinitionError, match="expires"):
        store.import_many([Imported("Ada", "x9", above(expires=old))], NOW)


def test_more_of_another_system_than_one_transaction_takes(store, url):
    assert store.import_many((Imported("Ada", str(n), above()) for n in range(20_001)), NOW) == 20_001
    assert select(url, "SELECT count(*), min(revision), max(revision) FROM alerts") == [(20_001, 1, 20_001)]


# PostgreSQL ------------------------------------------------------------------------------------------------


def test_a_lost_connection_is_replaced(store, url):
    alert = store.create("Ada", [above()], NOW)[0]
    execute(
        url,
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    assert store.get("Ada", alert.id) == alert


def test_many_threads_share_a_few_connections(url):
    store = AlertStore(url, connections=2)
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: store.create("Ada", [above()], NOW)[0], range(40)))
    assert sorted(each.id for each in made) == [each.id for each in store.find("Ada")]
    shown = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'fibflow alerts'"
    assert select(url, f"{shown} AND datname = current_database()") == [(2,)]
    store.close()


def test_whoever_waits_too_long_is_told(url):
    store = AlertStore(url, connections=1, timeout_s=0.2)
    with store._transaction(), pytest.raises(PostgresError, match="all connections are in use"):
        store.check()
    store.create("Ada", [above()], NOW)
    holder = AlertStore(url)
    with holder._transaction() as cursor:
        cursor.execute("SELECT FROM alert_feed FOR UPDATE")
        with pytest.raises(PostgresError, match="a time limit"):
            store.create("Ada", [above()], NOW)
    assert len(store.create("Ada", [above()], NOW)) == 1
    holder.close()
    store.close()


def test_a_postgresql_that_is_away_comes_back(tmp_path_factory):
    folder, ports = tmp_path_factory.mktemp("away"), free_ports(["postgres"])
    with Stack(["postgres"], folder=folder, ports=ports) as stack:
        url = stack.env["DATABASE_URL"]
        migrate.upgrade(url)
        store = AlertStore(url)
        alert = store.create("Ada", [above()], NOW)[0]
    for _ in range(2):
        with pytest.raises(PostgresError, match=r"^PostgreSQL does not answer \(.*\): start it, or"):
            store.get("Ada", alert.id)
    with Stack(["postgres"], folder=folder, ports=ports):
        assert store.get("Ada", alert.id) == alert
        store.close()


def test_what_is_wrong_with_the_database_is_one_line_without_a_password(server, empty):
    name = empty.rpartition("/")[2]
    with pytest.raises(Unmigrated, match=r"run pipelines\.database upgrade first"):
        AlertStore(empty).check()
    for url in (
        server.url(name, GUARDED, f"{PASSWORD}x"),
        f"postgresql://{GUARDED}:{PASSWORD}\0@127.0.0.1/x",
        f"postgresql://{GUARDED}:{PASSWORD}@[127.0.0.1/x",
    ):
        store = AlertStore(url)
        with pytest.raises(PostgresError) as raised:
            store.check()
        assert PASSWORD not in str(raised.value) + repr(store)
        assert "\n" not in str(raised.value)
