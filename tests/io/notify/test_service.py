"""A notifier delivers what waits, holds nobody up, outlives PostgreSQL, and leaves nothing half done."""

from __future__ import annotations

import json
import random
import socket
import threading
import urllib.request
from collections import Counter
from contextlib import closing, contextmanager
from typing import Any

import pytest

from fibflow.io.alerts import deliveries
from fibflow.io.alerts.claims import Retries
from fibflow.io.alerts.store import AlertStore
from fibflow.io.notify.line import Lines
from fibflow.io.notify.outbox import Outbox, Wake
from fibflow.io.notify.service import Notifier, NotListening, Settings, Unsettled
from fibflow.io.notify.sns import Topics
from fibflow.io.notify.status import Status
from fibflow.io.notify.webhook import Webhooks
from fibflow.io.postgresql.session import PostgresError, Unmigrated
from fibflow.tests.io.alerts.alerts import NOW, above, fired, write
from fibflow.tests.io.ingest.test_service import wait_until
from fibflow.tests.io.notify.hooks import Answer, hooks
from fibflow.tests.io.notify.test_sns import make_topic
from fibflow.tests.io.postgresql.databases import execute, select

SOON = Retries(first_s=0.02, longest_s=0.05, most_attempts=6)


def notifier(box, said=None, aws=None, worker="one", lines=None, timeout_s=30.0, **settings):
    webhooks = Webhooks(allow_http_loopback=True, timeout_s=timeout_s, lines=lines)
    chosen: dict[str, Any] = {"poll_s": 0.02, "retries": SOON, **settings}
    return Notifier(
        box.url,
        worker,
        webhooks,
        Topics(lambda: aws),
        Settings(**chosen),
        (said if said is not None else []).append,
        dice=random.Random(1),
    )


@contextmanager
def running(made):
    """Run a notifier in a thread; what it raises is raised at the end."""
    raised: list[Exception] = []
    thread = threading.Thread(target=_keep, args=(made.run, raised))
    thread.start()
    try:
        yield made
    finally:
        made.stop()
        thread.join()
    if raised:
        raise raised[0]


def once(box, **more):
    made = notifier(box, once=True, **more)
    made.run()
    return made.status


def test_everything_due_is_delivered_once_and_it_ends(box, plain):
    box.events(60, box.destination(plain.url("/a")), box.destination(plain.url("/b")))
    status = once(box)
    assert box.count("delivered") == 120
    assert set(plain.ids.values()) == {2}
    assert (status.totals["delivered"], status.waiting) == (120, 0)
    assert select(box.url, "SELECT count(*) FROM alert_tries WHERE status = 200")[0][0] == 120


def test_what_comes_later_is_delivered_when_it_comes(box, plain):
    where = box.destination(plain.url())
    # A notice is what wakes it: its own next look would be in an hour.
    said: list[str] = []
    with running(notifier(box, said, poll_s=3_600.0)):
        wait_until(lambda: said, "it listens")
        box.events(3, where, prefix="a")
        wait_until(lambda: box.count("delivered") == 3, "the first are delivered")
        box.events(3, where, prefix="b")
        wait_until(lambda: box.count("delivered") == 6, "the second are delivered")


def test_a_webhook_that_never_answers_holds_up_none_of_the_others(box, plain):
    with hooks() as mute:
        mute.answer = lambda _: None
        bad = box.destination(mute.url())
        good = [box.destination(plain.url(f"/{n}")) for n in range(50)]
        # What waits for the bad one is older, and more than there are threads.
        box.events(40, bad, prefix="bad")
        box.events(4, *good, prefix="good")
        with running(notifier(box, workers=4, room=2, timeout_s=600.0)):
            wait_until(lambda: box.count("delivered") == 200, "the good ones are delivered")
            # And not one try of the bad one has ended: they hold the two threads that they may have.
            assert select(box.url, "SELECT count(*) FROM alert_tries WHERE status IS NULL")[0][0] == 0
            assert len(mute.requests) == 2
            mute.released.set()
    assert set(plain.ids) == {f"good{n}" for n in range(1, 5)}


def test_many_that_fail_leave_half_of_the_threads_to_those_that_do_not(box, plain):
    with hooks() as lame:
        lame.answer = lambda _: Answer(500)
        bad = [box.destination(lame.url(f"/{n}")) for n in range(12)]
        box.events(1, *bad, prefix="bad")
        status = threading.Event()

        def answer(request):
            if not status.is_set():
                return Answer(500)
            return None

        lame.answer = answer
        with running(notifier(box, workers=4, room=2, timeout_s=600.0, retries=Retries(0.01, 0.02))):
            wait_until(lambda: len(lame.requests) >= 24, "all have failed once or more")
            # From now on they hang: but they are known, and have two threads among them.
            status.set()
            wait_until(lambda: lame.held.acquire(blocking=False), "one hangs")
            box.events(20, box.destination(plain.url()), prefix="good")
            wait_until(lambda: box.count("delivered") == 20, "the good ones are delivered")
            lame.released.set()


