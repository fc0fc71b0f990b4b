"""The alerts of a bucket against the oracle, whatever the tables, and after state was lost and restored."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fibflow.tests.transforms.alerts.oracle import Oracle
from fibflow.tests.transforms.alerts.tables import Bucket, renumber
from fibflow.tests.transforms.alerts.worlds import XNYS, Maker, makers
from fibflow.transforms.alerts import cells, evaluate
from fibflow.transforms.alerts.live import Memo, Plan
from fibflow.transforms.timeframe import IntradayAnchor

ANCHORS = st.sampled_from(list(IntradayAnchor))


def expected(rows: list[dict], anchor: IntradayAnchor) -> list[dict]:
    oracle = Oracle(XNYS, anchor is IntradayAnchor.OPEN)
    for row in rows:
        oracle.take(row)
    return oracle.events


def text(events: list[dict]) -> list[tuple]:
    """Events to compare, each id once, in order of their prices; NaN is equal to itself."""
    once = {event["id"]: event for event in reversed(events)}
    return sorted(tuple(map(repr, event.values())) for event in once.values())


@settings(max_examples=120)
@given(makers(), ANCHORS)
def test_events_are_those_of_the_oracle(maker: Maker, anchor: IntradayAnchor) -> None:
    world = maker.make()
    bucket = Bucket(Plan(XNYS, anchor))
    numbers = world.numbers
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "RUN", numbers.choice([1, 3, 64]))
        patch.setattr(evaluate, "PAIRS", numbers.choice([4, 1 << 18]))
        patch.setattr(cells, "MOST_PARTS", numbers.choice([2, 10, 512]))
        for rows in world.tables():
            bucket.take(rows)
    assert text(bucket.events) == text(expected(world.rows, anchor))


@settings(max_examples=60)
@given(makers(), ANCHORS)
def test_nothing_is_lost_with_memory(maker: Maker, anchor: IntradayAnchor) -> None:
    world = maker.make()
    bucket = Bucket(Plan(XNYS, anchor))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells, "MOST_PARTS", world.numbers.choice([2, 10, 512]))
        for rows in world.tables():
            bucket.memo = Memo()
            bucket.cells = bucket.cells.copy(world.numbers)
            bucket.take(rows)
    assert text(bucket.events) == text(expected(world.rows, anchor))


@settings(max_examples=60)
@given(makers(), ANCHORS)
def test_a_restored_bucket_fires_the_same_while_changes_come_elsewhere(
    maker: Maker, anchor: IntradayAnchor
) -> None:
    world = maker.make(punctual=True)
    numbers, rows = world.numbers, world.rows
    cut = numbers.randint(0, len(rows))
    bucket = Bucket(Plan(XNYS, anchor))
    for part in world.tables(rows[:cut]):
        bucket.take(part)
    kept = bucket.cells.copy(numbers)
    for part in world.tables(rows[cut:]):
        bucket.take(part)
    told = expected(rows, anchor)
    assert text(bucket.events) == text(told)
    # The memo is of a history that is abandoned.
    bucket.cells = kept
    bucket.events = []
    for part in world.tables(moved(rows[cut:], numbers)):
        bucket.take(part)
    for part in world.tables(rows[:cut]):
        bucket.take(part)
    after = expected(rows[:cut], anchor)
    ids = {event["id"] for event in bucket.events} | {event["id"] for event in after}
    assert ids == {event["id"] for event in told}


def moved(rows: list[dict], numbers: random.Random) -> list[dict]:
    """The same rows, changes at other places, none behind the first price that it is for."""
    found = [row for row in rows if "alert" not in row]
    for row in (row for row in rows if "alert" in row):
        own = [n for n, each in enumerate(found) if each.get("alert") == row["alert"]]
        first = (n for n, each in enumerate(found) if "seq" in each and each["ts"] > row["since"])
        least = own[-1] + 1 if own else 0
        found.insert(min(numbers.randint(least, len(found)), next(first, len(found))), dict(row))
    renumber(found)
    return found
