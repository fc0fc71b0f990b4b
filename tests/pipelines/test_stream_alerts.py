"""Alerts on real servers: what is due fires once, and arrives, while everything is killed in turn.

A session is replayed into a live job with late, duplicate and corrected messages. The task manager and a
notifier are killed, PostgreSQL is away while prices run, the job stops with a savepoint meanwhile and goes
on; and alerts are edited, paused, resumed and deleted between prices. What is due is told by brute force over
what was archived.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from fibflow.io.alerts.model import Alert, Conflict
from fibflow.io.postgresql import migrate
from fibflow.runners.services.stack import Stack
from fibflow.tests.pipelines.alerting import (
    OWNER,
    WITHIN_S,
    Desk,
    Topic,
    definition,
    instant,
    notifying,
    receiving,
)
from fibflow.tests.pipelines.live import BUCKETS, LiveRun, Market, Segment, wait_until
from fibflow.transforms.partials import numbers as column_of

ALERTS, SYMBOLS, TRADES = 10_000, 100, 200.0
SESSION = "2024-05-10"


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack(["redis", "postgres", "moto", "flink", "beam"], slots=2) as running:
        migrate.upgrade(running.env["DATABASE_URL"])
        yield running


def parts(market: Market, count: int) -> list[tuple[Segment, int]]:
    """The tape in parts, and the instant at which each ends: nothing before it is newer."""
    messages = market.tape.messages
    sent = column_of(messages, "sent")
    ends = [len(messages) * part // count for part in range(1, count + 1)]
    begins = [0, *ends[:-1]]
    return [
        (Segment(market.tape, messages.slice(begin, end - begin), None), int(sent[end - 1]))
        for begin, end in zip(begins, ends, strict=True)
    ]


def correct(run: LiveRun, part: Segment, numbers: random.Random) -> None:
    """Put some trades again, at prices that would fire everything, behind what was put in their shards."""
    chosen = part.messages.filter((pc.field("kind") == "T") & (pc.field("case") == "on_time"))
    chosen = chosen.take(sorted(numbers.sample(range(len(chosen)), 100)))
    corrected = []
    messages: list[Any] = chosen["message"].to_pylist()
    for message in messages:
        trade = json.loads(message)
        trade["p"] = round(trade["p"] * numbers.choice((0.5, 2.0)), 2)
        corrected.append(json.dumps(trade).encode())
    at = chosen.schema.get_field_index("message")
    field = chosen.schema.field(at)
    run.play(Segment(part.of, chosen.set_column(at, field, pa.array(corrected, field.type)), None))


def change(desk: Desk, market: Market, at: int, numbers: random.Random, opens: int) -> None:
    """Edit, pause and delete alerts that may still fire, at an instant of the session."""
    now = instant(at)
    days = {day["symbol"]: day for day in market.official.to_pylist()}
    chosen = numbers.sample(desk.active(), 600)
    for alert in chosen[:200]:
        given = alert.definition
        edited = definition(days[given.symbol], given.destinations, numbers, opens + 3 * 3600 * 1_000_000)
        desk.store.update(OWNER, alert.id, edited, now)
    for alert in chosen[200:400]:
        # Prices run: one that has fired meanwhile cannot be paused any more.
        with suppress(Conflict):
            desk.store.pause(OWNER, alert.id, now)
    for alert in chosen[400:]:
        desk.store.delete(OWNER, alert.id, now)
    desk.note()


def resume(desk: Desk, at: int, numbers: random.Random) -> None:
    """Resume alerts that were paused, and arm some again that have fired."""
    now = instant(at)

    def lasting(state: str) -> list[Alert]:
        found = desk.store.find(OWNER, state=state, limit=1000)
        return [alert for alert in found if not _is_over(alert, now)]

    for alert in lasting("paused")[:150]:
        desk.store.resume(OWNER, alert.id, now)
    for alert in numbers.sample(lasting("fired"), 150):
        desk.store.rearm(OWNER, alert.id, now)
    desk.note()


def _is_over(alert: Alert, now: datetime) -> bool:
    expires = alert.definition.expires
    return alert.definition.symbol.startswith("CANARY") or (expires is not None and expires <= now)


def test_what_is_due_fires_once_and_arrives(stack: Stack, tmp_path: Path) -> None:
    numbers = random.Random(5)
    market = Market.of("trades", (SESSION,), SYMBOLS, "XNYS", trades=TRADES, seed=5)
    opens = int(market.calendar.opens[market.last])
    run = LiveRun(stack, tmp_path, market, "ticks-alerts", "trades")
    desk, topic = Desk(stack.env["DATABASE_URL"], BUCKETS), Topic(run.env, "alerts")
    run.create_stream()
    run.land(market.history)
    with receiving() as (address, receiver):
        try:
            due = _replay(stack, run, desk, (address, topic.arn), numbers, opens)
        finally:
            run.cancel()
        found = desk.outbox()
        assert {name: due.get(name) for name in found} == found
        assert set(found) == set(due)
        assert len(found) > ALERTS / 4
        assert set(desk.operators()) >= {"above", "below", "crosses", "percent_up", "percent"}
        assert desk.ended() >= 300
        webhooks, topics = desk.destinations
        destined = desk.destined()
        assert receiver.received("/hook").keys() == destined[webhooks]
        assert topic.received().keys() == destined[topics]
        desk.store.close()


def _replay(
    stack: Stack,
    run: LiveRun,
    desk: Desk,
    destinations: tuple[str, str],
    numbers: random.Random,
    opens: int,
) -> dict[str, tuple[int, int]]:
    """Play the session through all that goes wrong; return what is due: the price of each event."""
    market, before = run.market, instant(opens - 3600 * 1_000_000)
    desk.send_to(*destinations, before)
    days = market.official.to_pylist()
    wanted = [definition(numbers.choice(days), desk.chosen(numbers), numbers, opens) for _ in range(ALERTS)]
    desk.store.create(OWNER, wanted, before)
    desk.note()
    (first, end), (second, end_of_second), (third, _), (last, _) = parts(market, 4)
    options = ("--timeframes", "1m,5m,1d", "--alerts", desk.url)
    job = run.submit(*options)
    with notifying(run.env) as notifier:
        run.play(first)
        correct(run, first, numbers)
        # A job begins with what is in force when it does: alerts are changed when it has them.
        desk.reaches(run, opens - 1800 * 1_000_000)
        change(desk, market, end, numbers, opens)
        desk.reaches(run, end)
        # Prices of that session wait for no changes, which are told up to today: a restore has to have them.
        known = time.time() * 1000
        wait_until(
            lambda: any(each.triggered > known for each in run.rest.checkpoints(job)),
            "a checkpoint with the changes",
            WITHIN_S,
        )
        run.play(second)
        stack.kill9("task-manager")
        notifier.kill()
    stack.start("task-manager-1")
    with notifying(run.env):
        correct(run, second, numbers)
        resume(desk, end_of_second, numbers)
        desk.reaches(run, end_of_second)
        # Bars go on while PostgreSQL is away, and what fires is in the savepoint.
        stack.stop("postgres")
        run.play(third)
        wait_until(lambda: run.archived() >= run.played, "bars go on", WITHIN_S)
        stop = ("stop", "live", "--flink-master", stack.address("job-manager"), "--lake", str(run.lake))
        wait_until(
            lambda: run.command("pipelines.jobs", *stop).returncode == 0, "the job is stopped", WITHIN_S
        )
        stack.start("postgres")
        run.play(last)
        done = run.command("pipelines.jobs", "resume", "live", "--lake", str(run.lake))
        assert done.returncode == 0, done.stderr
        wait_until(lambda: run.archived() >= run.played, "everything is archived", WITHIN_S)
        due = desk.due(run)
        wait_until(
            lambda: desk.outbox().keys() >= due.keys(), f"{len(due)} events are in the outbox", WITHIN_S
        )
        wait_until(lambda: desk.undelivered() == 0, "everything is delivered", WITHIN_S)
        return due