def test_what_fails_is_tried_again_until_it_is_taken(box, plain):
    tries: Counter[str] = Counter()

    def answer(request):
        tries[request.path] += 1
        return Answer(503 if tries[request.path] < 3 else 200)

    plain.answer = answer
    box.events(1, box.destination(plain.url("/a")), box.destination(plain.url("/b")))
    made = notifier(box)
    with running(made):
        wait_until(lambda: box.count("delivered") == 2, "they are delivered")
    assert tries == {"/a": 3, "/b": 3}
    assert made.status.totals["failed"] == 4
    assert [status for status, _ in box.tries(min(box.states()))] == [503, 503, 200]


def test_gone_given_up_removed_and_disabled_are_dead_with_their_reason(box, plain):
    plain.answer = lambda request: Answer(410 if request.path == "/gone" else 500)
    gone, lame = box.destination(plain.url("/gone")), box.destination(plain.url("/lame"))
    away = box.destination(plain.url("/away"), disabled="now", reason="by its owner")
    box.events(1, gone, lame, away, 999)
    status = once(box, retries=Retries(most_attempts=1))
    errors = dict(
        select(box.url, "SELECT destination, last_error FROM alert_deliveries WHERE state = 'dead'")
    )
    assert errors == {
        gone: "answered 410 Gone",
        lame: "answered 500",
        away: "by its owner",
        999: "the destination was removed",
    }
    assert box.disabled(gone) == "answered 410 Gone"
    assert box.disabled(lame) == "given up, as nothing was taken for too long: answered 500"
    assert {each.path for each in plain.requests} == {"/gone", "/lame"}
    assert (status.totals["dead"], status.totals["disabled"]) == (4, 2)


def test_a_destination_that_ended_is_not_left_among_those_that_rest(box, plain):
    plain.answer = lambda _: Answer(500)
    box.events(3, box.destination(plain.url()))
    status = once(box, retries=Retries(most_attempts=1))
    assert box.count("dead") == 3
    assert b"fibflow_notify_resting_destinations 0.0" in status.metrics()


def test_a_notice_that_came_with_an_answer_ends_the_next_wait(box):
    outbox = Outbox(box.url, Status(), print)
    wake = Wake()
    with closing(outbox), closing(wake):
        outbox.open()
        box.events(1, box.destination())
        # The notice is taken from the wire here.
        found = outbox.ask(deliveries.waiting)
        assert found is not None
        assert found.count == 1
        waits = threading.Thread(target=outbox.wait, args=(wake, 3_600.0))
        waits.start()
        try:
            wait_until(lambda: not waits.is_alive(), "it has ended")
        finally:
            wake.set()
            waits.join()


def test_topics_get_their_events_in_batches_beside_webhooks(box, plain, s3_server):
    arn, read = make_topic(s3_server, "service")
    box.events(25, box.destination(arn, "sns"), box.destination(plain.url()))
    once(box, aws=s3_server)
    assert box.count("delivered") == 50
    received = [each["MessageAttributes"]["event_id"]["Value"] for each in read()]
    assert sorted(received) == sorted(plain.ids) == sorted(f"e{n}" for n in range(1, 26))


def test_it_ends_with_what_is_under_way_and_begins_nothing_more(box):
    with hooks() as slow:
        gate = threading.Event()

        def answer(request):
            slow.held.release()
            gate.wait()
            return Answer()

        slow.answer = answer
        box.events(10, box.destination(slow.url()))
        made = notifier(box, workers=2, room=2)
        with running(made):
            wait_until(lambda: slow.held.acquire(blocking=False), "one is under way")
            wait_until(lambda: slow.held.acquire(blocking=False), "two are under way")
            made.stop()
            gate.set()
    assert (box.count("delivered"), box.count("pending"), len(slow.requests)) == (2, 8, 2)
    claimed = "SELECT count(*) FROM alert_deliveries WHERE claimed_by IS NOT NULL"
    assert select(box.url, claimed)[0][0] == 0


def test_what_does_not_end_in_time_is_given_back(box):
    with hooks() as mute:
        mute.answer = lambda _: None
        box.events(1, box.destination(mute.url()))
        made = notifier(box, drain_s=0.05)
        with running(made):
            wait_until(lambda: mute.held.acquire(blocking=False), "it is under way")
            made.stop()
            wait_until(lambda: box.row(1, "claimed_by") == (None,), "it is given back")
            mute.released.set()
    assert [each.event.id for each in deliveries.claim(box.url, "next", 9, room=9, lease_s=60)] == ["e1"]


