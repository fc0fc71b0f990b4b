"""Deliveries are claimed by one worker at a time, in turn of their destinations, and settled once."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta

import psycopg2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fibflow.io.alerts import deliveries, destinations
from fibflow.io.alerts.claims import End, Outcome, Retries
from fibflow.io.alerts.deadletters import replay
from fibflow.io.alerts.deliveries import SNS_ROOM
from fibflow.io.postgresql.session import PostgresError, Unmigrated, connect
from fibflow.tests.io.alerts.outboxes import NOON, Box
from fibflow.tests.io.postgresql.databases import execute, select, waits

DELIVERED = Outcome(End.DELIVERED, status=204, took_ms=7)
FAILED = Outcome(End.FAILED, "answered 500", 500, 9)
LEASE = 60.0


@pytest.fixture
def box(url) -> Box:
    return Box(url)


def claim(box, worker="one", most=100, room=100, now=NOON, **more):
    return deliveries.claim(box.url, worker, most, room=room, lease_s=LEASE, now=now, **more)


def settle(box, results, worker="one", now=NOON, retries=None, seed=1):
    return deliveries.settle(box.url, worker, results, retries or Retries(), random.Random(seed), now)


def later(seconds):
    return NOON + timedelta(seconds=seconds)


def test_a_claim_holds_what_is_to_be_sent_and_nobody_else_gets_it(box):
    where = box.destination("https://example.com/a", secret="hush")
    (one,) = box.event("7-1-0", where, created=later(-3), due=NOON)
    (found,) = claim(box)
    assert (found.id, found.destination, found.attempts, found.age_s) == (one, where, 0, 3.0)
    assert (found.kind, found.target, found.secret, found.disabled) == (
        "webhook",
        "https://example.com/a",
        "hush",
        None,
    )
    event = found.event
    assert (event.id, event.alert, event.symbol, event.price, event.level) == (
        "7-1-0",
        7,
        "AAPL",
        190.5,
        190.0,
    )
    assert (event.ts, event.note, event.test) == (NOON, "résumé ✓", False)
    assert "hush" not in repr(found)
    assert claim(box, "two", now=later(LEASE - 1)) == []
    # Whoever claimed it is gone: another takes it over.
    assert [each.id for each in claim(box, "two", now=later(LEASE))] == [one]


def test_what_is_not_due_or_over_is_not_claimed(box):
    where = box.destination()
    box.event("late", where, due=later(1))
    (done,) = box.event("done", where, due=NOON)
    settle(box, [(each, DELIVERED) for each in claim(box)])
    assert box.states()[done] == "delivered"
    assert claim(box) == []
    assert [each.event.id for each in claim(box, now=later(1))] == ["late"]


def test_destinations_take_turns_however_much_waits_for_one(box):
    full, other, third = (box.destination(f"https://{name}.example.com") for name in "abc")
    for n in range(30):
        box.event(f"full{n}", full, due=later(n - 100))
    box.event("other", other, due=later(-1))
    box.event("third", third, due=later(-2))
    assert [each.event.id for each in claim(box, most=3)] == ["full0", "other", "third"]
    assert [each.event.id for each in claim(box, most=3)] == ["full1", "full2", "full3"]


def test_of_one_destination_no_more_than_there_is_room_for(box):
    hook, topic = box.destination(), box.destination("arn:aws:sns:us-east-1:123456789012:t", "sns")
    for n in range(50):
        box.event(f"e{n}", hook, topic, due=NOON)
    found = claim(box, room=3)
    assert sum(each.destination == hook for each in found) == 3
    assert sum(each.destination == topic for each in found) == 3 * SNS_ROOM
    assert [each.destination for each in claim(box, room=3, rooms={hook: -1, topic: 2})] == [topic, topic]
    assert {each.destination for each in claim(box, room=1, without=[topic])} == {hook}
    assert {each.destination for each in claim(box, room=1, only=[topic])} == {topic}
    assert claim(box, only=[]) == claim(box, most=0) == []


def test_many_workers_at_once_get_each_delivery_once(box):
    hooks = [box.destination(f"https://{n}.example.com") for n in range(5)]
    box.events(200, *hooks)
    barrier = threading.Barrier(4)
    found: list[list[int]] = [[], [], [], []]

    def work(place):
        with closing(connect(box.url)) as connection:
            barrier.wait(30)
            while claims := deliveries.claim(connection, f"w{place}", 7, room=7, lease_s=LEASE):
                found[place] += [each.id for each in claims]

    threads = [threading.Thread(target=work, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = [id for each in found for id in each]
    assert len(taken) == len(set(taken))
    # One that found all it looked at in others' hands ended early: what is left is there for a claim.
    taken += [each.id for each in deliveries.claim(box.url, "last", 1_000, room=1_000, lease_s=LEASE)]
    assert sorted(taken) == sorted(box.states())


def test_what_failed_is_due_later_at_random_and_the_log_has_each_try(box):
    (one,) = box.event("e", box.destination(), created=NOON, due=NOON)
    (first,) = claim(box)
    settled = settle(box, [(first, FAILED)])
    assert (settled.delivered, settled.dead, settled.disabled) == (frozenset(), {}, frozenset())
    state, attempts, due, error, by = box.row(one, "state", "attempts", "due", "last_error", "claimed_by")
    assert (state, attempts, error, by) == ("pending", 1, "answered 500", None)
    assert due == NOON + timedelta(seconds=random.Random(1).uniform(0, 5))
    (again,) = claim(box, now=due)
    assert again.attempts == 1
    assert settle(box, [(again, DELIVERED)], now=due).delivered == {one}
    assert box.row(one, "state", "attempts", "finished", "last_error") == (
        "delivered",
        2,
        due,
        "answered 500",
    )
    assert box.tries(one) == [(500, "answered 500"), (204, None)]


def test_a_delivery_counts_whoever_has_the_claim_and_only_once(box):
    (one,) = box.event("e", box.destination(), due=NOON)
    (slow,) = claim(box, "slow")
    (heir,) = claim(box, "heir", now=later(LEASE))
    # A failure of who lost the claim says nothing; a success does.
    assert settle(box, [(slow, FAILED)], "slow", later(LEASE)).delivered == frozenset()
    assert box.row(one, "claimed_by", "attempts") == ("heir", 0)
    assert settle(box, [(slow, DELIVERED)], "slow", later(LEASE + 1)).delivered == {one}
    assert settle(box, [(heir, DELIVERED)], "heir", later(LEASE + 2)).delivered == frozenset()
    assert settle(box, [(heir, FAILED)], "heir", later(LEASE + 3)).dead == {}
    assert box.row(one, "state", "finished") == ("delivered", later(LEASE + 1))
    assert len(box.tries(one)) == 4


def test_what_is_refused_is_dead_at_once_and_its_destination_goes_on(box):
    where = box.destination()
    (one,) = box.event("e", where, due=NOON)
    assert settle(box, [(claim(box)[0], Outcome(End.REFUSED, "no URL"))]).dead == {one: where}
    assert (box.states()[one], box.disabled(where)) == ("dead", None)


def test_who_is_gone_is_disabled_with_all_that_waits(box):
    gone, other = box.destination(), box.destination()
    ids = [box.event(f"e{n}", gone, other, due=later(n)) for n in range(3)]
    (first,) = claim(box, only=[gone])
    settled = settle(box, [(first, Outcome(End.GONE, "answered 410 Gone", 410))])
    assert settled.disabled == {gone}
    assert settled.dead == {pair[0]: gone for pair in ids}
    assert box.disabled(gone) == "answered 410 Gone"
    assert {box.row(pair[0], "last_error") for pair in ids} == {("answered 410 Gone",)}
    assert {each.destination for each in claim(box, now=later(9))} == {other}


def test_who_took_nothing_until_an_event_was_given_up_is_disabled(box):
    retries = Retries(most_attempts=1)
    mute, lame = box.destination(), box.destination()
    for where in (mute, lame):
        box.event(f"old{where}", where, created=NOON, due=NOON)
        box.event(f"new{where}", where, created=NOON, due=later(5))
    (taken,) = claim(box, now=later(5), only=[lame], most=1)
    settle(box, [(taken, DELIVERED)], now=later(5))
    claims = claim(box, now=later(6))
    settled = settle(box, [(each, FAILED) for each in claims], now=later(6), retries=retries)
    # Of what was taken in the meantime the one that failed is no sign.
    assert settled.disabled == {mute}
    assert box.disabled(mute) == "given up, as nothing was taken for too long: answered 500"
    assert box.disabled(lame) is None
    assert sorted(settled.dead.values()) == [mute, mute, lame]


GONE = Outcome(End.GONE, "answered 410 Gone", 410)


@pytest.mark.parametrize("outcome", [GONE, FAILED])
def test_who_settles_what_ends_a_destination_waits_for_who_removes_it(box, outcome):
    where = box.destination()
    (one,) = box.event("e", where, created=NOON, due=NOON)
    claims = claim(box)
    with (
        closing(connect(box.url)) as connection,
        connection.cursor() as cursor,
        ThreadPoolExecutor(1) as pool,
    ):
        destinations.get(cursor, "ann", where, lock=True)
        settled = pool.submit(settle, box, [(claims[0], outcome)], retries=Retries(most_attempts=1))
        while not waits(box.url):
            assert not settled.done()
        # It holds nothing that this needs.
        destinations.remove(cursor, "ann", where, NOON)
        connection.commit()
        assert settled.result(60).disabled == frozenset()
    assert box.row(one, "state", "last_error") == ("dead", "the destination was removed")


@pytest.mark.parametrize("way", ["settle", "give back", "disable", "replay"])
def test_deliveries_are_locked_by_their_ids_so_that_none_waits_in_a_circle(box, way):
    where = box.destination()
    first, second = (box.event(name, where, due=later(-place))[0] for place, name in enumerate("ab"))
    claims = sorted(claim(box), key=lambda each: -each.id)
    if way == "replay":
        execute(box.url, "UPDATE alert_deliveries SET state = 'dead' WHERE id = " + str(second))
        execute(box.url, "UPDATE alert_deliveries SET state = 'dead' WHERE id = " + str(first))
    work = {
        "settle": lambda: settle(box, [(each, DELIVERED) for each in claims]),
        "give back": lambda: deliveries.give_back(box.url, "one", [each.id for each in claims], NOON),
        "disable": lambda: deliveries.disable(box.url, where, "by hand", NOON),
        "replay": lambda: replay(box.url, now=NOON),
    }[way]
    hold = "SELECT FROM alert_deliveries WHERE id = %s FOR UPDATE NOWAIT"
    with (
        closing(connect(box.url)) as connection,
        connection.cursor() as cursor,
        ThreadPoolExecutor(1) as pool,
    ):
        cursor.execute(hold, (first,))
        done = pool.submit(work)
        while not waits(box.url):
            assert not done.done()
        cursor.execute(hold, (second,))
        connection.commit()
        done.result(60)


def test_an_error_is_kept_as_far_as_a_person_reads_it(box):
    where = box.destination()
    (one,) = box.event("e", where, due=NOON)
    settle(box, [(claim(box)[0], Outcome(End.GONE, "x" * 60_000))])
    assert [box.row(one, "last_error")[0], box.disabled(where), box.tries(one)[0][1]] == ["x" * 200] * 3


def test_what_is_in_flight_as_its_destination_is_disabled_may_still_arrive(box):
    where = box.destination()
    first, second = (box.event(name, where, due=NOON)[0] for name in ("a", "b"))
    one, two = claim(box)
    assert deliveries.disable(box.url, where, "by hand", NOON) == 2
    assert deliveries.disable(box.url, where, "again", NOON) == 0
    settle(box, [(one, DELIVERED), (two, FAILED)])
    assert box.states() == {first: "delivered", second: "dead"}
    assert box.disabled(where) == "by hand"


def test_a_claim_tells_that_its_destination_is_disabled_or_was_removed(box):
    away = box.destination(disabled=NOON, reason="by its owner")
    box.event("e", away, 999, due=NOON)
    found = {each.destination: each for each in claim(box)}
    assert found[away].disabled == "by its owner"
    assert (found[999].kind, found[999].target) == ("", "")


def test_what_is_given_back_is_due_at_once_and_only_to_be_given_by_who_has_it(box):
    box.event("e", box.destination(), due=NOON)
    (one,) = claim(box)
    assert deliveries.give_back(box.url, "two", [one.id], NOON) == 0
    assert deliveries.give_back(box.url, "one", [one.id], NOON) == 1
    assert [each.attempts for each in claim(box, "two")] == [0]


def test_what_waits_is_counted_with_its_age(box):
    assert deliveries.waiting(box.url, NOON) == deliveries.Waiting(0, 0.0)
    where = box.destination()
    box.event("a", where, created=later(-90), due=NOON)
    box.event("b", where, created=later(-9), due=later(100))
    assert deliveries.waiting(box.url, NOON) == deliveries.Waiting(2, 90.0)
    settle(box, [(claim(box)[0], DELIVERED)])
    assert deliveries.waiting(box.url, NOON) == deliveries.Waiting(1, 9.0)


def test_a_connection_is_left_without_a_transaction_and_without_half_a_settlement(box):
    (one,) = box.event("e", box.destination(), due=NOON)
    with closing(connect(box.url)) as connection:
        (held,) = deliveries.claim(connection, "one", 9, room=9, lease_s=LEASE, now=NOON)
        idle = psycopg2.extensions.TRANSACTION_STATUS_IDLE
        assert connection.info.transaction_status == idle
        too_long = Outcome(End.FAILED, "x", status=1 << 40)
        with pytest.raises(PostgresError, match="out of range"):
            deliveries.settle(connection, "one", [(held, too_long)], Retries(), random.Random(1), NOON)
        assert connection.info.transaction_status == idle
        deliveries.settle(connection, "one", [(held, DELIVERED)], Retries(), random.Random(1), NOON)
    assert box.tries(one) == [(204, None)]


def test_a_database_without_the_tables_says_what_makes_them(empty):
    with pytest.raises(Unmigrated, match="database upgrade"):
        deliveries.claim(empty, "one", 1, room=1, lease_s=LEASE)


def test_the_claim_goes_by_the_index_from_destination_to_destination(box):
    """Not by a scan: what is over stays in the table."""
    found = select(box.url, "SELECT indexdef FROM pg_indexes WHERE tablename = 'alert_deliveries'")
    assert any("(destination, due)" in each and "pending" in each for (each,) in found)


def test_whether_a_destination_took_anything_is_seen_in_an_index(box):
    quiet, busy = box.destination(), box.destination()
    box.events(2_000, busy)
    execute(box.url, "UPDATE alert_deliveries SET state = 'delivered', finished = now()", "ANALYZE")
    (one,) = box.event("e", quiet)
    plan = select(box.url, f"EXPLAIN {deliveries._SILENT}", [one])
    assert any("alert_deliveries_delivered" in line for (line,) in plan)


@pytest.mark.parametrize("seed", range(50))
def test_no_event_is_given_up_for_its_tries_before_it_is_a_day_old(seed):
    dice, retries, age, attempts = random.Random(seed), Retries(), 0.0, 1
    while (wait := retries.after(attempts, age, None, dice)) is not None:
        age, attempts = age + wait, attempts + 1
    assert age >= 86_400
    assert 40 <= attempts <= 80


@given(
    st.integers(1, 120),
    st.floats(0, 200_000),
    st.none() | st.floats(0, 1e9),
    st.integers(0, 2**32),
)
def test_waits_are_bounded_and_longer_than_is_asked_for(attempts, age_s, wait, seed):
    retries = Retries()
    found = retries.after(attempts, age_s, wait, random.Random(seed))
    if attempts >= 100 or (age_s >= 86_400 and attempts >= 5):
        assert found is None
        return
    assert found is not None
    assert min(wait or 0, 3_600) <= found <= 3_600
    if not wait:
        assert found <= 5 * 2 ** (attempts - 1)