@contextmanager
def locked_out(server, url):
    """The database takes no connections, and has none."""
    name = url.rpartition("/")[2]
    admin = server.url(server.first)
    execute(
        admin,
        f"ALTER DATABASE {name} ALLOW_CONNECTIONS false",
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'",
    )
    try:
        yield
    finally:
        execute(admin, f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


def test_postgresql_away_is_said_once_and_what_was_done_meanwhile_is_written_after(box, server):
    said: list[str] = []
    with hooks() as slow:
        gate = threading.Event()

        def answer(request):
            slow.held.release()
            gate.wait()
            return Answer()

        slow.answer = answer
        box.events(6, box.destination(slow.url()))
        made = notifier(box, said, workers=2, room=2)
        with running(made):
            wait_until(lambda: slow.held.acquire(blocking=False), "one is under way")
            with locked_out(server, box.url):
                gate.set()
                wait_until(lambda: any("it is tried again" in line for line in said), "it is said")
                assert made.status.document()["status"] == "degraded"
            wait_until(lambda: box.count("delivered") == 6, "all are delivered")
            assert made.status.document()["status"] == "ok"
    assert set(slow.ids.values()) == {1}
    assert sum("tried again" in line for line in said) == sum("answers again" in line for line in said) == 1


def test_an_end_while_postgresql_is_away_says_what_was_not_written(box, server):
    with hooks() as slow:
        gate = threading.Event()

        def answer(request):
            slow.held.release()
            gate.wait()
            return Answer()

        slow.answer = answer
        box.events(1, box.destination(slow.url()))
        raised: list[Exception] = []
        made = notifier(box, drain_s=0.05)
        thread = threading.Thread(target=_keep, args=(made.run, raised))
        thread.start()
        wait_until(lambda: slow.held.acquire(blocking=False), "it is under way")
        with locked_out(server, box.url):
            gate.set()
            wait_until(lambda: made.status.document()["status"] == "degraded", "it is away")
            made.stop()
            thread.join()
    (error,) = raised
    assert isinstance(error, Unsettled)
    assert "1 deliveries: they are tried again, with the same ids" in str(error)


def _keep(work, raised):
    try:
        work()
    except Exception as error:
        raised.append(error)


def test_health_and_metrics_are_on_a_port(box, plain):
    said: list[str] = []
    box.events(3, box.destination(plain.url()))
    with running(notifier(box, said, port=0)):
        wait_until(lambda: box.count("delivered") == 3, "they are delivered")
        (line,) = [line for line in said if "has /healthz" in line]
        url = line.split(" has ")[0]
        with urllib.request.urlopen(f"{url}/healthz", timeout=10) as answer:
            assert b'"status": "ok"' in answer.read()

        def metrics():
            with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
                lines = answer.read().decode().splitlines()
            return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))

        wait_until(lambda: metrics()['fibflow_notify_delivered_total{kind="webhook"}'] == "3.0", "it counts")
        found = metrics()
        assert found['fibflow_notify_latency_seconds_count{kind="webhook"}'] == "3.0"
        assert {
            f"fibflow_notify_{name}" for name in ("waiting", "oldest_waiting_seconds", "in_flight")
        } <= set(found)


def test_what_is_wrong_from_the_beginning_is_raised(box, empty):
    with pytest.raises(Unmigrated, match="database upgrade"):
        notifier(type(box)(empty)).run()
    with pytest.raises(PostgresError, match="does not answer"):
        notifier(type(box)("postgresql://fibflow@127.0.0.1:1/none")).run()
    with (
        closing(socket.create_server(("127.0.0.1", 0))) as taken,
        pytest.raises(NotListening, match="cannot be had"),
    ):
        notifier(box, port=taken.getsockname()[1]).run()


def test_webhooks_with_tls_are_delivered_to(box, authority):
    with hooks(authority.context("127.0.0.1")) as secure:
        box.events(5, box.destination(secure.url(), secret="hush"))
        once(box, lines=Lines(context=authority.client()), workers=1)
        assert box.count("delivered") == 5
        assert secure.connections == 1


def test_from_the_alert_to_the_webhook(box, plain):
    with closing(AlertStore(box.url)) as store:
        hook = store.add_destination("ann", "webhook", plain.url(), NOW, secret="hush")
        (alert,) = store.create("ann", [above("A", 10.0, note="out", destinations=(hook.id,))], NOW)
    assert write(box.url, fired(alert)) == 1
    assert write(box.url, fired(alert)) == 0
    once(box)
    (request,) = plain.requests
    assert json.loads(request.body) == {
        "id": f"{alert.id}-1-0",
        "alert": str(alert.id),
        "version": 1,
        "symbol": "A",
        "price": 10.5,
        "level": 10.0,
        "operator": "above",
        "note": "out",
        "ts": "2026-01-05T15:00:03.000000Z",
        "test": False,
    }
    assert request.headers["Fibflow-Signature"].startswith("v1=")
